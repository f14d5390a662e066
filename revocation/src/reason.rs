//! Why a certificate was revoked (RFC 5280 5.3.1).

/// The reasons that a full CRL of ours can state.
///
/// certificateHold and removeFromCRL are missing: revoking is final here. aACompromise concerns attribute certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CrlReason {
    /// No reason is stated: RFC 5280 5.3.1 asks for no extension rather than for the value 0.
    Unspecified = 0,
    /// The certificate's private key is known or suspected to be compromised.
    KeyCompromise = 1,
    /// A CA's private key is known or suspected to be compromised.
    CaCompromise = 2,
    /// The name in the certificate is no longer right.
    AffiliationChanged = 3,
    /// A newer certificate has taken over.
    Superseded = 4,
    /// The holder is out of service.
    CessationOfOperation = 5,
    /// A privilege stated in the certificate was withdrawn.
    PrivilegeWithdrawn = 9,
}

impl CrlReason {
    /// From the number of the RFC; `None` for a number that is not offered.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Unspecified,
            1 => Self::KeyCompromise,
            2 => Self::CaCompromise,
            3 => Self::AffiliationChanged,
            4 => Self::Superseded,
            5 => Self::CessationOfOperation,
            9 => Self::PrivilegeWithdrawn,
            _ => return None,
        })
    }

    /// The number of the RFC.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_rfc_and_holds_are_refused() {
        for code in 0..=255u8 {
            match CrlReason::from_code(code) {
                Some(reason) => assert_eq!(reason.code(), code),
                None => assert!(matches!(code, 6..=8 | 10..)),
            }
        }
    }
}
