//! EnrollmentService: from a request to an authorised issuance. What decides is in the `enrollment` room; here the
//! wire's parts are parsed and the parties are looked up.

use crate::{
    access::Role,
    attest,
    ca::{Ca, LoadedProfile},
    convert,
    error::Failure,
    identity::{Admitted, Peer},
    issuance::{self, Authorised, Issued},
    request,
};
use ca_core::{
    csr::CertificationRequest,
    id::{IdempotencyKey, ProfileName, TenantId},
};
use enrollment::{
    attestation::{AttestationResult, policy::Verdict},
    authorise::{self, AttestationSummary, DeviceFacts, EnrollmentRequest, Requester},
    renewal::{self, Current, RenewalRequest},
};
use proto::v1::{self, enrollment_service_server::EnrollmentService};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use store::{
    AttestationRecord, CertificateEntry, CertificateState, Confirm, ConfirmCause, ExistingDevice, Holder,
    RequestOutcome, TokenEntry,
};
use tonic::{Code, Request, Response, Status};

/// The service.
pub struct Enrollment {
    /// The authority.
    pub ca: Arc<Ca>,
}

/// A caller with what authorises it, and the name under which the journal keeps its requests.
struct Caller {
    tenant: TenantId,
    requester: Requester,
    /// Known before any evidence is looked at, so that a retry is recognised first.
    text: String,
    token_id: Option<String>,
}

impl Enrollment {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<v1::EnrollResponse, Failure> {
        let peer = request::peer(&self.ca, &request)?;
        let mut wanted = request.into_inner();
        let idempotency_key = request::idempotency_key(&std::mem::take(&mut wanted.idempotency_key))?;
        if wanted.profile.is_empty() {
            "tls-client".clone_into(&mut wanted.profile);
        }
        // Evidence is not part of the request's identity: a device that repeats it after a lost answer makes new one.
        let evidence = wanted.evidence.take();
        let profile_name: ProfileName = request::id("profile", &wanted.profile)?;
        let csr = CertificationRequest::parse(&wanted.csr)?;
        let caller = self.caller(&peer, &wanted, &csr, evidence.is_some())?;
        wanted.tenant = caller.tenant.to_string();
        let request_sha256 = request::digest("Enroll", &wanted);
        if let Some(issued) = self.replay(&caller.tenant, &caller.text, &idempotency_key, request_sha256).await? {
            return enrolled(&self.ca, &issued);
        }
        let profile = self.ca.profile(&profile_name)?;
        let device = wanted.device.as_ref().map(facts).transpose()?;
        let appraised =
            attest::appraise(&self.ca, &peer, &caller.tenant, &profile_name, &csr, evidence.as_ref(), profile)?;
        let facts = EnrollmentRequest {
            tenant: caller.tenant.clone(),
            csr: &csr,
            device,
            attestation: appraised.as_ref().map(|(result, _)| result),
        };
        let verdict = appraised.as_ref().map(|(_, verdict)| verdict);
        let decided = authorise::authorise(&profile.profile, &caller.requester, &facts, verdict)
            .map_err(|refusal| attest::refused(&refusal))?;
        let holder = Holder::Device {
            id: decided.device,
            manufacturer: decided.facts.manufacturer().to_owned(),
            model: decided.facts.model().to_owned(),
            serial_number: decided.facts.serial_number().map(ToString::to_string).unwrap_or_default(),
        };
        let authorised = Authorised {
            tenant: caller.tenant,
            profile: profile_name,
            public_key: csr.public_key().clone(),
            names: decided.names,
            holder,
            new_principal: false,
            existing: existing(&caller.requester),
            requester: caller.text,
            idempotency_key,
            request_sha256,
            token_id: caller.token_id,
            anchor: decided.anchor,
            attestation: decided.attestation.map(record),
            replaces: None,
        };
        enrolled(&self.ca, &issuance::issue(&self.ca, authorised).await?)
    }

    /// Who asks, and in which tenant.
    fn caller(
        &self,
        peer: &Peer,
        wanted: &v1::EnrollRequest,
        csr: &CertificationRequest,
        has_evidence: bool,
    ) -> Result<Caller, Failure> {
        match peer {
            Peer::Principal { id, role, .. } => {
                if !wanted.enrollment_token.is_empty() {
                    return Err(Failure::field(
                        "enrollment_token",
                        "INVALID_FIELD",
                        "an enrollment token is for callers without a client certificate",
                    ));
                }
                let tenant = request::tenant(&self.ca, peer, &wanted.tenant)?;
                let requester = Requester::Principal { id: id.clone(), role: principal_role(*role)? };
                Ok(Caller { tenant, requester, text: peer.requester(), token_id: None })
            }
            Peer::Device { .. } => Err(Failure::denied("ROLE_NOT_ALLOWED", "a device renews; it does not enroll")),
            Peer::Anonymous if !wanted.enrollment_token.is_empty() => self.bearer(wanted),
            Peer::Anonymous if has_evidence => {
                let tenant = request::tenant(&self.ca, peer, &wanted.tenant)?;
                let text = format!("attestation:{}", hex::encode(csr.public_key().spki_sha256()));
                Ok(Caller { tenant, requester: Requester::Attestation, text, token_id: None })
            }
            Peer::Anonymous => Err(Failure::new(
                Code::Unauthenticated,
                "NOT_AUTHORISED",
                "to enroll, use a station's client certificate, an enrollment token, or attestation evidence",
            )),
        }
    }

    fn bearer(&self, wanted: &v1::EnrollRequest) -> Result<Caller, Failure> {
        // "swt_" and 64 digits; anything longer is none of ours.
        let secret = request::text("enrollment_token", &wanted.enrollment_token, 128)?;
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let unknown = || Failure::from(store::StoreError::TokenUnknown);
        let token: TokenEntry = self.ca.store.token_by_secret(&hash)?.ok_or_else(unknown)?;
        if !wanted.tenant.is_empty() && wanted.tenant != token.tenant.as_str() {
            return Err(unknown());
        }
        let device = token.device.as_ref().map(|d| DeviceFacts::new(&d.manufacturer, &d.model, &d.serial_number));
        let device = device.transpose().map_err(|refusal| attest::refused(&refusal))?;
        Ok(Caller {
            text: format!("token:{}", token.token_id),
            requester: Requester::Token { id: token.token_id.clone(), profile: token.profile, device },
            token_id: Some(token.token_id),
            tenant: token.tenant,
        })
    }

    /// What this very request got before.
    async fn replay(
        &self,
        tenant: &TenantId,
        requester: &str,
        key: &IdempotencyKey,
        request_sha256: [u8; 32],
    ) -> Result<Option<Issued>, Failure> {
        let Some(recorded) = self.ca.store.request(tenant, requester, key)? else { return Ok(None) };
        let RequestOutcome::Issuance(issuer, serial) = recorded.outcome else {
            return Err(store::StoreError::IdempotencyConflict.into());
        };
        if recorded.request_sha256 != request_sha256 {
            return Err(store::StoreError::IdempotencyConflict.into());
        }
        let entry = self.ca.store.certificate(&issuer, &serial)?.ok_or_else(|| Failure::not_found("certificate"))?;
        issuance::replay(&self.ca, entry).await.map(Some)
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<v1::RenewResponse, Failure> {
        let peer = request::peer(&self.ca, &request)?;
        let tenant = request::own_tenant(&peer)?;
        let current = peer.certificate().cloned().ok_or_else(|| Failure::not_found("certificate"))?;
        let mut wanted = request.into_inner();
        let idempotency_key = request::idempotency_key(&std::mem::take(&mut wanted.idempotency_key))?;
        let evidence = wanted.evidence.take();
        let csr = CertificationRequest::parse(&wanted.csr)?;
        let request_sha256 = request::digest("Renew", &wanted);
        let issued = match self.replay(&tenant, &peer.requester(), &idempotency_key, request_sha256).await? {
            Some(issued) => issued,
            None => {
                let profile = self.ca.profile(&current.profile)?;
                let appraised =
                    attest::appraise(&self.ca, &peer, &tenant, &current.profile, &csr, evidence.as_ref(), profile)?;
                let renewal = decide_renewal(&self.ca, &tenant, &current, &csr, appraised.as_ref(), profile)?;
                let authorised = Authorised {
                    tenant,
                    profile: current.profile.clone(),
                    public_key: csr.public_key().clone(),
                    names: renewal.names,
                    holder: current.holder.clone(),
                    new_principal: false,
                    existing: ExistingDevice::Allow,
                    requester: peer.requester(),
                    idempotency_key,
                    request_sha256,
                    token_id: None,
                    anchor: renewal.anchor,
                    attestation: renewal.attestation.map(record),
                    replaces: Some((current.issuer.clone(), current.serial.clone())),
                };
                issuance::issue(&self.ca, authorised).await?
            }
        };
        let convert::WithChain { certificate, chain, pem } = convert::with_chain(&self.ca, &issued.entry)?;
        Ok(v1::RenewResponse { certificate: Some(certificate), chain, pem, replayed: issued.replayed })
    }

    async fn confirm(
        &self,
        request: Request<v1::ConfirmInstalledRequest>,
    ) -> Result<v1::ConfirmInstalledResponse, Failure> {
        let peer = request::peer(&self.ca, &request)?;
        let tenant = request::own_tenant(&peer)?;
        let mut wanted = request.into_inner();
        let idempotency_key = request::idempotency_key(&std::mem::take(&mut wanted.idempotency_key))?;
        let entry = request::certificate(&self.ca, &tenant, wanted.r#ref.as_ref())?;
        let own = peer.certificate().is_some_and(|c| same_holder(&c.holder, &entry.holder));
        if !own && entry.requester != peer.requester() {
            return Err(Failure::not_found("certificate"));
        }
        if wanted.certificate_sha256 != issuance::certificate(&entry)?.sha256() {
            return Err(Failure::field(
                "certificate_sha256",
                "WRONG_CERTIFICATE",
                "this is not the hash of that certificate: what the device holds is not what was issued",
            ));
        }
        let confirmed = self
            .ca
            .commit(Confirm {
                tenant,
                issuer: entry.issuer,
                serial: entry.serial,
                by: peer.requester(),
                idempotency_key: Some(idempotency_key),
                request_sha256: request::digest("ConfirmInstalled", &wanted),
                cause: ConfirmCause::Confirmed,
            })
            .await?;
        Ok(v1::ConfirmInstalledResponse { certificate: Some(convert::certificate(&confirmed)?) })
    }
}

fn same_holder(a: &Holder, b: &Holder) -> bool {
    match (a, b) {
        (Holder::Device { id: a, .. }, Holder::Device { id: b, .. }) => a == b,
        (Holder::Principal { id: a, .. }, Holder::Principal { id: b, .. }) => a == b,
        _ => false,
    }
}

/// Whoever bears a token that names no device must not take over a device that is in use.
fn existing(requester: &Requester) -> ExistingDevice {
    match requester {
        Requester::Token { device, .. } if device.as_ref().is_none_or(|d| d.serial_number().is_none()) => {
            ExistingDevice::Refuse
        }
        _ => ExistingDevice::Allow,
    }
}

fn principal_role(role: Role) -> Result<authorise::Role, Failure> {
    match role {
        Role::Admin => Ok(authorise::Role::Admin),
        Role::Operator => Ok(authorise::Role::Operator),
        Role::Station => Ok(authorise::Role::Station),
        Role::Auditor => Ok(authorise::Role::Auditor),
        Role::Device | Role::Anonymous => Err(Failure::denied("ROLE_NOT_ALLOWED", "this role is no principal's")),
    }
}

fn facts(device: &v1::DeviceIdentity) -> Result<DeviceFacts, Failure> {
    DeviceFacts::new(&device.manufacturer, &device.model, &device.serial_number)
        .map_err(|refusal| attest::refused(&refusal))
}

fn record(summary: AttestationSummary) -> AttestationRecord {
    AttestationRecord {
        format: summary.format.to_string(),
        claims: summary.claims.into_iter().collect(),
        evidence_sha256: summary.evidence_sha256,
        trust_anchor: summary.trust_anchor,
    }
}

fn decide_renewal(
    ca: &Ca,
    tenant: &TenantId,
    current: &CertificateEntry,
    csr: &CertificationRequest,
    appraised: Option<&(AttestationResult, Verdict)>,
    profile: &LoadedProfile,
) -> Result<renewal::Renewal, Failure> {
    let refused = |refusal: authorise::Refusal| attest::refused(&refusal);
    let anchor = match &current.holder {
        Holder::Device { id, .. } => ca.store.device(tenant, id)?.and_then(|d| d.anchor_sha256),
        Holder::Principal { .. } => None,
    };
    let holder = match &current.holder {
        Holder::Device { id, manufacturer, model, serial_number } => renewal::Holder::Device {
            id: id.clone(),
            facts: DeviceFacts::new(manufacturer, model, serial_number).map_err(refused)?,
        },
        Holder::Principal { id, .. } => renewal::Holder::Principal(id.clone()),
    };
    let certificate = issuance::certificate(current)?;
    let current = Current {
        certificate: &certificate,
        holder: &holder,
        profile: &current.profile,
        revoked: current.state() == CertificateState::Revoked,
        anchor,
        csr: None,
    };
    let request = RenewalRequest {
        tenant: tenant.clone(),
        requester: &holder,
        csr,
        attestation: appraised.map(|(result, _)| result),
        now: ca.now(),
    };
    renewal::authorise(&profile.profile, &current, &request, appraised.map(|(_, verdict)| verdict)).map_err(refused)
}

fn enrolled(ca: &Ca, issued: &Issued) -> Result<v1::EnrollResponse, Failure> {
    let convert::WithChain { certificate, chain, pem } = convert::with_chain(ca, &issued.entry)?;
    Ok(v1::EnrollResponse { certificate: Some(certificate), chain, pem, replayed: issued.replayed })
}

#[tonic::async_trait]
impl EnrollmentService for Enrollment {
    async fn begin_attestation(
        &self,
        request: Request<v1::BeginAttestationRequest>,
    ) -> Result<Response<v1::BeginAttestationResponse>, Status> {
        let address = request.extensions().get::<Admitted>().and_then(|a| a.address);
        let answer = request::peer(&self.ca, &request)
            .and_then(|peer| attest::begin(&self.ca, &peer, address, request.get_ref()));
        answer.map(Response::new).map_err(|f| f.into_status("BeginAttestation"))
    }
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        self.enroll(request).await.map(Response::new).map_err(|f| f.into_status("Enroll"))
    }
    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        self.renew(request).await.map(Response::new).map_err(|f| f.into_status("Renew"))
    }
    async fn confirm_installed(
        &self,
        request: Request<v1::ConfirmInstalledRequest>,
    ) -> Result<Response<v1::ConfirmInstalledResponse>, Status> {
        self.confirm(request).await.map(Response::new).map_err(|f| f.into_status("ConfirmInstalled"))
    }
}
