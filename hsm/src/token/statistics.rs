//! What is counted for each token, for whoever exports metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A moment's figures of one token, or of all together. All but `queued` and `in_flight` only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Signatures made, verified and let go.
    pub signatures: u64,
    /// Requests of any kind that a signer answered with an error.
    pub failures: u64,
    /// Requests refused at once: queue full, or no token there.
    pub refused: u64,
    /// Requests given up at their deadline.
    pub deadlines: u64,
    /// Answers that came after their deadline and were thrown away.
    pub late: u64,
    /// Requests that were given to a signer again after the first one failed.
    pub repeated: u64,
    /// Lost sessions, logins and handles that a signer mended.
    pub recoveries: u64,
    /// Signer processes started.
    pub starts: u64,
    /// Signer processes that ended without being told to.
    pub crashes: u64,
    /// Signer processes that were killed because they did not answer.
    pub hangs: u64,
    /// Logins allowed, successful or not.
    pub logins: u64,
    /// Wrong PINs.
    pub wrong_pins: u64,
    /// Signatures that did not verify, and were withheld.
    pub wrong_signatures: u64,
    /// Requests waiting (in all tokens together).
    pub queued: u64,
    /// Requests given to signers.
    pub in_flight: u64,
    /// Time inside the module for all signatures together.
    pub signing_time: Duration,
}

/// One finished request, for histograms and traces.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// The token's name: its label, with a number where two have the same.
    pub token: &'a str,
    /// `sign`, `find`, `generate`, ...
    pub operation: &'static str,
    /// From the request until a signer got it.
    pub queued: Duration,
    /// Inside the module.
    pub module: Duration,
    /// From the request until its answer, the check of the signature included.
    pub total: Duration,
    /// Whether it was done.
    pub done: bool,
}

/// Who is told about finished requests; must not block.
pub type Observer = Arc<dyn Fn(&Observation<'_>) + Send + Sync>;

#[derive(Default)]
pub(super) struct Counters {
    pub signatures: AtomicU64,
    pub failures: AtomicU64,
    pub refused: AtomicU64,
    pub deadlines: AtomicU64,
    pub late: AtomicU64,
    pub repeated: AtomicU64,
    pub recoveries: AtomicU64,
    pub starts: AtomicU64,
    pub crashes: AtomicU64,
    pub hangs: AtomicU64,
    pub logins: AtomicU64,
    pub wrong_pins: AtomicU64,
    pub wrong_signatures: AtomicU64,
    pub signing_ns: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    pub fn signed(&self, took: Duration) {
        count(&self.signatures);
        self.signing_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub fn snapshot(&self) -> Statistics {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        Statistics {
            signatures: read(&self.signatures),
            failures: read(&self.failures),
            refused: read(&self.refused),
            deadlines: read(&self.deadlines),
            late: read(&self.late),
            repeated: read(&self.repeated),
            recoveries: read(&self.recoveries),
            starts: read(&self.starts),
            crashes: read(&self.crashes),
            hangs: read(&self.hangs),
            logins: read(&self.logins),
            wrong_pins: read(&self.wrong_pins),
            wrong_signatures: read(&self.wrong_signatures),
            queued: 0,
            in_flight: 0,
            signing_time: Duration::from_nanos(read(&self.signing_ns)),
        }
    }
}

impl std::ops::AddAssign for Statistics {
    fn add_assign(&mut self, other: Self) {
        self.signatures += other.signatures;
        self.failures += other.failures;
        self.refused += other.refused;
        self.deadlines += other.deadlines;
        self.late += other.late;
        self.repeated += other.repeated;
        self.recoveries += other.recoveries;
        self.starts += other.starts;
        self.crashes += other.crashes;
        self.hangs += other.hangs;
        self.logins += other.logins;
        self.wrong_pins += other.wrong_pins;
        self.wrong_signatures += other.wrong_signatures;
        self.queued += other.queued;
        self.in_flight += other.in_flight;
        self.signing_time += other.signing_time;
    }
}
