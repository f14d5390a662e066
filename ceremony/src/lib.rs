//! What people do together over a key: the PIN in shares among custodians.
//!
//! Everything here is a function of its arguments: no I/O, no clock, no global randomness.

pub mod shares;
