//! The token and the keys in it.

use super::{Field, time};
use crate::{
    entry::{
        Acceptance, IssuerState, KeyEntry, KeyException, KeyMaking, KeyRetirement, TokenIdentityEntry, TokenKeyId,
    },
    error::StoreError,
    event::{EXCEPTION_WRAPPED_BACKUP, Event},
    index::{
        key,
        row::{KeyRow, TokenIdentityRow},
    },
    view::View,
};

impl View<'_> {
    /// What the journal says about a key.
    pub(crate) fn key(&self, id: &TokenKeyId) -> Result<Option<KeyEntry>, StoreError> {
        let Some(row) = self.row::<KeyRow>(&key::token_key(id))? else { return Ok(None) };
        Ok(Some(KeyEntry {
            id: *id,
            sequence: row.sequence,
            made: if row.made == 0 { None } else { Some(self.making(row.made)?) },
            exception: if row.policy == 0 { None } else { Some(self.exception(row.policy)?) },
            retired: if row.retired == 0 { None } else { Some(self.retirement(row.retired)?) },
        }))
    }

    fn making(&self, offset: u64) -> Result<KeyMaking, StoreError> {
        let f = Field(self, offset);
        let (located, Event::KeyMade(e)) = self.event(offset)? else { return Err(f.wrong()) };
        let tenant = located.record.tenant.as_str();
        Ok(KeyMaking {
            tenant: if tenant.is_empty() { None } else { Some(f.id(tenant)?) },
            label: e.label,
            algorithm: e.algorithm,
            spki: e.spki,
            purpose: e.purpose,
            by: e.by,
            attributes: e.attributes,
            token_serial: e.token_serial,
            token_label: e.token_label,
            at: time(located.record.time),
        })
    }

    fn exception(&self, offset: u64) -> Result<KeyException, StoreError> {
        let f = Field(self, offset);
        let (located, Event::KeyPolicy(e)) = self.event(offset)? else { return Err(f.wrong()) };
        // An exception that this program does not know is none that it may grant.
        if e.exception != EXCEPTION_WRAPPED_BACKUP {
            return Err(f.wrong());
        }
        Ok(KeyException {
            wrapping_key_id: e.wrapping_key_id.try_into().map_err(|_| f.wrong())?,
            reason: e.reason,
            by: e.by,
            at: time(located.record.time),
        })
    }

    fn retirement(&self, offset: u64) -> Result<KeyRetirement, StoreError> {
        let (located, Event::KeyRetired(e)) = self.event(offset)? else { return Err(Field(self, offset).wrong()) };
        Ok(KeyRetirement { why: e.why, by: e.by, destroyed: e.destroyed, at: time(located.record.time) })
    }

    /// All keys that the journal has records of, oldest first.
    pub(crate) fn keys(&self) -> Result<Vec<KeyEntry>, StoreError> {
        let mut found = Vec::new();
        for (key, _) in self.all(key::TOKEN_KEYS)? {
            // The letter and the length come before the id.
            let id = key.get(2..).and_then(|id| TokenKeyId::try_from(id).ok());
            let id = id.ok_or_else(|| StoreError::Index("a key's id is damaged".to_owned()))?;
            found.extend(self.key(&id)?);
        }
        found.sort_by_key(|entry| entry.sequence);
        Ok(found)
    }

    /// Whether an issuer that is not retired, its responder, the server or a token's identity needs the key.
    pub(crate) fn key_in_use(&self, id: &TokenKeyId) -> Result<bool, StoreError> {
        let serves = |issuer: &crate::IssuerEntry| {
            issuer.state != IssuerState::Retired && [&issuer.key_id, &issuer.ocsp_key_id].iter().any(|key| **key == id)
        };
        Ok(self.issuers()?.iter().any(serves)
            || self.server_identity()?.is_some_and(|server| server.key_id == id)
            || self.token_identities()?.iter().any(|identity| identity.key_id == *id))
    }

    /// The identity of a token.
    pub(crate) fn token_identity(&self, serial: &str, label: &str) -> Result<Option<TokenIdentityEntry>, StoreError> {
        match self.row::<TokenIdentityRow>(&key::token_identity(serial, label))? {
            Some(row) => self.identity(row.record).map(Some),
            None => Ok(None),
        }
    }

    /// The live identity of each token, oldest first.
    pub(crate) fn token_identities(&self) -> Result<Vec<TokenIdentityEntry>, StoreError> {
        let mut found = Vec::new();
        for (_, value) in self.all(key::TOKEN_IDENTITIES)? {
            let row: TokenIdentityRow = crate::view::decode_row(&value)?;
            found.push(self.identity(row.record)?);
        }
        found.sort_by_key(|identity| identity.sequence);
        Ok(found)
    }

    fn identity(&self, offset: u64) -> Result<TokenIdentityEntry, StoreError> {
        let f = Field(self, offset);
        let (located, Event::TokenIdentity(e)) = self.event(offset)? else { return Err(f.wrong()) };
        Ok(TokenIdentityEntry {
            serial: e.serial,
            label: e.label,
            manufacturer: e.manufacturer,
            key_id: e.key_id.try_into().map_err(|_| f.wrong())?,
            spki: e.spki,
            accepted: (!e.accepted_by.is_empty()).then_some(Acceptance { by: e.accepted_by, why: e.why }),
            at: time(located.record.time),
            sequence: located.record.sequence,
        })
    }
}
