//! The OCSP responder (RFC 6960): asks the journal's index, signs in the token, keeps what it signed for a while.

use crate::{
    ca::{Ca, LoadedIssuer, Responder},
    limits, service_certificates,
};
use ca_core::time::UnixTime;
use revocation::{
    CrlReason,
    ocsp::{self, CertId, CertStatus, Failure, IssuerHashes, Request, ResponderInfo, SingleStatus},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Semaphore;

/// The answer to one request.
pub struct Answer {
    /// The OCSPResponse, DER.
    pub der: Arc<Vec<u8>>,
    /// thisUpdate and nextUpdate of a successful answer without nonce, which may be cached.
    pub cacheable: Option<(UnixTime, UnixTime)>,
}

struct Cached {
    status: CertStatus,
    this_update: UnixTime,
    next_update: UnixTime,
    der: Arc<Vec<u8>>,
}

/// The responder of all issuers.
pub struct OcspService {
    ca: Arc<Ca>,
    cache: Mutex<HashMap<CertId, Cached>>,
    signatures: Semaphore,
}

fn failure(kind: Failure) -> Answer {
    let label = match kind {
        Failure::MalformedRequest => "malformed",
        Failure::InternalError => "internal",
        Failure::TryLater => "try_later",
        Failure::Unauthorized => "unauthorized",
    };
    metrics::counter!("sealwright_ocsp_total", "answer" => label).increment(1);
    Answer { der: Arc::new(kind.der().to_vec()), cacheable: None }
}

impl OcspService {
    /// A responder with an empty cache.
    pub fn new(ca: Arc<Ca>) -> Self {
        Self { ca, cache: Mutex::default(), signatures: Semaphore::new(limits::OCSP_SIGNATURES) }
    }

    /// Answers one DER request.
    pub async fn answer(&self, request: &[u8]) -> Answer {
        match Request::parse(request) {
            Ok(request) => self.answer_parsed(&request).await.unwrap_or_else(failure),
            Err(error) => {
                tracing::debug!(%error, "OCSP request refused");
                failure(error.failure())
            }
        }
    }

    /// The answer to a path that holds no request.
    pub fn refuse(&self, error: ocsp::RequestError) -> Answer {
        tracing::debug!(%error, "OCSP path refused");
        failure(error.failure())
    }

    async fn answer_parsed(&self, request: &Request) -> Result<Answer, Failure> {
        let issuer = self.issuer_of(request)?;
        // An issuing CA's responder is made by the renewal task; a root never has one.
        let missing = if service_certificates::is_issuing(&issuer) { Failure::TryLater } else { Failure::Unauthorized };
        let responder = issuer.responder.as_ref().ok_or(missing)?;
        let now = self.ca.now();
        // A responder past its end must not sign (RFC 6960 4.2.2.2); its successor is made by the renewal task.
        if !responder.certificate.is_valid_at(now) {
            return Err(Failure::TryLater);
        }
        let next_update = now.plus(self.ca.config.status.ocsp_validity).min(responder.certificate.not_after());
        let statuses = request
            .cert_ids()
            .iter()
            .map(|id| self.status(&issuer, id).map(|status| (id.clone(), status)))
            .collect::<Result<Vec<_>, _>>()?;
        let single = match (statuses.as_slice(), request.nonce()) {
            ([(id, status)], None) => Some((id.clone(), *status)),
            _ => None,
        };
        if let Some(answer) = single.as_ref().and_then(|(id, status)| self.cached(id, *status, now)) {
            return Ok(answer);
        }
        let statuses: Vec<SingleStatus> = statuses
            .into_iter()
            .map(|(cert_id, status)| SingleStatus { cert_id, status, this_update: now, next_update: Some(next_update) })
            .collect();
        let der = Arc::new(self.sign(&issuer, responder, now, &statuses, request.nonce()).await?);
        metrics::counter!("sealwright_ocsp_total", "answer" => "signed").increment(1);
        if let Some((id, status)) = single {
            self.keep(id, Cached { status, this_update: now, next_update, der: der.clone() });
            return Ok(Answer { der, cacheable: Some((now, next_update)) });
        }
        Ok(Answer { der, cacheable: None })
    }

    /// All CertIDs of one request must be of one issuer: one answer has one signer.
    fn issuer_of(&self, request: &Request) -> Result<Arc<LoadedIssuer>, Failure> {
        let issuers = self.ca.issuers.load();
        issuers
            .iter()
            .find(|i| {
                let hashes = IssuerHashes::new(i.issuer.name_der(), i.issuer.public_key().key_bits());
                request.cert_ids().iter().all(|id| hashes.matches(id))
            })
            .cloned()
            .ok_or(Failure::Unauthorized)
    }

    /// `good` is said only of a certificate that we issued.
    fn status(&self, issuer: &LoadedIssuer, id: &CertId) -> Result<CertStatus, Failure> {
        let Some(serial) = id.serial() else { return Ok(CertStatus::Unknown) };
        let entry = self.ca.store.certificate(issuer.issuer.id(), serial).map_err(|error| {
            tracing::error!(%error, "OCSP cannot read the store");
            Failure::InternalError
        })?;
        Ok(match entry {
            None => CertStatus::Unknown,
            Some(entry) => match (&entry.revocation, &entry.signature) {
                (Some(r), _) => CertStatus::Revoked {
                    at: r.at.min(self.ca.now()),
                    reason: CrlReason::from_code(r.reason).unwrap_or(CrlReason::Unspecified),
                },
                (None, Some(_)) => CertStatus::Good,
                (None, None) => CertStatus::Unknown,
            },
        })
    }

    /// A kept answer serves while the status is what it says and half of its time is left.
    fn cached(&self, id: &CertId, status: CertStatus, now: UnixTime) -> Option<Answer> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = cache.get(id)?;
        let fresh_until = kept.this_update.plus(kept.this_update.until(kept.next_update) / 2);
        if kept.status != status || now > fresh_until || now < kept.this_update {
            return None;
        }
        metrics::counter!("sealwright_ocsp_total", "answer" => "cached").increment(1);
        Some(Answer { der: kept.der.clone(), cacheable: Some((kept.this_update, kept.next_update)) })
    }

    fn keep(&self, id: CertId, answer: Cached) {
        // An answer about nobody's certificate is not worth a place: anybody can ask for any number of them.
        if answer.status == CertStatus::Unknown {
            return;
        }
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        // Answers of one issuer have one length.
        let places = limits::OCSP_CACHE.min(limits::OCSP_CACHE_OCTETS / answer.der.len().max(1));
        if cache.len() >= places && !cache.contains_key(&id) {
            cache.clear();
        }
        cache.insert(id, answer);
    }

    async fn sign(
        &self,
        issuer: &LoadedIssuer,
        responder: &Responder,
        now: UnixTime,
        statuses: &[SingleStatus],
        nonce: Option<&ocsp::Nonce>,
    ) -> Result<Vec<u8>, Failure> {
        let _slot = self.signatures.try_acquire().map_err(|_| Failure::TryLater)?;
        let key = responder.certificate.public_key();
        let algorithm = issuer.issuer.responder_algorithm(key);
        let info = ResponderInfo::new(key, algorithm, vec![responder.certificate.der().to_vec()]);
        let internal = |error| {
            tracing::error!(%error, "OCSP response");
            Failure::InternalError
        };
        let tbs = ocsp::prepare(&info, now, statuses, nonce).map_err(internal)?;
        let signature = self.ca.sign("ocsp", responder.key, key, algorithm, tbs.as_bytes()).await;
        let signature = signature.map_err(|_| Failure::TryLater)?;
        ocsp::finish(&tbs, &info, &signature).map_err(internal)
    }
}

/// How long a relying party's proxy may keep an answer: short, so that a revocation is seen within a minute everywhere.
pub const PROXY_AGE: Duration = Duration::from_secs(60);
