//! The endorsement key certificate (TCG EK Credential Profile): whose TPM it is.

use super::{
    certificate::{self, Fields},
    structures::{Public, TpmError},
    templates::Template,
};
use crate::attestation::{
    Format,
    trust::{TrustPath, TrustStores},
};
use ca_core::{
    key::{KeyAlgorithm, KeyError, PublicKey},
    time::UnixTime,
};
use const_oid::ObjectIdentifier;
use rustls_pki_types::CertificateDer;
use std::time::Duration;

/// The longest certificate, in octets.
pub const MAX_CERTIFICATE: usize = 16 * 1024;
/// The most intermediate certificates that a device may bring.
pub const MAX_INTERMEDIATES: usize = 8;

/// tcg-kp-EKCertificate.
const EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");
/// The same as the contents of its DER encoding.
const EK_CERTIFICATE_DER: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
const TPM_MANUFACTURER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.1");
const TPM_MODEL: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.2");
const TPM_VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.3");

const KEY_ENCIPHERMENT: u8 = 0x20;
const KEY_AGREEMENT: u8 = 0x08;
const KEY_CERT_SIGN: u8 = 0x04;

/// Why an endorsement key certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EkError {
    /// The certificate or an intermediate is too long, or there are too many.
    #[error("a certificate is longer than 16 KiB or there are more than 8 intermediates")]
    TooLarge,
    /// Not the DER of an X.509 certificate of version 3.
    #[error("not a DER certificate")]
    Malformed,
    /// A CA's certificate; some vendors' CAs carry the EK extended key usage too.
    #[error("a CA certificate is no endorsement key certificate")]
    IsCa,
    /// Without the extended key usage 2.23.133.8.1.
    #[error("the extended key usage tcg-kp-EKCertificate is missing")]
    ExtendedKeyUsage,
    /// Without the key usage that goes with the key.
    #[error("the key usage is not that of an endorsement key (keyEncipherment for RSA, keyAgreement for ECC)")]
    KeyUsage,
    /// A key that is not accepted.
    #[error("endorsement key: {0}")]
    Key(#[from] KeyError),
    /// No known template makes such a key.
    #[error("endorsement key: {0}")]
    Template(#[from] TpmError),
    /// It leads to none of the trust anchors.
    #[error("no path to a trust anchor for TPMs: {0}")]
    Untrusted(String),
}

/// An endorsement key certificate whose path to a trust anchor was verified.
#[derive(Clone, Debug)]
pub struct EndorsementKey {
    public: Public,
    trust: Vec<TrustPath>,
    vendor: Option<String>,
    model: Option<String>,
    version: Option<String>,
}

impl EndorsementKey {
    /// Verifies the certificate as read from the TPM's NV memory, padding included.
    ///
    /// The path must lead to an anchor of a store for TPMs; certificates of the path must be valid at `now`. A CA
    /// certificate is refused whatever its extended key usage. The key's TPMT_PUBLIC is built from the certificate
    /// and a known TCG template.
    ///
    /// # Errors
    /// [`EkError`] names what is wrong.
    pub fn verify(nv: &[u8], intermediates: &[Vec<u8>], stores: &TrustStores, now: UnixTime) -> Result<Self, EkError> {
        let too_long = intermediates.iter().any(|c| c.len() > MAX_CERTIFICATE);
        if nv.len() > MAX_CERTIFICATE || intermediates.len() > MAX_INTERMEDIATES || too_long {
            return Err(EkError::TooLarge);
        }
        let der = without_padding(nv).ok_or(EkError::Malformed)?;
        let fields = certificate::fields(der).ok_or(EkError::Malformed)?;
        let key = check_fields(&fields)?;
        let trust = trust_paths(der, intermediates, stores, now)?;
        let text = |oid| fields.alternative_name.iter().find(|(o, _)| *o == oid).map(|(_, v)| readable(v));
        Ok(Self {
            public: Template::endorsement_for(&key)?.public(&key)?,
            trust,
            vendor: text(TPM_MANUFACTURER),
            model: text(TPM_MODEL),
            version: text(TPM_VERSION),
        })
    }

    /// The TPMT_PUBLIC from the certificate's key and the TCG template.
    pub fn public(&self) -> &Public {
        &self.public
    }
    /// The stores that the certificate leads to, each with the anchor; never empty.
    pub fn trust(&self) -> &[TrustPath] {
        &self.trust
    }
    /// The manufacturer, for example "STM"; hexadecimal where it is not text.
    pub fn vendor(&self) -> Option<&str> {
        self.vendor.as_deref()
    }
    /// The model.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
    /// The firmware version at manufacture, hexadecimal.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }
    /// SHA-256 of the key's DER SubjectPublicKeyInfo: the lasting identity of this TPM.
    pub fn spki_sha256(&self) -> [u8; 32] {
        self.public.key().spki_sha256()
    }
}

fn check_fields(fields: &Fields) -> Result<PublicKey, EkError> {
    if fields.is_ca {
        return Err(EkError::IsCa);
    }
    if !fields.extended_key_usage.contains(&EK_CERTIFICATE) {
        return Err(EkError::ExtendedKeyUsage);
    }
    let key = PublicKey::from_spki_der(&fields.spki)?;
    let wanted = if matches!(key.algorithm(), KeyAlgorithm::Rsa(_)) { KEY_ENCIPHERMENT } else { KEY_AGREEMENT };
    match fields.key_usage {
        Some(usage) if usage & wanted != 0 && usage & KEY_CERT_SIGN == 0 => Ok(key),
        _ => Err(EkError::KeyUsage),
    }
}

fn trust_paths(
    der: &[u8],
    intermediates: &[Vec<u8>],
    stores: &TrustStores,
    now: UnixTime,
) -> Result<Vec<TrustPath>, EkError> {
    let leaf = CertificateDer::from(der);
    let intermediates: Vec<CertificateDer<'_>> =
        intermediates.iter().filter_map(|c| without_padding(c)).map(CertificateDer::from).collect();
    let leaf = webpki::EndEntityCert::try_from(&leaf).map_err(|e| EkError::Untrusted(e.to_string()))?;
    let time = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()));
    let mut paths = Vec::new();
    let mut reason = "there is no trust store for TPMs".to_owned();
    for store in stores.for_format(Format::Tpm2) {
        // required_if_present: vendors' CAs have no extended key usage or this one; the leaf's is checked above.
        let usage = webpki::KeyUsage::required_if_present(EK_CERTIFICATE_DER);
        let verified = leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            store.anchors(),
            &intermediates,
            time,
            usage,
            None,
            None,
        );
        match verified {
            Ok(path) => paths.extend(store.path(path.anchor())),
            Err(e) => reason = e.to_string(),
        }
    }
    if paths.is_empty() { Err(EkError::Untrusted(reason)) } else { Ok(paths) }
}

/// The certificate at the front: NV indices are larger than what they hold. Its length is that of the DER header.
fn without_padding(nv: &[u8]) -> Option<&[u8]> {
    let (header, length) = match *nv {
        [0x30, n, ..] if n < 0x80 => (2, usize::from(n)),
        [0x30, 0x81, n, ..] => (3, usize::from(n)),
        [0x30, 0x82, a, b, ..] => (4, usize::from(u16::from_be_bytes([a, b]))),
        _ => return None,
    };
    nv.get(..header + length)
}

/// "id:53544D20" as "STM"; four octets that are not text stay hexadecimal.
fn readable(value: &str) -> String {
    let Some(digits) = value.strip_prefix("id:") else { return value.to_owned() };
    let decoded = hex::decode(digits).unwrap_or_default();
    let text = decoded.strip_suffix(&[0]).unwrap_or(&decoded);
    match std::str::from_utf8(text).map(str::trim_end) {
        Ok(t) if decoded.len() == 4 && !t.is_empty() && t.chars().all(|c| c.is_ascii_graphic()) => t.to_owned(),
        _ => digits.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manufacturers_are_readable() {
        assert_eq!(readable("id:53544D20"), "STM");
        assert_eq!(readable("id:49465800"), "IFX");
        assert_eq!(readable("id:494E5443"), "INTC");
        assert_eq!(readable("id:00001014"), "00001014");
        assert_eq!(readable("SLB 9670"), "SLB 9670");
    }

    #[test]
    fn padding_is_stripped_by_length() {
        assert_eq!(without_padding(&[0x30, 1, 5, 0xff, 0xff]), Some(&[0x30, 1, 5][..]));
        assert_eq!(without_padding(&[0x30, 0x82, 0xff, 0xff, 0]), None);
        assert_eq!(without_padding(&[0x30, 0x84, 0, 0, 0, 1, 0]), None);
        assert_eq!(without_padding(&[]), None);
    }
}
