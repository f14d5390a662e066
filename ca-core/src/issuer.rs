//! An issuing CA: one key, one name, one CRL.

use crate::{
    certificate::Certificate,
    id::{IssuerId, TenantId},
    key::{AlgorithmMismatch, BadSignature, PublicKey, SignatureAlgorithm, Verifier},
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Where an issuer stands in its life. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerState {
    /// Its certificate exists and may be distributed; it issues nothing yet.
    Staged,
    /// It issues.
    Active,
    /// It issues no more, but still signs CRLs and OCSP responses.
    Draining,
    /// It signs nothing; all that it issued has expired.
    Retired,
}

impl IssuerState {
    /// All states, in the order of life.
    pub const ALL: [Self; 4] = [Self::Staged, Self::Active, Self::Draining, Self::Retired];

    /// The name in configuration and in the journal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Retired => "retired",
        }
    }
    /// Whether certificates may be issued.
    pub fn issues(self) -> bool {
        self == Self::Active
    }
    /// Whether CRLs and OCSP responses are signed.
    pub fn signs_status(self) -> bool {
        self != Self::Retired
    }
}

impl fmt::Display for IssuerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for IssuerState {
    type Err = IssuerError;
    fn from_str(s: &str) -> Result<Self, IssuerError> {
        Self::ALL.into_iter().find(|state| state.as_str() == s).ok_or(IssuerError::State)
    }
}

/// Why an issuer was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// Not the name of a state.
    #[error("the state of an issuer is staged, active, draining or retired")]
    State,
    /// A URL that relying parties could not fetch (RFC 5280 4.2.1.13: http; https would need this CA to be checked).
    #[error("{field} must be an http:// URL of visible ASCII, at most {max} characters", max = IssuerUrls::MAX_LEN)]
    Url {
        /// Which one.
        field: &'static str,
    },
    /// basicConstraints does not say CA.
    #[error("the issuer's certificate is not a CA certificate (RFC 5280 4.2.1.9)")]
    NotCa,
    /// keyUsage lacks keyCertSign or cRLSign.
    #[error("the issuer's certificate must have keyUsage keyCertSign and cRLSign (RFC 5280 4.2.1.3)")]
    KeyUsage,
    /// No subjectKeyIdentifier.
    #[error("the issuer's certificate has no subjectKeyIdentifier (RFC 5280 4.2.1.2)")]
    NoKeyIdentifier,
    /// An empty subject name.
    #[error("the issuer's certificate has an empty subject (RFC 5280 4.1.2.6)")]
    EmptySubject,
    /// An algorithm that is not one of its key's.
    #[error("signature_algorithm: {0}")]
    Algorithm(#[from] AlgorithmMismatch),
    /// The certificates above it do not form a chain.
    #[error("{0}")]
    Chain(#[from] ChainError),
}

/// Why certificates do not form a chain. Positions count from 0, the lowest certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No certificate at all.
    #[error("the chain is empty")]
    Empty,
    /// Longer than [`MAX_CHAIN`].
    #[error("the chain has more than {MAX_CHAIN} certificates")]
    TooLong,
    /// The first certificate is for another key.
    #[error("the first certificate of the chain is not for the issuing CA's key")]
    OtherKey,
    /// Not a CA certificate with keyCertSign.
    #[error("certificate {0} of the chain is not a CA certificate with keyUsage keyCertSign")]
    NotCa(usize),
    /// The pathLenConstraint forbids what stands below.
    #[error("certificate {0} of the chain has a pathLenConstraint that forbids the certificates below it")]
    PathLen(usize),
    /// The issuer name is not the next certificate's subject.
    #[error("certificate {0} of the chain was not issued by the next one: the names differ")]
    Name(usize),
    /// The signature does not verify with the next certificate's key.
    #[error("the signature of certificate {0} of the chain does not verify")]
    Signature(usize),
    /// The last certificate is not self-signed.
    #[error("the chain does not end in a self-signed root")]
    NoRoot,
    /// A self-signed certificate that is not the last.
    #[error("certificate {0} of the chain is self-signed; a root stands last")]
    SelfSigned(usize),
    /// Not valid now.
    #[error("certificate {0} of the chain is expired or not yet valid")]
    Validity(usize),
}

/// A chain from issuing CA to root has three certificates in practice; twice that is generous.
pub const MAX_CHAIN: usize = 6;

/// Checks names, signatures, CA flags and path lengths of `chain`, lowest first, root last.
pub(crate) fn check_chain(chain: &[&Certificate]) -> Result<(), ChainError> {
    if chain.len() > MAX_CHAIN {
        return Err(ChainError::TooLong);
    }
    let last = chain.last().ok_or(ChainError::Empty)?;
    for (i, certificate) in chain.iter().enumerate() {
        if !certificate.is_ca() || !certificate.key_usage().is_some_and(|ku| ku.key_cert_sign()) {
            return Err(ChainError::NotCa(i));
        }
        // RFC 5280 4.2.1.9: the number of CA certificates that may stand below.
        if certificate.path_len().is_some_and(|max| usize::from(max) < i) {
            return Err(ChainError::PathLen(i));
        }
        let is_last = i + 1 == chain.len();
        if !is_last && certificate.issuer_der() == certificate.subject_der() {
            return Err(ChainError::SelfSigned(i));
        }
        let above = chain.get(i + 1).unwrap_or(last);
        if certificate.issuer_der() != above.subject_der() {
            return Err(if is_last { ChainError::NoRoot } else { ChainError::Name(i) });
        }
        certificate.verify_signature(above.public_key()).map_err(|_| ChainError::Signature(i))?;
    }
    Ok(())
}

/// Where relying parties find an issuer's CRL, OCSP responder and certificate. Plain http, as RFC 5280 4.2.1.13 and
/// 8 advise: the objects are signed, and https would need the status of this very CA.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "RawUrls", into = "RawUrls")]
pub struct IssuerUrls {
    crl: String,
    ocsp: String,
    ca_issuers: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawUrls {
    crl: String,
    ocsp: String,
    ca_issuers: String,
}

impl IssuerUrls {
    /// The longest URL, in characters.
    pub const MAX_LEN: usize = 512;

    /// Checks and takes the URLs.
    ///
    /// # Errors
    /// [`IssuerError::Url`] names the one that is wrong.
    pub fn new(
        crl: impl Into<String>,
        ocsp: impl Into<String>,
        ca_issuers: impl Into<String>,
    ) -> Result<Self, IssuerError> {
        Ok(Self {
            crl: http_url("urls.crl", crl.into())?,
            ocsp: http_url("urls.ocsp", ocsp.into())?,
            ca_issuers: http_url("urls.ca_issuers", ca_issuers.into())?,
        })
    }
    /// The CRL (cRLDistributionPoints, RFC 5280 4.2.1.13).
    pub fn crl(&self) -> &str {
        &self.crl
    }
    /// The OCSP responder (id-ad-ocsp, RFC 5280 4.2.2.1).
    pub fn ocsp(&self) -> &str {
        &self.ocsp
    }
    /// The issuer's certificate, DER (id-ad-caIssuers, RFC 5280 4.2.2.1).
    pub fn ca_issuers(&self) -> &str {
        &self.ca_issuers
    }
}

impl TryFrom<RawUrls> for IssuerUrls {
    type Error = IssuerError;
    fn try_from(raw: RawUrls) -> Result<Self, IssuerError> {
        Self::new(raw.crl, raw.ocsp, raw.ca_issuers)
    }
}

impl From<IssuerUrls> for RawUrls {
    fn from(urls: IssuerUrls) -> Self {
        Self { crl: urls.crl, ocsp: urls.ocsp, ca_issuers: urls.ca_issuers }
    }
}

pub(crate) fn http_url(field: &'static str, url: String) -> Result<String, IssuerError> {
    let host = url.strip_prefix("http://").and_then(|rest| rest.split(['/', '?', '#']).next());
    let good = host.is_some_and(|h| !h.is_empty() && !h.contains('@'))
        && url.len() <= IssuerUrls::MAX_LEN
        && url.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'`'));
    if good { Ok(url) } else { Err(IssuerError::Url { field }) }
}

/// An issuing CA with its certificate and the chain above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    id: IssuerId,
    tenant: TenantId,
    state: IssuerState,
    certificate: Certificate,
    chain: Vec<Certificate>,
    key_identifier: Vec<u8>,
    urls: IssuerUrls,
    verifier: Verifier,
}

impl Issuer {
    /// Checks the certificate and takes the parts. `chain` holds the certificates above it, root last; it is empty
    /// when the issuer is itself a root. Validity is looked at when it issues, not here: an expired issuer is still
    /// to be read.
    ///
    /// # Errors
    /// [`IssuerError`] names what is wrong.
    pub fn new(
        id: IssuerId,
        tenant: TenantId,
        state: IssuerState,
        certificate: Certificate,
        chain: Vec<Certificate>,
        urls: IssuerUrls,
    ) -> Result<Self, IssuerError> {
        if !certificate.is_ca() {
            return Err(IssuerError::NotCa);
        }
        if !certificate.key_usage().is_some_and(|ku| ku.key_cert_sign() && ku.crl_sign()) {
            return Err(IssuerError::KeyUsage);
        }
        if certificate.subject_der() == [0x30, 0] {
            return Err(IssuerError::EmptySubject);
        }
        let key_identifier = match certificate.subject_key_identifier() {
            Some(ski) if !ski.is_empty() => ski.to_vec(),
            _ => return Err(IssuerError::NoKeyIdentifier),
        };
        let whole: Vec<_> = std::iter::once(&certificate).chain(&chain).collect();
        check_chain(&whole)?;
        let key = certificate.public_key();
        let verifier = Verifier::new(key, key.algorithm().signature_algorithm())?;
        Ok(Self { id, tenant, state, certificate, chain, key_identifier, urls, verifier })
    }

    /// The same issuer signing with `algorithm` instead of its key's usual one.
    ///
    /// # Errors
    /// [`IssuerError::Algorithm`] when its key makes no such signatures.
    pub fn with_signature_algorithm(mut self, algorithm: SignatureAlgorithm) -> Result<Self, IssuerError> {
        self.verifier = Verifier::new(self.public_key(), algorithm)?;
        Ok(self)
    }

    /// The same issuer in another state.
    #[must_use]
    pub fn with_state(mut self, state: IssuerState) -> Self {
        self.state = state;
        self
    }
    /// Its identifier.
    pub fn id(&self) -> &IssuerId {
        &self.id
    }
    /// The tenant that it belongs to.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    /// Its state.
    pub fn state(&self) -> IssuerState {
        self.state
    }
    /// Its certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
    /// The certificates above its own, root last; empty for a root.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }
    /// The root: the last of the chain, or the issuer's own certificate.
    pub fn root(&self) -> &Certificate {
        self.chain.last().unwrap_or(&self.certificate)
    }
    /// Its URLs.
    pub fn urls(&self) -> &IssuerUrls {
        &self.urls
    }
    /// Its subject Name, DER, byte for byte as its certificate has it.
    pub fn name_der(&self) -> &[u8] {
        self.certificate.subject_der()
    }
    /// The subjectKeyIdentifier of its certificate: what authorityKeyIdentifier says in all that it signs.
    pub fn key_identifier(&self) -> &[u8] {
        &self.key_identifier
    }
    /// Its public key.
    pub fn public_key(&self) -> &PublicKey {
        self.certificate.public_key()
    }
    /// The algorithm that it signs with.
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.verifier.algorithm()
    }
    /// The algorithm that its delegated responder signs with: the issuer's own where `key` can, so that a relying party
    /// which takes the certificate takes its status.
    pub fn responder_algorithm(&self, key: &PublicKey) -> SignatureAlgorithm {
        let own = self.signature_algorithm();
        if key.algorithm().signs_with(own) { own } else { key.algorithm().signature_algorithm() }
    }
    /// Its key, ready to verify what it signs.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Verifies a signature of this issuer, made with any algorithm of its key.
    ///
    /// # Errors
    /// [`BadSignature`] when it does not verify.
    pub fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        if algorithm == self.verifier.algorithm() {
            self.verifier.verify(message, signature)
        } else {
            self.public_key().verify(algorithm, message, signature)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn states_have_names_and_powers() {
        for state in IssuerState::ALL {
            assert_eq!(state.to_string().parse::<IssuerState>().unwrap(), state);
        }
        assert_eq!("Active".parse::<IssuerState>(), Err(IssuerError::State));
        assert!(IssuerState::Active.issues() && IssuerState::Draining.signs_status());
        assert!(!IssuerState::Staged.issues() && !IssuerState::Draining.issues());
        assert!(!IssuerState::Retired.signs_status());
    }

    #[test]
    fn urls_are_http() {
        let good = "http://pki.example.com/x";
        assert!(IssuerUrls::new(good, good, good).is_ok());
        for bad in ["https://x/", "http://", "ldap://x", "", "http://a b/", "http:///x", "http://u@h/"] {
            assert_eq!(IssuerUrls::new(good, bad, good), Err(IssuerError::Url { field: "urls.ocsp" }), "{bad}");
        }
    }
}
