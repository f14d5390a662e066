//! What the records say: the payloads of the journal. A field is never given another meaning; what is new gets a new
//! tag or a new kind.

mod keys;

pub use keys::*;

use crate::error::StoreError;
use prost::Message;
use std::collections::BTreeMap;

/// The issuer and serial number of a certificate.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Reference {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(bytes = "vec", tag = "2")]
    pub serial: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct IssuerAdded {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(bytes = "vec", tag = "2")]
    pub certificate: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "4")]
    pub key_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub ocsp_certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub ocsp_key_id: Vec<u8>,
    #[prost(string, tag = "7")]
    pub crl_url: String,
    #[prost(string, tag = "8")]
    pub ocsp_url: String,
    #[prost(string, tag = "9")]
    pub ca_issuers_url: String,
    #[prost(uint32, tag = "10")]
    pub state: u32,
    /// 0: the usual algorithm of its key.
    #[prost(uint32, tag = "11")]
    pub signature_algorithm: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct OcspResponderSet {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(bytes = "vec", tag = "2")]
    pub certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub key_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct IssuerStateSet {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(uint32, tag = "2")]
    pub state: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct ServerIdentitySet {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "2")]
    pub key_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Attestation {
    #[prost(string, tag = "1")]
    pub format: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub claims: BTreeMap<String, String>,
    #[prost(bytes = "vec", tag = "3")]
    pub evidence_sha256: Vec<u8>,
    #[prost(string, tag = "4")]
    pub trust_anchor: String,
}

/// `holder_kind` of a device.
pub const HOLDER_DEVICE: u32 = 1;
/// `holder_kind` of a principal.
pub const HOLDER_PRINCIPAL: u32 = 2;

#[derive(Clone, PartialEq, Message)]
pub struct IntentMade {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(bytes = "vec", tag = "2")]
    pub serial: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub tbs: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub algorithm: u32,
    #[prost(string, tag = "5")]
    pub profile: String,
    #[prost(bytes = "vec", tag = "6")]
    pub profile_sha256: Vec<u8>,
    #[prost(uint32, tag = "7")]
    pub holder_kind: u32,
    #[prost(string, tag = "8")]
    pub holder_id: String,
    #[prost(string, tag = "9")]
    pub manufacturer: String,
    #[prost(string, tag = "10")]
    pub model: String,
    #[prost(string, tag = "11")]
    pub serial_number: String,
    #[prost(uint32, tag = "12")]
    pub role: u32,
    #[prost(bool, tag = "13")]
    pub new_principal: bool,
    #[prost(string, tag = "14")]
    pub requester: String,
    #[prost(string, tag = "15")]
    pub idempotency_key: String,
    #[prost(bytes = "vec", tag = "16")]
    pub request_sha256: Vec<u8>,
    #[prost(bytes = "vec", tag = "17")]
    pub spki_sha256: Vec<u8>,
    #[prost(string, optional, tag = "18")]
    pub token_id: Option<String>,
    #[prost(bytes = "vec", optional, tag = "19")]
    pub anchor_sha256: Option<Vec<u8>>,
    #[prost(message, optional, tag = "20")]
    pub attestation: Option<Attestation>,
    #[prost(message, optional, tag = "21")]
    pub replaces: Option<Reference>,
    #[prost(uint64, tag = "22")]
    pub not_before: u64,
    #[prost(uint64, tag = "23")]
    pub not_after: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct CertificateIssued {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(bytes = "vec", tag = "2")]
    pub serial: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct IntentAborted {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(bytes = "vec", tag = "2")]
    pub serial: Vec<u8>,
    #[prost(string, tag = "3")]
    pub reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct CertificateInstalled {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(bytes = "vec", tag = "2")]
    pub serial: Vec<u8>,
    #[prost(string, tag = "3")]
    pub by: String,
    /// 1 confirmed, 2 first use.
    #[prost(uint32, tag = "4")]
    pub cause: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct CertificateRevoked {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(bytes = "vec", tag = "2")]
    pub serial: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub reason: u32,
    #[prost(uint64, optional, tag = "4")]
    pub invalidity_date: Option<u64>,
    #[prost(string, tag = "5")]
    pub by: String,
    #[prost(string, tag = "6")]
    pub comment: String,
}

/// CRLReason keyCompromise (RFC 5280 5.3.1).
pub const KEY_COMPROMISE: u32 = 1;

#[derive(Clone, PartialEq, Message)]
pub struct PrincipalDisabled {
    #[prost(string, tag = "1")]
    pub principal: String,
    #[prost(string, tag = "2")]
    pub by: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct TokenCreated {
    #[prost(string, tag = "1")]
    pub token_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub secret_sha256: Vec<u8>,
    #[prost(string, tag = "3")]
    pub profile: String,
    #[prost(bool, tag = "4")]
    pub for_device: bool,
    #[prost(string, tag = "5")]
    pub manufacturer: String,
    #[prost(string, tag = "6")]
    pub model: String,
    #[prost(string, tag = "7")]
    pub serial_number: String,
    #[prost(uint64, tag = "8")]
    pub expires_at: u64,
    #[prost(string, tag = "9")]
    pub by: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct CrlNumberReserved {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(uint64, tag = "2")]
    pub number: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct CrlPublished {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(uint64, tag = "2")]
    pub number: u64,
    #[prost(uint64, tag = "3")]
    pub this_update: u64,
    #[prost(uint64, tag = "4")]
    pub next_update: u64,
    #[prost(bytes = "vec", tag = "5")]
    pub sha256: Vec<u8>,
    #[prost(uint64, tag = "6")]
    pub sequence: u64,
}

/// Closes a change that was asked for with an idempotency key (an intent carries its own).
#[derive(Clone, PartialEq, Message)]
pub struct RequestAnswered {
    #[prost(string, tag = "1")]
    pub requester: String,
    #[prost(string, tag = "2")]
    pub idempotency_key: String,
    #[prost(bytes = "vec", tag = "3")]
    pub request_sha256: Vec<u8>,
    /// What the request was: one of the `ANSWERED_` numbers.
    #[prost(uint32, tag = "4")]
    pub kind: u32,
    #[prost(message, repeated, tag = "5")]
    pub certificates: Vec<Reference>,
    /// A principal's or a token's name.
    #[prost(string, tag = "6")]
    pub name: String,
    /// The record before it in the same change answers the same request, and this one adds certificates.
    #[prost(bool, tag = "7")]
    pub continues: bool,
}

pub const ANSWERED_REVOCATION: u32 = 1;
pub const ANSWERED_PRINCIPAL: u32 = 2;
pub const ANSWERED_TOKEN: u32 = 3;
pub const ANSWERED_CONFIRMATION: u32 = 4;

/// The payloads' format version.
const VERSION: u16 = 1;

macro_rules! events {
    ($($number:literal $name:ident $label:literal),* $(,)?) => {
        /// What one record says.
        #[allow(clippy::large_enum_variant, reason = "short-lived, and the large one is the frequent one")]
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event {
            $($name($name)),*
        }

        $(impl From<$name> for Event {
            fn from(event: $name) -> Self {
                Self::$name(event)
            }
        })*

        impl Event {
            /// The record's type.
            pub fn kind(&self) -> u16 {
                match self { $(Self::$name(_) => $number),* }
            }

            /// In words, for people.
            pub fn label(&self) -> &'static str {
                match self { $(Self::$name(_) => $label),* }
            }

            /// The payload.
            pub fn encode(&self) -> Vec<u8> {
                match self { $(Self::$name(event) => event.encode_to_vec()),* }
            }

            /// Reads a payload. `None` for what this program does not know.
            pub fn decode(kind: u16, version: u16, payload: &[u8]) -> Option<Self> {
                if version != VERSION {
                    return None;
                }
                match kind {
                    $($number => $name::decode(payload).ok().map(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

events! {
    1 IssuerAdded "issuer added",
    2 OcspResponderSet "OCSP responder set",
    3 IssuerStateSet "issuer state set",
    4 ServerIdentitySet "server identity set",
    5 IntentMade "certificate intended",
    6 CertificateIssued "certificate issued",
    7 IntentAborted "intent aborted",
    8 CertificateInstalled "certificate installed",
    9 CertificateRevoked "certificate revoked",
    10 PrincipalDisabled "principal disabled",
    11 TokenCreated "enrollment token created",
    12 CrlNumberReserved "CRL number reserved",
    13 CrlPublished "CRL published",
    14 RequestAnswered "request answered",
    15 KeyMade "key made",
    16 KeyRetired "key retired",
    17 KeyPolicy "key exception made",
    18 TokenIdentity "token identity set",
}

impl Event {
    /// The payload's format version.
    pub fn version(&self) -> u16 {
        VERSION
    }

    /// Reads the payload of a record whose hash was right.
    pub fn of(located: &crate::journal::reader::Located) -> Result<Self, StoreError> {
        let record = &located.record;
        Self::decode(record.kind, record.version, &record.payload).ok_or_else(|| {
            StoreError::Io(format!(
                "record {} is of kind {} version {}, which this program does not know; use the newer program",
                record.sequence, record.kind, record.version
            ))
        })
    }
}
