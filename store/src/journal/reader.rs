//! Reading the journal: in order with every check, or one record at its offset.

use super::{
    format::{Defect, HEADER_LEN, Hash, MAX_RECORD, Record},
    segment::{Files, Segment},
};
use crate::error::{Place, StoreError};
use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
};

/// A record and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub record: Record,
    /// Global offset of its first octet.
    pub offset: u64,
    /// Global offset behind it.
    pub end: u64,
    pub hash: Hash,
}

/// The chain after some record: what the next one must continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Global offset behind that record.
    pub end: u64,
    /// Its sequence; 0 before the first.
    pub sequence: u64,
    /// Its hash.
    pub hash: Hash,
    /// Its time.
    pub time: u64,
    /// How many records of its change follow.
    pub remaining: u16,
}

impl Link {
    /// The chain before the first record of a segment.
    pub fn before(segment: &Segment) -> Self {
        Self {
            end: segment.header.base + HEADER_LEN as u64,
            sequence: segment.header.first_sequence.saturating_sub(1),
            hash: segment.header.link(),
            time: 0,
            remaining: 0,
        }
    }

    /// The chain after this record.
    pub fn after(located: &Located) -> Self {
        Self {
            end: located.end,
            sequence: located.record.sequence,
            hash: located.hash,
            time: located.record.time,
            remaining: located.record.remaining,
        }
    }
}

/// Where the chain stops being one.
#[derive(Debug)]
pub struct Break {
    /// Global offset up to which the chain is whole.
    pub offset: u64,
    pub place: Place,
    pub what: String,
    /// Set when the octets could not be read at all.
    pub error: Option<io::Error>,
}

/// Walks the chain from a link on and checks every octet.
#[derive(Debug)]
pub struct Chain<'a> {
    segments: Cow<'a, [Segment]>,
    current: usize,
    reader: Option<BufReader<io::Take<File>>>,
    link: Link,
    /// The chain after the last complete change.
    complete: Link,
}

impl<'a> Chain<'a> {
    /// Begins behind `link`, which lies in one of the segments (or at the end of one).
    pub fn new(segments: impl Into<Cow<'a, [Segment]>>, link: Link) -> Self {
        let segments = segments.into();
        let current = segments.iter().position(|s| link.end <= s.end()).unwrap_or(segments.len());
        Self { segments, current, reader: None, link, complete: link }
    }

    /// From the first record.
    pub fn whole(segments: &'a [Segment]) -> Self {
        let link =
            segments.first().map_or(Link { end: 0, sequence: 0, hash: [0; 32], time: 0, remaining: 0 }, Link::before);
        Self::new(segments, link)
    }

    /// The chain after the last record that was given.
    pub fn link(&self) -> Link {
        self.link
    }

    /// The chain after the last record that ended a change.
    pub fn complete(&self) -> Link {
        self.complete
    }

    fn broken(&self, what: impl Into<String>) -> Box<Break> {
        let sequence = self.link.sequence.saturating_add(1);
        let place = match self.segments.get(self.current).or(self.segments.last()) {
            Some(segment) => segment.place(self.link.end, sequence),
            None => Place { segment: Default::default(), offset: self.link.end, sequence },
        };
        Box::new(Break { offset: self.link.end, place, what: what.into(), error: None })
    }

    fn failed(&self, error: io::Error) -> Box<Break> {
        Box::new(Break { error: Some(error), ..*self.broken("it cannot be read") })
    }

    /// The next record; `None` at the end of the last segment.
    pub fn next(&mut self) -> Result<Option<Located>, Box<Break>> {
        loop {
            let Some(segment) = self.segments.get(self.current) else { return Ok(None) };
            if self.link.end < segment.end() {
                break;
            }
            if self.current + 1 >= self.segments.len() {
                return Ok(None);
            }
            self.enter_next()?;
        }
        let offset = self.link.end;
        let bytes = self.read_record()?;
        let (record, length, hash) = Record::decode(&bytes).map_err(|defect| self.broken(defect.as_str()))?;
        if record.previous != self.link.hash {
            return Err(self.broken("the record does not follow the one before"));
        }
        if record.sequence != self.link.sequence + 1 {
            return Err(self.broken(format!("the record has sequence {}", record.sequence)));
        }
        if record.time < self.link.time {
            return Err(self.broken("the record is older than the one before"));
        }
        if record.batch > offset || (self.link.remaining > 0 && record.remaining + 1 != self.link.remaining) {
            return Err(self.broken("the record does not continue its change"));
        }
        let located = Located { record, offset, end: offset + length as u64, hash };
        self.link = Link::after(&located);
        if located.record.remaining == 0 {
            self.complete = self.link;
        }
        Ok(Some(located))
    }

    fn enter_next(&mut self) -> Result<(), Box<Break>> {
        let Some(next) = self.segments.get(self.current + 1).cloned() else { return Ok(()) };
        if self.link.remaining > 0 {
            return Err(self.broken("a change is cut by the end of the segment"));
        }
        self.current += 1;
        self.reader = None;
        if next.header.previous != self.link.hash || next.header.first_sequence != self.link.sequence + 1 {
            self.link.end = next.header.base;
            return Err(self.broken("the segment does not follow the one before"));
        }
        self.link.end = next.header.base + HEADER_LEN as u64;
        self.complete = self.link;
        Ok(())
    }

    fn read_record(&mut self) -> Result<Vec<u8>, Box<Break>> {
        let Some(segment) = self.segments.get(self.current) else { return Ok(Vec::new()) };
        if self.reader.is_none() {
            let start = self.link.end - segment.header.base;
            let open = || -> io::Result<_> {
                let mut file = File::open(&segment.path)?;
                file.seek(SeekFrom::Start(start))?;
                Ok(BufReader::with_capacity(1 << 20, file.take(segment.len - start)))
            };
            self.reader = Some(open().map_err(|e| self.failed(e))?);
        }
        let Some(reader) = self.reader.as_mut() else { return Ok(Vec::new()) };
        let mut bytes = vec![0; 4];
        let read = read_up_to(reader, &mut bytes).and_then(|n| {
            bytes.truncate(n);
            let Ok(length) = Record::length(&bytes) else { return Ok(()) };
            bytes.resize(length, 0);
            let n = read_up_to(reader, bytes.get_mut(4..).unwrap_or_default())?;
            bytes.truncate(4 + n);
            Ok(())
        });
        read.map_err(|e| self.failed(e))?;
        Ok(bytes)
    }
}

fn read_up_to(reader: &mut impl Read, mut buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while !buffer.is_empty() {
        match reader.read(buffer) {
            Ok(0) => break,
            Ok(n) => {
                filled += n;
                buffer = buffer.get_mut(n..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The offset of a whole record behind the global offset `damage` that was written in a later batch than the damaged
/// one. A later batch is only begun when the earlier one is durable, so such a record proves that the damage is not
/// the work of a crash.
pub fn later_batch(segment: &Segment, damage: u64) -> io::Result<Option<u64>> {
    let start = damage.saturating_sub(segment.header.base);
    let mut file = File::open(&segment.path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    // No further than the file went when the chain was walked: a running server has gone on since.
    file.take(segment.len.saturating_sub(start)).read_to_end(&mut bytes)?;
    for (skip, _) in bytes.iter().enumerate().skip(1) {
        let Some(rest) = bytes.get(skip..) else { break };
        if let Ok((record, ..)) = Record::decode(rest)
            && record.batch > damage
        {
            return Ok(Some(damage + skip as u64));
        }
    }
    Ok(None)
}

/// Reads one record at its global offset and checks its hash.
pub fn read_at(files: &Files, offset: u64) -> Result<Located, StoreError> {
    // Nearly every record fits into one read.
    let mut bytes = vec![0; 4096];
    let n = files.read(offset, &mut bytes)?;
    bytes.truncate(n);
    let damaged = |_: Defect| StoreError::Corrupt(files.place(offset, 0));
    let length = Record::length(&bytes).map_err(damaged)?;
    if length > bytes.len() {
        bytes.resize(length.min(MAX_RECORD), 0);
        let n = files.read(offset, &mut bytes)?;
        bytes.truncate(n);
    }
    let (record, length, hash) = Record::decode(&bytes).map_err(damaged)?;
    Ok(Located { record, offset, end: offset + length as u64, hash })
}
