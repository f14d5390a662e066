//! A signer process as the service sees it: what it was given, how fast it is, and whether it hangs.

use super::job::Job;
use super::outbox::Outbox;
use crate::HsmError;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Work that a signer is given ahead: enough to hide the way to it, little enough that an urgent request, or a crash,
/// does not wait for or lose much.
const AHEAD: Duration = Duration::from_millis(2);
/// How long a signer may take to come up: some network HSMs take seconds for C_Initialize and C_Login, and one that is
/// killed in C_Login may have a wrong PIN counted.
pub(super) const START: Duration = Duration::from_secs(15);
/// Requests given ahead at most, to one signer.
const WINDOW: f64 = 64.0;
/// Weight of a new measurement in the mean time of a signature.
const WEIGHT: f64 = 0.1;

pub(super) struct Line {
    pub unit: usize,
    pub outbox: Arc<Outbox>,
    pub sessions: u32,
    /// Has told about its token.
    pub ready: bool,
    /// Proven; takes requests.
    pub serving: bool,
    /// Has signed for somebody.
    pub useful: bool,
    /// Takes no more requests.
    pub retiring: bool,
    /// Why it ends, where that is known before its end is seen.
    pub farewell: Option<HsmError>,
    pub started: Instant,
    /// When it answered last.
    pub heard: Instant,
    /// When it last ended something that may take minutes.
    pub slow_ended: Instant,
    pub flights: HashMap<u64, Flight>,
    /// Mean seconds of a request in the module.
    pub mean: f64,
}

/// A request that a signer has.
pub(super) struct Flight {
    pub job: Job,
    pub sent: Instant,
}

impl Line {
    pub fn new(unit: usize, outbox: Arc<Outbox>, sessions: u32) -> Self {
        Self {
            unit,
            outbox,
            sessions,
            ready: false,
            serving: false,
            useful: false,
            retiring: false,
            farewell: None,
            started: Instant::now(),
            heard: Instant::now(),
            slow_ended: Instant::now(),
            flights: HashMap::new(),
            mean: 1e-3,
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "at most 64")]
    pub fn has_room(&self) -> bool {
        let sessions = f64::from(self.sessions);
        let window = (AHEAD.as_secs_f64() / self.mean * sessions).clamp(sessions + 1.0, WINDOW.max(2.0 * sessions));
        (self.flights.len() as f64) < window
    }

    /// Seconds until one more request would be done.
    #[allow(clippy::cast_precision_loss, reason = "at most 128")]
    pub fn wait(&self) -> f64 {
        (self.flights.len() as f64 + 1.0) * self.mean / f64::from(self.sessions)
    }

    /// True when it should have answered: nothing at all for `patience`, or not the oldest request for `deadline` (as when
    /// one of several sessions hangs).
    pub fn hangs(&self, now: Instant, patience: Duration, deadline: Duration, slow: Duration) -> bool {
        if !self.serving {
            return now.saturating_duration_since(self.started) > deadline.max(START);
        }
        let Some(oldest) = self.flights.values().map(|f| f.sent).min() else { return false };
        let since = |other: Instant| now.saturating_duration_since(oldest.max(other));
        if self.flights.values().any(|f| f.job.task.is_slow()) {
            return since(self.slow_ended) > slow;
        }
        since(self.heard) > patience || since(self.slow_ended) > deadline
    }

    /// Serves, has nothing to do, and has not been heard for so long.
    pub fn is_idle_since(&self, now: Instant, time: Duration) -> bool {
        self.serving
            && !self.retiring
            && self.flights.is_empty()
            && now.saturating_duration_since(self.heard.max(self.started)) >= time
    }

    pub fn measured(&mut self, took: Duration) {
        self.mean += WEIGHT * (took.as_secs_f64().max(1e-6) - self.mean);
    }
}
