//! The user PIN: kept in memory that is wiped, never shown.

use cryptoki::types::AuthPin;
use std::fmt;
use zeroize::Zeroize;

/// A PIN of 1 to 255 octets without NUL. Wiped when dropped; `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Pin(AuthPin);

/// Why a PIN was refused before any token saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(..)")
    }
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
