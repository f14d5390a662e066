//! A throw-away token behind the module that breaks it by a plan.

use ca_core::key::{KeyAlgorithm, PublicKey};
use faulty_pkcs11::{Fault, Login};
use hsm::{
    HsmError, KeyId, KeyRequest, PinSource, Program, SignRequest, Token, TokenConfig, TokenState, TokenUri,
    TokensConfig,
};
use softhsm::{Kind, ThrowawayToken};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PIN: &str = "throw-away-1234";
/// What the layer promises from the end of a fault to the next signature.
pub const BACK: Duration = Duration::from_secs(5);

static ALONE: Mutex<()> = Mutex::new(());

/// Times are measured here: one test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Full runs are for the night.
pub fn is_full() -> bool {
    std::env::var_os("SEALWRIGHT_FAULTS").is_some_and(|value| value == "full")
}

/// `full` at night, otherwise `short`.
pub fn rounds(short: usize, full: usize) -> usize {
    if is_full() { full } else { short }
}

/// A figure of a run, on the test's output.
pub fn figure(text: &str) {
    eprintln!("figure: {text}");
}

pub struct Rig {
    pub token: ThrowawayToken,
    dir: TempDir,
}

impl Rig {
    pub fn new() -> Self {
        Self::on(Kind::SoftHsm)
    }

    pub fn on(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = match kind {
            Kind::SoftHsm => ThrowawayToken::create(dir.path(), "faulty", PIN),
            Kind::Kryoptic => ThrowawayToken::create_kryoptic(dir.path(), "faulty", PIN),
        };
        let rig = Self { token: token.unwrap(), dir };
        rig.pin(PIN);
        rig
    }

    /// Another token of the same serial number and label with the same keys, as a vendor's tool would clone it.
    pub fn copy(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conf = softhsm::write_configuration(dir.path()).unwrap();
        let copied = Command::new("cp").arg("-a").arg(self.path("tokens/.")).arg(dir.path().join("tokens")).status();
        assert!(copied.unwrap().success());
        let token = ThrowawayToken { conf, dir: dir.path().to_owned(), ..self.token.clone() };
        let rig = Self { token, dir };
        rig.pin(PIN);
        rig
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn pin(&self, pin: &str) {
        fs::write(self.path("pin"), pin).unwrap();
        fs::set_permissions(self.path("pin"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// One worker with one session, behind the fault module.
    pub fn one(&self) -> TokenConfig {
        let (variable, conf) = self.token.environment();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        TokenConfig {
            environment: vec![
                (variable.to_owned(), text(conf)),
                ("FAULTY_PKCS11_MODULE".to_owned(), text(&self.token.module)),
                ("FAULTY_PKCS11_PLAN".to_owned(), text(&self.path("plan"))),
                ("FAULTY_PKCS11_LOG".to_owned(), text(&self.path("log"))),
                ("SEALWRIGHT_ALLOW_FAULT_INJECTION".to_owned(), "1".to_owned()),
            ],
            workers: Some(1),
            sessions: Some(1),
            ..TokenConfig::new(faulty_pkcs11::library().unwrap(), self.uri(), PinSource::File(self.path("pin")))
        }
    }

    pub fn uri(&self) -> TokenUri {
        TokenUri::from_label("faulty").unwrap()
    }

    pub fn shaped(&self, workers: u32, sessions: u32) -> TokenConfig {
        TokenConfig { workers: Some(workers), sessions: Some(sessions), ..self.one() }
    }

    /// 2 s of deadline, a lock-out that is kept.
    pub fn with(&self, token: TokenConfig) -> TokensConfig {
        TokensConfig {
            program: Program { path: PathBuf::from(env!("CARGO_BIN_EXE_hsm-signer")), arguments: Vec::new() },
            deadline: Duration::from_secs(2),
            state_dir: Some(self.dir.path().to_owned()),
            ..TokensConfig::one(token)
        }
    }

    /// The token with key 1, all workers up.
    pub fn open(&self, config: TokensConfig) -> (Token, PublicKey) {
        let wanted: u32 = config.tokens.iter().filter_map(|t| t.workers).sum();
        let token = Token::open(config).unwrap();
        let key = match token.find(&id(1)) {
            Ok(key) => key.public_key,
            Err(HsmError::KeyMissing { .. }) => token.generate(&request(1)).unwrap().public_key,
            Err(error) => panic!("{error}"),
        };
        let up = || token.status().iter().map(|status| status.workers).sum::<u32>() == wanted;
        wait(BACK, "all workers are up", up);
        (token, key)
    }

    /// What is broken from the next call on.
    pub fn plan(&self, text: &str) {
        text.parse::<faulty_pkcs11::Plan>().unwrap().write(&self.path("plan")).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn faults(&self) -> Vec<Fault> {
        faulty_pkcs11::faults(&self.log())
    }

    pub fn logins(&self) -> Vec<Login> {
        faulty_pkcs11::logins(&self.log())
    }
}

pub fn id(n: u8) -> KeyId {
    KeyId::from_bytes([n; 16])
}

pub fn request(n: u8) -> KeyRequest {
    KeyRequest { label: format!("key {n}"), id: id(n), algorithm: KeyAlgorithm::EcP256, extractable_under: None }
}

/// A signature with key 1, which is right if it is there.
pub fn sign(token: &Token, key: &PublicKey, message: &[u8]) -> Result<(), HsmError> {
    let algorithm = key.algorithm().signature_algorithm();
    let asked = SignRequest { key: id(1), public_key: key.clone(), algorithm, message: message.to_vec() };
    let signature = token.sign(asked)?;
    assert!(key.verify(algorithm, message, &signature).is_ok(), "a wrong signature was let go");
    Ok(())
}

/// How long until `is_so`.
pub fn wait(within: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    begun.elapsed()
}

/// How long until it signs; each refusal must say that it is worth coming again.
pub fn back(token: &Token, key: &PublicKey) -> Duration {
    wait(BACK, "it signs again", || match sign(token, key, b"back") {
        Ok(()) => true,
        Err(error) => {
            assert!(error.is_retryable(), "{error}");
            false
        }
    })
}

pub fn state(token: &Token) -> TokenState {
    token.status().remove(0).state
}
