//! The wall clock, under suspicion (design, invariant 12): issuing stops when it runs backwards or jumps ahead.

use crate::{error::Failure, limits};
use ca_core::time::UnixTime;
use std::{
    sync::Mutex,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use store::Store;
use tonic::Code;

/// What is wrong with the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockFault {
    /// It shows a time before the newest record.
    Behind,
    /// It went ahead of the monotonic clock.
    Ahead,
}

/// Reads the wall clock and compares it with what it must be.
pub struct Clock {
    start: (Instant, UnixTime),
    fault: Mutex<Option<ClockFault>>,
}

fn wall() -> UnixTime {
    UnixTime::from_secs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

impl Clock {
    /// Begins to watch.
    pub fn start() -> Self {
        Self { start: (Instant::now(), wall()), fault: Mutex::new(None) }
    }

    /// The time now, for validity and status, whatever one thinks of it.
    pub fn now(&self) -> UnixTime {
        wall()
    }

    /// What is wrong with the clock now.
    pub fn fault(&self, store: &Store) -> Option<ClockFault> {
        let fault = judge(wall(), self.start, Instant::now(), store.high_water());
        let mut known = self.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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
        match self.fault(store) {
            None => Ok(wall()),
            Some(fault) => Err(Failure::new(
                Code::Unavailable,
                "CLOCK",
                match fault {
                    ClockFault::Behind => {
                        "the server's clock is behind its own journal, so nothing is issued; set the clock right"
                    }
                    ClockFault::Ahead => {
                        "the server's clock jumped ahead, so nothing is issued; check it, then restart the service"
                    }
                },
            )
            .retry_after(Duration::from_secs(60))),
        }
    }
}

fn judge(now: UnixTime, start: (Instant, UnixTime), instant: Instant, high_water: UnixTime) -> Option<ClockFault> {
    if now.plus(limits::CLOCK_BEHIND) < high_water {
        return Some(ClockFault::Behind);
    }
    let expected = start.1.plus(instant.saturating_duration_since(start.0));
    if now > expected.plus(limits::CLOCK_AHEAD) {
        return Some(ClockFault::Ahead);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backwards_and_ahead_are_found() {
        let t = UnixTime::from_secs(2_000_000_000);
        let i = Instant::now();
        assert_eq!(judge(t, (i, t), i, t), None);
        assert_eq!(judge(t.minus(Duration::from_secs(299)), (i, t), i, t), None);
        assert_eq!(judge(t.minus(Duration::from_secs(301)), (i, t), i, t), Some(ClockFault::Behind));
        let ten_years = Duration::from_secs(10 * 366 * 86_400);
        assert_eq!(judge(t.plus(ten_years), (i, t), i, t), Some(ClockFault::Ahead));
        let later = i + Duration::from_secs(90_000);
        assert_eq!(judge(t.plus(Duration::from_secs(90_000)), (i, t), later, t), None);
    }
}
