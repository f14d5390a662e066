//! What the store says about itself.

use std::{path::PathBuf, time::Duration};

/// What opening found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// How many records the journal has.
    pub records: u64,
    /// A torn tail that was cut off.
    pub torn_tail: Option<TornTail>,
    /// What became of the index.
    pub index: IndexState,
    /// How many intents have neither signature nor end.
    pub open_intents: u64,
}

/// The end of the journal that a crash left unfinished. Nobody was ever told that it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Global offset where it began.
    pub offset: u64,
    /// How many octets.
    pub octets: u64,
    /// Where they were put aside.
    pub kept_as: PathBuf,
}

/// What became of the index when the store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// It was up to date.
    Intact,
    /// It lacked this many records, which were replayed.
    Replayed(u64),
    /// It was made anew from the journal, because of this.
    Rebuilt(String),
}

/// Upper bounds of the buckets of [`Statistics::sync_buckets`] in microseconds; one more bucket counts what is longer.
pub const SYNC_BUCKETS_MICROS: [u64; 8] = [100, 250, 500, 1_000, 5_000, 25_000, 100_000, 1_000_000];

/// Counters since the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Records in the journal.
    pub records: u64,
    /// Octets in the journal.
    pub octets: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Time spent in them.
    pub sync_sum: Duration,
    /// The longest one.
    pub sync_max: Duration,
    /// How many syncs took up to each bound of [`SYNC_BUCKETS_MICROS`], not cumulative.
    pub sync_buckets: [u64; 9],
    /// Changes that wait.
    pub queue: usize,
    /// Changes in the last batch.
    pub last_batch: usize,
    /// Changes refused because the queue was full.
    pub refused_busy: u64,
    /// A sync failed, and nothing is accepted until a restart.
    pub poisoned: bool,
}
