//! What people do together over a key: the PIN in shares among custodians, the transcript of a root ceremony, and a
//! key's statement about itself.
//!
//! Everything here is a function of its arguments: no I/O, no clock, no global randomness.

pub mod attestation;
pub mod attributes;
mod seal;
pub mod shares;
pub mod transcript;
