//! Signature algorithms and how an AlgorithmIdentifier names them.

use const_oid::ObjectIdentifier;
use const_oid::db::{fips204, rfc5912, rfc8410};
use der::{Any, Sequence};
use spki::AlgorithmIdentifierOwned;
use std::fmt;

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
    /// id-RSASSA-PSS with SHA-256, MGF1 with SHA-256 and 32 octets of salt (RFC 4055 3).
    RsaPssSha256,
    /// id-RSASSA-PSS with SHA-384, MGF1 with SHA-384 and 48 octets of salt (RFC 4055 3).
    RsaPssSha384,
    /// id-RSASSA-PSS with SHA-512, MGF1 with SHA-512 and 64 octets of salt (RFC 4055 3).
    RsaPssSha512,
    /// ML-DSA-44 with an empty context (FIPS 204, RFC 9881).
    MlDsa44,
    /// ML-DSA-65 with an empty context (FIPS 204, RFC 9881).
    MlDsa65,
    /// ML-DSA-87 with an empty context (FIPS 204, RFC 9881).
    MlDsa87,
}

/// RSASSA-PSS-params (RFC 4055 3.1). The trailer has its default, so DER leaves it out.
#[derive(Sequence)]
struct PssParameters {
    #[asn1(context_specific = "0")]
    hash: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "1")]
    mask: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "2")]
    salt: u8,
}

impl SignatureAlgorithm {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::EcdsaSha256,
        Self::EcdsaSha384,
        Self::EcdsaSha512,
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::Ed25519,
        Self::RsaPssSha256,
        Self::RsaPssSha384,
        Self::RsaPssSha512,
        Self::MlDsa44,
        Self::MlDsa65,
        Self::MlDsa87,
    ];

    fn oid(self) -> ObjectIdentifier {
        match self {
            Self::EcdsaSha256 => rfc5912::ECDSA_WITH_SHA_256,
            Self::EcdsaSha384 => rfc5912::ECDSA_WITH_SHA_384,
            Self::EcdsaSha512 => rfc5912::ECDSA_WITH_SHA_512,
            Self::RsaPkcs1Sha256 => rfc5912::SHA_256_WITH_RSA_ENCRYPTION,
            Self::RsaPkcs1Sha384 => rfc5912::SHA_384_WITH_RSA_ENCRYPTION,
            Self::RsaPkcs1Sha512 => rfc5912::SHA_512_WITH_RSA_ENCRYPTION,
            Self::RsaPssSha256 | Self::RsaPssSha384 | Self::RsaPssSha512 => rfc5912::ID_RSASSA_PSS,
            Self::Ed25519 => rfc8410::ID_ED_25519,
            Self::MlDsa44 => fips204::ID_ML_DSA_44,
            Self::MlDsa65 => fips204::ID_ML_DSA_65,
            Self::MlDsa87 => fips204::ID_ML_DSA_87,
        }
    }

    /// The AlgorithmIdentifier: NULL parameters for RSA PKCS#1 (RFC 4055 5), RSASSA-PSS-params for PSS (RFC 4055 3.1),
    /// none otherwise (RFC 5758 3.2, RFC 8410 3, RFC 9881 2).
    pub fn identifier(self) -> AlgorithmIdentifierOwned {
        let parameters = match self {
            Self::RsaPkcs1Sha256 | Self::RsaPkcs1Sha384 | Self::RsaPkcs1Sha512 => Some(Any::null()),
            Self::RsaPssSha256 => pss_parameters(rfc5912::ID_SHA_256, 32),
            Self::RsaPssSha384 => pss_parameters(rfc5912::ID_SHA_384, 48),
            Self::RsaPssSha512 => pss_parameters(rfc5912::ID_SHA_512, 64),
            _ => None,
        };
        AlgorithmIdentifierOwned { oid: self.oid(), parameters }
    }

    /// Recognises an AlgorithmIdentifier, parameters included. `None` for anything that is not accepted: PSS with
    /// another salt, mask or trailer, or with hashes written without their NULL, is among that.
    pub fn from_identifier(identifier: &AlgorithmIdentifierOwned) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.oid() == identifier.oid && a.identifier() == *identifier)
    }
}

/// The mask hashes as the message does and the salt is as long as the hash, as RFC 4055 3.1 recommends.
fn pss_parameters(hash: ObjectIdentifier, salt: u8) -> Option<Any> {
    let hash = AlgorithmIdentifierOwned { oid: hash, parameters: Some(Any::null()) };
    // Encoding values of fixed shape does not fail; were it to, no signature would be accepted.
    let mask = AlgorithmIdentifierOwned { oid: rfc5912::ID_MGF_1, parameters: Any::encode_from(&hash).ok() };
    Any::encode_from(&PssParameters { hash, mask, salt }).ok()
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaSha256 => "ECDSA with SHA-256",
            Self::EcdsaSha384 => "ECDSA with SHA-384",
            Self::EcdsaSha512 => "ECDSA with SHA-512",
            Self::RsaPkcs1Sha256 => "RSA PKCS#1 v1.5 with SHA-256",
            Self::RsaPkcs1Sha384 => "RSA PKCS#1 v1.5 with SHA-384",
            Self::RsaPkcs1Sha512 => "RSA PKCS#1 v1.5 with SHA-512",
            Self::Ed25519 => "Ed25519",
            Self::RsaPssSha256 => "RSA-PSS with SHA-256",
            Self::RsaPssSha384 => "RSA-PSS with SHA-384",
            Self::RsaPssSha512 => "RSA-PSS with SHA-512",
            Self::MlDsa44 => "ML-DSA-44",
            Self::MlDsa65 => "ML-DSA-65",
            Self::MlDsa87 => "ML-DSA-87",
        })
    }
}
