//! Which tokens, and how hard to use them.

use super::statistics::Observer;
use crate::{HsmError, KeyId, PinSource, Program, TokenUri};
use ca_core::key::{PublicKey, SignatureAlgorithm};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Keys with an exception: a site has a few. For 8 tokens their 16 octets each fill half of a keeper's message.
const EXCEPTIONS: usize = 256;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenConfig {
    /// Absolute path of the PKCS#11 library.
    pub module: PathBuf,
    /// The token's name. Never by `slot-id`: slot numbers change between starts.
    pub uri: TokenUri,
    /// Where the PIN comes from; only the keeper process reads it.
    pub pin: PinSource,
    /// Variables for the library, in its own process alone, for example `SOFTHSM2_CONF`.
    pub environment: Vec<(String, String)>,
    /// Signer processes, 1 to 16; `None` measures what the token gains from.
    pub workers: Option<u32>,
    /// Sessions in each of them, 1 to 64; `None` measures.
    pub sessions: Option<u32>,
}

impl TokenConfig {
    /// Workers and sessions by measurement, nothing in the environment.
    pub fn new(module: PathBuf, uri: TokenUri, pin: PinSource) -> Self {
        Self { module, uri, pin, environment: Vec::new(), workers: None, sessions: None }
    }

    /// Checks the limits of each field. [`super::Token::open`] does it, too.
    ///
    /// # Errors
    /// [`HsmError::Configuration`] names the field.
    pub fn check(&self) -> Result<(), HsmError> {
        if self.workers.is_some_and(|n| !(1..=16).contains(&n)) {
            return refuse("workers", "must be 1 to 16");
        }
        if self.sessions.is_some_and(|n| !(1..=64).contains(&n)) {
            return refuse("sessions", "must be 1 to 64");
        }
        if self.uri.slot_id().is_some() {
            return refuse("uri", "must not select by slot-id, which changes between starts; use token or serial");
        }
        if self.uri.module_path().is_some_and(|path| self.module.as_path() != Path::new(path)) {
            return refuse("uri", "names another module-path than the configured module");
        }
        if self.environment.iter().any(|(n, v)| n.is_empty() || n.contains(['=', '\0']) || v.contains('\0')) {
            return refuse("environment", "has a name that is empty or has '=' in it, or a NUL");
        }
        Ok(())
    }
}

fn refuse<T>(field: &'static str, reason: &'static str) -> Result<T, HsmError> {
    Err(HsmError::Configuration { field: field.into(), reason: reason.into() })
}

/// A token that was enrolled: it is recognised by its name and by a key of its own, which no backup has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// CK_TOKEN_INFO.serialNumber.
    pub serial: String,
    /// CK_TOKEN_INFO.label.
    pub label: String,
    /// CKA_ID of its identity key.
    pub key: KeyId,
    /// That key's public half.
    pub public_key: PublicKey,
}

/// One or several tokens that hold the same keys.
#[derive(Clone)]
pub struct TokensConfig {
    /// 1 to 8. All of them sign; a request goes to the one that will answer first.
    pub tokens: Vec<TokenConfig>,
    /// The longest a caller waits for a signature, 10 ms to 60 s, queue included. A signer that says nothing for half
    /// of it is killed.
    pub deadline: Duration,
    /// Requests that may wait, 1 to 65536, urgent ones and others each; more are refused at once.
    pub queue: usize,
    /// The program of the processes beside this one.
    pub program: Program,
    /// Where a lock-out and the measured number of sessions are kept over restarts.
    pub state_dir: Option<PathBuf>,
    /// The enrolled tokens. Empty: any token of the right name is taken.
    pub known: Vec<Identity>,
    /// This process is the service: each token is told that it was used, so that an older copy of it is recognised.
    pub serves: bool,
    /// The keys, 256 at most, of which it is recorded that they may leave the token wrapped under a trusted key. Every
    /// other key that could leave does not sign. Read when the tokens are opened: open them again to change it.
    pub exceptions: Vec<KeyId>,
    /// Told about every finished request.
    pub observer: Option<Observer>,
}

impl std::fmt::Debug for TokensConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokensConfig({:?}, deadline {:?})", self.tokens, self.deadline)
    }
}

impl TokensConfig {
    /// One token; 5 s, 1024 waiting, nothing kept, nothing known.
    pub fn one(token: TokenConfig) -> Self {
        Self {
            tokens: vec![token],
            deadline: Duration::from_secs(5),
            queue: 1024,
            program: Program::this(),
            state_dir: None,
            known: Vec::new(),
            serves: false,
            exceptions: Vec::new(),
            observer: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), HsmError> {
        if !(1..=8).contains(&self.tokens.len()) {
            return refuse("tokens", "must be 1 to 8");
        }
        self.tokens.iter().try_for_each(TokenConfig::check)?;
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.deadline) {
            return refuse("deadline", "must be 10 ms to 60 s");
        }
        if !(1..=65536).contains(&self.queue) {
            return refuse("queue", "must be 1 to 65536");
        }
        if self.exceptions.len() > EXCEPTIONS {
            return refuse("exceptions", "must be 256 at most; retire keys that are not needed");
        }
        Ok(())
    }
}

/// What a token says about itself.
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
