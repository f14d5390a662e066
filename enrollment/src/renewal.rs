//! Renewal: the successor of a certificate, for its holder, with its names, for a new key.

use crate::{
    attestation::{AttestationResult, policy::Verdict},
    authorise::{AttestationSummary, DeviceFacts, Refusal, check_attestation, facts_for_names, summary},
};
use ca_core::{
    certificate::Certificate,
    csr::CertificationRequest,
    id::{DeviceId, PrincipalId, ProfileName, TenantId},
    issue::{Facts, Names, select_names},
    profile::CertificateProfile,
    time::UnixTime,
};

/// Who holds a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A device.
    Device {
        /// Which.
        id: DeviceId,
        /// What is known about it.
        facts: DeviceFacts,
    },
    /// A principal.
    Principal(PrincipalId),
}

impl Holder {
    /// Whether both are the same device or the same principal.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Device { id, .. }, Self::Device { id: other, .. }) => id == other,
            (Self::Principal(id), Self::Principal(other)) => id == other,
            _ => false,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Device { id, .. } => format!("device:{id}"),
            Self::Principal(id) => format!("principal:{id}"),
        }
    }
}

/// The certificate to renew, with its record.
#[derive(Clone, Debug)]
pub struct Current<'a> {
    /// The certificate that the connection is authenticated with.
    pub certificate: &'a Certificate,
    /// Who holds it, by its record.
    pub holder: &'a Holder,
    /// The profile that it was issued under.
    pub profile: &'a ProfileName,
    /// Whether it is revoked.
    pub revoked: bool,
    /// The attestation anchor that the device is bound to, where there is one.
    pub anchor: Option<[u8; 32]>,
    /// The CSR that it was issued for, where it is known and the profile takes names from it.
    pub csr: Option<&'a CertificationRequest>,
}

/// A request for a successor.
#[derive(Clone, Debug)]
pub struct RenewalRequest<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// The requester, as the connection's certificate says.
    pub requester: &'a Holder,
    /// For the new key. Its subject and extensions are ignored.
    pub csr: &'a CertificationRequest,
    /// What the evidence established, where there was evidence.
    pub attestation: Option<&'a AttestationResult>,
    /// Now.
    pub now: UnixTime,
}

/// A renewal that may go ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Who holds the successor.
    pub holder: Holder,
    /// The values for its names.
    pub names: Names,
    /// Who asked: "device:..." or "principal:...".
    pub requester: String,
    /// The attestation anchor: the device's own, or that of the evidence where it had none.
    pub anchor: Option<[u8; 32]>,
    /// What the evidence established.
    pub attestation: Option<AttestationSummary>,
}

/// Decides about a renewal. `verdict` is the appraisal of `request.attestation`.
///
/// The successor has the predecessor's subject and subjectAltName, or there is none: a profile that would name the
/// holder differently today asks for a new enrollment. Names that once came from a CSR are carried over when the old
/// CSR is known or the new one asks for exactly the same.
///
/// # Errors
/// [`Refusal`] says what forbids it.
pub fn authorise(
    profile: &CertificateProfile,
    current: &Current<'_>,
    request: &RenewalRequest<'_>,
    verdict: Option<&Verdict>,
) -> Result<Renewal, Refusal> {
    if !current.holder.is(request.requester) || current.profile != profile.name() {
        return Err(Refusal::NotYours);
    }
    if current.revoked || !current.certificate.is_valid_at(request.now) {
        return Err(Refusal::NotUsable);
    }
    if !profile.renewable() {
        return Err(Refusal::NotRenewable);
    }
    if request.csr.public_key() == current.certificate.public_key() {
        return Err(Refusal::SameKey);
    }
    let attested = check_attestation(profile, request.csr, request.attestation, verdict)?;
    let shown = attested.map(|(result, _)| result.device_anchor);
    // Evidence of another TPM never passes, whether the profile demands evidence or not.
    if let (Some(bound), Some(shown)) = (current.anchor, shown)
        && bound != shown
    {
        return Err(Refusal::OtherAnchor);
    }
    // What was bound to hardware once does not come loose: a software key would inherit the device's standing.
    if current.anchor.is_some() && shown.is_none() {
        return Err(Refusal::AttestationRequired);
    }
    let facts = match current.holder {
        Holder::Device { id, facts } => facts_for_names(&request.tenant, id, facts),
        Holder::Principal(id) => Facts { principal_id: Some(id.clone()), ..Facts::of_tenant(request.tenant.clone()) },
    };
    let csrs = current.csr.into_iter().chain([request.csr]);
    let names = csrs
        .filter_map(|csr| select_names(profile, csr, facts.clone()).ok())
        .chain([Names::from_facts(facts.clone())])
        .find(|names| predecessor::has_these_names(current.certificate, profile, names))
        .ok_or(Refusal::NamesChanged)?;
    Ok(Renewal {
        requester: current.holder.text(),
        holder: current.holder.clone(),
        names,
        anchor: current.anchor.or(shown),
        attestation: attested.map(|(result, verdict)| summary(result, verdict)),
    })
}

mod predecessor;
#[cfg(test)]
mod tests;
