//! Challenge, evidence, result and policy (RFC 9334), between the wire and the `enrollment` room.

use crate::{
    ca::{Ca, LoadedProfile},
    convert,
    error::Failure,
    identity::Peer,
    request,
};
use ca_core::{
    csr::CertificationRequest,
    id::{ProfileName, TenantId},
};
use enrollment::{
    attestation::{
        AttestationResult, ChallengeBody, ChallengeContext, Evidence, EvidenceError, EvidenceVerifier, Hello,
        VerifyContext,
        binding::SessionId,
        policy::Verdict,
        session::{BeginRequest, CallerKey, Challenge, Fresh, SessionError},
    },
    authorise::Refusal,
    tpm2::verify::{Tpm2Evidence, Tpm2Hello, Tpm2Verifier},
};
use proto::v1::{self, begin_attestation_request, begin_attestation_response, evidence};
use rand::Rng;
use std::{net::IpAddr, time::Instant};
use tonic::Code;

/// What an enrollment may show: the result, and what the policy makes of it.
pub type Appraised = (AttestationResult, Verdict);

/// The one mapping from refusals to the edge. A stranger learns no detail about evidence; the log has it.
pub fn refused(refusal: &Refusal) -> Failure {
    if refusal.is_evidence() {
        tracing::warn!(reason = refusal.reason(), detail = %refusal, "evidence refused");
        return Failure::denied(refusal.public_reason(), refusal.public_message()).at("evidence");
    }
    let code = match refusal {
        Refusal::RoleNotAllowed
        | Refusal::ProfileNotAllowed
        | Refusal::TokenProfile
        | Refusal::AttestationRequired
        | Refusal::NotYours => Code::PermissionDenied,
        Refusal::NotRenewable | Refusal::NotUsable | Refusal::NamesChanged => Code::FailedPrecondition,
        _ => Code::InvalidArgument,
    };
    let failure = Failure::new(code, refusal.public_reason(), refusal.public_message());
    match refusal.field() {
        "" => failure,
        field => failure.at(field),
    }
}

fn session_failure(error: &SessionError) -> Failure {
    match error {
        SessionError::Full { .. } | SessionError::CallerFull { .. } => {
            let failure = Failure::new(Code::ResourceExhausted, "TOO_MANY_CHALLENGES", error.to_string());
            failure.retry_after(error.retry_after().unwrap_or_default())
        }
        SessionError::Conflict => store::StoreError::IdempotencyConflict.into(),
        other => Failure::internal(other),
    }
}

/// Sessions are counted by who asks; without a certificate that is the key that the challenge is for.
fn caller_key(peer: &Peer, tenant: &TenantId, spki_sha256: &[u8; 32]) -> CallerKey {
    match peer {
        Peer::Anonymous => CallerKey::new(&format!("anonymous:{tenant}:{}", hex::encode(spki_sha256))),
        known => CallerKey::new(&format!("{tenant}:{}", known.requester())),
    }
}

/// Opens a session.
///
/// # Errors
/// INVALID_ARGUMENT naming the field; RESOURCE_EXHAUSTED with a retry hint when too many are out.
pub fn begin(
    ca: &Ca,
    peer: &Peer,
    address: Option<IpAddr>,
    wanted: &v1::BeginAttestationRequest,
) -> Result<v1::BeginAttestationResponse, Failure> {
    let idempotency_key = request::idempotency_key(&wanted.idempotency_key)?;
    let tenant = request::tenant(ca, peer, &wanted.tenant)?;
    let profile: ProfileName = request::id("profile", &wanted.profile)?;
    ca.profile(&profile)?;
    let csr_spki_sha256: [u8; 32] = wanted
        .csr_spki_sha256
        .as_slice()
        .try_into()
        .map_err(|_| Failure::field("csr_spki_sha256", "INVALID_FIELD", "csr_spki_sha256 must have 32 octets"))?;
    let hello = match &wanted.hello {
        Some(begin_attestation_request::Hello::Tpm2(tpm)) => Tpm2Hello {
            ek_certificate: tpm.ek_certificate.clone(),
            ek_chain: tpm.ek_chain.clone(),
            ak_public: tpm.ak_public.clone(),
        },
        None => return Err(Failure::field("hello", "MISSING_FIELD", "say what the device can show: tpm2")),
    };
    let asked = BeginRequest {
        caller: caller_key(peer, &tenant, &csr_spki_sha256),
        tenant,
        profile,
        csr_spki_sha256,
        idempotency_key,
        hello_sha256: hello.sha256(),
    };
    let now = ca.now();
    // Looked up first, so that a repetition costs no public key operation; the lock is not held over one.
    if let Some(challenge) = ca.challenges().existing(&asked, now).map_err(|e| session_failure(&e))? {
        return Ok(response(challenge));
    }
    if let (Peer::Anonymous, Some(address)) = (peer, address) {
        ca.strangers.admit(address, Instant::now())?;
    }
    let mut random = |octets: &mut [u8]| rand::rng().fill_bytes(octets);
    let mut context = ChallengeContext { now, stores: &ca.trust, random: &mut random };
    let (body, state) = Tpm2Verifier.challenge(&Hello::Tpm2(hello), &mut context).map_err(|error| {
        tracing::warn!(%error, "hello refused");
        Failure::denied("ATTESTATION_FAILED", EvidenceError::PUBLIC).at("hello")
    })?;
    let fresh = Fresh { session_id: rand::random(), nonce: rand::random() };
    let challenge = ca.challenges().begin(asked, fresh, body, state, now).map_err(|e| session_failure(&e))?;
    Ok(response(challenge))
}

fn response(challenge: Challenge) -> v1::BeginAttestationResponse {
    let ChallengeBody::Tpm2(blob) = challenge.body;
    v1::BeginAttestationResponse {
        session_id: challenge.session_id.0.to_vec(),
        nonce: challenge.nonce.to_vec(),
        expires_at: Some(convert::timestamp(challenge.expires_at)),
        binding: challenge.binding.0.to_vec(),
        challenge: Some(begin_attestation_response::Challenge::Tpm2(v1::TpmCredentialChallenge {
            id_object: blob.id_object,
            encrypted_secret: blob.encrypted_secret,
        })),
    }
}

/// Judges the evidence of a request, where there is any. The session is used up before anything is looked at.
///
/// # Errors
/// PERMISSION_DENIED, reason ATTESTATION_FAILED, whatever was wrong with it.
pub fn appraise(
    ca: &Ca,
    peer: &Peer,
    tenant: &TenantId,
    profile_name: &ProfileName,
    csr: &CertificationRequest,
    evidence: Option<&v1::Evidence>,
    profile: &LoadedProfile,
) -> Result<Option<Appraised>, Failure> {
    let Some(evidence) = evidence else { return Ok(None) };
    let refuse = |refusal: Refusal| refused(&refusal);
    let id = SessionId(evidence.session_id.as_slice().try_into().map_err(|_| refuse(SessionError::Unknown.into()))?);
    let now = ca.now();
    let caller = caller_key(peer, tenant, &csr.public_key().spki_sha256());
    let session = ca.challenges().consume(&id, &caller, tenant, profile_name, now).map_err(|e| refuse(e.into()))?;
    let evidence = match &evidence.body {
        Some(evidence::Body::Tpm2(tpm)) => Evidence::Tpm2(Tpm2Evidence {
            activation_mac: tpm.activation_mac.clone(),
            subject_public: tpm.subject_public.clone(),
            certify_attest: tpm.certify_attest.clone(),
            certify_signature: tpm.certify_signature.clone(),
        }),
        None => return Err(refuse(EvidenceError::Format.into())),
    };
    let context = VerifyContext { now, stores: &ca.trust };
    let result = Tpm2Verifier.verify(&evidence, &session, &context).map_err(|e| refuse(e.into()))?;
    // No inventory of endorsement keys is kept yet, so no device is in it.
    let verdict = profile.attestation.evaluate(&result, &|_| false);
    Ok(Some((result, verdict)))
}
