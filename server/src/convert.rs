//! From records to the wire.

use crate::{
    ca::{Ca, LoadedIssuer},
    error::Failure,
    issuance,
};
use ca_core::time::UnixTime;
use proto::v1;
use store::{CertificateEntry, CertificateState, DeviceEntry, Holder, PrincipalEntry, RevocationEntry};

/// A point in time for the wire.
pub fn timestamp(time: UnixTime) -> prost_types::Timestamp {
    // UnixTime ends with the year 9999, far inside an i64.
    prost_types::Timestamp { seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

/// Names a certificate.
pub fn reference(entry: &CertificateEntry) -> v1::CertificateRef {
    v1::CertificateRef { issuer_id: entry.issuer.to_string(), serial_number: entry.serial.to_string() }
}

/// A revocation.
pub fn revocation(r: &RevocationEntry) -> v1::Revocation {
    v1::Revocation {
        revoked_at: Some(timestamp(r.at)),
        reason: i32::from(r.reason),
        invalidity_date: r.invalidity_date.map(timestamp),
        revoked_by: r.by.clone(),
    }
}

/// A certificate with its record.
///
/// # Errors
/// INTERNAL when the record holds no certificate.
pub fn certificate(entry: &CertificateEntry) -> Result<v1::Certificate, Failure> {
    let certificate = issuance::certificate(entry)?;
    let (device_id, principal_id) = match &entry.holder {
        Holder::Device { id, .. } => (id.to_string(), String::new()),
        Holder::Principal { id, .. } => (String::new(), id.to_string()),
    };
    let state = match entry.state() {
        CertificateState::Revoked => v1::CertificateState::Revoked,
        CertificateState::Installed => v1::CertificateState::Installed,
        CertificateState::Issued | CertificateState::Intended | CertificateState::Aborted => {
            v1::CertificateState::Issued
        }
    };
    Ok(v1::Certificate {
        r#ref: Some(reference(entry)),
        der: certificate.der().to_vec(),
        subject: certificate.subject().to_owned(),
        profile: entry.profile.to_string(),
        not_before: Some(timestamp(entry.not_before)),
        not_after: Some(timestamp(entry.not_after)),
        state: state.into(),
        device_id,
        principal_id,
        sha256: hex::encode(certificate.sha256()),
        revocation: entry.revocation.as_ref().map(revocation),
        replaces_serial_number: entry.replaces.as_ref().map(|(_, serial)| serial.to_string()).unwrap_or_default(),
        issued_at: entry.issued_at.map(timestamp),
        requested_by: entry.requester.clone(),
        attestation: entry.attestation.as_ref().map(|a| v1::AttestationResult {
            format: a.format.clone(),
            claims: a.claims.clone().into_iter().collect(),
            evidence_sha256: hex::encode(a.evidence_sha256),
            trust_anchor: a.trust_anchor.clone(),
        }),
    })
}

/// The certificates above an issuer's products, DER, issuer first, without the root.
pub fn chain(issuer: &LoadedIssuer) -> Vec<Vec<u8>> {
    let above = issuer.issuer.chain();
    let mut chain = vec![issuer.issuer.certificate().der().to_vec()];
    chain.extend(above.iter().filter(|c| c.subject_der() != c.issuer_der()).map(|c| c.der().to_vec()));
    chain
}

/// DER certificates as PEM (RFC 7468), one after another.
pub fn pem<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    certificates
        .into_iter()
        .filter_map(|der| der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, der).ok())
        .collect()
}

/// A certificate with its chain: what every issuing method answers.
pub struct WithChain {
    /// The certificate.
    pub certificate: v1::Certificate,
    /// Those above it.
    pub chain: Vec<Vec<u8>>,
    /// All of it as PEM.
    pub pem: String,
}

/// Puts a certificate and its chain together.
///
/// # Errors
/// INTERNAL when the record holds no certificate or its issuer is gone.
pub fn with_chain(ca: &Ca, entry: &CertificateEntry) -> Result<WithChain, Failure> {
    let issuer = ca.issuer_by_id(&entry.issuer).ok_or_else(|| Failure::internal("a record without its issuer"))?;
    let certificate = certificate(entry)?;
    let chain = chain(&issuer);
    let pem = pem(std::iter::once(certificate.der.as_slice()).chain(chain.iter().map(Vec::as_slice)));
    Ok(WithChain { certificate, chain, pem })
}

/// A device.
pub fn device(entry: &DeviceEntry) -> v1::Device {
    v1::Device {
        device_id: entry.id.to_string(),
        identity: Some(v1::DeviceIdentity {
            manufacturer: entry.manufacturer.clone(),
            model: entry.model.clone(),
            serial_number: entry.serial_number.clone(),
        }),
        first_enrolled_at: Some(timestamp(entry.first_enrolled_at)),
        attestation_anchor: entry.anchor_sha256.map(hex::encode).unwrap_or_default(),
        current: Some(v1::CertificateRef {
            issuer_id: entry.current.0.to_string(),
            serial_number: entry.current.1.to_string(),
        }),
        certificate_count: entry.certificate_count,
    }
}

/// A principal.
pub fn principal(entry: &PrincipalEntry) -> v1::Principal {
    v1::Principal {
        principal_id: entry.id.to_string(),
        role: i32::try_from(entry.role).unwrap_or_default(),
        created_at: Some(timestamp(entry.created_at)),
        created_by: entry.created_by.clone(),
        disabled_at: entry.disabled_at.map(timestamp),
    }
}
