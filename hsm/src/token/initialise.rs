//! Initialising a token, for development and tests.

use crate::keeper::{Ask, Keeper};
use crate::wire::{Frames, FromSigner};
use crate::{HsmError, Pin, Program, TokenUri};
use std::path::Path;
use std::time::Duration;

/// SoftHSM takes a second for the two key derivations.
const WAIT: Duration = Duration::from_secs(30);

/// Initialises the first free token of `module` (an absolute path) with a label and both PINs, in a process of its own
/// with `environment`, and returns the URI with its serial number.
///
/// # Errors
/// [`HsmError::TokenExists`] when the label is taken, [`HsmError::NoFreeToken`] when there is no free slot; otherwise
/// what the module answered. A failure after the label was written leaves a token without user PIN.
pub fn init_token(
    program: &Program,
    module: &Path,
    environment: &[(String, String)],
    label: &str,
    so_pin: &Pin,
    pin: &Pin,
) -> Result<TokenUri, HsmError> {
    let uri = TokenUri::from_label(label)?;
    let keeper = Keeper::start(program)?;
    let ask = Ask::Initialise {
        module: module.to_owned(),
        environment: environment.to_vec(),
        label: label.to_owned(),
        so_pin: so_pin.expose().to_owned(),
        pin: pin.expose().to_owned(),
    };
    let (_, mut stream) = keeper.spawn(&ask)?;
    let failed = |e: std::io::Error| HsmError::Process(e.to_string());
    stream.set_read_timeout(Some(WAIT)).map_err(failed)?;
    let mut frames = Frames::default();
    while frames.fill(&mut stream).map_err(failed)? {
        match frames.next::<FromSigner>().map_err(failed)? {
            Some(FromSigner::Initialised(serial)) if serial.is_empty() => return Ok(uri),
            Some(FromSigner::Initialised(serial)) => return Ok(uri.with_serial(&serial)?),
            Some(FromSigner::Failed(error)) => return Err(error),
            _ => {}
        }
    }
    Err(HsmError::Process("the signer ended before the token was made".to_owned()))
}
