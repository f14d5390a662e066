//! The options that state who a device is.

use proto::v1::DeviceIdentity;

/// A device's identity.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct IdentityArgs {
    /// The device's serial number; becomes its identifier
    #[arg(long, value_name = "TEXT")]
    pub serial_number: Option<String>,
    /// The device's manufacturer
    #[arg(long, value_name = "TEXT")]
    pub manufacturer: Option<String>,
    /// The device's model
    #[arg(long, value_name = "TEXT")]
    pub model: Option<String>,
}

impl IdentityArgs {
    /// For the request; `None` when nothing is stated.
    pub fn identity(&self) -> Option<DeviceIdentity> {
        let any = self.serial_number.is_some() || self.manufacturer.is_some() || self.model.is_some();
        any.then(|| DeviceIdentity {
            manufacturer: self.manufacturer.clone().unwrap_or_default(),
            model: self.model.clone().unwrap_or_default(),
            serial_number: self.serial_number.clone().unwrap_or_default(),
        })
    }
}
