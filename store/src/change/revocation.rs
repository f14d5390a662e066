//! Revocation and CRL numbers.

use super::{
    Change, Decided, access::an_admin_stays, answered_with_certificates, certificate, is_replay, issuance::may_live,
    limit, sealed::Decide,
};
use crate::{
    entry::{CertificateEntry, ROLE_ADMIN, ROLE_SERVICE, RequestOutcome},
    error::StoreError,
    event::{
        ANSWERED_REVOCATION, CertificateRevoked, CrlNumberReserved, CrlPublished, Event, HOLDER_DEVICE,
        HOLDER_PRINCIPAL, KEY_COMPROMISE, Reference,
    },
    index::{
        key,
        row::{CertificateRow, CrlRow, IssuerRow, PrincipalRow},
    },
    view::{View, parse_reference},
};
use ca_core::{
    id::{DeviceId, IdempotencyKey, IssuerId, TenantId},
    serial::SerialNumber,
    time::UnixTime,
};

/// What to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokeTarget {
    /// One certificate, or the intent of one; with reason keyCompromise (1) also what renews it and is not installed.
    /// The service's own are refused with `ServiceCertificate`, the last one of the last admin with `LastAdmin`.
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

/// Records that a CRL was published. Its number must have been reserved and be higher than the last, and its content
/// not older (`NotRising`). Its times are as the clock had them.
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

/// The longest comment, in octets.
const MAX_COMMENT: usize = 1024;

impl Change for Revoke {
    type Outcome = Vec<CertificateEntry>;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<Vec<CertificateEntry>, StoreError> {
        let request = view.request(self.tenant.as_str(), &self.by, self.idempotency_key.as_str())?;
        match request.map(|r| r.outcome) {
            Some(RequestOutcome::Revocation(references)) => {
                references.iter().map(|(issuer, serial)| certificate(view, issuer, serial)).collect()
            }
            _ => Err(StoreError::IdempotencyConflict),
        }
    }
}

impl Decide for Revoke {
    fn decide(&self, view: &View<'_>, now: UnixTime) -> Result<Decided, StoreError> {
        let tenant = self.tenant.as_str();
        limit("comment", self.comment.len(), MAX_COMMENT)?;
        let key = self.idempotency_key.as_str();
        if is_replay(view, tenant, &self.by, key, &self.request_sha256)? {
            return Ok(Decided::default());
        }
        let targets = self.targets(view, now)?;
        let mut events: Vec<Event> = Vec::new();
        for (index, (reference, row)) in targets.iter().enumerate() {
            let mut revocation = self.revocation(view, reference, row)?;
            if let (Some(revocation), RevokeTarget::Certificate(..), 1..) = (&mut revocation, &self.target, index) {
                revocation.invalidity_date = None;
                revocation.comment = "its key, or that of the certificate that it renews, is compromised".to_owned();
            }
            events.extend(revocation.map(Event::from));
        }
        let references = targets.into_iter().map(|(reference, _)| reference).collect();
        let hash = &self.request_sha256;
        events.extend(answered_with_certificates(&self.by, key, hash, ANSWERED_REVOCATION, references));
        Ok(Decided { tenant: tenant.to_owned(), events })
    }
}

impl Revoke {
    fn targets(&self, view: &View<'_>, now: UnixTime) -> Result<Vec<(Reference, CertificateRow)>, StoreError> {
        let tenant = self.tenant.as_str();
        match &self.target {
            RevokeTarget::Certificate(issuer, serial) => {
                let reference = Reference { issuer: issuer.as_str().to_owned(), serial: serial.as_be_bytes().to_vec() };
                let row = view
                    .certificate_row(&reference.issuer, &reference.serial)?
                    .filter(|row| row.tenant == tenant)
                    .ok_or(StoreError::NotFound("certificate"))?;
                if row.aborted != 0 {
                    return Err(StoreError::WrongState("issued"));
                }
                let holder = holder(view, &row)?;
                let mut targets = vec![(reference, row)];
                if u32::from(self.reason) == KEY_COMPROMISE {
                    add_same_key(view, &mut targets)?;
                    add_successors(view, &mut targets)?;
                }
                if holder.is_some_and(|holder| holder.role == ROLE_ADMIN && holder.disabled == 0) {
                    keep_an_admin(view, tenant, now, &targets)?;
                }
                Ok(targets)
            }
            RevokeTarget::Device(device) => {
                if !view.has(&key::device(tenant, device.as_str()))? {
                    return Err(StoreError::NotFound("device"));
                }
                let mut held = view.held_by(tenant, HOLDER_DEVICE, device.as_str())?;
                // A reason that rises also concerns what is revoked already, as long as somebody may trust it.
                let rises = u32::from(self.reason) == KEY_COMPROMISE;
                held.retain(|(_, row)| {
                    may_live(row, now) || rises && row.revoked != 0 && row.issued != 0 && now.as_secs() <= row.not_after
                });
                Ok(held)
            }
        }
    }

    /// The record that is needed, if one is: the first revocation, or a reason that rises.
    fn revocation(
        &self,
        view: &View<'_>,
        reference: &Reference,
        row: &CertificateRow,
    ) -> Result<Option<CertificateRevoked>, StoreError> {
        let reason = u32::from(self.reason);
        if row.revoked != 0 {
            let before = view.revoked_row(&reference.issuer, &reference.serial)?;
            if reason != KEY_COMPROMISE || before.is_some_and(|r| r.reason == KEY_COMPROMISE) {
                return Ok(None);
            }
        }
        Ok(Some(CertificateRevoked {
            issuer: reference.issuer.clone(),
            serial: reference.serial.clone(),
            reason,
            invalidity_date: self.invalidity_date.map(UnixTime::as_secs),
            by: self.by.clone(),
            comment: self.comment.clone(),
        }))
    }
}

/// The principal that holds the certificate. The service replaces its own certificates by itself; revoking its CA by
/// a slip would end every device at once.
fn holder(view: &View<'_>, row: &CertificateRow) -> Result<Option<PrincipalRow>, StoreError> {
    if row.holder_kind != HOLDER_PRINCIPAL {
        return Ok(None);
    }
    let holder: Option<PrincipalRow> = view.row(&key::principal(&row.tenant, &row.holder_id))?;
    match holder {
        Some(holder) if holder.role != ROLE_SERVICE => Ok(Some(holder)),
        _ => Err(StoreError::ServiceCertificate),
    }
}

/// Adds the holder's other certificates for the same key: whoever has it can use them as well.
fn add_same_key(view: &View<'_>, targets: &mut Vec<(Reference, CertificateRow)>) -> Result<(), StoreError> {
    let Some((named, row)) = targets.first().cloned() else { return Ok(()) };
    let (_, _, intent) = view.intent(row.intent)?;
    for (reference, other) in view.held_by(&row.tenant, row.holder_kind, &row.holder_id)? {
        if reference != named && other.aborted == 0 && view.intent(other.intent)?.2.spki_sha256 == intent.spki_sha256 {
            targets.push((reference, other));
        }
    }
    Ok(())
}

/// Adds the certificates and intents that renew those in `targets` and were never seen at their holder: whoever stole
/// the key may have asked for them.
fn add_successors(view: &View<'_>, targets: &mut Vec<(Reference, CertificateRow)>) -> Result<(), StoreError> {
    let mut looked_at = 0;
    while let Some((Reference { issuer, serial }, _)) = targets.get(looked_at) {
        let successors = view.successors(issuer, serial)?;
        looked_at += 1;
        for successor in successors {
            let reference = parse_reference(&successor.reference)?;
            let row = view.certificate_row(&reference.issuer, &reference.serial)?;
            let known = targets.iter().any(|(target, _)| *target == reference);
            let row = row.filter(|row| row.installed == 0 && row.revoked == 0 && row.aborted == 0 && !known);
            if let Some(row) = row {
                targets.push((reference, row));
            }
        }
    }
    Ok(())
}

/// The last certificate that works of the last admin stays: without it nobody could make another.
fn keep_an_admin(
    view: &View<'_>,
    tenant: &str,
    now: UnixTime,
    targets: &[(Reference, CertificateRow)],
) -> Result<(), StoreError> {
    let works = targets.iter().any(|(_, row)| row.issued != 0 && may_live(row, now));
    let gone = |_: &str, reference: &Reference| targets.iter().any(|(target, _)| target == reference);
    if works && !an_admin_stays(view, tenant, now, gone)? { Err(StoreError::LastAdmin) } else { Ok(()) }
}

fn issuer_row(view: &View<'_>, issuer: &IssuerId) -> Result<IssuerRow, StoreError> {
    view.row(&key::issuer(issuer.as_str()))?.ok_or(StoreError::NotFound("issuer"))
}

fn crl_row(view: &View<'_>, issuer: &IssuerId) -> Result<CrlRow, StoreError> {
    Ok(view.row(&key::crl(issuer.as_str()))?.unwrap_or_default())
}

impl Change for ReserveCrlNumber {
    type Outcome = u64;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<u64, StoreError> {
        Ok(crl_row(view, &self.issuer)?.reserved)
    }
}

impl Decide for ReserveCrlNumber {
    fn decide(&self, view: &View<'_>, now: UnixTime) -> Result<Decided, StoreError> {
        let tenant = issuer_row(view, &self.issuer)?.tenant;
        let next = crl_row(view, &self.issuer)?.reserved.checked_add(1).ok_or(StoreError::NotRising("a CRL number"))?;
        // Not below the seconds of the clock: a journal restored from a backup does not know the numbers that were given
        // after it, and no issuer publishes once a second for long.
        let number = next.max(now.as_secs());
        let event = CrlNumberReserved { issuer: self.issuer.as_str().to_owned(), number };
        Ok(Decided { tenant, events: vec![event.into()] })
    }
}

impl Change for PublishCrl {
    type Outcome = ();

    fn outcome(&self, _: &View<'_>, _: bool) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Decide for PublishCrl {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        let tenant = issuer_row(view, &self.issuer)?.tenant;
        let row = crl_row(view, &self.issuer)?;
        if self.number <= row.published_number || self.number > row.reserved {
            return Err(StoreError::NotRising("a CRL number"));
        }
        // An older view than the last one would lose revocations. Times are not compared: a clock that was wrong once
        // must not keep later CRLs from being published.
        let last = view.crl(self.issuer.as_str())?;
        if last.is_some_and(|crl| self.sequence < crl.sequence) {
            return Err(StoreError::NotRising("a CRL's content"));
        }
        let event = CrlPublished {
            issuer: self.issuer.as_str().to_owned(),
            number: self.number,
            this_update: self.this_update.as_secs(),
            next_update: self.next_update.as_secs(),
            sha256: self.sha256.to_vec(),
            sequence: self.sequence,
        };
        Ok(Decided { tenant, events: vec![event.into()] })
    }
}
