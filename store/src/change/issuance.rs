//! Intents: what is recorded before anything is signed.

use super::{Change, Decided, is_replay, limit, sealed::Decide};
use crate::{
    entry::{AttestationRecord, CertificateEntry, CertificateRef, Holder, ROLE_SERVICE, SERVICE_NAMES},
    error::{DeviceConflict, StoreError},
    event::{
        Attestation, CertificateRevoked, Event, HOLDER_DEVICE, HOLDER_PRINCIPAL, IntentAborted, IntentMade, Reference,
    },
    index::{
        key,
        row::{CertificateRow, DeviceRow, IssuerRow, KeyHolderRow, PrincipalRow, TokenRow},
    },
    read::algorithm_number,
    view::{View, parse_reference},
};
use ca_core::{
    id::{IdempotencyKey, IssuerId, ProfileName, TenantId},
    key::SignatureAlgorithm,
    serial::SerialNumber,
    time::UnixTime,
};
use std::time::Duration;

/// What to do about a device that has a certificate that is neither revoked nor expired, when it is enrolled anew
/// (not renewed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingDevice {
    /// Refuse: `DeviceConflict(DeviceExists)`.
    Refuse,
    /// Let it have one more.
    Allow,
}

/// Records that a certificate is about to be signed: serial, exact bytes, who asked for it and what authorised it.
#[derive(Clone, Debug)]
pub struct Intend {
    /// The tenant.
    pub tenant: TenantId,
    /// The issuer; must be the tenant's.
    pub issuer: IssuerId,
    /// The serial number; `SerialInUse` when the issuer ever gave it.
    pub serial: SerialNumber,
    /// The exact TBSCertificate, DER, at most 32 KiB.
    pub tbs: Vec<u8>,
    /// What it will be signed with.
    pub algorithm: SignatureAlgorithm,
    /// The profile.
    pub profile: ProfileName,
    /// SHA-256 of the profile's text.
    pub profile_sha256: [u8; 32],
    /// The holder.
    pub holder: Holder,
    /// Creates the principal too; `AlreadyExists` when its name was ever used, `ReservedName` when the role is
    /// [`crate::ROLE_SERVICE`] and the name does not begin with [`crate::SERVICE_NAMES`], or the other way round.
    pub new_principal: bool,
    /// What to do about a device that has a live certificate; without meaning when `replaces` is set. Where it is
    /// allowed, `DeviceFull` when it has 16 of this profile.
    pub existing: ExistingDevice,
    /// Who asks, for example `principal:line-1`, `token:<id>`, `attestation:<hash>`, `device:<id>`; at most 200 octets.
    pub requester: String,
    /// The requester's name for the request.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the request; another one under the same key is an `IdempotencyConflict`.
    pub request_sha256: [u8; 32],
    /// SHA-256 of the DER SubjectPublicKeyInfo; `KeyInUse` when another holder of the tenant has it, `KeyCompromised`
    /// when a certificate for it was ever revoked with reason keyCompromise, whoever's it was.
    pub spki_sha256: [u8; 32],
    /// The enrollment token that is used up by this. `TokenUnknown` when the principal that made it is disabled.
    pub token_id: Option<String>,
    /// SHA-256 of the attestation anchor; binds the device to it for ever.
    pub anchor_sha256: Option<[u8; 32]>,
    /// What attestation established.
    pub attestation: Option<AttestationRecord>,
    /// The certificate that this one renews: same holder, issued and not revoked. An earlier successor of it that was
    /// not confirmed is revoked as superseded. One that has no signature yet is `InProgress` for two minutes and then
    /// given up. `TooManySuccessors` when it was given eight within 24 hours.
    pub replaces: Option<CertificateRef>,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
}

/// What came of an [`Intend`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intended {
    /// The intent is durable: sign the bytes that it holds.
    New,
    /// The same request was made before, and this is its certificate: issued, open (sign *its* bytes), given up or
    /// revoked.
    Replay(Box<CertificateEntry>),
}

/// How many live certificates (and open intents) of one profile a device may have when it is enrolled once more. A
/// device needs one, a second while the first is given up, and a few when a bench enrolls it again and again; more are
/// a loop or an attack, and every one of them may end on a CRL. Renewals are bounded by [`MAX_SUCCESSORS`].
const MAX_LIVE: usize = 16;
/// The longest TBSCertificate, in octets.
const MAX_TBS: usize = 32 * 1024;
/// How many successors one certificate may be given within [`SUCCESSOR_WINDOW`]. One is needed. Each one that is
/// renewed again before it is confirmed is revoked and stays on the CRL until it expires, so a device in a loop, or
/// whoever stole its key, must not make them at will.
const MAX_SUCCESSORS: usize = 8;
/// See [`MAX_SUCCESSORS`].
const SUCCESSOR_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// For so long an open intent is believed to be on its way to its signature; longer than any deadline of the token.
const INTENT_GRACE: Duration = Duration::from_secs(120);
/// CRLReason superseded.
pub(super) const SUPERSEDED: u32 = 4;

impl Change for Intend {
    type Outcome = Intended;

    fn outcome(&self, view: &View<'_>, replayed: bool) -> Result<Intended, StoreError> {
        if !replayed {
            return Ok(Intended::New);
        }
        let key = self.idempotency_key.as_str();
        let request = view.request(self.tenant.as_str(), &self.requester, key)?;
        match request.map(|r| r.outcome) {
            Some(crate::entry::RequestOutcome::Issuance(issuer, serial)) => {
                Ok(Intended::Replay(Box::new(super::certificate(view, &issuer, &serial)?)))
            }
            // The same requester used the key for another kind of request.
            _ => Err(StoreError::IdempotencyConflict),
        }
    }
}

impl Decide for Intend {
    fn decide(&self, view: &View<'_>, now: UnixTime) -> Result<Decided, StoreError> {
        let tenant = self.tenant.as_str();
        limit("tbs", self.tbs.len(), MAX_TBS)?;
        let key = self.idempotency_key.as_str();
        if is_replay(view, tenant, &self.requester, key, &self.request_sha256)? {
            return Ok(Decided::default());
        }
        let issuer: Option<IssuerRow> = view.row(&key::issuer(self.issuer.as_str()))?;
        if issuer.is_none_or(|row| row.tenant != tenant) {
            return Err(StoreError::NotFound("issuer"));
        }
        if view.has(&key::certificate(self.issuer.as_str(), self.serial.as_be_bytes()))? {
            return Err(StoreError::SerialInUse);
        }
        if let Some(token_id) = &self.token_id {
            self.check_token(view, token_id, now)?;
        }
        let (kind, id) = holder_of(&self.holder);
        if view.has(&key::compromised(tenant, &self.spki_sha256))? {
            return Err(StoreError::KeyCompromised);
        }
        let key_holder: Option<KeyHolderRow> = view.row(&key::spki(tenant, &self.spki_sha256))?;
        if key_holder.is_some_and(|row| row.holder_kind != kind || row.holder_id != id) {
            return Err(StoreError::KeyInUse);
        }
        match &self.holder {
            Holder::Device { .. } => self.check_device(view, id, now)?,
            Holder::Principal { role, .. } => self.check_principal(view, id, *role)?,
        }
        let mut events = Vec::new();
        if let Some(replaced) = &self.replaces {
            events.extend(self.check_predecessor(view, replaced, (kind, id), now)?);
        }
        events.push(self.event().into());
        Ok(Decided { tenant: tenant.to_owned(), events })
    }
}

/// The journal's kind and name of a holder.
fn holder_of(holder: &Holder) -> (u32, &str) {
    match holder {
        Holder::Device { id, .. } => (HOLDER_DEVICE, id.as_str()),
        Holder::Principal { id, .. } => (HOLDER_PRINCIPAL, id.as_str()),
    }
}

impl Intend {
    fn check_device(&self, view: &View<'_>, id: &str, now: UnixTime) -> Result<(), StoreError> {
        let tenant = self.tenant.as_str();
        // A device that is bound to hardware is not given a certificate without it, whoever asks.
        let bound: Option<DeviceRow> = view.row(&key::device(tenant, id))?;
        let shown = self.anchor_sha256.as_ref().map_or(&[][..], |anchor| anchor);
        if bound.is_some_and(|row| !row.anchor_sha256.is_empty() && row.anchor_sha256 != shown) {
            return Err(StoreError::DeviceConflict(DeviceConflict::OtherAnchor));
        }
        if let Some(anchor) = &self.anchor_sha256 {
            let owner = view.get(&key::anchor(tenant, anchor))?;
            if owner.is_some_and(|owner| owner != id.as_bytes()) {
                return Err(StoreError::DeviceConflict(DeviceConflict::AnchorInUse));
            }
        }
        if self.replaces.is_some() {
            return Ok(());
        }
        let mut live = view.held_by(tenant, HOLDER_DEVICE, id)?;
        live.retain(|(_, row)| may_live(row, now));
        if self.existing == ExistingDevice::Refuse && !live.is_empty() {
            return Err(StoreError::DeviceConflict(DeviceConflict::DeviceExists));
        }
        let same_profile = live.iter().filter(|(_, row)| row.profile == self.profile.as_str()).count();
        if same_profile >= MAX_LIVE { Err(StoreError::DeviceFull) } else { Ok(()) }
    }

    fn check_principal(&self, view: &View<'_>, id: &str, role: u32) -> Result<(), StoreError> {
        let known: Option<PrincipalRow> = view.row(&key::principal(self.tenant.as_str(), id))?;
        // Only the service makes holders of its own certificates, and nobody else may look like one.
        if self.new_principal && (role == ROLE_SERVICE) != id.starts_with(SERVICE_NAMES) {
            return Err(StoreError::ReservedName);
        }
        match (known, self.new_principal) {
            (None, true) => Ok(()),
            (Some(_), true) => Err(StoreError::AlreadyExists("principal")),
            (None, false) => Err(StoreError::NotFound("principal")),
            (Some(row), false) if row.disabled != 0 => Err(StoreError::PrincipalDisabled),
            (Some(row), false) if row.role != role => Err(StoreError::OtherHolder),
            (Some(_), false) => Ok(()),
        }
    }

    fn check_token(&self, view: &View<'_>, token_id: &str, now: UnixTime) -> Result<(), StoreError> {
        let secret = view.get(&key::token_name(self.tenant.as_str(), token_id))?.ok_or(StoreError::TokenUnknown)?;
        let row: TokenRow = view.row(&key::token(&secret))?.ok_or(StoreError::TokenUnknown)?;
        if !row.used_by.is_empty() {
            return Err(StoreError::TokenUsed);
        }
        if now.as_secs() >= row.expires_at {
            return Err(StoreError::TokenExpired);
        }
        // The caller has checked it too; a token for one profile must never open another.
        match view.event(row.created)?.1 {
            Event::TokenCreated(token) if token.profile == self.profile.as_str() => self.check_creator(view, &token.by),
            _ => Err(StoreError::TokenUnknown),
        }
    }

    /// Whoever is disabled leaves no open doors behind.
    fn check_creator(&self, view: &View<'_>, by: &str) -> Result<(), StoreError> {
        let Some(principal) = by.strip_prefix("principal:") else { return Ok(()) };
        let row: Option<PrincipalRow> = view.row(&key::principal(self.tenant.as_str(), principal))?;
        if row.is_some_and(|row| row.disabled == 0) { Ok(()) } else { Err(StoreError::TokenUnknown) }
    }

    /// The certificate to be renewed must be the holder's and in force; of its successors only this one stays.
    fn check_predecessor(
        &self,
        view: &View<'_>,
        (issuer, serial): &CertificateRef,
        (kind, id): (u32, &str),
        now: UnixTime,
    ) -> Result<Option<Event>, StoreError> {
        let row = view
            .certificate_row(issuer.as_str(), serial.as_be_bytes())?
            .filter(|row| row.tenant == self.tenant.as_str())
            .ok_or(StoreError::NotFound("certificate"))?;
        if row.holder_kind != kind || row.holder_id != id {
            return Err(StoreError::OtherHolder);
        }
        if row.revoked != 0 {
            return Err(StoreError::Revoked);
        }
        if row.issued == 0 {
            return Err(StoreError::WrongState("issued"));
        }
        let superseding = self.earlier_successor(view, &row, now)?;
        let since = now.as_secs().saturating_sub(SUCCESSOR_WINDOW.as_secs());
        let mut times: Vec<u64> =
            view.successors(issuer.as_str(), serial.as_be_bytes())?.iter().map(|s| s.time).collect();
        let until = now.as_secs().saturating_add(SUCCESSOR_WINDOW.as_secs());
        times.retain(|time| (since + 1..=until).contains(time));
        // Times never fall, so the one that must leave the window first is this many from the end.
        match times.len().checked_sub(MAX_SUCCESSORS).and_then(|first| times.get(first)) {
            None => Ok(superseding),
            Some(time) => Err(StoreError::TooManySuccessors { retry_after: Duration::from_secs(time - since) }),
        }
    }

    /// Makes room for this successor: the newest one, where it was neither confirmed nor used, gives way.
    fn earlier_successor(
        &self,
        view: &View<'_>,
        row: &CertificateRow,
        now: UnixTime,
    ) -> Result<Option<Event>, StoreError> {
        if row.successor.is_empty() {
            return Ok(None);
        }
        let Reference { issuer, serial } = parse_reference(&row.successor)?;
        let Some(successor) = view.certificate_row(&issuer, &serial)? else { return Ok(None) };
        if successor.revoked != 0 || successor.aborted != 0 {
            return Ok(None);
        }
        if successor.installed != 0 {
            // The confirmation has revoked the predecessor, so this is never reached; it must not be passed either.
            return Err(StoreError::Revoked);
        }
        if successor.issued != 0 {
            let event = CertificateRevoked {
                issuer,
                serial,
                reason: SUPERSEDED,
                invalidity_date: None,
                by: self.requester.clone(),
                comment: "renewed again before it was confirmed".to_owned(),
            };
            return Ok(Some(event.into()));
        }
        let (_, intended_at, _) = view.intent(successor.intent)?;
        // A record from a future that never came says nothing about its age.
        if now.as_secs().abs_diff(intended_at) < INTENT_GRACE.as_secs() {
            return Err(StoreError::InProgress);
        }
        // It was never signed, so there is nothing to revoke.
        let reason = "renewed again after nobody had finished it".to_owned();
        Ok(Some(IntentAborted { issuer, serial, reason }.into()))
    }

    fn event(&self) -> IntentMade {
        let (holder_kind, holder_id) = holder_of(&self.holder);
        let mut event = IntentMade {
            issuer: self.issuer.as_str().to_owned(),
            serial: self.serial.as_be_bytes().to_vec(),
            tbs: self.tbs.clone(),
            algorithm: algorithm_number(self.algorithm),
            profile: self.profile.as_str().to_owned(),
            profile_sha256: self.profile_sha256.to_vec(),
            holder_kind,
            holder_id: holder_id.to_owned(),
            requester: self.requester.clone(),
            idempotency_key: self.idempotency_key.as_str().to_owned(),
            request_sha256: self.request_sha256.to_vec(),
            spki_sha256: self.spki_sha256.to_vec(),
            token_id: self.token_id.clone(),
            not_before: self.not_before.as_secs(),
            not_after: self.not_after.as_secs(),
            ..IntentMade::default()
        };
        match &self.holder {
            Holder::Device { manufacturer, model, serial_number, .. } => {
                event.manufacturer = manufacturer.clone();
                event.model = model.clone();
                event.serial_number = serial_number.clone();
                event.anchor_sha256 = self.anchor_sha256.map(|a| a.to_vec());
            }
            Holder::Principal { role, .. } => {
                event.role = *role;
                event.new_principal = self.new_principal;
            }
        }
        event.attestation = self.attestation.as_ref().map(|a| Attestation {
            format: a.format.clone(),
            claims: a.claims.clone(),
            evidence_sha256: a.evidence_sha256.to_vec(),
            trust_anchor: a.trust_anchor.clone(),
        });
        event.replaces = self.replaces.as_ref().map(reference);
        event
    }
}

/// The journal's reference.
pub(super) fn reference((issuer, serial): &CertificateRef) -> Reference {
    Reference { issuer: issuer.as_str().to_owned(), serial: serial.as_be_bytes().to_vec() }
}

/// Neither revoked, given up nor expired: a certificate, or an intent that may still become one.
pub(super) fn may_live(row: &CertificateRow, now: UnixTime) -> bool {
    row.revoked == 0 && row.aborted == 0 && row.not_after >= now.as_secs()
}
