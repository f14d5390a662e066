//! Principals and enrollment tokens.

use super::{Change, Decided, answered, is_replay, issuance::may_live, limit, sealed::Decide};
use crate::{
    entry::{PrincipalEntry, ROLE_ADMIN, ROLE_SERVICE, RequestOutcome, TokenDevice, TokenEntry},
    error::StoreError,
    event::{
        ANSWERED_PRINCIPAL, ANSWERED_TOKEN, CertificateRevoked, Event, HOLDER_PRINCIPAL, PrincipalDisabled, Reference,
        TokenCreated,
    },
    index::{key, row::PrincipalRow},
    view::{View, decode_row},
};
use ca_core::{
    id::{IdempotencyKey, PrincipalId, ProfileName, TenantId},
    time::UnixTime,
};

/// Disables a principal for good and revokes its certificates, reason cessationOfOperation (5).
#[derive(Clone, Debug)]
pub struct DisablePrincipal {
    /// The tenant.
    pub tenant: TenantId,
    /// The principal. `LastAdmin` when the tenant would have no enabled admin left that has a certificate in force.
    pub principal: PrincipalId,
    /// Who asks; at most 200 octets.
    pub by: String,
    /// The caller's name for the request.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the request.
    pub request_sha256: [u8; 32],
}

/// Records a one-time enrollment token. The outcome says whether the same request was made before.
#[derive(Clone, Debug)]
pub struct CreateToken {
    /// The tenant.
    pub tenant: TenantId,
    /// The token's name in the journal, unique within the tenant; 1 to 64 octets.
    pub token_id: String,
    /// SHA-256 of the secret. The secret itself is never stored.
    pub secret_sha256: [u8; 32],
    /// The only profile that it opens.
    pub profile: ProfileName,
    /// The only device that it is for.
    pub device: Option<TokenDevice>,
    /// From this second on it is worth nothing.
    pub expires_at: UnixTime,
    /// Who asks; at most 200 octets.
    pub by: String,
    /// The caller's name for the request.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the request.
    pub request_sha256: [u8; 32],
}

/// CRLReason cessationOfOperation.
const CESSATION: u32 = 5;
/// The longest name of a token, in octets.
const MAX_TOKEN_ID: usize = 64;
/// The longest part of a token's device, in octets (64 characters of UTF-8).
const MAX_DEVICE_TEXT: usize = 256;

impl Change for DisablePrincipal {
    type Outcome = PrincipalEntry;

    fn outcome(&self, view: &View<'_>, _: bool) -> Result<PrincipalEntry, StoreError> {
        view.principal(&self.tenant, self.principal.as_str())?.ok_or(StoreError::NotFound("principal"))
    }
}

impl Decide for DisablePrincipal {
    fn decide(&self, view: &View<'_>, now: UnixTime) -> Result<Decided, StoreError> {
        let tenant = self.tenant.as_str();
        let name = self.principal.as_str();
        let key = self.idempotency_key.as_str();
        if is_replay(view, tenant, &self.by, key, &self.request_sha256)? {
            return Ok(Decided::default());
        }
        // The service's own principals are nobody that a tenant could disable.
        let row = view.row(&key::principal(tenant, name))?.filter(|row: &PrincipalRow| row.role != ROLE_SERVICE);
        let row = row.ok_or(StoreError::NotFound("principal"))?;
        let mut events: Vec<Event> = Vec::new();
        if row.disabled == 0 {
            if row.role == ROLE_ADMIN && !an_admin_stays(view, tenant, now, |other, _| other == name)? {
                return Err(StoreError::LastAdmin);
            }
            events.push(PrincipalDisabled { principal: name.to_owned(), by: self.by.clone() }.into());
            for (reference, row) in view.held_by(tenant, HOLDER_PRINCIPAL, name)? {
                if row.revoked == 0 && row.aborted == 0 {
                    events.push(
                        CertificateRevoked {
                            issuer: reference.issuer,
                            serial: reference.serial,
                            reason: CESSATION,
                            invalidity_date: None,
                            by: self.by.clone(),
                            comment: "the principal was disabled".to_owned(),
                        }
                        .into(),
                    );
                }
            }
        }
        events.push(answered(&self.by, key, &self.request_sha256, ANSWERED_PRINCIPAL, Vec::new(), name));
        Ok(Decided { tenant: tenant.to_owned(), events })
    }
}

/// Whether the tenant keeps an enabled admin with a certificate that works, when those for which `gone` says so (by
/// principal and certificate) are gone.
pub(super) fn an_admin_stays(
    view: &View<'_>,
    tenant: &str,
    now: UnixTime,
    gone: impl Fn(&str, &Reference) -> bool,
) -> Result<bool, StoreError> {
    let prefix = key::principals(tenant);
    for (key, value) in view.all(&prefix)? {
        let row: PrincipalRow = decode_row(&value)?;
        if row.role != ROLE_ADMIN || row.disabled != 0 {
            continue;
        }
        // The name's length comes before it.
        let name = std::str::from_utf8(key.get(prefix.len() + 1..).unwrap_or_default()).unwrap_or_default();
        let held = view.held_by(tenant, HOLDER_PRINCIPAL, name)?;
        if held.iter().any(|(reference, row)| row.issued != 0 && may_live(row, now) && !gone(name, reference)) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Change for CreateToken {
    type Outcome = (TokenEntry, bool);

    fn outcome(&self, view: &View<'_>, replayed: bool) -> Result<(TokenEntry, bool), StoreError> {
        let tenant = self.tenant.as_str();
        let request = view.request(tenant, &self.by, self.idempotency_key.as_str())?;
        let Some(RequestOutcome::Token(token_id)) = request.map(|r| r.outcome) else {
            return Err(StoreError::IdempotencyConflict);
        };
        let secret = view.get(&key::token_name(tenant, &token_id))?.ok_or(StoreError::TokenUnknown)?;
        Ok((view.token(&secret)?.ok_or(StoreError::TokenUnknown)?, replayed))
    }
}

impl Decide for CreateToken {
    fn decide(&self, view: &View<'_>, _: UnixTime) -> Result<Decided, StoreError> {
        let tenant = self.tenant.as_str();
        let key = self.idempotency_key.as_str();
        if is_replay(view, tenant, &self.by, key, &self.request_sha256)? {
            return Ok(Decided::default());
        }
        limit("token_id", self.token_id.len(), MAX_TOKEN_ID)?;
        if view.has(&key::token_name(tenant, &self.token_id))? || view.has(&key::token(&self.secret_sha256))? {
            return Err(StoreError::AlreadyExists("token"));
        }
        let device = self.device.clone().unwrap_or_default();
        limit("device.manufacturer", device.manufacturer.len(), MAX_DEVICE_TEXT)?;
        limit("device.model", device.model.len(), MAX_DEVICE_TEXT)?;
        limit("device.serial_number", device.serial_number.len(), MAX_DEVICE_TEXT)?;
        let event = TokenCreated {
            token_id: self.token_id.clone(),
            secret_sha256: self.secret_sha256.to_vec(),
            profile: self.profile.as_str().to_owned(),
            for_device: self.device.is_some(),
            manufacturer: device.manufacturer,
            model: device.model,
            serial_number: device.serial_number,
            expires_at: self.expires_at.as_secs(),
            by: self.by.clone(),
        };
        let closing = answered(&self.by, key, &self.request_sha256, ANSWERED_TOKEN, Vec::new(), &self.token_id);
        Ok(Decided { tenant: tenant.to_owned(), events: vec![event.into(), closing] })
    }
}
