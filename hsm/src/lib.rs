//! Turns a PKCS#11 token into keys that sign: sessions, login, recovery and error classes.
//!
//! Nothing outside this crate knows a `CKR_*` code or a handle. All calls of the token's library are made on threads
//! of this crate; callers hand in messages ([`SignRequest`], [`KeyRequest`]) and get answers, so that the same
//! interface can later lead to another process.

mod error;
mod init;
mod keys;
mod link;
mod mechanism;
mod module;
mod pin;
mod public;
mod queue;
mod statistics;
mod token;
mod uri;
mod worker;

pub use error::{Failure, FailureClass, HsmError};
pub use init::init_token;
pub use keys::{KeyAttributes, KeyId, KeyRequest, TokenKey};
pub use mechanism::ecdsa_der;
pub use pin::{Pin, PinError};
pub use statistics::Statistics;
pub use token::{SignRequest, Token, TokenConfig, TokenInfo};
pub use uri::{TokenUri, UriError};
