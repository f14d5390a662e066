//! Makes the service's own keys in the token so that a run that is cut off leaves none behind: which key is about to be
//! made is on stable storage first, and the next run takes up that key and no other. A key of the same label that this
//! installation did not note is never used: it may have signed for an authority that is gone. One that its journal names
//! under the very label is.

use crate::{
    ca::{Ca, key_id},
    publish::write_whole,
};
use anyhow::{Context, Result, bail, ensure};
use ca_core::key::{KeyAlgorithm, PublicKey};
use hsm::{HsmError, KeyId, KeyRequest, Token};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What is written down before a key is made.
#[derive(Serialize, Deserialize)]
struct Note {
    /// CKA_ID, hexadecimal.
    key: String,
    /// CKA_LABEL.
    label: String,
}

impl Note {
    /// A new key's: the first attempt has the plain label, a later one a suffix because the plain one is taken.
    fn new(purpose: &str, attempt: usize) -> (KeyId, Self) {
        let id = KeyId::from_bytes(rand::random());
        let label = match attempt {
            0 => purpose.to_owned(),
            _ => format!("{purpose} {}", hex::encode(rand::random::<[u8; 4]>())),
        };
        (id, Self { key: id.to_string(), label })
    }

    fn read(file: &Path) -> Option<(KeyId, Self)> {
        let note: Self = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        Some((note.key.parse().ok()?, note))
    }

    fn write(&self, file: &Path) -> Result<()> {
        write_whole(file, &serde_json::to_vec(self)?).with_context(|| file.display().to_string())
    }
}

fn note_file(ca: &Ca, purpose: &str) -> PathBuf {
    ca.config.data_dir.join(format!("making-{}.json", purpose.replace(' ', "-")))
}

/// A key for one purpose, which is its label: the one that a cut-off run made and the journal does not name yet, one that
/// was prepared for it, or a new one. Once the journal names it, [`settled`] follows.
///
/// # Errors
/// What the token says.
pub async fn obtain(ca: &Arc<Ca>, purpose: String, algorithm: KeyAlgorithm) -> Result<(KeyId, PublicKey)> {
    let ca = ca.clone();
    tokio::task::spawn_blocking(move || obtain_now(&ca, &purpose, algorithm)).await?
}

fn obtain_now(ca: &Ca, purpose: &str, algorithm: KeyAlgorithm) -> Result<(KeyId, PublicKey)> {
    let file = note_file(ca, purpose);
    if let Some((id, note)) = Note::read(&file)
        && !is_recorded(ca, &id)?
        && let Some(public_key) = take_up(&ca.token, id, algorithm)?
    {
        tracing::info!(key = %id, label = note.label, "going on with the key that an earlier run made");
        return Ok((id, public_key));
    }
    if let Some(prepared) = prepared(ca, purpose, algorithm)? {
        return Ok(prepared);
    }
    for attempt in 0..3 {
        let (id, note) = Note::new(purpose, attempt);
        note.write(&file)?;
        match ca.token.generate(&KeyRequest { label: note.label, id, algorithm, extractable_under: None }) {
            Ok(key) => return Ok((id, key.public_key)),
            Err(HsmError::KeyExists { what }) => {
                tracing::warn!(%what, "the token has a key that this journal does not know; it stays unused");
            }
            Err(error) => return Err(error.into()),
        }
    }
    bail!("the token has every label that was tried for '{purpose}'")
}

/// A key that `sealwright key generate` made under this very label and that serves nobody yet: the operator's choice,
/// recorded like ours. So an issuer can have a key with a backup.
fn prepared(ca: &Ca, purpose: &str, algorithm: KeyAlgorithm) -> Result<Option<(KeyId, PublicKey)>> {
    for entry in ca.store.keys()? {
        let id = KeyId::from_bytes(entry.id);
        let is_it = entry.made.is_some_and(|made| made.label == purpose) && entry.retired.is_none();
        if is_it
            && !is_recorded(ca, &id)?
            && let Some(public_key) = take_up(&ca.token, id, algorithm)?
        {
            tracing::info!(key = %id, label = purpose, "taking the key that was prepared for this");
            return Ok(Some((id, public_key)));
        }
    }
    Ok(None)
}

/// The noted key, if it was made and is as a new one would be.
fn take_up(token: &Token, id: KeyId, algorithm: KeyAlgorithm) -> Result<Option<PublicKey>> {
    let key = match token.find(&id) {
        Ok(key) => key,
        // Whether it is there cannot be said now, and making another would leave it behind.
        Err(error) if error.is_retryable() => return Err(error.into()),
        Err(_) => return Ok(None),
    };
    let sound = || -> Result<()> {
        ensure!(key.public_key.algorithm() == algorithm, "it is of another algorithm");
        if let Some(flaw) = token.flaw(&key) {
            bail!("{flaw}");
        }
        Ok(token.prove(&id, &key.public_key)?)
    };
    match sound() {
        Ok(()) => Ok(Some(key.public_key.clone())),
        Err(error) => {
            tracing::warn!(key = %id, error = format!("{error:#}"), "a key that was made for this is not used");
            Ok(None)
        }
    }
}

fn is_recorded(ca: &Ca, id: &KeyId) -> Result<bool> {
    let is = |octets: &[u8]| key_id(octets).is_ok_and(|named| named == *id);
    let issuers = ca.store.issuers()?.iter().any(|i| is(&i.key_id) || is(&i.ocsp_key_id));
    Ok(issuers || ca.store.server_identity()?.is_some_and(|identity| is(&identity.key_id)))
}

/// The journal names the key: its note is not needed any more.
pub fn settled(ca: &Ca, purpose: &str) {
    // A note that stays does no harm: the journal names its key.
    let _ = fs::remove_file(note_file(ca, purpose));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let dir = tempfile_dir();
        let file = dir.join("making-default-root.json");
        assert!(Note::read(&file).is_none());
        let (id, note) = Note::new("default root", 0);
        note.write(&file).unwrap();
        let (read, again) = Note::read(&file).unwrap();
        assert_eq!((read, again.label.as_str()), (id, "default root"));
        fs::write(&file, b"{\"key\":\"00\"").unwrap();
        assert!(Note::read(&file).is_none());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_taken_label_gets_a_suffix_that_the_token_accepts() {
        let (one, first) = Note::new("default root", 1);
        let (two, second) = Note::new("default root", 2);
        assert_ne!(one, two);
        assert_ne!(first.label, second.label);
        assert!(first.label.starts_with("default root "));
        // The longest purpose: a tenant of 32, "-ca-", eight digits, " ocsp".
        assert!(Note::new(&"x".repeat(49), 1).1.label.len() <= 64);
    }

    fn tempfile_dir() -> PathBuf {
        let dir = std::env::temp_dir().join(format!("sealwright-own-keys-{}", hex::encode(rand::random::<[u8; 8]>())));
        fs::create_dir_all(&dir).unwrap();
        dir
    }
}
