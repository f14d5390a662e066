//! Throw-away SoftHSM tokens for development and tests. Never for keys that matter: SoftHSM keeps them in files.

mod provision;
pub mod test;

pub use provision::{SoftHsmError, ThrowawayToken, find_module, write_configuration};
