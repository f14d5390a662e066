//! What the device says to the server, and what it does with the answer.

use super::{
    directory::{Directory, random_key},
    key::DeviceKey,
    record::{Installed, PendingRequest, RequestKind},
    tpm::{TpmAddress, TpmError, attestation::Attestation},
};
use crate::{
    connection::Target,
    error::{Exit, Problem},
};
use anyhow::Context;
use ca_core::{
    certificate::Certificate,
    id::{ProfileName, TenantId},
};
use enrollment::attestation::binding::{Binding, SessionId};
use proto::v1::{
    self, BeginAttestationRequest, CertificateRef, ConfirmInstalledRequest, EnrollRequest, Evidence, RenewRequest,
    begin_attestation_request::Hello, begin_attestation_response::Challenge,
    enrollment_service_client::EnrollmentServiceClient, evidence::Body,
};
use sha2::{Digest, Sha256};
use tonic::{Code, Status, transport::Channel};

/// How a connection is made; the tests have their own way.
pub trait Connect: AsyncFn(&Target) -> anyhow::Result<Channel> {}
impl<T: AsyncFn(&Target) -> anyhow::Result<Channel>> Connect for T {}

/// What the command line adds to a request that may have been begun by an earlier run.
#[derive(Clone, Debug, Default)]
pub struct Means {
    /// The enrollment token.
    pub token: Option<String>,
    /// The TPM, where it differs from the one in the key file.
    pub tpm: Option<TpmAddress>,
}

/// Sends the request on its way, and installs the certificate that it gets.
///
/// # Errors
/// The server's, and those of the TPM and of the files. After an error that may pass, the request stays on its way.
pub async fn submit(
    directory: &mut Directory,
    request: &PendingRequest,
    means: &Means,
    connect: &impl Connect,
) -> anyhow::Result<()> {
    let key = directory.next_key(request.key, means.tpm.as_ref())?;
    let identity = match request.kind {
        RequestKind::Enroll => None,
        RequestKind::Renew => {
            let (key, chain) = directory.current(means.tpm.as_ref())?;
            Some(key.certified(chain)?)
        }
    };
    let target = Target { server: directory.enrolled()?.server.clone(), trust: directory.trust()?, identity };
    let mut client = EnrollmentServiceClient::new(connect(&target).await?);
    match ask(&mut client, directory, request, &key, means).await {
        Ok((certificate, chain)) => install(directory, &key, &certificate, &chain),
        Err(error) => {
            if error.downcast_ref::<Status>().is_some_and(is_final) {
                directory.abandon()?;
            }
            Err(error)
        }
    }
}

/// Whether repeating the same request can never give a certificate.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::OutOfRange
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::PermissionDenied
            // The service has closed this request for good and asks for another idempotency key.
            | Code::Aborted
    )
}

async fn ask(
    client: &mut EnrollmentServiceClient<Channel>,
    directory: &Directory,
    request: &PendingRequest,
    key: &DeviceKey,
    means: &Means,
) -> anyhow::Result<(v1::Certificate, Vec<Vec<u8>>)> {
    let record = directory.enrolled()?;
    let evidence = match key {
        // A session is good for one request, so each attempt has its own.
        DeviceKey::Tpm(_) if record.attested => Some(evidence(client, key, &record.profile, &record.tenant).await?),
        _ => None,
    };
    let (certificate, chain) = match request.kind {
        RequestKind::Enroll => {
            let request = EnrollRequest {
                idempotency_key: request.idempotency_key.clone(),
                tenant: record.tenant.to_string(),
                profile: record.profile.to_string(),
                csr: request.csr.clone(),
                device: record.device.clone().map(Into::into),
                enrollment_token: means.token.clone().unwrap_or_default(),
                evidence,
            };
            let answer = client.enroll(request).await?.into_inner();
            (answer.certificate, answer.chain)
        }
        RequestKind::Renew => {
            let request =
                RenewRequest { idempotency_key: request.idempotency_key.clone(), csr: request.csr.clone(), evidence };
            let answer = client.renew(request).await?.into_inner();
            (answer.certificate, answer.chain)
        }
    };
    Ok((certificate.context("the server's answer has no certificate")?, chain))
}

async fn evidence(
    client: &mut EnrollmentServiceClient<Channel>,
    key: &DeviceKey,
    profile: &ProfileName,
    tenant: &TenantId,
) -> anyhow::Result<Evidence> {
    let DeviceKey::Tpm(subject) = key else { anyhow::bail!("only a key in the TPM can be attested") };
    let attestation = Attestation::begin(subject.address())?;
    let csr_spki_sha256: [u8; 32] = Sha256::digest(key.spki_der()).into();
    let request = BeginAttestationRequest {
        idempotency_key: random_key(),
        tenant: tenant.to_string(),
        profile: profile.to_string(),
        csr_spki_sha256: csr_spki_sha256.to_vec(),
        hello: Some(Hello::Tpm2(attestation.hello())),
    };
    let begun = client.begin_attestation(request).await?.into_inner();
    let Some(Challenge::Tpm2(challenge)) = &begun.challenge else {
        anyhow::bail!("the server's challenge is not one for a TPM 2.0");
    };
    let session =
        SessionId::from_slice(&begun.session_id).context("the server's session identifier has not 16 octets")?;
    let nonce = begun.nonce.as_slice().try_into().context("the server's nonce has not 32 octets")?;
    // Computed here, so that a server cannot have something else attested.
    let binding = Binding::new(nonce, &session, &csr_spki_sha256, profile, tenant);
    if begun.binding != binding.0 {
        return Err(TpmError::Binding.into());
    }
    let proof = attestation.prove(challenge, &session, &binding, subject)?;
    Ok(Evidence { session_id: begun.session_id, body: Some(Body::Tpm2(proof)) })
}

/// Whether the TPM can be attested; without a certificate of its endorsement key it cannot.
///
/// # Errors
/// Those of the TPM.
pub fn can_attest(tpm: &TpmAddress) -> Result<bool, TpmError> {
    match Attestation::begin(tpm) {
        Ok(_) => Ok(true),
        Err(TpmError::NoEndorsementCertificate) => Ok(false),
        Err(error) => Err(error),
    }
}

fn install(
    directory: &mut Directory,
    key: &DeviceKey,
    certificate: &v1::Certificate,
    chain: &[Vec<u8>],
) -> anyhow::Result<()> {
    let wrong = |what: String| {
        Problem::new(
            Exit::Refused,
            format!("the server's answer is not installed: {what}"),
            "Ask the server's operator.",
        )
    };
    let parsed = Certificate::from_der(&certificate.der).map_err(|error| wrong(error.to_string()))?;
    if parsed.public_key().spki_der() != key.spki_der() {
        return Err(wrong("the certificate is for another key".to_owned()).into());
    }
    // The chain is checked as far as it goes; its last certificate is signed by a root that may not be ours to know.
    let mut below = parsed;
    for der in chain {
        let above = Certificate::from_der(der).map_err(|error| wrong(error.to_string()))?;
        below
            .verify_signature(above.public_key())
            .map_err(|_| wrong(format!("{} did not sign {}", above.subject(), below.subject())))?;
        below = above;
    }
    let reference = certificate.r#ref.clone().unwrap_or_default();
    let installed =
        Installed { issuer_id: reference.issuer_id, serial_number: reference.serial_number, key: key.kind() };
    directory.install(&certificate.der, chain, installed)
}

/// Tells the server that the certificate is in place, over a connection that is authenticated with it.
///
/// # Errors
/// The server's; the confirmation stays open and is made by the next run.
pub async fn confirm(directory: &mut Directory, means: &Means, connect: &impl Connect) -> anyhow::Result<()> {
    let record = directory.enrolled()?.clone();
    let Some(idempotency_key) = record.confirmation else { return Ok(()) };
    let installed = directory.installed()?.clone();
    let (key, chain) = directory.current(means.tpm.as_ref())?;
    let identity = Some(key.certified(chain)?);
    let target = Target { server: record.server, trust: directory.trust()?, identity };
    let mut client = EnrollmentServiceClient::new(connect(&target).await?);
    let request = ConfirmInstalledRequest {
        idempotency_key,
        r#ref: Some(CertificateRef { issuer_id: installed.issuer_id, serial_number: installed.serial_number }),
        certificate_sha256: directory.certificate()?.sha256().to_vec(),
    };
    client.confirm_installed(request).await?;
    directory.confirmed()
}
