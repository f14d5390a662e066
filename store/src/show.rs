//! The journal for people: each record as names and values. Reads only and takes no lock, so it works beside a running
//! server.

use crate::{
    error::OpenError,
    event::{EXCEPTION_WRAPPED_BACKUP, Event},
    journal::{
        mark::{self, Found},
        reader::{Break, Chain, Link, Located, later_batch},
        segment::{self, Segment},
    },
};
use ca_core::time::UnixTime;
use std::{fmt::Write as _, path::Path};

/// One record for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownRecord {
    /// Its sequence.
    pub sequence: u64,
    /// Global offset of its first octet.
    pub offset: u64,
    /// When it was made.
    pub time: UnixTime,
    /// Whose it is; empty when it is nobody's.
    pub tenant: String,
    /// What happened, in words.
    pub kind: &'static str,
    /// Its content, name to value; octets in hexadecimal.
    pub fields: Vec<(&'static str, String)>,
    /// SHA-256 over it and, through it, over everything before.
    pub hash: [u8; 32],
}

/// The records of a journal, oldest first. Ends with the first damage; what is unfinished at the end is left out: a
/// running server is writing it, or the next start cuts it off.
#[derive(Debug)]
pub struct Records {
    chain: Chain<'static>,
    last: Segment,
    /// Global offset up to which everything is durable, as far as is known.
    durable: u64,
    from: u64,
    ended: bool,
}

/// The records of the journal in `dir` with a sequence of at least `from`. The chain is checked from the beginning of
/// the file that holds `from`.
///
/// # Errors
/// [`OpenError`] when there is no journal or a file's header is damaged.
pub fn read_records(dir: &Path, from: u64) -> Result<Records, OpenError> {
    let store_id = segment::list(dir)?.first().map(|s| s.header.store_id).unwrap_or_default();
    let durable = match mark::read(dir, &store_id).map_err(segment::at(&mark::path(dir)))? {
        Found::Mark(mark) => mark.offset,
        Found::Nothing | Found::Damaged => 0,
    };
    let segments = segment::list(dir)?;
    let first = segments.iter().rev().find(|s| s.header.first_sequence <= from.max(1)).or(segments.first());
    let (Some(first), Some(last)) = (first, segments.last().cloned()) else {
        return Err(OpenError::Missing(dir.to_owned()));
    };
    let link = Link::before(first);
    Ok(Records { chain: Chain::new(segments, link), last, durable, from, ended: false })
}

impl Iterator for Records {
    type Item = Result<ShownRecord, OpenError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match self.chain.next() {
                Ok(Some(located)) if located.record.sequence < self.from => {}
                Ok(Some(located)) => return Some(Ok(show(&located))),
                Ok(None) => self.ended = true,
                Err(broken) => {
                    self.ended = true;
                    return self.damage(*broken).map(Err);
                }
            }
        }
        None
    }
}

impl Records {
    /// The error, unless the journal is only unfinished there.
    fn damage(&self, broken: Break) -> Option<OpenError> {
        if let Some(source) = broken.error {
            return Some(OpenError::Io { path: broken.place.segment, source });
        }
        if broken.place.segment == self.last.path && broken.offset >= self.durable {
            match later_batch(&self.last, broken.offset) {
                Ok(None) => return None,
                Ok(Some(_)) => {}
                Err(source) => return Some(OpenError::Io { path: broken.place.segment, source }),
            }
        }
        Some(OpenError::Damaged { place: broken.place, what: broken.what })
    }
}

fn show(located: &Located) -> ShownRecord {
    let record = &located.record;
    let (kind, fields) = match Event::decode(record.kind, record.version, &record.payload) {
        Some(event) => (event.label(), fields(&event)),
        None => ("unknown", vec![("kind", record.kind.to_string()), ("payload", hex::encode(&record.payload))]),
    };
    ShownRecord {
        sequence: record.sequence,
        offset: located.offset,
        time: UnixTime::from_secs(record.time),
        tenant: printable(&record.tenant),
        kind,
        fields,
        hash: located.hash,
    }
}

/// Text from outside never reaches a terminal as it is: control characters are escaped.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn text(&mut self, name: &'static str, value: &str) -> &mut Self {
        if !value.is_empty() {
            self.0.push((name, printable(value)));
        }
        self
    }

    fn octets(&mut self, name: &'static str, value: &[u8]) -> &mut Self {
        if !value.is_empty() {
            self.0.push((name, hex::encode(value)));
        }
        self
    }

    fn number(&mut self, name: &'static str, value: u64) -> &mut Self {
        self.0.push((name, value.to_string()));
        self
    }

    fn time(&mut self, name: &'static str, value: u64) -> &mut Self {
        self.0.push((name, UnixTime::from_secs(value).to_string()));
        self
    }
}

fn fields(event: &Event) -> Vec<(&'static str, String)> {
    let mut out = Fields(Vec::new());
    let f = &mut out;
    match event {
        Event::IssuerAdded(e) => {
            f.text("issuer", &e.issuer).octets("certificate", &e.certificate).octets("key_id", &e.key_id);
            for certificate in &e.chain {
                f.octets("chain", certificate);
            }
            f.octets("ocsp_certificate", &e.ocsp_certificate).octets("ocsp_key_id", &e.ocsp_key_id);
            f.text("crl_url", &e.crl_url).text("ocsp_url", &e.ocsp_url).text("ca_issuers_url", &e.ca_issuers_url);
            f.number("state", u64::from(e.state));
            if e.signature_algorithm != 0 {
                f.number("signature_algorithm", u64::from(e.signature_algorithm));
            }
        }
        Event::OcspResponderSet(e) => {
            f.text("issuer", &e.issuer).octets("certificate", &e.certificate).octets("key_id", &e.key_id);
        }
        Event::IssuerStateSet(e) => {
            f.text("issuer", &e.issuer).number("state", u64::from(e.state));
        }
        Event::ServerIdentitySet(e) => {
            for certificate in &e.chain {
                f.octets("chain", certificate);
            }
            f.octets("key_id", &e.key_id);
        }
        Event::IntentMade(e) => intent(f, e),
        Event::CertificateIssued(e) => {
            f.text("issuer", &e.issuer).octets("serial", &e.serial).octets("signature", &e.signature);
        }
        Event::IntentAborted(e) => {
            f.text("issuer", &e.issuer).octets("serial", &e.serial).text("reason", &e.reason);
        }
        Event::CertificateInstalled(e) => {
            f.text("issuer", &e.issuer).octets("serial", &e.serial).text("by", &e.by);
            f.text("cause", if e.cause == 2 { "first use" } else { "confirmed" });
        }
        Event::CertificateRevoked(e) => {
            f.text("issuer", &e.issuer).octets("serial", &e.serial).number("reason", u64::from(e.reason));
            if let Some(date) = e.invalidity_date {
                f.time("invalidity_date", date);
            }
            f.text("by", &e.by).text("comment", &e.comment);
        }
        Event::PrincipalDisabled(e) => {
            f.text("principal", &e.principal).text("by", &e.by);
        }
        Event::TokenCreated(e) => {
            f.text("token_id", &e.token_id).text("profile", &e.profile).text("manufacturer", &e.manufacturer);
            f.text("model", &e.model).text("serial_number", &e.serial_number).time("expires_at", e.expires_at);
            f.text("by", &e.by);
        }
        Event::CrlNumberReserved(e) => {
            f.text("issuer", &e.issuer).number("number", e.number);
        }
        Event::CrlPublished(e) => {
            f.text("issuer", &e.issuer).number("number", e.number).time("this_update", e.this_update);
            f.time("next_update", e.next_update).octets("sha256", &e.sha256).number("up_to_record", e.sequence);
        }
        Event::RequestAnswered(e) => {
            f.text("requester", &e.requester).text("idempotency_key", &e.idempotency_key).text("name", &e.name);
            if e.continues {
                f.text("continues", "yes");
            }
            for reference in &e.certificates {
                f.text("issuer", &reference.issuer).octets("serial", &reference.serial);
            }
        }
        Event::KeyMade(e) => {
            f.octets("key_id", &e.key_id).text("label", &e.label).text("algorithm", &e.algorithm);
            f.octets("spki", &e.spki).text("purpose", &e.purpose).text("by", &e.by);
            for (name, value) in &e.attributes {
                f.text("attribute", &format!("{name} = {value}"));
            }
            f.text("token_serial", &e.token_serial).text("token_label", &e.token_label);
        }
        Event::KeyRetired(e) => {
            f.octets("key_id", &e.key_id).text("why", &e.why).text("by", &e.by);
            f.text("destroyed", if e.destroyed { "yes" } else { "no" });
        }
        Event::KeyPolicy(e) => {
            let exception = if e.exception == EXCEPTION_WRAPPED_BACKUP { "wrapped-backup" } else { "unknown" };
            f.octets("key_id", &e.key_id).text("exception", exception).octets("wrapping_key_id", &e.wrapping_key_id);
            f.text("reason", &e.reason).text("by", &e.by);
        }
        Event::TokenIdentity(e) => {
            f.text("serial", &e.serial).text("label", &e.label).text("manufacturer", &e.manufacturer);
            f.octets("key_id", &e.key_id).octets("spki", &e.spki);
            f.text("accepted_by", &e.accepted_by).text("why", &e.why);
        }
    }
    out.0
}

fn intent(f: &mut Fields, e: &crate::event::IntentMade) {
    f.text("issuer", &e.issuer).octets("serial", &e.serial).text("profile", &e.profile);
    f.octets("profile_sha256", &e.profile_sha256);
    let holder = if e.holder_kind == crate::event::HOLDER_DEVICE { "device" } else { "principal" };
    f.text(holder, &e.holder_id).text("manufacturer", &e.manufacturer).text("model", &e.model);
    f.text("serial_number", &e.serial_number).text("requester", &e.requester);
    f.text("idempotency_key", &e.idempotency_key).octets("request_sha256", &e.request_sha256);
    f.octets("spki_sha256", &e.spki_sha256).text("token_id", e.token_id.as_deref().unwrap_or_default());
    f.octets("anchor_sha256", e.anchor_sha256.as_deref().unwrap_or_default());
    if let Some(attestation) = &e.attestation {
        f.text("attestation", &attestation.format).text("trust_anchor", &attestation.trust_anchor);
        f.octets("evidence_sha256", &attestation.evidence_sha256);
        for (name, value) in &attestation.claims {
            f.text("claim", &format!("{name} = {value}"));
        }
    }
    if let Some(replaced) = &e.replaces {
        f.text("replaces_issuer", &replaced.issuer).octets("replaces_serial", &replaced.serial);
    }
    f.time("not_before", e.not_before).time("not_after", e.not_after).octets("tbs", &e.tbs);
}
