//! The gate before and after signing: does the certificate say what it must, and nothing it must not?
//!
//! It reads the encoded bytes again and shares no code with the encoder beyond the ASN.1 types.

use crate::{
    issuer::IssuerUrls,
    key::{KeyAlgorithm, PublicKey, SignatureAlgorithm},
    profile::key_usage_fits,
    time::UnixTime,
};
use const_oid::{
    AssociatedOid, ObjectIdentifier,
    db::{rfc5280, rfc5912, rfc6960},
};
use der::{AnyRef, Decode, Encode, Sequence, asn1::BitStringRef, flagset::FlagSet};
use spki::AlgorithmIdentifierOwned;
use std::fmt;
use x509_cert::{
    certificate::{TbsCertificate, Version},
    ext::{
        Extension,
        pkix::{
            AuthorityInfoAccessSyntax, AuthorityKeyIdentifier, BasicConstraints, CrlDistributionPoints,
            ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName, SubjectKeyIdentifier,
            name::{DistributionPointName, GeneralName},
        },
    },
};

/// Something that a certificate must not be, with the clause that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The clause of the standard.
    pub clause: &'static str,
    /// What is wrong.
    pub message: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.clause)
    }
}

/// The findings as one sentence for an error.
pub(crate) fn join(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An end entity.
    EndEntity,
    /// A delegated OCSP responder (RFC 6960 4.2.2.2).
    OcspResponder,
    /// A CA.
    Authority,
}

/// What the certificate must agree with.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// What it is for.
    pub role: Role,
    /// The issuer's subject Name, DER.
    pub issuer_name: &'a [u8],
    /// The issuer's subjectKeyIdentifier.
    pub issuer_key_identifier: &'a [u8],
    /// The algorithm that the issuer signs with.
    pub algorithm: SignatureAlgorithm,
    /// Start and end of the issuer's validity; `None` for a root.
    pub issuer_validity: Option<(UnixTime, UnixTime)>,
    /// Whether the certificate may outlive its issuer.
    pub may_outlive_issuer: bool,
    /// The URLs that it must name, all of them; `None` where the issuer has no fixed URLs.
    pub urls: Option<&'a IssuerUrls>,
}

/// The extensions that we encode; a critical one outside this list would be refused by everybody.
const KNOWN_CRITICAL: [ObjectIdentifier; 3] =
    [rfc5280::ID_CE_BASIC_CONSTRAINTS, rfc5280::ID_CE_KEY_USAGE, rfc5280::ID_CE_SUBJECT_ALT_NAME];

#[derive(Sequence)]
struct Outer<'a> {
    tbs: AnyRef<'a>,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitStringRef<'a>,
}

/// Checks a DER certificate whose signed part must be exactly `tbs`.
pub fn check_certificate(der: &[u8], tbs: &[u8], expected: &Expected<'_>) -> Vec<Finding> {
    let mut report = Report::default();
    match Outer::from_der(der) {
        Ok(outer) => {
            let same = outer.tbs.to_der().is_ok_and(|inner| inner == tbs);
            report.require(same, "RFC 5280 4.1.1.1", "the signed part is not the one that was prepared");
            let algorithm = SignatureAlgorithm::from_identifier(&outer.algorithm) == Some(expected.algorithm);
            report.require(algorithm, "RFC 5280 4.1.1.2", "signatureAlgorithm is not the issuer's");
            let bits = outer.signature.as_bytes().is_some_and(|s| !s.is_empty());
            report.require(bits, "RFC 5280 4.1.1.3", "the signature is not a whole number of octets");
        }
        Err(_) => report.add("RFC 5280 4.1", "not a DER Certificate"),
    }
    report.findings.extend(check_tbs(tbs, expected));
    report.findings
}

/// Checks a DER TBSCertificate. Empty when nothing is wrong.
pub fn check_tbs(tbs: &[u8], expected: &Expected<'_>) -> Vec<Finding> {
    let mut report = Report::default();
    match TbsCertificate::from_der(tbs) {
        Ok(parsed) => {
            let canonical = parsed.to_der().is_ok_and(|again| again == tbs);
            report.require(canonical, "RFC 5280 4.1", "the TBSCertificate is not canonical DER");
            check_fields(&mut report, &parsed, expected);
            check_extensions(&mut report, &parsed, expected);
        }
        Err(_) => report.add("RFC 5280 4.1", "not a DER TBSCertificate"),
    }
    report.findings
}

#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, clause: &'static str, message: &'static str) {
        self.findings.push(Finding { clause, message });
    }
    fn require(&mut self, holds: bool, clause: &'static str, message: &'static str) {
        if !holds {
            self.add(clause, message);
        }
    }
}

fn check_fields(report: &mut Report, tbs: &TbsCertificate, expected: &Expected<'_>) {
    report.require(tbs.version() == Version::V3, "RFC 5280 4.1.2.1", "the version is not 3");
    let serial = tbs.serial_number().as_bytes();
    let positive = serial.first().is_some_and(|b| b & 0x80 == 0) && serial.iter().any(|&b| b != 0);
    report.require(positive, "RFC 5280 4.1.2.2", "the serial number is not positive");
    report.require(serial.len() <= 20, "RFC 5280 4.1.2.2", "the serial number has more than 20 octets");
    let algorithm = SignatureAlgorithm::from_identifier(tbs.signature());
    report.require(
        algorithm == Some(expected.algorithm),
        "RFC 5280 4.1.2.3",
        "signature is not the issuer's algorithm",
    );
    let issuer = tbs.issuer().to_der().is_ok_and(|der| der == expected.issuer_name);
    report.require(issuer, "RFC 5280 4.1.2.4", "the issuer is not, octet for octet, the issuer's subject");
    report.require(!tbs.issuer().is_empty(), "RFC 5280 4.1.2.4", "the issuer is empty");
    let unique = tbs.issuer_unique_id().is_none() && tbs.subject_unique_id().is_none();
    report.require(unique, "RFC 5280 4.1.2.8", "unique identifiers must not be used");

    let (from, to) = (UnixTime::from_x509(&tbs.validity().not_before), UnixTime::from_x509(&tbs.validity().not_after));
    report.require(from <= to, "RFC 5280 4.1.2.5", "notAfter is before notBefore");
    if let Some((issuer_from, issuer_to)) = expected.issuer_validity {
        report.require(from >= issuer_from, "RFC 5280 6.1.3", "notBefore is before the issuer's");
        let ends = to <= issuer_to || expected.may_outlive_issuer;
        report.require(ends, "RFC 5280 6.1.3", "notAfter is after the issuer's");
    }
}

fn check_extensions(report: &mut Report, tbs: &TbsCertificate, expected: &Expected<'_>) {
    let list = tbs.extensions().map(Vec::as_slice).unwrap_or_default();
    let twice = list.iter().enumerate().any(|(i, e)| list.iter().take(i).any(|earlier| earlier.extn_id == e.extn_id));
    report.require(!twice, "RFC 5280 4.2", "an extension occurs twice");
    let unknown = list.iter().any(|e| e.critical && !KNOWN_CRITICAL.contains(&e.extn_id));
    report.require(!unknown, "RFC 5280 4.2", "an extension is critical that relying parties need not know");

    let extensions = Extensions { list };
    check_key_identifiers(report, &extensions, expected);
    check_usage(report, &extensions, tbs, expected);
    check_alt_name(report, &extensions, tbs.subject().is_empty(), expected.role);
    if let Some(urls) = expected.urls {
        check_urls(report, &extensions, urls);
    }
    if expected.role == Role::OcspResponder {
        let nocheck = extensions.find(rfc6960::ID_PKIX_OCSP_NOCHECK).is_some_and(|e| e.extn_value.as_bytes() == [5, 0]);
        report.require(nocheck, "RFC 6960 4.2.2.2.1", "an OCSP responder's certificate lacks id-pkix-ocsp-nocheck");
    }
}

struct Extensions<'a> {
    list: &'a [Extension],
}

impl<'a> Extensions<'a> {
    fn find(&self, oid: ObjectIdentifier) -> Option<&'a Extension> {
        self.list.iter().find(|e| e.extn_id == oid)
    }
    /// The criticality and value; a value that does not decode is reported and treated as absent.
    fn get<T: Decode<'a> + AssociatedOid>(&self, report: &mut Report) -> Option<(bool, T)> {
        let extension = self.find(T::OID)?;
        match T::from_der(extension.extn_value.as_bytes()) {
            Ok(value) => Some((extension.critical, value)),
            Err(_) => {
                report.add("RFC 5280 4.2", "an extension does not decode");
                None
            }
        }
    }
}

fn check_key_identifiers(report: &mut Report, extensions: &Extensions<'_>, expected: &Expected<'_>) {
    let subject = extensions.get::<SubjectKeyIdentifier>(report);
    let present = subject.is_some_and(|(critical, ski)| !critical && !ski.0.as_bytes().is_empty());
    report.require(present, "RFC 5280 4.2.1.2", "subjectKeyIdentifier is absent, empty or critical");
    let authority = extensions.get::<AuthorityKeyIdentifier>(report);
    let same = authority.is_some_and(|(critical, aki)| {
        !critical && aki.key_identifier.is_some_and(|id| id.as_bytes() == expected.issuer_key_identifier)
    });
    report.require(same, "RFC 5280 4.2.1.1", "authorityKeyIdentifier is not the issuer's subjectKeyIdentifier");
}

fn check_usage(report: &mut Report, extensions: &Extensions<'_>, tbs: &TbsCertificate, expected: &Expected<'_>) {
    let constraints = extensions.get::<BasicConstraints>(report);
    let authority = expected.role == Role::Authority;
    match constraints {
        Some((critical, bc)) => {
            report.require(bc.ca == authority, "RFC 5280 4.2.1.9", "basicConstraints does not fit what it is for");
            report.require(critical || !bc.ca, "RFC 5280 4.2.1.9", "a CA's basicConstraints is not critical");
            let path_len = bc.ca || bc.path_len_constraint.is_none();
            report.require(path_len, "RFC 5280 4.2.1.9", "pathLenConstraint without CA");
        }
        None => report.require(!authority, "RFC 5280 4.2.1.9", "a CA has no basicConstraints"),
    }

    let signs = KeyUsages::KeyCertSign | KeyUsages::CRLSign;
    match extensions.get::<KeyUsage>(report) {
        Some((critical, KeyUsage(usages))) => {
            report.require(critical, "RFC 5280 4.2.1.3", "keyUsage is not critical");
            report.require(!usages.is_empty(), "RFC 5280 4.2.1.3", "keyUsage says nothing");
            let fits = key_algorithm(tbs).is_some_and(|key| key_usage_fits(usages, key));
            report.require(
                fits,
                "RFC 5480 3, RFC 8410 5, RFC 4055 1.2, RFC 9881 5",
                "keyUsage does not fit the key, or the key is not accepted",
            );
            let only = FlagSet::from(KeyUsages::EncipherOnly) | KeyUsages::DecipherOnly;
            let agreement = (usages & only).is_empty() || usages.contains(KeyUsages::KeyAgreement);
            report.require(agreement, "RFC 5280 4.2.1.3", "encipherOnly or decipherOnly without keyAgreement");
            let right = if authority { usages.contains(signs) } else { (usages & signs).is_empty() };
            report.require(right, "RFC 5280 4.2.1.3", "keyCertSign and cRLSign are for CAs, and all of them");
        }
        None => report.add("RFC 5280 4.2.1.3", "keyUsage is absent"),
    }

    let purposes = extensions.get::<ExtendedKeyUsage>(report).map(|(_, eku)| eku.0);
    let ocsp = purposes.as_ref().is_some_and(|list| list.contains(&rfc5912::ID_KP_OCSP_SIGNING));
    report.require(
        ocsp == (expected.role == Role::OcspResponder),
        "RFC 6960 4.2.2.2",
        "OCSPSigning is for OCSP responders alone, and theirs alone",
    );
    report.require(purposes.is_none_or(|list| !list.is_empty()), "RFC 5280 4.2.1.12", "extKeyUsage is empty");
}

fn key_algorithm(tbs: &TbsCertificate) -> Option<KeyAlgorithm> {
    let spki = tbs.subject_public_key_info().to_der().ok()?;
    PublicKey::from_spki_der(&spki).ok().map(|key| key.algorithm())
}

fn check_alt_name(report: &mut Report, extensions: &Extensions<'_>, subject_is_empty: bool, role: Role) {
    report.require(
        !subject_is_empty || role == Role::EndEntity,
        "RFC 5280 4.1.2.6",
        "a CA's or responder's subject is empty",
    );
    match extensions.get::<SubjectAltName>(report) {
        Some((critical, names)) => {
            let fits = critical == subject_is_empty;
            report.require(fits, "RFC 5280 4.2.1.6", "subjectAltName is critical exactly when the subject is empty");
            report.require(!names.0.is_empty(), "RFC 5280 4.2.1.6", "subjectAltName is empty");
        }
        None => report.require(!subject_is_empty, "RFC 5280 4.1.2.6", "neither subject nor subjectAltName"),
    }
}

fn check_urls(report: &mut Report, extensions: &Extensions<'_>, urls: &IssuerUrls) {
    let points = extensions.get::<CrlDistributionPoints>(report).map(|(_, points)| points.0);
    let crl = points.as_deref().is_some_and(|points| match points {
        [point] => match &point.distribution_point {
            Some(DistributionPointName::FullName(names)) => {
                point.reasons.is_none()
                    && point.crl_issuer.is_none()
                    && matches!(names.as_slice(), [n] if is_url(n, urls.crl()))
            }
            _ => false,
        },
        _ => false,
    });
    report.require(crl, "RFC 5280 4.2.1.13", "cRLDistributionPoints is not the issuer's CRL");
    let access = extensions.get::<AuthorityInfoAccessSyntax>(report).map(|(_, access)| access.0);
    let access = access.unwrap_or_default();
    let names = |method, url: &str| access.iter().any(|a| a.access_method == method && is_url(&a.access_location, url));
    report.require(
        names(rfc5280::ID_AD_OCSP, urls.ocsp()),
        "RFC 5280 4.2.2.1",
        "authorityInfoAccess lacks the issuer's OCSP responder",
    );
    report.require(
        names(rfc5280::ID_AD_CA_ISSUERS, urls.ca_issuers()),
        "RFC 5280 4.2.2.1",
        "authorityInfoAccess lacks the issuer's certificate",
    );
    report.require(access.len() == 2, "RFC 5280 4.2.2.1", "authorityInfoAccess names more than the issuer's URLs");
}

fn is_url(name: &GeneralName, url: &str) -> bool {
    matches!(name, GeneralName::UniformResourceIdentifier(uri) if uri.as_str() == url && url.starts_with("http://"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
mod tests;
