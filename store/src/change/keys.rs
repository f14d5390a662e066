//! The token and the keys in it.

use super::{Change, Decided, MAX_REQUESTER, limit, sealed::Decide};
use crate::{
    entry::{Acceptance, KeyEntry, TokenIdentityEntry, TokenKeyId},
    error::StoreError,
    event::{EXCEPTION_WRAPPED_BACKUP, KeyMade, KeyPolicy, KeyRetired, TokenIdentity},
    index::{key, row::TokenIdentityRow},
    view::View,
};
use ca_core::{id::TenantId, time::UnixTime};
use std::collections::BTreeMap;

/// The longest label, in octets: that of the PKCS#11 side.
const MAX_LABEL: usize = 64;
/// The longest purpose or reason, in octets: some sentences.
const MAX_REASON: usize = 1000;
/// The longest public key, in octets: ML-DSA-87 has 2592 and its frame.
const MAX_SPKI: usize = 4096;
/// The most attributes that are recorded; PKCS#11 defines about thirty for a private key.
const MAX_ATTRIBUTES: usize = 64;

/// Records a key that was made in the token. `AlreadyExists` when the journal has its making already.
#[derive(Clone, Debug)]
pub struct RecordKey {
    /// Whose it is; `None` when it is the installation's.
    pub tenant: Option<TenantId>,
    /// `CKA_ID`.
    pub id: TokenKeyId,
    /// `CKA_LABEL`.
    pub label: String,
    /// For example `P-256`.
    pub algorithm: String,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// What it is for.
    pub purpose: String,
    /// Who made it.
    pub by: String,
    /// The token's attributes, as read back: name to value.
    pub attributes: BTreeMap<String, bool>,
    /// The token's serial number.
    pub token_serial: String,
    /// The token's label.
    pub token_label: String,
}

/// Retires a key for good. Recorded before it is destroyed; one that was only retired may still be destroyed.
#[derive(Clone, Debug)]
pub struct RetireKey {
    /// `CKA_ID`.
    pub id: TokenKeyId,
    /// Why.
    pub why: String,
    /// Who.
    pub by: String,
    /// Whether it will be destroyed in the token.
    pub destroyed: bool,
}

/// Allows a key, which must not be there yet, to leave the token wrapped under a trusted key.
#[derive(Clone, Debug)]
pub struct AllowWrappedBackup {
    /// `CKA_ID` of the key that will be made.
    pub id: TokenKeyId,
    /// `CKA_ID` of the trusted wrapping key.
    pub wrapping_key: TokenKeyId,
    /// Why.
    pub reason: String,
    /// Who decided it.
    pub by: String,
}

/// Records the key by which a token is recognised. Where the token has another one already, somebody must have
/// accepted the new one: `AlreadyExists`.
#[derive(Clone, Debug)]
pub struct SetTokenIdentity {
    /// The token's serial number.
    pub serial: String,
    /// The token's label.
    pub label: String,
    /// Its manufacturer.
    pub manufacturer: String,
    /// `CKA_ID` of its identity key.
    pub key_id: TokenKeyId,
    /// That key's SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// Who accepted it in the place of another, and why.
    pub accepted: Option<Acceptance>,
}

fn entry(view: &View<'_>, id: &TokenKeyId) -> Result<KeyEntry, StoreError> {
    view.key(id)?.ok_or(StoreError::NotFound("key"))
}

/// A name or reason that must be there.
fn given(field: &'static str, text: &str, most: usize) -> Result<(), StoreError> {
    if text.trim().is_empty() {
        return Err(StoreError::Missing(field));
    }
    limit(field, text.len(), most)
}

impl Change for RecordKey {
    type Outcome = KeyEntry;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<KeyEntry, StoreError> {
        entry(view, &self.id)
    }
}

impl Decide for RecordKey {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        if view.key(&self.id)?.is_some_and(|known| known.made.is_some() || known.retired.is_some()) {
            return Err(StoreError::AlreadyExists("key"));
        }
        given("label", &self.label, MAX_LABEL)?;
        given("purpose", &self.purpose, MAX_REASON)?;
        given("by", &self.by, MAX_REQUESTER)?;
        limit("spki", self.spki.len(), MAX_SPKI)?;
        limit("attributes", self.attributes.len(), MAX_ATTRIBUTES)?;
        let attributes: usize = self.attributes.keys().map(String::len).sum();
        let texts = [&self.algorithm, &self.token_serial, &self.token_label];
        limit("attributes", attributes + texts.iter().map(|text| text.len()).sum::<usize>(), MAX_SPKI)?;
        let event = KeyMade {
            key_id: self.id.to_vec(),
            label: self.label.clone(),
            algorithm: self.algorithm.clone(),
            spki: self.spki.clone(),
            purpose: self.purpose.clone(),
            by: self.by.clone(),
            attributes: self.attributes.clone(),
            token_serial: self.token_serial.clone(),
            token_label: self.token_label.clone(),
        };
        let tenant = self.tenant.as_ref().map(|tenant| tenant.as_str().to_owned()).unwrap_or_default();
        Ok(Decided { tenant, events: vec![event.into()] })
    }
}

impl Change for RetireKey {
    type Outcome = KeyEntry;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<KeyEntry, StoreError> {
        entry(view, &self.id)
    }
}

impl Decide for RetireKey {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        given("why", &self.why, MAX_REASON)?;
        given("by", &self.by, MAX_REQUESTER)?;
        if view.key_in_use(&self.id)? {
            return Err(StoreError::KeyServes);
        }
        let known = view.key(&self.id)?;
        let retired = known.as_ref().and_then(|known| known.retired.as_ref());
        // What is repeated after a crash changes nothing.
        if retired.is_some_and(|retired| retired.destroyed || !self.destroyed) {
            return Ok(Decided::default());
        }
        let tenant = known.and_then(|known| known.made).and_then(|made| made.tenant);
        let event = KeyRetired {
            key_id: self.id.to_vec(),
            why: self.why.clone(),
            by: self.by.clone(),
            destroyed: self.destroyed,
        };
        let tenant = tenant.map(|tenant| tenant.as_str().to_owned()).unwrap_or_default();
        Ok(Decided { tenant, events: vec![event.into()] })
    }
}

impl Change for AllowWrappedBackup {
    type Outcome = KeyEntry;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<KeyEntry, StoreError> {
        entry(view, &self.id)
    }
}

impl Decide for AllowWrappedBackup {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        // An exception is decided before there is a key that it could whitewash.
        if view.key(&self.id)?.is_some() || view.key_in_use(&self.id)? {
            return Err(StoreError::AlreadyExists("key"));
        }
        given("reason", &self.reason, MAX_REASON)?;
        given("by", &self.by, MAX_REQUESTER)?;
        let event = KeyPolicy {
            key_id: self.id.to_vec(),
            exception: EXCEPTION_WRAPPED_BACKUP,
            wrapping_key_id: self.wrapping_key.to_vec(),
            reason: self.reason.clone(),
            by: self.by.clone(),
        };
        Ok(Decided { tenant: String::new(), events: vec![event.into()] })
    }
}

impl Change for SetTokenIdentity {
    type Outcome = TokenIdentityEntry;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<TokenIdentityEntry, StoreError> {
        view.token_identity(&self.serial, &self.label)?.ok_or(StoreError::NotFound("token identity"))
    }
}

impl Decide for SetTokenIdentity {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        for (field, text) in [("serial", &self.serial), ("label", &self.label), ("manufacturer", &self.manufacturer)] {
            limit(field, text.len(), MAX_LABEL)?;
        }
        limit("spki", self.spki.len(), MAX_SPKI)?;
        let known: Option<TokenIdentityRow> = view.row(&key::token_identity(&self.serial, &self.label))?;
        if known.is_some() {
            let same = view.token_identity(&self.serial, &self.label)?;
            if same.is_some_and(|known| known.spki == self.spki && known.key_id == self.key_id) {
                return Ok(Decided::default());
            }
            let accepted = self.accepted.as_ref().ok_or(StoreError::AlreadyExists("token identity"))?;
            given("accepted_by", &accepted.by, MAX_REQUESTER)?;
            given("why", &accepted.why, MAX_REASON)?;
        }
        // Nobody accepts the first one: there is nothing that it replaces.
        let accepted = self.accepted.as_ref().filter(|_| known.is_some());
        let event = TokenIdentity {
            serial: self.serial.clone(),
            label: self.label.clone(),
            manufacturer: self.manufacturer.clone(),
            key_id: self.key_id.to_vec(),
            spki: self.spki.clone(),
            accepted_by: accepted.map(|accepted| accepted.by.clone()).unwrap_or_default(),
            why: accepted.map(|accepted| accepted.why.clone()).unwrap_or_default(),
        };
        Ok(Decided { tenant: String::new(), events: vec![event.into()] })
    }
}
