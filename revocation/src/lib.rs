//! Certificate status as two readers of the same facts: CRLs (RFC 5280 5) and OCSP responses (RFC 6960, RFC 9654).
//!
//! Everything here is a function of its arguments. Signing happens elsewhere: `prepare` gives the bytes to be signed,
//! `finish` puts the signature beside them.

pub mod crl;
pub mod ocsp;
mod reason;
mod tlv;

pub use reason::CrlReason;
