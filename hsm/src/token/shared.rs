//! What the callers' threads, the readers and the supervisor share, and what happens to an answer.

use super::config::TokensConfig;
use super::job::{Job, Task};
use super::line::Flight;
use super::pool::{Errands, Pool, TokenState};
use super::statistics::{Counters, Observation, count};
use super::supervisor::Event;
use crate::HsmError;
use crate::wire::{self, Answer, Frames, FromSigner, Operation, ToSigner};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Messages beside answers that a signer may send in a second: each lost session is one.
const TALK: u32 = 10_000;

pub(super) struct Shared {
    pub config: TokensConfig,
    pool: Mutex<Pool>,
    /// A token's state changed.
    pub changed: Condvar,
    pub counters: Vec<Counters>,
    /// The tokens' names: their labels, with a number where two have the same.
    pub names: Vec<String>,
    pub events: Sender<Event>,
}

impl Shared {
    pub fn new(config: TokensConfig, events: Sender<Event>) -> Self {
        let mut names: Vec<String> = Vec::new();
        for token in &config.tokens {
            let name = token.uri.token().or(token.uri.serial()).unwrap_or("token");
            // Copies may have one label; metrics and logs must tell them apart.
            let same = names.iter().filter(|other| other.split('#').next() == Some(name)).count();
            names.push(if same == 0 { name.to_owned() } else { format!("{name}#{}", same + 1) });
        }
        Self {
            names,
            pool: Mutex::new(Pool::new(config.tokens.len(), config.queue)),
            changed: Condvar::new(),
            counters: config.tokens.iter().map(|_| Counters::default()).collect(),
            config,
            events,
        }
    }

    /// Every change under this lock leaves the pool whole: a holder that panicked changed all or nothing.
    pub fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn counters(&self, unit: usize) -> &Counters {
        // Units are numbered by the configuration, and so are the counters.
        self.counters.get(unit).unwrap_or(&self.counters[0])
    }

    pub fn name(&self, unit: usize) -> &str {
        self.names.get(unit).map_or("token", String::as_str)
    }

    /// Hands in a request. A refusal is told before this returns.
    pub fn submit(&self, mut job: Job) {
        if let Task::Sign { .. } = job.task {
            let capabilities = self.pool().capabilities();
            if let Some(capabilities) = capabilities {
                match job.task.prepare(&capabilities) {
                    Ok(operation) => job.prepared = Some((capabilities, operation)),
                    Err(error) => return job.tell(Err(error)),
                }
            }
        }
        let mut pool = self.pool();
        match pool.push(job) {
            Ok(()) => {
                let errands = pool.pump();
                drop(pool);
                self.run(errands);
            }
            Err(refusal) => {
                drop(pool);
                let (mut job, error) = *refusal;
                count(&self.counters(0).refused);
                job.tell(Err(error));
            }
        }
    }

    /// Does what the pool wants done.
    pub fn run(&self, errands: Errands) {
        for (_, outbox, frames) in errands.sends {
            outbox.send(&frames);
        }
        for (mut job, error) in errands.refused {
            job.tell(Err(error));
        }
    }

    /// Gives waiting requests to whoever has room now.
    pub fn pump(&self) {
        let errands = self.pool().pump();
        self.run(errands);
    }

    /// Reads a signer's answers until its end.
    pub fn listen(&self, line: u64, unit: usize, mut stream: UnixStream) {
        let mut frames = Frames::up_to(wire::FROM_SIGNER);
        let mut landed = Vec::new();
        let (mut talk, mut since) = (0, Instant::now());
        while frames.fill(&mut stream).unwrap_or(false) {
            loop {
                match frames.next::<FromSigner>() {
                    Ok(Some(FromSigner::Answer { id, result, took })) => landed.push((id, result, took)),
                    Ok(Some(message)) if talk < TALK => {
                        talk += 1;
                        self.hear(line, unit, message);
                    }
                    Ok(None) => break,
                    nonsense => {
                        let error = nonsense.err().map_or("too much".to_owned(), |e| e.to_string());
                        tracing::error!(token = self.name(unit), error, "a signer sends nonsense; it is ended");
                        let _ = self.events.send(Event::Lost { line });
                        return;
                    }
                }
            }
            self.land(line, unit, &mut landed);
            if since.elapsed() > Duration::from_secs(1) {
                (talk, since) = (0, Instant::now());
            }
        }
        let _ = self.events.send(Event::Lost { line });
    }

    fn hear(&self, line: u64, unit: usize, message: FromSigner) {
        let name = self.name(unit);
        let event = match message {
            FromSigner::Ready(facts) => Event::Ready { line, facts },
            FromSigner::Failed(error) => Event::Failed { line, error },
            FromSigner::LoginWanted { low } => Event::LoginWanted { line, low },
            FromSigner::LoginEnded(result) => Event::LoginEnded { line, result },
            FromSigner::Recovered(what) => {
                count(&self.counters(unit).recoveries);
                self.pool().strained(unit);
                let what: String = what.chars().take(300).collect();
                tracing::warn!(token = name, after = what, "a signer went on with a new session, login or handle");
                return;
            }
            FromSigner::Notice(text) => {
                tracing::warn!(token = name, "{}", text.chars().take(300).collect::<String>());
                return;
            }
            FromSigner::Initialised(_) | FromSigner::Answer { .. } => return,
        };
        let _ = self.events.send(event);
    }

    /// First gives the signer its next work, then looks at what it has done.
    fn land(&self, line: u64, unit: usize, landed: &mut Vec<(u64, Result<Answer, HsmError>, Duration)>) {
        let mut flights = Vec::with_capacity(landed.len());
        let errands = {
            let mut pool = self.pool();
            for (id, result, took) in landed.drain(..) {
                let Some(flight) = pool.landed(line, id) else { continue };
                if result.is_ok()
                    && matches!(flight.job.task, Task::Sign { .. } | Task::Other(Operation::Sign(_)))
                    && let Some(line) = pool.lines.get_mut(&line)
                {
                    line.measured(took);
                    line.useful |= line.serving;
                }
                flights.push((flight, result, took));
            }
            pool.pump()
        };
        self.run(errands);
        for (flight, result, took) in flights {
            let result = self.judge(unit, &flight.job, result);
            if result.as_ref().is_err_and(HsmError::is_wrong_signature) {
                self.doubt(line);
            }
            self.finish(unit, flight, result, took);
        }
    }

    /// A handle that names another key signs wrong until it is looked up again.
    fn doubt(&self, line: u64) {
        let outbox = self.pool().lines.get(&line).map(|line| line.outbox.clone());
        let mut frame = Vec::new();
        if let Some(outbox) = outbox
            && wire::put(&mut frame, &ToSigner::Doubt).is_ok()
        {
            outbox.send(&frame);
        }
    }

    /// An answer's last station: the request is repeated or its caller told.
    pub fn finish(&self, unit: usize, flight: Flight, result: Result<Answer, HsmError>, took: Duration) {
        let Flight { mut job, sent } = flight;
        let counters = self.counters(unit);
        match &result {
            Ok(Answer::Signature(_)) => {
                counters.signed(took);
                self.pool().healthy(unit);
            }
            Ok(_) => {}
            Err(_) => count(&counters.failures),
        }
        if job.done.is_none() {
            return count(&counters.late);
        }
        if let Err(error) = &result
            && self.again(unit, &mut job, error)
        {
            return self.repeat(job);
        }
        self.observe(unit, &job, sent.saturating_duration_since(job.begun), took, result.is_ok());
        tracing::trace!(
            token = self.name(unit),
            operation = job.task.name(),
            attempts = job.attempts,
            module_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            total_us = u64::try_from(job.begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            done = result.is_ok(),
            "the token has answered"
        );
        job.tell(result);
    }

    fn observe(&self, unit: usize, job: &Job, queued: Duration, module: Duration, done: bool) {
        if let Some(observer) = &self.config.observer {
            let (token, operation, total) = (self.name(unit), job.task.name(), job.begun.elapsed());
            observer(&Observation { token, operation, queued, module, total, done });
        }
    }

    /// Lets no signature pass that was not checked.
    fn judge(&self, unit: usize, job: &Job, result: Result<Answer, HsmError>) -> Result<Answer, HsmError> {
        match (&job.task, result) {
            (Task::Sign { check, key }, Ok(Answer::Signature(signature))) => {
                if check.holds(&signature) {
                    return Ok(Answer::Signature(signature));
                }
                count(&self.counters(unit).wrong_signatures);
                tracing::error!(token = self.name(unit), %key, "the token's signature is wrong; it is withheld");
                Err(HsmError::WrongSignature)
            }
            (Task::Sign { key, .. }, Err(error @ HsmError::MalformedSignature { .. })) => {
                count(&self.counters(unit).wrong_signatures);
                tracing::error!(token = self.name(unit), %key, %error, "it is withheld");
                Err(error)
            }
            (Task::Sign { .. }, Ok(_)) => Err(HsmError::Process("an answer of the wrong kind".to_owned())),
            (_, other) => other,
        }
    }

    /// Whether the request goes to a signer once more.
    fn again(&self, unit: usize, job: &mut Job, error: &HsmError) -> bool {
        job.losses += u32::from(error.ends_signer());
        let mut pool = self.pool();
        let others = pool.has_other(unit);
        let again = job.may_repeat(error, others);
        if again || error.is_retryable() {
            pool.strained(unit);
        }
        job.avoid = Some(unit);
        again
    }

    fn repeat(&self, job: Job) {
        count(&self.counters(job.avoid.unwrap_or(0)).repeated);
        let pushed = self.pool().push_again(job);
        match pushed {
            Ok(()) => self.pump(),
            Err(refusal) => {
                let (mut job, error) = *refusal;
                job.tell(Err(error));
            }
        }
    }

    /// Tells everybody whose deadline has passed.
    pub fn expire(&self) {
        let now = Instant::now();
        let mut told = Vec::new();
        {
            let mut pool = self.pool();
            told.extend(pool.expired().into_iter().map(|(job, error)| (0, job, error)));
            for line in pool.lines.values_mut() {
                for flight in line.flights.values_mut().filter(|f| f.job.due <= now) {
                    if let Some(job) = flight.job.given_up() {
                        let error = job.deadline();
                        told.push((line.unit, job, error));
                    }
                }
            }
        }
        for (unit, mut job, error) in told {
            if matches!(error, HsmError::Deadline { .. }) {
                count(&self.counters(unit).deadlines);
            }
            self.observe(unit, &job, job.begun.elapsed(), Duration::ZERO, false);
            job.tell(Err(error));
        }
    }

    /// Waits until no token is starting, or for `longest`.
    pub fn settle(&self, longest: Duration) {
        let until = Instant::now() + longest;
        let mut pool = self.pool();
        while pool.units.iter().any(|u| u.state == TokenState::Starting) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            pool = self.changed.wait_timeout(pool, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The readers' threads keep it alive until their signers are gone.
pub(super) type SharedRef = Arc<Shared>;
