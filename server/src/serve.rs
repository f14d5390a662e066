//! Starts and stops the service: checks what it has, binds what it serves, ends in order.

use crate::{
    authority::Authority,
    ca::{Ca, key_id},
    config::Config,
    enroll::Enrollment,
    error::Failure,
    http::{self, StatusHttp},
    identity::Gate,
    inventory::Inventory,
    issuance, limits,
    listen::{self, Bounds, Counted, Door},
    malformed::Malformed,
    ocsp::OcspService,
    principals::Principals,
    publish,
    revoke::Revoker,
    service_certificates,
    telemetry::{self, Telemetry},
    tls::{self, Doors, ServerTls},
    token_identity::{self, Known},
    waiting,
};
use anyhow::{Context, Result, bail, ensure};
use arc_swap::ArcSwap;
use ca_core::certificate::Certificate;
use hsm::{HsmError, KeyId, Program, Token, TokensConfig};
use proto::v1::{
    access_service_server::AccessServiceServer, authority_service_server::AuthorityServiceServer,
    certificate_service_server::CertificateServiceServer, enrollment_service_server::EnrollmentServiceServer,
    revocation_service_server::RevocationServiceServer,
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use store::{OpenOptions, OpenReport, ServerIdentityEntry, Store};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::Routes, transport::Server};

/// A running service.
pub struct Running {
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where plain HTTP listens.
    pub http: SocketAddr,
    /// Where telemetry listens, if on its own.
    pub telemetry: Option<SocketAddr>,
    /// The authority, for what `dev` does beside serving.
    pub ca: Arc<Ca>,
    stop: watch::Sender<bool>,
    listeners: JoinSet<Result<()>>,
    background: Vec<JoinHandle<()>>,
}

const TOKEN_UNUSABLE: &str = "the PKCS#11 token cannot be used; 'sealwright doctor' says more";

/// Opens the tokens that the configuration names. Those in `known` must prove to be the ones that were enrolled.
///
/// # Errors
/// What the token says, with what to do.
pub fn open_token(config: &Config, known: Known) -> Result<Token> {
    let tokens = token_config(config, known)?;
    Token::open(tokens).context(TOKEN_UNUSABLE)
}

/// The configuration of the HSM layer.
///
/// # Errors
/// A URI that names no token.
pub fn token_config(config: &Config, known: Known) -> Result<TokensConfig> {
    let section = &config.token;
    Ok(TokensConfig {
        tokens: section.tokens()?,
        deadline: section.deadline,
        queue: section.queue,
        program: Program::this(),
        state_dir: config.data_dir.is_dir().then(|| config.data_dir.clone()),
        known: known.identities,
        serves: false,
        exceptions: known.exceptions,
        observer: Some(telemetry::token_observer()),
    })
}

/// Opens the journal.
///
/// # Errors
/// What the store says, with what to do.
pub fn open_store(config: &Config, create: bool) -> Result<(Store, OpenReport)> {
    let options = OpenOptions { create, ..OpenOptions::default() };
    let (store, report) = Store::open(&config.data_dir, options)
        .with_context(|| format!("the journal in {} cannot be opened", config.data_dir.display()))?;
    tracing::info!(?report, "journal open");
    Ok((store, report))
}

/// Opens journal and token and puts the authority together.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn open(config: Config, create: bool) -> Result<Arc<Ca>> {
    let (store, _) = open_store(&config, create)?;
    let token = open_token(&config, token_identity::known(&store)?)?;
    Ca::assemble(config, store, token)
}

/// Every issuer's and responder's key must be in the token and be the key of its certificate.
///
/// # Errors
/// Names the key that is missing or different.
pub fn check_keys(ca: &Ca) -> Result<()> {
    for loaded in ca.issuers.load().iter() {
        let id = loaded.issuer.id();
        check_key(&ca.token, loaded.key, loaded.issuer.certificate()).with_context(|| format!("issuer {id}"))?;
        if let Some(responder) = &loaded.responder {
            check_key(&ca.token, responder.key, &responder.certificate)
                .with_context(|| format!("OCSP responder of {id}"))?;
        }
    }
    Ok(())
}

fn check_key(token: &Token, id: KeyId, certificate: &Certificate) -> Result<()> {
    let key = token.find(&id)?;
    ensure!(
        key.public_key == *certificate.public_key(),
        "the key {id} in the token is not the key of its certificate; the token was changed or swapped"
    );
    if let Some(flaw) = token.flaw(&key) {
        bail!("the key {id} may not sign here: {flaw}; restore the token that it was made in");
    }
    token.prove(&id, certificate.public_key()).context("the key does not sign")?;
    Ok(())
}

/// The plain HTTP listener, which may serve before the rest.
struct Front {
    address: SocketAddr,
    router: Arc<ArcSwap<axum::Router>>,
    bounds: Bounds,
    stop: watch::Sender<bool>,
    listeners: JoinSet<Result<()>>,
}

impl Front {
    async fn open(config: &Config, router: axum::Router) -> Result<Self> {
        let listener = bind(config.http.listen, "http.listen").await?;
        let (bounds, router) = (Bounds::of_process(), Arc::new(ArcSwap::from_pointee(router)));
        let (stop, stopped) = watch::channel(false);
        let address = listener.local_addr()?;
        let mut listeners = JoinSet::new();
        listeners.spawn(listen::serve_http(listener, Door::new("http", bounds.http), router.clone(), stopped));
        Ok(Self { address, router, bounds, stop, listeners })
    }
}

/// Starts everything and returns when it serves.
///
/// # Errors
/// The first thing that is not as it must be; nothing keeps running then.
pub async fn start(ca: Arc<Ca>) -> Result<Running> {
    prepare(&ca).await?;
    start_behind(ca, None).await
}

/// Checks the keys, and makes the service's own certificates.
async fn prepare(ca: &Arc<Ca>) -> Result<()> {
    if ca.issuers.load().is_empty() {
        bail!("there is no issuer yet; run 'sealwright init' first");
    }
    token_identity::enroll(ca).await?;
    tokio::task::block_in_place(|| check_keys(ca))?;
    service_certificates::renew(ca).await.context("the service's own certificates")?;
    Ok(())
}

async fn start_behind(ca: Arc<Ca>, front: Option<Front>) -> Result<Running> {
    let (leaf, config) = tls_config(&ca)?;
    let tls = Arc::new(ArcSwap::from_pointee(config));
    let grpc = bind(ca.config.grpc.listen, "grpc.listen").await?;
    let own = match ca.config.telemetry.listen {
        Some(address) => Some(bind(address, "telemetry.listen").await?),
        None => None,
    };
    let telemetry = Telemetry::new(ca.clone());
    let shared = own.is_none().then(|| telemetry.clone());
    let status = StatusHttp { ca: ca.clone(), ocsp: Arc::new(OcspService::new(ca.clone())), telemetry: shared };
    let router = http::router(status);
    let front = match front {
        Some(front) => {
            front.router.store(Arc::new(router));
            front
        }
        None => Front::open(&ca.config, router).await?,
    };
    let stopped = front.stop.subscribe();
    let mut running = Running {
        grpc: grpc.local_addr()?,
        http: front.address,
        telemetry: own.as_ref().map(TcpListener::local_addr).transpose()?,
        ca: ca.clone(),
        stop: front.stop,
        listeners: front.listeners,
        background: background(&ca, leaf, &tls),
    };
    running.background.push(tokio::spawn(telemetry.clone().upkeep()));
    let bounds = front.bounds;
    if let Some(listener) = own {
        let door = Door::new("telemetry", bounds.telemetry);
        let router = Arc::new(ArcSwap::from_pointee(telemetry.router()));
        running.listeners.spawn(listen::serve_http(listener, door, router, stopped.clone()));
    }
    let doors = Doors {
        arrivals: Door::new("grpc-arrivals", bounds.arrivals),
        members: Door::new("grpc", bounds.members),
        strangers: Door::new("grpc-strangers", bounds.strangers),
    };
    let incoming = tls::incoming(ca.clone(), grpc, doors, tls);
    running.listeners.spawn(serve_grpc(ca, incoming, stopped));
    Ok(running)
}

async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{key}: cannot listen on {address}; another program may have the port"))
}

/// The recorded TLS identity with its leaf.
fn tls_identity(ca: &Ca) -> Result<(Certificate, ServerIdentityEntry)> {
    let identity = ca.store.server_identity()?.context("the server has no TLS certificate")?;
    let leaf = Certificate::from_der(identity.chain.first().context("the server's TLS chain is empty")?)?;
    Ok((leaf, identity))
}

/// The TLS configuration from the recorded identity, and the SHA-256 of its leaf.
fn tls_config(ca: &Ca) -> Result<([u8; 32], rustls::ServerConfig)> {
    let (leaf, identity) = tls_identity(ca)?;
    let key = key_id(&identity.key_id)?;
    check_key(&ca.token, key, &leaf).context("TLS key")?;
    let issuers = ca.issuers.load();
    let config = ServerTls {
        chain: identity.chain,
        key,
        public_key: leaf.public_key().clone(),
        client_issuers: issuers.iter().map(|i| i.issuer.name_der().to_vec()).collect(),
    };
    Ok((leaf.sha256(), tls::server_config(&ca.token, config)?))
}

fn background(ca: &Arc<Ca>, leaf: [u8; 32], tls: &Arc<ArcSwap<rustls::ServerConfig>>) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    for issuer in ca.issuers.load().iter() {
        tasks.push(tokio::spawn(publish::run(ca.clone(), issuer.issuer.id().clone())));
    }
    let repaired = ca.clone();
    tasks.push(tokio::spawn(async move {
        loop {
            issuance::repair(&repaired).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }));
    let (renewed, tls) = (ca.clone(), tls.clone());
    tasks.push(tokio::spawn(keep_certificates(renewed, leaf, tls)));
    tasks
}

/// Renews the service's own certificates, and serves the recorded TLS certificate, however it came to be recorded: what
/// fails in one round is tried in the next.
async fn keep_certificates(ca: Arc<Ca>, mut served: [u8; 32], tls: Arc<ArcSwap<rustls::ServerConfig>>) {
    for round in 1_u64.. {
        tokio::time::sleep(Duration::from_secs(60)).await;
        // Each attempt records an intent, so it is made less often.
        if round % 10 == 0
            && let Err(error) = service_certificates::renew(&ca).await
        {
            tracing::warn!(error = format!("{error:#}"), "the service's own certificates could not be renewed");
        }
        let next = tokio::task::block_in_place(|| match tls_identity(&ca) {
            Ok((leaf, _)) if leaf.sha256() == served => Ok(None),
            _ => tls_config(&ca).map(Some),
        });
        match next {
            Ok(None) => {}
            Ok(Some((leaf, config))) => {
                served = leaf;
                tls.store(Arc::new(config));
                tracing::info!("the new TLS certificate is served");
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the recorded TLS certificate cannot be served yet");
            }
        }
    }
}

async fn serve_grpc(
    ca: Arc<Ca>,
    incoming: ReceiverStream<io::Result<TlsStream<Counted>>>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("sealwright.v1", tonic_health::ServingStatus::Serving).await;
    let reflection = |set: tonic_reflection::server::Builder<'static>| {
        set.register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection_v1 = reflection(tonic_reflection::server::Builder::configure()).build_v1()?;
    let reflection_v1alpha = reflection(tonic_reflection::server::Builder::configure()).build_v1alpha()?;
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(limits::REQUEST_BYTES)
                .max_encoding_message_size(limits::RESPONSE_BYTES)
        };
    }
    let routes = Routes::new(limited!(EnrollmentServiceServer, Enrollment { ca: ca.clone() }))
        .add_service(limited!(CertificateServiceServer, Inventory { ca: ca.clone() }))
        .add_service(limited!(RevocationServiceServer, Revoker { ca: ca.clone() }))
        .add_service(limited!(AuthorityServiceServer, Authority { ca: ca.clone() }))
        .add_service(limited!(AccessServiceServer, Principals { ca: ca.clone() }))
        .add_service(health_service)
        .add_service(reflection_v1)
        .add_service(reflection_v1alpha);
    Server::builder()
        .timeout(limits::CALL)
        .concurrency_limit_per_connection(limits::STREAMS_PER_CONNECTION as usize)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(16 * 1024)
        .max_connection_age(limits::CONNECTION_AGE)
        .layer(Gate::new(ca))
        .layer(Malformed)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        })
        .await?;
    Ok(())
}

impl Running {
    /// Waits until a listener ends by itself, which is a failure.
    ///
    /// # Errors
    /// What ended it.
    pub async fn failed(&mut self) -> Result<()> {
        match self.listeners.join_next().await {
            Some(ended) => ended?.and_then(|()| bail!("a listener ended")),
            None => bail!("nothing is listening"),
        }
    }

    /// Ends in order: no new calls, those in progress finish (8 s at most), the journal is closed.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        let drained =
            tokio::time::timeout(Duration::from_secs(8), async { while self.listeners.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        for task in self.background {
            task.abort();
        }
        let store = self.ca.store.clone();
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
        tracing::info!("stopped");
    }
}

/// Whether a start failed because the token is away, which may pass. A wrong PIN or key is not that.
fn is_token_away(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let token = cause.downcast_ref::<HsmError>();
        token.is_some_and(|e| e.is_retryable() || matches!(e, HsmError::TokenNotFound { .. }))
            || cause.downcast_ref::<Failure>().is_some_and(|failure| failure.reason() == "TOKEN_UNAVAILABLE")
    })
}

/// Opens the token and all that needs it. While it is away, status is served from the disk.
async fn open_patiently(config: &Config, store: &Store) -> Result<(Arc<Ca>, Option<Front>)> {
    let (mut front, mut backoff) = (None, Duration::from_secs(1));
    let tokens = TokensConfig { serves: true, ..token_config(config, token_identity::known(store)?)? };
    let token = tokio::task::block_in_place(|| Token::start(tokens))?;
    loop {
        let attempt = async {
            tokio::task::block_in_place(|| token.wait()).context(TOKEN_UNUSABLE)?;
            let ca = Ca::assemble(config.clone(), store.clone(), token.clone())?;
            prepare(&ca).await.map(|()| ca)
        };
        let error = match attempt.await {
            Ok(ca) => return Ok((ca, front)),
            Err(error) if is_token_away(&error) => error,
            Err(error) => return Err(error),
        };
        tracing::warn!(error = format!("{error:#}"), "the token is away; CRLs from the disk are served meanwhile");
        if front.is_none() {
            front = Some(Front::open(config, waiting::router(store, &config.data_dir)?).await?);
            let status = sd_notify::NotifyState::Status("waiting for the token; serving CRLs from the disk");
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready, status]);
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(Duration::from_secs(4));
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the service from starting, or what ended it.
pub async fn run(config: Config) -> Result<()> {
    let (store, _) = tokio::task::block_in_place(|| open_store(&config, false))?;
    let (ca, front) = tokio::select! {
        opened = open_patiently(&config, &store) => opened?,
        signal = terminated() => {
            let _ = tokio::task::spawn_blocking(move || store.close()).await;
            return signal;
        }
    };
    let mut running = start_behind(ca, front).await?;
    tracing::info!(grpc = %running.grpc, http = %running.http, "serving");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status("serving")]);
    let outcome = tokio::select! {
        ended = running.failed() => ended,
        signal = terminated() => signal,
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    running.stop().await;
    outcome
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When signals cannot be caught.
pub async fn terminated() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    Ok(())
}
