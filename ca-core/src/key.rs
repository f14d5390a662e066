//! Public keys and signature algorithms: what is accepted, and verification.
//!
//! The algorithm that verifies is chosen from the pair of key and signature algorithm, never from one alone.

use aws_lc_rs::signature as lc;
use const_oid::ObjectIdentifier;
use const_oid::db::{rfc5912, rfc8410};
use der::{Any, Decode, Encode, Sequence, asn1::UintRef};
use sha2::{Digest, Sha256};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoRef};
use std::fmt;

/// A key algorithm with its size, as accepted from outside and made in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256 (secp256r1).
    EcP256,
    /// ECDSA on P-384 (secp384r1).
    EcP384,
    /// ECDSA on P-521 (secp521r1).
    EcP521,
    /// Ed25519 (RFC 8410).
    Ed25519,
    /// RSA with a modulus of this many bits, exponent 65537.
    Rsa(u16),
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcP256 => f.write_str("P-256"),
            Self::EcP384 => f.write_str("P-384"),
            Self::EcP521 => f.write_str("P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa(bits) => write!(f, "RSA-{bits}"),
        }
    }
}

impl KeyAlgorithm {
    /// The algorithm that our own keys of this kind sign with.
    pub fn signature_algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::EcP256 => SignatureAlgorithm::EcdsaSha256,
            Self::EcP384 => SignatureAlgorithm::EcdsaSha384,
            Self::EcP521 => SignatureAlgorithm::EcdsaSha512,
            Self::Ed25519 => SignatureAlgorithm::Ed25519,
            Self::Rsa(_) => SignatureAlgorithm::RsaPkcs1Sha256,
        }
    }
}

/// A signature algorithm as an AlgorithmIdentifier names it. SHA-1 and MD5 do not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    /// ecdsa-with-SHA256 (RFC 5758).
    EcdsaSha256,
    /// ecdsa-with-SHA384 (RFC 5758).
    EcdsaSha384,
    /// ecdsa-with-SHA512 (RFC 5758).
    EcdsaSha512,
    /// sha256WithRSAEncryption (RFC 4055).
    RsaPkcs1Sha256,
    /// sha384WithRSAEncryption (RFC 4055).
    RsaPkcs1Sha384,
    /// sha512WithRSAEncryption (RFC 4055).
    RsaPkcs1Sha512,
    /// Ed25519 (RFC 8410).
    Ed25519,
}

impl SignatureAlgorithm {
    const ALL: [Self; 7] = [
        Self::EcdsaSha256,
        Self::EcdsaSha384,
        Self::EcdsaSha512,
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::Ed25519,
    ];

    fn oid(self) -> ObjectIdentifier {
        match self {
            Self::EcdsaSha256 => rfc5912::ECDSA_WITH_SHA_256,
            Self::EcdsaSha384 => rfc5912::ECDSA_WITH_SHA_384,
            Self::EcdsaSha512 => rfc5912::ECDSA_WITH_SHA_512,
            Self::RsaPkcs1Sha256 => rfc5912::SHA_256_WITH_RSA_ENCRYPTION,
            Self::RsaPkcs1Sha384 => rfc5912::SHA_384_WITH_RSA_ENCRYPTION,
            Self::RsaPkcs1Sha512 => rfc5912::SHA_512_WITH_RSA_ENCRYPTION,
            Self::Ed25519 => rfc8410::ID_ED_25519,
        }
    }

    /// The AlgorithmIdentifier: NULL parameters for RSA (RFC 4055 5), none otherwise (RFC 5758 3.2, RFC 8410 3).
    pub fn identifier(self) -> AlgorithmIdentifierOwned {
        let parameters =
            matches!(self, Self::RsaPkcs1Sha256 | Self::RsaPkcs1Sha384 | Self::RsaPkcs1Sha512).then(Any::null);
        AlgorithmIdentifierOwned { oid: self.oid(), parameters }
    }

    /// Recognises an AlgorithmIdentifier, parameters included. `None` for anything that is not accepted.
    pub fn from_identifier(identifier: &AlgorithmIdentifierOwned) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.identifier() == *identifier)
    }
}

/// Why a public key was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a DER SubjectPublicKeyInfo.
    #[error("the public key is not a valid DER SubjectPublicKeyInfo")]
    Malformed,
    /// An algorithm or curve that is not accepted; explicit curve parameters are among them.
    #[error("key algorithm {0} is not accepted; use P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits")]
    Algorithm(String),
    /// Parameters that the algorithm must not have, or a point in an odd encoding.
    #[error("the public key is encoded in a way its algorithm does not allow")]
    Encoding,
    /// The point is not on the curve.
    #[error("the public key is not a point on its curve")]
    NotOnCurve,
    /// An RSA modulus of a size that is not accepted.
    #[error("an RSA key must have 2048 to 4096 bits in whole octets; this one has {0}")]
    RsaSize(usize),
    /// An RSA exponent other than 65537.
    #[error("an RSA public exponent must be 65537")]
    RsaExponent,
    /// An even RSA modulus.
    #[error("an RSA modulus must be odd")]
    RsaModulus,
}

/// The signature does not verify, or its algorithm does not go with the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify with this key and algorithm")]
pub struct BadSignature;

#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

/// A public key that was parsed and checked: on its curve, of an accepted size, in the one right encoding.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    spki: Vec<u8>,
    bits: Vec<u8>,
    algorithm: KeyAlgorithm,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, {})", self.algorithm, hex::encode(self.key_identifier()))
    }
}

impl PublicKey {
    /// Parses a DER SubjectPublicKeyInfo (RFC 5280 4.1.2.7).
    ///
    /// # Errors
    /// [`KeyError`] names what is wrong.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        let parsed = SubjectPublicKeyInfoRef::from_der(spki).map_err(|_| KeyError::Malformed)?;
        if parsed.to_der().ok().as_deref() != Some(spki) {
            return Err(KeyError::Malformed);
        }
        let bits = parsed.subject_public_key.as_bytes().ok_or(KeyError::Malformed)?;
        let algorithm = match parsed.algorithm.oid {
            rfc5912::ID_EC_PUBLIC_KEY => {
                let parameters = parsed.algorithm.parameters.ok_or(KeyError::Encoding)?;
                let curve: ObjectIdentifier = parameters
                    .decode_as()
                    .map_err(|_| KeyError::Algorithm("EC with explicit parameters".to_owned()))?;
                ec_algorithm(curve, bits)?
            }
            rfc5912::RSA_ENCRYPTION => {
                let parameters = parsed.algorithm.parameters.ok_or(KeyError::Encoding)?;
                if !parameters.is_null() {
                    return Err(KeyError::Encoding);
                }
                rsa_algorithm(bits)?
            }
            rfc8410::ID_ED_25519 => {
                if parsed.algorithm.parameters.is_some() || bits.len() != 32 {
                    return Err(KeyError::Encoding);
                }
                lc::ParsedPublicKey::new(&lc::ED25519, bits).map_err(|_| KeyError::NotOnCurve)?;
                KeyAlgorithm::Ed25519
            }
            other => return Err(KeyError::Algorithm(other.to_string())),
        };
        Ok(Self { spki: spki.to_vec(), bits: bits.to_vec(), algorithm })
    }

    /// The DER SubjectPublicKeyInfo as it was given.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// The contents of the BIT STRING: the point, or the DER RSAPublicKey.
    pub fn key_bits(&self) -> &[u8] {
        &self.bits
    }

    /// The algorithm with its size.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// SHA-256 of the DER SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.spki).into()
    }

    /// RFC 7093 section 2 method 1: the leftmost 160 bits of SHA-256 over the BIT STRING's contents.
    pub fn key_identifier(&self) -> [u8; 20] {
        let mut id = [0; 20];
        id.copy_from_slice(&Sha256::digest(&self.bits)[..20]);
        id
    }

    /// Verifies `signature` over `message`. ECDSA signatures are DER (RFC 3279 2.2.3).
    ///
    /// # Errors
    /// [`BadSignature`] also when `algorithm` does not go with this key.
    pub fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        use SignatureAlgorithm as S;
        let verifier: &dyn lc::VerificationAlgorithm = match (self.algorithm, algorithm) {
            (KeyAlgorithm::EcP256, S::EcdsaSha256) => &lc::ECDSA_P256_SHA256_ASN1,
            (KeyAlgorithm::EcP256, S::EcdsaSha384) => &lc::ECDSA_P256_SHA384_ASN1,
            (KeyAlgorithm::EcP256, S::EcdsaSha512) => &lc::ECDSA_P256_SHA512_ASN1,
            (KeyAlgorithm::EcP384, S::EcdsaSha256) => &lc::ECDSA_P384_SHA256_ASN1,
            (KeyAlgorithm::EcP384, S::EcdsaSha384) => &lc::ECDSA_P384_SHA384_ASN1,
            (KeyAlgorithm::EcP384, S::EcdsaSha512) => &lc::ECDSA_P384_SHA512_ASN1,
            (KeyAlgorithm::EcP521, S::EcdsaSha256) => &lc::ECDSA_P521_SHA256_ASN1,
            (KeyAlgorithm::EcP521, S::EcdsaSha384) => &lc::ECDSA_P521_SHA384_ASN1,
            (KeyAlgorithm::EcP521, S::EcdsaSha512) => &lc::ECDSA_P521_SHA512_ASN1,
            (KeyAlgorithm::Rsa(_), S::RsaPkcs1Sha256) => &lc::RSA_PKCS1_2048_8192_SHA256,
            (KeyAlgorithm::Rsa(_), S::RsaPkcs1Sha384) => &lc::RSA_PKCS1_2048_8192_SHA384,
            (KeyAlgorithm::Rsa(_), S::RsaPkcs1Sha512) => &lc::RSA_PKCS1_2048_8192_SHA512,
            (KeyAlgorithm::Ed25519, S::Ed25519) => &lc::ED25519,
            _ => return Err(BadSignature),
        };
        lc::UnparsedPublicKey::new(verifier, &self.bits).verify(message, signature).map_err(|_| BadSignature)
    }
}

fn ec_algorithm(curve: ObjectIdentifier, point: &[u8]) -> Result<KeyAlgorithm, KeyError> {
    let (algorithm, octets, verifier): (_, usize, &'static lc::EcdsaVerificationAlgorithm) = match curve {
        rfc5912::SECP_256_R_1 => (KeyAlgorithm::EcP256, 32, &lc::ECDSA_P256_SHA256_ASN1),
        rfc5912::SECP_384_R_1 => (KeyAlgorithm::EcP384, 48, &lc::ECDSA_P384_SHA384_ASN1),
        rfc5912::SECP_521_R_1 => (KeyAlgorithm::EcP521, 66, &lc::ECDSA_P521_SHA512_ASN1),
        other => return Err(KeyError::Algorithm(format!("EC curve {other}"))),
    };
    // Uncompressed only (RFC 5480 2.2 lets a CA refuse the compressed form).
    if point.len() != 1 + 2 * octets || point.first() != Some(&4) {
        return Err(KeyError::Encoding);
    }
    lc::ParsedPublicKey::new(verifier, point).map_err(|_| KeyError::NotOnCurve)?;
    Ok(algorithm)
}

fn rsa_algorithm(bits: &[u8]) -> Result<KeyAlgorithm, KeyError> {
    let key = RsaPublicKey::from_der(bits).map_err(|_| KeyError::Malformed)?;
    let modulus = key.modulus.as_bytes();
    let size = modulus.len() * 8 - modulus.first().map_or(0, |b| b.leading_zeros() as usize);
    // 4096: larger keys cost verification time and nothing in the field needs them.
    if !(2048..=4096).contains(&size) || !size.is_multiple_of(8) {
        return Err(KeyError::RsaSize(size));
    }
    if key.exponent.as_bytes() != [1, 0, 1] {
        return Err(KeyError::RsaExponent);
    }
    if modulus.last().is_none_or(|b| b & 1 == 0) {
        return Err(KeyError::RsaModulus);
    }
    u16::try_from(size).map(KeyAlgorithm::Rsa).map_err(|_| KeyError::RsaSize(size))
}
