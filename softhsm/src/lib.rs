//! Throw-away tokens, of SoftHSM and for tests of kryoptic too. Never for keys that matter: both keep them in files.

mod kryoptic;
mod provision;
pub mod test;

pub use kryoptic::{find_kryoptic, find_openssl};
pub use provision::{Kind, SoftHsmError, ThrowawayToken, find_module, write_configuration};
