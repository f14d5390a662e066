//! How headers, records and the mark look on disk. All integers are big-endian.
//!
//! A record: length u32 (of the whole record), type u16, format version u16, records of the same change that follow
//! u16, tenant (length u8, 32 octets, zero-padded), sequence u64, time u64, offset of the batch u64, payload, SHA-256
//! of the record before, SHA-256 over everything up to here.

use sha2::{Digest, Sha256};

/// SHA-256.
pub type Hash = [u8; 32];

/// The format version that this program writes, and the newest that it reads.
pub const VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"SWJOURNL";
const TENANT_LEN: usize = 32;

/// Octets of a segment's header.
pub const HEADER_LEN: usize = 8 + 2 + 16 + 8 + 8 + 32 + 32;

/// Octets before a record's payload.
const PREFIX_LEN: usize = 4 + 2 + 2 + 2 + 1 + TENANT_LEN + 8 + 8 + 8;
/// Octets after it.
const SUFFIX_LEN: usize = 64;

/// The largest payload. The biggest one is an intent: a TBSCertificate (at most 32 KiB, in practice 8) and what
/// attestation established; an issuer with the longest chain, seven certificates of ML-DSA-87, takes 54 KiB. A small
/// bound keeps a damaged length from costing memory.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// The smallest record.
pub const MIN_RECORD: usize = PREFIX_LEN + SUFFIX_LEN;
/// The largest record.
pub const MAX_RECORD: usize = MIN_RECORD + MAX_PAYLOAD;

/// The header of a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Random; the same in every segment of a journal.
    pub store_id: [u8; 16],
    /// Global offset of the file's first octet.
    pub base: u64,
    /// Sequence of its first record.
    pub first_sequence: u64,
    /// Hash of the last record of the segment before; zero in the first segment.
    pub previous: Hash,
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderDefect {
    /// Not the header of a segment, or damaged.
    Damaged,
    /// Written by a newer program.
    Version(u16),
}

impl Header {
    /// The octets, the last 32 of which are the hash of the others.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.store_id);
        out.extend_from_slice(&self.base.to_be_bytes());
        out.extend_from_slice(&self.first_sequence.to_be_bytes());
        out.extend_from_slice(&self.previous);
        let hash = sha256(&out);
        out.extend_from_slice(&hash);
        out
    }

    /// Reads and checks a header.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderDefect> {
        let bytes = bytes.get(..HEADER_LEN).ok_or(HeaderDefect::Damaged)?;
        let (body, hash) = bytes.split_at(HEADER_LEN - 32);
        let mut input = Input(body);
        let magic: [u8; 8] = input.array().ok_or(HeaderDefect::Damaged)?;
        if &magic != MAGIC || sha256(body) != hash {
            return Err(HeaderDefect::Damaged);
        }
        let version = input.array().map(u16::from_be_bytes).ok_or(HeaderDefect::Damaged)?;
        if version != VERSION {
            return Err(HeaderDefect::Version(version));
        }
        let mut rest = || -> Option<Self> {
            Some(Self {
                store_id: input.array()?,
                base: input.u64()?,
                first_sequence: input.u64()?,
                previous: input.array()?,
            })
        };
        rest().ok_or(HeaderDefect::Damaged)
    }

    /// What the first record of this segment states as the hash before it: the last record's, or in the first segment
    /// the header's own, which binds the chain to the store.
    pub fn link(&self) -> Hash {
        if self.base == 0 {
            let bytes = self.encode();
            Input(bytes.get(HEADER_LEN - 32..).unwrap_or_default()).array().unwrap_or_default()
        } else {
            self.previous
        }
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the payload is.
    pub kind: u16,
    /// The payload's format version.
    pub version: u16,
    /// How many records of the same change follow; a change whose last record is missing never happened.
    pub remaining: u16,
    /// Whose it is; empty when it is nobody's. At most 32 octets.
    pub tenant: String,
    /// 1, 2, 3 ...
    pub sequence: u64,
    /// Seconds since the epoch; never less than the record's before.
    pub time: u64,
    /// Global offset of the first record that was written and synced together with this one.
    pub batch: u64,
    /// Protobuf.
    pub payload: Vec<u8>,
    /// Hash of the record before.
    pub previous: Hash,
}

/// Why octets are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Fewer octets than the record says that it has.
    Incomplete,
    /// The length is impossible.
    Length,
    /// The hash is not that of the record.
    Hash,
    /// The hash is right, but a field is not one that this format has.
    Field,
}

impl Defect {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "the record is cut short",
            Self::Length => "the record's length is impossible",
            Self::Hash => "the record does not match its hash",
            Self::Field => "a field of the record is invalid",
        }
    }
}

impl Record {
    /// Appends the record's octets and gives its hash. The caller keeps the limits of payload and tenant.
    pub fn encode(&self, out: &mut Vec<u8>) -> Hash {
        let start = out.len();
        let length = u32::try_from(MIN_RECORD + self.payload.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&self.remaining.to_be_bytes());
        let mut tenant = [0u8; TENANT_LEN];
        let used = self.tenant.len().min(TENANT_LEN);
        for (to, from) in tenant.iter_mut().zip(self.tenant.bytes()) {
            *to = from;
        }
        out.push(used as u8);
        out.extend_from_slice(&tenant);
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.time.to_be_bytes());
        out.extend_from_slice(&self.batch.to_be_bytes());
        out.extend_from_slice(&self.payload);
        out.extend_from_slice(&self.previous);
        let hash = sha256(out.get(start..).unwrap_or_default());
        out.extend_from_slice(&hash);
        hash
    }

    /// The length that the first four octets state, when it is possible.
    pub fn length(bytes: &[u8]) -> Result<usize, Defect> {
        let length = Input(bytes).array().map(u32::from_be_bytes).ok_or(Defect::Incomplete)? as usize;
        if (MIN_RECORD..=MAX_RECORD).contains(&length) { Ok(length) } else { Err(Defect::Length) }
    }

    /// Reads the record at the beginning of `bytes` and checks its hash. Gives its length and hash too.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize, Hash), Defect> {
        let length = Self::length(bytes)?;
        let bytes = bytes.get(..length).ok_or(Defect::Incomplete)?;
        let (body, hash) = bytes.split_at(length - 32);
        let computed = sha256(body);
        if computed != hash {
            return Err(Defect::Hash);
        }
        let mut input = Input(body);
        let mut fields = || -> Option<Self> {
            input.take(4)?;
            let kind = input.u16()?;
            let version = input.u16()?;
            let remaining = input.u16()?;
            let used = usize::from(*input.take(1)?.first()?);
            let tenant = input.take(TENANT_LEN)?;
            let (tenant, padding) = tenant.split_at_checked(used)?;
            if padding.iter().any(|&b| b != 0) {
                return None;
            }
            Some(Self {
                kind,
                version,
                remaining,
                tenant: std::str::from_utf8(tenant).ok()?.to_owned(),
                sequence: input.u64()?,
                time: input.u64()?,
                batch: input.u64()?,
                payload: input.take(length - MIN_RECORD)?.to_vec(),
                previous: input.array()?,
            })
        };
        let record = fields().ok_or(Defect::Field)?;
        Ok((record, length, computed))
    }
}

/// How far the journal was durable at least, when this was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Global offset behind the last durable record.
    pub offset: u64,
    /// Its sequence.
    pub sequence: u64,
    /// Its hash.
    pub hash: Hash,
}

/// Octets of a mark.
pub const MARK_LEN: usize = 8 + 8 + 32 + 32;

impl Mark {
    /// The octets, the last 32 of which are the hash of the others and the store's identity.
    pub fn encode(&self, store_id: &[u8; 16]) -> Vec<u8> {
        let mut out = Vec::with_capacity(MARK_LEN + 16);
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.hash);
        let mut keyed = out.clone();
        keyed.extend_from_slice(store_id);
        out.extend_from_slice(&sha256(&keyed));
        out
    }

    /// Reads and checks a mark.
    pub fn decode(bytes: &[u8], store_id: &[u8; 16]) -> Option<Self> {
        let mut input = Input(bytes);
        let mark = Self { offset: input.u64()?, sequence: input.u64()?, hash: input.array()? };
        (bytes.len() == MARK_LEN && mark.encode(store_id) == bytes).then_some(mark)
    }
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = Record> {
        (
            any::<(u16, u16, u16)>(),
            "[a-z0-9._-]{0,32}",
            any::<(u64, u64, u64)>(),
            proptest::collection::vec(any::<u8>(), 0..2_000),
            any::<[u8; 32]>(),
        )
            .prop_map(|((kind, version, remaining), tenant, (sequence, time, batch), payload, previous)| {
                Record { kind, version, remaining, tenant, sequence, time, batch, payload, previous }
            })
    }

    proptest! {
        #[test]
        fn a_record_survives_its_encoding(record in record(), tail in proptest::collection::vec(any::<u8>(), 0..50)) {
            let mut bytes = Vec::new();
            let hash = record.encode(&mut bytes);
            let length = bytes.len();
            bytes.extend_from_slice(&tail);
            prop_assert_eq!(Record::decode(&bytes), Ok((record, length, hash)));
        }

        #[test]
        fn a_changed_or_shortened_record_is_refused(record in record(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            let at = at.index(bytes.len());
            prop_assert_eq!(Record::decode(&bytes[..at]), Err(Defect::Incomplete));
            bytes[at] ^= 1 << bit;
            prop_assert!(Record::decode(&bytes).is_err());
        }

        #[test]
        fn arbitrary_octets_are_no_record(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            prop_assert!(Record::decode(&bytes).is_err());
            prop_assert!(Header::decode(&bytes).is_err());
            prop_assert!(Mark::decode(&bytes, &[0; 16]).is_none());
        }
    }

    #[test]
    fn headers_and_marks_survive_and_every_flip_is_refused() {
        let header = Header { store_id: [7; 16], base: 0, first_sequence: 1, previous: [0; 32] };
        let bytes = header.encode();
        assert_eq!(bytes.len(), HEADER_LEN);
        assert_eq!(Header::decode(&bytes), Ok(header.clone()));
        assert_eq!(header.link().to_vec(), bytes[HEADER_LEN - 32..].to_vec());
        let mark = Mark { offset: 9, sequence: 3, hash: [1; 32] };
        let marked = mark.encode(&[7; 16]);
        assert_eq!(Mark::decode(&marked, &[7; 16]), Some(mark));
        assert_eq!(Mark::decode(&marked, &[8; 16]), None);
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(Header::decode(&changed).is_err());
        }
        for at in 0..marked.len() * 8 {
            let mut changed = marked.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(Mark::decode(&changed, &[7; 16]).is_none());
        }
    }

    #[test]
    fn the_first_record_of_the_format_stays_as_it_is() {
        let record = Record {
            kind: 5,
            version: 1,
            remaining: 0,
            tenant: "default".into(),
            sequence: 1,
            time: 1_700_000_000,
            batch: 106,
            payload: b"payload".to_vec(),
            previous: [0; 32],
        };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        assert_eq!(HEADER_LEN, 106);
        assert_eq!(
            hex::encode(&bytes[..67]),
            "0000008a0005000100000764656661756c74000000000000000000000000000000000000000000000000000000000000000001000000\
             006553f100000000000000006a"
        );
    }
}
