//! The transcript of a root ceremony: JSON lines, each with the SHA-256 of the line before, sealed by the root key.
//!
//! A line is `{"index":…,"time":…,"step":…,"facts":{…},"previous":…}`. The line `close` is the last that states facts;
//! its hash is the transcript's, and the line `seal` carries the root key's signature over it. Whoever writes the
//! fingerprint of that hash down by hand can later tell whether a file is the transcript of that day.

mod error;
mod verify;

pub use error::TranscriptError;
pub use verify::{FileFact, Outcome, Verified, verify};

use crate::seal;
use ca_core::{key::SignatureAlgorithm, time::UnixTime};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// The first line: the program, the files it reads, and whether people answer.
pub const BEGIN: &str = "begin";
/// The root key: `key_id`, `spki_sha256`, `attributes`.
pub const KEY: &str = "root key";
/// The root certificate: `certificate` (DER, hexadecimal).
pub const ROOT: &str = "root certificate";
/// A certificate that the root issued: `certificate`.
pub const ISSUED: &str = "issuing certificate";
/// A file: `name`, `sha256`, `direction` (`in` or `out`).
pub const FILE: &str = "file";
/// The ceremony ended before its end: `reason`.
pub const INTERRUPTED: &str = "interrupted";
/// The last line that states facts.
pub const CLOSE: &str = "close";
/// The signature: `algorithm`, `signature`.
pub const SEAL: &str = "seal";

/// Octets of the longest transcript: some hundred lines, the longest with a certificate.
pub const TEXT_MOST: usize = 4 * 1024 * 1024;
const DOMAIN: &[u8] = b"sealwright ceremony transcript v1\0";
/// Octets of the fingerprint: who prepares a ceremony could search two transcripts with one fingerprint, at 2^80.
const FINGERPRINT: usize = 20;

/// What a line states.
pub type Facts = Map<String, Value>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    index: u64,
    time: String,
    step: String,
    facts: Facts,
    previous: String,
}

/// A transcript in the making.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    lines: u64,
    head: [u8; 32],
}

impl Transcript {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next line, with its end. Nothing follows a line that could not be kept.
    ///
    /// # Errors
    /// [`TranscriptError::Encoding`].
    pub fn line(&mut self, time: UnixTime, step: &str, facts: Facts) -> Result<String, TranscriptError> {
        let line = Line {
            index: self.lines,
            time: time.to_string(),
            step: step.to_owned(),
            facts,
            previous: hex::encode(self.head),
        };
        let mut text = serde_json::to_string(&line).map_err(|e| TranscriptError::Encoding(e.to_string()))?;
        self.lines += 1;
        self.head = Sha256::digest(&text).into();
        text.push('\n');
        Ok(text)
    }

    /// SHA-256 of the last line: after `close` the transcript's.
    pub fn head(&self) -> [u8; 32] {
        self.head
    }

    /// What the root key signs, once `close` is written.
    pub fn seal_message(&self) -> Vec<u8> {
        seal::message(DOMAIN, &self.head)
    }
}

/// The facts of the line `seal`.
///
/// # Errors
/// [`TranscriptError::Encoding`] for an algorithm that has no identifier.
pub fn seal_facts(algorithm: SignatureAlgorithm, signature: &[u8]) -> Result<Facts, TranscriptError> {
    let algorithm = seal::algorithm_text(algorithm).ok_or(TranscriptError::Encoding("the algorithm".to_owned()))?;
    Ok(facts([("algorithm", json!(algorithm)), ("signature", json!(hex::encode(signature)))]))
}

/// Facts from names and values.
pub fn facts<const N: usize>(of: [(&str, Value); N]) -> Facts {
    of.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Groups of four digits, to be written down by hand.
pub fn fingerprint(hash: &[u8; 32]) -> String {
    let digits = hex::encode(hash.get(..FINGERPRINT).unwrap_or_default());
    let groups: Vec<&str> = (0..digits.len()).step_by(4).filter_map(|at| digits.get(at..at + 4)).collect();
    groups.join(" ")
}

/// Whether two fingerprints are the same, however they were typed.
pub fn same_fingerprint(one: &str, other: &str) -> bool {
    let plain = |text: &str| -> String {
        text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '-' | ':')).flat_map(char::to_lowercase).collect()
    };
    plain(one) == plain(other)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
