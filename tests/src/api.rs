//! The gRPC API as a client uses it.

use crate::device::DeviceKey;
use anyhow::{Context, Result, ensure};
use proto::v1::{
    Certificate, CertificateRef, CertificateState, ConfirmInstalledRequest, CreateEnrollmentTokenRequest,
    CreatePrincipalRequest, DeviceIdentity, EnrollRequest, EnrollResponse, GetCertificateRequest,
    GetCertificateResponse, GetStatusRequest, GetStatusResponse, ListCertificatesRequest, RenewRequest, RenewResponse,
    RevocationReason, RevokeRequest, RevokeResponse, Role, access_service_client::AccessServiceClient,
    authority_service_client::AuthorityServiceClient, certificate_service_client::CertificateServiceClient,
    enrollment_service_client::EnrollmentServiceClient, revocation_service_client::RevocationServiceClient,
    revoke_request::Target,
};
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};
use tonic::{
    Code, Status,
    transport::{Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt;

/// A client certificate with its key.
#[derive(Clone)]
pub struct Credential {
    /// The chain, PEM, leaf first.
    pub certificate: String,
    /// The private key, PEM.
    pub key: String,
}

/// Opens one connection.
///
/// # Errors
/// TCP or TLS fails. A client certificate that is refused shows only at the first call (TLS 1.3).
pub async fn connect(address: &str, roots: &str, credential: Option<&Credential>) -> Result<Channel> {
    let mut tls = ClientTlsConfig::new().ca_certificate(tonic::transport::Certificate::from_pem(roots));
    if let Some(c) = credential {
        tls = tls.identity(Identity::from_pem(&c.certificate, &c.key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?
        .tls_config(tls)?
        .connect_timeout(Duration::from_secs(10))
        .timeout(Duration::from_secs(30));
    // The endpoint's own limit ends with TCP; a service that accepts and then says nothing must fail the test too.
    Ok(tokio::time::timeout(Duration::from_secs(20), endpoint.connect()).await.context("no TLS handshake")??)
}

/// A new idempotency key.
pub fn fresh() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// One peer's connection with every service on it.
#[derive(Clone, Debug)]
pub struct Api {
    /// The connection itself.
    pub channel: Channel,
    /// EnrollmentService.
    pub enrollment: EnrollmentServiceClient<Channel>,
    /// CertificateService.
    pub certificates: CertificateServiceClient<Channel>,
    /// RevocationService.
    pub revocation: RevocationServiceClient<Channel>,
    /// AuthorityService.
    pub authority: AuthorityServiceClient<Channel>,
    /// AccessService.
    pub access: AccessServiceClient<Channel>,
}

impl Api {
    /// On an open connection.
    pub fn new(channel: Channel) -> Self {
        Self {
            enrollment: EnrollmentServiceClient::new(channel.clone()),
            certificates: CertificateServiceClient::new(channel.clone()),
            revocation: RevocationServiceClient::new(channel.clone()),
            authority: AuthorityServiceClient::new(channel.clone()),
            access: AccessServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// Enrolls a device as a station does, under `tls-client`.
    ///
    /// # Errors
    /// The service's status.
    pub async fn enroll(&mut self, key: &DeviceKey, serial: &str) -> Result<EnrollResponse> {
        let request = station_request(key, serial)?;
        Ok(self.enrollment.enroll(request).await?.into_inner())
    }

    /// Renews the certificate that this connection is authenticated with.
    ///
    /// # Errors
    /// The service's status.
    pub async fn renew(&mut self, key: &DeviceKey) -> Result<RenewResponse> {
        let request = RenewRequest { idempotency_key: fresh(), csr: key.csr("ignored")?, evidence: None };
        Ok(self.enrollment.renew(request).await?.into_inner())
    }

    /// Confirms that a certificate is installed.
    ///
    /// # Errors
    /// The service's status.
    pub async fn confirm(&mut self, certificate: &Certificate) -> Result<Certificate> {
        let request = ConfirmInstalledRequest {
            idempotency_key: fresh(),
            r#ref: certificate.r#ref.clone(),
            certificate_sha256: Sha256::digest(&certificate.der).to_vec(),
        };
        let answer = self.enrollment.confirm_installed(request).await?.into_inner();
        answer.certificate.ok_or_else(|| anyhow::anyhow!("no certificate in the answer"))
    }

    /// Revokes one certificate.
    ///
    /// # Errors
    /// The service's status.
    pub async fn revoke(&mut self, certificate: &Certificate, reason: RevocationReason) -> Result<RevokeResponse> {
        let request = RevokeRequest {
            idempotency_key: fresh(),
            target: certificate.r#ref.clone().map(Target::Ref),
            reason: reason.into(),
            ..Default::default()
        };
        Ok(self.revocation.revoke(request).await?.into_inner())
    }

    /// Reads one certificate.
    ///
    /// # Errors
    /// The service's status.
    pub async fn get(&mut self, reference: Option<CertificateRef>) -> Result<GetCertificateResponse, Status> {
        let request = GetCertificateRequest { r#ref: reference };
        Ok(self.certificates.get_certificate(request).await?.into_inner())
    }

    /// Where a certificate stands.
    ///
    /// # Errors
    /// The service's status.
    pub async fn state(&mut self, certificate: &Certificate) -> Result<CertificateState> {
        let answer = self.get(certificate.r#ref.clone()).await?;
        let state = answer.certificate.map(|c| c.state()).unwrap_or_default();
        ensure!(state != CertificateState::Unspecified, "no state");
        Ok(state)
    }

    /// Reads one certificate's status.
    ///
    /// # Errors
    /// The service's status.
    pub async fn status(&mut self, certificate: &Certificate) -> Result<GetStatusResponse> {
        let request = GetStatusRequest { r#ref: certificate.r#ref.clone() };
        Ok(self.revocation.get_status(request).await?.into_inner())
    }

    /// Waits until what is recorded of a certificate is on a published CRL, whoever waits for it.
    ///
    /// # Errors
    /// The service's status, or that it was not there after ten seconds.
    pub async fn until_on_crl(&mut self, certificate: &Certificate) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.status(certificate).await?.on_crl {
            ensure!(Instant::now() < end, "revoked, and not on the CRL after ten seconds");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Every certificate of the tenant, page by page.
    ///
    /// # Errors
    /// The service's status.
    pub async fn all_certificates(&mut self) -> Result<Vec<Certificate>> {
        let mut all = Vec::new();
        let mut request = ListCertificatesRequest { page_size: 500, ..Default::default() };
        loop {
            let page = self.certificates.list_certificates(request.clone()).await?.into_inner();
            all.extend(page.certificates);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Makes a one-time enrollment token for `tls-client`.
    ///
    /// # Errors
    /// The service's status.
    pub async fn token(&mut self, device: Option<&str>) -> Result<String> {
        let request = CreateEnrollmentTokenRequest {
            idempotency_key: fresh(),
            device: device.map(identity),
            ..Default::default()
        };
        Ok(self.access.create_enrollment_token(request).await?.into_inner().enrollment_token)
    }

    /// Makes a principal with its credential.
    ///
    /// # Errors
    /// The service's status.
    pub async fn principal(&mut self, id: &str, role: Role) -> Result<(Credential, Certificate)> {
        let key = DeviceKey::new()?;
        let request = CreatePrincipalRequest {
            idempotency_key: fresh(),
            principal_id: id.to_owned(),
            role: role.into(),
            csr: key.csr(id)?,
        };
        let answer = self.access.create_principal(request).await?.into_inner();
        let certificate = answer.certificate.ok_or_else(|| anyhow::anyhow!("no certificate in the answer"))?;
        Ok((Credential { certificate: answer.pem, key: key.pem() }, certificate))
    }
}

/// A device with a serial number.
pub fn identity(serial: &str) -> DeviceIdentity {
    DeviceIdentity {
        manufacturer: "Example".to_owned(),
        model: "Gateway 7".to_owned(),
        serial_number: serial.to_owned(),
    }
}

/// What a station sends.
///
/// # Errors
/// The CSR cannot be made.
pub fn station_request(key: &DeviceKey, serial: &str) -> Result<EnrollRequest> {
    Ok(EnrollRequest {
        idempotency_key: fresh(),
        csr: key.csr(serial)?,
        device: Some(identity(serial)),
        ..Default::default()
    })
}

/// The certificate of an answer.
///
/// # Errors
/// There is none.
pub fn issued(answer: &EnrollResponse) -> Result<Certificate> {
    answer.certificate.clone().ok_or_else(|| anyhow::anyhow!("no certificate in the answer"))
}

/// The credential that an enrolled device holds.
pub fn credential(pem: &str, key: &DeviceKey) -> Credential {
    Credential { certificate: pem.to_owned(), key: key.pem() }
}

/// A typed refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// ErrorInfo.reason.
    pub reason: String,
    /// The first field that BadRequest names, or empty.
    pub field: String,
    /// The sentence for people.
    pub message: String,
}

/// Reads a status' details.
pub fn refusal(status: &Status) -> Refusal {
    let details = status.get_error_details();
    Refusal {
        code: status.code(),
        reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
        field: details
            .bad_request()
            .and_then(|bad| bad.field_violations.first())
            .map(|violation| violation.field.clone())
            .unwrap_or_default(),
        message: status.message().to_owned(),
    }
}

/// The refusal inside an error of this crate.
///
/// # Errors
/// The call succeeded, or failed otherwise.
pub fn refused<T>(result: Result<T>) -> Result<Refusal> {
    match result {
        Ok(_) => anyhow::bail!("it was not refused"),
        Err(error) => match error.downcast_ref::<Status>() {
            Some(status) => Ok(refusal(status)),
            None => Err(error),
        },
    }
}
