//! Appending: one write and one sync for a batch, then the mark.

use super::{
    format::{HEADER_LEN, Header, Mark},
    mark::MarkFile,
    reader::Link,
    segment::{self, Files},
};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// Why a batch was not kept.
#[derive(Debug)]
pub enum Failure {
    /// Nothing of it is left; the next batch may succeed.
    Refused(io::Error),
    /// What is on the disk is unknown. A sync that failed must not be tried again: the kernel may have dropped the
    /// pages and would report success.
    Poisoned(io::Error),
}

/// The journal's end, for the one writer.
#[derive(Debug)]
pub struct Journal {
    store: PathBuf,
    store_id: [u8; 16],
    files: Arc<Files>,
    file: File,
    /// Global offset of the open segment.
    base: u64,
    /// The chain after the last durable record.
    link: Link,
    mark: MarkFile,
    /// A segment of this size is followed by a new one.
    segment_octets: u64,
    /// Lets a test fail the next sync.
    #[cfg(test)]
    pub fail_sync: bool,
}

impl Journal {
    /// Continues after `link` in the newest segment.
    pub fn new(
        store: &Path,
        store_id: [u8; 16],
        files: Arc<Files>,
        (base, link): (u64, Link),
        segment_octets: u64,
    ) -> io::Result<Self> {
        let file = segment::open_for_writing(&segment::path(store, base))?;
        let mark = MarkFile::open(store, store_id)?;
        Ok(Self {
            store: store.to_owned(),
            store_id,
            files,
            file,
            base,
            link,
            mark,
            segment_octets,
            #[cfg(test)]
            fail_sync: false,
        })
    }

    /// The chain after the last durable record.
    pub fn link(&self) -> Link {
        self.link
    }

    /// The store's directory.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The store's identity.
    pub fn store_id(&self) -> &[u8; 16] {
        &self.store_id
    }

    /// Begins a new segment where the open one is full. Before a batch is decided, because its offsets depend on it.
    pub fn make_room(&mut self) -> io::Result<()> {
        if self.link.end - self.base < self.segment_octets.max(HEADER_LEN as u64 + 1) {
            return Ok(());
        }
        let header = Header {
            store_id: self.store_id,
            base: self.link.end,
            first_sequence: self.link.sequence + 1,
            previous: self.link.hash,
        };
        let file = segment::create(&self.store, &header)?;
        self.files.add(&segment::path(&self.store, header.base), header.base)?;
        self.file = file;
        self.base = header.base;
        self.link.end = header.base + HEADER_LEN as u64;
        Ok(())
    }

    /// Appends records that end the chain at `link`, and makes them durable. Gives the time of the sync.
    pub fn append(&mut self, bytes: &[u8], link: Link) -> Result<Duration, Failure> {
        let at = self.link.end - self.base;
        if let Err(error) = self.file.write_all_at(bytes, at) {
            return Err(match self.file.set_len(at) {
                Ok(()) => Failure::Refused(error),
                Err(_) => Failure::Poisoned(error),
            });
        }
        let began = Instant::now();
        self.sync().map_err(Failure::Poisoned)?;
        let took = began.elapsed();
        self.link = link;
        let mark = Mark { offset: link.end, sequence: link.sequence, hash: link.hash };
        if let Err(error) = self.mark.set(&mark) {
            // The records are durable. A mark that lags only makes the next start less strict.
            tracing::warn!(%error, "the journal's mark was not written");
        }
        Ok(took)
    }

    fn sync(&mut self) -> io::Result<()> {
        #[cfg(test)]
        if std::mem::take(&mut self.fail_sync) {
            return Err(io::Error::other("a test failed this sync"));
        }
        self.file.sync_data()
    }

    /// At the end of a run: the mark too.
    pub fn close(&self) -> io::Result<()> {
        self.mark.sync()
    }
}
