//! What can be asked of the store. Readers see durable facts only. Where there is no tenant argument, the caller
//! compares the tenant.

use crate::{
    entry::{
        CertificateEntry, CertificateFilter, CrlEntry, DeviceEntry, DeviceFilter, IssuerEntry, KeyEntry, Page,
        PrincipalEntry, RecordedRequest, RevokedEntry, ServerIdentityEntry, TokenEntry, TokenIdentityEntry, TokenKeyId,
    },
    error::StoreError,
    event::{HOLDER_DEVICE, HOLDER_PRINCIPAL},
    index::{
        key,
        row::{RevocationSequenceRow, RevokedRow},
    },
    read::time,
    store::Store,
    view::{decode_row, parse_reference},
};
use ca_core::{
    id::{DeviceId, IdempotencyKey, IssuerId, PrincipalId, TenantId},
    serial::SerialNumber,
};
use prost::Message;

/// How many entries a listing takes from the index at a time.
const PIECE: usize = 256;

impl Store {
    /// A certificate, or the intent of one.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] and [`StoreError::Index`] where the store is damaged; so for all that follow.
    pub fn certificate(
        &self,
        issuer: &IssuerId,
        serial: &SerialNumber,
    ) -> Result<Option<CertificateEntry>, StoreError> {
        self.view().certificate(issuer.as_str(), serial.as_be_bytes())
    }

    /// What a requester's idempotency key stands for.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn request(
        &self,
        tenant: &TenantId,
        requester: &str,
        key: &IdempotencyKey,
    ) -> Result<Option<RecordedRequest>, StoreError> {
        self.view().request(tenant.as_str(), requester, key.as_str())
    }

    /// The certificates of a tenant in the order of their issuance; those of one device or principal in the order of
    /// their intents. Open and given up intents are not among them. `after` is [`Page::next`] of the page before. At
    /// most `limit` are returned and `scan_limit` looked at.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn certificates(
        &self,
        tenant: &TenantId,
        filter: &CertificateFilter,
        after: Option<u64>,
        limit: usize,
        scan_limit: usize,
    ) -> Result<Page<CertificateEntry>, StoreError> {
        let prefix = match (&filter.device, &filter.principal) {
            // Nobody is both.
            (Some(_), Some(_)) => return Ok(Page { items: Vec::new(), next: None }),
            (Some(device), None) => key::held_by(tenant.as_str(), HOLDER_DEVICE, device.as_str()),
            (None, Some(principal)) => key::held_by(tenant.as_str(), HOLDER_PRINCIPAL, principal.as_str()),
            (None, None) => key::of_tenant(tenant.as_str()),
        };
        let view = self.view();
        self.page(prefix, after, limit, scan_limit, |value| {
            let reference = parse_reference(value)?;
            if filter.issuer.as_ref().is_some_and(|issuer| issuer.as_str() != reference.issuer) {
                return Ok(None);
            }
            let Some(row) = view.certificate_row(&reference.issuer, &reference.serial)? else { return Ok(None) };
            if row.issued == 0 {
                return Ok(None);
            }
            let entry = view.entry(row)?;
            let matches = filter.profile.as_ref().is_none_or(|profile| *profile == entry.profile)
                && filter.state.is_none_or(|state| state == entry.state());
            Ok(matches.then_some(entry))
        })
    }

    /// A device that was issued a certificate.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn device(&self, tenant: &TenantId, device: &DeviceId) -> Result<Option<DeviceEntry>, StoreError> {
        self.view().device(tenant, device.as_str())
    }

    /// The devices of a tenant in the order of their first certificates; see [`Store::certificates`].
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn devices(
        &self,
        tenant: &TenantId,
        filter: &DeviceFilter,
        after: Option<u64>,
        limit: usize,
        scan_limit: usize,
    ) -> Result<Page<DeviceEntry>, StoreError> {
        let view = self.view();
        self.page(key::devices(tenant.as_str()), after, limit, scan_limit, |value| {
            let id = text(value)?;
            if filter.prefix.as_ref().is_some_and(|prefix| !id.starts_with(prefix.as_str())) {
                return Ok(None);
            }
            let device = view.device(tenant, id)?;
            Ok(device.filter(|device| filter.model.as_ref().is_none_or(|model| *model == device.model)))
        })
    }

    /// A principal. One that is not enrolled has no certificate yet.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn principal(&self, tenant: &TenantId, principal: &PrincipalId) -> Result<Option<PrincipalEntry>, StoreError> {
        self.view().principal(tenant, principal.as_str())
    }

    /// The principals of a tenant in the order of their first certificates.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn principals(
        &self,
        tenant: &TenantId,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page<PrincipalEntry>, StoreError> {
        let view = self.view();
        let prefix = key::principals_in_order(tenant.as_str());
        self.page(prefix, after, limit, usize::MAX, |value| view.principal(tenant, text(value)?))
    }

    /// A token by the SHA-256 of its secret; used and expired ones too.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn token_by_secret(&self, secret_sha256: &[u8; 32]) -> Result<Option<TokenEntry>, StoreError> {
        self.view().token(secret_sha256)
    }

    /// All issuers of all tenants, oldest first.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn issuers(&self) -> Result<Vec<IssuerEntry>, StoreError> {
        self.view().issuers()
    }

    /// The server's own certificate.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn server_identity(&self) -> Result<Option<ServerIdentityEntry>, StoreError> {
        self.view().server_identity()
    }

    /// What the journal says about a key in the token; `None` for one that only an issuer or the server names.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn key(&self, id: &TokenKeyId) -> Result<Option<KeyEntry>, StoreError> {
        self.view().key(id)
    }

    /// All keys in the token that the journal has records of, oldest first.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn keys(&self) -> Result<Vec<KeyEntry>, StoreError> {
        self.view().keys()
    }

    /// The live identity of each token, oldest first.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn token_identities(&self) -> Result<Vec<TokenIdentityEntry>, StoreError> {
        self.view().token_identities()
    }

    /// The intents that are neither issued, given up nor revoked, oldest first.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn open_intents(&self) -> Result<Vec<CertificateEntry>, StoreError> {
        let view = self.view();
        let mut found = Vec::new();
        for reference in view.references(key::OPEN)? {
            found.extend(view.certificate(&reference.issuer, &reference.serial)?);
        }
        Ok(found)
    }

    /// Shows every revoked certificate of an issuer, in the order of serial numbers of equal length. A revoked intent
    /// is none: it was never signed, and never will be. Gives the sequence of the newest record that is surely in it;
    /// it may hold a few newer ones.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn revoked(&self, issuer: &IssuerId, visit: &mut dyn FnMut(RevokedEntry)) -> Result<u64, StoreError> {
        let index = self.view().index;
        let sequence = match index.get(key::APPLIED)? {
            Some(bytes) => {
                crate::index::row::Applied::decode(bytes.as_slice())
                    .map_err(|e| StoreError::Index(e.to_string()))?
                    .sequence
            }
            None => return Err(StoreError::Index("it does not say how far it is".to_owned())),
        };
        let prefix = key::revoked_of(issuer.as_str());
        index.each(&prefix, &mut |key, value| {
            let row: RevokedRow = decode_row(value)?;
            if row.unsigned {
                return Ok(());
            }
            // The serial number's length comes before it.
            let serial = key.get(prefix.len() + 1..).unwrap_or_default();
            let damaged = |_| StoreError::Index("a revoked certificate's key is damaged".to_owned());
            visit(RevokedEntry {
                serial: SerialNumber::from_be_bytes(serial).map_err(damaged)?,
                at: time(row.at),
                reason: u8::try_from(row.reason).unwrap_or(0),
                invalidity_date: row.invalidity_date.map(time),
                not_after: time(row.not_after),
            });
            Ok(())
        })?;
        Ok(sequence)
    }

    /// Sequence of the newest record that revoked a certificate of the issuer, or raised the reason; 0 when there is
    /// none. A CRL whose [`crate::CrlEntry::sequence`] is lower lacks something.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn revoked_sequence(&self, issuer: &IssuerId) -> Result<u64, StoreError> {
        let row: Option<RevocationSequenceRow> = self.view().row(&key::revocation_sequence(issuer.as_str()))?;
        Ok(row.map_or(0, |row| row.sequence))
    }

    /// The newest published CRL of an issuer.
    ///
    /// # Errors
    /// As [`Store::certificate`].
    pub fn crl(&self, issuer: &IssuerId) -> Result<Option<CrlEntry>, StoreError> {
        self.view().crl(issuer.as_str())
    }

    fn page<T>(
        &self,
        prefix: Vec<u8>,
        after: Option<u64>,
        limit: usize,
        scan_limit: usize,
        mut take: impl FnMut(&[u8]) -> Result<Option<T>, StoreError>,
    ) -> Result<Page<T>, StoreError> {
        let index = self.view().index;
        let mut from = after.map(|sequence| key::listed(prefix.clone(), sequence));
        let mut page = Page { items: Vec::new(), next: None };
        let mut seen = 0;
        loop {
            let piece = index.scan(&prefix, from.as_deref(), PIECE)?;
            if piece.is_empty() {
                page.next = None;
                return Ok(page);
            }
            for (key, value) in piece {
                if page.items.len() >= limit || seen >= scan_limit {
                    // There is at least this one more.
                    return Ok(page);
                }
                seen += 1;
                page.items.extend(take(&value)?);
                page.next = key::sequence_of(&key);
                from = Some(key);
            }
        }
    }
}

fn text(value: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(value).map_err(|_| StoreError::Index("a name is damaged".to_owned()))
}
