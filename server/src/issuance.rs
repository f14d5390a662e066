//! The issuing transaction (design, section 4): prepare, intend, sign, finish, issued, answer.

use crate::{
    ca::{Ca, LoadedIssuer, LoadedProfile},
    error::Failure,
    limits,
};
use ca_core::{
    certificate::Certificate,
    id::{IdempotencyKey, IssuerId, TenantId},
    issue::{self, IssuanceRequest, Names, PreparedCertificate},
    key::PublicKey,
    serial::SerialNumber,
};
use std::{sync::Arc, time::Duration};
use store::{
    Abort, AttestationRecord, CertificateEntry, CertificateRef, CertificateState, ExistingDevice, Holder, Intend,
    Intended, Issue, StoreError,
};
use tonic::Code;

/// Everything that was decided about a certificate, before it is made.
pub struct Authorised {
    /// The tenant.
    pub tenant: TenantId,
    /// The profile's name; it exists.
    pub profile: ca_core::id::ProfileName,
    /// The certified key.
    pub public_key: PublicKey,
    /// The names that the profile asks for.
    pub names: Names,
    /// Who will hold it.
    pub holder: Holder,
    /// Whether the holder is a principal made by this very request.
    pub new_principal: bool,
    /// Whether a device that holds a live certificate may get another.
    pub existing: ExistingDevice,
    /// Who asks.
    pub requester: String,
    /// The caller's name for the request.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the normalised request.
    pub request_sha256: [u8; 32],
    /// The one-time token that is used up.
    pub token_id: Option<String>,
    /// What the device is bound to.
    pub anchor: Option<[u8; 32]>,
    /// What attestation established.
    pub attestation: Option<AttestationRecord>,
    /// What it renews.
    pub replaces: Option<CertificateRef>,
}

/// A certificate that is durable.
pub struct Issued {
    /// Its record.
    pub entry: CertificateEntry,
    /// Whether it had been issued before.
    pub replayed: bool,
}

/// Issues. Runs to its end even when the caller goes away, so that a retry finds the result.
///
/// # Errors
/// Typed, with a retry hint where the same request may succeed later. After an error the intent, if any, stays open:
/// a retry with the same key goes on with the same TBS bytes and the same serial.
pub async fn issue(ca: &Arc<Ca>, authorised: Authorised) -> Result<Issued, Failure> {
    let ca = ca.clone();
    let task = tokio::spawn(async move {
        let _slot = ca.issuances.try_acquire().map_err(|_| {
            Failure::new(Code::ResourceExhausted, "BUSY", "too many enrollments at once; send the same request again")
                .retry_after(Duration::from_millis(250))
        })?;
        issue_now(&ca, authorised).await
    });
    match task.await {
        Ok(result) => result,
        Err(panic) => Err(Failure::internal(panic)),
    }
}

async fn issue_now(ca: &Ca, authorised: Authorised) -> Result<Issued, Failure> {
    let issuer = ca.active_issuer(&authorised.tenant)?;
    let profile = ca.profile(&authorised.profile)?;
    // A random serial of 126 bits does not collide; three tries say that loudly if the generator is broken.
    for _ in 0..3 {
        let prepared = prepare(ca, &issuer, profile, &authorised)?;
        // Claimed before it is recorded, or the repair at start-up could take it for one that was left open.
        let claim = Claim::take(ca, issuer.issuer.id(), prepared.serial()).ok_or_else(in_progress)?;
        match ca.commit(intent(&issuer, profile, &authorised, &prepared)).await {
            Ok(Intended::New) => {
                let entry = sign_and_record(ca, &issuer, &prepared, &claim).await?;
                metrics::counter!("sealwright_issued_total", "profile" => authorised.profile.to_string()).increment(1);
                return Ok(Issued { entry, replayed: false });
            }
            Ok(Intended::Replay(entry)) => {
                drop(claim);
                return replay(ca, *entry).await;
            }
            Err(StoreError::SerialInUse) => continue,
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::internal("three random serial numbers in a row were in use: the random generator is broken"))
}

fn prepare(
    ca: &Ca,
    issuer: &LoadedIssuer,
    profile: &LoadedProfile,
    authorised: &Authorised,
) -> Result<PreparedCertificate, Failure> {
    let now = ca.clock.for_issuance(&ca.store)?;
    issue::prepare(IssuanceRequest {
        profile: &profile.profile,
        issuer: &issuer.issuer,
        public_key: &authorised.public_key,
        names: &authorised.names,
        serial: SerialNumber::from_random(rand::random()),
        now,
    })
    .map_err(Failure::from)
}

fn intent(
    issuer: &LoadedIssuer,
    profile: &LoadedProfile,
    authorised: &Authorised,
    prepared: &PreparedCertificate,
) -> Intend {
    Intend {
        tenant: authorised.tenant.clone(),
        issuer: issuer.issuer.id().clone(),
        serial: prepared.serial().clone(),
        tbs: prepared.tbs().to_vec(),
        algorithm: prepared.algorithm(),
        profile: authorised.profile.clone(),
        profile_sha256: profile.sha256,
        holder: authorised.holder.clone(),
        new_principal: authorised.new_principal,
        existing: authorised.existing,
        requester: authorised.requester.clone(),
        idempotency_key: authorised.idempotency_key.clone(),
        request_sha256: authorised.request_sha256,
        spki_sha256: authorised.public_key.spki_sha256(),
        token_id: authorised.token_id.clone(),
        anchor_sha256: authorised.anchor,
        attestation: authorised.attestation.clone(),
        replaces: authorised.replaces.clone(),
        not_before: prepared.not_before(),
        not_after: prepared.not_after(),
    }
}

/// Marks an intent as being signed by this task, so that a retry waits in place of signing beside it.
struct Claim<'a> {
    ca: &'a Ca,
    intent: (IssuerId, Vec<u8>),
}

impl<'a> Claim<'a> {
    fn take(ca: &'a Ca, issuer: &IssuerId, serial: &SerialNumber) -> Option<Self> {
        let intent = (issuer.clone(), serial.as_be_bytes().to_vec());
        ca.signing().insert(intent.clone()).then(|| Self { ca, intent })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.ca.signing().remove(&self.intent);
    }
}

fn in_progress() -> Failure {
    Failure::new(Code::Unavailable, "IN_PROGRESS", "this request is being worked on; send it again")
        .retry_after(Duration::from_millis(200))
}

async fn sign_and_record(
    ca: &Ca,
    issuer: &LoadedIssuer,
    prepared: &PreparedCertificate,
    _claim: &Claim<'_>,
) -> Result<CertificateEntry, Failure> {
    let key = issuer.issuer.public_key();
    let signature = ca.sign("certificate", issuer.key, key, prepared.algorithm(), prepared.tbs()).await?;
    let certificate = prepared.finish(&issuer.issuer, &signature).map_err(Failure::from)?;
    let issue = Issue {
        issuer: issuer.issuer.id().clone(),
        serial: prepared.serial().clone(),
        signature: certificate.signature().to_vec(),
    };
    Ok(ca.commit(issue).await?)
}

/// The request was seen before: the same certificate, or its intent taken to its end.
///
/// # Errors
/// When the certificate has been revoked or its intent closed; as [`issue()`] for an open one.
pub async fn replay(ca: &Ca, entry: CertificateEntry) -> Result<Issued, Failure> {
    metrics::counter!("sealwright_replayed_total").increment(1);
    match entry.state() {
        CertificateState::Issued | CertificateState::Installed => Ok(Issued { entry, replayed: true }),
        CertificateState::Revoked => Err(Failure::new(
            Code::FailedPrecondition,
            "REVOKED",
            "the certificate of this request has been revoked; use a new idempotency key for a new one",
        )),
        CertificateState::Aborted => Err(Failure::new(
            Code::Aborted,
            "INTENT_CLOSED",
            "this request was given up after a failure; use a new idempotency key",
        )),
        CertificateState::Intended => {
            let entry = finish_open(ca, &entry).await?;
            match entry.signature {
                Some(_) => Ok(Issued { entry, replayed: true }),
                // It was closed in this very moment; the retry is told why.
                None => Err(in_progress()),
            }
        }
    }
}

/// Takes an open intent to its end with the very bytes that were recorded.
///
/// # Errors
/// As [`issue()`].
pub async fn finish_open(ca: &Ca, entry: &CertificateEntry) -> Result<CertificateEntry, Failure> {
    let issuer = ca.issuer_by_id(&entry.issuer).ok_or_else(|| Failure::not_found("issuer"))?;
    let prepared = PreparedCertificate::recover(entry.tbs.clone(), &issuer.issuer).map_err(Failure::from)?;
    let claim = Claim::take(ca, &entry.issuer, &entry.serial).ok_or_else(in_progress)?;
    // Another task may have ended it since the entry was read.
    let now = ca.store.certificate(&entry.issuer, &entry.serial)?.ok_or_else(|| Failure::not_found("certificate"))?;
    if now.state() != CertificateState::Intended {
        return Ok(now);
    }
    sign_and_record(ca, &issuer, &prepared, &claim).await
}

/// At start-up and each minute: every open intent is taken to its end, or closed when it is too old for anybody to wait for it.
pub async fn repair(ca: &Ca) {
    let open = match ca.store.open_intents() {
        Ok(open) => open,
        Err(error) => {
            tracing::error!(%error, "cannot read the open intents");
            return;
        }
    };
    for entry in open {
        // The service's own are closed before (see `service_certificates`).
        if crate::service_certificates::is_service(&entry) {
            continue;
        }
        let age = entry.intended_at.until(ca.now());
        let outcome = if age > limits::INTENT_AGE {
            let abort = Abort {
                issuer: entry.issuer.clone(),
                serial: entry.serial.clone(),
                reason: "left open by an earlier run, and too old to finish".to_owned(),
            };
            ca.commit(abort).await.map(|_| "closed").map_err(Failure::from)
        } else {
            finish_open(ca, &entry).await.map(|_| "finished")
        };
        match outcome {
            Ok(done) => tracing::info!(serial = %entry.serial, done, "an intent of an earlier run"),
            Err(error) => tracing::warn!(serial = %entry.serial, %error, "an intent of an earlier run stays open"),
        }
    }
}

/// The certificate of a record, put together from its parts.
///
/// # Errors
/// INTERNAL when the record holds no certificate.
pub fn certificate(entry: &CertificateEntry) -> Result<Certificate, Failure> {
    let signature = entry.signature.as_deref().ok_or_else(|| Failure::internal("a record without a signature"))?;
    let der = ca_core::certificate::assemble(&entry.tbs, entry.algorithm, signature);
    Certificate::from_der(&der).map_err(Failure::internal)
}
