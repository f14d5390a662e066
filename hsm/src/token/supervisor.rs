//! The supervisor: one thread that starts signers, recognises their tokens, allows logins one at a time, ends what
//! hangs, and brings back what was lost.

use super::config::Identity;
use super::job::{Job, Place, Task};
use super::line::Line;
use super::lockout::LockOut;
use super::outbox::Outbox;
use super::pool::TokenState;
use super::shared::{Shared, SharedRef};
use super::statistics::count;
use crate::keeper::{Ask, Keeper, Spec};
use crate::wire::{Facts, Operation};
use crate::{Failure, FailureClass, HsmError};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Between two attempts at a token that is away: it is back within this and a start.
const RETRY: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(250), Duration::from_millis(500)];
/// Signers in a row that ended without one signature, until the next is waited for: a module that crashes whenever it
/// signs would otherwise log in some forty times a second.
const FRUITLESS: usize = 3;
/// How often an operator's word is looked for.
pub(super) const UNLOCK: Duration = Duration::from_secs(1);
/// A process that a busy machine does not run for so long does not hang.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a signer is left alone.
const IDLE: Duration = Duration::from_secs(1);
/// Making an RSA key takes a token seconds, some of them minutes.
pub(super) const SLOW: Duration = Duration::from_secs(120);

pub(super) enum Event {
    Ready {
        line: u64,
        facts: Box<Facts>,
    },
    Failed {
        line: u64,
        error: HsmError,
    },
    Lost {
        line: u64,
    },
    LoginWanted {
        line: u64,
        low: bool,
    },
    LoginEnded {
        line: u64,
        result: Result<(), HsmError>,
    },
    Proved {
        line: u64,
        result: Result<(), HsmError>,
    },
    /// The epoch of a token that has proved its identity.
    Aged {
        line: u64,
        identity: Box<Identity>,
        result: Result<Option<u64>, HsmError>,
    },
    /// Use so many workers with so many sessions.
    Shape {
        unit: usize,
        workers: u32,
        sessions: u32,
    },
    Close,
}

/// What the supervisor alone knows of a token.
pub(super) struct Ward {
    pub(super) workers: u32,
    pub(super) sessions: u32,
    /// Attempts since the last success.
    pub(super) failed: usize,
    /// Signers in a row that served, and ended without one signature.
    pub(super) fruitless: usize,
    pub(super) next_try: Option<Instant>,
    pub(super) lock_out: LockOut,
    pub(super) looked: Instant,
    /// One login at a time: a wrong PIN must be known before the next attempt.
    pub(super) login: Option<u64>,
    pub(super) waiting: VecDeque<(u64, bool)>,
    /// This start of the service is noted on the token.
    pub(super) noted: bool,
}

pub(super) struct Supervisor {
    pub(super) shared: SharedRef,
    pub(super) keeper: Keeper,
    pub(super) events: Receiver<Event>,
    pub(super) wards: Vec<Ward>,
}

impl Supervisor {
    pub fn new(shared: SharedRef, keeper: Keeper, events: Receiver<Event>) -> Self {
        let wards = shared.config.tokens.iter().map(|token| Ward {
            workers: token.workers.unwrap_or(1),
            sessions: token.sessions.unwrap_or(1),
            failed: 0,
            fruitless: 0,
            next_try: Some(Instant::now()),
            lock_out: LockOut::new(shared.config.state_dir.as_deref(), token),
            looked: Instant::now(),
            login: None,
            waiting: VecDeque::new(),
            noted: false,
        });
        let wards = wards.collect();
        Self { shared, keeper, events, wards }
    }

    /// Works until [`Event::Close`].
    pub fn run(mut self) {
        let deadline = self.shared.config.deadline;
        let tick = (deadline / 8).clamp(Duration::from_millis(2), Duration::from_millis(20));
        let mut last = Instant::now();
        loop {
            self.start_what_is_due();
            // While nobody waits for anything, the service sleeps longer.
            let idle = self.shared.pool().is_idle() && self.wards.iter().all(|w| w.next_try.is_none());
            match self.events.recv_timeout(if idle { tick * 5 } else { tick }) {
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return self.close(),
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.shared.expire();
            // After a pause of this process or its machine the answers are still in the sockets.
            if last.elapsed() < PATIENCE {
                self.end_what_hangs();
            }
            last = Instant::now();
            self.ask_the_idle();
            for unit in 0..self.wards.len() {
                self.next_login(unit);
            }
        }
    }

    /// A token that nobody asks is asked whether it is there: its absence is known before it is needed, and a device
    /// that closes idle sessions finds none.
    fn ask_the_idle(&self) {
        let now = Instant::now();
        let idle: Vec<u64> = {
            let pool = self.shared.pool();
            let lines = pool.lines.iter().filter(|(_, line)| line.is_idle_since(now, IDLE));
            lines.map(|(number, _)| *number).collect()
        };
        for line in idle {
            let deadline = self.shared.config.deadline;
            let task = Task::Other(Operation::Probe);
            self.shared.submit(Job::new(task, Place::Line(line), true, deadline, Box::new(drop)));
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ready { line, facts } => self.ready(line, *facts),
            Event::Proved { line, result } => self.proved(line, result),
            Event::Aged { line, identity, result } => self.aged(line, &identity, result),
            Event::Failed { line, error } => {
                if let Some(unit) = self.unit_of(line) {
                    tracing::warn!(token = self.shared.name(unit), %error, "a signer ends");
                }
                self.ends_with(line, error);
            }
            Event::Lost { line } => self.lost(line),
            Event::LoginWanted { line, low } => self.login_wanted(line, low),
            Event::LoginEnded { line, result } => self.login_ended(line, result),
            Event::Shape { unit, workers, sessions } => self.shape(unit, workers, sessions),
            Event::Close => {}
        }
    }

    /// Remembers why a signer is about to end.
    pub(super) fn ends_with(&self, line: u64, error: HsmError) {
        if let Some(line) = self.shared.pool().lines.get_mut(&line) {
            line.farewell = Some(error);
        }
    }

    pub(super) fn unit_of(&self, line: u64) -> Option<usize> {
        self.shared.pool().lines.get(&line).map(|l| l.unit)
    }

    /// Starts signers: the first of a token alone, the others once it serves.
    fn start_what_is_due(&mut self) {
        for unit in 0..self.wards.len() {
            let Some(ward) = self.wards.get_mut(unit) else { continue };
            if ward.lock_out.is_locked() {
                self.look_for_word(unit);
                continue;
            }
            let (any, serving, wanted) = {
                let pool = self.shared.pool();
                let lines = pool.lines.values().filter(|l| l.unit == unit && !l.retiring);
                let counts = lines.fold((0, 0), |(all, up), l| (all + 1, up + u32::from(l.serving)));
                (counts.0, counts.1, ward.workers)
            };
            let due = ward.next_try.is_none_or(|at| at <= Instant::now());
            if due && (any == 0 || (serving > 0 && any == serving && any < wanted)) {
                self.start(unit);
            }
        }
    }

    fn start(&mut self, unit: usize) {
        let Some(ward) = self.wards.get_mut(unit) else { return };
        let sessions = ward.sessions;
        let token = u32::try_from(unit).unwrap_or(u32::MAX);
        let keeper = self.keeper_again();
        let begun =
            keeper.and_then(|()| self.keeper.spawn(&Ask::Start { token, sessions })).and_then(|(line, stream)| {
                let failed = |e: std::io::Error| HsmError::Process(e.to_string());
                let reader = stream.try_clone().map_err(failed)?;
                self.shared.pool().lines.insert(line, Line::new(unit, Outbox::new(stream), sessions));
                let shared = self.shared.clone();
                let listener = move || shared.listen(line, unit, reader);
                thread::Builder::new().name(format!("hsm-reader-{line}")).spawn(listener).map_err(failed)?;
                Ok(line)
            });
        count(&self.shared.counters(unit).starts);
        match begun {
            // Until it is heard from, no other is started.
            Ok(line) => tracing::debug!(token = self.shared.name(unit), line, "a signer starts"),
            Err(error) => self.failed(unit, error),
        }
    }

    /// A keeper that is gone is replaced, unless only a person could give it its PINs again.
    fn keeper_again(&mut self) -> Result<(), HsmError> {
        if !self.keeper.is_gone() {
            return Ok(());
        }
        let config = &self.shared.config;
        if !config.tokens.iter().all(|token| token.pin.is_lasting()) {
            let what = "the process that had the PINs has ended; start the service again and give them";
            return Err(HsmError::Process(what.to_owned()));
        }
        tracing::error!("the keeper process has ended by itself; another one is started");
        let keeper = Keeper::start(&config.program)?;
        keeper.tokens(Spec::all(config))?;
        self.keeper = keeper;
        Ok(())
    }

    /// A signer is gone: what it had is done elsewhere or answered.
    fn lost(&mut self, line: u64) {
        let Some(gone) = self.shared.pool().lines.remove(&line) else { return };
        self.keeper.kill(line);
        let unit = gone.unit;
        let Some(ward) = self.wards.get_mut(unit) else { return };
        ward.fruitless = if gone.useful { 0 } else { ward.fruitless + usize::from(gone.serving && !gone.retiring) };
        let is_fruitless = ward.fruitless >= FRUITLESS;
        self.login_lost(unit, line);
        let ended = || Failure::ours("the signer process", "ended", FailureClass::Reinitialise);
        if !gone.retiring {
            if gone.farewell.is_none() {
                count(&self.shared.counters(unit).crashes);
                tracing::error!(token = self.shared.name(unit), "a signer process ended by itself");
            }
            let others = self.shared.pool().lines.values().any(|l| l.unit == unit && l.serving);
            if others {
                // One more does not start: the token may have no more sessions. The others go on.
                if let Some(ward) = self.wards.get_mut(unit).filter(|_| !gone.serving || is_fruitless) {
                    ward.next_try = Some(Instant::now() + UNLOCK);
                }
            } else {
                let was_serving = gone.serving;
                let error = gone.farewell.clone().unwrap_or_else(|| HsmError::away(Some(ended())));
                if was_serving && error.is_retryable() && !is_fruitless {
                    self.restart(unit);
                } else {
                    if let Some(ward) = self.wards.get_mut(unit) {
                        ward.failed = ward.failed.max(ward.fruitless.saturating_sub(FRUITLESS));
                    }
                    self.failed(unit, error);
                }
            }
        }
        let failure = match gone.farewell {
            Some(HsmError::Unavailable { failure: Some(failure), .. }) => failure,
            _ => ended(),
        };
        for (_, flight) in gone.flights {
            self.shared.finish(unit, flight, Err(HsmError::away(Some(failure.clone()))), Duration::ZERO);
        }
        self.start_what_is_due();
    }

    /// The first attempt after a loss is made at once, and requests wait for it.
    pub(super) fn restart(&mut self, unit: usize) {
        if let Some(ward) = self.wards.get_mut(unit) {
            ward.next_try = Some(Instant::now());
        }
        self.set_state(unit, TokenState::Starting, Duration::ZERO);
    }

    pub(super) fn failed(&mut self, unit: usize, error: HsmError) {
        let Some(ward) = self.wards.get_mut(unit) else { return };
        if ward.lock_out.is_locked() {
            return self.set_state(unit, TokenState::LockedOut, UNLOCK);
        }
        let wait = RETRY.get(ward.failed).or(RETRY.last()).copied().unwrap_or(UNLOCK);
        ward.failed += 1;
        ward.next_try = Some(Instant::now() + wait);
        if ward.failed == 1 || ward.failed.is_multiple_of(60) {
            tracing::error!(token = self.shared.name(unit), %error, attempts = ward.failed, "the token is away");
        }
        self.set_state(unit, TokenState::Down(error), wait);
    }

    pub(super) fn set_state(&self, unit: usize, state: TokenState, wait: Duration) {
        {
            let mut pool = self.shared.pool();
            if let Some(unit) = pool.units.get_mut(unit) {
                unit.state = state;
                unit.next_try = Instant::now() + wait;
            }
        }
        self.shared.changed.notify_all();
    }

    fn end_what_hangs(&mut self) {
        let deadline = self.shared.config.deadline.max(PATIENCE);
        let now = Instant::now();
        let hung: Vec<_> = {
            let pool = self.shared.pool();
            let waits = |line: &u64| self.wards.iter().any(|ward| ward.waiting.iter().any(|(other, _)| other == line));
            let hung = pool.lines.iter().filter(|(number, line)| {
                // Whoever waits for its turn to log in does not hang.
                !waits(number) && line.hangs(now, (deadline / 2).max(PATIENCE), deadline, SLOW)
            });
            hung.map(|(number, line)| (*number, line.unit)).collect()
        };
        for (line, unit) in hung {
            count(&self.shared.counters(unit).hangs);
            tracing::error!(token = self.shared.name(unit), "a signer does not answer; it is killed");
            let hangs = Failure::ours("the module", "hangs", FailureClass::Reinitialise);
            self.ends_with(line, HsmError::away(Some(hangs)));
            self.lost_hung(line);
        }
    }

    /// Does not wait for the reader to see the end.
    fn lost_hung(&mut self, line: u64) {
        self.keeper.kill(line);
        self.lost(line);
    }

    /// Another number of workers or sessions: signers of another shape finish what they have and end.
    fn shape(&mut self, unit: usize, workers: u32, sessions: u32) {
        let Some(ward) = self.wards.get_mut(unit) else { return };
        ward.workers = workers;
        ward.sessions = sessions;
        let mut pool = self.shared.pool();
        let mut kept = 0;
        for line in pool.lines.values_mut().filter(|l| l.unit == unit && !l.retiring) {
            if line.sessions == sessions && kept < workers {
                kept += 1;
            } else {
                line.retiring = true;
                line.outbox.close();
            }
        }
        if kept == 0
            && let Some(unit) = pool.units.get_mut(unit)
        {
            unit.state = TokenState::Starting;
        }
    }

    fn close(mut self) {
        let (waiting, outboxes) = {
            let mut pool = self.shared.pool();
            pool.closed = true;
            let outboxes: Vec<_> = pool.lines.values().map(|l| l.outbox.clone()).collect();
            (pool.drain(), outboxes)
        };
        for mut job in waiting {
            job.tell(Err(HsmError::Closed));
        }
        outboxes.iter().for_each(|outbox| outbox.close());
        // What they were given they finish, so that a signature that was asked for is not lost.
        let until = Instant::now() + self.shared.config.deadline.min(Duration::from_secs(2));
        while !self.shared.pool().lines.is_empty() && Instant::now() < until {
            match self.events.recv_timeout(Duration::from_millis(10)) {
                Ok(Event::Lost { line }) => {
                    let gone = self.shared.pool().lines.remove(&line);
                    end_flights(&self.shared, gone);
                }
                // A wrong PIN is remembered, however late it is known.
                Ok(Event::LoginEnded { line, result }) => self.login_ended(line, result),
                Err(RecvTimeoutError::Disconnected) => break,
                _ => {}
            }
        }
        let left = std::mem::take(&mut self.shared.pool().lines);
        for (_, line) in left {
            end_flights(&self.shared, Some(line));
        }
        // Dropping the keeper kills whoever is still there.
    }
}

fn end_flights(shared: &Shared, line: Option<Line>) {
    for (_, mut flight) in line.map(|l| (l.unit, l.flights)).into_iter().flat_map(|(_, flights)| flights) {
        flight.job.tell(Err(HsmError::Closed));
    }
    shared.changed.notify_all();
}
