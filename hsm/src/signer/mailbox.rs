//! The signer's end of its socket. Threads take turns at reading, so that with one session a request costs no change
//! of threads; answers leave in batches while more requests are waiting.

use crate::HsmError;
use crate::wire::{self, Frames, FromSigner, Operation, ToSigner};
use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Answers kept back while requests are waiting: a system call for several, at the price of a little delay.
const BATCH: usize = 8;
/// The longest that an answer is kept back.
const DELAY: Duration = Duration::from_micros(200);

pub(super) struct Mailbox {
    inbox: Mutex<Inbox>,
    outbox: Mutex<Outbox>,
    /// The service's answer to a wish to log in.
    permission: Mutex<Option<Result<(), HsmError>>>,
    answered: Condvar,
    /// How often the service has doubted our handles.
    doubts: AtomicU64,
}

struct Inbox {
    stream: UnixStream,
    frames: Frames,
    pending: VecDeque<(u64, Operation)>,
}

struct Outbox {
    stream: UnixStream,
    octets: Vec<u8>,
    answers: usize,
    since: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailbox {
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        let writer = stream.try_clone()?;
        Ok(Self {
            inbox: Mutex::new(Inbox { stream, frames: Frames::default(), pending: VecDeque::new() }),
            outbox: Mutex::new(Outbox { stream: writer, octets: Vec::new(), answers: 0, since: Instant::now() }),
            permission: Mutex::new(None),
            answered: Condvar::new(),
            doubts: AtomicU64::new(0),
        })
    }

    /// The next request; `None` when the service is gone.
    pub fn next(&self) -> Option<(u64, Operation)> {
        let mut inbox = match self.inbox.try_lock() {
            Ok(inbox) => inbox,
            // Another thread reads, perhaps for long: nothing is kept back while this one waits for its turn.
            Err(_) => {
                self.flush();
                lock(&self.inbox)
            }
        };
        loop {
            if let Some(work) = inbox.pending.pop_front() {
                return Some(work);
            }
            match inbox.frames.next() {
                Ok(Some(message)) => self.sort(&mut inbox, message),
                Ok(None) => {
                    // Nothing more is waiting, so nothing is kept back either.
                    self.flush();
                    let Inbox { stream, frames, .. } = &mut *inbox;
                    if !frames.fill(stream).unwrap_or(false) {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
    }

    fn sort(&self, inbox: &mut Inbox, message: ToSigner) {
        match message {
            ToSigner::Work { id, operation } => inbox.pending.push_back((id, operation)),
            ToSigner::Login(permission) => {
                *lock(&self.permission) = Some(permission);
                self.answered.notify_all();
            }
            // Before the request that comes after it in the stream is handed to anybody.
            ToSigner::Doubt => drop(self.doubts.fetch_add(1, SeqCst)),
        }
    }

    /// Rises with each doubt: handles that were found before it are not to be used.
    pub fn doubts(&self) -> u64 {
        self.doubts.load(SeqCst)
    }

    /// Asks the service whether the PIN may be tried once.
    pub fn may_login(&self, low: bool) -> Result<(), HsmError> {
        *lock(&self.permission) = None;
        self.send(&FromSigner::LoginWanted { low });
        loop {
            if let Some(permission) = lock(&self.permission).take() {
                return permission;
            }
            match self.inbox.try_lock() {
                Ok(mut inbox) => self.read_on(&mut inbox)?,
                Err(TryLockError::Poisoned(poisoned)) => self.read_on(&mut poisoned.into_inner())?,
                // Another thread reads; it will leave the answer here.
                Err(TryLockError::WouldBlock) => {
                    let held = lock(&self.permission);
                    let _ = self.answered.wait_timeout(held, Duration::from_millis(1));
                }
            }
        }
    }

    fn read_on(&self, inbox: &mut Inbox) -> Result<(), HsmError> {
        let gone = || HsmError::Closed;
        while let Some(message) = inbox.frames.next().map_err(|_| gone())? {
            let is_permission = matches!(message, ToSigner::Login(_));
            self.sort(inbox, message);
            if is_permission {
                return Ok(());
            }
        }
        let Inbox { stream, frames, .. } = inbox;
        if frames.fill(stream).unwrap_or(false) { Ok(()) } else { Err(gone()) }
    }

    /// Sends an answer, soon; at once when making it took so long that another one is not waited for.
    pub fn answer(&self, message: &FromSigner, took: Duration) {
        let mut outbox = lock(&self.outbox);
        if outbox.answers == 0 {
            outbox.since = Instant::now();
        }
        if wire::put(&mut outbox.octets, message).is_ok() {
            outbox.answers += 1;
        }
        if took >= DELAY || outbox.answers >= BATCH || outbox.since.elapsed() >= DELAY {
            outbox.flush();
        }
    }

    /// Sends a message now.
    pub fn send(&self, message: &FromSigner) {
        let mut outbox = lock(&self.outbox);
        if wire::put(&mut outbox.octets, message).is_ok() {
            outbox.flush();
        }
    }

    pub fn flush(&self) {
        lock(&self.outbox).flush();
    }
}

impl Outbox {
    fn flush(&mut self) {
        if !self.octets.is_empty() {
            // A service that is gone is seen when reading.
            let _ = self.stream.write_all(&self.octets);
            self.octets.clear();
            self.answers = 0;
        }
    }
}
