//! Initialising a token, for development and tests. Production tokens are initialised with their vendor's tool.

use super::module;
use crate::error::Trouble;
use crate::{HsmError, Pin};
use cryptoki::session::UserType;
use std::path::Path;

/// Initialises the first free token with a label and both PINs, and returns its serial number.
pub(super) fn initialise(module: &Path, label: &str, so_pin: &Pin, pin: &Pin) -> Result<String, Trouble> {
    let context = module::load(module)?;
    let mut free = None;
    for slot in context.get_slots_with_token()? {
        let info = context.get_token_info(slot)?;
        if !info.token_initialized() {
            free = free.or(Some(slot));
        } else if info.label() == label.trim_end_matches(' ') {
            return Err(HsmError::TokenExists { label: label.to_owned() }.into());
        }
    }
    let slot = free.ok_or(HsmError::NoFreeToken)?;
    context.init_token(slot, so_pin.auth(), label)?;
    let session = context.open_rw_session(slot)?;
    session.login(UserType::So, Some(so_pin.auth()))?;
    session.init_pin(pin.auth())?;
    session.logout()?;
    Ok(context.get_token_info(slot)?.serial_number().to_owned())
}
