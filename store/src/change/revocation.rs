//! Revocation and CRL numbers.

use ca_core::{
    id::{DeviceId, IdempotencyKey, IssuerId, TenantId},
    serial::SerialNumber,
    time::UnixTime,
};

/// What to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokeTarget {
    /// One certificate, or the intent of one.
    Certificate(IssuerId, SerialNumber),
    /// Every certificate (and open intent) of a device that is neither revoked nor expired.
    Device(DeviceId),
}

/// Revokes. What is revoked keeps its date; its reason only rises to keyCompromise (1).
#[derive(Clone, Debug)]
pub struct Revoke {
    /// The tenant; another tenant's object is `NotFound`.
    pub tenant: TenantId,
    /// What.
    pub target: RevokeTarget,
    /// CRLReason (RFC 5280 5.3.1).
    pub reason: u8,
    /// When the key is believed to have been compromised.
    pub invalidity_date: Option<UnixTime>,
    /// Who asks; at most 200 octets.
    pub by: String,
    /// Why; at most 1 KiB.
    pub comment: String,
    /// The caller's name for the request.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the request.
    pub request_sha256: [u8; 32],
}

/// Takes the next CRL number of an issuer. It is durable before anything is signed with it, and never given twice.
#[derive(Clone, Debug)]
pub struct ReserveCrlNumber {
    /// The issuer.
    pub issuer: IssuerId,
}

/// Records that a CRL was published. Its number must have been reserved and be higher than the last (`NotRising`).
#[derive(Clone, Debug)]
pub struct PublishCrl {
    /// The issuer.
    pub issuer: IssuerId,
    /// The CRL's number.
    pub number: u64,
    /// thisUpdate.
    pub this_update: UnixTime,
    /// nextUpdate.
    pub next_update: UnixTime,
    /// SHA-256 of its DER encoding.
    pub sha256: [u8; 32],
    /// Every record up to this one is in it ([`crate::Store::revoked`] gave it).
    pub sequence: u64,
}
