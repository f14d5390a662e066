//! The certificate authority put together: store, token, clock, issuers, profiles and attestation.

use crate::{
    clock::Clock,
    config::{Config, ConfigError},
    error::Failure,
    limits,
    publish::Publisher,
    strangers::Strangers,
};
use arc_swap::ArcSwap;
use ca_core::{
    certificate::Certificate,
    id::{IssuerId, ProfileName, TenantId},
    issuer::{Issuer, IssuerState, IssuerUrls},
    key::{PublicKey, SignatureAlgorithm},
    profile::CertificateProfile,
    time::UnixTime,
};
use enrollment::attestation::{policy::AppraisalPolicy, session::ChallengeTable, trust::TrustStores};
use hsm::{HsmError, KeyId, SignRequest, Token};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use store::{Change, IssuerEntry, Store, StoreError};
use tokio::sync::{Semaphore, oneshot};
use tonic::Code;
use zeroize::Zeroizing;

/// A profile with its text, as GetProfile shows it and as issuance records it.
pub struct LoadedProfile {
    /// The compiled profile.
    pub profile: CertificateProfile,
    /// Its TOML.
    pub toml: String,
    /// SHA-256 of that.
    pub sha256: [u8; 32],
    /// What evidence must show.
    pub attestation: AppraisalPolicy,
}

/// An issuer with its keys in the token.
pub struct LoadedIssuer {
    /// The issuer.
    pub issuer: Issuer,
    /// Its key.
    pub key: KeyId,
    /// Its delegated OCSP responder; a root has none.
    pub responder: Option<Responder>,
}

/// A delegated OCSP responder (RFC 6960 4.2.2.2).
pub struct Responder {
    /// Its certificate.
    pub certificate: Certificate,
    /// Its key.
    pub key: KeyId,
}

/// Secrets of fresh enrollment tokens, so that a lost answer can be asked for again.
pub type FreshSecrets = HashMap<String, (Instant, Zeroizing<String>)>;

/// Everything that handlers share.
pub struct Ca {
    /// The configuration.
    pub config: Config,
    /// The journal and its index.
    pub store: Store,
    /// The token.
    pub token: Token,
    /// The clock.
    pub clock: Clock,
    /// Profiles by name.
    pub profiles: BTreeMap<ProfileName, LoadedProfile>,
    /// Issuers; replaced as a whole when one changes.
    pub issuers: ArcSwap<Vec<Arc<LoadedIssuer>>>,
    /// Trust anchors for evidence.
    pub trust: TrustStores,
    /// Challenges in the air.
    challenges: Mutex<ChallengeTable>,
    /// Secrets of fresh tokens.
    secrets: Mutex<FreshSecrets>,
    /// Intents that a task of this process is signing.
    pub signing: Mutex<HashSet<(IssuerId, Vec<u8>)>>,
    /// Bounds issuances.
    pub issuances: Semaphore,
    /// Publishes CRLs.
    pub publisher: Arc<Publisher>,
    /// Bounds callers without a certificate.
    pub strangers: Strangers,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking holder left behind is still whole: every critical section is one insertion or removal.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ca {
    /// Puts the authority together. The store must have been initialised.
    ///
    /// # Errors
    /// When a profile, trust store or recorded issuer cannot be loaded.
    pub fn assemble(config: Config, store: Store, token: Token) -> anyhow::Result<Arc<Self>> {
        let trust = crate::trust::load(&config.trust_stores)?;
        let mut profiles = BTreeMap::new();
        for (profile, spec) in config.compiled_profiles()? {
            let toml = toml::to_string(&spec)?;
            let name = profile.name().clone();
            let policy = config.attestation.get(name.as_str()).cloned().unwrap_or_default();
            let attestation = AppraisalPolicy::compile(&policy, &trust)
                .map_err(|e| ConfigError::Value { key: format!("attestation.{name}"), problem: e.to_string() })?;
            let sha256 = Sha256::digest(&toml).into();
            profiles.insert(name, LoadedProfile { profile, toml, sha256, attestation });
        }
        let publisher = Arc::new(Publisher::new(&config.data_dir));
        let woken = publisher.clone();
        store.on_revocation(Box::new(move |issuer| woken.wake(issuer)));
        let ca = Self {
            issuers: ArcSwap::from_pointee(load_issuers(&store)?),
            clock: Clock::start(&store, config.accept_clock),
            config,
            store,
            token,
            profiles,
            trust,
            challenges: Mutex::new(ChallengeTable::new()),
            secrets: Mutex::new(HashMap::new()),
            signing: Mutex::new(HashSet::new()),
            issuances: Semaphore::new(limits::ISSUANCES),
            publisher,
            strangers: Strangers::default(),
        };
        Ok(Arc::new(ca))
    }

    /// Reads the issuers again after one changed.
    ///
    /// # Errors
    /// When a recorded issuer cannot be parsed.
    pub fn reload_issuers(&self) -> anyhow::Result<()> {
        self.issuers.store(Arc::new(load_issuers(&self.store)?));
        Ok(())
    }

    /// The challenges in the air.
    pub fn challenges(&self) -> MutexGuard<'_, ChallengeTable> {
        lock(&self.challenges)
    }

    /// Secrets of fresh tokens.
    pub fn secrets(&self) -> MutexGuard<'_, FreshSecrets> {
        lock(&self.secrets)
    }

    /// Takes or releases an intent for signing.
    pub fn signing(&self) -> MutexGuard<'_, HashSet<(IssuerId, Vec<u8>)>> {
        lock(&self.signing)
    }

    /// The tenant's issuer that issues now.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when it has none.
    pub fn active_issuer(&self, tenant: &TenantId) -> Result<Arc<LoadedIssuer>, Failure> {
        self.issuers
            .load()
            .iter()
            .find(|i| i.issuer.tenant() == tenant && i.issuer.state() == IssuerState::Active)
            .cloned()
            .ok_or_else(|| {
                Failure::new(Code::FailedPrecondition, "NO_ISSUER", "this tenant has no issuer that issues now")
            })
    }

    /// One issuer of the tenant.
    ///
    /// # Errors
    /// NOT_FOUND, also for another tenant's.
    pub fn issuer(&self, tenant: &TenantId, id: &IssuerId) -> Result<Arc<LoadedIssuer>, Failure> {
        self.issuer_by_id(id).filter(|i| i.issuer.tenant() == tenant).ok_or_else(|| Failure::not_found("issuer"))
    }

    /// One issuer of any tenant.
    pub fn issuer_by_id(&self, id: &IssuerId) -> Option<Arc<LoadedIssuer>> {
        self.issuers.load().iter().find(|i| i.issuer.id() == id).cloned()
    }

    /// Whether the tenant exists.
    pub fn has_tenant(&self, tenant: &TenantId) -> bool {
        self.issuers.load().iter().any(|i| i.issuer.tenant() == tenant)
    }

    /// A profile by name.
    ///
    /// # Errors
    /// INVALID_ARGUMENT naming the field `profile`.
    pub fn profile(&self, name: &ProfileName) -> Result<&LoadedProfile, Failure> {
        self.profiles.get(name).ok_or_else(|| {
            Failure::field(
                "profile",
                "UNKNOWN_PROFILE",
                format!("there is no profile '{name}'; ListProfiles names them"),
            )
        })
    }

    /// Makes a change durable. The clock's stamp is taken here.
    ///
    /// # Errors
    /// What the store says.
    pub async fn commit<C: Change>(&self, change: C) -> Result<C::Outcome, StoreError> {
        let (done, outcome) = oneshot::channel();
        self.store.submit(change, self.clock.stamp(&self.store), move |result| {
            let _ = done.send(result);
        });
        outcome.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Signs in the token, which verifies the result before it lets it go (design, invariant 2).
    ///
    /// # Errors
    /// UNAVAILABLE with a retry hint while the token is down; INTERNAL when the signature does not verify.
    #[tracing::instrument(level = "debug", skip_all, fields(what, %key))]
    pub async fn sign(
        &self,
        what: &'static str,
        key: KeyId,
        public_key: &PublicKey,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let begun = Instant::now();
        let (done, outcome) = oneshot::channel();
        let request = SignRequest { key, public_key: public_key.clone(), algorithm, message: message.to_vec() };
        let done = Box::new(move |result| {
            let _ = done.send(result);
        });
        // Revocation and status outrank enrollment (design, invariant 11).
        match what {
            "crl" | "ocsp" | "probe" => self.token.submit_urgent(request, done),
            _ => self.token.submit(request, done),
        }
        let waited = tokio::time::timeout(self.config.token.deadline, outcome).await;
        let signature = match waited {
            Ok(Ok(Ok(signature))) => signature,
            Ok(Ok(Err(error))) => return Err(token_failure(&error)),
            Ok(Err(_)) => return Err(token_failure(&HsmError::Closed)),
            Err(_) => return Err(token_failure(&HsmError::Deadline { after: self.config.token.deadline })),
        };
        metrics::histogram!("sealwright_sign_seconds", "what" => what).record(begun.elapsed().as_secs_f64());
        Ok(signature)
    }

    /// The time for status and reads.
    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }
}

/// A key identifier as the journal keeps it.
///
/// # Errors
/// When it has not 16 octets.
pub fn key_id(octets: &[u8]) -> anyhow::Result<KeyId> {
    Ok(KeyId::from_bytes(octets.try_into()?))
}

/// The one mapping from token errors to the edge.
pub fn token_failure(error: &HsmError) -> Failure {
    metrics::counter!("sealwright_token_failures_total", "retryable" => if error.is_retryable() { "yes" } else { "no" }).increment(1);
    tracing::warn!(%error, "the token did not sign");
    if error.is_retryable() {
        Failure::new(
            Code::Unavailable,
            "TOKEN_UNAVAILABLE",
            "the signing token does not answer; send the same request again later",
        )
        .retry_after(error.retry_after().unwrap_or(std::time::Duration::from_secs(1)))
    } else {
        Failure::new(Code::Internal, "TOKEN_FAILED", "the signing token refused; run 'sealwright doctor' on the server")
    }
}

fn load_issuers(store: &Store) -> anyhow::Result<Vec<Arc<LoadedIssuer>>> {
    store.issuers()?.iter().map(load_issuer).map(|r| r.map(Arc::new)).collect()
}

fn load_issuer(entry: &IssuerEntry) -> anyhow::Result<LoadedIssuer> {
    use anyhow::Context;
    let about = || format!("issuer {}", entry.id);
    let certificate = Certificate::from_der(&entry.certificate).with_context(about)?;
    let chain =
        entry.chain.iter().map(|der| Certificate::from_der(der)).collect::<Result<_, _>>().with_context(about)?;
    let state = match entry.state {
        store::IssuerState::Staged => IssuerState::Staged,
        store::IssuerState::Active => IssuerState::Active,
        store::IssuerState::Draining => IssuerState::Draining,
        store::IssuerState::Retired => IssuerState::Retired,
    };
    let urls = IssuerUrls::new(&entry.urls.crl, &entry.urls.ocsp, &entry.urls.ca_issuers).with_context(about)?;
    let mut issuer =
        Issuer::new(entry.id.clone(), entry.tenant.clone(), state, certificate, chain, urls).with_context(about)?;
    if let Some(algorithm) = entry.signature_algorithm {
        issuer = issuer.with_signature_algorithm(algorithm).with_context(about)?;
    }
    let responder = if entry.ocsp_certificate.is_empty() {
        None
    } else {
        Some(Responder {
            certificate: Certificate::from_der(&entry.ocsp_certificate).with_context(about)?,
            key: key_id(&entry.ocsp_key_id).with_context(about)?,
        })
    };
    Ok(LoadedIssuer { issuer, key: key_id(&entry.key_id).with_context(about)?, responder })
}
