//! The device's TPM 2.0, spoken to directly: a transport, the few commands that are needed, and a key that signs.
//!
//! "Part 2" and "Part 3" are the TPM 2.0 Library Specification's. No library and no daemon of the TPM is needed; on
//! Linux `/dev/tpmrm0` is, the kernel's resource manager.

pub mod attestation;
pub mod commands;
mod endorsement;
pub mod error;
pub mod key;
pub mod transport;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
pub(super) mod swtpm;

pub use error::TpmError;
pub use key::TpmKey;
pub use transport::TpmAddress;
