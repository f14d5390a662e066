//! One request on its way: what is asked, by when, and who gets the answer.

use crate::mechanism::Capabilities;
use crate::wire::{Answer, Operation, SignWork};
use crate::{HsmError, KeyId};
use ca_core::key::{PublicKey, SignatureAlgorithm};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) type Done = Box<dyn FnOnce(Result<Answer, HsmError>) + Send>;

/// Signers that may end over one request: one that makes a module crash must not crash them all.
const LOSSES: u32 = 3;
/// Times that a request is given to a signer, the first included, while none ends over it. A token that spoils one
/// signature in thirty does that six times in a row once in 700 million.
const ATTEMPTS: u32 = 6;

/// What a signature is checked against before it is let go.
pub(super) struct Check {
    pub public_key: PublicKey,
    pub algorithm: SignatureAlgorithm,
    pub message: Vec<u8>,
}

impl Check {
    pub fn holds(&self, signature: &[u8]) -> bool {
        self.public_key.verify(self.algorithm, &self.message, signature).is_ok()
    }
}

#[derive(Clone)]
pub(super) enum Task {
    Sign { key: KeyId, check: Arc<Check> },
    Other(Operation),
}

impl Task {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sign { .. } => "sign",
            Self::Other(operation) => operation.name(),
        }
    }

    /// May take a token minutes.
    pub fn is_slow(&self) -> bool {
        matches!(self, Self::Other(Operation::Generate(_) | Operation::List))
    }

    fn is_repeatable(&self) -> bool {
        match self {
            Self::Sign { .. } => true,
            Self::Other(operation) => operation.is_repeatable(),
        }
    }

    /// The request as a token with these capabilities takes it.
    pub fn prepare(&self, capabilities: &Capabilities) -> Result<Operation, HsmError> {
        match self {
            Self::Sign { key, check } => {
                let prepared = capabilities.prepare(check.algorithm, check.message.clone())?;
                Ok(Operation::Sign(SignWork::new(*key, prepared)))
            }
            Self::Other(operation) => Ok(operation.clone()),
        }
    }
}

/// Which signer may do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Any,
    /// One of this token's.
    Unit(usize),
    /// This one, although it does not serve yet.
    Line(u64),
}

pub(super) struct Job {
    pub task: Task,
    pub place: Place,
    pub urgent: bool,
    pub begun: Instant,
    pub due: Instant,
    after: Duration,
    pub attempts: u32,
    /// Signers that ended meanwhile.
    pub losses: u32,
    /// The token that failed last.
    pub avoid: Option<usize>,
    /// Made ready by the caller's thread, so that hashing a CRL holds up nobody.
    pub prepared: Option<(Arc<Capabilities>, Operation)>,
    /// Gone once the deadline was told.
    pub done: Option<Done>,
}

impl Job {
    pub fn new(task: Task, place: Place, urgent: bool, after: Duration, done: Done) -> Self {
        let begun = Instant::now();
        Self {
            task,
            place,
            urgent,
            begun,
            due: begun + after,
            after,
            attempts: 0,
            losses: 0,
            avoid: None,
            prepared: None,
            done: Some(done),
        }
    }

    /// Whether it makes sense to try again after `error`. `others`: another token is there.
    pub fn may_repeat(&self, error: &HsmError, others: bool) -> bool {
        let curable = error.is_retryable() || error.is_wrong_signature() || matches!(error, HsmError::Fatal(_));
        let elsewhere = others && self.avoid.is_none() && self.place == Place::Any;
        self.done.is_some()
            && self.task.is_repeatable()
            && !matches!(self.place, Place::Line(_))
            && self.attempts < ATTEMPTS
            && self.losses < LOSSES
            && self.due > Instant::now()
            && (curable || elsewhere)
    }

    /// The caller's part of a request whose deadline has passed; what the signer has of it goes on without.
    pub fn given_up(&mut self) -> Option<Self> {
        let done = self.done.take()?;
        Some(Self {
            task: self.task.clone(),
            place: self.place,
            urgent: self.urgent,
            begun: self.begun,
            due: self.due,
            after: self.after,
            attempts: self.attempts,
            losses: self.losses,
            avoid: self.avoid,
            prepared: None,
            done: Some(done),
        })
    }

    /// Answers. A panicking receiver must not take our thread with it.
    pub fn tell(&mut self, result: Result<Answer, HsmError>) {
        if let Some(done) = self.done.take()
            && catch_unwind(AssertUnwindSafe(|| done(result))).is_err()
        {
            tracing::error!("the receiver of a token's answer panicked");
        }
    }

    pub fn deadline(&self) -> HsmError {
        HsmError::Deadline { after: self.after }
    }
}
