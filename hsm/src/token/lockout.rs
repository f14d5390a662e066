//! "Locked out by us": after a wrong PIN nothing is tried, not after a restart either, until an operator removes the
//! file that says so.

use crate::TokenUri;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(super) struct LockOut {
    /// Without a directory it ends with the process.
    file: Option<PathBuf>,
    locked: bool,
}

impl LockOut {
    pub fn new(dir: Option<&Path>, uri: &TokenUri) -> Self {
        let file = dir.map(|dir| file(dir, uri));
        let locked = file.as_ref().is_some_and(|f| f.exists());
        Self { file, locked }
    }

    pub fn is_locked(&self) -> bool {
        self.locked
    }

    pub fn lock(&mut self) {
        self.locked = true;
        if let Some(file) = &self.file
            && let Err(error) = write(file)
        {
            tracing::error!(file = %file.display(), %error, "the lock-out cannot be kept over a restart");
        }
    }

    /// Looks whether the operator has removed the file.
    pub fn is_lifted(&mut self) -> bool {
        if self.locked && self.file.as_ref().is_some_and(|file| !file.exists()) {
            self.locked = false;
        }
        !self.locked
    }
}

fn file(dir: &Path, uri: &TokenUri) -> PathBuf {
    let tag = hex::encode(Sha256::digest(uri.to_string()));
    dir.join(format!("token-locked-out-{}", tag.get(..16).unwrap_or(&tag)))
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(b"A wrong PIN was tried on this token. Correct the PIN, then run 'sealwright hsm unlock'.\n")?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Removes the lock-out of a token; `false` when there was none.
///
/// # Errors
/// Those of the file system.
pub fn unlock(dir: &Path, uri: &TokenUri) -> io::Result<bool> {
    match fs::remove_file(file(dir, uri)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_lock_out_lasts_until_it_is_lifted() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (TokenUri::from_label("one").unwrap(), TokenUri::from_label("two").unwrap());
        let mut first = LockOut::new(Some(dir.path()), &one);
        assert!(!first.is_locked());
        first.lock();
        assert!(first.is_locked() && !first.is_lifted());
        assert!(LockOut::new(Some(dir.path()), &one).is_locked(), "after a restart");
        assert!(!LockOut::new(Some(dir.path()), &two).is_locked(), "of this token alone");
        assert!(unlock(dir.path(), &one).unwrap());
        assert!(!unlock(dir.path(), &one).unwrap());
        assert!(first.is_lifted() && !first.is_locked());
    }
}
