//! The token and the keys in it, as the journal knows them.

use ca_core::{id::TenantId, time::UnixTime};
use std::collections::BTreeMap;

/// `CKA_ID` of a key of ours.
pub type TokenKeyId = [u8; 16];

/// A key in the token: what the journal says about it. Keys that `init` made for issuers are known by those alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// `CKA_ID`.
    pub id: TokenKeyId,
    /// Sequence of the first record about it: its place in the listing.
    pub sequence: u64,
    /// Set when it was made by command.
    pub made: Option<KeyMaking>,
    /// The exception that was made for it.
    pub exception: Option<KeyException>,
    /// Set when it was retired; it is never used again.
    pub retired: Option<KeyRetirement>,
}

/// How a key was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyMaking {
    /// Whose it is; `None` when it is the installation's.
    pub tenant: Option<TenantId>,
    /// `CKA_LABEL`.
    pub label: String,
    /// For example `P-256`.
    pub algorithm: String,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// What it is for, in the words of who made it.
    pub purpose: String,
    /// Who made it.
    pub by: String,
    /// The token's attributes, as read back: name to value.
    pub attributes: BTreeMap<String, bool>,
    /// The token's serial number.
    pub token_serial: String,
    /// The token's label.
    pub token_label: String,
    /// When.
    pub at: UnixTime,
}

/// An exception from the rules for keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyException {
    /// The trusted key under which it may leave the token.
    pub wrapping_key_id: TokenKeyId,
    /// Why.
    pub reason: String,
    /// Who decided it.
    pub by: String,
    /// When.
    pub at: UnixTime,
}

/// How a key ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRetirement {
    /// Why.
    pub why: String,
    /// Who retired it.
    pub by: String,
    /// Whether it was to be destroyed in the token; the record is made before that is done.
    pub destroyed: bool,
    /// When.
    pub at: UnixTime,
}

/// The key by which a token is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIdentityEntry {
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
    /// Who accepted it in the place of another; `None` for the first.
    pub accepted: Option<Acceptance>,
    /// When it was recorded.
    pub at: UnixTime,
    /// Sequence of its record.
    pub sequence: u64,
}

/// Who accepted another identity of a token, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
}
