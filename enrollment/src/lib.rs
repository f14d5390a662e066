//! The registration authority: from request, evidence and order to an authorised issuance.
//!
//! The course is that of RFC 9334: a challenge goes out, evidence comes back, a verifier turns it into an
//! attestation result, a policy appraises the result, and [`authorise`] decides. Nothing here does I/O, reads a
//! clock or draws randomness: `now`, random octets and trust anchors are arguments.

pub mod attestation;
pub mod authorise;
pub mod renewal;
pub mod tpm2;
