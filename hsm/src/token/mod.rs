//! Tokens in use, as the service sees them.

mod age;
mod config;
mod initialise;
mod job;
mod line;
mod lockout;
mod logins;
mod outbox;
mod pool;
mod recognition;
mod shared;
mod statistics;
mod supervisor;
mod tuning;

pub use config::{Identity, TokenConfig, TokenInfo, TokensConfig};
pub use initialise::init_token;
pub use lockout::unlock;
pub use pool::TokenState;
pub use statistics::{Observation, Observer, Statistics};
pub(crate) use tuning::{GAIN, IN_FLIGHT, SHAPES};

use crate::keeper::{Keeper, Spec};
use crate::mechanism::{Capabilities, fits};
use crate::wire::{Answer, MAX_MESSAGE, Mechanism, Operation};
use crate::{Failure, FailureClass, HsmError, KeyId, KeyRequest, TokenKey};
use ca_core::key::{KeyAlgorithm, PublicKey, SignatureAlgorithm};
use job::{Check, Done, Job, Place, Task};
use shared::{Shared, SharedRef};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use supervisor::{Event, SLOW, Supervisor};

/// Reading all keys of a full token is slow.
const LIST: Duration = Duration::from_secs(30);
/// Beyond a signer's own time, for processes to start on a machine that is busy.
const START: Duration = Duration::from_secs(5);
/// The label of the key that a token is recognised by.
const IDENTITY_LABEL: &str = "sealwright token identity";

/// One signature to be made.
#[derive(Clone, PartialEq, Eq)]
pub struct SignRequest {
    /// The key pair's CKA_ID.
    pub key: KeyId,
    /// The public key that the signature must verify with: that of the certificate, not what the token says.
    pub public_key: PublicKey,
    /// The algorithm, which must go with the key.
    pub algorithm: SignatureAlgorithm,
    /// What to sign (not its digest), at most 64 MiB.
    pub message: Vec<u8>,
}

impl std::fmt::Debug for SignRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignRequest({}, {:?}, {} octets)", self.key, self.algorithm, self.message.len())
    }
}

/// How one token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenStatus {
    /// Its label.
    pub name: String,
    /// Whether it can be used.
    pub state: TokenState,
    /// What it says about itself, once it was there.
    pub info: Option<TokenInfo>,
    /// Signer processes that serve.
    pub workers: u32,
    /// Sessions in all of them.
    pub sessions: u32,
    /// Its figures; `queued` is that of all tokens.
    pub statistics: Statistics,
}

/// Tokens in use: one, or several that hold the same keys. Clones share them; the last one ends their processes.
#[derive(Clone)]
pub struct Token {
    open: Arc<Open>,
}

struct Open {
    shared: SharedRef,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({})", self.open.shared.names.join(", "))
    }
}

impl Token {
    /// Starts the keeper and a signer for each token, which logs in with one attempt at the PIN, and returns when at
    /// least one token signs. More signers follow.
    ///
    /// # Errors
    /// [`HsmError`] says what to change. A wrong configuration, PIN or token is refused although another token would
    /// do; one that is only away is not. After [`HsmError::PinWrong`] every further attempt on this token is
    /// [`HsmError::PinLockedOut`], so that no restart can lock the token.
    pub fn open(config: TokensConfig) -> Result<Self, HsmError> {
        let token = Self::start(config)?;
        token.wait()?;
        Ok(token)
    }

    /// As [`Token::open`], but does not wait for a token: [`Token::wait`] does. A person who has to give a PIN is asked
    /// once, here, however long the token is away.
    ///
    /// # Errors
    /// A wrong configuration, no PIN, or no processes.
    pub fn start(config: TokensConfig) -> Result<Self, HsmError> {
        config.check()?;
        let keeper = Keeper::start(&config.program)?;
        keeper.tokens(Spec::all(&config))?;
        let (events, received) = channel();
        let shared = Arc::new(Shared::new(config, events));
        let supervisor = Supervisor::new(shared.clone(), keeper, received);
        let thread = thread::Builder::new()
            .name("hsm-supervisor".to_owned())
            .spawn(move || supervisor.run())
            .map_err(|e| HsmError::Process(e.to_string()))?;
        // From here on dropping it ends what was started.
        Ok(Self { open: Arc::new(Open { shared, supervisor: Mutex::new(Some(thread)) }) })
    }

    /// Waits until at least one token signs, or until it is known that none does for now.
    ///
    /// # Errors
    /// As [`Token::open`]; it may be asked again.
    pub fn wait(&self) -> Result<(), HsmError> {
        let shared = &self.open.shared;
        shared.settle(shared.config.deadline.max(line::START) + START);
        self.usable()?;
        tuning::tune(shared);
        Ok(())
    }

    /// At least one token signs, and none is wrong.
    fn usable(&self) -> Result<(), HsmError> {
        let shared = &self.open.shared;
        let states: Vec<_> = shared.pool().units.iter().map(|u| u.state.clone()).collect();
        let mut away = None;
        for (unit, state) in states.iter().enumerate() {
            match state {
                TokenState::Up => {}
                TokenState::LockedOut if shared.counters(unit).snapshot().wrong_pins > 0 => {
                    return Err(HsmError::PinWrong);
                }
                TokenState::LockedOut => return Err(HsmError::PinLockedOut),
                TokenState::Down(error) if error.is_retryable() || matches!(error, HsmError::TokenNotFound { .. }) => {
                    away = away.or(Some(error.clone()));
                }
                TokenState::Down(error) => return Err(error.clone()),
                TokenState::Starting => away = away.or(Some(HsmError::away(None))),
            }
        }
        match away {
            Some(error) if !states.contains(&TokenState::Up) => Err(error),
            _ => Ok(()),
        }
    }

    /// Asks for a signature. `done` is called exactly once, from a thread of this crate or, when the request is
    /// refused at once, before this returns; it must not block. ECDSA signatures are DER (RFC 3279 2.2.3). A
    /// signature that does not verify is withheld.
    pub fn submit(&self, request: SignRequest, done: Box<dyn FnOnce(Result<Vec<u8>, HsmError>) + Send>) {
        self.submit_as(request, false, Place::Any, done);
    }

    /// Like [`Token::submit`], ahead of everything that is not urgent. For revocation and status, which outrank
    /// enrollment.
    pub fn submit_urgent(&self, request: SignRequest, done: Box<dyn FnOnce(Result<Vec<u8>, HsmError>) + Send>) {
        self.submit_as(request, true, Place::Any, done);
    }

    fn submit_as(
        &self,
        request: SignRequest,
        urgent: bool,
        place: Place,
        done: Box<dyn FnOnce(Result<Vec<u8>, HsmError>) + Send>,
    ) {
        let SignRequest { key, public_key, algorithm, message } = request;
        if message.len() > MAX_MESSAGE {
            return done(Err(HsmError::MessageTooLong { octets: message.len(), limit: MAX_MESSAGE }));
        }
        let done: Done = Box::new(move |result| {
            done(result.and_then(|answer| match answer {
                Answer::Signature(signature) => Ok(signature),
                _ => Err(HsmError::Closed),
            }));
        });
        let task = Task::Sign { key, check: Arc::new(Check { public_key, algorithm, message }) };
        let shared = &self.open.shared;
        shared.submit(Job::new(task, place, urgent, shared.config.deadline, done));
    }

    /// Asks for a signature and waits for it, at most for the configured deadline.
    ///
    /// # Errors
    /// As [`Token::submit`]'s answer.
    pub fn sign(&self, request: SignRequest) -> Result<Vec<u8>, HsmError> {
        self.sign_at(request, Place::Any)
    }

    fn sign_at(&self, request: SignRequest, place: Place) -> Result<Vec<u8>, HsmError> {
        let after = self.open.shared.config.deadline;
        let (sender, receiver) = sync_channel(1);
        let done = Box::new(move |result| drop(sender.try_send(result)));
        self.submit_as(request, false, place, done);
        receiver.recv_timeout(after).unwrap_or(Err(HsmError::Deadline { after }))
    }

    fn ask(&self, operation: Operation, place: Place, urgent: bool, after: Duration) -> Result<Answer, HsmError> {
        let (sender, receiver) = sync_channel(1);
        let done: Done = Box::new(move |result| drop(sender.try_send(result)));
        self.open.shared.submit(Job::new(Task::Other(operation), place, urgent, after, done));
        receiver.recv_timeout(after).unwrap_or(Err(HsmError::Deadline { after }))
    }

    /// Tokens that are there now, by number.
    fn present(&self) -> Result<Vec<usize>, HsmError> {
        let pool = self.open.shared.pool();
        let up: Vec<_> =
            pool.units.iter().enumerate().filter(|(_, u)| u.state == TokenState::Up).map(|(i, _)| i).collect();
        if up.is_empty() { Err(HsmError::away(None)) } else { Ok(up) }
    }

    /// Makes a key pair that only signs and cannot leave the token (but for [`KeyRequest::extractable_under`]), and
    /// reads back that it is one. Waits up to 120 s.
    /// After an [`HsmError::Deadline`] or [`HsmError::Unavailable`] the pair may exist: look with [`Token::find`].
    ///
    /// # Errors
    /// [`HsmError::SeveralTokens`] with more than one; [`HsmError::KeyExists`] when any object has the id or the
    /// label; [`HsmError::KeyUnsuitable`] when the token made something weaker, which is destroyed again.
    pub fn generate(&self, request: &KeyRequest) -> Result<TokenKey, HsmError> {
        let count = self.open.shared.config.tokens.len();
        if count > 1 { Err(HsmError::SeveralTokens { count }) } else { self.generate_at(request, 0) }
    }

    fn generate_at(&self, request: &KeyRequest, unit: usize) -> Result<TokenKey, HsmError> {
        request.check()?;
        let capabilities = self.open.shared.pool().units.get(unit).and_then(|u| u.capabilities.clone());
        if !capabilities.is_some_and(|c| c.generates(request.algorithm)) {
            return Err(HsmError::Unsupported { what: format!("{} keys", request.algorithm) });
        }
        key(self.ask(Operation::Generate(Box::new(request.into())), Place::Unit(unit), false, SLOW)?)
    }

    /// Finds a key pair and reads what the token says about it; with several tokens, on each that is there. It is up
    /// to the caller to refuse one with a [`Token::flaw`]; signing does.
    ///
    /// # Errors
    /// [`HsmError::KeyMissing`] or [`HsmError::KeyAmbiguous`] unless there is exactly one private and one public key;
    /// [`HsmError::KeyMismatch`] when two tokens have different keys of this id.
    pub fn find(&self, id: &KeyId) -> Result<TokenKey, HsmError> {
        let mut found: Option<TokenKey> = None;
        for unit in self.present()? {
            let next =
                key(self.ask(Operation::Find(*id), Place::Unit(unit), false, self.open.shared.config.deadline)?)?;
            match &found {
                Some(first) if first.public_key != next.public_key => return Err(HsmError::KeyMismatch { id: *id }),
                Some(first) if self.flaw(first).is_some() => {}
                _ => found = Some(next),
            }
        }
        found.ok_or_else(|| HsmError::away(None))
    }

    /// What keeps a key from being used here, also by its exception.
    pub fn flaw(&self, key: &TokenKey) -> Option<&'static str> {
        key.attributes.flaw_under(self.open.shared.config.exceptions.contains(&key.id))
    }

    /// Whether a key can be made that leaves the token under this wrapping key.
    ///
    /// # Errors
    /// [`HsmError::WrappingKey`] says what to do; [`HsmError::SeveralTokens`] with more than one.
    pub fn check_wrapping_key(&self, id: &KeyId) -> Result<(), HsmError> {
        let count = self.open.shared.config.tokens.len();
        if count > 1 {
            return Err(HsmError::SeveralTokens { count });
        }
        self.ask(Operation::WrappingKey(*id), Place::Unit(0), false, self.open.shared.config.deadline).map(|_| ())
    }

    /// All key pairs whose CKA_ID has 16 octets and whose algorithm is accepted, of the first token that is there.
    /// Waits up to 30 s.
    ///
    /// # Errors
    /// [`HsmError::KeyAmbiguous`] when two share an id.
    pub fn list(&self) -> Result<Vec<TokenKey>, HsmError> {
        let unit = self.present()?.first().copied().unwrap_or(0);
        match self.ask(Operation::List, Place::Unit(unit), false, LIST)? {
            Answer::Keys(keys) => keys.into_iter().map(crate::wire::WireKey::into_key).collect(),
            _ => Err(HsmError::Closed),
        }
    }

    /// Destroys both halves of a pair, on every token. There is no way back.
    ///
    /// # Errors
    /// [`HsmError::Unavailable`], and nothing is destroyed, while one of several tokens is away: it would keep the key.
    /// [`HsmError::KeyMissing`] when a token does not have it.
    pub fn destroy(&self, id: &KeyId) -> Result<(), HsmError> {
        let present = self.present()?;
        if present.len() < self.open.shared.config.tokens.len() {
            return Err(HsmError::away(Some(Failure::ours("a copy of the token", "away", FailureClass::TokenGone))));
        }
        for unit in present {
            self.ask(Operation::Destroy(*id), Place::Unit(unit), false, self.open.shared.config.deadline)?;
        }
        Ok(())
    }

    /// Tries to read the private key, and to make it readable; says in words what succeeded. Empty is as it must be.
    ///
    /// # Errors
    /// As [`Token::find`].
    pub fn extract(&self, id: &KeyId) -> Result<Vec<String>, HsmError> {
        match self.ask(Operation::Extract(*id), Place::Any, false, self.open.shared.config.deadline)? {
            Answer::Leaks(leaks) => Ok(leaks),
            _ => Err(HsmError::Closed),
        }
    }

    /// The mechanisms of the first token that is there.
    ///
    /// # Errors
    /// When none is there.
    pub fn mechanisms(&self) -> Result<Vec<Mechanism>, HsmError> {
        match self.ask(Operation::Mechanisms, Place::Any, false, LIST)? {
            Answer::Mechanisms(mechanisms) => Ok(mechanisms),
            _ => Err(HsmError::Closed),
        }
    }

    /// Proves that the key `id` belongs to `public_key`, on each token that is there: lets it sign a message that can
    /// be no certificate, CRL or OCSP response (those begin with 0x30), and verifies that.
    ///
    /// # Errors
    /// [`HsmError::KeyMismatch`] when the public key differs or the signature does not verify.
    pub fn prove(&self, id: &KeyId, public_key: &PublicKey) -> Result<(), HsmError> {
        if self.find(id)?.public_key != *public_key {
            return Err(HsmError::KeyMismatch { id: *id });
        }
        let algorithm = self.usable_algorithm(public_key.algorithm());
        let message = [b"sealwright proof of possession v1\0", id.as_bytes().as_slice()].concat();
        for unit in self.present()? {
            let request = SignRequest { key: *id, public_key: public_key.clone(), algorithm, message: message.clone() };
            self.sign_at(request, Place::Unit(unit)).map_err(|error| match error {
                HsmError::WrongSignature => HsmError::KeyMismatch { id: *id },
                other => other,
            })?;
        }
        Ok(())
    }

    /// The key's usual algorithm, or another that goes with it where the token lacks that.
    fn usable_algorithm(&self, key: KeyAlgorithm) -> SignatureAlgorithm {
        let usual = key.signature_algorithm();
        let able = self.open.shared.pool().capabilities().map(|c| c.signature_algorithms()).unwrap_or_default();
        able.iter()
            .copied()
            .find(|a| *a == usual)
            .or_else(|| able.iter().copied().find(|a| fits(key, *a)))
            .unwrap_or(usual)
    }

    /// Makes the identity key of token number `unit` (in the configuration's order), which it is recognised by from
    /// then on: keep what this returns, and give it to [`Token::open`].
    ///
    /// # Errors
    /// What the token says.
    pub fn enroll(&self, unit: usize, key: KeyId) -> Result<Identity, HsmError> {
        let label = format!("{IDENTITY_LABEL} {}", hex::encode(key.as_bytes().get(..4).unwrap_or_default()));
        let request = KeyRequest { label, id: key, algorithm: KeyAlgorithm::EcP256, extractable_under: None };
        let made = self.generate_at(&request, unit)?;
        let pool = self.open.shared.pool();
        let facts = pool.units.get(unit).and_then(|u| u.facts.clone()).ok_or(HsmError::Closed)?;
        Ok(Identity { serial: facts.serial, label: facts.label, key, public_key: made.public_key })
    }

    /// What the first token that was there says about itself.
    pub fn info(&self) -> TokenInfo {
        let first = self.status().into_iter().find_map(|status| status.info);
        first.unwrap_or_else(|| TokenInfo {
            label: String::new(),
            serial: String::new(),
            manufacturer: String::new(),
            model: String::new(),
            library: String::new(),
            algorithms: Vec::new(),
        })
    }

    /// How each token is, in the configuration's order.
    pub fn status(&self) -> Vec<TokenStatus> {
        let shared = &self.open.shared;
        let pool = shared.pool();
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let queued = number(pool.queued());
        let status = |(index, unit): (usize, &pool::Unit)| {
            let lines = || pool.lines.values().filter(move |l| l.unit == index && l.serving);
            let algorithms = unit.capabilities.as_deref().map(Capabilities::signature_algorithms).unwrap_or_default();
            let in_flight = number(lines().map(|l| l.flights.len()).sum());
            TokenStatus {
                name: shared.name(index).to_owned(),
                state: unit.state.clone(),
                info: unit.facts.clone().map(|f| TokenInfo {
                    label: f.label,
                    serial: f.serial,
                    manufacturer: f.manufacturer,
                    model: f.model,
                    library: f.library,
                    algorithms,
                }),
                workers: u32::try_from(lines().count()).unwrap_or(u32::MAX),
                sessions: lines().map(|l| l.sessions).sum(),
                statistics: Statistics { queued, in_flight, ..shared.counters(index).snapshot() },
            }
        };
        pool.units.iter().enumerate().map(status).collect()
    }

    /// Asks each token whether it is there and logged in.
    ///
    /// # Errors
    /// What a signature would meet now, if no token is well.
    pub fn health(&self) -> Result<(), HsmError> {
        self.ask(Operation::Probe, Place::Any, true, self.open.shared.config.deadline).map(|_| ())
    }

    /// The counters of all tokens together.
    pub fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        for status in self.status() {
            let queued = status.statistics.queued;
            sum += Statistics { queued: 0, ..status.statistics };
            sum.queued = queued;
        }
        sum
    }
}

fn key(answer: Answer) -> Result<TokenKey, HsmError> {
    match answer {
        Answer::Key(key) => key.into_key(),
        _ => Err(HsmError::Closed),
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.shared.events.send(Event::Close);
        let thread = self.supervisor.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // The last clone may be dropped by a callback, on the supervisor's own thread.
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
