//! AccessService: principals and one-time enrollment tokens.

use crate::{
    access::Role,
    bootstrap::PRINCIPAL_PROFILE,
    ca::Ca,
    convert,
    error::Failure,
    issuance::{self, Authorised},
    limits, request,
    request::page_token,
};
use ca_core::{
    csr::CertificationRequest,
    id::{IdempotencyKey, PrincipalId, ProfileName, TenantId},
    issue::{Facts, select_names},
    profile::EnrollBy,
};
use proto::v1::{self, access_service_server::AccessService};
use sha2::{Digest, Sha256};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::{CreateToken, DisablePrincipal, ExistingDevice, Holder, TokenDevice};
use tonic::{Code, Request, Response, Status};
use zeroize::Zeroizing;

/// The service.
pub struct Principals {
    /// The authority.
    pub ca: Arc<Ca>,
}

/// What a new principal needs.
pub struct NewPrincipal {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name.
    pub id: PrincipalId,
    /// Its role.
    pub role: Role,
    /// Its key, with proof of possession.
    pub csr: CertificationRequest,
    /// Who creates it.
    pub by: String,
    /// The caller's name for the request.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the normalised request.
    pub request_sha256: [u8; 32],
}

/// Creates a principal and issues its certificate, in one step: there is never one without the other's intent.
///
/// # Errors
/// ALREADY_EXISTS when the name is taken; what issuance says.
pub async fn create(ca: &Arc<Ca>, new: NewPrincipal) -> Result<issuance::Issued, Failure> {
    let name = ProfileName::new(PRINCIPAL_PROFILE).map_err(Failure::internal)?;
    let facts = Facts { principal_id: Some(new.id.clone()), ..Facts::of_tenant(new.tenant.clone()) };
    let names = select_names(&ca.profile(&name)?.profile, &new.csr, facts)?;
    let authorised = Authorised {
        tenant: new.tenant,
        profile: name,
        public_key: new.csr.public_key().clone(),
        names,
        holder: Holder::Principal { id: new.id, role: new.role.code() },
        new_principal: true,
        existing: ExistingDevice::Allow,
        requester: new.by,
        idempotency_key: new.idempotency_key,
        request_sha256: new.request_sha256,
        token_id: None,
        anchor: None,
        attestation: None,
        replaces: None,
    };
    issuance::issue(ca, authorised).await
}

/// What a new enrollment token is for.
pub struct NewToken {
    /// Its tenant.
    pub tenant: TenantId,
    /// The only profile that it opens.
    pub profile: ProfileName,
    /// The only device that it is for.
    pub device: Option<TokenDevice>,
    /// How long it lives.
    pub time_to_live: Duration,
    /// Who makes it.
    pub by: String,
    /// The caller's name for the request.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the normalised request.
    pub request_sha256: [u8; 32],
}

/// Makes an enrollment token; only the hash of its secret is stored.
///
/// # Errors
/// What the store says; FAILED_PRECONDITION when the request is a repetition whose secret is gone.
pub async fn create_token(ca: &Ca, new: NewToken) -> Result<(store::TokenEntry, Zeroizing<String>), Failure> {
    if !ca.profile(&new.profile)?.profile.enroll_by().contains(&EnrollBy::Token) {
        return Err(Failure::field(
            "profile",
            "PROFILE_NOT_ALLOWED",
            format!("the profile '{}' does not accept enrollment tokens", new.profile),
        ));
    }
    let secret = Zeroizing::new(format!("swt_{}", hex::encode(rand::random::<[u8; 32]>())));
    let (entry, replayed) = ca
        .commit(CreateToken {
            tenant: new.tenant,
            token_id: hex::encode(rand::random::<[u8; 8]>()),
            secret_sha256: Sha256::digest(secret.as_bytes()).into(),
            profile: new.profile,
            device: new.device,
            expires_at: ca.now().plus(new.time_to_live),
            by: new.by,
            idempotency_key: new.idempotency_key,
            request_sha256: new.request_sha256,
        })
        .await?;
    let mut secrets = ca.secrets();
    let now = Instant::now();
    secrets.retain(|_, (made, _)| now.duration_since(*made) < limits::SECRET_REPLAY);
    if !replayed {
        if secrets.len() < limits::SECRETS {
            secrets.insert(entry.token_id.clone(), (now, secret.clone()));
        }
        return Ok((entry, secret));
    }
    match secrets.get(&entry.token_id) {
        Some((_, secret)) => Ok((entry, secret.clone())),
        None => Err(Failure::new(
            Code::FailedPrecondition,
            "SECRET_GONE",
            "this token was made before and its secret is no longer kept; make another with a new idempotency key",
        )),
    }
}

/// A device identity from the wire, all parts optional.
///
/// # Errors
/// INVALID_ARGUMENT naming the field.
pub fn token_device(device: Option<&v1::DeviceIdentity>) -> Result<Option<TokenDevice>, Failure> {
    let Some(device) = device else { return Ok(None) };
    if !device.serial_number.is_empty() {
        request::id::<ca_core::id::DeviceId>("device.serial_number", &device.serial_number)?;
    }
    Ok(Some(TokenDevice {
        manufacturer: request::text("device.manufacturer", &device.manufacturer, 64)?,
        model: request::text("device.model", &device.model, 64)?,
        serial_number: device.serial_number.clone(),
    }))
}

impl Principals {
    async fn create(
        &self,
        request: Request<v1::CreatePrincipalRequest>,
    ) -> Result<v1::CreatePrincipalResponse, Failure> {
        let peer = request::peer(&self.ca, &request)?;
        let tenant = request::own_tenant(&peer)?;
        let mut wanted = request.into_inner();
        let idempotency_key = request::idempotency_key(&std::mem::take(&mut wanted.idempotency_key))?;
        let id: PrincipalId = request::id("principal_id", &wanted.principal_id)?;
        let role = u32::try_from(wanted.role).ok().and_then(Role::from_code).filter(|r| *r != Role::Device);
        let role = role.ok_or_else(|| {
            Failure::field("role", "INVALID_FIELD", "the role must be admin, operator, station or auditor")
        })?;
        let csr = CertificationRequest::parse(&wanted.csr)?;
        let new = NewPrincipal {
            tenant: tenant.clone(),
            id: id.clone(),
            role,
            csr,
            by: peer.requester(),
            idempotency_key,
            request_sha256: request::digest("CreatePrincipal", &wanted),
        };
        let issued = create(&self.ca, new).await?;
        let convert::WithChain { certificate, chain, pem } = convert::with_chain(&self.ca, &issued.entry)?;
        let principal = self.ca.store.principal(&tenant, &id)?.ok_or_else(|| Failure::not_found("principal"))?;
        Ok(v1::CreatePrincipalResponse {
            principal: Some(convert::principal(&principal)),
            certificate: Some(certificate),
            chain,
            pem,
        })
    }

    async fn disable(
        &self,
        request: Request<v1::DisablePrincipalRequest>,
    ) -> Result<v1::DisablePrincipalResponse, Failure> {
        let peer = request::peer(&self.ca, &request)?;
        let tenant = request::own_tenant(&peer)?;
        let mut wanted = request.into_inner();
        let idempotency_key = request::idempotency_key(&std::mem::take(&mut wanted.idempotency_key))?;
        let principal = self
            .ca
            .commit(DisablePrincipal {
                tenant,
                principal: request::id("principal_id", &wanted.principal_id)?,
                by: peer.requester(),
                idempotency_key,
                request_sha256: request::digest("DisablePrincipal", &wanted),
            })
            .await?;
        Ok(v1::DisablePrincipalResponse { principal: Some(convert::principal(&principal)) })
    }

    fn list(&self, request: Request<v1::ListPrincipalsRequest>) -> Result<v1::ListPrincipalsResponse, Failure> {
        let tenant = request::own_tenant(&request::peer(&self.ca, &request)?)?;
        let mut wanted = request.into_inner();
        let limit = request::page_size(wanted.page_size)?;
        let token = std::mem::take(&mut wanted.page_token);
        wanted.page_size = 0;
        let after = page_token::decode(&wanted, &token)?;
        let page = self.ca.store.principals(&tenant, after, limit)?;
        Ok(v1::ListPrincipalsResponse {
            // Role 0 holds the service's own certificates; nobody can use it.
            principals: page.items.iter().filter(|p| p.role != 0).map(convert::principal).collect(),
            next_page_token: page_token::encode(&wanted, page.next),
        })
    }

    async fn token(
        &self,
        request: Request<v1::CreateEnrollmentTokenRequest>,
    ) -> Result<v1::CreateEnrollmentTokenResponse, Failure> {
        let peer = request::peer(&self.ca, &request)?;
        let mut wanted = request.into_inner();
        let idempotency_key = request::idempotency_key(&std::mem::take(&mut wanted.idempotency_key))?;
        if wanted.profile.is_empty() {
            "tls-client".clone_into(&mut wanted.profile);
        }
        let new = NewToken {
            tenant: request::own_tenant(&peer)?,
            profile: request::id("profile", &wanted.profile)?,
            device: token_device(wanted.device.as_ref())?,
            time_to_live: time_to_live(wanted.time_to_live.as_ref())?,
            by: peer.requester(),
            idempotency_key,
            request_sha256: request::digest("CreateEnrollmentToken", &wanted),
        };
        let (entry, secret) = create_token(&self.ca, new).await?;
        Ok(v1::CreateEnrollmentTokenResponse {
            token_id: entry.token_id,
            enrollment_token: secret.to_string(),
            expires_at: Some(convert::timestamp(entry.expires_at)),
        })
    }
}

fn time_to_live(wanted: Option<&prost_types::Duration>) -> Result<Duration, Failure> {
    let Some(wanted) = wanted else { return Ok(limits::TOKEN_TTL) };
    let seconds = u64::try_from(wanted.seconds).unwrap_or_default();
    let range = limits::TOKEN_TTL_MIN..=limits::TOKEN_TTL_MAX;
    Some(Duration::from_secs(seconds)).filter(|d| range.contains(d)).ok_or_else(|| {
        Failure::field("time_to_live", "INVALID_FIELD", "time_to_live must lie between one minute and 30 days")
    })
}

#[tonic::async_trait]
impl AccessService for Principals {
    async fn create_principal(
        &self,
        request: Request<v1::CreatePrincipalRequest>,
    ) -> Result<Response<v1::CreatePrincipalResponse>, Status> {
        self.create(request).await.map(Response::new).map_err(|f| f.into_status("CreatePrincipal"))
    }
    async fn disable_principal(
        &self,
        request: Request<v1::DisablePrincipalRequest>,
    ) -> Result<Response<v1::DisablePrincipalResponse>, Status> {
        self.disable(request).await.map(Response::new).map_err(|f| f.into_status("DisablePrincipal"))
    }
    async fn list_principals(
        &self,
        request: Request<v1::ListPrincipalsRequest>,
    ) -> Result<Response<v1::ListPrincipalsResponse>, Status> {
        self.list(request).map(Response::new).map_err(|f| f.into_status("ListPrincipals"))
    }
    async fn create_enrollment_token(
        &self,
        request: Request<v1::CreateEnrollmentTokenRequest>,
    ) -> Result<Response<v1::CreateEnrollmentTokenResponse>, Status> {
        self.token(request).await.map(Response::new).map_err(|f| f.into_status("CreateEnrollmentToken"))
    }
}
