//! Trust stores: named lists of trust anchors, each for one evidence format only, so that an authority over one
//! kind of device never vouches for another.

use super::Format;
use der::Decode;
use rustls_pki_types::{CertificateDer, TrustAnchor, pem::PemObject};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The most anchors in a store.
pub const MAX_ANCHORS: usize = 256;
/// The longest name of a store, in characters.
pub const MAX_NAME: usize = 64;

/// Why a trust store was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The name is empty, too long or not of a-z 0-9 . _ -
    #[error("the name of a trust store has 1 to {MAX_NAME} characters of a-z 0-9 . _ -")]
    Name,
    /// The name is taken.
    #[error("there is a trust store {0:?} already")]
    Duplicate(String),
    /// Nothing that could be an anchor.
    #[error("trust store {0:?}: no certificate found")]
    Empty(String),
    /// More than [`MAX_ANCHORS`].
    #[error("trust store {0:?}: more than {MAX_ANCHORS} certificates")]
    TooMany(String),
    /// A certificate that cannot be read.
    #[error("trust store {name:?}: certificate {position}: {reason}")]
    Certificate {
        /// The store.
        name: String,
        /// Which one, from 1.
        position: usize,
        /// What is wrong.
        reason: String,
    },
}

/// An anchor that evidence led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPath {
    /// The store.
    pub store: String,
    /// SHA-256 of the anchor's certificate.
    pub anchor_sha256: [u8; 32],
    /// The anchor's subject as a RFC 4514 string; its fingerprint where the name cannot be read.
    pub anchor_name: String,
}

/// The trust anchors of one name and format.
#[derive(Clone, Debug)]
pub struct TrustStore {
    name: String,
    format: Format,
    anchors: Vec<TrustAnchor<'static>>,
    records: Vec<([u8; 32], String)>,
}

impl TrustStore {
    /// From certificates, each DER. Their validity and signature are not looked at: being here is what makes them
    /// trusted. Encodings that vendors really use are tolerated.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn from_der(name: &str, format: Format, certificates: &[Vec<u8>]) -> Result<Self, TrustError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(allowed) {
            return Err(TrustError::Name);
        }
        if certificates.is_empty() {
            return Err(TrustError::Empty(name.to_owned()));
        }
        if certificates.len() > MAX_ANCHORS {
            return Err(TrustError::TooMany(name.to_owned()));
        }
        let mut store = Self { name: name.to_owned(), format, anchors: Vec::new(), records: Vec::new() };
        for (position, der) in (1..).zip(certificates) {
            let anchor = webpki::anchor_from_trusted_cert(&CertificateDer::from(der.as_slice()))
                .map_err(|e| TrustError::Certificate { name: name.to_owned(), position, reason: e.to_string() })?
                .to_owned();
            let sha256: [u8; 32] = Sha256::digest(der).into();
            store.anchors.push(anchor);
            store.records.push((sha256, readable_subject(der).unwrap_or_else(|| hex::encode(sha256))));
        }
        Ok(store)
    }

    /// From a file's contents: PEM with one or more certificates, or one DER certificate.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn parse(name: &str, format: Format, contents: &[u8]) -> Result<Self, TrustError> {
        Self::from_der(name, format, &certificates(name, contents)?)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The format whose evidence it vouches for.
    pub fn format(&self) -> Format {
        self.format
    }
    /// How many anchors there are.
    pub fn len(&self) -> usize {
        self.anchors.len()
    }
    /// Never: a store without anchors cannot be made.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(crate) fn path(&self, anchor: &TrustAnchor<'_>) -> Option<TrustPath> {
        let same = |a: &TrustAnchor<'_>| {
            a.subject == anchor.subject && a.subject_public_key_info == anchor.subject_public_key_info
        };
        let (_, (sha256, name)) = self.anchors.iter().zip(&self.records).find(|(a, _)| same(a))?;
        Some(TrustPath { store: self.name.clone(), anchor_sha256: *sha256, anchor_name: name.clone() })
    }
}

/// The certificates of a PEM or DER file, DER, unchecked.
///
/// # Errors
/// [`TrustError::Certificate`] for damaged PEM.
pub fn certificates(name: &str, contents: &[u8]) -> Result<Vec<Vec<u8>>, TrustError> {
    if contents.first() == Some(&0x30) {
        return Ok(vec![contents.to_vec()]);
    }
    let damaged = |position| {
        move |e: rustls_pki_types::pem::Error| TrustError::Certificate {
            name: name.to_owned(),
            position,
            reason: e.to_string(),
        }
    };
    (1..)
        .zip(CertificateDer::pem_slice_iter(contents))
        .map(|(position, c)| c.map(|c| c.to_vec()).map_err(damaged(position)))
        .collect()
}

fn readable_subject(der: &[u8]) -> Option<String> {
    Some(x509_cert::Certificate::from_der(der).ok()?.tbs_certificate().subject().to_string())
}

/// All trust stores of an installation.
#[derive(Clone, Debug, Default)]
pub struct TrustStores(BTreeMap<String, TrustStore>);

impl TrustStores {
    /// None at all: no evidence is trusted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a store.
    ///
    /// # Errors
    /// [`TrustError::Duplicate`].
    pub fn add(&mut self, store: TrustStore) -> Result<(), TrustError> {
        if self.0.contains_key(&store.name) {
            return Err(TrustError::Duplicate(store.name));
        }
        self.0.insert(store.name.clone(), store);
        Ok(())
    }

    /// The store of that name.
    pub fn get(&self, name: &str) -> Option<&TrustStore> {
        self.0.get(name)
    }

    /// The stores for a format, in the order of their names.
    pub fn for_format(&self, format: Format) -> impl Iterator<Item = &TrustStore> {
        self.0.values().filter(move |s| s.format == format)
    }

    /// Whether the anchor is still in its store.
    pub fn holds(&self, path: &TrustPath) -> bool {
        self.get(&path.store).is_some_and(|s| s.records.iter().any(|(sha256, _)| *sha256 == path.anchor_sha256))
    }
}
