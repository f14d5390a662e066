//! Remote attestation (RFC 9334): challenge, evidence, attestation result, appraisal policy.
//!
//! Verifiers never decide about issuance, the policy never parses evidence, and whether the attested key is the
//! key of the request is checked by [`crate::authorise`], not by a verifier.

pub mod binding;
pub mod claims;
pub mod policy;
pub mod session;
pub mod trust;

use crate::tpm2::{
    self, TpmError,
    ek::EkError,
    verify::{Tpm2Evidence, Tpm2Hello, Tpm2State},
};
use ca_core::{key::PublicKey, time::UnixTime};
use claims::Claims;
use session::Session;
use std::{fmt, str::FromStr};
use trust::{TrustPath, TrustStores};

/// An evidence format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// "tpm2": endorsement key, attestation key beside it, TPM2_Certify of the request's key.
    Tpm2,
}

/// There is no evidence format of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no evidence format {0:?}; there is: tpm2")]
pub struct UnknownFormat(pub String);

impl FromStr for Format {
    type Err = UnknownFormat;
    fn from_str(s: &str) -> Result<Self, UnknownFormat> {
        match s {
            "tpm2" => Ok(Self::Tpm2),
            other => Err(UnknownFormat(other.to_owned())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tpm2 => f.write_str("tpm2"),
        }
    }
}

/// What a device says before the challenge.
#[derive(Clone, Debug)]
pub enum Hello {
    /// A TPM 2.0.
    Tpm2(Tpm2Hello),
}

/// A format's own part of the challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChallengeBody {
    /// A TPM 2.0: what it must activate.
    Tpm2(tpm2::CredentialBlob),
}

/// What a verifier keeps between challenge and evidence; secrets in it are erased when it is dropped.
#[derive(Debug)]
pub enum FormatState {
    /// A TPM 2.0.
    Tpm2(Tpm2State),
}

/// Evidence as it was received.
#[derive(Clone, Debug)]
pub enum Evidence {
    /// A TPM 2.0.
    Tpm2(Tpm2Evidence),
}

/// What a verifier may look at when it makes a challenge.
pub struct ChallengeContext<'a> {
    /// Now.
    pub now: UnixTime,
    /// The trust anchors.
    pub stores: &'a TrustStores,
    /// Fills a slice with random octets.
    pub random: &'a mut dyn FnMut(&mut [u8]),
}

/// What a verifier may look at when it judges evidence.
pub struct VerifyContext<'a> {
    /// Now.
    pub now: UnixTime,
    /// The trust anchors as they are now.
    pub stores: &'a TrustStores,
}

/// A verifier for one evidence format. Pure: no I/O, no clock, no randomness but that of the context.
pub trait EvidenceVerifier: Send + Sync {
    /// The format.
    fn format(&self) -> Format;

    /// Makes the format's own part of the challenge and what must be kept for [`Self::verify`].
    ///
    /// # Errors
    /// [`EvidenceError`] when what the device says of itself is not acceptable.
    fn challenge(
        &self,
        hello: &Hello,
        ctx: &mut ChallengeContext<'_>,
    ) -> Result<(ChallengeBody, FormatState), EvidenceError>;

    /// Judges evidence against the session that was consumed for it.
    ///
    /// # Errors
    /// [`EvidenceError`] when one of the format's rules does not hold.
    fn verify(
        &self,
        evidence: &Evidence,
        session: &Session,
        ctx: &VerifyContext<'_>,
    ) -> Result<AttestationResult, EvidenceError>;
}

/// What verified evidence establishes (RFC 9334 "Attestation Results").
#[derive(Clone, Debug)]
pub struct AttestationResult {
    /// The format.
    pub format: Format,
    /// The key that the evidence is about.
    pub attested_key: PublicKey,
    /// The claims.
    pub claims: Claims,
    /// SHA-256 over the evidence as it was received, each field preceded by its length as a big-endian u32.
    pub evidence_sha256: [u8; 32],
    /// The stores and anchors that the evidence leads to; never empty.
    pub trust: Vec<TrustPath>,
    /// What stands for the device for ever: SHA-256 of the endorsement key's SubjectPublicKeyInfo.
    pub device_anchor: [u8; 32],
}

/// Why evidence was refused. The text is for the log: a stranger is told [`EvidenceError::PUBLIC`] only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Of another format than the verifier's or the session's.
    #[error("the evidence is of another format than the session")]
    Format,
    /// A field beyond its limit.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// A TPM structure that cannot be read or breaks a rule.
    #[error("{field}: {error}")]
    Structure {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        error: TpmError,
    },
    /// The endorsement key certificate.
    #[error("ek_certificate: {0}")]
    EndorsementKey(#[from] EkError),
    /// The trust anchor was removed while the enrollment ran.
    #[error("the trust anchor is no longer in its store")]
    AnchorRemoved,
    /// The TPM did not give out the secret, or to another session.
    #[error("activation_mac: the credential was not activated for this session")]
    NotActivated,
    /// The freshness value is not the session's binding.
    #[error("certify_attest: the qualifying data is not the session's binding")]
    NotFresh,
    /// The certified object is another one.
    #[error("certify_attest: the certified name is not that of subject_public")]
    OtherObject,
    /// The subject key is not the one that the challenge was asked for.
    #[error("subject_public: not the key that the challenge was made for")]
    OtherKey,
}

impl EvidenceError {
    /// What a stranger is told, whatever the reason was.
    pub const PUBLIC: &'static str = "the attestation evidence was refused";

    /// The request field that is at fault, for the log.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Format | Self::AnchorRemoved => "evidence",
            Self::TooLong(field) | Self::Structure { field, .. } => field,
            Self::EndorsementKey(_) => "ek_certificate",
            Self::NotActivated => "activation_mac",
            Self::NotFresh | Self::OtherObject => "certify_attest",
            Self::OtherKey => "subject_public",
        }
    }
}
