//! Verifying the whole chain, of a stopped or of a running store. Reads only, and takes no lock.

use super::{
    mark::{self, Found},
    reader::{Chain, later_batch},
    segment,
};
use crate::error::{OpenError, Place};
use std::path::{Path, PathBuf};

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Records verified.
    pub records: u64,
    /// Octets verified.
    pub octets: u64,
    /// Octets that there were when it began.
    pub total_octets: u64,
}

/// A journal that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many records it has.
    pub records: u64,
    /// How many files.
    pub segments: u64,
    /// The hash of its last record: together with the sequence a checkpoint to keep elsewhere. Only such a checkpoint
    /// can show that the whole directory was replaced by an earlier copy of itself.
    pub last_hash: [u8; 32],
    /// The sequence of its last record.
    pub last_sequence: u64,
    /// Octets at the end that are no whole change and were never durable: a running server is writing them, or a crash
    /// left them, and the next start cuts them off.
    pub unfinished_octets: u64,
}

/// Where and how a journal is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {} at byte {offset} (record {sequence})", segment.display())]
pub struct Damage {
    /// The file.
    pub segment: PathBuf,
    /// Octets from its beginning.
    pub offset: u64,
    /// The sequence number that the record there has, or should have.
    pub sequence: u64,
    /// What is wrong.
    pub what: String,
}

impl Damage {
    fn at(place: Place, what: impl Into<String>) -> Self {
        Self { segment: place.segment, offset: place.offset, sequence: place.sequence, what: what.into() }
    }

    fn of_file(segment: PathBuf, what: impl Into<String>) -> Self {
        Self { segment, offset: 0, sequence: 0, what: what.into() }
    }
}

impl From<OpenError> for Damage {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Damaged { place, what } => Self::at(place, what),
            OpenError::Io { path, source } => Self::of_file(path, source.to_string()),
            OpenError::Version { ref path, .. } | OpenError::Locked(ref path) | OpenError::Missing(ref path) => {
                Self::of_file(path.clone(), error.to_string())
            }
            OpenError::Index(what) => Self::of_file(PathBuf::new(), what),
        }
    }
}

/// Verifies every octet of the journal in `dir`.
///
/// # Errors
/// [`Damage`]: the first place that is not as it was written. Damage behind the durable end is none: it was never
/// acknowledged.
pub fn verify(dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Verified, Damage> {
    let file_error = |path: PathBuf| move |e: std::io::Error| Damage::of_file(path, e.to_string());
    // Before the segments: what is durable now is in what is listed then.
    let store_id = match segment::list(dir)?.first() {
        Some(first) => first.header.store_id,
        None => return Err(OpenError::Missing(dir.to_owned()).into()),
    };
    let mark = match mark::read(dir, &store_id).map_err(file_error(mark::path(dir)))? {
        Found::Mark(mark) => Some(mark),
        Found::Nothing => None,
        Found::Damaged => return Err(Damage::of_file(mark::path(dir), "the mark is damaged")),
    };
    let segments = segment::list(dir)?;
    let Some(last) = segments.last() else { return Err(OpenError::Missing(dir.to_owned()).into()) };
    let total_octets = last.end();
    let mut chain = Chain::whole(&segments);
    let start = chain.link();
    let mut at_mark = mark.is_none_or(|m| m.offset == start.end && m.hash == start.hash);
    let broken = loop {
        match chain.next() {
            Ok(Some(located)) => {
                at_mark |= mark.is_some_and(|m| m.offset == located.end && m.hash == located.hash);
                let records = located.record.sequence;
                if records % 4096 == 0 {
                    progress(Progress { records, octets: located.end, total_octets });
                }
            }
            Ok(None) => break None,
            Err(broken) => break Some(broken),
        }
    };
    let link = chain.complete();
    if let Some(broken) = &broken {
        let known_durable = mark.is_none_or(|m| broken.offset < m.offset);
        let in_last = broken.place.segment == last.path;
        let followed = || later_batch(last, broken.offset).map_err(file_error(last.path.clone()));
        if broken.error.is_some() || known_durable || !in_last || followed()?.is_some() {
            return Err(Damage::at(broken.place.clone(), broken.what.clone()));
        }
    }
    if !at_mark {
        let place = last.place(link.end, link.sequence + 1);
        return Err(Damage::at(place, "the records are not those that were durable, or some are missing at the end"));
    }
    progress(Progress { records: link.sequence, octets: link.end, total_octets });
    Ok(Verified {
        records: link.sequence,
        segments: segments.len() as u64,
        last_hash: link.hash,
        last_sequence: link.sequence,
        unfinished_octets: total_octets.saturating_sub(link.end),
    })
}
