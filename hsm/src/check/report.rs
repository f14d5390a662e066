//! What a check found.

use crate::{Mechanism, TokenInfo};
use std::fmt::Display;
use std::time::Duration;

/// How one check came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it must be; with what was seen.
    Ok(String),
    /// The token lacks it, and Sealwright can do without.
    Missing(String),
    /// Sealwright would not be safe or would not work.
    Failed {
        /// What is wrong.
        what: String,
        /// What to do.
        cure: String,
    },
}

pub(super) fn failed(what: impl Display, cure: impl Display) -> Verdict {
    Verdict::Failed { what: what.to_string(), cure: cure.to_string() }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `token`, `sessions`, or a key algorithm.
    pub subject: String,
    /// What was looked at.
    pub check: String,
    /// How it came out.
    pub verdict: Verdict,
}

/// How long one signature takes while nothing else is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The key algorithm.
    pub algorithm: String,
    /// The signature algorithm.
    pub signature: String,
    /// Signatures made.
    pub samples: usize,
    /// Half of them were faster.
    pub median: Duration,
    /// The slowest.
    pub longest: Duration,
}

/// What a number of workers and sessions is good for.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Signer processes.
    pub workers: u32,
    /// Sessions in each.
    pub sessions: u32,
    /// Signatures a second with a full queue; 0 where it does not work.
    pub per_second: f64,
    /// Why it does not work.
    pub problem: Option<String>,
}

/// What was found about one token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenReport {
    /// Its name in the configuration.
    pub name: String,
    /// What it says about itself, once it was there.
    pub info: Option<TokenInfo>,
    /// Its mechanisms.
    pub mechanisms: Vec<Mechanism>,
    /// Every check, in order.
    pub findings: Vec<Finding>,
    /// By algorithm.
    pub latencies: Vec<Latency>,
    /// By workers and sessions.
    pub shapes: Vec<Shape>,
    /// The cheapest shape that none beats by much.
    pub best: Option<(u32, u32)>,
}

impl TokenReport {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            info: None,
            mechanisms: Vec::new(),
            findings: Vec::new(),
            latencies: Vec::new(),
            shapes: Vec::new(),
            best: None,
        }
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| matches!(f.verdict, Verdict::Failed { .. }))
    }

    /// The verdict on one check.
    pub fn verdict(&self, subject: &str, check: &str) -> Option<&Verdict> {
        self.findings.iter().find(|f| f.subject == subject && f.check == check).map(|f| &f.verdict)
    }
}

/// What was found about all tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// In the configuration's order.
    pub tokens: Vec<TokenReport>,
}

impl Report {
    /// How many checks failed.
    pub fn failures(&self) -> usize {
        self.tokens.iter().map(|t| t.failures().count()).sum()
    }
}
