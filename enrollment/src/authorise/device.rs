//! What is stated about a device.

use super::Refusal;
use ca_core::id::DeviceId;

/// The longest manufacturer and model, in characters.
const MAX_TEXT: usize = 64;

/// Manufacturer, model and serial number, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    manufacturer: String,
    model: String,
    serial_number: Option<DeviceId>,
}

impl DeviceFacts {
    /// Checks what was stated: manufacturer and model of at most 64 characters without control characters, a serial
    /// number that is a [`DeviceId`]. Empty means not stated.
    ///
    /// # Errors
    /// [`Refusal`] names the field.
    pub fn new(manufacturer: &str, model: &str, serial_number: &str) -> Result<Self, Refusal> {
        let check = |field, text: &str| {
            if text.chars().count() > MAX_TEXT || text.chars().any(char::is_control) {
                Err(Refusal::DeviceText(field))
            } else {
                Ok(text.to_owned())
            }
        };
        let serial_number = match serial_number {
            "" => None,
            text => Some(DeviceId::new(text).map_err(Refusal::DeviceId)?),
        };
        Ok(Self {
            manufacturer: check("device.manufacturer", manufacturer)?,
            model: check("device.model", model)?,
            serial_number,
        })
    }

    /// The manufacturer; empty when unknown.
    pub fn manufacturer(&self) -> &str {
        &self.manufacturer
    }
    /// The model; empty when unknown.
    pub fn model(&self) -> &str {
        &self.model
    }
    /// The serial number; `None` when unknown.
    pub fn serial_number(&self) -> Option<&DeviceId> {
        self.serial_number.as_ref()
    }

    /// What is known of the device `id`: what a token says of it, or what the enrolling side states. A token without
    /// a serial number leaves its empty fields open to the enrolling side.
    pub(super) fn decide(token: Option<&Self>, stated: Option<&Self>, id: &DeviceId) -> Self {
        let mut facts = token.cloned().unwrap_or_default();
        if let Some(stated) = stated.filter(|_| facts.serial_number.is_none()) {
            if facts.manufacturer.is_empty() {
                facts.manufacturer.clone_from(&stated.manufacturer);
            }
            if facts.model.is_empty() {
                facts.model.clone_from(&stated.model);
            }
        }
        facts.serial_number = Some(id.clone());
        facts
    }

    /// Whether everything stated here is either empty or the same as what was decided.
    pub(super) fn is_consistent_with(&self, id: &DeviceId, facts: &Self) -> bool {
        self.serial_number.as_ref().is_none_or(|s| s == id)
            && (self.manufacturer.is_empty() || self.manufacturer == facts.manufacturer)
            && (self.model.is_empty() || self.model == facts.model)
    }
}
