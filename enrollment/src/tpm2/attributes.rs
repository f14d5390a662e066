//! TPMA_OBJECT (Part 2, 8.3): what a TPM lets a key do.

use std::fmt;

/// The attributes of a TPM object; reserved bits are zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Attributes(u32);

impl Attributes {
    /// The object never leaves this TPM.
    pub const FIXED_TPM: Self = Self(1 << 1);
    /// The object is gone after TPM2_Startup(CLEAR).
    pub const ST_CLEAR: Self = Self(1 << 2);
    /// The object never gets another parent.
    pub const FIXED_PARENT: Self = Self(1 << 4);
    /// The TPM made the sensitive data itself.
    pub const SENSITIVE_DATA_ORIGIN: Self = Self(1 << 5);
    /// The user role may be authorised with the password or HMAC.
    pub const USER_WITH_AUTH: Self = Self(1 << 6);
    /// The admin role needs the policy.
    pub const ADMIN_WITH_POLICY: Self = Self(1 << 7);
    /// The object's use is bound to the firmware.
    pub const FIRMWARE_LIMITED: Self = Self(1 << 8);
    /// The object's use is bound to the firmware's security version.
    pub const SVN_LIMITED: Self = Self(1 << 9);
    /// Failures do not count towards lockout.
    pub const NO_DA: Self = Self(1 << 10);
    /// Duplication needs an inner wrapper.
    pub const ENCRYPTED_DUPLICATION: Self = Self(1 << 11);
    /// The key signs or decrypts only structures of the TPM's own making.
    pub const RESTRICTED: Self = Self(1 << 16);
    /// The private part may decrypt.
    pub const DECRYPT: Self = Self(1 << 17);
    /// The private part may sign.
    pub const SIGN: Self = Self(1 << 18);
    /// The key signs X.509 certificates through TPM2_CertifyX509 only.
    pub const X509_SIGN: Self = Self(1 << 19);

    const NAMES: [(Self, &'static str); 14] = [
        (Self::FIXED_TPM, "fixedTPM"),
        (Self::ST_CLEAR, "stClear"),
        (Self::FIXED_PARENT, "fixedParent"),
        (Self::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
        (Self::USER_WITH_AUTH, "userWithAuth"),
        (Self::ADMIN_WITH_POLICY, "adminWithPolicy"),
        (Self::FIRMWARE_LIMITED, "firmwareLimited"),
        (Self::SVN_LIMITED, "svnLimited"),
        (Self::NO_DA, "noDA"),
        (Self::ENCRYPTED_DUPLICATION, "encryptedDuplication"),
        (Self::RESTRICTED, "restricted"),
        (Self::DECRYPT, "decrypt"),
        (Self::SIGN, "sign"),
        (Self::X509_SIGN, "x509sign"),
    ];

    /// From the wire; `None` when a reserved bit is set.
    pub fn from_bits(bits: u32) -> Option<Self> {
        let known = Self::NAMES.iter().fold(0, |all, (a, _)| all | a.0);
        (bits & !known == 0).then_some(Self(bits))
    }

    /// For the wire.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Both sets together.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether every attribute of `other` is set.
    pub const fn has_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether at least one attribute of `other` is set.
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl fmt::Display for Attributes {
    /// The names of Part 2, joined by `|`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Self::NAMES.iter().filter(|(a, _)| self.has_all(*a)).map(|(_, n)| *n).collect();
        f.write_str(&names.join("|"))
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attributes({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bits_are_refused() {
        let known = Attributes::NAMES.iter().fold(0, |all, (a, _)| all | a.bits());
        for bit in 0..32 {
            assert_eq!(Attributes::from_bits(1 << bit).is_some(), known & (1 << bit) != 0, "bit {bit}");
        }
        let both = Attributes::SIGN.with(Attributes::RESTRICTED);
        assert!(both.has_all(Attributes::SIGN) && !both.has_any(Attributes::DECRYPT));
        assert_eq!(both.without(Attributes::SIGN), Attributes::RESTRICTED);
        assert_eq!(both.to_string(), "restricted|sign");
    }
}
