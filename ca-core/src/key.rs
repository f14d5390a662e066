//! Public keys and signature algorithms: what is accepted, and verification.
//!
//! The algorithm that verifies is chosen from the pair of key and signature algorithm, never from one alone.

mod algorithm;
mod verifier;

pub use algorithm::SignatureAlgorithm;
pub use verifier::{AlgorithmMismatch, Verifier};

use aws_lc_rs::signature as lc;
use const_oid::ObjectIdentifier;
use const_oid::db::{fips204, rfc5912, rfc8410};
use der::{Decode, Encode, Sequence, asn1::UintRef};
use sha2::{Digest, Sha256};
use spki::SubjectPublicKeyInfoRef;
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
    /// RSA with a modulus of this many bits, exponent 65537. The key is for PKCS#1 v1.5 and PSS alike.
    Rsa(u16),
    /// ML-DSA-44 (FIPS 204, RFC 9881).
    MlDsa44,
    /// ML-DSA-65 (FIPS 204, RFC 9881).
    MlDsa65,
    /// ML-DSA-87 (FIPS 204, RFC 9881).
    MlDsa87,
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcP256 => f.write_str("P-256"),
            Self::EcP384 => f.write_str("P-384"),
            Self::EcP521 => f.write_str("P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa(bits) => write!(f, "RSA-{bits}"),
            Self::MlDsa44 => f.write_str("ML-DSA-44"),
            Self::MlDsa65 => f.write_str("ML-DSA-65"),
            Self::MlDsa87 => f.write_str("ML-DSA-87"),
        }
    }
}

impl KeyAlgorithm {
    /// Those that configuration and profiles name, by what [`fmt::Display`] writes.
    pub const NAMED: [Self; 10] = [
        Self::EcP256,
        Self::EcP384,
        Self::EcP521,
        Self::Ed25519,
        Self::Rsa(2048),
        Self::Rsa(3072),
        Self::Rsa(4096),
        Self::MlDsa44,
        Self::MlDsa65,
        Self::MlDsa87,
    ];

    /// The one of [`Self::NAMED`] with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|algorithm| algorithm.to_string() == name)
    }

    /// The algorithm that our own keys of this kind sign with, unless another was chosen for them.
    pub fn signature_algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::EcP256 => SignatureAlgorithm::EcdsaSha256,
            Self::EcP384 => SignatureAlgorithm::EcdsaSha384,
            Self::EcP521 => SignatureAlgorithm::EcdsaSha512,
            Self::Ed25519 => SignatureAlgorithm::Ed25519,
            Self::Rsa(_) => SignatureAlgorithm::RsaPkcs1Sha256,
            Self::MlDsa44 => SignatureAlgorithm::MlDsa44,
            Self::MlDsa65 => SignatureAlgorithm::MlDsa65,
            Self::MlDsa87 => SignatureAlgorithm::MlDsa87,
        }
    }

    /// Whether keys of this kind make signatures of `algorithm`.
    pub fn signs_with(self, algorithm: SignatureAlgorithm) -> bool {
        verifier::verification(self, algorithm).is_some()
    }
}

/// Why a public key was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a DER SubjectPublicKeyInfo.
    #[error("the public key is not a valid DER SubjectPublicKeyInfo")]
    Malformed,
    /// An algorithm or curve that is not accepted; explicit curve parameters are among them.
    #[error("key algorithm {0} is not accepted; use P-256, P-384, P-521, Ed25519, RSA of 2048 to 4096 bits or ML-DSA")]
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
            other => {
                let absent = parsed.algorithm.parameters.is_none();
                ml_dsa_algorithm(other, absent, bits).ok_or_else(|| KeyError::Algorithm(other.to_string()))??
            }
        };
        Ok(Self { spki: spki.to_vec(), bits: bits.to_vec(), algorithm })
    }

    /// The DER SubjectPublicKeyInfo as it was given.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// The contents of the BIT STRING: the point, the DER RSAPublicKey, or the octets of an ML-DSA key.
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

    /// Verifies `signature` over `message`. ECDSA signatures are DER (RFC 3279 2.2.3). The key is decoded at each call;
    /// [`Verifier`] does it once.
    ///
    /// # Errors
    /// [`BadSignature`] also when `algorithm` does not go with this key.
    pub fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        let verification = verifier::verification(self.algorithm, algorithm).ok_or(BadSignature)?;
        lc::UnparsedPublicKey::new(verification, &self.bits).verify(message, signature).map_err(|_| BadSignature)
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

/// RFC 9881 4: the encoded key alone, without parameters. `None` when `oid` is not one of ML-DSA's.
fn ml_dsa_algorithm(
    oid: ObjectIdentifier,
    parameters_absent: bool,
    key: &[u8],
) -> Option<Result<KeyAlgorithm, KeyError>> {
    // FIPS 204 table 2: octets of a public key.
    let (algorithm, octets, verification): (_, usize, &'static dyn lc::VerificationAlgorithm) = match oid {
        fips204::ID_ML_DSA_44 => (KeyAlgorithm::MlDsa44, 1312, &lc::ML_DSA_44),
        fips204::ID_ML_DSA_65 => (KeyAlgorithm::MlDsa65, 1952, &lc::ML_DSA_65),
        fips204::ID_ML_DSA_87 => (KeyAlgorithm::MlDsa87, 2592, &lc::ML_DSA_87),
        _ => return None,
    };
    let sound = parameters_absent && key.len() == octets && lc::ParsedPublicKey::new(verification, key).is_ok();
    Some(if sound { Ok(algorithm) } else { Err(KeyError::Encoding) })
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
