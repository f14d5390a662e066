//! What each record does to the index. Live and in a rebuild it is this one function, so both give the same index.

use super::{
    Rows, key,
    row::{
        CertificateRow, CrlRow, DeviceRow, IssuerRow, KeyHolderRow, KeyRow, PrincipalRow, RequestRow,
        RevocationSequenceRow, RevokedRow, ServerRow, SuccessorRow, TokenIdentityRow, TokenRow,
    },
};
use crate::{
    error::StoreError,
    event::{self, Event, HOLDER_DEVICE, HOLDER_PRINCIPAL, IntentMade, KEY_COMPROMISE},
    view::{View, decode_row},
};
use prost::Message;

/// Where the record is and when it was made.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    pub offset: u64,
    pub sequence: u64,
    pub time: u64,
    pub tenant: &'a str,
}

struct Draft<'a> {
    view: &'a View<'a>,
    rows: Rows,
}

impl Draft<'_> {
    fn row<R: Message + Default>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        match self.rows.get(key) {
            Some(value) => value.as_deref().map(decode_row).transpose(),
            None => self.view.row(key),
        }
    }

    fn put(&mut self, key: Vec<u8>, row: &impl Message) {
        self.rows.insert(key, Some(row.encode_to_vec()));
    }

    fn put_raw(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.rows.insert(key, Some(value));
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.rows.insert(key, None);
    }

    fn certificate(&self, issuer: &str, serial: &[u8]) -> Result<CertificateRow, StoreError> {
        self.row(&key::certificate(issuer, serial))?.ok_or_else(|| missing("certificate"))
    }
}

fn missing(what: &str) -> StoreError {
    StoreError::Index(format!("a record names a {what} that no record made"))
}

/// The rows that one record changes.
pub fn project(view: &View<'_>, event: &Event, at: At<'_>) -> Result<Rows, StoreError> {
    let mut draft = Draft { view, rows: Rows::new() };
    let d = &mut draft;
    match event {
        Event::IssuerAdded(e) => {
            let row =
                IssuerRow { added: at.offset, responder: at.offset, state: e.state, tenant: at.tenant.to_owned() };
            d.put(key::issuer(&e.issuer), &row);
        }
        Event::OcspResponderSet(e) => {
            let key = key::issuer(&e.issuer);
            let row: IssuerRow = d.row(&key)?.ok_or_else(|| missing("issuer"))?;
            d.put(key, &IssuerRow { responder: at.offset, ..row });
        }
        Event::IssuerStateSet(e) => {
            let key = key::issuer(&e.issuer);
            let row: IssuerRow = d.row(&key)?.ok_or_else(|| missing("issuer"))?;
            d.put(key, &IssuerRow { state: e.state, ..row });
        }
        Event::ServerIdentitySet(_) => d.put(key::SERVER.to_vec(), &ServerRow { record: at.offset }),
        Event::IntentMade(e) => intent(d, e, at)?,
        Event::CertificateIssued(e) => issued(d, e, at)?,
        Event::IntentAborted(e) => aborted(d, e, at)?,
        Event::CertificateInstalled(e) => {
            let row = d.certificate(&e.issuer, &e.serial)?;
            d.put(key::certificate(&e.issuer, &e.serial), &CertificateRow { installed: at.offset, ..row });
        }
        Event::CertificateRevoked(e) => revoked(d, e, at)?,
        Event::PrincipalDisabled(e) => {
            let key = key::principal(at.tenant, &e.principal);
            let row: PrincipalRow = d.row(&key)?.ok_or_else(|| missing("principal"))?;
            d.put(key, &PrincipalRow { disabled: at.offset, disabled_at: at.time, ..row });
        }
        Event::TokenCreated(e) => {
            let row = TokenRow { created: at.offset, expires_at: e.expires_at, used_by: Vec::new() };
            d.put(key::token(&e.secret_sha256), &row);
            d.put_raw(key::token_name(at.tenant, &e.token_id), e.secret_sha256.clone());
        }
        Event::CrlNumberReserved(e) => {
            let key = key::crl(&e.issuer);
            let row: CrlRow = d.row(&key)?.unwrap_or_default();
            d.put(key, &CrlRow { reserved: e.number, ..row });
        }
        Event::CrlPublished(e) => {
            let key = key::crl(&e.issuer);
            let row: CrlRow = d.row(&key)?.unwrap_or_default();
            d.put(key, &CrlRow { published: at.offset, published_number: e.number, ..row });
        }
        Event::RequestAnswered(e) => {
            let key = key::request(at.tenant, &e.requester, &e.idempotency_key);
            let row = if e.continues {
                let mut row: RequestRow = d.row(&key)?.ok_or_else(|| missing("request"))?;
                row.further.push(at.offset);
                row
            } else {
                RequestRow { record: at.offset, request_sha256: e.request_sha256.clone(), further: Vec::new() }
            };
            d.put(key, &row);
        }
        Event::KeyMade(e) => token_key(d, &e.key_id, at, |row| row.made = at.offset)?,
        Event::KeyRetired(e) => token_key(d, &e.key_id, at, |row| row.retired = at.offset)?,
        Event::KeyPolicy(e) => token_key(d, &e.key_id, at, |row| row.policy = at.offset)?,
        Event::TokenIdentity(e) => {
            d.put(key::token_identity(&e.serial, &e.label), &TokenIdentityRow { record: at.offset });
        }
    }
    Ok(draft.rows)
}

fn token_key(d: &mut Draft<'_>, id: &[u8], at: At<'_>, note: impl FnOnce(&mut KeyRow)) -> Result<(), StoreError> {
    let key = key::token_key(id);
    let mut row: KeyRow = d.row(&key)?.unwrap_or(KeyRow { sequence: at.sequence, ..KeyRow::default() });
    note(&mut row);
    d.put(key, &row);
    Ok(())
}

fn intent(d: &mut Draft<'_>, e: &IntentMade, at: At<'_>) -> Result<(), StoreError> {
    let reference = key::reference(&e.issuer, &e.serial);
    let tenant = at.tenant;
    let row = CertificateRow {
        tenant: tenant.to_owned(),
        intent: at.offset,
        intent_sequence: at.sequence,
        not_after: e.not_after,
        holder_kind: e.holder_kind,
        holder_id: e.holder_id.clone(),
        profile: e.profile.clone(),
        ..CertificateRow::default()
    };
    d.put(key::certificate(&e.issuer, &e.serial), &row);
    d.put_raw(key::open(at.sequence), reference.clone());
    d.put_raw(key::listed(key::held_by(tenant, e.holder_kind, &e.holder_id), at.sequence), reference.clone());
    let request = RequestRow { record: at.offset, request_sha256: e.request_sha256.clone(), further: Vec::new() };
    d.put(key::request(tenant, &e.requester, &e.idempotency_key), &request);
    let spki = key::spki(tenant, &e.spki_sha256);
    let count = d.row::<KeyHolderRow>(&spki)?.map_or(0, |row| row.count).saturating_add(1);
    d.put(spki, &KeyHolderRow { holder_kind: e.holder_kind, holder_id: e.holder_id.clone(), count });
    if e.holder_kind == HOLDER_DEVICE {
        let key = key::device(tenant, &e.holder_id);
        let mut row: DeviceRow = d.row(&key)?.unwrap_or_default();
        let stated = !(e.manufacturer.is_empty() && e.model.is_empty() && e.serial_number.is_empty());
        if stated || row.identity == 0 {
            row.identity = at.offset;
        }
        if let Some(anchor) = &e.anchor_sha256 {
            row.anchor_sha256 = anchor.clone();
            d.put_raw(key::anchor(tenant, anchor), e.holder_id.clone().into_bytes());
        }
        d.put(key, &row);
    } else if e.new_principal {
        let row = PrincipalRow { created: at.offset, role: e.role, ..PrincipalRow::default() };
        d.put(key::principal(tenant, &e.holder_id), &row);
    }
    if let Some(token_id) = &e.token_id {
        let secret = d.view.get(&key::token_name(tenant, token_id))?.ok_or_else(|| missing("token"))?;
        let key = key::token(&secret);
        let row: TokenRow = d.row(&key)?.ok_or_else(|| missing("token"))?;
        d.put(key, &TokenRow { used_by: reference.clone(), ..row });
    }
    if let Some(replaced) = &e.replaces {
        let row = d.certificate(&replaced.issuer, &replaced.serial)?;
        let listed = key::listed(key::successors_of(&replaced.issuer, &replaced.serial), at.sequence);
        d.put(listed, &SuccessorRow { reference: reference.clone(), time: at.time });
        d.put(key::certificate(&replaced.issuer, &replaced.serial), &CertificateRow { successor: reference, ..row });
    }
    Ok(())
}

fn issued(d: &mut Draft<'_>, e: &event::CertificateIssued, at: At<'_>) -> Result<(), StoreError> {
    let reference = key::reference(&e.issuer, &e.serial);
    let mut row = d.certificate(&e.issuer, &e.serial)?;
    row.issued = at.offset;
    row.issued_sequence = at.sequence;
    d.remove(key::open(row.intent_sequence));
    d.put_raw(key::listed(key::of_tenant(&row.tenant), at.sequence), reference.clone());
    if row.holder_kind == HOLDER_DEVICE {
        let key = key::device(&row.tenant, &row.holder_id);
        let mut device: DeviceRow = d.row(&key)?.ok_or_else(|| missing("device"))?;
        if device.count == 0 {
            device.first_sequence = at.sequence;
            device.first_time = at.time;
            let id = row.holder_id.clone().into_bytes();
            d.put_raw(key::listed(key::devices(&row.tenant), at.sequence), id);
        }
        device.count = device.count.saturating_add(1);
        device.current = reference;
        d.put(key, &device);
    } else {
        let key = key::principal(&row.tenant, &row.holder_id);
        let mut principal: PrincipalRow = d.row(&key)?.ok_or_else(|| missing("principal"))?;
        if principal.first_sequence == 0 {
            principal.first_sequence = at.sequence;
            let id = row.holder_id.clone().into_bytes();
            d.put_raw(key::listed(key::principals_in_order(&row.tenant), at.sequence), id);
            d.put(key, &principal);
        }
    }
    d.put(key::certificate(&e.issuer, &e.serial), &row);
    Ok(())
}

fn aborted(d: &mut Draft<'_>, e: &event::IntentAborted, at: At<'_>) -> Result<(), StoreError> {
    let mut row = d.certificate(&e.issuer, &e.serial)?;
    row.aborted = at.offset;
    d.remove(key::open(row.intent_sequence));
    if row.holder_kind == HOLDER_PRINCIPAL {
        // A principal that never got a credential leaves its name free.
        let key = key::principal(&row.tenant, &row.holder_id);
        let principal: Option<PrincipalRow> = d.row(&key)?;
        if principal.is_some_and(|p| p.created == row.intent && p.first_sequence == 0) {
            d.remove(key);
        }
    }
    let (_, _, intent) = d.view.intent(row.intent)?;
    let spki = key::spki(&row.tenant, &intent.spki_sha256);
    if let Some(holder) = d.row::<KeyHolderRow>(&spki)? {
        // Nobody has the key; whoever has it may come again under another name.
        match holder.count.saturating_sub(1) {
            0 => d.remove(spki),
            count => d.put(spki, &KeyHolderRow { count, ..holder }),
        }
    }
    if let Some(replaced) = intent.replaces {
        d.remove(key::listed(key::successors_of(&replaced.issuer, &replaced.serial), row.intent_sequence));
        let predecessor = d.certificate(&replaced.issuer, &replaced.serial)?;
        if predecessor.successor == key::reference(&e.issuer, &e.serial) {
            let row = CertificateRow { successor: Vec::new(), ..predecessor };
            d.put(key::certificate(&replaced.issuer, &replaced.serial), &row);
        }
    }
    d.put(key::certificate(&e.issuer, &e.serial), &row);
    Ok(())
}

fn revoked(d: &mut Draft<'_>, e: &event::CertificateRevoked, at: At<'_>) -> Result<(), StoreError> {
    let mut row = d.certificate(&e.issuer, &e.serial)?;
    let key = key::revoked(&e.issuer, &e.serial);
    let entry = match d.row::<RevokedRow>(&key)? {
        Some(first) => {
            row.raised = at.offset;
            RevokedRow { reason: e.reason, invalidity_date: e.invalidity_date.or(first.invalidity_date), ..first }
        }
        None => {
            row.revoked = at.offset;
            d.remove(key::open(row.intent_sequence));
            RevokedRow {
                at: at.time,
                reason: e.reason,
                invalidity_date: e.invalidity_date,
                not_after: row.not_after,
                unsigned: row.issued == 0,
            }
        }
    };
    if e.reason == KEY_COMPROMISE {
        let (_, _, intent) = d.view.intent(row.intent)?;
        d.put_raw(key::compromised(&row.tenant, &intent.spki_sha256), key::reference(&e.issuer, &e.serial));
    }
    if !entry.unsigned {
        d.put(key::revocation_sequence(&e.issuer), &RevocationSequenceRow { sequence: at.sequence });
    }
    d.put(key, &entry);
    d.put(key::certificate(&e.issuer, &e.serial), &row);
    Ok(())
}
