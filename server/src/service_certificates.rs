//! The service's own certificates: the OCSP responders' and the TLS identity. Made at first use, renewed at half-life,
//! recorded like every other certificate.

use crate::{
    ca::{Ca, LoadedIssuer, key_id},
    clock::ClockFault,
    error::Failure,
    issuance, own_keys,
};
use anyhow::{Context, Result};
use ca_core::{
    authority::{self, PreparedAuthority, Subject},
    certificate::Certificate,
    id::{IdempotencyKey, PrincipalId, ProfileName},
    name::{AttributeType, DistinguishedName},
    serial::SerialNumber,
    time::UnixTime,
};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};
use store::{
    Abort, CertificateEntry, CertificateState, ExistingDevice, Holder, Intend, Intended, Issue, ServerIdentityEntry,
    SetOcspResponder, SetServerIdentity,
};

/// A responder certificate carries id-pkix-ocsp-nocheck, so it must be short-lived (RFC 6960 4.2.2.2.1).
const RESPONDER_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// The TLS certificate: long enough for a service that is stopped over a quarter.
const TLS_LIFE: Duration = Duration::from_secs(180 * 86_400);
/// The holder of issuing CA certificates.
pub const ISSUING: &str = "service.issuing";
/// Clocks of devices run behind.
const BACKDATE: Duration = Duration::from_secs(3600);
/// The label of the TLS key.
const TLS_KEY: &str = "tls";

/// What [`renew`] did.
#[derive(Debug, Default)]
pub struct Renewed {
    /// A certificate changed.
    pub changed: bool,
    /// What could not be renewed; each is in the log as well.
    pub errors: Vec<anyhow::Error>,
}

/// Makes what is missing and renews what is past half of its life. One issuer's trouble keeps no other from being
/// served: it is logged and returned, and OCSP for an issuer without a responder says tryLater.
///
/// # Errors
/// When there is no TLS certificate to serve with, or only one that has ended.
pub async fn renew(ca: &Arc<Ca>) -> Result<Renewed> {
    let now = ca.now();
    let mut renewed = Renewed::default();
    if let Err(error) = close_open(ca).await {
        renewed.errors.push(error.context("open intents of the service's own certificates"));
    }
    for loaded in ca.issuers.load_full().iter().filter(|i| is_issuing(i)) {
        if loaded.responder.as_ref().is_some_and(|r| is_fresh(&r.certificate, now)) {
            continue;
        }
        match renew_responder(ca, loaded).await {
            Ok(()) => renewed.changed = true,
            Err(error) => renewed.errors.push(error.context(format!("OCSP responder of {}", loaded.issuer.id()))),
        }
    }
    if renewed.changed {
        ca.reload_issuers()?;
    }
    let tls = renew_tls(ca, now).await;
    if let Ok(changed) = tls {
        renewed.changed |= changed;
    }
    for error in renewed.errors.iter().chain(tls.as_ref().err()) {
        tracing::warn!(error = format!("{error:#}"), "one of the service's own certificates could not be renewed");
    }
    if let Err(error) = tls {
        // Whether a certificate has begun is for the clients to judge: their clocks may be right and ours wrong.
        let usable = tls_identity(ca)?.is_some_and(|(_, leaf)| now <= leaf.not_after());
        if !usable {
            return Err(error);
        }
        renewed.errors.push(error);
    }
    Ok(renewed)
}

/// Gives up the intents of the service's own certificates that an earlier run left open. Nobody waits for them: what is
/// missing is made anew. Only while none is being made.
///
/// # Errors
/// When the journal refuses.
pub async fn close_open(ca: &Arc<Ca>) -> Result<()> {
    for entry in ca.store.open_intents()?.into_iter().filter(is_service) {
        tracing::info!(issuer = %entry.issuer, serial = %entry.serial, "closing the intent of a run that was cut off");
        let reason = "the run that made it was cut off".to_owned();
        ca.commit(Abort { issuer: entry.issuer, serial: entry.serial, reason }).await?;
    }
    Ok(())
}

/// Whether this is one of the service's own certificates: role 0 is nobody's who calls.
pub fn is_service(entry: &CertificateEntry) -> bool {
    matches!(entry.holder, Holder::Principal { role: 0, .. })
}

/// Whether this is a root in the token.
pub fn is_root(loaded: &LoadedIssuer) -> bool {
    let certificate = loaded.issuer.certificate();
    certificate.issuer_der() == certificate.subject_der()
}

/// Whether it has a delegated OCSP responder; a root has none.
pub fn is_issuing(loaded: &LoadedIssuer) -> bool {
    !is_root(loaded) && loaded.issuer.state().signs_status()
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

async fn renew_responder(ca: &Arc<Ca>, loaded: &LoadedIssuer) -> Result<()> {
    let id = loaded.issuer.id();
    let purpose = format!("{id} ocsp");
    let (key, public_key) = match &loaded.responder {
        Some(r) => (r.key, r.certificate.public_key().clone()),
        None => own_keys::obtain(ca, purpose.clone(), loaded.issuer.public_key().algorithm()).await?,
    };
    let name = subject([
        (AttributeType::Organization, loaded.issuer.tenant().to_string()),
        (AttributeType::CommonName, format!("OCSP {id}")),
    ])?;
    let now = ca.now();
    let certificate = issue(ca, loaded, "service.ocsp", once()?, |serial| {
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
    own_keys::settled(ca, &purpose);
    tracing::info!(issuer = %id, until = %certificate.not_after(), "OCSP responder certified");
    Ok(())
}

/// The recorded TLS identity and its leaf.
fn tls_identity(ca: &Ca) -> Result<Option<(ServerIdentityEntry, Certificate)>> {
    let Some(identity) = ca.store.server_identity()? else { return Ok(None) };
    let leaf = identity.chain.first().map(|der| Certificate::from_der(der)).transpose()?;
    Ok(leaf.map(|leaf| (identity, leaf)))
}

/// True when there is a new one.
async fn renew_tls(ca: &Arc<Ca>, now: UnixTime) -> Result<bool> {
    let identity = tls_identity(ca)?;
    if identity.as_ref().is_some_and(|(_, leaf)| is_fresh(leaf, now) && names_match(ca, leaf)) {
        return Ok(false);
    }
    certify_tls(ca, identity).await.context("TLS certificate").map(|()| true)
}

async fn certify_tls(ca: &Arc<Ca>, identity: Option<(ServerIdentityEntry, Certificate)>) -> Result<()> {
    let tenant = ca.config.tenants.first().map(|t| t.name.clone()).context("no tenant")?;
    let issuer = ca.active_issuer(&tenant).with_context(|| {
        format!("it comes from the first tenant, '{tenant}', which has no issuer yet; finish 'sealwright init' for it")
    })?;
    let (key, public_key) = match &identity {
        Some((entry, leaf)) => (key_id(&entry.key_id)?, leaf.public_key().clone()),
        None => own_keys::obtain(ca, TLS_KEY.to_owned(), ca_core::key::KeyAlgorithm::EcP256).await?,
    };
    let name = subject([
        (AttributeType::Organization, tenant.to_string()),
        (AttributeType::CommonName, "Sealwright".to_owned()),
        (AttributeType::SerialNumber, names_tag(ca)),
    ])?;
    let (dns, addresses) = ca.config.server_names();
    let now = ca.now();
    let certificate = issue(ca, &issuer, "service.tls", once()?, |serial| {
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
    own_keys::settled(ca, TLS_KEY);
    tracing::info!(until = %certificate.not_after(), "TLS identity certified");
    Ok(())
}

/// A name for a request that is made once.
fn once() -> Result<IdempotencyKey> {
    Ok(IdempotencyKey::new(hex::encode(rand::random::<[u8; 16]>()))?)
}

/// Issues a certificate of the hierarchy: recorded before it is signed, as every certificate. What was issued under
/// the same idempotency key and still stands is returned in its place.
///
/// # Errors
/// When it cannot be built, the clock is wrong, or the token or the journal refuses.
pub async fn issue<E>(
    ca: &Arc<Ca>,
    issuer: &LoadedIssuer,
    holder: &str,
    idempotency_key: IdempotencyKey,
    prepare: impl FnOnce(SerialNumber) -> Result<PreparedAuthority, E>,
) -> Result<Certificate>
where
    E: std::error::Error + Send + Sync + 'static,
{
    // Status goes on with a clock that is behind (design, invariant 12): a responder that was certified in a future that
    // never came must make room. With one that is ahead the present responder stays.
    if holder == ISSUING || ca.clock.fault(&ca.store) == Some(ClockFault::Ahead) {
        ca.clock.for_issuance(&ca.store)?;
    }
    let tenant = issuer.issuer.tenant().clone();
    let principal = PrincipalId::new(holder)?;
    let prepared = prepare(SerialNumber::from_random(rand::random()))?;
    let parsed = PreparedSpki::of(&prepared)?;
    let intend = Intend {
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
        idempotency_key,
        request_sha256: [0; 32],
        spki_sha256: parsed.0,
        token_id: None,
        anchor_sha256: None,
        attestation: None,
        replaces: None,
        not_before: prepared.not_before(),
        not_after: prepared.not_after(),
    };
    match ca.commit(intend.clone()).await.map_err(Failure::from)? {
        Intended::New => {}
        Intended::Replay(entry)
            if matches!(entry.state(), CertificateState::Issued | CertificateState::Installed)
                && entry.issuer == *issuer.issuer.id() =>
        {
            return Ok(issuance::certificate(&entry)?);
        }
        // It was given up or revoked.
        Intended::Replay(_) => {
            let again = Intend { idempotency_key: once()?, ..intend };
            let outcome = ca.commit(again).await.map_err(Failure::from)?;
            anyhow::ensure!(outcome == Intended::New, "a random name for a request was taken");
        }
    }
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
