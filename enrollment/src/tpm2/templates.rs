//! Key templates: the TCG's for endorsement keys, and the ones that a device makes its own keys with.

use super::{
    attributes::Attributes,
    structures::{
        ALG_AES, ALG_CFB, ALG_ECC, ALG_NULL, ALG_RSA, CURVE_P256, CURVE_P384, HashAlgorithm, Public, Scheme, TpmError,
        Writer, coordinates, rsa_modulus,
    },
};
use ca_core::key::{KeyAlgorithm, PublicKey};

/// The policy of the low-range endorsement keys: TPM2_PolicySecret(TPM_RH_ENDORSEMENT), SHA-256
/// (TCG EK Credential Profile, B.3.3).
const POLICY_A_SHA256: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// The policy of the high-range endorsement keys, SHA-384 (TCG EK Credential Profile, B.4).
const POLICY_B_SHA384: [u8; 48] = [
    0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a, 0x07, 0x41, 0x48,
    0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca, 0xcb, 0x47, 0xba, 0x09, 0x69, 0x96,
    0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
];

const FIXED: Attributes = Attributes::FIXED_TPM.with(Attributes::FIXED_PARENT).with(Attributes::SENSITIVE_DATA_ORIGIN);
const ENDORSEMENT_LOW: Attributes =
    FIXED.with(Attributes::ADMIN_WITH_POLICY).with(Attributes::RESTRICTED).with(Attributes::DECRYPT);
const ENDORSEMENT_HIGH: Attributes = ENDORSEMENT_LOW.with(Attributes::USER_WITH_AUTH);
const SUBJECT: Attributes = FIXED.with(Attributes::USER_WITH_AUTH).with(Attributes::NO_DA).with(Attributes::SIGN);

/// The type and size of the key that a template makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa(u16),
    Ecc(u16),
}

/// Everything of a TPMT_PUBLIC but the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    name_alg: HashAlgorithm,
    attributes: Attributes,
    auth_policy: &'static [u8],
    /// AES-CFB key bits; `None` writes TPM_ALG_NULL.
    symmetric: Option<u16>,
    scheme: Option<Scheme>,
    kind: Kind,
    /// Octets of each zeroed `unique` field when the template is given to TPM2_CreatePrimary.
    unique_zeros: usize,
}

impl Template {
    /// L-1: the RSA-2048 endorsement key, certificate at NV index 0x01C00002.
    pub const EK_RSA_2048: Self = Self {
        name_alg: HashAlgorithm::Sha256,
        attributes: ENDORSEMENT_LOW,
        auth_policy: &POLICY_A_SHA256,
        symmetric: Some(128),
        scheme: None,
        kind: Kind::Rsa(2048),
        unique_zeros: 256,
    };
    /// L-2: the P-256 endorsement key, certificate at NV index 0x01C0000A.
    pub const EK_P256: Self = Self { kind: Kind::Ecc(CURVE_P256), unique_zeros: 32, ..Self::EK_RSA_2048 };
    /// H-3: the P-384 endorsement key, certificate at NV index 0x01C00016.
    pub const EK_P384: Self = Self {
        name_alg: HashAlgorithm::Sha384,
        attributes: ENDORSEMENT_HIGH,
        auth_policy: &POLICY_B_SHA384,
        symmetric: Some(256),
        scheme: None,
        kind: Kind::Ecc(CURVE_P384),
        unique_zeros: 0,
    };
    /// A P-256 attestation key: restricted, so that it signs only what the TPM itself states.
    pub const ATTESTATION_P256: Self = Self {
        name_alg: HashAlgorithm::Sha256,
        attributes: SUBJECT.with(Attributes::RESTRICTED),
        auth_policy: &[],
        symmetric: None,
        scheme: Some(Scheme::Ecdsa(HashAlgorithm::Sha256)),
        kind: Kind::Ecc(CURVE_P256),
        unique_zeros: 0,
    };
    /// A P-384 attestation key with SHA-384.
    pub const ATTESTATION_P384: Self = Self {
        scheme: Some(Scheme::Ecdsa(HashAlgorithm::Sha384)),
        kind: Kind::Ecc(CURVE_P384),
        ..Self::ATTESTATION_P256
    };
    /// An RSA-2048 attestation key, for TPMs without elliptic curves.
    pub const ATTESTATION_RSA_2048: Self =
        Self { scheme: Some(Scheme::RsaSsa(HashAlgorithm::Sha256)), kind: Kind::Rsa(2048), ..Self::ATTESTATION_P256 };
    /// A P-256 device key for a certificate: signs anything, never leaves its TPM.
    pub const SUBJECT_P256: Self = Self { attributes: SUBJECT, scheme: None, ..Self::ATTESTATION_P256 };
    /// A P-384 device key for a certificate.
    pub const SUBJECT_P384: Self = Self { kind: Kind::Ecc(CURVE_P384), ..Self::SUBJECT_P256 };
    /// An RSA-2048 device key for a certificate.
    pub const SUBJECT_RSA_2048: Self = Self { kind: Kind::Rsa(2048), ..Self::SUBJECT_P256 };

    /// The endorsement key template that goes with a certificate's key.
    ///
    /// # Errors
    /// [`TpmError::Invalid`] for a key that no supported template makes.
    pub fn endorsement_for(key: &PublicKey) -> Result<&'static Self, TpmError> {
        match key.algorithm() {
            KeyAlgorithm::Rsa(2048) => Ok(&Self::EK_RSA_2048),
            KeyAlgorithm::EcP256 => Ok(&Self::EK_P256),
            KeyAlgorithm::EcP384 => Ok(&Self::EK_P384),
            _ => Err(TpmError::Invalid("no endorsement key template for a key other than RSA-2048, P-256 or P-384")),
        }
    }

    /// Whether the key's use needs TPM2_PolicySecret(TPM_RH_ENDORSEMENT) instead of a password.
    pub fn needs_policy(&self) -> bool {
        !self.auth_policy.is_empty() && !self.attributes.has_all(Attributes::USER_WITH_AUTH)
    }

    /// The inPublic of TPM2_CreatePrimary and TPM2_Create (TPMT_PUBLIC without its size).
    pub fn in_public(&self) -> Vec<u8> {
        let zeros = vec![0; self.unique_zeros];
        match self.kind {
            Kind::Rsa(_) => self.head().sized(&zeros).finish(),
            Kind::Ecc(_) => self.head().sized(&zeros).sized(&zeros).finish(),
        }
    }

    /// The TPMT_PUBLIC of `key` made with this template.
    ///
    /// # Errors
    /// [`TpmError::Invalid`] when `key` is of another type than the template's.
    pub fn public(&self, key: &PublicKey) -> Result<Public, TpmError> {
        let fits = match (self.kind, key.algorithm()) {
            (Kind::Rsa(bits), KeyAlgorithm::Rsa(size)) => bits == size,
            (Kind::Ecc(curve), KeyAlgorithm::EcP256) => curve == CURVE_P256,
            (Kind::Ecc(curve), KeyAlgorithm::EcP384) => curve == CURVE_P384,
            _ => false,
        };
        let writer = match (rsa_modulus(key), coordinates(key)) {
            (Some(modulus), _) if fits => self.head().sized(&modulus),
            (None, Some((x, y))) if fits => self.head().sized(x).sized(y),
            _ => return Err(TpmError::Invalid("the key does not fit the template")),
        };
        Public::parse(&writer.finish())
    }

    fn head(&self) -> Writer {
        let kind = if matches!(self.kind, Kind::Rsa(_)) { ALG_RSA } else { ALG_ECC };
        let w = Writer::new().u16(kind).u16(self.name_alg.id()).u32(self.attributes.bits()).sized(self.auth_policy);
        let w = match self.symmetric {
            Some(bits) => w.u16(ALG_AES).u16(bits).u16(ALG_CFB),
            None => w.u16(ALG_NULL),
        };
        let w = Scheme::write(self.scheme, w);
        match self.kind {
            // Exponent 0 is 65537.
            Kind::Rsa(bits) => w.u16(bits).u32(0),
            Kind::Ecc(curve) => w.u16(curve).u16(ALG_NULL),
        }
    }
}
