//! Certificate revocation lists (RFC 5280 5): full lists, version 2, one issuer, one distribution point.
//!
//! The DER is written directly and once. A list of a million entries is one buffer that grows to its final size; what
//! stands before the entries is written into room kept free at the front, when their length is known.

use crate::{
    CrlReason,
    tlv::{self, push, push_header, push_unsigned, wrap},
};
use ca_core::{key::SignatureAlgorithm, serial::SerialNumber, time::UnixTime};
use der::{AnyRef, Decode, Encode, Reader, SliceReader, Tag, Tagged};

/// id-ce-cRLReasons 2.5.29.21 (RFC 5280 5.3.1), contents octets.
const OID_REASON: &[u8] = &[0x55, 0x1d, 0x15];
/// id-ce-invalidityDate 2.5.29.24 (RFC 5280 5.3.2).
const OID_INVALIDITY_DATE: &[u8] = &[0x55, 0x1d, 0x18];
/// id-ce-authorityKeyIdentifier 2.5.29.35 (RFC 5280 5.2.1).
const OID_AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];
/// id-ce-cRLNumber 2.5.29.20 (RFC 5280 5.2.3).
const OID_CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
/// id-ce-issuingDistributionPoint 2.5.29.28 (RFC 5280 5.2.5).
const OID_ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 0x1c];
const DER_TRUE: &[u8] = &[1, 1, 0xff];

/// What a list covers: the flags of its issuing distribution point (RFC 5280 5.2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrlScope {
    /// Every certificate of the issuer; no flag.
    #[default]
    Everything,
    /// onlyContainsUserCerts.
    UserCertificates,
    /// onlyContainsCACerts.
    CaCertificates,
}

/// Everything in a list but its entries.
#[derive(Clone, Copy, Debug)]
pub struct CrlRequest<'a> {
    /// The issuer's subject Name, DER, as it stands in its certificate.
    pub issuer_name_der: &'a [u8],
    /// The issuer's own subject key identifier, 1 to 64 octets.
    pub authority_key_identifier: &'a [u8],
    /// The algorithm that the issuer's key will sign with.
    pub algorithm: SignatureAlgorithm,
    /// Higher than that of every earlier list of this issuer; the caller sees to that.
    pub number: u64,
    /// When the list is made.
    pub this_update: UnixTime,
    /// By when the next list will be there; later than `this_update`.
    pub next_update: UnixTime,
    /// The URI that the issuer's certificates carry as their CRL distribution point: 1 to 2048 ASCII characters.
    pub idp_url: &'a str,
    /// What the list covers.
    pub scope: CrlScope,
}

/// One revoked certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedEntry {
    /// Its serial number.
    pub serial: SerialNumber,
    /// When it was revoked.
    pub at: UnixTime,
    /// Why.
    pub reason: CrlReason,
    /// When the key is believed to have been compromised.
    pub invalidity_date: Option<UnixTime>,
}

/// Why a list was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// Not the DER of a Name.
    #[error("the issuer's name is not a DER SEQUENCE")]
    IssuerName,
    /// Empty or longer than 64 octets.
    #[error("the authority key identifier must have 1 to 64 octets")]
    AuthorityKeyIdentifier,
    /// nextUpdate does not follow thisUpdate.
    #[error("next_update must be later than this_update")]
    Validity,
    /// Not 1 to 2048 visible ASCII characters.
    #[error("the distribution point must be 1 to 2048 visible ASCII characters")]
    DistributionPoint,
    /// Two entries have one serial number.
    #[error("serial number {0} is listed twice")]
    Duplicate(SerialNumber),
    /// A time that cannot be written.
    #[error("a time cannot be encoded: {0}")]
    Encoding(#[from] der::Error),
}

impl CrlError {
    /// The field of [`CrlRequest`] or [`RevokedEntry`] that is at fault.
    pub fn field(&self) -> &'static str {
        match self {
            Self::IssuerName => "issuer_name_der",
            Self::AuthorityKeyIdentifier => "authority_key_identifier",
            Self::Validity => "next_update",
            Self::DistributionPoint => "idp_url",
            Self::Duplicate(_) => "serial",
            Self::Encoding(_) => "this_update",
        }
    }
}

/// A TBSCertList: the bytes to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TbsCrl {
    /// The TBSCertList is `buffer[start..]`; before it is room for the outer header.
    buffer: Vec<u8>,
    start: usize,
    algorithm: SignatureAlgorithm,
    entries: usize,
}

impl TbsCrl {
    /// The DER TBSCertList.
    pub fn as_bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// The algorithm that it names and must be signed with.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// How many certificates it lists.
    pub fn entries(&self) -> usize {
        self.entries
    }
}

/// Makes the TBSCertList. The entries may come in any order; they are written in that of their serial numbers, and one
/// that ascends costs no sorting.
///
/// # Errors
/// [`CrlError`] names the field at fault.
pub fn prepare(request: &CrlRequest<'_>, entries: impl IntoIterator<Item = RevokedEntry>) -> Result<TbsCrl, CrlError> {
    check(request)?;
    let before_list = before_entries(request)?;
    // CertificateList, TBSCertList and revokedCertificates headers go in front when the lengths are known.
    let reserved = before_list.len() + 3 * tlv::MAX_HEADER;

    let mut buffer = vec![0; reserved];
    let mut index: Vec<Entry> = Vec::new();
    let mut ascending = true;
    for entry in entries {
        let at = buffer.len();
        let written = push_entry(&mut buffer, &entry)?;
        let here = Entry { at, len: buffer.len() - at, serial: written };
        if ascending && let Some(last) = index.last() {
            ascending = last.key(&buffer) < here.key(&buffer);
        }
        index.push(here);
    }
    if !ascending {
        buffer = sorted(&buffer, &mut index, reserved)?;
    }
    let entries = index.len();
    drop(index);
    let list_len = buffer.len() - reserved;
    buffer.extend_from_slice(&wrap(tlv::context(0), &wrap(tlv::SEQUENCE, &extensions(request))));

    let mut front = before_list;
    if entries > 0 {
        // RFC 5280 5.1.2.6: the list is absent, not empty, when nothing is revoked.
        push_header(&mut front, tlv::SEQUENCE, list_len);
    }
    let content = front.len() + buffer.len() - reserved;
    let mut whole = Vec::with_capacity(front.len() + tlv::MAX_HEADER);
    push_header(&mut whole, tlv::SEQUENCE, content);
    whole.extend_from_slice(&front);
    let start = place_before(&mut buffer, reserved, &whole);
    Ok(TbsCrl { buffer, start, algorithm: request.algorithm, entries })
}

/// The DER CertificateList, from the bytes that were signed and their signature (ECDSA: DER, RFC 3279 2.2.3).
///
/// # Errors
/// None for an algorithm of ours; the signature is that of the encoder.
pub fn finish(tbs: TbsCrl, signature: &[u8]) -> Result<Vec<u8>, CrlError> {
    let TbsCrl { mut buffer, start, algorithm, .. } = tbs;
    buffer.extend_from_slice(&algorithm.identifier().to_der()?);
    tlv::push_bits(&mut buffer, signature);
    let mut header = Vec::with_capacity(tlv::MAX_HEADER);
    push_header(&mut header, tlv::SEQUENCE, buffer.len() - start);
    let start = place_before(&mut buffer, start, &header);
    buffer.drain(..start);
    Ok(buffer)
}

/// Where an entry was written, and where in it the contents of its serial number are.
struct Entry {
    at: usize,
    len: usize,
    serial: std::ops::Range<usize>,
}

impl Entry {
    /// Orders as the numbers do: minimal positive encodings compare by length, then octet by octet.
    fn key<'a>(&self, buffer: &'a [u8]) -> (usize, &'a [u8]) {
        (self.serial.len(), buffer.get(self.serial.clone()).unwrap_or_default())
    }
}

fn sorted(buffer: &[u8], index: &mut [Entry], reserved: usize) -> Result<Vec<u8>, CrlError> {
    index.sort_unstable_by(|a, b| a.key(buffer).cmp(&b.key(buffer)));
    let mut out = Vec::with_capacity(buffer.len() + 512);
    out.resize(reserved, 0);
    let mut last: Option<(usize, &[u8])> = None;
    for entry in index.iter() {
        let key = entry.key(buffer);
        if last == Some(key) {
            let serial = SerialNumber::from_be_bytes(key.1).map_err(|_| CrlError::IssuerName)?;
            return Err(CrlError::Duplicate(serial));
        }
        last = Some(key);
        out.extend_from_slice(buffer.get(entry.at..entry.at + entry.len).unwrap_or_default());
    }
    Ok(out)
}

/// Copies `bytes` so that they end at `end`, inside the room that was kept; returns where they begin.
fn place_before(buffer: &mut [u8], end: usize, bytes: &[u8]) -> usize {
    let start = end.saturating_sub(bytes.len());
    if let Some(room) = buffer.get_mut(start..end)
        && room.len() == bytes.len()
    {
        room.copy_from_slice(bytes);
    }
    start
}

fn check(request: &CrlRequest<'_>) -> Result<(), CrlError> {
    let name = der::AnyRef::try_from(request.issuer_name_der).map_err(|_| CrlError::IssuerName)?;
    if der::Tagged::tag(&name) != der::Tag::Sequence {
        return Err(CrlError::IssuerName);
    }
    if !(1..=64).contains(&request.authority_key_identifier.len()) {
        return Err(CrlError::AuthorityKeyIdentifier);
    }
    if request.next_update <= request.this_update {
        return Err(CrlError::Validity);
    }
    if !(1..=2048).contains(&request.idp_url.len()) || !request.idp_url.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(CrlError::DistributionPoint);
    }
    Ok(())
}

/// version, signature, issuer, thisUpdate, nextUpdate.
fn before_entries(request: &CrlRequest<'_>) -> Result<Vec<u8>, CrlError> {
    let mut out = Vec::with_capacity(128 + request.issuer_name_der.len());
    // Version v2 is the integer 1.
    push(&mut out, tlv::INTEGER, &[1]);
    request.algorithm.identifier().encode_to_vec(&mut out)?;
    out.extend_from_slice(request.issuer_name_der);
    request.this_update.to_x509()?.encode_to_vec(&mut out)?;
    request.next_update.to_x509()?.encode_to_vec(&mut out)?;
    Ok(out)
}

/// Writes an entry; returns where the contents of its serial number are.
fn push_entry(out: &mut Vec<u8>, entry: &RevokedEntry) -> Result<std::ops::Range<usize>, CrlError> {
    // An entry has at most 22 + 17 + 40 octets, so each of its lengths takes one octet, patched afterwards.
    let sequence = open(out, tlv::SEQUENCE);
    push_unsigned(out, entry.serial.as_be_bytes());
    let serial = sequence + 2..out.len();
    entry.at.to_x509()?.encode_to_vec(out)?;
    if entry.reason != CrlReason::Unspecified || entry.invalidity_date.is_some() {
        let extensions = open(out, tlv::SEQUENCE);
        if entry.reason != CrlReason::Unspecified {
            let extension = open(out, tlv::SEQUENCE);
            push(out, tlv::OID, OID_REASON);
            out.extend_from_slice(&[tlv::OCTET_STRING, 3, tlv::ENUMERATED, 1, entry.reason.code()]);
            close(out, extension);
        }
        if let Some(date) = entry.invalidity_date {
            let extension = open(out, tlv::SEQUENCE);
            push(out, tlv::OID, OID_INVALIDITY_DATE);
            let value = open(out, tlv::OCTET_STRING);
            date.to_generalized()?.encode_to_vec(out)?;
            close(out, value);
            close(out, extension);
        }
        close(out, extensions);
    }
    close(out, sequence);
    Ok(serial)
}

/// Begins a value of less than 128 octets; returns where its contents begin.
fn open(out: &mut Vec<u8>, tag: u8) -> usize {
    out.extend_from_slice(&[tag, 0]);
    out.len()
}

/// Ends the value whose contents begin at `contents`.
fn close(out: &mut [u8], contents: usize) {
    let len = out.len().saturating_sub(contents);
    debug_assert!(len < 128, "an entry's parts are short");
    if let Some(octet) = contents.checked_sub(1).and_then(|at| out.get_mut(at)) {
        *octet = len as u8;
    }
}

fn extensions(request: &CrlRequest<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let aki = wrap(tlv::SEQUENCE, &wrap(tlv::context_primitive(0), request.authority_key_identifier));
    push_extension(&mut out, OID_AUTHORITY_KEY_IDENTIFIER, false, &aki);
    let mut number = Vec::new();
    push_unsigned(&mut number, &request.number.to_be_bytes());
    push_extension(&mut out, OID_CRL_NUMBER, false, &number);

    // distributionPoint [0] { fullName [0] { uniformResourceIdentifier [6] } }
    let uri = wrap(tlv::context_primitive(6), request.idp_url.as_bytes());
    let mut idp = wrap(tlv::context(0), &wrap(tlv::context(0), &uri));
    match request.scope {
        CrlScope::Everything => {}
        CrlScope::UserCertificates => push(&mut idp, tlv::context_primitive(1), &[0xff]),
        CrlScope::CaCertificates => push(&mut idp, tlv::context_primitive(2), &[0xff]),
    }
    // RFC 5280 5.2.5: critical.
    push_extension(&mut out, OID_ISSUING_DISTRIBUTION_POINT, true, &wrap(tlv::SEQUENCE, &idp));
    out
}

fn push_extension(out: &mut Vec<u8>, oid: &[u8], critical: bool, value: &[u8]) {
    let mut extension = wrap(tlv::OID, oid);
    if critical {
        extension.extend_from_slice(DER_TRUE);
    }
    push(&mut extension, tlv::OCTET_STRING, value);
    push(out, tlv::SEQUENCE, &extension);
}

/// The serial numbers that a DER CertificateList names, sorted. Signature, names and times are not looked at.
///
/// # Errors
/// When it is not a DER CertificateList.
pub fn serials(certificate_list: &[u8]) -> Result<Vec<SerialNumber>, CrlError> {
    let tbs = first(AnyRef::from_der(certificate_list)?.value())?;
    let mut fields = SliceReader::new(tbs.value())?;
    let mut after_times = false;
    while !fields.is_finished() {
        let field: AnyRef<'_> = fields.decode()?;
        match field.tag() {
            Tag::UtcTime | Tag::GeneralizedTime => after_times = true,
            // After the times the only SEQUENCE is revokedCertificates (RFC 5280 5.1.2).
            Tag::Sequence if after_times => return entry_serials(field.value()),
            _ => {}
        }
    }
    Ok(Vec::new())
}

fn entry_serials(revoked: &[u8]) -> Result<Vec<SerialNumber>, CrlError> {
    let mut entries = SliceReader::new(revoked)?;
    let mut serials = Vec::new();
    while !entries.is_finished() {
        let entry: AnyRef<'_> = entries.decode()?;
        let serial = SerialNumber::from_be_bytes(first(entry.value())?.value());
        serials.push(serial.map_err(|_| der::Error::from(Tag::Integer.value_error()))?);
    }
    serials.sort();
    Ok(serials)
}

/// The first element of some content; what follows it is left alone.
fn first(content: &[u8]) -> der::Result<AnyRef<'_>> {
    SliceReader::new(content)?.decode()
}
