//! Who does what: the bounded queues, the signers with what they are doing, and the choice between them. Nothing here
//! blocks or talks; it is all under one lock.

use super::job::{Job, Place};
use super::line::{Flight, Line};
use super::outbox::Outbox;
use crate::mechanism::Capabilities;
use crate::wire::{self, Facts, Operation};
use crate::{Failure, FailureClass, HsmError};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many urgent jobs go ahead of a waiting ordinary one: status outranks enrollment, but strangers who ask for
/// status must not stop a line.
const URGENT_RUN: u32 = 4;
/// What a failure costs a token in the choice between several; it is forgotten over the next good answers.
const PENALTY: f64 = 8.0;

/// Whether a token can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Signers start, for the first time or after a loss. Requests wait.
    Starting,
    /// It signs.
    Up,
    /// It is away; tried again at intervals. Requests are answered at once.
    Down(HsmError),
    /// A wrong PIN was tried; nothing is tried until an operator says so.
    LockedOut,
}

pub(super) struct Unit {
    pub state: TokenState,
    pub facts: Option<Facts>,
    pub capabilities: Option<Arc<Capabilities>>,
    /// Rises with failures, falls with good answers; 0 is healthy.
    pub strain: f64,
    /// When it rose last: half of it is forgotten each second, or a token that gets no work would never be well.
    strained_at: Instant,
    /// When a token that is down is tried next.
    pub next_try: Instant,
}

impl Unit {
    fn strain_at(&self, now: Instant) -> f64 {
        self.strain * (-now.saturating_duration_since(self.strained_at).as_secs_f64()).exp2()
    }
}

/// A request that was not taken, and why.
pub(super) type Refusal = Box<(Job, HsmError)>;

/// What is to be done once the lock is free.
#[derive(Default)]
pub(super) struct Errands {
    pub sends: Vec<(u64, Arc<Outbox>, Vec<u8>)>,
    pub refused: Vec<(Job, HsmError)>,
}

pub(super) struct Pool {
    pub units: Vec<Unit>,
    pub lines: BTreeMap<u64, Line>,
    urgent: VecDeque<Job>,
    ordinary: VecDeque<Job>,
    /// For one token or signer only: few, and not in anybody's way.
    placed: Vec<Job>,
    urgent_run: u32,
    bound: usize,
    next: u64,
    pub closed: bool,
}

/// [`wire::ToSigner::Work`], by reference.
#[derive(Serialize)]
enum Outgoing<'a> {
    Work { id: u64, operation: &'a Operation },
}

impl Pool {
    pub fn new(units: usize, bound: usize) -> Self {
        let unit = || Unit {
            state: TokenState::Starting,
            facts: None,
            capabilities: None,
            strain: 0.0,
            strained_at: Instant::now(),
            next_try: Instant::now(),
        };
        Self {
            units: std::iter::repeat_with(unit).take(units).collect(),
            lines: BTreeMap::new(),
            urgent: VecDeque::new(),
            ordinary: VecDeque::new(),
            placed: Vec::new(),
            urgent_run: 0,
            bound,
            next: 0,
            closed: false,
        }
    }

    /// Capabilities to prepare a request for: a token's that is there.
    pub fn capabilities(&self) -> Option<Arc<Capabilities>> {
        let up = self.units.iter().find(|u| u.state == TokenState::Up && u.capabilities.is_some());
        up.or_else(|| self.units.iter().find(|u| u.capabilities.is_some())).and_then(|u| u.capabilities.clone())
    }

    /// Another token than `unit` is there.
    pub fn has_other(&self, unit: usize) -> bool {
        self.units.iter().enumerate().any(|(i, u)| i != unit && u.state == TokenState::Up)
    }

    /// Why no token can be used now; the one that is back first speaks.
    fn away(&self, only: Option<usize>) -> Option<HsmError> {
        let now = Instant::now();
        let mut answer: Option<(Duration, HsmError)> = None;
        for (index, unit) in self.units.iter().enumerate() {
            if only.is_some_and(|o| o != index) {
                continue;
            }
            let (left, error) = match &unit.state {
                TokenState::Up | TokenState::Starting => return None,
                TokenState::Down(error) => (unit.next_try.saturating_duration_since(now), error.clone()),
                TokenState::LockedOut => (Duration::from_secs(30), HsmError::PinLockedOut),
            };
            let retry_after = left.max(Duration::from_millis(50));
            if answer.as_ref().is_none_or(|(least, _)| retry_after < *least) {
                answer = Some((retry_after, unavailable(error, retry_after)));
            }
        }
        answer.map(|(_, error)| error)
    }

    /// Hands in a request, or gives it back with the reason.
    pub fn push(&mut self, job: Job) -> Result<(), Refusal> {
        if self.closed {
            return Err(Box::new((job, HsmError::Closed)));
        }
        let only = match job.place {
            Place::Any => None,
            Place::Unit(unit) => Some(unit),
            Place::Line(_) => {
                self.placed.push(job);
                return Ok(());
            }
        };
        if let Some(error) = self.away(only) {
            return Err(Box::new((job, error)));
        }
        let queue = if job.urgent { &mut self.urgent } else { &mut self.ordinary };
        let waiting = queue.len().max(self.placed.len());
        if waiting >= self.bound {
            let retry_after = self.estimate(waiting);
            return Err(Box::new((job, HsmError::Busy { retry_after })));
        }
        match only {
            Some(_) => self.placed.push(job),
            None => queue.push_back(job),
        }
        Ok(())
    }

    /// A request that a signer did not do, ahead of all others.
    pub fn push_again(&mut self, job: Job) -> Result<(), Refusal> {
        if self.closed {
            return Err(Box::new((job, HsmError::Closed)));
        }
        if let Some(error) = self.away(None) {
            return Err(Box::new((job, error)));
        }
        match (job.place, job.urgent) {
            (Place::Any, true) => self.urgent.push_front(job),
            (Place::Any, false) => self.ordinary.push_front(job),
            _ => self.placed.push(job),
        }
        Ok(())
    }

    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn estimate(&self, waiting: usize) -> Duration {
        let rate: f64 = self.lines.values().filter(|l| l.serving).map(|l| f64::from(l.sessions) / l.mean).sum();
        let seconds = if rate > 0.0 { waiting as f64 / rate } else { 1.0 };
        Duration::from_secs_f64(seconds.clamp(0.01, 10.0))
    }

    /// Gives waiting requests to signers that have room.
    pub fn pump(&mut self) -> Errands {
        let mut errands = Errands::default();
        let mut kept = Vec::new();
        for job in std::mem::take(&mut self.placed) {
            match self.choose(&job) {
                Some(line) => self.give(line, job, &mut errands),
                None => kept.push(job),
            }
        }
        self.placed = kept;
        loop {
            let first_ordinary = self.urgent.is_empty() || (self.urgent_run >= URGENT_RUN && !self.ordinary.is_empty());
            let queue = if first_ordinary { &self.ordinary } else { &self.urgent };
            let Some(line) = queue.front().and_then(|job| self.choose(job)) else { return errands };
            let queue = if first_ordinary { &mut self.ordinary } else { &mut self.urgent };
            let Some(job) = queue.pop_front() else { return errands };
            self.urgent_run = if first_ordinary { 0 } else { self.urgent_run.saturating_add(1) };
            self.give(line, job, &mut errands);
        }
    }

    /// The signer that will be done first, of those that may.
    fn choose(&self, job: &Job) -> Option<u64> {
        if let Place::Line(line) = job.place {
            return self.lines.contains_key(&line).then_some(line);
        }
        let may = |line: &Line| {
            line.serving
                && !line.retiring
                && line.has_room()
                && (job.place == Place::Any || job.place == Place::Unit(line.unit))
        };
        // Better the token that failed than none that has room: the request would hold up those behind it.
        let avoided = |line: &Line| job.place == Place::Any && job.avoid == Some(line.unit);
        let now = Instant::now();
        let weight = |line: &Line| line.wait() * (1.0 + self.units.get(line.unit).map_or(0.0, |u| u.strain_at(now)));
        let lines = self.lines.iter().filter(|(_, line)| may(line));
        let order = |a: &Line, b: &Line| avoided(a).cmp(&avoided(b)).then(weight(a).total_cmp(&weight(b)));
        lines.min_by(|(_, a), (_, b)| order(a, b)).map(|(number, _)| *number)
    }

    fn give(&mut self, number: u64, mut job: Job, errands: &mut Errands) {
        let Some(line) = self.lines.get_mut(&number) else { return errands.refused.push((job, HsmError::Closed)) };
        let capabilities = self.units.get(line.unit).and_then(|unit| unit.capabilities.clone());
        let Some(capabilities) = capabilities else { return errands.refused.push((job, HsmError::Closed)) };
        let fits = job.prepared.as_ref().is_some_and(|(made_for, _)| Arc::ptr_eq(made_for, &capabilities));
        if !fits {
            match job.task.prepare(&capabilities) {
                Ok(operation) => job.prepared = Some((capabilities, operation)),
                Err(error) => return errands.refused.push((job, error)),
            }
        }
        let Some((_, operation)) = &job.prepared else { return errands.refused.push((job, HsmError::Closed)) };
        self.next += 1;
        let id = self.next;
        let message = Outgoing::Work { id, operation };
        let place = match errands.sends.iter().position(|(to, ..)| *to == number) {
            Some(place) => place,
            None => {
                errands.sends.push((number, line.outbox.clone(), Vec::new()));
                errands.sends.len() - 1
            }
        };
        let encoded = errands.sends.get_mut(place).map_or(Ok(()), |(_, _, frames)| wire::put(frames, &message));
        match encoded {
            Ok(()) => {
                job.attempts += 1;
                line.flights.insert(id, Flight { job, sent: Instant::now() });
            }
            Err(error) => errands.refused.push((job, error)),
        }
    }

    /// Takes back a request that a signer has answered.
    pub fn landed(&mut self, line: u64, id: u64) -> Option<Flight> {
        let line = self.lines.get_mut(&line)?;
        let flight = line.flights.remove(&id)?;
        line.heard = Instant::now();
        if flight.job.task.is_slow() {
            line.slow_ended = line.heard;
        }
        Some(flight)
    }

    pub fn healthy(&mut self, unit: usize) {
        if let Some(unit) = self.units.get_mut(unit) {
            unit.strain *= 0.99;
        }
    }

    pub fn strained(&mut self, unit: usize) {
        if let Some(unit) = self.units.get_mut(unit) {
            let now = Instant::now();
            unit.strain = unit.strain_at(now) + PENALTY;
            unit.strained_at = now;
        }
    }

    /// Everything that waits and is past its deadline, or cannot be done as no token is there.
    pub fn expired(&mut self) -> Vec<(Job, HsmError)> {
        let now = Instant::now();
        let mut expired = Vec::new();
        let away = self.away(None);
        let mut sieve = |job: Job| {
            let error = if job.due <= now {
                job.deadline()
            } else if let (Some(error), Place::Any) = (&away, job.place) {
                error.clone()
            } else {
                return Some(job);
            };
            expired.push((job, error));
            None
        };
        for queue in [&mut self.urgent, &mut self.ordinary] {
            if away.is_some() || queue.iter().any(|job| job.due <= now) {
                *queue = std::mem::take(queue).into_iter().filter_map(&mut sieve).collect();
            }
        }
        if self.placed.iter().any(|job| job.due <= now) {
            self.placed = std::mem::take(&mut self.placed).into_iter().filter_map(&mut sieve).collect();
        }
        expired
    }

    /// Everything that waits, when the token is closed.
    pub fn drain(&mut self) -> Vec<Job> {
        let waiting = std::mem::take(&mut self.urgent).into_iter().chain(std::mem::take(&mut self.ordinary));
        waiting.chain(std::mem::take(&mut self.placed)).collect()
    }

    pub fn queued(&self) -> usize {
        self.urgent.len() + self.ordinary.len() + self.placed.len()
    }

    /// No request waits or is being done.
    pub fn is_idle(&self) -> bool {
        self.queued() == 0 && self.lines.values().all(|line| line.flights.is_empty())
    }
}

/// A caller can do nothing about it but come again.
fn unavailable(error: HsmError, retry_after: Duration) -> HsmError {
    let failure = match error {
        HsmError::Unavailable { failure, .. } => failure,
        other => Some(Failure::ours("the token", &other.to_string(), FailureClass::TokenGone)),
    };
    HsmError::Unavailable { retry_after, failure }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::super::job::Task;
    use super::*;
    use crate::wire::Answer;
    use cryptoki::mechanism::MechanismType;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Receiver, channel};

    const LONG: Duration = Duration::from_secs(60);

    /// A pool of tokens with one signer each.
    fn pool(units: usize, bound: usize) -> Pool {
        let mut pool = Pool::new(units, bound);
        for (index, unit) in pool.units.iter_mut().enumerate() {
            unit.state = TokenState::Up;
            unit.capabilities = Some(Arc::new(Capabilities::new(vec![MechanismType::ECDSA])));
            let (stream, _) = UnixStream::pair().unwrap();
            let mut line = Line::new(index, Outbox::new(stream), 1);
            line.serving = true;
            pool.lines.insert(index as u64, line);
        }
        pool
    }

    fn job(urgent: bool, after: Duration) -> (Job, Receiver<Result<Answer, HsmError>>) {
        let (sender, receiver) = channel();
        let operation = if urgent { Operation::Probe } else { Operation::List };
        let done = Box::new(move |r| sender.send(r).unwrap());
        (Job::new(Task::Other(operation), Place::Any, urgent, after, done), receiver)
    }

    #[test]
    fn a_full_queue_refuses_at_once_and_urgent_jobs_still_pass() {
        let mut pool = pool(1, 2);
        for _ in 0..2 {
            assert!(pool.push(job(false, LONG).0).is_ok());
        }
        let error = pool.push(job(false, LONG).0).err().unwrap().1;
        assert!(matches!(error, HsmError::Busy { .. }), "{error}");
        assert!(error.retry_after().unwrap() >= Duration::from_millis(10));
        assert!(pool.push(job(true, LONG).0).is_ok());
    }

    #[test]
    fn urgent_jobs_go_first_and_starve_nobody() {
        let mut pool = pool(1, 64);
        for n in 0..12 {
            assert!(pool.push(job(n >= 4, LONG).0).is_ok());
        }
        pool.lines.get_mut(&0).unwrap().mean = 1e-5;
        assert_eq!(pool.pump().sends.len(), 1, "one write for all");
        let mut order: Vec<_> = pool.lines[&0].flights.iter().map(|(id, f)| (*id, f.job.urgent)).collect();
        order.sort_unstable();
        let (u, o) = (true, false);
        let order: Vec<bool> = order.into_iter().map(|(_, urgent)| urgent).collect();
        assert_eq!(order, [u, u, u, u, o, u, u, u, u, o, o, o]);
    }

    #[test]
    fn a_slow_signer_is_not_given_much_ahead() {
        let mut pool = pool(1, 64);
        pool.lines.get_mut(&0).unwrap().mean = 0.5;
        for _ in 0..10 {
            assert!(pool.push(job(false, LONG).0).is_ok());
        }
        pool.pump();
        assert_eq!(pool.lines[&0].flights.len(), 2);
        assert_eq!(pool.queued(), 8);
    }

    #[test]
    fn the_token_that_failed_is_avoided_while_there_is_another() {
        let mut pool = pool(2, 64);
        let mut first = job(false, LONG).0;
        first.avoid = Some(0);
        assert_eq!(pool.choose(&first), Some(1));
        pool.units[1].state = TokenState::Down(HsmError::Closed);
        pool.lines.remove(&1);
        assert_eq!(pool.choose(&first), Some(0), "better this one than none");
        first.place = Place::Unit(0);
        pool.units[1].state = TokenState::Up;
        assert_eq!(pool.choose(&first), Some(0), "it is for that one alone");
    }

    #[test]
    fn strain_moves_the_load_to_the_healthy_token() {
        let mut pool = pool(2, 256);
        pool.strained(0);
        for _ in 0..4 {
            assert!(pool.push(job(false, LONG).0).is_ok());
        }
        for line in pool.lines.values_mut() {
            line.mean = 1e-4;
        }
        pool.pump();
        assert_eq!((pool.lines[&0].flights.len(), pool.lines[&1].flights.len()), (0, 4));
    }

    #[test]
    fn strain_is_forgotten() {
        let mut pool = pool(2, 64);
        pool.strained(0);
        let unit = pool.units.first().unwrap();
        let later = |seconds| unit.strain_at(unit.strained_at + Duration::from_secs(seconds));
        assert!(later(0) > 7.9 && later(1) < 4.1 && later(20) < 0.001);
    }

    #[test]
    fn nothing_waits_for_a_token_that_is_away() {
        let mut pool = pool(1, 64);
        assert!(pool.push(job(false, LONG).0).is_ok());
        pool.units[0].state = TokenState::Down(HsmError::TokenNotFound { wanted: "t".into() });
        let error = pool.push(job(true, LONG).0).err().unwrap().1;
        assert!(matches!(error, HsmError::Unavailable { .. }), "{error}");
        assert_eq!(pool.expired().len(), 1, "and what waited is answered");
        pool.units[0].state = TokenState::Starting;
        assert!(pool.push(job(false, LONG).0).is_ok(), "a start is waited for");
        assert!(pool.expired().is_empty());
    }

    #[test]
    fn a_job_past_its_deadline_is_answered() {
        let mut pool = pool(1, 64);
        assert!(pool.push(job(false, Duration::ZERO).0).is_ok());
        assert!(pool.push(job(false, LONG).0).is_ok());
        let expired = pool.expired();
        assert!(matches!(&expired[..], [(_, HsmError::Deadline { .. })]));
        assert_eq!(pool.queued(), 1);
    }
}
