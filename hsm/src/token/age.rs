//! What the service remembers of a token's epoch (see [`crate::epoch`]).

use super::config::{Identity, TokenConfig};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file for a token: of this identity, reached in this way. Two copies of a token have an epoch each.
pub(super) fn file(dir: &Path, identity: &Identity, token: &TokenConfig) -> PathBuf {
    let key = identity.key.to_string();
    dir.join(format!("token-epoch-{}-{}", key.get(..8).unwrap_or(&key), super::lockout::tag(token)))
}

/// The epoch that was seen last. A file that says nothing is none: a full disk must not lock a token out.
pub(super) fn read(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Remembers an epoch, whole or not at all.
pub(super) fn write(path: &Path, epoch: u64) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    writeln!(file, "{epoch}")?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
