//! A token in use.

use crate::error::Trouble;
use crate::link::{self, Link};
use crate::mechanism::{Capabilities, fits};
use crate::module::{Module, lock};
use crate::queue::{Done, Queue};
use crate::statistics::{Counters, Statistics};
use crate::worker::{Answer, Operation, Worker};
use crate::{HsmError, KeyId, KeyRequest, Pin, TokenKey, TokenUri};
use ca_core::key::{KeyAlgorithm, PublicKey, SignatureAlgorithm};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The longest message that is signed, in octets. Whole CRLs of a million entries fit.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;
/// Making an RSA key takes a token seconds, some of them minutes.
const GENERATE: Duration = Duration::from_secs(120);
/// Reading all keys of a full token is slow, too.
const LIST: Duration = Duration::from_secs(30);

/// Which token, and how hard to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenConfig {
    /// Absolute path of the PKCS#11 library.
    pub module: PathBuf,
    /// The token's name. Never by `slot-id`: slot numbers change between starts.
    pub uri: TokenUri,
    /// Sessions and threads, 1 to 64. One for SoftHSM, whose global lock gains nothing from more; as many as a
    /// network HSM does at once.
    pub sessions: u32,
    /// The longest a caller waits for a signature, 10 ms to 60 s, queue included.
    pub deadline: Duration,
    /// Requests that may wait, 1 to 65536; more are refused at once.
    pub queue: usize,
}

impl TokenConfig {
    /// One session, 5 s, 1024 waiting.
    pub fn new(module: PathBuf, uri: TokenUri) -> Self {
        Self { module, uri, sessions: 1, deadline: Duration::from_secs(5), queue: 1024 }
    }

    fn check(&self) -> Result<(), HsmError> {
        let refuse = |field, reason| Err(HsmError::Configuration { field, reason });
        if !(1..=64).contains(&self.sessions) {
            return refuse("sessions", "must be 1 to 64");
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.deadline) {
            return refuse("deadline", "must be 10 ms to 60 s");
        }
        if !(1..=65536).contains(&self.queue) {
            return refuse("queue", "must be 1 to 65536");
        }
        if self.uri.slot_id().is_some() {
            return refuse("uri", "must not select by slot-id, which changes between starts; use token or serial");
        }
        if self.uri.module_path().is_some_and(|path| self.module.as_path() != Path::new(path)) {
            return refuse("uri", "names another module-path than the configured module");
        }
        Ok(())
    }
}

/// One signature to be made.
#[derive(Clone, PartialEq, Eq)]
pub struct SignRequest {
    /// The key pair's CKA_ID.
    pub key: KeyId,
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

/// What the token says about itself, read at open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// CK_TOKEN_INFO.label.
    pub label: String,
    /// CK_TOKEN_INFO.serialNumber.
    pub serial: String,
    /// CK_TOKEN_INFO.manufacturerID.
    pub manufacturer: String,
    /// CK_TOKEN_INFO.model.
    pub model: String,
    /// CK_INFO.libraryDescription with its version.
    pub library: String,
    /// What it can sign with.
    pub algorithms: Vec<SignatureAlgorithm>,
}

/// An open token. Clones share it; the last one closes it, waiting for calls under way.
#[derive(Clone)]
pub struct Token {
    open: Arc<Open>,
}

struct Open {
    deadline: Duration,
    info: TokenInfo,
    capabilities: Capabilities,
    link: Arc<Link>,
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({}, {})", self.open.info.label, self.open.info.serial)
    }
}

impl Token {
    /// Opens the token and logs in, with one attempt at the PIN.
    ///
    /// # Errors
    /// [`HsmError`] says what to change: module, URI, PIN or configuration. After [`HsmError::PinWrong`] every further
    /// attempt on this token in this process is [`HsmError::PinLockedOut`], so that no retry can lock the token.
    pub fn open(config: TokenConfig, pin: Pin) -> Result<Self, HsmError> {
        config.check()?;
        let module = Module::load(&config.module)?;
        module.attach(config.deadline)?;
        let counters: Arc<Counters> = Arc::default();
        let link = Arc::new(Link::new(module, config.uri.clone(), pin, config.deadline, counters.clone()));
        let (info, capabilities) = match first(&link, &config.uri) {
            Ok(first) => first,
            Err(trouble) => {
                link.close();
                return Err(trouble.into());
            }
        };
        let workers = usize::try_from(config.sessions).unwrap_or(1);
        let queue = Arc::new(Queue::new(config.queue, workers, counters.clone()));
        let open = Open {
            deadline: config.deadline,
            info,
            capabilities,
            link: link.clone(),
            queue: queue.clone(),
            threads: Mutex::default(),
        };
        // From here on dropping `open` ends what was started.
        let start = |name: String, body: Box<dyn FnOnce() + Send>| {
            let thread = thread::Builder::new().name(name).spawn(body).map_err(|_| HsmError::Configuration {
                field: "sessions",
                reason: "need more threads than the system gives",
            })?;
            lock(&open.threads).push(thread);
            Ok::<_, HsmError>(())
        };
        for index in 0..workers {
            let (link, queue, counters) = (link.clone(), queue.clone(), counters.clone());
            let worker = Worker { index, link, queue, counters, seat: None };
            start(format!("hsm-worker-{index}"), Box::new(move || worker.run()))?;
        }
        let tick = (config.deadline / 8).clamp(Duration::from_millis(5), Duration::from_millis(100));
        start(
            "hsm-deadlines".to_owned(),
            Box::new(move || {
                while !queue.is_closed() {
                    thread::sleep(tick);
                    queue.expire();
                }
            }),
        )?;
        Ok(Self { open: Arc::new(open) })
    }

    /// Asks for a signature. `done` is called exactly once, from a thread of this crate or, when the request is
    /// refused at once, before this returns; it must not block. ECDSA signatures are DER (RFC 3279 2.2.3). The
    /// caller verifies the signature with the public key it knows.
    pub fn submit(&self, request: SignRequest, done: Box<dyn FnOnce(Result<Vec<u8>, HsmError>) + Send>) {
        self.submit_as(request, false, done);
    }

    /// Like [`Token::submit`], ahead of everything that is not urgent. For revocation and status, which outrank
    /// enrollment.
    pub fn submit_urgent(&self, request: SignRequest, done: Box<dyn FnOnce(Result<Vec<u8>, HsmError>) + Send>) {
        self.submit_as(request, true, done);
    }

    fn submit_as(&self, request: SignRequest, urgent: bool, done: Box<dyn FnOnce(Result<Vec<u8>, HsmError>) + Send>) {
        let SignRequest { key, algorithm, message } = request;
        let prepared = if message.len() > MAX_MESSAGE {
            Err(HsmError::MessageTooLong { octets: message.len(), limit: MAX_MESSAGE })
        } else {
            self.open.capabilities.prepare(algorithm, message)
        };
        let input = match prepared {
            Ok(input) => input,
            Err(error) => return done(Err(error)),
        };
        let done: Done = Box::new(move |result| {
            done(result.and_then(|answer| match answer {
                Answer::Signature(signature) => Ok(signature),
                _ => Err(HsmError::Closed),
            }));
        });
        self.open.queue.push(Operation::Sign { key, input }, urgent, self.open.deadline, done);
    }

    /// Asks for a signature and waits for it, at most for the configured deadline.
    ///
    /// # Errors
    /// As [`Token::submit`]'s answer.
    pub fn sign(&self, request: SignRequest) -> Result<Vec<u8>, HsmError> {
        let after = self.open.deadline;
        let (sender, receiver) = sync_channel(1);
        self.submit(
            request,
            Box::new(move |result| {
                let _ = sender.try_send(result);
            }),
        );
        receiver.recv_timeout(after).unwrap_or(Err(HsmError::Deadline { after }))
    }

    fn ask(&self, operation: Operation, urgent: bool, after: Duration) -> Result<Answer, HsmError> {
        let (sender, receiver) = sync_channel(1);
        let done: Done = Box::new(move |result| {
            let _ = sender.try_send(result);
        });
        self.open.queue.push(operation, urgent, after, done);
        receiver.recv_timeout(after).unwrap_or(Err(HsmError::Deadline { after }))
    }

    /// Makes a key pair that cannot leave the token and only signs, and reads back that it is one. Waits up to 120 s.
    /// After an [`HsmError::Deadline`] or [`HsmError::Unavailable`] the pair may exist: look with [`Token::find`].
    ///
    /// # Errors
    /// [`HsmError::KeyExists`] when any object has the id or the label; [`HsmError::KeyUnsuitable`] when the token
    /// made something weaker, which is destroyed again.
    pub fn generate(&self, request: &KeyRequest) -> Result<TokenKey, HsmError> {
        request.check()?;
        if !self.open.capabilities.generates(request.algorithm) {
            return Err(HsmError::Unsupported { what: format!("{} keys", request.algorithm) });
        }
        key(self.ask(Operation::Generate(request.clone()), false, GENERATE)?)
    }

    /// Finds a key pair and reads what the token says about it. It is up to the caller to refuse
    /// [`crate::KeyAttributes::flaw`]; signing does.
    ///
    /// # Errors
    /// [`HsmError::KeyMissing`] or [`HsmError::KeyAmbiguous`] unless there is exactly one private and one public key.
    pub fn find(&self, id: &KeyId) -> Result<TokenKey, HsmError> {
        key(self.ask(Operation::Find(*id), false, self.open.deadline)?)
    }

    /// Destroys a key pair for good.
    ///
    /// # Errors
    /// [`HsmError::KeyMissing`] or [`HsmError::KeyAmbiguous`] unless there is exactly one private and one public key.
    pub fn destroy(&self, id: &KeyId) -> Result<(), HsmError> {
        self.ask(Operation::Destroy(*id), false, self.open.deadline).map(|_| ())
    }

    /// All key pairs whose CKA_ID has 16 octets and whose algorithm is accepted. Waits up to 30 s.
    ///
    /// # Errors
    /// [`HsmError::KeyAmbiguous`] when two share an id.
    pub fn list(&self) -> Result<Vec<TokenKey>, HsmError> {
        match self.ask(Operation::List, false, LIST)? {
            Answer::Keys(keys) => Ok(keys),
            _ => Err(HsmError::Closed),
        }
    }

    /// Proves that the token's key `id` belongs to `public_key`: signs a message that can be no certificate, CRL or
    /// OCSP response (those begin with 0x30), and verifies it.
    ///
    /// # Errors
    /// [`HsmError::KeyMismatch`] when the public key differs or the signature does not verify.
    pub fn prove(&self, id: &KeyId, public_key: &PublicKey) -> Result<(), HsmError> {
        if self.find(id)?.public_key != *public_key {
            return Err(HsmError::KeyMismatch { id: *id });
        }
        let algorithm = self.usable(public_key.algorithm());
        let message = [b"sealwright proof of possession v1\0", id.as_bytes().as_slice()].concat();
        let signature = self.sign(SignRequest { key: *id, algorithm, message: message.clone() })?;
        public_key.verify(algorithm, &message, &signature).map_err(|_| HsmError::KeyMismatch { id: *id })
    }

    /// The key's usual algorithm, or another that goes with it where the token lacks that.
    fn usable(&self, key: KeyAlgorithm) -> SignatureAlgorithm {
        let usual = key.signature_algorithm();
        let able = &self.open.info.algorithms;
        able.iter()
            .copied()
            .find(|a| *a == usual)
            .or_else(|| able.iter().copied().find(|a| fits(key, *a)))
            .unwrap_or(usual)
    }

    /// What the token says about itself, as read at open.
    pub fn info(&self) -> TokenInfo {
        self.open.info.clone()
    }

    /// Asks a worker whether the token is there and logged in, recovering where that is needed. Goes ahead of the
    /// queue.
    ///
    /// # Errors
    /// What a signature would meet now.
    pub fn health(&self) -> Result<(), HsmError> {
        self.ask(Operation::Probe, true, self.open.deadline).map(|_| ())
    }

    /// The counters of this token.
    pub fn statistics(&self) -> Statistics {
        self.open.queue.statistics()
    }
}

fn key(answer: Answer) -> Result<TokenKey, HsmError> {
    match answer {
        Answer::Key(key) => Ok(*key),
        _ => Err(HsmError::Closed),
    }
}

/// The first connection and what is learned once.
fn first(link: &Link, uri: &TokenUri) -> Result<(TokenInfo, Capabilities), Trouble> {
    let ticket = link.open()?;
    let calls = link.calls()?;
    let (_, info) = link::select(calls.context(), uri)?;
    let library = calls.context().get_library_info()?;
    let capabilities = Capabilities::new(calls.context().get_mechanism_list(ticket.slot)?);
    let info = TokenInfo {
        label: info.label().to_owned(),
        serial: info.serial_number().to_owned(),
        manufacturer: info.manufacturer_id().to_owned(),
        model: info.model().to_owned(),
        library: format!("{} {}", library.library_description(), library.library_version()),
        algorithms: capabilities.signature_algorithms(),
    };
    Ok((info, capabilities))
}

impl Drop for Open {
    fn drop(&mut self) {
        self.queue.close();
        // Ending a process while a thread is inside the library has crashed; wait for them, but not for a stuck one.
        let until = Instant::now() + self.deadline + Duration::from_millis(200);
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // The last clone may be dropped by a callback, on a worker.
            if thread.thread().id() == thread::current().id() {
                continue;
            }
            while !thread.is_finished() && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
        self.link.close();
    }
}
