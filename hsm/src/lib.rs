//! Turns PKCS#11 tokens into keys that sign: processes, sessions, login, recovery and error classes.
//!
//! Three kinds of process share this crate. The **service** holds a [`Token`]: queues, deadlines, the choice of a
//! process, and the check of every signature. A **keeper** ([`keeper::run`]) has the PINs and starts and kills
//! signers. A **signer** ([`signer::run`]) has the vendor's module and one token's PIN. The service has neither.
//!
//! ```text
//! service ── SEQPACKET: start, kill ──► keeper ── starts, hands over PIN ──► signer ── PKCS#11 ──► token
//!    ▲                                     │ the other end of the socket pair  ▲
//!    └─────────────────────────────────────┘                                   │
//!    └────────────── stream of frames: work, answers, permission to log in ────┘
//! ```
//!
//! Nothing outside this crate knows a `CKR_*` code or a handle.

pub mod check;
mod ckr;
mod epoch;
mod error;
mod generate;
pub mod keeper;
mod keys;
mod mechanism;
mod pin;
mod process;
mod public;
pub mod signer;
mod token;
mod uri;
mod wire;
mod wrapping;

pub use ckr::FailureClass;
pub use error::{Failure, HsmError, Text};
pub use keys::{KeyAttributes, KeyId, KeyRequest, TokenKey};
pub use pin::{Combine, Pin, PinError, PinSource};
pub use process::{Program, keep_secrets};
pub use token::{
    Identity, Observation, Observer, SignRequest, Statistics, Token, TokenConfig, TokenInfo, TokenState, TokenStatus,
    TokensConfig, init_token, unlock,
};
pub use uri::{TokenUri, UriError};
pub use wire::Mechanism;
