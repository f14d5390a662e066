//! The certificates of the hierarchy itself: root, issuing CA, OCSP responder, the service's own TLS certificate.
//!
//! No profile decides these; each function states its own.

use crate::{
    alt_name::{AltName, is_dns_name},
    certificate::{self, Certificate, CertificateError},
    issuer::{ChainError, Issuer, IssuerState, IssuerUrls, check_chain, http_url},
    key::{AlgorithmMismatch, PublicKey, SignatureAlgorithm},
    lint::{self, Expected, Finding, Role},
    name::DistinguishedName,
    serial::SerialNumber,
    tbs::{self, Contents, EncodingError},
    time::UnixTime,
};
use const_oid::db::{rfc5912, rfc6960};
use der::{
    AnyRef, Decode, Encode, Sequence,
    asn1::{BitString, Null, SetOfVec},
    flagset::FlagSet,
};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use std::net::IpAddr;
use x509_cert::{
    attr::Attribute,
    ext::{Extension, pkix::KeyUsages},
    request::{CertReqInfo, ExtensionReq, Version},
};

/// Names in a TLS server certificate of the service.
pub const MAX_SERVER_NAMES: usize = 32;

/// Why a certificate of the hierarchy was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// A CA or responder needs a name.
    #[error("the subject must not be empty (RFC 5280 4.1.2.6)")]
    EmptySubject,
    /// A subordinate with its issuer's own name or key.
    #[error("the {0} is the one of its issuer; give it one of its own")]
    SameAsIssuer(&'static str),
    /// The parent may not issue CA certificates.
    #[error("the parent is not a CA that may have another CA below it (RFC 5280 4.2.1.9)")]
    Parent,
    /// The issuer's state forbids it.
    #[error("the issuer is {0}")]
    IssuerState(IssuerState),
    /// No names, too many, or one that is no host name.
    #[error("a server certificate needs 1 to {MAX_SERVER_NAMES} host names or addresses; {0} is none")]
    ServerName(String),
    /// A URL that is not plain http.
    #[error("{0} must be an http:// URL")]
    Url(&'static str),
    /// The signer's key makes no such signatures.
    #[error("signature_algorithm: {0}")]
    Algorithm(#[from] AlgorithmMismatch),
    /// The encoder refused a value.
    #[error("{0}")]
    Encoding(#[from] EncodingError),
    /// The gate refused the certificate.
    #[error("the certificate would break a rule: {}", lint::join(.0))]
    Lint(Vec<Finding>),
    /// The signature does not verify.
    #[error("the signature does not verify with the signer's public key")]
    Signature,
    /// The certification request does not decode.
    #[error("the certification request is malformed")]
    Request,
    /// The assembled certificate does not parse.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
}

/// What every certificate of the hierarchy is made from.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Its subject.
    pub name: &'a DistinguishedName,
    /// The key to certify.
    pub public_key: &'a PublicKey,
    /// Unique under the issuer.
    pub serial: SerialNumber,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity, not after the issuer's.
    pub not_after: UnixTime,
}

/// Where the parent of an issuing CA publishes; each may be absent, for an offline root is often silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParentUrls<'a> {
    /// The parent's CRL.
    pub crl: Option<&'a str>,
    /// The parent's OCSP responder.
    pub ocsp: Option<&'a str>,
    /// The parent's certificate.
    pub ca_issuers: Option<&'a str>,
}

/// Bytes of a hierarchy certificate to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedAuthority {
    tbs: Vec<u8>,
    serial: SerialNumber,
    algorithm: SignatureAlgorithm,
    not_before: UnixTime,
    not_after: UnixTime,
    signer: Signer,
}

/// What is needed of the signing CA once the bytes exist.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signer {
    key: PublicKey,
    algorithm: SignatureAlgorithm,
    name: Vec<u8>,
    key_identifier: Vec<u8>,
    validity: Option<(UnixTime, UnixTime)>,
    role: Role,
    urls: Option<IssuerUrls>,
}

impl Signer {
    fn of(certificate: &Certificate, algorithm: SignatureAlgorithm, role: Role) -> Result<Self, AuthorityError> {
        Ok(Self {
            key: certificate.public_key().clone(),
            algorithm,
            name: certificate.subject_der().to_vec(),
            key_identifier: certificate.subject_key_identifier().ok_or(AuthorityError::Parent)?.to_vec(),
            validity: Some((certificate.not_before(), certificate.not_after())),
            role,
            urls: None,
        })
    }

    fn expected(&self) -> Expected<'_> {
        Expected {
            role: self.role,
            issuer_name: &self.name,
            issuer_key_identifier: &self.key_identifier,
            algorithm: self.algorithm,
            issuer_validity: self.validity,
            may_outlive_issuer: false,
            urls: self.urls.as_ref(),
        }
    }
}

impl PreparedAuthority {
    fn new(subject: Subject<'_>, signer: Signer, extensions: Vec<Extension>) -> Result<Self, AuthorityError> {
        let algorithm = signer.algorithm;
        if !signer.key.algorithm().signs_with(algorithm) {
            return Err(AlgorithmMismatch { key: signer.key.algorithm(), algorithm }.into());
        }
        let Subject { name, public_key, serial, not_before, not_after } = subject;
        let contents = Contents {
            serial: &serial,
            algorithm,
            issuer_name: &signer.name,
            not_before,
            not_after,
            subject: name.der(),
            public_key,
            extensions,
        };
        let tbs = contents.encode()?;
        let findings = lint::check_tbs(&tbs, &signer.expected());
        if !findings.is_empty() {
            return Err(AuthorityError::Lint(findings));
        }
        Ok(Self { tbs, serial, algorithm, not_before, not_after, signer })
    }

    /// The DER TBSCertificate: what is to be signed.
    pub fn tbs(&self) -> &[u8] {
        &self.tbs
    }
    /// The serial number.
    pub fn serial(&self) -> &SerialNumber {
        &self.serial
    }
    /// What to sign with.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
    /// Start of validity.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }
    /// End of validity.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }
    /// The key that the signature will be verified with.
    pub fn signer(&self) -> &PublicKey {
        &self.signer.key
    }

    /// Verifies `signature`, assembles the certificate and passes it through the gate again.
    ///
    /// # Errors
    /// [`AuthorityError::Signature`] when the token returned something else than a signature over [`Self::tbs`].
    pub fn finish(&self, signature: &[u8]) -> Result<Certificate, AuthorityError> {
        self.signer.key.verify(self.algorithm, &self.tbs, signature).map_err(|_| AuthorityError::Signature)?;
        let der = certificate::assemble(&self.tbs, self.algorithm, signature);
        let findings = lint::check_certificate(&der, &self.tbs, &self.signer.expected());
        if !findings.is_empty() {
            return Err(AuthorityError::Lint(findings));
        }
        Ok(Certificate::from_der(&der)?)
    }
}

fn ca_usage() -> FlagSet<KeyUsages> {
    KeyUsages::KeyCertSign | KeyUsages::CRLSign
}

/// A self-signed root: any depth below it, no URLs, for nobody revokes it. Its key signs with `algorithm`.
///
/// # Errors
/// [`AuthorityError`] names what is wrong.
pub fn root(subject: Subject<'_>, algorithm: SignatureAlgorithm) -> Result<PreparedAuthority, AuthorityError> {
    if subject.name.is_empty() {
        return Err(AuthorityError::EmptySubject);
    }
    let key_identifier = subject.public_key.key_identifier();
    let extensions = vec![
        tbs::basic_constraints(true, None)?,
        tbs::key_usage(ca_usage())?,
        tbs::subject_key_identifier(subject.public_key)?,
        tbs::authority_key_identifier(&key_identifier)?,
    ];
    let signer = Signer {
        key: subject.public_key.clone(),
        algorithm,
        name: subject.name.der().to_vec(),
        key_identifier: key_identifier.to_vec(),
        validity: None,
        role: Role::Authority,
        urls: None,
    };
    PreparedAuthority::new(subject, signer, extensions)
}

/// An issuing CA under `parent`, which signs with `algorithm`: no CA below it (pathLenConstraint 0).
///
/// # Errors
/// [`AuthorityError`] names what is wrong.
pub fn issuing_ca(
    subject: Subject<'_>,
    parent: &Certificate,
    algorithm: SignatureAlgorithm,
    urls: ParentUrls<'_>,
) -> Result<PreparedAuthority, AuthorityError> {
    check_subordinate(&subject, parent)?;
    // RFC 5280 4.2.1.9: a parent with pathLenConstraint 0 has only end entities below it.
    let may = parent.is_ca() && parent.key_usage().is_some_and(|ku| ku.key_cert_sign()) && parent.path_len() != Some(0);
    if !may {
        return Err(AuthorityError::Parent);
    }
    let signer = Signer::of(parent, algorithm, Role::Authority)?;
    for (field, url) in [("crl", urls.crl), ("ocsp", urls.ocsp), ("ca_issuers", urls.ca_issuers)] {
        if let Some(url) = url {
            http_url(field, url.to_owned()).map_err(|_| AuthorityError::Url(field))?;
        }
    }
    let mut extensions = vec![
        tbs::basic_constraints(true, Some(0))?,
        tbs::key_usage(ca_usage())?,
        tbs::subject_key_identifier(subject.public_key)?,
        tbs::authority_key_identifier(&signer.key_identifier)?,
    ];
    if let Some(crl) = urls.crl {
        extensions.push(tbs::crl_distribution_point(crl)?);
    }
    if urls.ocsp.is_some() || urls.ca_issuers.is_some() {
        extensions.push(tbs::authority_info_access(urls.ocsp, urls.ca_issuers)?);
    }
    PreparedAuthority::new(subject, signer, extensions)
}

fn check_subordinate(subject: &Subject<'_>, issuer: &Certificate) -> Result<(), AuthorityError> {
    if subject.name.is_empty() {
        return Err(AuthorityError::EmptySubject);
    }
    if subject.name.der() == issuer.subject_der() {
        return Err(AuthorityError::SameAsIssuer("subject"));
    }
    if subject.public_key == issuer.public_key() {
        return Err(AuthorityError::SameAsIssuer("public key"));
    }
    Ok(())
}

/// A delegated OCSP responder of `issuer` (RFC 6960 4.2.2.2), not itself checked for revocation (4.2.2.2.1), so it
/// should live for days. Every issuer but a retired one has one.
///
/// # Errors
/// [`AuthorityError`] names what is wrong.
pub fn ocsp_responder(subject: Subject<'_>, issuer: &Issuer) -> Result<PreparedAuthority, AuthorityError> {
    if !issuer.state().signs_status() {
        return Err(AuthorityError::IssuerState(issuer.state()));
    }
    check_subordinate(&subject, issuer.certificate())?;
    let extensions = vec![
        tbs::basic_constraints(false, None)?,
        tbs::key_usage(KeyUsages::DigitalSignature.into())?,
        tbs::extended_key_usage(&[rfc5912::ID_KP_OCSP_SIGNING])?,
        tbs::subject_key_identifier(subject.public_key)?,
        tbs::authority_key_identifier(issuer.key_identifier())?,
        tbs::extension(rfc6960::ID_PKIX_OCSP_NOCHECK, false, &Null)?,
    ];
    let signer = Signer::of(issuer.certificate(), issuer.signature_algorithm(), Role::OcspResponder)?;
    PreparedAuthority::new(subject, signer, extensions)
}

/// The service's own TLS server certificate, from an active issuer.
///
/// # Errors
/// [`AuthorityError`] names what is wrong.
pub fn tls_server(
    subject: Subject<'_>,
    dns: &[String],
    addresses: &[IpAddr],
    issuer: &Issuer,
) -> Result<PreparedAuthority, AuthorityError> {
    if !issuer.state().issues() {
        return Err(AuthorityError::IssuerState(issuer.state()));
    }
    check_subordinate(&subject, issuer.certificate())?;
    if let Some(bad) = dns.iter().find(|name| !is_dns_name(name)) {
        return Err(AuthorityError::ServerName(format!("{bad:?}")));
    }
    let names = dns.iter().cloned().map(AltName::Dns).chain(addresses.iter().copied().map(AltName::Ip));
    let names: Vec<_> = names.collect();
    if !(1..=MAX_SERVER_NAMES).contains(&names.len()) {
        return Err(AuthorityError::ServerName(names.len().to_string()));
    }
    let urls = issuer.urls();
    let extensions = vec![
        tbs::basic_constraints(false, None)?,
        tbs::key_usage(KeyUsages::DigitalSignature.into())?,
        tbs::extended_key_usage(&[rfc5912::ID_KP_SERVER_AUTH])?,
        tbs::subject_key_identifier(subject.public_key)?,
        tbs::authority_key_identifier(issuer.key_identifier())?,
        tbs::subject_alt_name(&names, subject.name.is_empty())?,
        tbs::crl_distribution_point(urls.crl())?,
        tbs::authority_info_access(Some(urls.ocsp()), Some(urls.ca_issuers()))?,
    ];
    let signer = Signer::of(issuer.certificate(), issuer.signature_algorithm(), Role::EndEntity)?;
    let signer = Signer { urls: Some(urls.clone()), ..signer };
    PreparedAuthority::new(subject, signer, extensions)
}

/// The DER CertificationRequestInfo (RFC 2986 4.1) of an issuing CA whose root is elsewhere: to be signed with the
/// CA's own key. It asks for what [`issuing_ca`] would give.
///
/// # Errors
/// [`AuthorityError::EmptySubject`].
pub fn certification_request(name: &DistinguishedName, public_key: &PublicKey) -> Result<Vec<u8>, AuthorityError> {
    if name.is_empty() {
        return Err(AuthorityError::EmptySubject);
    }
    let extensions = vec![
        tbs::basic_constraints(true, Some(0))?,
        tbs::key_usage(ca_usage())?,
        tbs::subject_key_identifier(public_key)?,
    ];
    let encode = || {
        let mut attributes = SetOfVec::new();
        attributes.insert(Attribute::try_from(ExtensionReq(extensions))?)?;
        let info = CertReqInfo {
            version: Version::V1,
            subject: name.to_x509().clone(),
            public_key: SubjectPublicKeyInfoOwned::from_der(public_key.spki_der())?,
            attributes,
        };
        info.to_der()
    };
    encode().map_err(|_| AuthorityError::Encoding(EncodingError))
}

#[derive(Sequence)]
struct Request<'a> {
    info: AnyRef<'a>,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

/// The DER certification request from what [`certification_request`] gave and its signature, which is verified.
///
/// # Errors
/// [`AuthorityError::Request`] and [`AuthorityError::Signature`].
pub fn finish_csr(info: &[u8], algorithm: SignatureAlgorithm, signature: &[u8]) -> Result<Vec<u8>, AuthorityError> {
    let assemble = || {
        let parsed = CertReqInfo::from_der(info)?;
        let request = Request {
            info: AnyRef::from_der(info)?,
            algorithm: algorithm.identifier(),
            signature: BitString::from_bytes(signature)?,
        };
        Ok::<_, der::Error>((parsed.public_key.to_der()?, request.to_der()?))
    };
    let (spki, der) = assemble().map_err(|_| AuthorityError::Request)?;
    let key = PublicKey::from_spki_der(&spki).map_err(|_| AuthorityError::Request)?;
    key.verify(algorithm, info, signature).map_err(|_| AuthorityError::Signature)?;
    Ok(der)
}

/// Checks a chain that came from an external root: the first certificate is for `public_key` and fit to issue, the
/// last is self-signed, and names, signatures, CA flags, path lengths and validity at `now` hold. The root is believed
/// because the operator brought it.
///
/// # Errors
/// [`ChainError`] names the certificate, counting from 0, the lowest.
pub fn check_imported_chain(public_key: &PublicKey, chain: &[Certificate], now: UnixTime) -> Result<(), ChainError> {
    let first = chain.first().ok_or(ChainError::Empty)?;
    if first.public_key() != public_key {
        return Err(ChainError::OtherKey);
    }
    check_chain(&chain.iter().collect::<Vec<_>>())?;
    match chain.iter().position(|certificate| !certificate.is_valid_at(now)) {
        Some(i) => Err(ChainError::Validity(i)),
        None => Ok(()),
    }
}
