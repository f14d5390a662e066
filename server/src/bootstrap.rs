//! Makes a tenant's authority: root and issuing CA in the token, or an issuing CA under a root held elsewhere.
//! Nothing that exists is ever overwritten, and what a run that was cut off has begun is taken to its end by the next.

use crate::{
    access::Role,
    ca::{Ca, LoadedIssuer, key_id},
    config::{KeyChoice, RootPlace, TenantSection, key_algorithm},
    issuance::Issued,
    own_keys,
    principals::{self, NewPrincipal},
    publish::write_whole,
    service_certificates,
};
use anyhow::{Context, Result, bail, ensure};
use ca_core::{
    authority::{self, ParentUrls, Subject},
    certificate::Certificate,
    csr::CertificationRequest,
    id::{IdempotencyKey, IssuerId, PrincipalId, TenantId},
    key::{PublicKey, SignatureAlgorithm},
    name::{AttributeType, DistinguishedName},
    serial::SerialNumber,
};
use hsm::KeyId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
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

/// Makes what the tenant's authority lacks. Each step is recorded when it is done, so that a run which is cut off at any
/// moment is continued by the next one; a tenant that has its active issuer is left alone.
///
/// # Errors
/// When the token or the journal refuses.
pub async fn make_tenant(ca: &Arc<Ca>, tenant: &TenantSection) -> Result<Made> {
    if let Ok(active) = ca.active_issuer(&tenant.name) {
        return Ok(Made::Hierarchy { issuer: active.issuer.id().clone() });
    }
    service_certificates::close_open(ca).await?;
    match tenant.root {
        RootPlace::Token => {
            ensure!(
                !pending_file(ca, &tenant.name).exists(),
                "tenant '{}' waits for its chain; import it with 'sealwright init --import-chain'",
                tenant.name
            );
            let root = match root_of(ca, &tenant.name) {
                Some(root) => root,
                None => make_root(ca, tenant).await?,
            };
            make_issuing(ca, tenant, &root).await.map(|issuer| Made::Hierarchy { issuer })
        }
        RootPlace::External => make_request(ca, tenant).await.map(|csr| Made::Request { csr }),
    }
}

fn root_of(ca: &Ca, tenant: &TenantId) -> Option<Arc<LoadedIssuer>> {
    let issuers = ca.issuers.load();
    issuers.iter().find(|i| i.issuer.tenant() == tenant && service_certificates::is_root(i)).cloned()
}

async fn make_root(ca: &Arc<Ca>, tenant: &TenantSection) -> Result<Arc<LoadedIssuer>> {
    let choice = key_algorithm(&tenant.root_key).map_err(anyhow::Error::msg)?;
    let purpose = format!("{} root", tenant.name);
    let (root_key, root_public) = own_keys::obtain(ca, purpose.clone(), choice.key).await?;
    let id = issuer_id(&tenant.name, "root", &root_public)?;
    let now = ca.clock.for_issuance(&ca.store)?;
    let root_name = name(&tenant.organization, format!("{} Root {}", tenant.organization, tag(&root_public)))?;
    let subject = Subject {
        name: &root_name,
        public_key: &root_public,
        serial: SerialNumber::from_random(rand::random()),
        not_before: now.minus(BACKDATE),
        not_after: now.plus(YEAR * ROOT_YEARS),
    };
    let prepared = authority::root(subject, choice.signature)?;
    let signature = ca.sign("root", root_key, &root_public, prepared.algorithm(), prepared.tbs()).await?;
    let root = prepared.finish(&signature)?;
    // A root in the token signs its CRL and no device's certificate: draining says exactly that.
    let key = Signing { key: root_key, algorithm: choice.recorded() };
    add_issuer(ca, tenant, &id, &root, Vec::new(), key, IssuerState::Draining).await?;
    own_keys::settled(ca, &purpose);
    ca.issuer_by_id(&id).context("the root was not recorded")
}

fn tag(key: &PublicKey) -> String {
    hex::encode(key.key_identifier().get(..4).unwrap_or_default()).to_uppercase()
}

fn issuing_name(tenant: &TenantSection, key: &PublicKey) -> Result<DistinguishedName> {
    name(&tenant.organization, format!("{} Issuing CA {}", tenant.organization, tag(key)))
}

/// What the issuing key is for, which is its label.
fn issuing_key(tenant: &TenantId) -> String {
    format!("{tenant} issuing")
}

async fn make_issuing(ca: &Arc<Ca>, tenant: &TenantSection, root: &LoadedIssuer) -> Result<IssuerId> {
    let choice = key_algorithm(&tenant.issuing_key).map_err(anyhow::Error::msg)?;
    let purpose = issuing_key(&tenant.name);
    let (key, public) = own_keys::obtain(ca, purpose.clone(), choice.key).await?;
    let id = issuer_id(&tenant.name, "ca", &public)?;
    // One certificate for one key, also when the run that made it was cut off before the issuer was recorded.
    let once = IdempotencyKey::new(hex::encode(public.spki_sha256()))?;
    let subject_name = issuing_name(tenant, &public)?;
    let now = ca.now();
    let parent = root.issuer.certificate();
    let urls = root.issuer.urls();
    let certificate = service_certificates::issue(ca, root, service_certificates::ISSUING, once, |serial| {
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
            root.issuer.signature_algorithm(),
            ParentUrls { crl: Some(urls.crl()), ocsp: None, ca_issuers: Some(urls.ca_issuers()) },
        )
    })
    .await?;
    let key = Signing { key, algorithm: choice.recorded() };
    add_issuer(ca, tenant, &id, &certificate, vec![parent.der().to_vec()], key, IssuerState::Active).await?;
    own_keys::settled(ca, &purpose);
    Ok(id)
}

/// An issuer's key, and what it signs with where that is not the key's usual algorithm.
struct Signing {
    key: KeyId,
    algorithm: Option<SignatureAlgorithm>,
}

/// What the configuration chose for an issuing key that exists. One that was made before the choice was changed signs
/// in its usual way.
fn choice_for(tenant: &TenantSection, public: &PublicKey) -> Result<KeyChoice> {
    let choice = key_algorithm(&tenant.issuing_key).map_err(anyhow::Error::msg)?;
    let key = public.algorithm();
    Ok(if choice.key == key { choice } else { KeyChoice { key, signature: key.signature_algorithm() } })
}

async fn add_issuer(
    ca: &Arc<Ca>,
    tenant: &TenantSection,
    id: &IssuerId,
    certificate: &Certificate,
    chain: Vec<Vec<u8>>,
    signing: Signing,
    state: IssuerState,
) -> Result<()> {
    ca.commit(AddIssuer {
        tenant: tenant.name.clone(),
        issuer: id.clone(),
        certificate: certificate.der().to_vec(),
        chain,
        key_id: signing.key.as_bytes().to_vec(),
        signature_algorithm: signing.algorithm,
        ocsp_certificate: Vec::new(),
        ocsp_key_id: Vec::new(),
        urls: issuer_urls(ca, id),
        state,
    })
    .await?;
    ca.reload_issuers()
}

async fn make_request(ca: &Arc<Ca>, tenant: &TenantSection) -> Result<PathBuf> {
    let path = ca.config.data_dir.join(format!("{}-issuing.csr", tenant.name));
    let pending = pending_file(ca, &tenant.name);
    let (key, public) = if pending.exists() {
        if path.exists() {
            return Ok(path);
        }
        pending_key(ca, &pending).await?
    } else {
        let choice = key_algorithm(&tenant.issuing_key).map_err(anyhow::Error::msg)?;
        let (key, public) = own_keys::obtain(ca, issuing_key(&tenant.name), choice.key).await?;
        write_whole(&pending, &serde_json::to_vec(&Pending { key: hex::encode(key.as_bytes()) })?)?;
        own_keys::settled(ca, &issuing_key(&tenant.name));
        (key, public)
    };
    let info = authority::certification_request(&issuing_name(tenant, &public)?, &public)?;
    let algorithm = choice_for(tenant, &public)?.signature;
    let signature = ca.sign("csr", key, &public, algorithm, &info).await?;
    let csr = authority::finish_csr(&info, algorithm, &signature)?;
    let pem = der::pem::encode_string("CERTIFICATE REQUEST", der::pem::LineEnding::LF, &csr)
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    write_whole(&path, pem.as_bytes())?;
    Ok(path)
}

/// The key that a CSR was written for.
async fn pending_key(ca: &Arc<Ca>, file: &Path) -> Result<(KeyId, PublicKey)> {
    let pending: Pending =
        serde_json::from_slice(&fs::read(file)?).with_context(|| format!("{} is damaged", file.display()))?;
    let key = key_id(&hex::decode(pending.key)?)?;
    let token = ca.token.clone();
    let public = tokio::task::spawn_blocking(move || token.find(&key)).await??.public_key;
    Ok((key, public))
}

/// Imports the chain for a CSR that was written before: the issuing CA's certificate first, the root last. Importing
/// the same chain again changes nothing.
///
/// # Errors
/// When there is no such CSR, or the chain does not fit.
pub async fn import_chain(ca: &Arc<Ca>, tenant: &TenantSection, chain: &[Certificate]) -> Result<IssuerId> {
    let file = pending_file(ca, &tenant.name);
    let Some((issuing, above)) = chain.split_first() else { bail!("the chain is empty") };
    let known = ca.active_issuer(&tenant.name).ok();
    let id = match known {
        Some(known) if known.issuer.certificate().der() == issuing.der() => known.issuer.id().clone(),
        Some(known) => bail!(
            "tenant '{}' has its issuer, {}, and this chain is another's; nothing is overwritten",
            tenant.name,
            known.issuer.id()
        ),
        None => {
            ensure!(
                file.exists(),
                "tenant '{}' waits for no chain; 'sealwright init' writes its CSR first",
                tenant.name
            );
            let (key, public) = pending_key(ca, &file).await?;
            authority::check_imported_chain(&public, chain, ca.now()).context("the chain does not fit the CSR")?;
            let id = issuer_id(&tenant.name, "ca", &public)?;
            let above = above.iter().map(|c| c.der().to_vec()).collect();
            let key = Signing { key, algorithm: choice_for(tenant, &public)?.recorded() };
            add_issuer(ca, tenant, &id, issuing, above, key, IssuerState::Active).await?;
            id
        }
    };
    if file.exists() {
        fs::remove_file(&file)?;
    }
    Ok(id)
}

/// How often a principal's request may have been given up: a run was cut off, and the next came a day later.
const ATTEMPTS: u8 = 8;

/// Creates a principal from inside, as `init` does for the first admin and `dev` for one of each role. The same
/// principal with the same key gets the same certificate, so that a run which is cut off can be repeated.
///
/// # Errors
/// What issuance says.
pub async fn make_principal(ca: &Arc<Ca>, tenant: &TenantId, id: &str, role: Role, csr: &[u8]) -> Result<Issued> {
    let csr = CertificationRequest::parse(csr)?;
    for attempt in 0..ATTEMPTS {
        // Not over the CSR: its signature differs each time, and so does its digest.
        let request_sha256 = request_sha256(tenant, id, role, csr.public_key(), attempt);
        let new = NewPrincipal {
            tenant: tenant.clone(),
            id: PrincipalId::new(id)?,
            role,
            csr: csr.clone(),
            by: "init".to_owned(),
            idempotency_key: IdempotencyKey::new(hex::encode(request_sha256))?,
            request_sha256,
        };
        match principals::create(ca, new).await {
            Err(failure) if failure.reason() == "INTENT_CLOSED" => {}
            outcome => return Ok(outcome?),
        }
    }
    bail!("the request for principal '{id}' was given up {ATTEMPTS} times")
}

fn request_sha256(tenant: &TenantId, id: &str, role: Role, key: &PublicKey, attempt: u8) -> [u8; 32] {
    let mut hash = Sha256::new();
    // Neither a tenant's nor a principal's name has a NUL in it.
    for part in ["init", tenant.as_str(), id] {
        hash.update(part);
        hash.update([0]);
    }
    hash.update(role.code().to_be_bytes());
    hash.update([attempt]);
    hash.update(key.spki_der());
    hash.finalize().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use ca_core::key::PublicKey;

    // SubjectPublicKeyInfo of P-256's base point.
    const SPKI: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f277037d812deb\
                        33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

    #[test]
    fn a_principals_request_depends_on_who_and_which_key_alone() {
        let key = PublicKey::from_spki_der(&hex::decode(SPKI).unwrap()).unwrap();
        let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("ab").unwrap());
        let one = request_sha256(&a, "bc", Role::Admin, &key, 0);
        assert_eq!(one, request_sha256(&a, "bc", Role::Admin, &key, 0));
        for other in [
            request_sha256(&b, "c", Role::Admin, &key, 0),
            request_sha256(&a, "bd", Role::Admin, &key, 0),
            request_sha256(&a, "bc", Role::Station, &key, 0),
            request_sha256(&a, "bc", Role::Admin, &key, 1),
        ] {
            assert_ne!(one, other);
        }
        assert!(IdempotencyKey::new(hex::encode(one)).is_ok());
    }
}
