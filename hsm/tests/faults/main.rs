//! The layer over a token that is broken on purpose. Short forms by default; `SEALWRIGHT_FAULTS=full` for the long ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::cast_precision_loss, reason = "rates")]

mod away;
mod codes;
mod load;
mod login;
mod refusals;
mod rig;
mod several;
mod storms;
