//! Issuance as values: prepare the bytes to be signed, then finish them with a signature made elsewhere.

use crate::{
    certificate::{self, Certificate, CertificateError},
    id::IssuerId,
    issuer::{Issuer, IssuerState},
    key::{KeyAlgorithm, PublicKey, SignatureAlgorithm},
    lint::{self, Expected, Finding, Role},
    profile::{CertificateProfile, PastIssuer},
    serial::{SerialError, SerialNumber},
    tbs::{self, Contents, EncodingError},
    time::UnixTime,
};
use der::{Decode, Encode};
use x509_cert::certificate::TbsCertificate;

pub use crate::selection::{Facts, Names, SelectionError, select_names};

/// Why a certificate was not issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The issuer is staged, draining or retired.
    #[error("issuer {id} is {state}; only an active issuer issues")]
    IssuerState {
        /// The issuer.
        id: IssuerId,
        /// Its state.
        state: IssuerState,
    },
    /// The issuer belongs to another tenant.
    #[error("the issuer belongs to another tenant")]
    OtherTenant,
    /// The issuer's certificate is expired or not yet valid.
    #[error("the certificate of issuer {0} is expired or not yet valid")]
    IssuerNotValid(IssuerId),
    /// The profile does not certify this kind of key.
    #[error("the profile does not accept {0} keys")]
    KeyAlgorithm(KeyAlgorithm),
    /// The key is a CA's.
    #[error("the public key is that of the issuer or of a CA above it")]
    IssuersOwnKey,
    /// The names do not fit the profile.
    #[error("{0}")]
    Selection(#[from] SelectionError),
    /// The certificate would outlive its issuer, and the profile says to refuse that.
    #[error("the certificate would be valid until {wanted}, its issuer only until {issuer}")]
    PastIssuer {
        /// The end that the profile gives.
        wanted: UnixTime,
        /// The issuer's own end.
        issuer: UnixTime,
    },
    /// The encoder refused a value.
    #[error("{0}")]
    Encoding(#[from] EncodingError),
    /// The gate refused the certificate.
    #[error("the certificate would break a rule: {}", lint::join(.0))]
    Lint(Vec<Finding>),
    /// The signature does not verify with the issuer's key.
    #[error("the signature does not verify with the issuer's public key")]
    Signature,
    /// Prepared for another issuer.
    #[error("the certificate was prepared for another issuer")]
    OtherIssuer,
    /// Recorded bytes that are no TBSCertificate.
    #[error("the recorded TBSCertificate does not decode")]
    Recorded,
    /// The assembled certificate does not parse.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
}

impl From<SerialError> for IssueError {
    fn from(_: SerialError) -> Self {
        Self::Recorded
    }
}

impl IssueError {
    /// The path of the offending field.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Selection(e) => e.field(),
            Self::KeyAlgorithm(_) | Self::IssuersOwnKey => "csr.subject_public_key",
            Self::PastIssuer { .. } => "profile.validity",
            Self::IssuerState { .. } | Self::IssuerNotValid(_) | Self::OtherTenant | Self::OtherIssuer => "issuer",
            Self::Signature => "signature",
            Self::Encoding(_) | Self::Lint(_) | Self::Recorded | Self::Certificate(_) => "certificate",
        }
    }
}

/// All that a certificate is made from.
#[derive(Clone, Debug)]
pub struct IssuanceRequest<'a> {
    /// What it will contain.
    pub profile: &'a CertificateProfile,
    /// Who issues.
    pub issuer: &'a Issuer,
    /// The key to certify; its possession was proven.
    pub public_key: &'a PublicKey,
    /// The values for the names.
    pub names: &'a Names,
    /// Unique under the issuer.
    pub serial: SerialNumber,
    /// The moment of issuance.
    pub now: UnixTime,
}

/// Bytes to be signed that passed the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedCertificate {
    tbs: Vec<u8>,
    serial: SerialNumber,
    issuer: IssuerId,
    algorithm: SignatureAlgorithm,
    not_before: UnixTime,
    not_after: UnixTime,
}

/// Builds the TBSCertificate and passes it through the gate ([`lint`]). The same request gives the same bytes.
///
/// # Errors
/// [`IssueError`] names what is wrong; nothing was done.
pub fn prepare(request: IssuanceRequest<'_>) -> Result<PreparedCertificate, IssueError> {
    let IssuanceRequest { profile, issuer, public_key, names, serial, now } = request;
    check_issuer(issuer, names, now)?;
    if !profile.accepts_key(public_key.algorithm()) {
        return Err(IssueError::KeyAlgorithm(public_key.algorithm()));
    }
    let above = std::iter::once(issuer.certificate()).chain(issuer.chain());
    if above.into_iter().any(|ca| ca.public_key() == public_key) {
        return Err(IssueError::IssuersOwnKey);
    }

    let subject = names.subject(profile)?;
    let alt_names = names.alt_names(profile)?;
    let not_before = now.minus(profile.backdate()).max(issuer.certificate().not_before());
    let not_after = end(profile, issuer, now)?;

    let mut extensions = vec![tbs::basic_constraints(false, None)?, tbs::key_usage(profile.key_usage())?];
    if !profile.extended_key_usage().is_empty() {
        extensions.push(tbs::extended_key_usage(profile.extended_key_usage())?);
    }
    extensions.push(tbs::subject_key_identifier(public_key)?);
    extensions.push(tbs::authority_key_identifier(issuer.key_identifier())?);
    if !alt_names.is_empty() {
        extensions.push(tbs::subject_alt_name(&alt_names, subject.is_empty())?);
    }
    extensions.push(tbs::crl_distribution_point(issuer.urls().crl())?);
    extensions.push(tbs::authority_info_access(Some(issuer.urls().ocsp()), Some(issuer.urls().ca_issuers()))?);

    let algorithm = issuer.signature_algorithm();
    let contents = Contents {
        serial: &serial,
        algorithm,
        issuer_name: issuer.name_der(),
        not_before,
        not_after,
        subject: subject.der(),
        public_key,
        extensions,
    };
    let tbs = contents.encode()?;
    let may_outlive = profile.past_issuer() == PastIssuer::Allow;
    let findings = lint::check_tbs(&tbs, &expected(issuer, may_outlive));
    if !findings.is_empty() {
        return Err(IssueError::Lint(findings));
    }
    Ok(PreparedCertificate { tbs, serial, issuer: issuer.id().clone(), algorithm, not_before, not_after })
}

fn check_issuer(issuer: &Issuer, names: &Names, now: UnixTime) -> Result<(), IssueError> {
    if !issuer.state().issues() {
        return Err(IssueError::IssuerState { id: issuer.id().clone(), state: issuer.state() });
    }
    if names.facts().tenant != *issuer.tenant() {
        return Err(IssueError::OtherTenant);
    }
    if !issuer.certificate().is_valid_at(now) {
        return Err(IssueError::IssuerNotValid(issuer.id().clone()));
    }
    Ok(())
}

fn end(profile: &CertificateProfile, issuer: &Issuer, now: UnixTime) -> Result<UnixTime, IssueError> {
    let wanted = profile.not_after(now);
    let last = issuer.certificate().not_after();
    match profile.past_issuer() {
        _ if wanted <= last => Ok(wanted),
        PastIssuer::Allow => Ok(wanted),
        PastIssuer::Truncate => Ok(last),
        PastIssuer::Refuse => Err(IssueError::PastIssuer { wanted, issuer: last }),
    }
}

fn expected(issuer: &Issuer, may_outlive_issuer: bool) -> Expected<'_> {
    let certificate = issuer.certificate();
    Expected {
        role: Role::EndEntity,
        issuer_name: issuer.name_der(),
        issuer_key_identifier: issuer.key_identifier(),
        algorithm: issuer.signature_algorithm(),
        issuer_validity: Some((certificate.not_before(), certificate.not_after())),
        may_outlive_issuer,
        urls: Some(issuer.urls()),
    }
}

impl PreparedCertificate {
    /// Rebuilds a prepared certificate from its recorded bytes, whatever the issuer's state is now, so that an intent
    /// that was recorded before a crash can be finished. The bytes pass the gate again, except that its end is not
    /// compared with the issuer's: the profile decided that when it was prepared.
    ///
    /// # Errors
    /// [`IssueError`] when the bytes are not a certificate that this issuer prepared.
    pub fn recover(tbs: Vec<u8>, issuer: &Issuer) -> Result<Self, IssueError> {
        let parsed = TbsCertificate::from_der(&tbs).map_err(|_| IssueError::Recorded)?;
        if !parsed.issuer().to_der().is_ok_and(|name| name == issuer.name_der()) {
            return Err(IssueError::OtherIssuer);
        }
        let findings = lint::check_tbs(&tbs, &expected(issuer, true));
        if !findings.is_empty() {
            return Err(IssueError::Lint(findings));
        }
        Ok(Self {
            serial: SerialNumber::from_be_bytes(parsed.serial_number().as_bytes())?,
            issuer: issuer.id().clone(),
            algorithm: issuer.signature_algorithm(),
            not_before: UnixTime::from_x509(&parsed.validity().not_before),
            not_after: UnixTime::from_x509(&parsed.validity().not_after),
            tbs,
        })
    }

    /// The DER TBSCertificate: what is to be signed, and recorded before.
    pub fn tbs(&self) -> &[u8] {
        &self.tbs
    }
    /// The serial number.
    pub fn serial(&self) -> &SerialNumber {
        &self.serial
    }
    /// Who issues.
    pub fn issuer(&self) -> &IssuerId {
        &self.issuer
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

    /// Verifies `signature` with the issuer's key, assembles the certificate and passes it through the gate again.
    ///
    /// # Errors
    /// [`IssueError::Signature`] when the token returned something else than a signature over [`Self::tbs`].
    pub fn finish(&self, issuer: &Issuer, signature: &[u8]) -> Result<Certificate, IssueError> {
        if *issuer.id() != self.issuer {
            return Err(IssueError::OtherIssuer);
        }
        issuer.verify(self.algorithm, &self.tbs, signature).map_err(|_| IssueError::Signature)?;
        let der = certificate::assemble(&self.tbs, self.algorithm, signature);
        let findings = lint::check_certificate(&der, &self.tbs, &expected(issuer, true));
        if !findings.is_empty() {
            return Err(IssueError::Lint(findings));
        }
        Ok(Certificate::from_der(&der)?)
    }
}
