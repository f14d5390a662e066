//! The wall clock, under suspicion (design, invariant 12): issuing stops when it runs backwards or jumps ahead.

use crate::{error::Failure, limits};
use ca_core::time::UnixTime;
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use store::Store;
use tonic::Code;

/// What is wrong with the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockFault {
    /// It shows a time before the newest record, or went back.
    Behind,
    /// It is far ahead of the newest record, or jumped ahead.
    Ahead,
}

/// What is known about the time besides the wall clock.
#[derive(Clone, Copy, Debug)]
struct Witness {
    /// The wall clock at the start of this run.
    started: UnixTime,
    /// Seconds that the machine has counted since then, suspension included.
    counted: Duration,
    /// The newest record's time at the start; `None` when the journal was empty or the operator vouches for the clock.
    newest_at_start: Option<UnixTime>,
    /// The newest record's time now; `None` when the operator vouches for the clock.
    newest: Option<UnixTime>,
}

/// Reads the wall clock and compares it with what it must be.
pub struct Clock {
    started: UnixTime,
    booted: Duration,
    newest_at_start: Option<UnixTime>,
    accepted: bool,
    fault: Mutex<Option<ClockFault>>,
}

fn wall() -> UnixTime {
    UnixTime::from_secs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

/// Seconds since boot, which no setting of the clock changes.
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default())
}

impl Clock {
    /// Begins to watch. `accepted` is the operator's word that the clock is right, whatever the journal says.
    pub fn start(store: &Store, accepted: bool) -> Self {
        let newest = store.high_water();
        Self {
            started: wall(),
            booted: since_boot(),
            newest_at_start: (!accepted && newest.as_secs() > 0).then_some(newest),
            accepted,
            fault: Mutex::new(None),
        }
    }

    /// The time now, for validity and status, whatever one thinks of it.
    pub fn now(&self) -> UnixTime {
        wall()
    }

    /// What is wrong with the clock now.
    pub fn fault(&self, store: &Store) -> Option<ClockFault> {
        let witness = Witness {
            started: self.started,
            counted: since_boot().saturating_sub(self.booted),
            newest_at_start: self.newest_at_start,
            newest: (!self.accepted).then(|| store.high_water()),
        };
        let fault = judge(wall(), witness);
        let mut known = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != fault {
            tracing::warn!(?fault, "the clock's state changed");
            *known = fault;
        }
        fault
    }

    /// The time to stamp a record with: a clock that is wrong must not move the high-water mark.
    pub fn stamp(&self, store: &Store) -> UnixTime {
        match self.fault(store) {
            None => wall(),
            Some(_) => store.high_water(),
        }
    }

    /// The time for a new certificate.
    ///
    /// # Errors
    /// UNAVAILABLE, reason CLOCK, while the clock is at fault.
    pub fn for_issuance(&self, store: &Store) -> Result<UnixTime, Failure> {
        let sentence = match self.fault(store) {
            None => return Ok(wall()),
            Some(ClockFault::Behind) => {
                "the server's clock is behind its own journal, so nothing is issued; set the clock right, or start with \
                 --accept-clock when it is right"
            }
            Some(ClockFault::Ahead) => {
                "the server's clock is far ahead of what is expected, so nothing is issued; set the clock right, or start \
                 with --accept-clock when it is right"
            }
        };
        Err(Failure::new(Code::Unavailable, "CLOCK", sentence).retry_after(Duration::from_secs(60)))
    }
}

fn judge(now: UnixTime, witness: Witness) -> Option<ClockFault> {
    let expected = witness.started.plus(witness.counted);
    let behind_journal = witness.newest.is_some_and(|newest| now.plus(limits::CLOCK_BEHIND) < newest);
    if behind_journal || now.plus(limits::CLOCK_DRIFT) < expected {
        return Some(ClockFault::Behind);
    }
    // Judged by the start: a run that was good at its start is watched by the machine's own seconds.
    let gap = witness.newest_at_start.is_some_and(|newest| witness.started > newest.plus(limits::CLOCK_GAP));
    if gap || now > expected.plus(limits::CLOCK_DRIFT) {
        return Some(ClockFault::Ahead);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: UnixTime = UnixTime::from_secs(2_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn witness() -> Witness {
        Witness { started: T, counted: Duration::ZERO, newest_at_start: Some(T), newest: Some(T) }
    }

    #[test]
    fn a_clock_behind_the_journal_is_found() {
        assert_eq!(judge(T, witness()), None);
        assert_eq!(judge(T.minus(Duration::from_secs(299)), witness()), None);
        assert_eq!(judge(T.minus(Duration::from_secs(301)), witness()), Some(ClockFault::Behind));
    }

    #[test]
    fn a_jump_within_a_run_is_found_and_a_long_run_is_none() {
        assert_eq!(judge(T.plus(DAY), witness()), Some(ClockFault::Ahead));
        let later = Witness { counted: DAY * 400, ..witness() };
        assert_eq!(judge(T.plus(DAY * 400), later), None);
        assert_eq!(judge(T.plus(DAY * 399), later), Some(ClockFault::Behind));
    }

    #[test]
    fn a_clock_far_ahead_at_the_start_is_found() {
        let started = T.plus(DAY * 90);
        let wrong = Witness { started, ..witness() };
        assert_eq!(judge(started, wrong), Some(ClockFault::Ahead));
        let vouched = Witness { newest_at_start: None, newest: None, ..wrong };
        assert_eq!(judge(started, vouched), None);
        let after_holidays = Witness { started: T.plus(DAY * 30), ..witness() };
        assert_eq!(judge(T.plus(DAY * 30), after_holidays), None);
    }

    #[test]
    fn the_operators_word_overrules_a_journal_from_the_future() {
        let future = Witness { newest: Some(T.plus(DAY * 20)), newest_at_start: Some(T.plus(DAY * 20)), ..witness() };
        assert_eq!(judge(T, future), Some(ClockFault::Behind));
        let vouched = Witness { newest: None, newest_at_start: None, ..future };
        assert_eq!(judge(T, vouched), None);
    }
}
