//! Why a request is not authorised: one text for the log, another for the requester.

use crate::attestation::{EvidenceError, policy::Verdict, session::SessionError};
use ca_core::{id::IdError, issue::SelectionError};

/// Stable reasons, as ErrorInfo carries them.
pub mod reason {
    /// The role does not allow this.
    pub const ROLE_NOT_ALLOWED: &str = "ROLE_NOT_ALLOWED";
    /// The profile does not open to this kind of requester, or the token is for another one.
    pub const PROFILE_NOT_ALLOWED: &str = "PROFILE_NOT_ALLOWED";
    /// The profile demands evidence and there is none.
    pub const ATTESTATION_REQUIRED: &str = "ATTESTATION_REQUIRED";
    /// The profile does not take evidence.
    pub const ATTESTATION_NOT_ACCEPTED: &str = "ATTESTATION_NOT_ACCEPTED";
    /// The evidence was refused; all that a requester is told.
    pub const ATTESTATION_FAILED: &str = "ATTESTATION_FAILED";
    /// The attested key is not the request's; for the log.
    pub const KEY_NOT_ATTESTED: &str = "KEY_NOT_ATTESTED";
    /// Nothing names the device.
    pub const DEVICE_REQUIRED: &str = "DEVICE_REQUIRED";
    /// Two sources name different devices.
    pub const DEVICE_MISMATCH: &str = "DEVICE_MISMATCH";
    /// A device field breaks its limits.
    pub const DEVICE_INVALID: &str = "DEVICE_INVALID";
    /// The CSR asks for what the profile does not allow.
    pub const CSR_NOT_ALLOWED: &str = "CSR_NOT_ALLOWED";
    /// The profile's certificates are not renewed.
    pub const NOT_RENEWABLE: &str = "NOT_RENEWABLE";
    /// The certificate is revoked, expired or another's.
    pub const CERTIFICATE_NOT_USABLE: &str = "CERTIFICATE_NOT_USABLE";
    /// The new key is the old one.
    pub const KEY_REUSED: &str = "KEY_REUSED";
    /// The profile would give other names now.
    pub const NAMES_CHANGED: &str = "NAMES_CHANGED";
}

/// Why a request is not authorised. `Display` is for the log; a stranger gets [`Refusal::public_message`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The role does not enroll devices.
    #[error("this role does not enroll devices")]
    RoleNotAllowed,
    /// The profile does not open to this kind of requester.
    #[error("the profile does not accept this way of enrolling")]
    ProfileNotAllowed,
    /// The token is for another profile.
    #[error("the enrollment token is for another profile")]
    TokenProfile,
    /// The profile demands evidence, or nothing else authorises.
    #[error("attestation evidence is required")]
    AttestationRequired,
    /// The profile does not take evidence.
    #[error("the profile does not accept attestation evidence")]
    AttestationNotAccepted,
    /// There is no session for the evidence.
    #[error("session: {0}")]
    Session(#[from] SessionError),
    /// The verifier refused the evidence.
    #[error("evidence: {0}")]
    Evidence(#[from] EvidenceError),
    /// The policy did not accept the result; the rules that did not hold.
    #[error("policy: not satisfied: {}", .0.join("; "))]
    Policy(Vec<String>),
    /// A result without an appraisal: the caller's mistake, refused all the same.
    #[error("the attestation result was not appraised")]
    NotAppraised,
    /// The attested key is not the key of the CSR.
    #[error("the attested key is not the key of the CSR")]
    KeyNotAttested,
    /// Another TPM than the one that the certificate was issued to.
    #[error("the evidence is that of another TPM than the holder's")]
    OtherAnchor,
    /// Nothing that the profile lists names the device.
    #[error("the device is not named; give its serial number")]
    DeviceRequired,
    /// What the request states of the device differs from what this says.
    #[error("the device in the request is not the one named by {0}")]
    DeviceMismatch(&'static str),
    /// Not a device identifier.
    #[error("device.serial_number {0}")]
    DeviceId(IdError),
    /// The CSR's serialNumber is no device identifier.
    #[error("the CSR's serialNumber {0}")]
    CsrDeviceId(IdError),
    /// Too long, or with control characters.
    #[error("{0} has at most 64 characters and no control characters")]
    DeviceText(&'static str),
    /// The CSR does not fit the profile.
    #[error("{0}")]
    Names(#[from] SelectionError),
    /// The profile's certificates are not renewed.
    #[error("certificates of this profile are not renewed; enroll anew")]
    NotRenewable,
    /// Not the requester's own certificate, or issued under another profile.
    #[error("the certificate to renew is not the requester's own")]
    NotYours,
    /// Expired, not yet valid or revoked.
    #[error("the certificate to renew is expired, not yet valid or revoked")]
    NotUsable,
    /// The new key is the old one.
    #[error("the request is for the old key; a renewal needs a new one")]
    SameKey,
    /// The profile has changed.
    #[error("the profile would give other names than the certificate has; enroll anew")]
    NamesChanged,
}

impl Refusal {
    pub(crate) fn policy(verdict: &Verdict) -> Self {
        let failed = verdict.rules.iter().filter(|r| !r.holds);
        Self::Policy(failed.map(|r| format!("accept[{}]: {}", r.entry, r.rule)).collect())
    }

    /// Whether the fault lies with the evidence, about which a stranger learns nothing more.
    pub fn is_evidence(&self) -> bool {
        matches!(
            self,
            Self::Session(_)
                | Self::Evidence(_)
                | Self::Policy(_)
                | Self::NotAppraised
                | Self::KeyNotAttested
                | Self::OtherAnchor
        )
    }

    /// The reason for the log and the journal.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::RoleNotAllowed => reason::ROLE_NOT_ALLOWED,
            Self::ProfileNotAllowed | Self::TokenProfile => reason::PROFILE_NOT_ALLOWED,
            Self::AttestationRequired => reason::ATTESTATION_REQUIRED,
            Self::AttestationNotAccepted => reason::ATTESTATION_NOT_ACCEPTED,
            Self::Session(_) | Self::Evidence(_) | Self::Policy(_) | Self::NotAppraised | Self::OtherAnchor => {
                reason::ATTESTATION_FAILED
            }
            Self::KeyNotAttested => reason::KEY_NOT_ATTESTED,
            Self::DeviceRequired => reason::DEVICE_REQUIRED,
            Self::DeviceMismatch(_) => reason::DEVICE_MISMATCH,
            Self::DeviceId(_) | Self::CsrDeviceId(_) | Self::DeviceText(_) => reason::DEVICE_INVALID,
            Self::Names(_) => reason::CSR_NOT_ALLOWED,
            Self::NotRenewable => reason::NOT_RENEWABLE,
            Self::NotYours | Self::NotUsable => reason::CERTIFICATE_NOT_USABLE,
            Self::SameKey => reason::KEY_REUSED,
            Self::NamesChanged => reason::NAMES_CHANGED,
        }
    }

    /// The reason for the requester: one and the same for everything about evidence.
    pub fn public_reason(&self) -> &'static str {
        if self.is_evidence() { reason::ATTESTATION_FAILED } else { self.reason() }
    }

    /// The message for the requester.
    pub fn public_message(&self) -> String {
        if self.is_evidence() { EvidenceError::PUBLIC.to_owned() } else { self.to_string() }
    }

    /// The request field that is at fault; "evidence" for everything about evidence.
    pub fn field(&self) -> &'static str {
        match self {
            Self::RoleNotAllowed | Self::NotRenewable | Self::NotYours | Self::NotUsable => "",
            Self::ProfileNotAllowed | Self::TokenProfile | Self::NamesChanged => "profile",
            Self::AttestationRequired | Self::AttestationNotAccepted => "evidence",
            Self::Session(_) | Self::Evidence(_) | Self::Policy(_) | Self::NotAppraised => "evidence",
            Self::KeyNotAttested | Self::OtherAnchor => "evidence",
            Self::DeviceRequired | Self::DeviceMismatch(_) | Self::DeviceId(_) => "device.serial_number",
            Self::DeviceText(field) => field,
            Self::CsrDeviceId(_) => "csr.subject.serial_number",
            Self::Names(e) => e.field(),
            Self::SameKey => "csr.subject_public_key",
        }
    }
}
