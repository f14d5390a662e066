//! Initialising a token, for development and tests. Production tokens are initialised with their vendor's tool.

use crate::error::Trouble;
use crate::module::Module;
use crate::{HsmError, Pin, TokenUri};
use cryptoki::session::UserType;
use std::path::Path;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(10);

/// Initialises the first free token of `module` (an absolute path) with a label and both PINs, and returns the URI
/// with its serial number. The library is finalised before and after, because SoftHSM renumbers its slots; other users
/// of the module in this process recover by themselves.
///
/// # Errors
/// [`HsmError::TokenExists`] when the label is taken, [`HsmError::NoFreeToken`] when there is no free slot; otherwise
/// what the module answered. A failure after the label was written leaves a token without user PIN.
pub fn init_token(module: &Path, label: &str, so_pin: &Pin, pin: &Pin) -> Result<TokenUri, HsmError> {
    let uri = TokenUri::from_label(label)?;
    let module = Module::load(module)?;
    let serial = module.alone(WAIT, |context| {
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
        let session = context.open_rw_session_no_drop(slot)?;
        session.login(UserType::So, Some(so_pin.auth()))?;
        session.init_pin(pin.auth())?;
        session.logout()?;
        session.close()?;
        Ok::<_, Trouble>(context.get_token_info(slot)?.serial_number().to_owned())
    })?;
    if serial.is_empty() { Ok(uri) } else { Ok(uri.with_serial(&serial)?) }
}
