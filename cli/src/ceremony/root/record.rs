//! The transcript's file: each line is on stable storage before the next step begins.

use crate::error::Problem;
use anyhow::{Context, Result};
use ca_core::{key::SignatureAlgorithm, time::UnixTime};
use ceremony::transcript::{self, Facts, Transcript, facts};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Shared with whoever catches the signal that ends a ceremony.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    file: File,
    path: PathBuf,
    transcript: Transcript,
    ended: bool,
}

impl Recorder {
    /// Begins a transcript that does not exist yet.
    ///
    /// # Errors
    /// A [`Problem`] that names the file.
    pub fn create(path: &Path) -> Result<Self, Problem> {
        let opened = OpenOptions::new().write(true).create_new(true).open(path);
        let file = opened.map_err(|error| Problem::file(path, &error))?;
        let inner = Inner { file, path: path.to_owned(), transcript: Transcript::new(), ended: false };
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more line, durably.
    ///
    /// # Errors
    /// When the disk does not keep it, or the ceremony was ended meanwhile.
    pub fn note(&self, time: UnixTime, step: &str, facts: Facts) -> Result<()> {
        self.lock().note(time, step, facts)
    }

    /// A file that goes in or comes out.
    ///
    /// # Errors
    /// As [`Self::note`].
    pub fn file(&self, time: UnixTime, path: &Path, sha256: [u8; 32], direction: &str) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let of = [("name", json!(name)), ("sha256", json!(hex::encode(sha256))), ("direction", json!(direction))];
        self.note(time, transcript::FILE, facts(of))
    }

    /// The ceremony ended before its end; says nothing where it had ended already.
    pub fn interrupted(&self, time: UnixTime, reason: &str) {
        let mut inner = self.lock();
        if inner.ended {
            return;
        }
        if let Err(error) = inner.note(time, transcript::INTERRUPTED, facts([("reason", json!(reason))])) {
            eprintln!("The interruption could not be recorded: {error:#}");
        }
        inner.ended = true;
    }

    /// What the root key must sign to seal the transcript.
    pub fn seal_message(&self) -> Vec<u8> {
        self.lock().transcript.seal_message()
    }

    /// The last line.
    ///
    /// # Errors
    /// As [`Self::note`].
    pub fn seal(&self, time: UnixTime, algorithm: SignatureAlgorithm, signature: &[u8]) -> Result<()> {
        let mut inner = self.lock();
        inner.note(time, transcript::SEAL, transcript::seal_facts(algorithm, signature)?)?;
        inner.ended = true;
        Ok(())
    }
}

impl Inner {
    fn note(&mut self, time: UnixTime, step: &str, facts: Facts) -> Result<()> {
        anyhow::ensure!(!self.ended, "the ceremony was ended");
        let line = self.transcript.line(time, step, facts)?;
        let kept = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_all());
        kept.with_context(|| self.path.display().to_string())
    }
}

/// SHA-256 of a file of any size.
///
/// # Errors
/// A [`Problem`] that names the file.
pub fn sha256_of(path: &Path) -> Result<[u8; 32], Problem> {
    let problem = |error| Problem::file(path, &error);
    let mut file = File::open(path).map_err(problem)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let read = file.read(&mut piece).map_err(problem)?;
        match piece.get(..read) {
            Some(octets) if read > 0 => hash.update(octets),
            _ => return Ok(hash.finalize().into()),
        }
    }
}
