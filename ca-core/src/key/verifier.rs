//! One public key made ready to verify many signatures.

use super::{BadSignature, KeyAlgorithm, PublicKey, SignatureAlgorithm};
use aws_lc_rs::signature as lc;
use std::fmt;

/// A key that does not make signatures of the algorithm asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} keys make no {algorithm} signatures")]
pub struct AlgorithmMismatch {
    /// The key's algorithm.
    pub key: KeyAlgorithm,
    /// What was asked of it.
    pub algorithm: SignatureAlgorithm,
}

/// A public key that was decoded once, with the one algorithm that it verifies. For keys that many signatures are
/// checked with, such as an issuer's; [`PublicKey::verify`] decodes the key at each call, which costs one to four
/// microseconds (`benches/verify.rs`).
#[derive(Clone)]
pub struct Verifier {
    key: lc::ParsedPublicKey,
    key_algorithm: KeyAlgorithm,
    algorithm: SignatureAlgorithm,
}

impl Verifier {
    /// Makes `key` ready.
    ///
    /// # Errors
    /// [`AlgorithmMismatch`] when `algorithm` does not go with the key.
    pub fn new(key: &PublicKey, algorithm: SignatureAlgorithm) -> Result<Self, AlgorithmMismatch> {
        let mismatch = AlgorithmMismatch { key: key.algorithm(), algorithm };
        let verification = verification(key.algorithm(), algorithm).ok_or(mismatch)?;
        // The key was decoded when it was parsed, so this does not fail.
        let parsed = lc::ParsedPublicKey::new(verification, key.key_bits()).map_err(|_| mismatch)?;
        Ok(Self { key: parsed, key_algorithm: key.algorithm(), algorithm })
    }

    /// The algorithm that is verified.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// Verifies `signature` over `message`. ECDSA signatures are DER (RFC 3279 2.2.3).
    ///
    /// # Errors
    /// [`BadSignature`] when it does not verify.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        self.key.verify_sig(message, signature).map_err(|_| BadSignature)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({}, {})", self.key_algorithm, self.algorithm)
    }
}

impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm && self.key.as_ref() == other.key.as_ref()
    }
}

impl Eq for Verifier {}

/// The verification that goes with key and algorithm together; `None` where they do not go together.
pub(super) fn verification(
    key: KeyAlgorithm,
    algorithm: SignatureAlgorithm,
) -> Option<&'static dyn lc::VerificationAlgorithm> {
    use KeyAlgorithm as K;
    use SignatureAlgorithm as S;
    Some(match (key, algorithm) {
        (K::EcP256, S::EcdsaSha256) => &lc::ECDSA_P256_SHA256_ASN1,
        (K::EcP256, S::EcdsaSha384) => &lc::ECDSA_P256_SHA384_ASN1,
        (K::EcP256, S::EcdsaSha512) => &lc::ECDSA_P256_SHA512_ASN1,
        (K::EcP384, S::EcdsaSha256) => &lc::ECDSA_P384_SHA256_ASN1,
        (K::EcP384, S::EcdsaSha384) => &lc::ECDSA_P384_SHA384_ASN1,
        (K::EcP384, S::EcdsaSha512) => &lc::ECDSA_P384_SHA512_ASN1,
        (K::EcP521, S::EcdsaSha256) => &lc::ECDSA_P521_SHA256_ASN1,
        (K::EcP521, S::EcdsaSha384) => &lc::ECDSA_P521_SHA384_ASN1,
        (K::EcP521, S::EcdsaSha512) => &lc::ECDSA_P521_SHA512_ASN1,
        (K::Rsa(_), S::RsaPkcs1Sha256) => &lc::RSA_PKCS1_2048_8192_SHA256,
        (K::Rsa(_), S::RsaPkcs1Sha384) => &lc::RSA_PKCS1_2048_8192_SHA384,
        (K::Rsa(_), S::RsaPkcs1Sha512) => &lc::RSA_PKCS1_2048_8192_SHA512,
        (K::Rsa(_), S::RsaPssSha256) => &lc::RSA_PSS_2048_8192_SHA256,
        (K::Rsa(_), S::RsaPssSha384) => &lc::RSA_PSS_2048_8192_SHA384,
        (K::Rsa(_), S::RsaPssSha512) => &lc::RSA_PSS_2048_8192_SHA512,
        (K::Ed25519, S::Ed25519) => &lc::ED25519,
        (K::MlDsa44, S::MlDsa44) => &lc::ML_DSA_44,
        (K::MlDsa65, S::MlDsa65) => &lc::ML_DSA_65,
        (K::MlDsa87, S::MlDsa87) => &lc::ML_DSA_87,
        _ => return None,
    })
}
