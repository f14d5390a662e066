//! The conformance suite: whether a token does what Sealwright needs, and how fast. For any HSM.
//!
//! It works through [`Token`] alone, so a library that crashes or hangs takes a signer with it and not the check. It
//! makes scratch keys with random ids, labelled `sealwright check …`, and destroys each of them, after a failure too.

mod algorithm;
mod measure;
mod report;
mod scratch;

pub use report::{Finding, Latency, Report, Shape, TokenReport, Verdict};

use crate::token::SHAPES;
use crate::token::{TokenConfig, TokensConfig};
use crate::{HsmError, Token};
use ca_core::key::KeyAlgorithm;
use report::failed;
use std::time::{Duration, Instant};

/// The RSA sizes that Sealwright's configuration knows.
const RSA: [u16; 3] = [2048, 3072, 4096];
/// How the test module that injects faults begins its description.
const FAULTS: &str = "FAULT INJECTION";

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Leaves out RSA above 2048 bits, which a slow token takes minutes to make, and the sessions.
    pub fast: bool,
    /// How long each number of sessions is measured, and at most how long each algorithm's latency.
    pub measure: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { fast: false, measure: Duration::from_secs(1) }
    }
}

/// What is being done, for a line on a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The token's name.
    pub token: String,
    /// In words.
    pub what: String,
    /// Parts that are done.
    pub done: usize,
    /// Parts in all.
    pub of: usize,
}

/// The key algorithms that are checked, in order.
pub fn algorithms(fast: bool) -> Vec<KeyAlgorithm> {
    let rsa = RSA.into_iter().filter(|bits| !fast || *bits == 2048).map(KeyAlgorithm::Rsa);
    crate::wire::KEYS.into_iter().chain(rsa).collect()
}

/// Checks each token of `config` alone. Identities that are known are not asked for: a token can be checked before it
/// is enrolled. A wrong PIN is tried once; then the token is left alone.
pub fn run(config: TokensConfig, options: &Options, mut progress: impl FnMut(&Step)) -> Report {
    let mut tokens = Vec::new();
    for token in &config.tokens {
        let alone = TokensConfig {
            tokens: vec![TokenConfig { workers: Some(1), sessions: Some(1), ..token.clone() }],
            known: Vec::new(),
            observer: None,
            ..config.clone()
        };
        let name = token.uri.token().or(token.uri.serial()).unwrap_or("token").to_owned();
        let bench = Bench {
            config: alone,
            options: *options,
            progress: &mut progress,
            done: 0,
            of: algorithms(options.fast).len() + 1 + if options.fast { 0 } else { SHAPES.len() },
            refused: None,
            report: TokenReport::new(name),
        };
        tokens.push(bench.run());
    }
    Report { tokens }
}

/// One token under check.
struct Bench<'a> {
    config: TokensConfig,
    options: Options,
    progress: &'a mut dyn FnMut(&Step),
    done: usize,
    of: usize,
    /// A login failed in a way that must not be repeated.
    refused: Option<HsmError>,
    report: TokenReport,
}

impl Bench<'_> {
    fn run(mut self) -> TokenReport {
        self.step("finding the token and logging in");
        let Some(token) = self.first() else { return self.report };
        self.done += 1;
        let mut usable = None;
        for algorithm in algorithms(self.options.fast) {
            self.step(&format!("{algorithm}: making a key"));
            if self.algorithm(&token, algorithm) {
                usable = usable.or(Some(algorithm));
            }
            self.done += 1;
            if self.refused.is_some() {
                return self.report;
            }
        }
        if usable.is_none() {
            self.note("token", "an algorithm", failed("none works from the key to the signature", ALGORITHM));
        }
        if let (Some(algorithm), false) = (usable, self.options.fast) {
            self.shapes(&token, algorithm);
        }
        self.leftovers(&token);
        (self.progress)(&Step { token: self.report.name.clone(), what: "done".into(), done: self.of, of: self.of });
        self.report
    }

    /// Opens the token for the first time and says what it is.
    fn first(&mut self) -> Option<Token> {
        let begun = Instant::now();
        let token = match self.open(1, 1) {
            Ok(token) => token,
            Err(error) => {
                let check = match &error {
                    HsmError::FaultInjection { .. } | HsmError::Module { .. } | HsmError::Fatal(_) => "library",
                    HsmError::TokenNotFound { .. } | HsmError::TokenAmbiguous { .. } | HsmError::Uri(_) => "found",
                    HsmError::Configuration { .. } | HsmError::Process(_) => "start",
                    _ => "login",
                };
                self.note("token", check, failed(&error, cure(&error)));
                return None;
            }
        };
        let ready = begun.elapsed();
        let info = token.info();
        let about = format!("'{}', serial {}, {} {}", info.label, info.serial, info.manufacturer, info.model);
        self.note("token", "found", Verdict::Ok(about));
        let library = if info.library.starts_with(FAULTS) {
            failed(format!("'{}' injects faults for tests", info.library), "configure the vendor's library")
        } else {
            Verdict::Ok(info.library.clone())
        };
        self.note("token", "library", library);
        self.note("token", "login", Verdict::Ok(format!("ready after {} ms", ready.as_millis())));
        self.report.info = Some(info);
        match token.mechanisms() {
            Ok(found) if found.is_empty() => {
                self.note("token", "mechanisms", failed("the token lists none", ALGORITHM));
            }
            Ok(found) => {
                let signing = found.iter().filter(|m| m.signs).count();
                let making = found.iter().filter(|m| m.generates).count();
                let text = format!("{}: {signing} that sign, {making} that make key pairs", found.len());
                self.note("token", "mechanisms", Verdict::Ok(text));
                self.report.mechanisms = found;
            }
            Err(error) => self.note("token", "mechanisms", failed(&error, cure(&error))),
        }
        Some(token)
    }

    /// A new signer process with a login of its own. After a wrong PIN no further one is tried.
    fn open(&mut self, workers: u32, sessions: u32) -> Result<Token, HsmError> {
        if let Some(error) = &self.refused {
            return Err(error.clone());
        }
        let mut config = self.config.clone();
        for token in &mut config.tokens {
            (token.workers, token.sessions) = (Some(workers), Some(sessions));
        }
        let opened = Token::open(config);
        if let Err(error) = &opened
            && matches!(
                error,
                HsmError::PinWrong | HsmError::PinLockedOut | HsmError::PinLocked | HsmError::PinFinalTry
            )
        {
            self.refused = Some(error.clone());
        }
        opened
    }

    fn note(&mut self, subject: impl ToString, check: impl ToString, verdict: Verdict) {
        let (subject, check) = (subject.to_string(), check.to_string());
        self.report.findings.push(Finding { subject, check, verdict });
    }

    fn step(&mut self, what: &str) {
        let step = Step { token: self.report.name.clone(), what: what.to_owned(), done: self.done, of: self.of };
        (self.progress)(&step);
    }

    /// Whether each id on the token is one pair's, and no scratch key is left.
    fn leftovers(&mut self, token: &Token) {
        let verdict = match token.list() {
            Ok(keys) => {
                let left: Vec<_> = keys.iter().filter(|k| k.label.starts_with(scratch::LABEL)).collect();
                let ids: Vec<_> = left.iter().map(|k| k.id.to_string()).collect();
                match ids.is_empty() {
                    true => Verdict::Ok(format!("{} key pairs, each with an id of its own", keys.len())),
                    false => failed(
                        format!("scratch keys of a check are left: {}", ids.join(", ")),
                        "destroy them with the vendor's tool, by these values of CKA_ID",
                    ),
                }
            }
            Err(error @ HsmError::KeyAmbiguous { .. }) => {
                failed(&error, "give one of the two another CKA_ID with the vendor's tool: nobody can tell which signs")
            }
            Err(error) => failed(&error, cure(&error)),
        };
        self.note("token", "keys", verdict);
    }
}

const ALGORITHM: &str =
    "allow the user to make EC or RSA keys that sign (the token's policy or its licence may forbid it)";

/// What to do about a token that does not do what is asked.
fn cure(error: &HsmError) -> &'static str {
    match error {
        HsmError::Module { .. } => "give the absolute path of the library that came with the token",
        HsmError::FaultInjection { .. } => {
            "configure the vendor's library; this one is for tests and breaks signatures"
        }
        HsmError::TokenNotFound { .. } | HsmError::TokenAmbiguous { .. } | HsmError::Uri(_) => {
            "correct the URI; see that the token is plugged in or reachable, and that the library's variables are given"
        }
        HsmError::PinSource(_) | HsmError::Pin(_) => "put the PIN in a file that only this user can read (chmod 600)",
        HsmError::PinWrong | HsmError::PinLockedOut => "correct the PIN; it was tried once and will not be tried again",
        HsmError::PinFinalTry | HsmError::PinLocked => {
            "log in with the vendor's tool, or reset the PIN as the token's security officer"
        }
        HsmError::WrongSignature => "take this token out of service: it makes wrong signatures",
        HsmError::Deadline { .. } => "give it longer (--deadline), or look why the token is slow",
        HsmError::KeyUnsuitable { .. } => {
            "let the token make sensitive keys that cannot be extracted and only sign; Sealwright uses no others"
        }
        HsmError::Configuration { .. } => "correct the value",
        _ => "see that the token is plugged in or reachable, and look at the vendor's log",
    }
}
