//! The one gate: who may have which certificate for which device.
//!
//! Every enrollment passes here, whatever brought it: a station, a token or evidence alone. What is not allowed is
//! refused. Renewal has rules of its own in [`crate::renewal`].

use crate::attestation::{AttestationResult, Format, policy::Verdict};
use ca_core::{
    csr::CertificationRequest,
    id::{DeviceId, PrincipalId, ProfileName, TenantId},
    issue::{Facts, Names, select_names},
    profile::{AttestationPolicy, CertificateProfile, DeviceIdSource, EnrollBy},
};

mod device;
mod refusal;

pub use device::DeviceFacts;
pub use refusal::{Refusal, reason};

/// The role of a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Manages principals, and everything an operator does.
    Admin,
    /// Revokes, makes tokens, reads the inventory.
    Operator,
    /// A station of a production line: enrolls devices.
    Station,
    /// Reads everything of its tenant, changes nothing.
    Auditor,
}

/// Who asks, as the edge established it from the TLS certificate, the token or neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requester {
    /// A principal with its client certificate.
    Principal {
        /// Who.
        id: PrincipalId,
        /// In which role.
        role: Role,
    },
    /// A device with a certificate of ours. It renews; it does not enroll.
    Device {
        /// Which.
        id: DeviceId,
    },
    /// The bearer of a one-time enrollment token that is valid and unused.
    Token {
        /// The token's identifier, never its secret.
        id: String,
        /// The only profile that it opens.
        profile: ProfileName,
        /// The only device that it is for, as far as its maker said.
        device: Option<DeviceFacts>,
    },
    /// Nobody known: the evidence must suffice.
    Attestation,
}

/// A parsed enrollment request.
#[derive(Clone, Debug)]
pub struct EnrollmentRequest<'a> {
    /// The tenant, as the edge established it.
    pub tenant: TenantId,
    /// The certification request; its proof of possession was verified when it was parsed.
    pub csr: &'a CertificationRequest,
    /// The device, as the request names it.
    pub device: Option<DeviceFacts>,
    /// What the evidence established, where there was evidence.
    pub attestation: Option<&'a AttestationResult>,
}

/// What the record keeps of an attestation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationSummary {
    /// The format.
    pub format: Format,
    /// Claims by name, as shown to people.
    pub claims: Vec<(String, String)>,
    /// SHA-256 over the evidence.
    pub evidence_sha256: [u8; 32],
    /// The trust anchor's subject as a RFC 4514 string.
    pub trust_anchor: String,
    /// SHA-256 of the policy that accepted it.
    pub policy_sha256: [u8; 32],
}

/// An enrollment that may go ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorised {
    /// The device that the certificate is for.
    pub device: DeviceId,
    /// What is known about it.
    pub facts: DeviceFacts,
    /// The values for the certificate's names.
    pub names: Names,
    /// Who asked: "principal:...", "token:..." or "attestation:..." with the endorsement key's SHA-256.
    pub requester: String,
    /// What stands for the device's hardware, where it was attested. The store refuses a second one for the same
    /// device, and a second device with the same one.
    pub anchor: Option<[u8; 32]>,
    /// What the evidence established.
    pub attestation: Option<AttestationSummary>,
}

/// Decides about an enrollment. `verdict` is the appraisal of `request.attestation`.
///
/// # Errors
/// [`Refusal`] says what forbids it.
pub fn authorise(
    profile: &CertificateProfile,
    requester: &Requester,
    request: &EnrollmentRequest<'_>,
    verdict: Option<&Verdict>,
) -> Result<Authorised, Refusal> {
    check_requester(profile, requester)?;
    let attested = check_attestation(profile, request.csr, request.attestation, verdict)?;
    if matches!(requester, Requester::Attestation) && attested.is_none() {
        return Err(Refusal::AttestationRequired);
    }
    let (device, facts) = match requester {
        Requester::Attestation => of_evidence(request, attested.map(|(result, _)| result))?,
        Requester::Token { device, .. } => of_request(profile, request, device.as_ref())?,
        _ => of_request(profile, request, None)?,
    };
    let names = select_names(profile, request.csr, facts_for_names(&request.tenant, &device, &facts))?;
    Ok(Authorised {
        requester: requester_text(requester, attested.map(|(result, _)| result)),
        anchor: attested.map(|(result, _)| result.device_anchor),
        attestation: attested.map(|(result, verdict)| summary(result, verdict)),
        device,
        facts,
        names,
    })
}

/// Whether the profile opens to this requester at all.
fn check_requester(profile: &CertificateProfile, requester: &Requester) -> Result<(), Refusal> {
    let way = match requester {
        Requester::Principal { role: Role::Station, .. } => EnrollBy::Station,
        Requester::Principal { .. } | Requester::Device { .. } => return Err(Refusal::RoleNotAllowed),
        Requester::Token { profile: opened, .. } if opened != profile.name() => return Err(Refusal::TokenProfile),
        Requester::Token { .. } => EnrollBy::Token,
        Requester::Attestation => EnrollBy::Attestation,
    };
    if profile.enroll_by().contains(&way) { Ok(()) } else { Err(Refusal::ProfileNotAllowed) }
}

/// What the profile says about evidence, and the rule that no profile can switch off: an attested key other than
/// the request's is worth nothing.
pub(crate) fn check_attestation<'a>(
    profile: &CertificateProfile,
    csr: &CertificationRequest,
    result: Option<&'a AttestationResult>,
    verdict: Option<&'a Verdict>,
) -> Result<Option<(&'a AttestationResult, &'a Verdict)>, Refusal> {
    match (profile.attestation(), result) {
        (AttestationPolicy::Off, Some(_)) => Err(Refusal::AttestationNotAccepted),
        (AttestationPolicy::Required, None) => Err(Refusal::AttestationRequired),
        (_, None) => Ok(None),
        (_, Some(result)) => {
            if result.attested_key != *csr.public_key() {
                return Err(Refusal::KeyNotAttested);
            }
            match verdict {
                Some(verdict) if verdict.accepted => Ok(Some((result, verdict))),
                Some(verdict) => Err(Refusal::policy(verdict)),
                None => Err(Refusal::NotAppraised),
            }
        }
    }
}

/// The device of an enrollment that evidence alone authorises. Nothing that the device states itself counts.
fn of_evidence(
    request: &EnrollmentRequest<'_>,
    result: Option<&AttestationResult>,
) -> Result<(DeviceId, DeviceFacts), Refusal> {
    let anchor = result.ok_or(Refusal::AttestationRequired)?.device_anchor;
    let device = device_id_of_anchor(&anchor)?;
    let facts = DeviceFacts::default();
    match &request.device {
        Some(stated) if !stated.is_consistent_with(&device, &facts) => Err(Refusal::DeviceMismatch("the evidence")),
        _ => Ok((device, facts)),
    }
}

/// "tpm-" and the first 32 hexadecimal digits of the endorsement key's SHA-256.
///
/// # Errors
/// None: such an identifier is always well-formed.
pub fn device_id_of_anchor(anchor: &[u8; 32]) -> Result<DeviceId, Refusal> {
    let digits = hex::encode(anchor.first_chunk::<16>().unwrap_or(&[0; 16]));
    DeviceId::new(format!("tpm-{digits}")).map_err(Refusal::DeviceId)
}

/// The device of an enrollment by station or token: what the token says, then what the profile lists, in its order.
fn of_request(
    profile: &CertificateProfile,
    request: &EnrollmentRequest<'_>,
    token: Option<&DeviceFacts>,
) -> Result<(DeviceId, DeviceFacts), Refusal> {
    let stated = request.device.as_ref();
    let in_csr = csr_device(profile, request.csr)?;
    let from_source = || {
        profile.device_id_from().iter().find_map(|source| match source {
            DeviceIdSource::Request => stated.and_then(|d| d.serial_number().cloned()),
            DeviceIdSource::Csr => in_csr.clone().map(|(id, _)| id),
        })
    };
    let device = token.and_then(|t| t.serial_number().cloned()).or_else(from_source).ok_or(Refusal::DeviceRequired)?;
    let facts = DeviceFacts::decide(token, stated, &device);
    if let Some(stated) = stated
        && !stated.is_consistent_with(&device, &facts)
    {
        return Err(Refusal::DeviceMismatch(if token.is_some() { "the enrollment token" } else { "the CSR" }));
    }
    // A commonName may be a host name, say; a serialNumber can only mean the device.
    match in_csr {
        Some((id, CsrField::SerialNumber)) if id != device => Err(Refusal::DeviceMismatch("the CSR")),
        _ => Ok((device, facts)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CsrField {
    SerialNumber,
    CommonName,
}

/// The device that the CSR names, where the profile lets it: by serialNumber, else by commonName.
fn csr_device(
    profile: &CertificateProfile,
    csr: &CertificationRequest,
) -> Result<Option<(DeviceId, CsrField)>, Refusal> {
    if !profile.device_id_from().contains(&DeviceIdSource::Csr) {
        return Ok(None);
    }
    if let Some(serial) = csr.serial_number() {
        return DeviceId::new(serial).map(|id| Some((id, CsrField::SerialNumber))).map_err(Refusal::CsrDeviceId);
    }
    // A commonName that is no identifier names no device; that is not the CSR's mistake.
    Ok(csr.common_name().and_then(|cn| DeviceId::new(cn).ok()).map(|id| (id, CsrField::CommonName)))
}

pub(crate) fn facts_for_names(tenant: &TenantId, device: &DeviceId, facts: &DeviceFacts) -> Facts {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    Facts {
        device_id: Some(device.clone()),
        device_serial_number: facts.serial_number().map(|s| s.as_str().to_owned()),
        device_manufacturer: text(facts.manufacturer()),
        device_model: text(facts.model()),
        ..Facts::of_tenant(tenant.clone())
    }
}

fn requester_text(requester: &Requester, result: Option<&AttestationResult>) -> String {
    match requester {
        Requester::Principal { id, .. } => format!("principal:{id}"),
        Requester::Device { id } => format!("device:{id}"),
        Requester::Token { id, .. } => format!("token:{id}"),
        Requester::Attestation => {
            format!("attestation:{}", result.map(|r| hex::encode(r.device_anchor)).unwrap_or_default())
        }
    }
}

pub(crate) fn summary(result: &AttestationResult, verdict: &Verdict) -> AttestationSummary {
    AttestationSummary {
        format: result.format,
        claims: result.claims.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        evidence_sha256: result.evidence_sha256,
        trust_anchor: result.trust.first().map(|t| t.anchor_name.clone()).unwrap_or_default(),
        policy_sha256: verdict.policy_sha256,
    }
}

#[cfg(test)]
pub(crate) mod tests;
