//! The mark: how far the journal was durable at least. Written after each sync, never synced itself.

use super::format::{MARK_LEN, Mark};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The mark's file.
pub fn path(store: &Path) -> PathBuf {
    store.join("durable")
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A mark.
    Mark(Mark),
    /// No file, or an empty one.
    Nothing,
    /// Something that is no mark of this store.
    Damaged,
}

/// Reads the mark. A running server may be writing it, so a damaged one is read again.
pub fn read(store: &Path, store_id: &[u8; 16]) -> io::Result<Found> {
    for attempt in 0..5 {
        let bytes = match std::fs::read(path(store)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        if bytes.is_empty() {
            return Ok(Found::Nothing);
        }
        if let Some(mark) = Mark::decode(&bytes, store_id) {
            return Ok(Found::Mark(mark));
        }
        std::thread::sleep(std::time::Duration::from_millis(attempt));
    }
    Ok(Found::Damaged)
}

/// The mark's file, open for writing.
#[derive(Debug)]
pub struct MarkFile {
    file: File,
    store_id: [u8; 16],
}

impl MarkFile {
    /// Opens or makes it.
    pub fn open(store: &Path, store_id: [u8; 16]) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path(store))?;
        Ok(Self { file, store_id })
    }

    /// Writes the mark.
    pub fn set(&self, mark: &Mark) -> io::Result<()> {
        self.file.write_all_at(&mark.encode(&self.store_id), 0)?;
        // A longer file is what somebody else left.
        if self.file.metadata()?.len() != MARK_LEN as u64 { self.file.set_len(MARK_LEN as u64) } else { Ok(()) }
    }

    /// Makes it durable; only at the end of a run.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}
