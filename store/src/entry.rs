//! What the store gives back: the facts of the journal, put together for one object.

mod keys;

pub use ca_core::issuer::IssuerState;
pub use keys::*;

use ca_core::{
    id::{DeviceId, IdempotencyKey, IssuerId, PrincipalId, ProfileName, TenantId},
    key::SignatureAlgorithm,
    serial::SerialNumber,
    time::UnixTime,
};
use std::collections::BTreeMap;

/// Names one certificate: its issuer and its serial number.
pub type CertificateRef = (IssuerId, SerialNumber);

/// The role number (`ROLE_ADMIN` of the wire contract) of which each tenant keeps one enabled principal.
pub const ROLE_ADMIN: u32 = 1;

/// The role number of the service's own principals, the holders of its OCSP, TLS and CA certificates.
pub const ROLE_SERVICE: u32 = 0;

/// How the names of the service's own principals begin.
pub const SERVICE_NAMES: &str = "service.";

/// Who holds a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A device, as it was stated at this enrollment; each text at most 64 characters, empty where unknown.
    Device {
        /// Unique within the tenant.
        id: DeviceId,
        /// Manufacturer.
        manufacturer: String,
        /// Model.
        model: String,
        /// Serial number as stated.
        serial_number: String,
    },
    /// A person or a machine that is no device.
    Principal {
        /// Unique within the tenant.
        id: PrincipalId,
        /// The role's number in the wire contract.
        role: u32,
    },
}

/// What attestation established (RFC 9334 "Attestation Results").
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AttestationRecord {
    /// The evidence format, for example `tpm2`.
    pub format: String,
    /// What the evidence established, name to value.
    pub claims: BTreeMap<String, String>,
    /// SHA-256 over the evidence as it was received.
    pub evidence_sha256: [u8; 32],
    /// The trust anchor that the evidence chains to, RFC 4514.
    pub trust_anchor: String,
}

/// Why and when a certificate was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationEntry {
    /// When it was revoked first.
    pub at: UnixTime,
    /// CRLReason (RFC 5280 5.3.1).
    pub reason: u8,
    /// When the key is believed to have been compromised (RFC 5280 5.3.2).
    pub invalidity_date: Option<UnixTime>,
    /// Who asked for it.
    pub by: String,
    /// Why, in the words of who asked.
    pub comment: String,
}

/// Where a certificate stands. The later state hides the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertificateState {
    /// Its intent is durable; no signature is recorded.
    Intended,
    /// Given up before it was issued.
    Aborted,
    /// Issued.
    Issued,
    /// Issued, and confirmed or used.
    Installed,
    /// Revoked (an open intent can be revoked too).
    Revoked,
}

/// A certificate and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateEntry {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its issuer.
    pub issuer: IssuerId,
    /// Its serial number, unique for its issuer for ever.
    pub serial: SerialNumber,
    /// Sequence of the record that issued it; of the record of the intent while there is none.
    pub sequence: u64,
    /// When its intent became durable.
    pub intended_at: UnixTime,
    /// The exact TBSCertificate, DER.
    pub tbs: Vec<u8>,
    /// What it is (to be) signed with.
    pub algorithm: SignatureAlgorithm,
    /// The profile that it was made by.
    pub profile: ProfileName,
    /// SHA-256 of that profile's text.
    pub profile_sha256: [u8; 32],
    /// Its holder.
    pub holder: Holder,
    /// Who asked for it, for example `principal:line-1`.
    pub requester: String,
    /// The requester's name for the request.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the request as the caller normalised it.
    pub request_sha256: [u8; 32],
    /// SHA-256 of the DER SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// The enrollment token that it used up.
    pub token_id: Option<String>,
    /// SHA-256 of the attestation anchor (the endorsement key) that the device is bound to.
    pub anchor_sha256: Option<[u8; 32]>,
    /// What attestation established.
    pub attestation: Option<AttestationRecord>,
    /// The certificate that it renews.
    pub replaces: Option<CertificateRef>,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
    /// The signature as X.509 has it (BIT STRING content), once issued.
    pub signature: Option<Vec<u8>>,
    /// When it was issued.
    pub issued_at: Option<UnixTime>,
    /// When it was confirmed or first used.
    pub installed_at: Option<UnixTime>,
    /// Why its intent was given up.
    pub aborted: Option<String>,
    /// Set when it is revoked.
    pub revocation: Option<RevocationEntry>,
    /// The newest certificate that renews it.
    pub replaced_by: Option<CertificateRef>,
}

impl CertificateEntry {
    /// Where it stands.
    pub fn state(&self) -> CertificateState {
        if self.revocation.is_some() {
            CertificateState::Revoked
        } else if self.installed_at.is_some() {
            CertificateState::Installed
        } else if self.signature.is_some() {
            CertificateState::Issued
        } else if self.aborted.is_some() {
            CertificateState::Aborted
        } else {
            CertificateState::Intended
        }
    }

    /// Issued, not revoked and not expired at `now`.
    pub fn is_live(&self, now: UnixTime) -> bool {
        matches!(self.state(), CertificateState::Issued | CertificateState::Installed) && now <= self.not_after
    }
}

/// Which certificates to list; `None` matches everything.
#[derive(Clone, Debug, Default)]
pub struct CertificateFilter {
    /// Only this device's.
    pub device: Option<DeviceId>,
    /// Only this profile's.
    pub profile: Option<ProfileName>,
    /// Only those in this state.
    pub state: Option<CertificateState>,
    /// Only this issuer's.
    pub issuer: Option<IssuerId>,
    /// Only this principal's own credentials.
    pub principal: Option<PrincipalId>,
}

/// One page of a listing.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The entries; may be fewer than asked for although there are more.
    pub items: Vec<T>,
    /// Where the next page begins (`after` of the next call with the same filter); `None` at the end.
    pub next: Option<u64>,
}

/// A device: somebody who was issued at least one certificate as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceEntry {
    /// Its tenant.
    pub tenant: TenantId,
    /// Unique within the tenant.
    pub id: DeviceId,
    /// Manufacturer, as stated last; empty where unknown.
    pub manufacturer: String,
    /// Model, as stated last; empty where unknown.
    pub model: String,
    /// Serial number, as stated last; empty where unknown.
    pub serial_number: String,
    /// When its first certificate was issued.
    pub first_enrolled_at: UnixTime,
    /// Sequence of that record: its place in the listing.
    pub sequence: u64,
    /// SHA-256 of its attestation anchor.
    pub anchor_sha256: Option<[u8; 32]>,
    /// Its newest certificate.
    pub current: CertificateRef,
    /// How many certificates it was ever issued.
    pub certificate_count: u32,
}

/// Which devices to list; `None` matches everything.
#[derive(Clone, Debug, Default)]
pub struct DeviceFilter {
    /// Only identifiers that begin with this.
    pub prefix: Option<String>,
    /// Only this model.
    pub model: Option<String>,
}

/// A person or a machine that is no device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalEntry {
    /// Its tenant.
    pub tenant: TenantId,
    /// Unique within the tenant.
    pub id: PrincipalId,
    /// The role's number in the wire contract.
    pub role: u32,
    /// When it was created.
    pub created_at: UnixTime,
    /// Who created it.
    pub created_by: String,
    /// Sequence of the record that created it: its place in the listing.
    pub sequence: u64,
    /// Whether it was ever issued a certificate.
    pub enrolled: bool,
    /// Set when it was disabled, which is for good.
    pub disabled_at: Option<UnixTime>,
}

/// A one-time enrollment token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEntry {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name in the journal.
    pub token_id: String,
    /// The only profile that it opens.
    pub profile: ProfileName,
    /// The only device that it is for: manufacturer, model, serial number (empty: the enrolling side names the device).
    pub device: Option<TokenDevice>,
    /// From this second on it is worth nothing.
    pub expires_at: UnixTime,
    /// When it was made.
    pub created_at: UnixTime,
    /// Who made it.
    pub created_by: String,
    /// The certificate (intent) that used it up.
    pub used_by: Option<CertificateRef>,
}

/// The device that a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TokenDevice {
    /// Manufacturer; empty where not stated.
    pub manufacturer: String,
    /// Model; empty where not stated.
    pub model: String,
    /// Serial number; empty where the enrolling side names it.
    pub serial_number: String,
}

/// Where an issuer's products are published, as they were recorded: a root may have none of them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct IssuerUrls {
    /// The CRL.
    pub crl: String,
    /// The OCSP responder.
    pub ocsp: String,
    /// The issuer's certificate.
    pub ca_issuers: String,
}

/// An issuing CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerEntry {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name.
    pub id: IssuerId,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// The certificates above it, DER, nearest first, root last.
    pub chain: Vec<Vec<u8>>,
    /// `CKA_ID` of its key.
    pub key_id: Vec<u8>,
    /// What it signs with; `None`: its key's usual algorithm.
    pub signature_algorithm: Option<SignatureAlgorithm>,
    /// The newest OCSP responder certificate, DER.
    pub ocsp_certificate: Vec<u8>,
    /// `CKA_ID` of that responder's key.
    pub ocsp_key_id: Vec<u8>,
    /// Where its products are published.
    pub urls: IssuerUrls,
    /// Its place in its life.
    pub state: IssuerState,
    /// When it was added.
    pub added_at: UnixTime,
    /// Sequence of the record that added it.
    pub sequence: u64,
}

/// The server's own TLS certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerIdentityEntry {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// `CKA_ID` of its key.
    pub key_id: Vec<u8>,
    /// When it was recorded.
    pub at: UnixTime,
}

/// One revoked certificate, as a CRL needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedEntry {
    /// Its serial number.
    pub serial: SerialNumber,
    /// When it was revoked.
    pub at: UnixTime,
    /// CRLReason (RFC 5280 5.3.1).
    pub reason: u8,
    /// RFC 5280 5.3.2.
    pub invalidity_date: Option<UnixTime>,
    /// End of the certificate's validity; an expired certificate may leave the CRL.
    pub not_after: UnixTime,
}

/// The newest published CRL of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlEntry {
    /// Its number.
    pub number: u64,
    /// thisUpdate.
    pub this_update: UnixTime,
    /// nextUpdate.
    pub next_update: UnixTime,
    /// SHA-256 of its DER encoding.
    pub sha256: [u8; 32],
    /// Every record up to this one is in it.
    pub sequence: u64,
}

/// What an idempotency key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedRequest {
    /// SHA-256 of the request as the caller normalised it.
    pub request_sha256: [u8; 32],
    /// What came of it.
    pub outcome: RequestOutcome,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// A certificate, or its intent.
    Issuance(IssuerId, SerialNumber),
    /// Certificates that are revoked.
    Revocation(Vec<CertificateRef>),
    /// A principal that is disabled.
    Principal(PrincipalId),
    /// A token, by its name in the journal.
    Token(String),
    /// A certificate that is installed.
    Confirmation(IssuerId, SerialNumber),
}
