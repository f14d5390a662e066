//! The X.509 vocabulary of Sealwright and the act of issuance as values.
//!
//! Nothing here does I/O, reads a clock or draws randomness: `now` and random octets are arguments, so the same
//! inputs give the same bytes.

pub mod certificate;
pub mod id;
pub mod key;
pub mod serial;
pub mod time;
