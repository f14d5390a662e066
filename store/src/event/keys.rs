//! What the records say about the token and the keys in it.

use prost::Message;
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Message)]
pub struct KeyMade {
    #[prost(bytes = "vec", tag = "1")]
    pub key_id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub label: String,
    #[prost(string, tag = "3")]
    pub algorithm: String,
    #[prost(bytes = "vec", tag = "4")]
    pub spki: Vec<u8>,
    #[prost(string, tag = "5")]
    pub purpose: String,
    #[prost(string, tag = "6")]
    pub by: String,
    /// As the token said when it was read back: the attribute's name to its value.
    #[prost(btree_map = "string, bool", tag = "7")]
    pub attributes: BTreeMap<String, bool>,
    #[prost(string, tag = "8")]
    pub token_serial: String,
    #[prost(string, tag = "9")]
    pub token_label: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyRetired {
    #[prost(bytes = "vec", tag = "1")]
    pub key_id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub why: String,
    #[prost(string, tag = "3")]
    pub by: String,
    /// Destroyed in the token, or about to be: the record is made first.
    #[prost(bool, tag = "4")]
    pub destroyed: bool,
}

/// An exception from the rules for keys, recorded before the key is made.
#[derive(Clone, PartialEq, Message)]
pub struct KeyPolicy {
    #[prost(bytes = "vec", tag = "1")]
    pub key_id: Vec<u8>,
    /// What is excepted: one of the `EXCEPTION_` numbers.
    #[prost(uint32, tag = "2")]
    pub exception: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub wrapping_key_id: Vec<u8>,
    #[prost(string, tag = "4")]
    pub reason: String,
    #[prost(string, tag = "5")]
    pub by: String,
}

/// The key may leave the token, wrapped under the named trusted key.
pub const EXCEPTION_WRAPPED_BACKUP: u32 = 1;

#[derive(Clone, PartialEq, Message)]
pub struct TokenIdentity {
    #[prost(string, tag = "1")]
    pub serial: String,
    #[prost(string, tag = "2")]
    pub label: String,
    #[prost(string, tag = "3")]
    pub manufacturer: String,
    #[prost(bytes = "vec", tag = "4")]
    pub key_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub spki: Vec<u8>,
    /// Who accepted it, where it takes another one's place.
    #[prost(string, tag = "6")]
    pub accepted_by: String,
    #[prost(string, tag = "7")]
    pub why: String,
}
