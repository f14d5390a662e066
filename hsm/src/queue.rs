//! The bounded queue between callers and workers, and the deadlines of what is in it.

use crate::HsmError;
use crate::module::lock;
use crate::statistics::{Counters, Statistics, count};
use crate::worker::{Answer, Operation};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) type Done = Box<dyn FnOnce(Result<Answer, HsmError>) + Send>;

pub(crate) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    bound: usize,
    counters: Arc<Counters>,
}

/// How many urgent jobs go ahead of a waiting ordinary one: status outranks enrollment, but strangers who ask for
/// status must not stop a line.
const URGENT_RUN: u32 = 4;

struct State {
    urgent: VecDeque<Job>,
    ordinary: VecDeque<Job>,
    /// Urgent jobs taken since the last ordinary one.
    urgent_run: u32,
    /// One place per worker.
    places: Vec<Option<Place>>,
    closed: bool,
}

struct Job {
    operation: Operation,
    due: Due,
    done: Done,
}

/// What a worker is busy with. `done` is gone once the deadline was told.
struct Place {
    due: Due,
    done: Option<Done>,
}

#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    after: Duration,
}

/// Calls back; a panicking callback must not take a worker with it.
fn tell(done: Done, result: Result<Answer, HsmError>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("the receiver of a token's answer panicked");
    }
}

impl State {
    fn next(&mut self) -> Option<Job> {
        if self.urgent_run >= URGENT_RUN
            && let Some(job) = self.ordinary.pop_front()
        {
            self.urgent_run = 0;
            return Some(job);
        }
        match self.urgent.pop_front() {
            Some(job) => {
                self.urgent_run = self.urgent_run.saturating_add(1);
                Some(job)
            }
            None => {
                self.urgent_run = 0;
                self.ordinary.pop_front()
            }
        }
    }
}

impl Queue {
    pub fn new(bound: usize, workers: usize, counters: Arc<Counters>) -> Self {
        let places = (0..workers).map(|_| None).collect();
        let state = State {
            urgent: VecDeque::new(),
            ordinary: VecDeque::with_capacity(bound),
            urgent_run: 0,
            places,
            closed: false,
        };
        Self { state: Mutex::new(state), work: Condvar::new(), bound, counters }
    }

    /// Hands in a job; a refusal calls `done` before this returns. Urgent jobs have room of their own and go first.
    pub fn push(&self, operation: Operation, urgent: bool, after: Duration, done: Done) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let refusal = if state.closed {
            Some(HsmError::Closed)
        } else if !state.places.is_empty() && state.places.iter().all(|p| p.as_ref().is_some_and(|p| p.done.is_none()))
        {
            // Every worker is past its deadline: waiting behind them only delays the answer.
            Some(HsmError::away(None))
        } else {
            let waiting = if urgent { state.urgent.len() } else { state.ordinary.len() };
            (waiting >= self.bound).then(|| HsmError::Busy { retry_after: self.estimate(waiting, state.places.len()) })
        };
        if let Some(error) = refusal {
            drop(state);
            count(&self.counters.refused);
            return tell(done, Err(error));
        }
        let job = Job { operation, due: Due { at: now + after, after }, done };
        if urgent {
            state.urgent.push_back(job)
        } else {
            state.ordinary.push_back(job)
        }
        drop(state);
        self.work.notify_one();
    }

    fn estimate(&self, waiting: usize, workers: usize) -> Duration {
        let turns = u32::try_from(waiting / workers.max(1)).unwrap_or(u32::MAX);
        self.counters.mean().saturating_mul(turns).clamp(Duration::from_millis(10), Duration::from_secs(10))
    }

    /// The next job for worker `index`; `None` when the queue is closed.
    pub fn take(&self, index: usize) -> Option<Operation> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            let Some(job) = state.next() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if job.due.at <= Instant::now() {
                drop(state);
                self.give_up(job.done, job.due);
                state = lock(&self.state);
                continue;
            }
            if let Some(place) = state.places.get_mut(index) {
                *place = Some(Place { due: job.due, done: Some(job.done) });
            }
            return Some(job.operation);
        }
    }

    /// Answers the job of worker `index`, unless its deadline was told already.
    pub fn finish(&self, index: usize, result: Result<Answer, HsmError>) {
        if result.is_err() {
            count(&self.counters.failures);
        }
        let place = lock(&self.state).places.get_mut(index).and_then(Option::take);
        match place.and_then(|p| p.done) {
            Some(done) => tell(done, result),
            None => count(&self.counters.late),
        }
    }

    /// Answers everything that is past its deadline.
    pub fn expire(&self) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let mut expired = Vec::new();
        for place in state.places.iter_mut().flatten() {
            if place.due.at <= now
                && let Some(done) = place.done.take()
            {
                expired.push((done, place.due));
            }
        }
        let State { urgent, ordinary, .. } = &mut *state;
        for waiting in [urgent, ordinary] {
            if waiting.iter().all(|job| job.due.at > now) {
                continue;
            }
            // Deadlines differ by kind of job, so look at all; the queue is bounded.
            let (late, kept) = std::mem::take(waiting).into_iter().partition(|job| job.due.at <= now);
            *waiting = kept;
            let late: VecDeque<Job> = late;
            expired.extend(late.into_iter().map(|job| (job.done, job.due)));
        }
        drop(state);
        for (done, due) in expired {
            self.give_up(done, due);
        }
    }

    fn give_up(&self, done: Done, due: Due) {
        count(&self.counters.deadlines);
        tell(done, Err(HsmError::Deadline { after: due.after }));
    }

    /// Ends the workers and answers what waits.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let waiting: Vec<Job> = std::mem::take(&mut state.urgent).into_iter().collect();
        let ordinary = std::mem::take(&mut state.ordinary);
        drop(state);
        self.work.notify_all();
        for job in waiting.into_iter().chain(ordinary) {
            tell(job.done, Err(HsmError::Closed));
        }
    }

    pub fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    pub fn statistics(&self) -> Statistics {
        let state = lock(&self.state);
        let busy = state.places.iter().flatten();
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Statistics {
            queued: number(state.urgent.len() + state.ordinary.len()),
            in_flight: number(busy.clone().count()),
            stuck: number(busy.filter(|p| p.done.is_none()).count()),
            ..self.counters.snapshot()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    const LONG: Duration = Duration::from_secs(60);

    fn queue(bound: usize) -> Queue {
        Queue::new(bound, 1, Arc::default())
    }

    fn push(queue: &Queue, urgent: bool, after: Duration) -> Receiver<Result<Answer, HsmError>> {
        let (sender, receiver) = channel();
        let operation = if urgent { Operation::Probe } else { Operation::List };
        queue.push(operation, urgent, after, Box::new(move |r| sender.send(r).unwrap()));
        receiver
    }

    #[test]
    fn a_full_queue_refuses_at_once_and_urgent_jobs_still_pass() {
        let queue = queue(2);
        let waiting = [push(&queue, false, LONG), push(&queue, false, LONG)];
        let refused = push(&queue, false, LONG).try_recv().unwrap().unwrap_err();
        assert!(matches!(refused, HsmError::Busy { .. }), "{refused}");
        assert!(refused.retry_after().unwrap() >= Duration::from_millis(10));
        let urgent = push(&queue, true, LONG);
        assert!(urgent.try_recv().is_err());
        assert!(matches!(queue.take(0), Some(Operation::Probe)));
        assert!(matches!(queue.statistics(), Statistics { queued: 2, in_flight: 1, refused: 1, .. }));
        queue.close();
        for receiver in waiting {
            assert_eq!(receiver.try_recv().unwrap().unwrap_err(), HsmError::Closed);
        }
    }

    #[test]
    fn urgent_jobs_go_first_and_starve_nobody() {
        let queue = queue(64);
        let waiting: Vec<_> = (0..12).map(|i| push(&queue, i >= 4, LONG)).collect();
        let order: Vec<bool> = (0..12).filter_map(|_| queue.take(0)).map(|o| matches!(o, Operation::Probe)).collect();
        let (u, o) = (true, false);
        assert_eq!(order, [u, u, u, u, o, u, u, u, u, o, o, o]);
        drop(waiting);
    }

    #[test]
    fn a_stuck_worker_is_counted_and_its_late_answer_is_dropped() {
        let queue = queue(4);
        let after = Duration::from_millis(5);
        let first = push(&queue, false, after);
        assert!(queue.take(0).is_some());
        let second = push(&queue, false, after);
        std::thread::sleep(after * 2);
        queue.expire();
        for receiver in [&first, &second] {
            assert_eq!(receiver.try_recv().unwrap().unwrap_err(), HsmError::Deadline { after });
        }
        assert_eq!(queue.statistics().stuck, 1);
        let refused = push(&queue, false, LONG).try_recv().unwrap().unwrap_err();
        assert!(matches!(refused, HsmError::Unavailable { .. }), "{refused}");
        queue.finish(0, Ok(Answer::Done));
        assert!(first.try_recv().is_err());
        let now = queue.statistics();
        assert_eq!((now.stuck, now.late, now.deadlines), (0, 1, 2));
        assert!(push(&queue, false, LONG).try_recv().is_err(), "accepted again");
    }

    #[test]
    fn a_job_past_its_deadline_never_reaches_the_token() {
        let queue = queue(4);
        let late = push(&queue, false, Duration::ZERO);
        let live = push(&queue, true, LONG);
        assert!(matches!(queue.take(0), Some(Operation::Probe)));
        queue.finish(0, Ok(Answer::Done));
        assert!(live.try_recv().unwrap().is_ok());
        let behind = push(&queue, false, LONG);
        assert!(matches!(queue.take(0), Some(Operation::List)));
        assert!(matches!(late.try_recv().unwrap(), Err(HsmError::Deadline { .. })));
        assert!(behind.try_recv().is_err());
    }
}
