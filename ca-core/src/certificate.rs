//! A parsed certificate (RFC 5280 4.1) that keeps its own bytes.

use crate::{
    key::{BadSignature, KeyError, PublicKey, SignatureAlgorithm},
    serial::{SerialError, SerialNumber},
    time::UnixTime,
};
use const_oid::ObjectIdentifier;
use der::{AnyRef, Decode, Encode, Sequence, asn1::BitStringRef};
use sha2::{Digest, Sha256};
use spki::AlgorithmIdentifierOwned;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier};

/// Why a certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not a DER certificate.
    #[error("not a valid DER certificate")]
    Malformed,
    /// Its public key is not accepted.
    #[error("certificate key: {0}")]
    Key(#[from] KeyError),
    /// Its serial number is not accepted.
    #[error("certificate serial number: {0}")]
    Serial(#[from] SerialError),
    /// Signed with an algorithm that is not accepted.
    #[error("signature algorithm {0} is not accepted")]
    SignatureAlgorithm(String),
}

#[derive(Sequence)]
struct Outer<'a> {
    tbs: AnyRef<'a>,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitStringRef<'a>,
}

/// A certificate with the fields that Sealwright asks for; the DER is kept and never encoded again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    tbs: Vec<u8>,
    algorithm: SignatureAlgorithm,
    signature: Vec<u8>,
    serial: SerialNumber,
    issuer: Vec<u8>,
    subject: Vec<u8>,
    subject_text: String,
    not_before: UnixTime,
    not_after: UnixTime,
    public_key: PublicKey,
    subject_key_identifier: Option<Vec<u8>>,
    basic_constraints: Option<BasicConstraints>,
    key_usage: Option<KeyUsage>,
    extended_key_usage: Vec<ObjectIdentifier>,
}

impl Certificate {
    /// Parses a DER certificate of a kind that Sealwright issues. Foreign certificates (endorsement keys, say) are
    /// read by the room that knows their kind.
    ///
    /// # Errors
    /// [`CertificateError`] names what is wrong.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |_| CertificateError::Malformed;
        let outer = Outer::from_der(der).map_err(malformed)?;
        let tbs = outer.tbs.to_der().map_err(malformed)?;
        let parsed = x509_cert::Certificate::from_der(der).map_err(malformed)?;
        let fields = parsed.tbs_certificate();
        let algorithm = SignatureAlgorithm::from_identifier(&outer.algorithm)
            .ok_or_else(|| CertificateError::SignatureAlgorithm(outer.algorithm.oid.to_string()))?;
        if *fields.signature() != outer.algorithm {
            return Err(CertificateError::Malformed);
        }
        let spki = fields.subject_public_key_info().to_der().map_err(malformed)?;
        Ok(Self {
            algorithm,
            signature: outer.signature.as_bytes().ok_or(CertificateError::Malformed)?.to_vec(),
            serial: SerialNumber::from_be_bytes(fields.serial_number().as_bytes())?,
            issuer: fields.issuer().to_der().map_err(malformed)?,
            subject: fields.subject().to_der().map_err(malformed)?,
            subject_text: fields.subject().to_string(),
            not_before: UnixTime::from_x509(&fields.validity().not_before),
            not_after: UnixTime::from_x509(&fields.validity().not_after),
            public_key: PublicKey::from_spki_der(&spki)?,
            subject_key_identifier: fields
                .get_extension::<SubjectKeyIdentifier>()
                .map_err(malformed)?
                .map(|(_, ski)| ski.0.as_bytes().to_vec()),
            basic_constraints: fields.get_extension().map_err(malformed)?.map(|(_, bc)| bc),
            key_usage: fields.get_extension().map_err(malformed)?.map(|(_, ku)| ku),
            extended_key_usage: fields
                .get_extension::<ExtendedKeyUsage>()
                .map_err(malformed)?
                .map(|(_, eku)| eku.0)
                .unwrap_or_default(),
            der: der.to_vec(),
            tbs,
        })
    }

    /// The whole certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
    /// The signed part, as it was signed.
    pub fn tbs(&self) -> &[u8] {
        &self.tbs
    }
    /// The signature value.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }
    /// The signature algorithm.
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
    /// The serial number.
    pub fn serial(&self) -> &SerialNumber {
        &self.serial
    }
    /// The issuer's Name, DER.
    pub fn issuer_der(&self) -> &[u8] {
        &self.issuer
    }
    /// The subject's Name, DER.
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }
    /// The subject as a RFC 4514 string.
    pub fn subject(&self) -> &str {
        &self.subject_text
    }
    /// Start of validity.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }
    /// End of validity.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }
    /// Whether `now` lies within the validity, both ends included (RFC 5280 4.1.2.5).
    pub fn is_valid_at(&self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
    /// The subject's public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
    /// The subject key identifier extension's value (RFC 5280 4.2.1.2).
    pub fn subject_key_identifier(&self) -> Option<&[u8]> {
        self.subject_key_identifier.as_deref()
    }
    /// Whether basicConstraints says CA (RFC 5280 4.2.1.9).
    pub fn is_ca(&self) -> bool {
        self.basic_constraints.as_ref().is_some_and(|bc| bc.ca)
    }
    /// basicConstraints' pathLenConstraint.
    pub fn path_len(&self) -> Option<u8> {
        self.basic_constraints.as_ref().and_then(|bc| bc.path_len_constraint)
    }
    /// The key usage extension (RFC 5280 4.2.1.3).
    pub fn key_usage(&self) -> Option<&KeyUsage> {
        self.key_usage.as_ref()
    }
    /// The extended key usages; empty when the extension is absent (RFC 5280 4.2.1.12).
    pub fn extended_key_usage(&self) -> &[ObjectIdentifier] {
        &self.extended_key_usage
    }
    /// SHA-256 of the whole certificate: its fingerprint.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// Verifies this certificate's signature with its issuer's key. Names, validity and constraints are not looked at.
    ///
    /// # Errors
    /// [`BadSignature`] when it does not verify.
    pub fn verify_signature(&self, issuer: &PublicKey) -> Result<(), BadSignature> {
        issuer.verify(self.algorithm, &self.tbs, &self.signature)
    }
}

/// The DER Certificate (RFC 5280 4.1) from its recorded parts. Nothing is checked; `tbs` is taken as it is.
pub fn assemble(tbs: &[u8], algorithm: SignatureAlgorithm, signature: &[u8]) -> Vec<u8> {
    // Encoding two small values of fixed shape does not fail; were it to, the result would not parse.
    let identifier = algorithm.identifier().to_der().unwrap_or_default();
    // The zero octet says that no bits are unused.
    let bits = [&[0], signature].concat();
    tlv(0x30, &[tbs, &identifier, &tlv(0x03, &bits)].concat())
}

/// Tag, shortest length (X.690 10.1) and value.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 6);
    out.push(tag);
    let length = value.len().to_be_bytes();
    let octets = length.get(value.len().leading_zeros() as usize / 8..).unwrap_or_default();
    match octets {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            // At most 8 octets.
            out.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(value);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use der::asn1::OctetString;

    #[test]
    fn lengths_are_encoded_as_the_encoder_does() {
        for len in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let value = vec![7; len];
            assert_eq!(tlv(0x04, &value), OctetString::new(value).unwrap().to_der().unwrap(), "{len}");
        }
    }

    #[test]
    fn rubbish_is_no_certificate() {
        for bytes in [&[][..], &[0x30, 0], b"hello", &assemble(&[0x30, 0], SignatureAlgorithm::Ed25519, &[0; 64])] {
            assert_eq!(Certificate::from_der(bytes), Err(CertificateError::Malformed));
        }
    }
}
