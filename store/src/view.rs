//! The state as it is: the durable facts, and for a decision also those of the batch in the making.

use crate::{
    error::StoreError,
    event::Event,
    index::{Index, KeyValue, Rows, key},
    journal::{
        format::Record,
        reader::{Link, Located, read_at},
        segment::Files,
    },
};
use prost::Message;
use std::collections::BTreeSet;

/// Records that were decided and are not durable yet, and what they do to the index.
#[derive(Debug)]
pub struct Batch {
    /// Global offset of its first record.
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) rows: Rows,
    /// The issuers that have a certificate revoked in it.
    pub(crate) revoked: BTreeSet<String>,
    /// The chain after its last record.
    pub(crate) link: Link,
}

impl Batch {
    pub(crate) fn new(link: Link) -> Self {
        Self { start: link.end, bytes: Vec::new(), rows: Rows::new(), revoked: BTreeSet::new(), link }
    }
}

/// The state as it is.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) index: &'a Index,
    pub(crate) files: &'a Files,
    pub(crate) batch: Option<&'a Batch>,
}

impl View<'_> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.batch.and_then(|batch| batch.rows.get(key)) {
            Some(value) => Ok(value.clone()),
            None => self.index.get(key),
        }
    }

    /// The row of a key.
    pub(crate) fn row<R: Message + Default>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.get(key)?.map(|bytes| decode_row(&bytes)).transpose()
    }

    pub(crate) fn has(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.get(key)?.is_some())
    }

    /// All entries whose keys begin with `prefix`. Only for what has few.
    pub(crate) fn all(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let mut found = std::collections::BTreeMap::new();
        self.index.each(prefix, &mut |key, value| {
            found.insert(key.to_vec(), value.to_vec());
            Ok(())
        })?;
        if let Some(batch) = self.batch {
            for (key, value) in batch.rows.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix)) {
                match value {
                    Some(value) => found.insert(key.clone(), value.clone()),
                    None => found.remove(key),
                };
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The record at a global offset.
    pub(crate) fn record(&self, offset: u64) -> Result<Located, StoreError> {
        if let Some(batch) = self.batch.filter(|batch| offset >= batch.start) {
            let start = usize::try_from(offset - batch.start).unwrap_or(usize::MAX);
            let bytes = batch.bytes.get(start..).unwrap_or_default();
            let (record, length, hash) =
                Record::decode(bytes).map_err(|_| StoreError::Index(format!("no record at {offset}")))?;
            return Ok(Located { record, offset, end: offset + length as u64, hash });
        }
        read_at(self.files, offset)
    }

    /// What the record at a global offset says.
    pub(crate) fn event(&self, offset: u64) -> Result<(Located, Event), StoreError> {
        let located = self.record(offset)?;
        let event = Event::of(&located)?;
        Ok((located, event))
    }

    /// The references that a listing leads to.
    pub(crate) fn references(&self, prefix: &[u8]) -> Result<Vec<crate::event::Reference>, StoreError> {
        self.all(prefix)?.iter().map(|(_, value)| parse_reference(value)).collect()
    }
}

/// Reads a row.
pub(crate) fn decode_row<R: Message + Default>(bytes: &[u8]) -> Result<R, StoreError> {
    R::decode(bytes).map_err(|error| StoreError::Index(error.to_string()))
}

/// Reads a reference.
pub(crate) fn parse_reference(bytes: &[u8]) -> Result<crate::event::Reference, StoreError> {
    key::parse_reference(bytes).ok_or_else(|| StoreError::Index("a reference is damaged".to_owned()))
}
