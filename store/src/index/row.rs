//! The index's values: positions in the journal and what decisions need, never certificates. Offset 0 is the header
//! of the first segment, so as a record's offset it means "none".

use prost::Message;

/// Everything up to here is in the index.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Applied {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// Global offset behind that record.
    #[prost(uint64, tag = "2")]
    pub end: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub hash: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub time: u64,
    #[prost(bytes = "vec", tag = "5")]
    pub store_id: Vec<u8>,
    /// The index's own format; another one is rebuilt.
    #[prost(uint32, tag = "6")]
    pub version: u32,
}

/// How the index was left.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Lifecycle {
    #[prost(bool, tag = "1")]
    pub clean: bool,
    #[prost(string, tag = "2")]
    pub boot_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct CertificateRow {
    #[prost(string, tag = "1")]
    pub tenant: String,
    #[prost(uint64, tag = "2")]
    pub intent: u64,
    #[prost(uint64, tag = "3")]
    pub intent_sequence: u64,
    #[prost(uint64, tag = "4")]
    pub issued: u64,
    #[prost(uint64, tag = "5")]
    pub issued_sequence: u64,
    #[prost(uint64, tag = "6")]
    pub installed: u64,
    #[prost(uint64, tag = "7")]
    pub aborted: u64,
    #[prost(uint64, tag = "8")]
    pub revoked: u64,
    /// The record that raised the reason.
    #[prost(uint64, tag = "9")]
    pub raised: u64,
    #[prost(uint64, tag = "10")]
    pub not_after: u64,
    /// The reference of the newest successor.
    #[prost(bytes = "vec", tag = "11")]
    pub successor: Vec<u8>,
    #[prost(uint32, tag = "12")]
    pub holder_kind: u32,
    #[prost(string, tag = "13")]
    pub holder_id: String,
    #[prost(string, tag = "14")]
    pub profile: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct RequestRow {
    #[prost(uint64, tag = "1")]
    pub record: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub request_sha256: Vec<u8>,
    /// Further records, where one does not hold the answer.
    #[prost(uint64, repeated, tag = "3")]
    pub further: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyHolderRow {
    #[prost(uint32, tag = "1")]
    pub holder_kind: u32,
    #[prost(string, tag = "2")]
    pub holder_id: String,
    /// How many of the holder's intents have the key and were not given up.
    #[prost(uint32, tag = "3")]
    pub count: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeviceRow {
    /// The intent that stated the device's identity last.
    #[prost(uint64, tag = "1")]
    pub identity: u64,
    #[prost(uint64, tag = "2")]
    pub first_sequence: u64,
    #[prost(uint64, tag = "3")]
    pub first_time: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub anchor_sha256: Vec<u8>,
    /// The reference of the newest certificate.
    #[prost(bytes = "vec", tag = "5")]
    pub current: Vec<u8>,
    #[prost(uint32, tag = "6")]
    pub count: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct PrincipalRow {
    /// The intent that created it.
    #[prost(uint64, tag = "1")]
    pub created: u64,
    #[prost(uint32, tag = "2")]
    pub role: u32,
    #[prost(uint64, tag = "3")]
    pub first_sequence: u64,
    #[prost(uint64, tag = "4")]
    pub disabled: u64,
    #[prost(uint64, tag = "5")]
    pub disabled_at: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct TokenRow {
    #[prost(uint64, tag = "1")]
    pub created: u64,
    #[prost(uint64, tag = "2")]
    pub expires_at: u64,
    /// The reference of the certificate that used it up.
    #[prost(bytes = "vec", tag = "3")]
    pub used_by: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct IssuerRow {
    #[prost(uint64, tag = "1")]
    pub added: u64,
    /// The record that set the responder.
    #[prost(uint64, tag = "2")]
    pub responder: u64,
    #[prost(uint32, tag = "3")]
    pub state: u32,
    #[prost(string, tag = "4")]
    pub tenant: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ServerRow {
    #[prost(uint64, tag = "1")]
    pub record: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct CrlRow {
    #[prost(uint64, tag = "1")]
    pub reserved: u64,
    #[prost(uint64, tag = "2")]
    pub published: u64,
    #[prost(uint64, tag = "3")]
    pub published_number: u64,
}

/// What a CRL needs, so that making one reads no journal.
#[derive(Clone, PartialEq, Message)]
pub struct RevokedRow {
    #[prost(uint64, tag = "1")]
    pub at: u64,
    #[prost(uint32, tag = "2")]
    pub reason: u32,
    #[prost(uint64, optional, tag = "3")]
    pub invalidity_date: Option<u64>,
    #[prost(uint64, tag = "4")]
    pub not_after: u64,
    /// It was an open intent: there is no certificate that a CRL could list.
    #[prost(bool, tag = "5")]
    pub unsigned: bool,
}

/// A certificate that renews another.
#[derive(Clone, PartialEq, Message)]
pub struct SuccessorRow {
    #[prost(bytes = "vec", tag = "1")]
    pub reference: Vec<u8>,
    /// When its intent was made.
    #[prost(uint64, tag = "2")]
    pub time: u64,
}

/// How new an issuer's revocations are.
#[derive(Clone, PartialEq, Message)]
pub struct RevocationSequenceRow {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
}

/// A key in the token: the records about it.
#[derive(Clone, PartialEq, Message)]
pub struct KeyRow {
    #[prost(uint64, tag = "1")]
    pub made: u64,
    /// The newest that retired it.
    #[prost(uint64, tag = "2")]
    pub retired: u64,
    #[prost(uint64, tag = "3")]
    pub policy: u64,
    /// Of the first record about it.
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
}

/// The newest record about a token's identity.
#[derive(Clone, PartialEq, Message)]
pub struct TokenIdentityRow {
    #[prost(uint64, tag = "1")]
    pub record: u64,
}
