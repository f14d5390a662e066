//! The X.509 vocabulary of Sealwright and the act of issuance as values.
//!
//! Nothing here does I/O, reads a clock or draws randomness: `now` and random octets are arguments, so the same
//! inputs give the same bytes.

pub mod alt_name;
pub mod authority;
pub mod certificate;
pub mod csr;
pub mod id;
pub mod issue;
pub mod issuer;
pub mod key;
pub mod lint;
pub mod name;
pub mod profile;
pub mod selection;
pub mod serial;
mod tbs;
pub mod time;
