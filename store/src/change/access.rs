//! Principals and enrollment tokens.

use crate::entry::TokenDevice;
use ca_core::{
    id::{IdempotencyKey, PrincipalId, ProfileName, TenantId},
    time::UnixTime,
};

/// Disables a principal for good and revokes its certificates, reason cessationOfOperation (5).
#[derive(Clone, Debug)]
pub struct DisablePrincipal {
    /// The tenant.
    pub tenant: TenantId,
    /// The principal. `LastAdmin` when the tenant would have no enabled admin left.
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
