//! The index's keys: one letter for the kind of entry, then parts that sort. A text is preceded by its length in one
//! octet, so no key is the beginning of another kind of key; all texts have at most 255 octets.

use crate::event::Reference;

/// The applied marker.
pub const APPLIED: &[u8] = b"\x00applied";
/// Whether the index was closed in order, and under which boot.
pub const LIFECYCLE: &[u8] = b"\x00lifecycle";
/// The server identity.
pub const SERVER: &[u8] = b"Y";
/// All issuers.
pub const ISSUERS: &[u8] = b"I";
/// All keys in the token that the journal has records of.
pub const TOKEN_KEYS: &[u8] = b"E";
/// The identities of all tokens.
pub const TOKEN_IDENTITIES: &[u8] = b"M";
/// All open intents.
pub const OPEN: &[u8] = b"O";

/// A key in the making.
pub struct Key(Vec<u8>);

impl Key {
    fn new(kind: u8) -> Self {
        let mut key = Vec::with_capacity(96);
        key.push(kind);
        Self(key)
    }

    fn text(self, text: &str) -> Self {
        self.octets(text.as_bytes())
    }

    fn octets(mut self, octets: &[u8]) -> Self {
        self.0.push(u8::try_from(octets.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(octets);
        self
    }

    fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn done(self) -> Vec<u8> {
        self.0
    }
}

/// A certificate.
pub fn certificate(issuer: &str, serial: &[u8]) -> Vec<u8> {
    Key::new(b'C').text(issuer).octets(serial).done()
}

/// A request by its idempotency key.
pub fn request(tenant: &str, requester: &str, key: &str) -> Vec<u8> {
    Key::new(b'R').text(tenant).text(requester).text(key).done()
}

/// The holder of a public key. For each tenant apart: one does not learn which keys another has.
pub fn spki(tenant: &str, sha256: &[u8]) -> Vec<u8> {
    Key::new(b'S').text(tenant).octets(sha256).done()
}

/// A public key that is compromised. For each tenant apart: a certification request is no secret, so one tenant could
/// otherwise bar another's device.
pub fn compromised(tenant: &str, spki_sha256: &[u8]) -> Vec<u8> {
    Key::new(b'X').text(tenant).octets(spki_sha256).done()
}

/// An open intent, by the sequence of its record.
pub fn open(sequence: u64) -> Vec<u8> {
    Key::new(b'O').number(sequence).done()
}

/// The certificates of a holder (device or principal), by the sequence of their intents.
pub fn held_by(tenant: &str, kind: u32, id: &str) -> Vec<u8> {
    Key::new(b'H').text(tenant).number(u64::from(kind)).text(id).done()
}

/// The certificates of a tenant, by the sequence of their issuance.
pub fn of_tenant(tenant: &str) -> Vec<u8> {
    Key::new(b'T').text(tenant).done()
}

/// The certificates that renew a certificate and were not given up, by the sequence of their intents.
pub fn successors_of(issuer: &str, serial: &[u8]) -> Vec<u8> {
    Key::new(b'W').text(issuer).octets(serial).done()
}

/// A listing's entry.
pub fn listed(mut prefix: Vec<u8>, sequence: u64) -> Vec<u8> {
    prefix.extend_from_slice(&sequence.to_be_bytes());
    prefix
}

/// A device.
pub fn device(tenant: &str, id: &str) -> Vec<u8> {
    Key::new(b'V').text(tenant).text(id).done()
}

/// The devices of a tenant, by the sequence of their first certificate.
pub fn devices(tenant: &str) -> Vec<u8> {
    Key::new(b'F').text(tenant).done()
}

/// The device that an attestation anchor belongs to.
pub fn anchor(tenant: &str, sha256: &[u8]) -> Vec<u8> {
    Key::new(b'A').text(tenant).octets(sha256).done()
}

/// A principal.
pub fn principal(tenant: &str, id: &str) -> Vec<u8> {
    Key::new(b'N').text(tenant).text(id).done()
}

/// All principals of a tenant, by name.
pub fn principals(tenant: &str) -> Vec<u8> {
    Key::new(b'N').text(tenant).done()
}

/// The principals of a tenant, by the sequence of their first certificate.
pub fn principals_in_order(tenant: &str) -> Vec<u8> {
    Key::new(b'G').text(tenant).done()
}

/// A token by the hash of its secret.
pub fn token(secret_sha256: &[u8]) -> Vec<u8> {
    Key::new(b'K').octets(secret_sha256).done()
}

/// The hash of a token's secret by the token's name.
pub fn token_name(tenant: &str, token_id: &str) -> Vec<u8> {
    Key::new(b'k').text(tenant).text(token_id).done()
}

/// An issuer.
pub fn issuer(id: &str) -> Vec<u8> {
    Key::new(b'I').text(id).done()
}

/// A key in the token.
pub fn token_key(id: &[u8]) -> Vec<u8> {
    Key::new(b'E').octets(id).done()
}

/// The identity of a token.
pub fn token_identity(serial: &str, label: &str) -> Vec<u8> {
    Key::new(b'M').text(serial).text(label).done()
}

/// The CRL numbers of an issuer.
pub fn crl(issuer: &str) -> Vec<u8> {
    Key::new(b'L').text(issuer).done()
}

/// The revoked certificates of an issuer.
pub fn revoked_of(issuer: &str) -> Vec<u8> {
    Key::new(b'Z').text(issuer).done()
}

/// A revoked certificate.
pub fn revoked(issuer: &str, serial: &[u8]) -> Vec<u8> {
    Key::new(b'Z').text(issuer).octets(serial).done()
}

/// The newest record that revoked a certificate of an issuer.
pub fn revocation_sequence(issuer: &str) -> Vec<u8> {
    Key::new(b'z').text(issuer).done()
}

/// The value that leads to a certificate: the certificate's key without its letter.
pub fn reference(issuer: &str, serial: &[u8]) -> Vec<u8> {
    certificate(issuer, serial).split_off(1)
}

/// Reads such a value.
pub fn parse_reference(bytes: &[u8]) -> Option<Reference> {
    let (&n, rest) = bytes.split_first()?;
    let (issuer, rest) = rest.split_at_checked(usize::from(n))?;
    let (&n, serial) = rest.split_first()?;
    (serial.len() == usize::from(n)).then_some(())?;
    Some(Reference { issuer: std::str::from_utf8(issuer).ok()?.to_owned(), serial: serial.to_vec() })
}

/// The sequence at the end of a listing's key.
pub fn sequence_of(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The first key behind every key that begins with `prefix`, or `None` when there is none.
pub fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return Some(end);
        }
        end.pop();
    }
    None
}
