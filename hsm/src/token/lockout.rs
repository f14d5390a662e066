//! Which login may be tried. After a wrong PIN nothing is tried, not after a restart either, until an operator removes
//! the file that says so ("locked out by us"). Processes of one installation log in one at a time, and a login whose
//! end nobody saw is remembered.

use super::config::TokenConfig;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Logins in a row whose end says nothing about the PIN, before none is tried any more. Tokens lock after three wrong
/// PINs or more; one that tells of a wrong PIN by its flags is locked out by us after the first.
const UNSURE: u32 = 3;
/// The same for a PIN that this process has logged in with: a token that reboots says anything.
const UNSURE_OF_A_GOOD_PIN: u32 = 10;

pub(super) struct LockOut {
    /// Without a directory it ends with the process.
    file: Option<PathBuf>,
    locked: bool,
    /// The file was written, so its absence is an operator's word.
    kept: bool,
    /// Held from the permission to log in until its end is known.
    attempt: Option<File>,
    attempts: Option<PathBuf>,
    /// Logins in a row whose end says nothing about the PIN.
    unsure: u32,
    /// This process has logged in.
    proven: bool,
}

/// Whether a login may be tried now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    Granted,
    Denied,
    /// Another process logs in; ask again.
    Later,
    /// What cannot be remembered is not tried: a full disk must not become a locked token.
    Forgetful(String),
}

impl LockOut {
    pub fn new(dir: Option<&Path>, token: &TokenConfig) -> Self {
        let mut new = Self {
            file: dir.map(|dir| dir.join(format!("token-locked-out-{}", tag(token)))),
            locked: false,
            kept: false,
            attempt: None,
            attempts: dir.map(|dir| dir.join(format!("token-login-{}", tag(token)))),
            unsure: 0,
            proven: false,
        };
        new.look();
        new
    }

    /// Another process may have met a wrong PIN. A file that cannot be looked at counts as one that is there.
    fn look(&mut self) {
        if let Some(file) = &self.file
            && !is_absent(file)
        {
            (self.locked, self.kept) = (true, true);
        }
    }

    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Asks for one attempt. `low`: the token says that a wrong PIN was tried since the last login.
    pub fn permit(&mut self, low: bool) -> Permission {
        self.look();
        if self.locked {
            return Permission::Denied;
        }
        if let Some(path) = &self.attempts {
            let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
            let mut file = match opened {
                Ok(file) => file,
                Err(error) => return Permission::Forgetful(format!("{}: {error}", path.display())),
            };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Permission::Later;
            }
            self.look();
            // Marks that were not taken back: an earlier process was cut off in the middle of a login, or never learned
            // how it ended.
            let mut marks = String::new();
            let count = file.read_to_string(&mut marks).unwrap_or_default();
            self.unsure = self.unsure.max(u32::try_from(count).unwrap_or(u32::MAX));
            self.attempt = Some(file);
        }
        let most = if self.proven { UNSURE_OF_A_GOOD_PIN } else { UNSURE };
        if self.unsure >= most || (low && self.unsure > 0) {
            tracing::error!(unsure = self.unsure, low, "the PIN may be wrong; no other attempt is made");
            self.lock();
        }
        if self.locked {
            self.attempt = None;
            return Permission::Denied;
        }
        let marked = self.attempt.as_mut().map_or(Ok(()), |file| file.write_all(b"1").and_then(|()| file.sync_data()));
        if let Err(error) = marked {
            self.attempt = None;
            return Permission::Forgetful(error.to_string());
        }
        Permission::Granted
    }

    /// The login succeeded.
    pub fn succeeded(&mut self) {
        (self.unsure, self.proven) = (0, true);
        self.ended();
    }

    /// The login failed, and no PIN was looked at.
    pub fn ended(&mut self) {
        if let Some(file) = self.attempt.take() {
            let _ = file.set_len(0);
        }
    }

    /// Nobody knows whether the PIN was looked at.
    pub fn unsure(&mut self) {
        self.unsure += 1;
        self.attempt = None;
    }

    pub fn lock(&mut self) {
        self.locked = true;
        self.kept = false;
        if let Some(file) = &self.file {
            match write(file) {
                Ok(()) => self.kept = true,
                Err(error) => {
                    tracing::error!(file = %file.display(), %error, "the lock-out cannot be kept over a restart");
                }
            }
        }
        self.ended();
    }

    /// Looks whether the operator has removed the file.
    pub fn is_lifted(&mut self) -> bool {
        if self.locked && self.kept && self.file.as_deref().is_some_and(is_absent) {
            (self.locked, self.unsure) = (false, 0);
        }
        !self.locked
    }
}

fn is_absent(file: &Path) -> bool {
    matches!(file.metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Tells configured tokens apart: two copies of one name are two.
pub(super) fn tag(token: &TokenConfig) -> String {
    let mut hash = Sha256::new();
    for part in [token.module.to_string_lossy().as_ref(), &token.uri.to_string()] {
        hash.update(part);
        hash.update([0]);
    }
    for (name, value) in &token.environment {
        hash.update(format!("{name}={value}\0"));
    }
    let mut tag = hex::encode(hash.finalize());
    tag.truncate(16);
    tag
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
pub fn unlock(dir: &Path, token: &TokenConfig) -> io::Result<bool> {
    // A login that was cut off is the operator's to judge as well.
    match fs::remove_file(dir.join(format!("token-login-{}", tag(token)))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::remove_file(dir.join(format!("token-locked-out-{}", tag(token)))) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::{PinSource, TokenUri};

    fn token(label: &str) -> TokenConfig {
        TokenConfig::new("/m.so".into(), TokenUri::from_label(label).unwrap(), PinSource::Prompt)
    }

    #[test]
    fn a_lock_out_lasts_until_it_is_lifted() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (token("one"), token("two"));
        let mut first = LockOut::new(Some(dir.path()), &one);
        assert_eq!(first.permit(false), Permission::Granted);
        let mut other = LockOut::new(Some(dir.path()), &one);
        assert_eq!(other.permit(false), Permission::Later, "one at a time, over all processes");
        first.lock();
        assert!(first.is_locked() && !first.is_lifted());
        assert_eq!(other.permit(false), Permission::Denied, "seen without a restart");
        assert!(LockOut::new(Some(dir.path()), &one).is_locked(), "after a restart");
        assert!(!LockOut::new(Some(dir.path()), &two).is_locked(), "of this token alone");
        let copy = TokenConfig { environment: vec![("A".into(), "b".into())], ..one.clone() };
        assert!(!LockOut::new(Some(dir.path()), &copy).is_locked(), "and not of its copy");
        assert!(unlock(dir.path(), &one).unwrap());
        assert!(!unlock(dir.path(), &one).unwrap());
        assert!(first.is_lifted() && first.permit(false) == Permission::Granted);
    }

    #[test]
    fn what_cannot_be_kept_is_not_lifted_by_its_absence() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let mut lock = LockOut::new(Some(&gone), &token("one"));
        assert!(matches!(lock.permit(false), Permission::Forgetful(_)), "nothing is tried that cannot be remembered");
        lock.lock();
        assert!(!lock.is_lifted());
    }

    #[test]
    fn logins_without_a_known_end_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name| LockOut::new(Some(dir.path()), &token(name));
        let mut one = open("one");
        for _ in 0..UNSURE {
            assert_eq!(one.permit(false), Permission::Granted);
            one.unsure();
        }
        assert_eq!(one.permit(false), Permission::Denied);
        // The token's flag says that the first one was wrong.
        let mut two = open("two");
        assert_eq!(two.permit(true), Permission::Granted, "somebody else's wrong PIN is not ours");
        two.unsure();
        assert_eq!(two.permit(true), Permission::Denied);
        // A process that is cut off leaves its mark.
        let mut three = open("three");
        assert_eq!(three.permit(false), Permission::Granted);
        drop(three);
        assert_eq!(open("three").permit(true), Permission::Denied);
        // Success forgets.
        let mut four = open("four");
        for _ in 0..2 * UNSURE {
            assert_eq!(four.permit(false), Permission::Granted);
            four.unsure();
            assert_eq!(four.permit(false), Permission::Granted);
            four.succeeded();
        }
    }
}
