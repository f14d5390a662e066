//! Which certificate is meant (RFC 6960 4.1.1 CertID).

use crate::tlv;
use ca_core::serial::SerialNumber;
use const_oid::{ObjectIdentifier, db::rfc5912};
use der::{
    Decode, Encode, Sequence,
    asn1::{IntRef, OctetStringRef},
};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use spki::AlgorithmIdentifierRef;

/// The hash that names an issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashAlgorithm {
    /// SHA-1: what most clients send. It names an issuer among ours; nothing is trusted for it.
    Sha1,
    /// SHA-256.
    Sha256,
    /// Another one. No issuer matches it.
    Other,
}

impl HashAlgorithm {
    fn from_oid(oid: ObjectIdentifier) -> Self {
        match oid {
            rfc5912::ID_SHA_1 => Self::Sha1,
            rfc5912::ID_SHA_256 => Self::Sha256,
            _ => Self::Other,
        }
    }
}

/// A CertID with its own bytes, which an answer repeats as they came.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertId {
    der: Vec<u8>,
    hash_algorithm: HashAlgorithm,
    issuer_name_hash: Vec<u8>,
    issuer_key_hash: Vec<u8>,
    serial: Option<SerialNumber>,
}

#[derive(Sequence)]
pub(crate) struct RawCertId<'a> {
    hash_algorithm: AlgorithmIdentifierRef<'a>,
    issuer_name_hash: &'a OctetStringRef,
    issuer_key_hash: &'a OctetStringRef,
    serial_number: IntRef<'a>,
}

impl RawCertId<'_> {
    pub(crate) fn to_cert_id(&self) -> der::Result<CertId> {
        let bytes = self.serial_number.as_bytes();
        let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
        Ok(CertId {
            der: self.to_der()?,
            hash_algorithm: HashAlgorithm::from_oid(self.hash_algorithm.oid),
            issuer_name_hash: self.issuer_name_hash.as_bytes().to_vec(),
            issuer_key_hash: self.issuer_key_hash.as_bytes().to_vec(),
            serial: if negative { None } else { SerialNumber::from_be_bytes(bytes).ok() },
        })
    }
}

impl CertId {
    /// Parses a DER CertID.
    ///
    /// # Errors
    /// Whatever is wrong with the DER.
    pub fn from_der(der: &[u8]) -> der::Result<Self> {
        RawCertId::from_der(der)?.to_cert_id()
    }

    /// Names a certificate of `issuer`, for an answer made before anyone asked. `None` for [`HashAlgorithm::Other`].
    pub fn new(hash_algorithm: HashAlgorithm, issuer: &IssuerHashes, serial: &SerialNumber) -> Option<Self> {
        let (oid, name, key) = issuer.of(hash_algorithm)?;
        // Without parameters (RFC 5754 2, RFC 3370 2.1).
        let mut content = tlv::wrap(tlv::SEQUENCE, &tlv::wrap(tlv::OID, oid.as_bytes()));
        tlv::push(&mut content, tlv::OCTET_STRING, name);
        tlv::push(&mut content, tlv::OCTET_STRING, key);
        tlv::push_unsigned(&mut content, serial.as_be_bytes());
        Some(Self {
            der: tlv::wrap(tlv::SEQUENCE, &content),
            hash_algorithm,
            issuer_name_hash: name.to_vec(),
            issuer_key_hash: key.to_vec(),
            serial: Some(serial.clone()),
        })
    }

    /// The CertID as it came.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
    /// The hash that names the issuer.
    pub fn hash_algorithm(&self) -> HashAlgorithm {
        self.hash_algorithm
    }
    /// The hash of the issuer's DER Name.
    pub fn issuer_name_hash(&self) -> &[u8] {
        &self.issuer_name_hash
    }
    /// The hash of the issuer's key bits.
    pub fn issuer_key_hash(&self) -> &[u8] {
        &self.issuer_key_hash
    }
    /// The serial number; `None` when no certificate of ours can have it (negative, zero, or over 20 octets).
    pub fn serial(&self) -> Option<&SerialNumber> {
        self.serial.as_ref()
    }
}

/// An issuer as CertIDs name it, hashed once for many requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerHashes {
    sha1: ([u8; 20], [u8; 20]),
    sha256: ([u8; 32], [u8; 32]),
}

impl IssuerHashes {
    /// From the issuer's DER Name and the contents of its key's BIT STRING, tag, length and unused bits left out.
    pub fn new(name_der: &[u8], key_bits: &[u8]) -> Self {
        Self {
            sha1: (Sha1::digest(name_der).into(), Sha1::digest(key_bits).into()),
            sha256: (Sha256::digest(name_der).into(), Sha256::digest(key_bits).into()),
        }
    }

    fn of(&self, hash: HashAlgorithm) -> Option<(ObjectIdentifier, &[u8], &[u8])> {
        match hash {
            HashAlgorithm::Sha1 => Some((rfc5912::ID_SHA_1, &self.sha1.0, &self.sha1.1)),
            HashAlgorithm::Sha256 => Some((rfc5912::ID_SHA_256, &self.sha256.0, &self.sha256.1)),
            HashAlgorithm::Other => None,
        }
    }

    /// Whether `id` names this issuer: both hashes must agree.
    pub fn matches(&self, id: &CertId) -> bool {
        self.of(id.hash_algorithm)
            .is_some_and(|(_, name, key)| id.issuer_name_hash == name && id.issuer_key_hash == key)
    }
}

/// Whether `id` names the issuer of this DER Name and these key bits. For many requests keep an [`IssuerHashes`].
pub fn cert_id_matches(issuer_name_der: &[u8], issuer_key_bits: &[u8], id: &CertId) -> bool {
    IssuerHashes::new(issuer_name_der, issuer_key_bits).matches(id)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn own_cert_ids_read_back_and_match_their_issuer_only() {
        let (ours, other) = (IssuerHashes::new(b"name", b"key"), IssuerHashes::new(b"name", b"another key"));
        let serial = SerialNumber::from_be_bytes(&[0x80, 1]).unwrap();
        for hash in [HashAlgorithm::Sha1, HashAlgorithm::Sha256] {
            let id = CertId::new(hash, &ours, &serial).unwrap();
            assert_eq!(CertId::from_der(id.der()).unwrap(), id);
            assert_eq!(id.serial(), Some(&serial));
            assert!(!other.matches(&id));
            assert!(ours.matches(&id));
            assert!(cert_id_matches(b"name", b"key", &id));
            assert!(!cert_id_matches(b"another name", b"key", &id));
        }
        assert_eq!(CertId::new(HashAlgorithm::Other, &ours, &serial), None);
    }

    #[test]
    fn a_serial_that_cannot_be_ours_is_none() {
        for content in [&[0x80][..], &[0], &[0x7f; 21]] {
            let mut der = tlv::wrap(tlv::SEQUENCE, &tlv::wrap(tlv::OID, rfc5912::ID_SHA_1.as_bytes()));
            tlv::push(&mut der, tlv::OCTET_STRING, &[1; 20]);
            tlv::push(&mut der, tlv::OCTET_STRING, &[2; 20]);
            tlv::push(&mut der, tlv::INTEGER, content);
            let id = CertId::from_der(&tlv::wrap(tlv::SEQUENCE, &der)).unwrap();
            assert_eq!(id.serial(), None);
        }
    }
}
