//! AuthorityService: issuers, trust anchors and profiles.

use crate::{
    ca::{Ca, LoadedIssuer, LoadedProfile},
    convert,
    error::Failure,
    request,
};
use ca_core::{
    id::{ProfileName, TenantId},
    issuer::IssuerState,
    profile::{AttestationPolicy, EnrollBy, Lifetime},
};
use proto::v1::{self, authority_service_server::AuthorityService};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service.
pub struct Authority {
    /// The authority.
    pub ca: Arc<Ca>,
}

impl Authority {
    fn issuers_of(&self, tenant: &TenantId) -> Vec<Arc<LoadedIssuer>> {
        self.ca.issuers.load().iter().filter(|i| i.issuer.tenant() == tenant).cloned().collect()
    }

    fn issuers(&self, request: &Request<v1::ListIssuersRequest>) -> Result<v1::ListIssuersResponse, Failure> {
        let tenant = request::own_tenant(&request::peer(&self.ca, request)?)?;
        Ok(v1::ListIssuersResponse { issuers: self.issuers_of(&tenant).iter().map(|i| self.issuer(i)).collect() })
    }

    fn issuer(&self, loaded: &LoadedIssuer) -> v1::Issuer {
        let issuer = &loaded.issuer;
        let crl = self.ca.publisher.current(issuer.id());
        let state = match issuer.state() {
            IssuerState::Staged => v1::IssuerState::Staged,
            IssuerState::Active => v1::IssuerState::Active,
            IssuerState::Draining => v1::IssuerState::Draining,
            IssuerState::Retired => v1::IssuerState::Retired,
        };
        v1::Issuer {
            issuer_id: issuer.id().to_string(),
            subject: issuer.certificate().subject().to_owned(),
            certificate: issuer.certificate().der().to_vec(),
            state: state.into(),
            subject_key_identifier: hex::encode(issuer.key_identifier()),
            key_algorithm: issuer.public_key().algorithm().to_string(),
            not_after: Some(convert::timestamp(issuer.certificate().not_after())),
            crl_url: issuer.urls().crl().to_owned(),
            ocsp_url: issuer.urls().ocsp().to_owned(),
            ca_issuers_url: issuer.urls().ca_issuers().to_owned(),
            crl_number: crl.as_ref().map(|c| c.number).unwrap_or_default(),
            crl_next_update: crl.map(|c| convert::timestamp(c.next_update)),
            signature_algorithm: issuer.signature_algorithm().to_string(),
        }
    }

    fn trust_bundle(
        &self,
        request: &Request<v1::GetTrustBundleRequest>,
    ) -> Result<v1::GetTrustBundleResponse, Failure> {
        let peer = request::peer(&self.ca, request)?;
        let tenant = request::tenant(&self.ca, &peer, &request.get_ref().tenant)?;
        let mut roots: Vec<Vec<u8>> = Vec::new();
        let mut intermediates = Vec::new();
        for issuer in self.issuers_of(&tenant) {
            let root = issuer.issuer.root().der().to_vec();
            if !roots.contains(&root) {
                roots.push(root);
            }
            if issuer.issuer.certificate().subject_der() != issuer.issuer.certificate().issuer_der() {
                intermediates.push(issuer.issuer.certificate().der().to_vec());
            }
        }
        Ok(v1::GetTrustBundleResponse {
            pem: convert::pem(roots.iter().map(Vec::as_slice)),
            fingerprints: roots.iter().map(|r| hex::encode(Sha256::digest(r))).collect(),
            roots,
            intermediates,
        })
    }

    fn profile(&self, request: &Request<v1::GetProfileRequest>) -> Result<v1::GetProfileResponse, Failure> {
        let name: ProfileName = request::id("name", &request.get_ref().name)?;
        let loaded = self.ca.profiles.get(&name).ok_or_else(|| Failure::not_found("profile").at("name"))?;
        Ok(v1::GetProfileResponse { profile: Some(profile(loaded)) })
    }
}

fn profile(loaded: &LoadedProfile) -> v1::Profile {
    let p = &loaded.profile;
    v1::Profile {
        name: p.name().to_string(),
        description: p.description().to_owned(),
        key_algorithms: p.key_algorithms().iter().map(ToString::to_string).collect(),
        validity_seconds: match p.lifetime() {
            Lifetime::For(life) => life.as_secs(),
            Lifetime::Infinite => 0,
        },
        enroll_by: p.enroll_by().iter().map(|by| enroll_by(*by).to_owned()).collect(),
        attestation: match p.attestation() {
            AttestationPolicy::Off => "off",
            AttestationPolicy::Optional => "optional",
            AttestationPolicy::Required => "required",
        }
        .to_owned(),
        renewable: p.renewable(),
        toml: loaded.toml.clone(),
        sha256: hex::encode(loaded.sha256),
    }
}

fn enroll_by(by: EnrollBy) -> &'static str {
    match by {
        EnrollBy::Station => "station",
        EnrollBy::Token => "token",
        EnrollBy::Attestation => "attestation",
    }
}

fn answer<T>(rpc: &'static str, result: Result<T, Failure>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|f| f.into_status(rpc))
}

#[tonic::async_trait]
impl AuthorityService for Authority {
    async fn list_issuers(
        &self,
        request: Request<v1::ListIssuersRequest>,
    ) -> Result<Response<v1::ListIssuersResponse>, Status> {
        answer("ListIssuers", self.issuers(&request))
    }
    async fn get_trust_bundle(
        &self,
        request: Request<v1::GetTrustBundleRequest>,
    ) -> Result<Response<v1::GetTrustBundleResponse>, Status> {
        answer("GetTrustBundle", self.trust_bundle(&request))
    }
    async fn get_profile(
        &self,
        request: Request<v1::GetProfileRequest>,
    ) -> Result<Response<v1::GetProfileResponse>, Status> {
        answer("GetProfile", self.profile(&request))
    }
    async fn list_profiles(
        &self,
        _request: Request<v1::ListProfilesRequest>,
    ) -> Result<Response<v1::ListProfilesResponse>, Status> {
        let profiles = self.ca.profiles.values().map(profile).collect();
        answer("ListProfiles", Ok(v1::ListProfilesResponse { profiles }))
    }
}
