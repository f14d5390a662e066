//! What becomes of intents: issued, given up, installed.

use super::{Change, Decided, answered, certificate, is_replay, issuance::SUPERSEDED, limit, sealed::Decide};
use crate::{
    entry::CertificateEntry,
    error::StoreError,
    event::{
        ANSWERED_CONFIRMATION, CertificateInstalled, CertificateIssued, CertificateRevoked, Event, IntentAborted,
        Reference,
    },
    index::{key, row::CertificateRow},
    view::View,
};
use ca_core::{
    id::{IdempotencyKey, IssuerId, TenantId},
    serial::SerialNumber,
    time::UnixTime,
};

/// Records the signature over an open intent, which makes it a certificate. The caller has verified it. The same
/// signature again gives the same entry; another one is `WrongState`; a revoked intent is `Revoked`; one whose key has
/// become known as compromised is `KeyCompromised` and stays open until it is given up.
#[derive(Clone, Debug)]
pub struct Issue {
    /// The issuer.
    pub issuer: IssuerId,
    /// The serial number.
    pub serial: SerialNumber,
    /// The signature as X.509 has it (BIT STRING content), at most 5 KiB.
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

/// The longest signature, in octets: ML-DSA-87 has 4627 (FIPS 204 table 2).
const MAX_SIGNATURE: usize = 5 * 1024;
/// The longest reason of an abort, in octets.
const MAX_ABORT_REASON: usize = 256;

fn row(view: &View<'_>, issuer: &IssuerId, serial: &SerialNumber) -> Result<CertificateRow, StoreError> {
    view.certificate_row(issuer.as_str(), serial.as_be_bytes())?.ok_or(StoreError::NotFound("certificate"))
}

impl Change for Issue {
    type Outcome = CertificateEntry;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<CertificateEntry, StoreError> {
        certificate(view, &self.issuer, &self.serial)
    }
}

impl Decide for Issue {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        limit("signature", self.signature.len(), MAX_SIGNATURE)?;
        let row = row(view, &self.issuer, &self.serial)?;
        if row.revoked != 0 {
            return Err(StoreError::Revoked);
        }
        if row.issued != 0 {
            return match view.event(row.issued)?.1 {
                Event::CertificateIssued(issued) if issued.signature == self.signature => Ok(Decided::default()),
                _ => Err(StoreError::WrongState("an open intent")),
            };
        }
        if row.aborted != 0 {
            return Err(StoreError::WrongState("an open intent"));
        }
        // The key may have become known as compromised while the token signed.
        let (_, _, intent) = view.intent(row.intent)?;
        if view.has(&key::compromised(&row.tenant, &intent.spki_sha256))? {
            return Err(StoreError::KeyCompromised);
        }
        let event = CertificateIssued {
            issuer: self.issuer.as_str().to_owned(),
            serial: self.serial.as_be_bytes().to_vec(),
            signature: self.signature.clone(),
        };
        Ok(Decided { tenant: row.tenant, events: vec![event.into()] })
    }
}

impl Change for Abort {
    type Outcome = CertificateEntry;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<CertificateEntry, StoreError> {
        certificate(view, &self.issuer, &self.serial)
    }
}

impl Decide for Abort {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        let row = row(view, &self.issuer, &self.serial)?;
        if row.issued != 0 {
            return Err(StoreError::WrongState("an open intent"));
        }
        if row.aborted != 0 || row.revoked != 0 {
            return Ok(Decided::default());
        }
        let mut end = self.reason.len().min(MAX_ABORT_REASON);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        let event = IntentAborted {
            issuer: self.issuer.as_str().to_owned(),
            serial: self.serial.as_be_bytes().to_vec(),
            reason: self.reason.get(..end).unwrap_or_default().to_owned(),
        };
        Ok(Decided { tenant: row.tenant, events: vec![event.into()] })
    }
}

impl Change for Confirm {
    type Outcome = CertificateEntry;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<CertificateEntry, StoreError> {
        certificate(view, &self.issuer, &self.serial)
    }
}

impl Decide for Confirm {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        let tenant = self.tenant.as_str();
        let this = Reference { issuer: self.issuer.as_str().to_owned(), serial: self.serial.as_be_bytes().to_vec() };
        if let Some(key) = &self.idempotency_key
            && is_replay(view, tenant, &self.by, key.as_str(), &self.request_sha256)?
        {
            return Ok(Decided::default());
        }
        limit("by", self.by.len(), super::MAX_REQUESTER)?;
        let row = row(view, &self.issuer, &self.serial)?;
        if row.tenant != tenant {
            return Err(StoreError::NotFound("certificate"));
        }
        if row.revoked != 0 {
            return Err(StoreError::Revoked);
        }
        if row.issued == 0 {
            return Err(StoreError::WrongState("issued"));
        }
        let mut events = Vec::new();
        if row.installed == 0 {
            events.push(
                CertificateInstalled {
                    issuer: this.issuer.clone(),
                    serial: this.serial.clone(),
                    by: self.by.clone(),
                    cause: match self.cause {
                        ConfirmCause::Confirmed => 1,
                        ConfirmCause::FirstUse => 2,
                    },
                }
                .into(),
            );
            events.extend(self.supersede(view, row.intent)?);
        }
        if let Some(key) = &self.idempotency_key {
            let hash = &self.request_sha256;
            events.push(answered(&self.by, key.as_str(), hash, ANSWERED_CONFIRMATION, vec![this], ""));
        }
        Ok(Decided { tenant: tenant.to_owned(), events })
    }
}

impl Confirm {
    /// The revocation of the predecessor, where there is one that is not revoked.
    fn supersede(&self, view: &View<'_>, intent: u64) -> Result<Option<Event>, StoreError> {
        let Some(replaced) = view.intent(intent)?.2.replaces else { return Ok(None) };
        let predecessor = view.certificate_row(&replaced.issuer, &replaced.serial)?;
        Ok(predecessor.filter(|row| row.revoked == 0).map(|_| {
            CertificateRevoked {
                issuer: replaced.issuer,
                serial: replaced.serial,
                reason: SUPERSEDED,
                invalidity_date: None,
                by: self.by.clone(),
                comment: "its successor is installed".to_owned(),
            }
            .into()
        }))
    }
}
