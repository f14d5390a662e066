//! The journal, which is the truth, and its index.
//!
//! A change is decided on everything before it, its records are written and synced, then the index follows, and only
//! then is anybody told. Changes that wait together share one sync. The index holds keys and journal positions; it is
//! made anew from the journal whenever it is missing, behind or damaged.
//!
//! In the directory: `journal/<global offset>.swj` the journal; `durable` how far it was durable at least; `index/`
//! the index; `lock` the exclusive lock; `journal/torn-<offset>` what a crash left unfinished, set aside.

pub mod change;
mod commit;
mod entry;
mod error;
mod event;
mod index;
mod journal;
mod query;
mod read;
mod rebuild;
mod recovery;
mod report;
mod show;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod view;

pub use change::{
    Abort, AddIssuer, AllowWrappedBackup, Change, Confirm, ConfirmCause, CreateToken, DisablePrincipal, ExistingDevice,
    Intend, Intended, Issue, PublishCrl, RecordKey, ReserveCrlNumber, RetireKey, Revoke, RevokeTarget, SetIssuerState,
    SetOcspResponder, SetServerIdentity, SetTokenIdentity,
};
pub use entry::*;
pub use error::{DeviceConflict, OpenError, Place, StoreError};
pub use rebuild::rebuild;
pub use report::{IndexState, OpenReport, SYNC_BUCKETS_MICROS, Statistics, TornTail};
pub use show::{Records, ShownRecord, read_records};
pub use store::{OpenOptions, Store};

/// Verifying the whole chain.
pub mod verify {
    pub use crate::journal::verify::{Damage, Progress, Verified, verify};
}
