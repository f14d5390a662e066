//! Segment files and their place in the journal.

use super::format::{HEADER_LEN, Hash, Header, HeaderDefect};
use crate::error::{OpenError, Place};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

/// A segment that was found.
#[derive(Clone, Debug)]
pub struct Segment {
    pub path: PathBuf,
    pub header: Header,
    /// Octets of the file when it was looked at.
    pub len: u64,
}

impl Segment {
    /// Global offset behind its last octet.
    pub fn end(&self) -> u64 {
        self.header.base.saturating_add(self.len)
    }

    /// The place `offset` (global) in this segment.
    pub fn place(&self, offset: u64, sequence: u64) -> Place {
        Place { segment: self.path.clone(), offset: offset.saturating_sub(self.header.base), sequence }
    }
}

/// Where the segments are.
pub fn directory(store: &Path) -> PathBuf {
    store.join("journal")
}

/// The segment that begins at `base`.
pub fn path(store: &Path, base: u64) -> PathBuf {
    directory(store).join(format!("{base:020}.swj"))
}

/// Adds the path to an error.
pub fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { path, source }
}

/// The segments in their order, each with a valid header, without a gap. Empty where there is no journal.
pub fn list(store: &Path) -> Result<Vec<Segment>, OpenError> {
    let dir = directory(store);
    let mut bases = Vec::new();
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(&dir)(error)),
    };
    for entry in entries {
        let name = entry.map_err(at(&dir))?.file_name();
        let base = name.to_str().and_then(|n| n.strip_suffix(".swj")).filter(|n| n.len() == 20);
        if let Some(base) = base.and_then(|n| n.parse::<u64>().ok()) {
            bases.push(base);
        }
    }
    bases.sort_unstable();
    let mut segments: Vec<Segment> = Vec::with_capacity(bases.len());
    let mut expected = 0;
    for base in bases {
        let path = path(store, base);
        let mut file = File::open(&path).map_err(at(&path))?;
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        (&mut file).take(HEADER_LEN as u64).read_to_end(&mut bytes).map_err(at(&path))?;
        let sequence = segments.last().map_or(1, |s| s.header.first_sequence);
        let damaged = |what: &str| OpenError::Damaged {
            place: Place { segment: path.clone(), offset: 0, sequence },
            what: what.to_owned(),
        };
        let header = Header::decode(&bytes).map_err(|defect| match defect {
            HeaderDefect::Damaged => damaged("the header is damaged"),
            HeaderDefect::Version(version) => {
                OpenError::Version { path: path.clone(), version, known: super::format::VERSION }
            }
        })?;
        if base != expected {
            return Err(damaged(&format!("the segment that begins at {expected} is missing or has another length")));
        }
        if header.base != base {
            return Err(damaged("the header belongs to another segment"));
        }
        if segments.first().is_some_and(|first| first.header.store_id != header.store_id) {
            return Err(damaged("the segment belongs to another store"));
        }
        let len = file.metadata().map_err(at(&path))?.len();
        expected = base.saturating_add(len);
        segments.push(Segment { path, header, len });
    }
    Ok(segments)
}

/// Makes a segment: complete under another name first, so that a `.swj` file always has its header.
pub fn create(store: &Path, header: &Header) -> io::Result<File> {
    let path = path(store, header.base);
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).read(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&header.encode())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    sync_directory(&directory(store))?;
    Ok(file)
}

/// Makes the names in a directory durable.
pub fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Opens a segment for appending.
pub fn open_for_writing(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// The segments for reading anywhere.
#[derive(Debug, Default)]
pub struct Files(RwLock<Vec<OpenSegment>>);

#[derive(Clone, Debug)]
struct OpenSegment {
    base: u64,
    path: PathBuf,
    file: Arc<File>,
}

impl Files {
    /// Opens the segments that were found.
    pub fn open(segments: &[Segment]) -> Result<Self, OpenError> {
        let files = Self::default();
        for segment in segments {
            files.add(&segment.path, segment.header.base).map_err(at(&segment.path))?;
        }
        Ok(files)
    }

    /// Adds the newest segment.
    pub fn add(&self, path: &Path, base: u64) -> io::Result<()> {
        let file = Arc::new(File::open(path)?);
        let mut segments = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        segments.push(OpenSegment { base, path: path.to_owned(), file });
        Ok(())
    }

    fn find(&self, offset: u64) -> Option<OpenSegment> {
        let segments = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let after = segments.partition_point(|s| s.base <= offset);
        segments.get(after.checked_sub(1)?).cloned()
    }

    /// Reads up to `buffer.len()` octets at the global offset, not beyond the segment's end.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let segment = self.find(offset).ok_or(io::ErrorKind::NotFound)?;
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|r| !r.is_empty()) {
            match segment.file.read_at(rest, offset - segment.base + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// The hash of the record that ends at the global offset `end`; `None` when there can be none.
    pub fn hash_before(&self, end: u64) -> io::Result<Option<Hash>> {
        let Some(start) = end.checked_sub(32) else { return Ok(None) };
        let mut hash = [0; 32];
        Ok((self.read(start, &mut hash)? == hash.len()).then_some(hash))
    }

    /// Where the global offset is.
    pub fn place(&self, offset: u64, sequence: u64) -> Place {
        match self.find(offset) {
            Some(segment) => Place { segment: segment.path, offset: offset - segment.base, sequence },
            None => Place { segment: PathBuf::new(), offset, sequence },
        }
    }
}
