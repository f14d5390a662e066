//! From rows and records to entries.

mod keys;

use crate::{
    entry::{
        AttestationRecord, CertificateEntry, CertificateRef, CrlEntry, DeviceEntry, Holder, IssuerEntry, IssuerState,
        IssuerUrls, PrincipalEntry, RecordedRequest, RequestOutcome, RevocationEntry, ServerIdentityEntry, TokenDevice,
        TokenEntry,
    },
    error::StoreError,
    event::{self, Event, HOLDER_DEVICE, IntentMade, Reference},
    index::{
        key,
        row::{
            CertificateRow, CrlRow, DeviceRow, IssuerRow, PrincipalRow, RequestRow, RevokedRow, ServerRow,
            SuccessorRow, TokenRow,
        },
    },
    view::{View, decode_row, parse_reference},
};
use ca_core::{
    id::{DeviceId, IdempotencyKey, IssuerId, PrincipalId, ProfileName, TenantId},
    key::SignatureAlgorithm,
    serial::SerialNumber,
    time::UnixTime,
};

const ALGORITHMS: [(u32, SignatureAlgorithm); 13] = [
    (1, SignatureAlgorithm::EcdsaSha256),
    (2, SignatureAlgorithm::EcdsaSha384),
    (3, SignatureAlgorithm::EcdsaSha512),
    (4, SignatureAlgorithm::RsaPkcs1Sha256),
    (5, SignatureAlgorithm::RsaPkcs1Sha384),
    (6, SignatureAlgorithm::RsaPkcs1Sha512),
    (7, SignatureAlgorithm::Ed25519),
    (8, SignatureAlgorithm::RsaPssSha256),
    (9, SignatureAlgorithm::RsaPssSha384),
    (10, SignatureAlgorithm::RsaPssSha512),
    (11, SignatureAlgorithm::MlDsa44),
    (12, SignatureAlgorithm::MlDsa65),
    (13, SignatureAlgorithm::MlDsa87),
];

/// The journal's number of an algorithm.
pub fn algorithm_number(algorithm: SignatureAlgorithm) -> u32 {
    ALGORITHMS.iter().find(|(_, a)| *a == algorithm).map_or(0, |(number, _)| *number)
}

const STATES: [(u32, IssuerState); 4] =
    [(1, IssuerState::Staged), (2, IssuerState::Active), (3, IssuerState::Draining), (4, IssuerState::Retired)];

/// The journal's number of an issuer's state; it rises with the issuer's life.
pub fn state_number(state: IssuerState) -> u32 {
    STATES.iter().find(|(_, s)| *s == state).map_or(0, |(number, _)| *number)
}

/// A field of a record whose hash was right, but whose content this program does not take: the record of another
/// program, or a damaged index that leads to the wrong record.
struct Field<'a>(&'a View<'a>, u64);

impl Field<'_> {
    fn wrong(&self) -> StoreError {
        StoreError::Corrupt(self.0.files.place(self.1, 0))
    }

    fn algorithm(&self, number: u32) -> Result<SignatureAlgorithm, StoreError> {
        ALGORITHMS.iter().find(|(n, _)| *n == number).map(|(_, a)| *a).ok_or_else(|| self.wrong())
    }

    fn id<T>(&self, text: &str) -> Result<T, StoreError>
    where
        T: TryFrom<String>,
    {
        T::try_from(text.to_owned()).map_err(|_| self.wrong())
    }

    fn hash(&self, bytes: &[u8]) -> Result<[u8; 32], StoreError> {
        bytes.try_into().map_err(|_| self.wrong())
    }

    fn serial(&self, bytes: &[u8]) -> Result<SerialNumber, StoreError> {
        SerialNumber::from_be_bytes(bytes).map_err(|_| self.wrong())
    }

    fn reference(&self, reference: &Reference) -> Result<CertificateRef, StoreError> {
        Ok((self.id(&reference.issuer)?, self.serial(&reference.serial)?))
    }
}

/// A time of the journal.
pub fn time(secs: u64) -> UnixTime {
    UnixTime::from_secs(secs)
}

impl View<'_> {
    /// The row of a certificate.
    pub(crate) fn certificate_row(&self, issuer: &str, serial: &[u8]) -> Result<Option<CertificateRow>, StoreError> {
        self.row(&key::certificate(issuer, serial))
    }

    /// A certificate.
    pub(crate) fn certificate(&self, issuer: &str, serial: &[u8]) -> Result<Option<CertificateEntry>, StoreError> {
        match self.certificate_row(issuer, serial)? {
            Some(row) => self.entry(row).map(Some),
            None => Ok(None),
        }
    }

    /// What the intent at this offset says.
    pub(crate) fn intent(&self, offset: u64) -> Result<(u64, u64, IntentMade), StoreError> {
        match self.event(offset)? {
            (located, Event::IntentMade(intent)) => Ok((located.record.sequence, located.record.time, intent)),
            _ => Err(Field(self, offset).wrong()),
        }
    }

    /// The certificate of a row.
    pub(crate) fn entry(&self, row: CertificateRow) -> Result<CertificateEntry, StoreError> {
        let (sequence, intended_at, intent) = self.intent(row.intent)?;
        let f = Field(self, row.intent);
        let mut entry = CertificateEntry {
            tenant: f.id::<TenantId>(&row.tenant)?,
            issuer: f.id::<IssuerId>(&intent.issuer)?,
            serial: f.serial(&intent.serial)?,
            sequence,
            intended_at: time(intended_at),
            algorithm: f.algorithm(intent.algorithm)?,
            profile: f.id::<ProfileName>(&intent.profile)?,
            profile_sha256: f.hash(&intent.profile_sha256)?,
            holder: if intent.holder_kind == HOLDER_DEVICE {
                Holder::Device {
                    id: f.id::<DeviceId>(&intent.holder_id)?,
                    manufacturer: intent.manufacturer,
                    model: intent.model,
                    serial_number: intent.serial_number,
                }
            } else {
                Holder::Principal { id: f.id::<PrincipalId>(&intent.holder_id)?, role: intent.role }
            },
            requester: intent.requester,
            idempotency_key: f.id::<IdempotencyKey>(&intent.idempotency_key)?,
            request_sha256: f.hash(&intent.request_sha256)?,
            spki_sha256: f.hash(&intent.spki_sha256)?,
            token_id: intent.token_id,
            anchor_sha256: intent.anchor_sha256.map(|a| f.hash(&a)).transpose()?,
            attestation: match intent.attestation {
                Some(a) => Some(AttestationRecord {
                    evidence_sha256: f.hash(&a.evidence_sha256)?,
                    format: a.format,
                    claims: a.claims,
                    trust_anchor: a.trust_anchor,
                }),
                None => None,
            },
            replaces: intent.replaces.map(|r| f.reference(&r)).transpose()?,
            not_before: time(intent.not_before),
            not_after: time(intent.not_after),
            tbs: intent.tbs,
            signature: None,
            issued_at: None,
            installed_at: None,
            aborted: None,
            revocation: None,
            replaced_by: None,
        };
        self.add_later_facts(&mut entry, &row)?;
        Ok(entry)
    }

    fn add_later_facts(&self, entry: &mut CertificateEntry, row: &CertificateRow) -> Result<(), StoreError> {
        if row.issued != 0 {
            let (located, Event::CertificateIssued(issued)) = self.event(row.issued)? else {
                return Err(Field(self, row.issued).wrong());
            };
            entry.sequence = located.record.sequence;
            entry.issued_at = Some(time(located.record.time));
            entry.signature = Some(issued.signature);
        }
        if row.installed != 0 {
            entry.installed_at = Some(time(self.record(row.installed)?.record.time));
        }
        if row.aborted != 0 {
            let (_, Event::IntentAborted(aborted)) = self.event(row.aborted)? else {
                return Err(Field(self, row.aborted).wrong());
            };
            entry.aborted = Some(aborted.reason);
        }
        if row.revoked != 0 {
            let f = Field(self, row.revoked);
            let (located, Event::CertificateRevoked(revoked)) = self.event(row.revoked)? else {
                return Err(f.wrong());
            };
            let reason = |n: u32| u8::try_from(n).map_err(|_| f.wrong());
            let mut revocation = RevocationEntry {
                at: time(located.record.time),
                reason: reason(revoked.reason)?,
                invalidity_date: revoked.invalidity_date.map(time),
                by: revoked.by,
                comment: revoked.comment,
            };
            if row.raised != 0 {
                let (_, Event::CertificateRevoked(raised)) = self.event(row.raised)? else {
                    return Err(f.wrong());
                };
                revocation.reason = reason(raised.reason)?;
                revocation.invalidity_date = raised.invalidity_date.map(time).or(revocation.invalidity_date);
            }
            entry.revocation = Some(revocation);
        }
        if !row.successor.is_empty() {
            entry.replaced_by = Some(Field(self, row.intent).reference(&parse_reference(&row.successor)?)?);
        }
        Ok(())
    }

    /// What a requester's idempotency key stands for.
    pub(crate) fn request(
        &self,
        tenant: &str,
        requester: &str,
        idempotency_key: &str,
    ) -> Result<Option<RecordedRequest>, StoreError> {
        let Some(row) = self.row::<RequestRow>(&key::request(tenant, requester, idempotency_key))? else {
            return Ok(None);
        };
        let f = Field(self, row.record);
        let outcome = match self.event(row.record)?.1 {
            Event::IntentMade(e) => RequestOutcome::Issuance(f.id(&e.issuer)?, f.serial(&e.serial)?),
            Event::RequestAnswered(e) => {
                let mut certificates: Vec<CertificateRef> =
                    e.certificates.iter().map(|r| f.reference(r)).collect::<Result<_, _>>()?;
                for offset in row.further {
                    let f = Field(self, offset);
                    let Event::RequestAnswered(more) = self.event(offset)?.1 else { return Err(f.wrong()) };
                    for reference in &more.certificates {
                        certificates.push(f.reference(reference)?);
                    }
                }
                match e.kind {
                    event::ANSWERED_REVOCATION => RequestOutcome::Revocation(certificates),
                    event::ANSWERED_PRINCIPAL => RequestOutcome::Principal(f.id(&e.name)?),
                    event::ANSWERED_TOKEN => RequestOutcome::Token(e.name),
                    event::ANSWERED_CONFIRMATION => {
                        let (issuer, serial) = certificates.into_iter().next().ok_or_else(|| f.wrong())?;
                        RequestOutcome::Confirmation(issuer, serial)
                    }
                    _ => return Err(f.wrong()),
                }
            }
            _ => return Err(f.wrong()),
        };
        Ok(Some(RecordedRequest { request_sha256: f.hash(&row.request_sha256)?, outcome }))
    }

    /// A device that was issued a certificate.
    pub(crate) fn device(&self, tenant: &TenantId, id: &str) -> Result<Option<DeviceEntry>, StoreError> {
        let row = self.row::<DeviceRow>(&key::device(tenant.as_str(), id))?;
        let Some(row) = row.filter(|row| row.count > 0) else { return Ok(None) };
        let f = Field(self, row.identity);
        let (_, _, intent) = self.intent(row.identity)?;
        Ok(Some(DeviceEntry {
            tenant: tenant.clone(),
            id: f.id(id)?,
            manufacturer: intent.manufacturer,
            model: intent.model,
            serial_number: intent.serial_number,
            first_enrolled_at: time(row.first_time),
            sequence: row.first_sequence,
            anchor_sha256: if row.anchor_sha256.is_empty() { None } else { Some(f.hash(&row.anchor_sha256)?) },
            current: f.reference(&parse_reference(&row.current)?)?,
            certificate_count: row.count,
        }))
    }

    /// A principal, enrolled or about to be.
    pub(crate) fn principal(&self, tenant: &TenantId, id: &str) -> Result<Option<PrincipalEntry>, StoreError> {
        let Some(row) = self.row::<PrincipalRow>(&key::principal(tenant.as_str(), id))? else { return Ok(None) };
        let (sequence, created_at, intent) = self.intent(row.created)?;
        Ok(Some(PrincipalEntry {
            tenant: tenant.clone(),
            id: Field(self, row.created).id(id)?,
            role: row.role,
            created_at: time(created_at),
            created_by: intent.requester,
            sequence: if row.first_sequence == 0 { sequence } else { row.first_sequence },
            enrolled: row.first_sequence != 0,
            disabled_at: (row.disabled != 0).then(|| time(row.disabled_at)),
        }))
    }

    /// A token by the hash of its secret.
    pub(crate) fn token(&self, secret_sha256: &[u8]) -> Result<Option<TokenEntry>, StoreError> {
        let Some(row) = self.row::<TokenRow>(&key::token(secret_sha256))? else { return Ok(None) };
        let f = Field(self, row.created);
        let (located, Event::TokenCreated(e)) = self.event(row.created)? else { return Err(f.wrong()) };
        Ok(Some(TokenEntry {
            tenant: f.id(&located.record.tenant)?,
            token_id: e.token_id,
            profile: f.id(&e.profile)?,
            device: e.for_device.then_some(TokenDevice {
                manufacturer: e.manufacturer,
                model: e.model,
                serial_number: e.serial_number,
            }),
            expires_at: time(e.expires_at),
            created_at: time(located.record.time),
            created_by: e.by,
            used_by: match row.used_by.as_slice() {
                [] => None,
                reference => Some(f.reference(&parse_reference(reference)?)?),
            },
        }))
    }

    /// An issuer.
    pub(crate) fn issuer(&self, id: &str) -> Result<Option<IssuerEntry>, StoreError> {
        let Some(row) = self.row::<IssuerRow>(&key::issuer(id))? else { return Ok(None) };
        let f = Field(self, row.added);
        let (located, Event::IssuerAdded(e)) = self.event(row.added)? else { return Err(f.wrong()) };
        let (ocsp_certificate, ocsp_key_id) = match self.event(row.responder)?.1 {
            Event::IssuerAdded(e) => (e.ocsp_certificate, e.ocsp_key_id),
            Event::OcspResponderSet(e) => (e.certificate, e.key_id),
            _ => return Err(f.wrong()),
        };
        Ok(Some(IssuerEntry {
            tenant: f.id(&row.tenant)?,
            id: f.id(id)?,
            certificate: e.certificate,
            chain: e.chain,
            key_id: e.key_id,
            ocsp_certificate,
            ocsp_key_id,
            urls: IssuerUrls { crl: e.crl_url, ocsp: e.ocsp_url, ca_issuers: e.ca_issuers_url },
            signature_algorithm: match e.signature_algorithm {
                0 => None,
                number => Some(f.algorithm(number)?),
            },
            state: STATES.iter().find(|(n, _)| *n == row.state).map(|(_, s)| *s).ok_or_else(|| f.wrong())?,
            added_at: time(located.record.time),
            sequence: located.record.sequence,
        }))
    }

    /// All issuers, oldest first.
    pub(crate) fn issuers(&self) -> Result<Vec<IssuerEntry>, StoreError> {
        let mut found = Vec::new();
        for (key, _) in self.all(key::ISSUERS)? {
            // The letter and the length come before the name.
            let id = std::str::from_utf8(key.get(2..).unwrap_or_default()).unwrap_or_default();
            found.extend(self.issuer(id)?);
        }
        found.sort_by_key(|issuer| issuer.sequence);
        Ok(found)
    }

    /// The server's own certificate.
    pub(crate) fn server_identity(&self) -> Result<Option<ServerIdentityEntry>, StoreError> {
        let Some(row) = self.row::<ServerRow>(key::SERVER)? else { return Ok(None) };
        let (located, Event::ServerIdentitySet(e)) = self.event(row.record)? else {
            return Err(Field(self, row.record).wrong());
        };
        Ok(Some(ServerIdentityEntry { chain: e.chain, key_id: e.key_id, at: time(located.record.time) }))
    }

    /// The newest published CRL of an issuer.
    pub(crate) fn crl(&self, issuer: &str) -> Result<Option<CrlEntry>, StoreError> {
        let row = self.row::<CrlRow>(&key::crl(issuer))?;
        let Some(row) = row.filter(|row| row.published != 0) else { return Ok(None) };
        let f = Field(self, row.published);
        let (_, Event::CrlPublished(e)) = self.event(row.published)? else { return Err(f.wrong()) };
        Ok(Some(CrlEntry {
            number: e.number,
            this_update: time(e.this_update),
            next_update: time(e.next_update),
            sha256: f.hash(&e.sha256)?,
            sequence: e.sequence,
        }))
    }

    /// The certificates and intents of a holder, oldest first.
    pub(crate) fn held_by(
        &self,
        tenant: &str,
        kind: u32,
        id: &str,
    ) -> Result<Vec<(Reference, CertificateRow)>, StoreError> {
        let mut found = Vec::new();
        for reference in self.references(&key::held_by(tenant, kind, id))? {
            if let Some(row) = self.certificate_row(&reference.issuer, &reference.serial)? {
                found.push((reference, row));
            }
        }
        Ok(found)
    }

    /// The certificates (and intents) that renew one, oldest first. Those that were given up are not among them.
    pub(crate) fn successors(&self, issuer: &str, serial: &[u8]) -> Result<Vec<SuccessorRow>, StoreError> {
        self.all(&key::successors_of(issuer, serial))?.iter().map(|(_, value)| decode_row(value)).collect()
    }

    /// The revocation of a certificate as a CRL has it.
    pub(crate) fn revoked_row(&self, issuer: &str, serial: &[u8]) -> Result<Option<RevokedRow>, StoreError> {
        self.row(&key::revoked(issuer, serial))
    }
}
