//! Intents and what becomes of them.

use crate::entry::{AttestationRecord, CertificateEntry, CertificateRef, Holder};
use ca_core::{
    id::{IdempotencyKey, IssuerId, ProfileName, TenantId},
    key::SignatureAlgorithm,
    serial::SerialNumber,
    time::UnixTime,
};

/// What to do about a device that has a certificate that is neither revoked nor expired, when it is enrolled anew
/// (not renewed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingDevice {
    /// Refuse: `DeviceConflict(DeviceExists)`.
    Refuse,
    /// Let it have one more.
    Allow,
}

/// Records that a certificate is about to be signed: serial, exact bytes, who asked for it and what authorised it.
#[derive(Clone, Debug)]
pub struct Intend {
    /// The tenant.
    pub tenant: TenantId,
    /// The issuer; must be the tenant's.
    pub issuer: IssuerId,
    /// The serial number; `SerialInUse` when the issuer ever gave it.
    pub serial: SerialNumber,
    /// The exact TBSCertificate, DER, at most 32 KiB.
    pub tbs: Vec<u8>,
    /// What it will be signed with.
    pub algorithm: SignatureAlgorithm,
    /// The profile.
    pub profile: ProfileName,
    /// SHA-256 of the profile's text.
    pub profile_sha256: [u8; 32],
    /// The holder.
    pub holder: Holder,
    /// Creates the principal too; `AlreadyExists` when its name was ever used.
    pub new_principal: bool,
    /// What to do about a device that has a live certificate; without meaning when `replaces` is set.
    pub existing: ExistingDevice,
    /// Who asks, for example `principal:line-1`, `token:<id>`, `attestation:<hash>`, `device:<id>`; at most 200 octets.
    pub requester: String,
    /// The requester's name for the request.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the request; another one under the same key is an `IdempotencyConflict`.
    pub request_sha256: [u8; 32],
    /// SHA-256 of the DER SubjectPublicKeyInfo; `KeyInUse` when another holder has it.
    pub spki_sha256: [u8; 32],
    /// The enrollment token that is used up by this.
    pub token_id: Option<String>,
    /// SHA-256 of the attestation anchor; binds the device to it for ever.
    pub anchor_sha256: Option<[u8; 32]>,
    /// What attestation established.
    pub attestation: Option<AttestationRecord>,
    /// The certificate that this one renews: same holder, issued and not revoked. An earlier successor of it that was
    /// not confirmed is revoked as superseded.
    pub replaces: Option<CertificateRef>,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
}

/// What came of an [`Intend`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intended {
    /// The intent is durable: sign the bytes that it holds.
    New,
    /// The same request was made before, and this is its certificate: issued, open (sign *its* bytes), given up or
    /// revoked.
    Replay(Box<CertificateEntry>),
}

/// Records the signature over an open intent, which makes it a certificate. The caller has verified it. The same
/// signature again gives the same entry; another one is `WrongState`; a revoked intent is `Revoked`.
#[derive(Clone, Debug)]
pub struct Issue {
    /// The issuer.
    pub issuer: IssuerId,
    /// The serial number.
    pub serial: SerialNumber,
    /// The signature as X.509 has it (BIT STRING content), at most 1 KiB.
    pub signature: Vec<u8>,
}

/// Gives an open intent up. Its serial number stays used, its token stays used; a principal that it would have
/// created is forgotten.
#[derive(Clone, Debug)]
pub struct Abort {
    /// The issuer.
    pub issuer: IssuerId,
    /// The serial number.
    pub serial: SerialNumber,
    /// Why; cut at 256 octets.
    pub reason: String,
}

/// Why a certificate counts as installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfirmCause {
    /// The holder or its station said so.
    Confirmed,
    /// It was used.
    FirstUse,
}

/// Marks a certificate as installed, and revokes the one that it replaces as superseded. Repeating it changes nothing.
#[derive(Clone, Debug)]
pub struct Confirm {
    /// The tenant.
    pub tenant: TenantId,
    /// The issuer.
    pub issuer: IssuerId,
    /// The serial number.
    pub serial: SerialNumber,
    /// Who says so; at most 200 octets.
    pub by: String,
    /// The caller's name for the request; none for a first use.
    pub idempotency_key: Option<IdempotencyKey>,
    /// SHA-256 of the request.
    pub request_sha256: [u8; 32],
    /// Why.
    pub cause: ConfirmCause,
}
