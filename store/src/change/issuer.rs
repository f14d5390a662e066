//! Issuers, their responders, and the server's own identity.

use crate::entry::{IssuerState, IssuerUrls};
use ca_core::id::{IssuerId, TenantId};

/// Adds an issuer, active. Refused with `AlreadyExists` when the name was ever used.
#[derive(Clone, Debug)]
pub struct AddIssuer {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name.
    pub issuer: IssuerId,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// The certificates above it, DER, nearest first, root last.
    pub chain: Vec<Vec<u8>>,
    /// `CKA_ID` of its key.
    pub key_id: Vec<u8>,
    /// Its OCSP responder's certificate, DER.
    pub ocsp_certificate: Vec<u8>,
    /// `CKA_ID` of that responder's key.
    pub ocsp_key_id: Vec<u8>,
    /// Where its products are published.
    pub urls: IssuerUrls,
    /// Its place in its life.
    pub state: IssuerState,
}

/// Gives an issuer a new OCSP responder certificate.
#[derive(Clone, Debug)]
pub struct SetOcspResponder {
    /// The issuer.
    pub issuer: IssuerId,
    /// The responder's certificate, DER.
    pub certificate: Vec<u8>,
    /// `CKA_ID` of its key.
    pub key_id: Vec<u8>,
}

/// Moves an issuer on in its life. Never back: `NotRising`.
#[derive(Clone, Debug)]
pub struct SetIssuerState {
    /// The issuer.
    pub issuer: IssuerId,
    /// Its new place.
    pub state: IssuerState,
}

/// Records the server's own TLS certificate.
#[derive(Clone, Debug)]
pub struct SetServerIdentity {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// `CKA_ID` of its key.
    pub key_id: Vec<u8>,
}
