//! The service's own certificates: the OCSP responders' and the TLS identity. Made at first use, renewed at half-life,
//! recorded like every other certificate.

use crate::{
    ca::{Ca, LoadedIssuer, key_id},
    error::Failure,
};
use anyhow::{Context, Result};
use ca_core::{
    authority::{self, PreparedAuthority, Subject},
    certificate::Certificate,
    id::{IdempotencyKey, PrincipalId, ProfileName},
    key::PublicKey,
    name::{AttributeType, DistinguishedName},
    serial::SerialNumber,
    time::UnixTime,
};
use hsm::{KeyId, KeyRequest};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};
use store::{ExistingDevice, Holder, Intend, Issue, ServerIdentityEntry, SetOcspResponder, SetServerIdentity};

/// A responder certificate carries id-pkix-ocsp-nocheck, so it must be short-lived (RFC 6960 4.2.2.2.1).
const RESPONDER_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// The TLS certificate: long enough for a service that is stopped over a quarter.
const TLS_LIFE: Duration = Duration::from_secs(180 * 86_400);
/// Clocks of devices run behind.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Makes what is missing and renews what is past half of its life. True when the TLS identity changed.
///
/// # Errors
/// When the token or the journal refuses.
pub async fn renew(ca: &Arc<Ca>) -> Result<bool> {
    let now = ca.now();
    let mut changed = false;
    for loaded in ca.issuers.load_full().iter().filter(|i| is_issuing(i)) {
        let fresh = loaded.responder.as_ref().is_some_and(|r| is_fresh(&r.certificate, now));
        if !fresh {
            renew_responder(ca, loaded).await.with_context(|| format!("OCSP responder of {}", loaded.issuer.id()))?;
            changed = true;
        }
    }
    if changed {
        ca.reload_issuers()?;
    }
    let identity = ca.store.server_identity()?;
    let leaf = identity.as_ref().and_then(|i| i.chain.first()).map(|der| Certificate::from_der(der)).transpose()?;
    if leaf.as_ref().is_some_and(|l| is_fresh(l, now) && names_match(ca, l)) {
        return Ok(false);
    }
    renew_tls(ca, identity).await.context("TLS certificate")?;
    Ok(true)
}

fn is_issuing(loaded: &LoadedIssuer) -> bool {
    let certificate = loaded.issuer.certificate();
    certificate.issuer_der() != certificate.subject_der() && loaded.issuer.state().signs_status()
}

fn is_fresh(certificate: &Certificate, now: UnixTime) -> bool {
    let life = certificate.not_before().until(certificate.not_after());
    now >= certificate.not_before() && now <= certificate.not_before().plus(life / 2)
}

/// The configured names are hashed into the subject's serialNumber, so that a change of them is seen.
fn names_tag(ca: &Ca) -> String {
    hex::encode(Sha256::digest(ca.config.grpc.names.join("\n")).get(..8).unwrap_or_default())
}

fn names_match(ca: &Ca, leaf: &Certificate) -> bool {
    leaf.subject().to_lowercase().contains(&names_tag(ca))
}

fn subject(parts: impl IntoIterator<Item = (AttributeType, String)>) -> Result<DistinguishedName> {
    Ok(DistinguishedName::new(parts)?)
}

/// Makes a key in the token; its label says what it is for.
///
/// # Errors
/// What the token says.
pub async fn generate(
    ca: &Arc<Ca>,
    label: String,
    algorithm: ca_core::key::KeyAlgorithm,
) -> Result<(KeyId, PublicKey)> {
    let token = ca.token.clone();
    let id = KeyId::from_bytes(rand::random());
    let key = tokio::task::spawn_blocking(move || token.generate(&KeyRequest { label, id, algorithm })).await??;
    Ok((id, key.public_key))
}

async fn renew_responder(ca: &Arc<Ca>, loaded: &LoadedIssuer) -> Result<()> {
    let id = loaded.issuer.id();
    let (key, public_key) = match &loaded.responder {
        Some(r) => (r.key, r.certificate.public_key().clone()),
        None => generate(ca, format!("{id} ocsp"), loaded.issuer.public_key().algorithm()).await?,
    };
    let name = subject([
        (AttributeType::Organization, loaded.issuer.tenant().to_string()),
        (AttributeType::CommonName, format!("OCSP {id}")),
    ])?;
    let now = ca.now();
    let certificate = issue(ca, loaded, "service.ocsp", |serial| {
        let subject = Subject {
            name: &name,
            public_key: &public_key,
            serial,
            not_before: now.minus(BACKDATE).max(loaded.issuer.certificate().not_before()),
            not_after: now.plus(RESPONDER_LIFE).min(loaded.issuer.certificate().not_after()),
        };
        authority::ocsp_responder(subject, &loaded.issuer)
    })
    .await?;
    ca.commit(SetOcspResponder {
        issuer: id.clone(),
        certificate: certificate.der().to_vec(),
        key_id: key.as_bytes().to_vec(),
    })
    .await?;
    tracing::info!(issuer = %id, until = %certificate.not_after(), "OCSP responder certified");
    Ok(())
}

async fn renew_tls(ca: &Arc<Ca>, identity: Option<ServerIdentityEntry>) -> Result<()> {
    let tenant = ca.config.tenants.first().map(|t| t.name.clone()).context("no tenant")?;
    let issuer = ca.active_issuer(&tenant)?;
    let (key, public_key) = match &identity {
        Some(entry) => {
            let key = key_id(&entry.key_id)?;
            (key, ca.token.find(&key)?.public_key)
        }
        None => generate(ca, "tls".to_owned(), ca_core::key::KeyAlgorithm::EcP256).await?,
    };
    let name = subject([
        (AttributeType::Organization, tenant.to_string()),
        (AttributeType::CommonName, "Sealwright".to_owned()),
        (AttributeType::SerialNumber, names_tag(ca)),
    ])?;
    let (dns, addresses) = ca.config.server_names();
    let now = ca.now();
    let certificate = issue(ca, &issuer, "service.tls", |serial| {
        let subject = Subject {
            name: &name,
            public_key: &public_key,
            serial,
            not_before: now.minus(BACKDATE).max(issuer.issuer.certificate().not_before()),
            not_after: now.plus(TLS_LIFE).min(issuer.issuer.certificate().not_after()),
        };
        authority::tls_server(subject, &dns, &addresses, &issuer.issuer)
    })
    .await?;
    let mut chain = vec![certificate.der().to_vec()];
    chain.extend(crate::convert::chain(&issuer));
    ca.commit(SetServerIdentity { chain, key_id: key.as_bytes().to_vec() }).await?;
    tracing::info!(until = %certificate.not_after(), "TLS identity certified");
    Ok(())
}

/// Issues a certificate of the hierarchy: recorded before it is signed, as every certificate.
///
/// # Errors
/// When it cannot be built, or the token or the journal refuses.
pub async fn issue<E>(
    ca: &Arc<Ca>,
    issuer: &LoadedIssuer,
    holder: &str,
    prepare: impl FnOnce(SerialNumber) -> Result<PreparedAuthority, E>,
) -> Result<Certificate>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let tenant = issuer.issuer.tenant().clone();
    let principal = PrincipalId::new(holder)?;
    let prepared = prepare(SerialNumber::from_random(rand::random()))?;
    let parsed = PreparedSpki::of(&prepared)?;
    ca.commit(Intend {
        tenant: tenant.clone(),
        issuer: issuer.issuer.id().clone(),
        serial: prepared.serial().clone(),
        tbs: prepared.tbs().to_vec(),
        algorithm: prepared.algorithm(),
        profile: ProfileName::new(holder)?,
        profile_sha256: [0; 32],
        new_principal: ca.store.principal(&tenant, &principal)?.is_none(),
        holder: Holder::Principal { id: principal, role: 0 },
        existing: ExistingDevice::Allow,
        requester: "service".to_owned(),
        idempotency_key: IdempotencyKey::new(hex::encode(rand::random::<[u8; 16]>()))?,
        request_sha256: [0; 32],
        spki_sha256: parsed.0,
        token_id: None,
        anchor_sha256: None,
        attestation: None,
        replaces: None,
        not_before: prepared.not_before(),
        not_after: prepared.not_after(),
    })
    .await
    .map_err(Failure::from)?;
    let signature = ca.sign("service", issuer.key, prepared.signer(), prepared.algorithm(), prepared.tbs()).await?;
    let certificate = prepared.finish(&signature)?;
    ca.commit(Issue {
        issuer: issuer.issuer.id().clone(),
        serial: certificate.serial().clone(),
        signature: certificate.signature().to_vec(),
    })
    .await
    .map_err(Failure::from)?;
    Ok(certificate)
}

/// SHA-256 of the SubjectPublicKeyInfo inside a prepared certificate.
struct PreparedSpki([u8; 32]);

impl PreparedSpki {
    fn of(prepared: &PreparedAuthority) -> Result<Self> {
        use der::{Decode, Encode};
        let tbs = x509_cert::TbsCertificate::from_der(prepared.tbs())?;
        Ok(Self(Sha256::digest(tbs.subject_public_key_info().to_der()?).into()))
    }
}
