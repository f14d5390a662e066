//! The user PIN: kept in memory that is wiped, never shown; and where it comes from.

use crate::HsmError;
use cryptoki::types::AuthPin;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

/// A PIN of 1 to 255 octets without NUL. Wiped when dropped; `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Pin(AuthPin);

/// Why a PIN was refused before any token saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum PinError {
    /// No octets at all; a token would take this as a request for its own keypad.
    #[error("the PIN is empty")]
    Empty,
    /// More than 255 octets.
    #[error("the PIN is longer than 255 octets")]
    TooLong,
    /// A NUL octet, which some modules take for the end.
    #[error("the PIN contains a NUL octet")]
    Nul,
}

impl Pin {
    /// Takes over `pin`; the caller must trim a line end itself. A refused PIN is wiped.
    ///
    /// # Errors
    /// [`PinError`] for a PIN that is empty, over 255 octets or contains NUL.
    pub fn new(mut pin: String) -> Result<Self, PinError> {
        let refused = match pin.len() {
            0 => Some(PinError::Empty),
            1..=255 => pin.contains('\0').then_some(PinError::Nul),
            _ => Some(PinError::TooLong),
        };
        if let Some(error) = refused {
            pin.zeroize();
            return Err(error);
        }
        // Growing into an exact box could leave an unwiped copy in the freed allocation.
        let boxed = pin.as_str().into();
        pin.zeroize();
        Ok(Self(AuthPin::new(boxed)))
    }

    pub(crate) fn auth(&self) -> &AuthPin {
        &self.0
    }

    /// The characters, for the frame that takes them to a signer.
    pub(crate) fn expose(&self) -> &str {
        secrecy::ExposeSecret::expose_secret(&self.0)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(..)")
    }
}

/// Where a PIN comes from. Only the keeper process reads it. Not from the environment: the service would have it, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PinSource {
    /// A file that only its owner can read.
    File(PathBuf),
    /// A systemd credential (LoadCredential= or LoadCredentialEncrypted=), by name.
    Credential(String),
    /// Ask on the terminal.
    Prompt,
    /// Ask custodians on the terminal for this many shares.
    Shares(u8),
}

/// Puts shares together, as text that custodians type: [`PinSource::Shares`].
pub type Combine = fn(&[Zeroizing<String>]) -> Result<Zeroizing<String>, String>;

impl PinSource {
    /// True when it can be read again at any time without a person.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::File(_) | Self::Credential(_))
    }

    /// Reads it. `token` is its name for a person who is asked.
    pub(crate) fn read(&self, token: &str, combine: Combine) -> Result<Pin, HsmError> {
        let failed = HsmError::PinSource;
        let text = match self {
            Self::File(path) => read_file(path)?,
            Self::Credential(name) => {
                let dir = std::env::var_os("CREDENTIALS_DIRECTORY")
                    .ok_or_else(|| failed("systemd gave no credentials; add LoadCredential= to the unit".to_owned()))?;
                read_file(&Path::new(&dir).join(name))?
            }
            Self::Prompt => ask(&format!("PIN of {token}: "))?,
            Self::Shares(count) => {
                let mut shares = Vec::new();
                for number in 1..=*count {
                    shares.push(ask(&format!("{token}, custodian {number} of {count}, share: "))?);
                }
                combine(&shares).map_err(failed)?
            }
        };
        Ok(Pin::new(text.trim_end_matches(['\r', '\n']).to_owned())?)
    }
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, HsmError> {
    rpassword::prompt_password(prompt)
        .map(Zeroizing::new)
        .map_err(|e| HsmError::PinSource(format!("no terminal to ask on: {e}")))
}

/// PINs have 255 octets at most; more in a file is a mistake.
const FILE: u64 = 1024;

fn read_file(path: &Path) -> Result<Zeroizing<String>, HsmError> {
    let failed = |problem: String| HsmError::PinSource(format!("{}: {problem}", path.display()));
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    let mode = file.metadata().map_err(|e| failed(e.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(failed("can be read by others; chmod 600 it".to_owned()));
    }
    // Room for all of it at once: growing would leave unwiped copies.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(FILE).unwrap_or(0) + 1));
    file.take(FILE + 1).read_to_string(&mut text).map_err(|_| failed("is not readable UTF-8".to_owned()))?;
    if text.len() as u64 > FILE {
        return Err(failed("is too long for a PIN".to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn length_is_limited_and_debug_is_silent() {
        assert_eq!(Pin::new(String::new()).unwrap_err(), PinError::Empty);
        assert_eq!(Pin::new("x".repeat(256)).unwrap_err(), PinError::TooLong);
        assert_eq!(Pin::new("12\0".to_owned()).unwrap_err(), PinError::Nul);
        assert!(Pin::new("x".repeat(255)).is_ok());
        let shown = format!("{:?}", Pin::new("secret99".to_owned()).unwrap());
        assert!(!shown.contains("secret99"), "{shown}");
    }
}
