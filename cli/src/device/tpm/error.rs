//! What goes wrong between us and a TPM.

use super::transport::TpmAddress;
use std::{fmt, io};

/// Why the TPM did not do what it was asked for.
#[derive(Debug)]
pub enum TpmError {
    /// `--tpm` is not understood.
    Address(String),
    /// The TPM cannot be reached, or the connection broke.
    Io(TpmAddress, io::Error),
    /// The TPM refused a command.
    Refused {
        /// The command's name in Part 3.
        command: &'static str,
        /// The TPM_RC (Part 2, 6.6).
        code: u32,
    },
    /// The TPM answered with something that is not an answer to the command.
    Answer(&'static str),
    /// A structure from the TPM or for it is wrong.
    Structure(enrollment::tpm2::TpmError),
    /// The TPM has no endorsement key certificate in any of the places where one is kept.
    NoEndorsementCertificate,
    /// The TPM makes another key than it did: it was cleared, or is another one.
    OtherKey,
    /// The challenge asks for another binding than our request gives.
    Binding,
}

impl TpmError {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Address(_) => "Write --tpm /dev/tpmrm0, unix:/run/tpm.sock or swtpm:host=127.0.0.1,port=2321.",
            Self::Io(..) => "Check --tpm, and that you may use the device (on Linux, group tss).",
            Self::Refused { code, .. } => match kind(*code) {
                0x921 => "Wait until the TPM leaves its lockout, or reset it with TPM2_DictionaryAttackLockReset.",
                0x08e | 0x0a2 => "The owner or endorsement hierarchy has a password; it must be empty.",
                0x902 | 0x903 => "Other programs fill the TPM; use the resource manager /dev/tpmrm0.",
                _ => "Look up the response code with tpm2_rc_decode.",
            },
            Self::Answer(_) | Self::Structure(_) => "Check that --tpm names a TPM 2.0.",
            Self::NoEndorsementCertificate => {
                "Have the vendor's endorsement certificate written to NV, or enroll with --token instead."
            }
            Self::OtherKey => "Enroll the device again in a new directory; the old key is lost.",
            Self::Binding => "Do not trust this server; check --server and --trust.",
        }
    }
}

/// The response code without the number of the handle, session or parameter at fault, which a format-one code carries
/// (Part 2, 6.6.3).
fn kind(code: u32) -> u32 {
    if code & 0x80 == 0 { code } else { code & 0xbf }
}

impl fmt::Display for TpmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(given) => write!(f, "{given:?} does not name a TPM"),
            Self::Io(address, error) => write!(f, "the TPM at {address}: {error}"),
            Self::Refused { command, code } => write!(f, "the TPM refused {command} with response code {code:#05x}"),
            Self::Answer(what) => write!(f, "the TPM's answer is not understood: {what}"),
            Self::Structure(error) => write!(f, "a TPM structure is wrong: {error}"),
            Self::NoEndorsementCertificate => f.write_str("the TPM holds no endorsement key certificate"),
            Self::OtherKey => f.write_str("the TPM no longer has this device's key"),
            Self::Binding => f.write_str("the server's challenge is not bound to this request"),
        }
    }
}

impl std::error::Error for TpmError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            Self::Structure(error) => Some(error),
            _ => None,
        }
    }
}

impl From<enrollment::tpm2::TpmError> for TpmError {
    fn from(error: enrollment::tpm2::TpmError) -> Self {
        Self::Structure(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_does_not_depend_on_which_session_is_at_fault() {
        let advice = |code| TpmError::Refused { command: "TPM2_Sign", code }.advice();
        assert!(advice(0x98e).contains("password") && advice(0xa8e).contains("password"));
        assert!(advice(0x9a2).contains("password"));
        assert!(advice(0x921).contains("lockout"));
        assert!(advice(0x902).contains("resource manager"));
        assert!(advice(0x1df).contains("tpm2_rc_decode"));
    }
}
