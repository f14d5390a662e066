//! Files that must be whole or not there, and keys that nobody else may read.

use crate::error::Problem;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Who may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Mode 0600.
    Owner,
    /// Mode 0644, less the umask.
    Everybody,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everybody => 0o644,
        }
    }
}

/// Writes a file that does not exist yet, whole and durably: a power cut leaves all of it or nothing under this name.
///
/// # Errors
/// A [`Problem`] that names the file; also when it exists.
pub fn create(path: &Path, contents: &[u8], access: Access) -> Result<(), Problem> {
    let temporary = write_beside(path, contents, access)?;
    // A link, other than a rename, never replaces what is there.
    let linked = match fs::hard_link(&temporary, path) {
        // Some file systems have no links; there the name is taken first and the contents follow.
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            write_new(path, contents, access)
        }
        outcome => outcome,
    };
    // Whatever became of it, the temporary name is not needed any more.
    let _ = fs::remove_file(&temporary);
    linked.map_err(|error| Problem::file(path, &error))?;
    sync_directory(path)
}

/// Writes a file or replaces it in one step, durably.
///
/// # Errors
/// A [`Problem`] that names the file.
pub fn replace(path: &Path, contents: &[u8], access: Access) -> Result<(), Problem> {
    let temporary = write_beside(path, contents, access)?;
    fs::rename(&temporary, path).map_err(|error| {
        // The rename failed; what it would have replaced is still whole.
        let _ = fs::remove_file(&temporary);
        Problem::file(path, &error)
    })?;
    sync_directory(path)
}

/// The contents under a temporary name in the same folder, on stable storage.
fn write_beside(path: &Path, contents: &[u8], access: Access) -> Result<PathBuf, Problem> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", hex::encode(rand::random::<[u8; 4]>())));
    let temporary = PathBuf::from(name);
    write_new(&temporary, contents, access).map_err(|error| Problem::file(path, &error))?;
    Ok(temporary)
}

fn write_new(path: &Path, contents: &[u8], access: Access) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(access.mode()).open(path)?;
    file.write_all(contents).and_then(|()| file.sync_all())
}

fn sync_directory(path: &Path) -> Result<(), Problem> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|dir| dir.sync_all()).map_err(|error| Problem::file(directory, &error))
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// A [`Problem`] that names the file.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Problem> {
    let problem = |error| Problem::file(path, &error);
    let length = fs::metadata(path).map_err(problem)?.len();
    if length > limit {
        return Err(Problem::usage(
            format!("{} has {length} bytes; at most {limit} are allowed", path.display()),
            "Check the path.",
        ));
    }
    fs::read(path).map_err(problem)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_private_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        create(&path, b"secret", Access::Owner).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = create(&path, b"other", Access::Owner).unwrap_err();
        assert!(error.advice.contains("never overwritten"), "{error:?}");
        assert_eq!(read(&path, 6).unwrap(), b"secret");
        assert!(read(&path, 5).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn replacing_leaves_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pem");
        replace(&path, b"one", Access::Everybody).unwrap();
        replace(&path, b"two", Access::Everybody).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // A directory cannot be replaced, and the attempt leaves nothing behind.
        assert!(replace(dir.path(), b"x", Access::Everybody).is_err());
    }
}
