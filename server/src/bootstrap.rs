//! Makes a tenant's authority: root and issuing CA in the token, or an issuing CA under a root held elsewhere.
//! Nothing that exists is ever overwritten.

use crate::{
    access::Role,
    ca::{Ca, LoadedIssuer, key_id},
    config::{RootPlace, TenantSection, key_algorithm},
    issuance::Issued,
    principals::{self, NewPrincipal},
    publish::write_whole,
    request, service_certificates,
};
use anyhow::{Context, Result, bail, ensure};
use ca_core::{
    authority::{self, ParentUrls, Subject},
    certificate::Certificate,
    csr::CertificationRequest,
    id::{IdempotencyKey, IssuerId, PrincipalId, TenantId},
    key::PublicKey,
    name::{AttributeType, DistinguishedName},
    serial::SerialNumber,
};
use hsm::KeyId;
use serde::{Deserialize, Serialize};
use std::{fs, path::PathBuf, sync::Arc, time::Duration};
use store::{AddIssuer, IssuerState, IssuerUrls};

/// The built-in profile of principals' certificates.
pub const PRINCIPAL_PROFILE: &str = "principal";

const YEAR: Duration = Duration::from_secs(365 * 86_400 + 86_400 / 4);
/// A device lives twenty years after it is made, and a line runs for ten.
const ROOT_YEARS: u32 = 35;
/// Leaves twenty years to the last device of five years of issuing.
const ISSUING_YEARS: u32 = 25;
const BACKDATE: Duration = Duration::from_secs(3600);

/// What was made for a tenant.
#[derive(Debug)]
pub enum Made {
    /// A root and an issuing CA.
    Hierarchy {
        /// The issuing CA.
        issuer: IssuerId,
    },
    /// A CSR that waits for the root's signature.
    Request {
        /// Where it was written.
        csr: PathBuf,
    },
}

/// What is kept between writing a CSR and importing its chain.
#[derive(Serialize, Deserialize)]
struct Pending {
    key: String,
}

fn issuer_urls(ca: &Ca, id: &IssuerId) -> IssuerUrls {
    let base = &ca.config.http.base_url;
    IssuerUrls {
        crl: format!("{base}/crl/{id}.crl"),
        ocsp: format!("{base}/ocsp/{id}"),
        ca_issuers: format!("{base}/issuer/{id}.cer"),
    }
}

fn name(organization: &str, common_name: String) -> Result<DistinguishedName> {
    let parts = [(AttributeType::Organization, organization.to_owned()), (AttributeType::CommonName, common_name)];
    DistinguishedName::new(parts).context("tenants.organization")
}

/// A name for an issuer: a new key is a new issuer, so the key is in it.
fn issuer_id(tenant: &TenantId, kind: &str, key: &PublicKey) -> Result<IssuerId> {
    let tag = hex::encode(key.key_identifier().get(..4).unwrap_or_default());
    Ok(IssuerId::new(format!("{tenant}-{kind}-{tag}"))?)
}

fn pending_file(ca: &Ca, tenant: &TenantId) -> PathBuf {
    ca.config.data_dir.join(format!("pending-{tenant}.json"))
}

/// Makes the tenant's authority.
///
/// # Errors
/// When the tenant has one, or the token or the journal refuses.
pub async fn make_tenant(ca: &Arc<Ca>, tenant: &TenantSection) -> Result<Made> {
    ensure!(!ca.has_tenant(&tenant.name), "tenant '{}' has its issuers; nothing is overwritten", tenant.name);
    ensure!(
        !pending_file(ca, &tenant.name).exists(),
        "tenant '{}' waits for its chain; import it with 'sealwright init --import-chain'",
        tenant.name
    );
    match tenant.root {
        RootPlace::Token => make_hierarchy(ca, tenant).await.map(|issuer| Made::Hierarchy { issuer }),
        RootPlace::External => make_request(ca, tenant).await.map(|csr| Made::Request { csr }),
    }
}

async fn make_hierarchy(ca: &Arc<Ca>, tenant: &TenantSection) -> Result<IssuerId> {
    let root_algorithm = key_algorithm(&tenant.root_key).map_err(anyhow::Error::msg)?;
    let (root_key, root_public) =
        service_certificates::generate(ca, format!("{} root", tenant.name), root_algorithm).await?;
    let id = issuer_id(&tenant.name, "root", &root_public)?;
    let now = ca.now();
    let root_name = name(&tenant.organization, format!("{} Root {}", tenant.organization, tag(&root_public)))?;
    let prepared = authority::root(Subject {
        name: &root_name,
        public_key: &root_public,
        serial: SerialNumber::from_random(rand::random()),
        not_before: now.minus(BACKDATE),
        not_after: now.plus(YEAR * ROOT_YEARS),
    })?;
    let signature = ca.sign("root", root_key, &root_public, prepared.algorithm(), prepared.tbs()).await?;
    let root = prepared.finish(&signature)?;
    // A root in the token signs its CRL and no device's certificate: draining says exactly that.
    add_issuer(ca, tenant, &id, &root, Vec::new(), root_key, IssuerState::Draining).await?;
    let root_issuer = ca.issuer_by_id(&id).context("the root was not recorded")?;
    make_issuing(ca, tenant, &root_issuer).await
}

fn tag(key: &PublicKey) -> String {
    hex::encode(key.key_identifier().get(..4).unwrap_or_default()).to_uppercase()
}

fn issuing_name(tenant: &TenantSection, key: &PublicKey) -> Result<DistinguishedName> {
    name(&tenant.organization, format!("{} Issuing CA {}", tenant.organization, tag(key)))
}

async fn make_issuing(ca: &Arc<Ca>, tenant: &TenantSection, root: &LoadedIssuer) -> Result<IssuerId> {
    let algorithm = key_algorithm(&tenant.issuing_key).map_err(anyhow::Error::msg)?;
    let (key, public) = service_certificates::generate(ca, format!("{} issuing", tenant.name), algorithm).await?;
    let id = issuer_id(&tenant.name, "ca", &public)?;
    let subject_name = issuing_name(tenant, &public)?;
    let now = ca.now();
    let parent = root.issuer.certificate();
    let urls = root.issuer.urls();
    let certificate = service_certificates::issue(ca, root, "service.issuing", |serial| {
        let subject = Subject {
            name: &subject_name,
            public_key: &public,
            serial,
            not_before: now.minus(BACKDATE),
            not_after: now.plus(YEAR * ISSUING_YEARS).min(parent.not_after()),
        };
        authority::issuing_ca(
            subject,
            parent,
            ParentUrls { crl: Some(urls.crl()), ocsp: None, ca_issuers: Some(urls.ca_issuers()) },
        )
    })
    .await?;
    add_issuer(ca, tenant, &id, &certificate, vec![parent.der().to_vec()], key, IssuerState::Active).await?;
    Ok(id)
}

async fn add_issuer(
    ca: &Arc<Ca>,
    tenant: &TenantSection,
    id: &IssuerId,
    certificate: &Certificate,
    chain: Vec<Vec<u8>>,
    key: KeyId,
    state: IssuerState,
) -> Result<()> {
    ca.commit(AddIssuer {
        tenant: tenant.name.clone(),
        issuer: id.clone(),
        certificate: certificate.der().to_vec(),
        chain,
        key_id: key.as_bytes().to_vec(),
        ocsp_certificate: Vec::new(),
        ocsp_key_id: Vec::new(),
        urls: issuer_urls(ca, id),
        state,
    })
    .await?;
    ca.reload_issuers()
}

async fn make_request(ca: &Arc<Ca>, tenant: &TenantSection) -> Result<PathBuf> {
    let algorithm = key_algorithm(&tenant.issuing_key).map_err(anyhow::Error::msg)?;
    let (key, public) = service_certificates::generate(ca, format!("{} issuing", tenant.name), algorithm).await?;
    let info = authority::certification_request(&issuing_name(tenant, &public)?, &public)?;
    let algorithm = public.algorithm().signature_algorithm();
    let signature = ca.sign("csr", key, &public, algorithm, &info).await?;
    let csr = authority::finish_csr(&info, algorithm, &signature)?;
    let pem = der::pem::encode_string("CERTIFICATE REQUEST", der::pem::LineEnding::LF, &csr)
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    let path = ca.config.data_dir.join(format!("{}-issuing.csr", tenant.name));
    write_whole(&path, pem.as_bytes())?;
    let pending = serde_json::to_vec(&Pending { key: hex::encode(key.as_bytes()) })?;
    write_whole(&pending_file(ca, &tenant.name), &pending)?;
    Ok(path)
}

/// Imports the chain for a CSR that was written before: the issuing CA's certificate first, the root last.
///
/// # Errors
/// When there is no such CSR, or the chain does not fit.
pub async fn import_chain(ca: &Arc<Ca>, tenant: &TenantSection, chain: &[Certificate]) -> Result<IssuerId> {
    let file = pending_file(ca, &tenant.name);
    let pending: Pending = serde_json::from_slice(&fs::read(&file).with_context(|| {
        format!("tenant '{}' waits for no chain; 'sealwright init' writes its CSR first", tenant.name)
    })?)?;
    let key = key_id(&hex::decode(pending.key)?)?;
    let token = ca.token.clone();
    let public = tokio::task::spawn_blocking(move || token.find(&key)).await??.public_key;
    authority::check_imported_chain(&public, chain, ca.now()).context("the chain does not fit the CSR")?;
    let Some((issuing, above)) = chain.split_first() else { bail!("the chain is empty") };
    let id = issuer_id(&tenant.name, "ca", &public)?;
    let above = above.iter().map(|c| c.der().to_vec()).collect();
    add_issuer(ca, tenant, &id, issuing, above, key, IssuerState::Active).await?;
    fs::remove_file(&file)?;
    Ok(id)
}

/// Creates a principal from inside, as `init` does for the first admin and `dev` for one of each role.
///
/// # Errors
/// What issuance says.
pub async fn make_principal(ca: &Arc<Ca>, tenant: &TenantId, id: &str, role: Role, csr: &[u8]) -> Result<Issued> {
    let new = NewPrincipal {
        tenant: tenant.clone(),
        id: PrincipalId::new(id)?,
        role,
        csr: CertificationRequest::parse(csr)?,
        by: "init".to_owned(),
        idempotency_key: IdempotencyKey::new(hex::encode(rand::random::<[u8; 16]>()))?,
        request_sha256: request::digest(
            "init",
            &proto::v1::CreatePrincipalRequest { csr: csr.to_vec(), ..Default::default() },
        ),
    };
    Ok(principals::create(ca, new).await?)
}
