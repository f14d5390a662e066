//! Changes: each decides on the state as it is with everything before it, and gives the records to append.

mod access;
mod issuance;
mod issuer;
mod keys;
mod lifecycle;
mod revocation;

pub use access::{CreateToken, DisablePrincipal};
pub use issuance::{ExistingDevice, Intend, Intended};
pub use issuer::{AddIssuer, SetIssuerState, SetOcspResponder, SetServerIdentity};
pub use keys::{AllowWrappedBackup, RecordKey, RetireKey, SetTokenIdentity};
pub use lifecycle::{Abort, Confirm, ConfirmCause, Issue};
pub use revocation::{PublishCrl, ReserveCrlNumber, Revoke, RevokeTarget};

use crate::{
    entry::CertificateEntry,
    error::StoreError,
    event::{Event, Reference, RequestAnswered},
    index::{key, row::RequestRow},
    view::View,
};
use ca_core::{id::IssuerId, serial::SerialNumber, time::UnixTime};

/// The longest name of a requester, in octets.
pub const MAX_REQUESTER: usize = 200;

/// What was decided: the records, all or none of which become facts. None when the change changes nothing.
#[derive(Debug, Default)]
pub struct Decided {
    pub(crate) tenant: String,
    pub(crate) events: Vec<Event>,
}

/// A change of state. Changes are decided one after the other, each on everything before it, so what one checks still
/// holds when its records are written. Only this crate has changes.
pub trait Change: sealed::Decide + Send + 'static {
    /// What the caller is told once the records are durable.
    type Outcome: Send + 'static;

    /// Reads the outcome from the state with the change in it. `replayed`: it changed nothing.
    #[doc(hidden)]
    fn outcome(&self, view: &View<'_>, replayed: bool) -> Result<Self::Outcome, StoreError>;
}

pub(crate) mod sealed {
    use super::{Decided, StoreError, UnixTime, View};

    /// The part of a change that only this crate can write.
    pub trait Decide {
        /// Checks the change against the state and gives its records.
        fn decide(&self, view: &View<'_>, now: UnixTime) -> Result<Decided, StoreError>;
    }
}

/// Whether the same request was made before; another one under the same key is a conflict.
fn is_replay(
    view: &View<'_>,
    tenant: &str,
    requester: &str,
    idempotency_key: &str,
    request_sha256: &[u8; 32],
) -> Result<bool, StoreError> {
    if requester.len() > MAX_REQUESTER {
        return Err(StoreError::TooLarge { field: "requester", limit: MAX_REQUESTER });
    }
    match view.row::<RequestRow>(&key::request(tenant, requester, idempotency_key))? {
        None => Ok(false),
        Some(row) if row.request_sha256 == request_sha256 => Ok(true),
        Some(_) => Err(StoreError::IdempotencyConflict),
    }
}

/// The record that closes a request.
fn answered(
    requester: &str,
    idempotency_key: &str,
    request_sha256: &[u8; 32],
    kind: u32,
    certificates: Vec<Reference>,
    name: &str,
) -> Event {
    RequestAnswered {
        requester: requester.to_owned(),
        idempotency_key: idempotency_key.to_owned(),
        request_sha256: request_sha256.to_vec(),
        kind,
        certificates,
        name: name.to_owned(),
        continues: false,
    }
    .into()
}

/// How many certificates one record names at most, so that it fits whatever the names' lengths are.
const MAX_REFERENCES: usize = 256;

/// The records that close a request that has any number of certificates: at least one.
fn answered_with_certificates(
    requester: &str,
    idempotency_key: &str,
    request_sha256: &[u8; 32],
    kind: u32,
    mut certificates: Vec<Reference>,
) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let rest = certificates.split_off(certificates.len().min(MAX_REFERENCES));
        let answer = RequestAnswered {
            requester: requester.to_owned(),
            idempotency_key: idempotency_key.to_owned(),
            request_sha256: request_sha256.to_vec(),
            kind,
            certificates,
            name: String::new(),
            continues: !events.is_empty(),
        };
        events.push(answer.into());
        if rest.is_empty() {
            return events;
        }
        certificates = rest;
    }
}

fn certificate(view: &View<'_>, issuer: &IssuerId, serial: &SerialNumber) -> Result<CertificateEntry, StoreError> {
    view.certificate(issuer.as_str(), serial.as_be_bytes())?.ok_or(StoreError::NotFound("certificate"))
}

fn limit(field: &'static str, len: usize, limit: usize) -> Result<(), StoreError> {
    if len > limit { Err(StoreError::TooLarge { field, limit }) } else { Ok(()) }
}
