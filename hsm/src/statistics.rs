//! Counters of one token, for whoever exports metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A moment's figures. All but `queued`, `in_flight` and `stuck` only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Signatures made.
    pub signatures: u64,
    /// Requests of any kind answered with an error by a worker.
    pub failures: u64,
    /// Requests refused because the queue was full.
    pub refused: u64,
    /// Requests given up at their deadline.
    pub deadlines: u64,
    /// Answers that came after their deadline and were thrown away.
    pub late: u64,
    /// Recoveries begun after a failed call.
    pub recoveries: u64,
    /// Times the module was finalised and initialised again for this token.
    pub reinitialisations: u64,
    /// Logins tried, successful or not.
    pub logins: u64,
    /// Requests waiting.
    pub queued: u64,
    /// Requests being worked on.
    pub in_flight: u64,
    /// Workers whose call is past its deadline.
    pub stuck: u64,
    /// Time the token took for all signatures together.
    pub signing_time: Duration,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub signatures: AtomicU64,
    pub failures: AtomicU64,
    pub refused: AtomicU64,
    pub deadlines: AtomicU64,
    pub late: AtomicU64,
    pub recoveries: AtomicU64,
    pub reinitialisations: AtomicU64,
    pub logins: AtomicU64,
    pub signing_ns: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    pub fn signed(&self, took: Duration) {
        count(&self.signatures);
        self.signing_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The mean time of one signature; 1 ms before there was any.
    pub fn mean(&self) -> Duration {
        self.signing_ns
            .load(Relaxed)
            .checked_div(self.signatures.load(Relaxed))
            .map_or(Duration::from_millis(1), Duration::from_nanos)
    }

    pub fn snapshot(&self) -> Statistics {
        Statistics {
            signatures: self.signatures.load(Relaxed),
            failures: self.failures.load(Relaxed),
            refused: self.refused.load(Relaxed),
            deadlines: self.deadlines.load(Relaxed),
            late: self.late.load(Relaxed),
            recoveries: self.recoveries.load(Relaxed),
            reinitialisations: self.reinitialisations.load(Relaxed),
            logins: self.logins.load(Relaxed),
            signing_time: Duration::from_nanos(self.signing_ns.load(Relaxed)),
            ..Statistics::default()
        }
    }
}
