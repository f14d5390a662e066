//! Logs, metrics and readiness.

use crate::{
    ca::Ca,
    config::{LogFormat, TelemetrySection},
    limits,
};
use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use ca_core::issuer::IssuerState;
use hsm::{HsmError, Observer, TokenState, TokenStatus};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::sync::Mutex;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging to standard error. A second call changes nothing.
pub fn start_logging(section: &TelemetrySection) {
    // cryptoki logs every mechanism that it does not know as an error, at each start.
    let filter = |log: &str| EnvFilter::try_new(format!("{log},cryptoki=off"));
    let filter = filter(&section.log).or_else(|_| filter("info")).unwrap_or_default();
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match section.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Turns finished requests to a token into histograms.
pub fn token_observer() -> Observer {
    Arc::new(|o| {
        for (stage, time) in [("queue", o.queued), ("module", o.module), ("total", o.total)] {
            let labels = [
                ("token", o.token.to_owned()),
                ("operation", o.operation.to_owned()),
                ("stage", stage.to_owned()),
                ("done", if o.done { "yes" } else { "no" }.to_owned()),
            ];
            metrics::histogram!("sealwright_token_seconds", &labels).record(time.as_secs_f64());
        }
    })
}

fn sample_token(status: &TokenStatus) {
    let label = || ("token", status.name.clone());
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    let figures = status.statistics;
    metrics::gauge!("sealwright_token_up", &[label()]).set(flag(status.state == TokenState::Up));
    metrics::gauge!("sealwright_token_locked_out", &[label()]).set(flag(status.state == TokenState::LockedOut));
    metrics::gauge!("sealwright_token_workers", &[label()]).set(f64::from(status.workers));
    metrics::gauge!("sealwright_token_sessions", &[label()]).set(f64::from(status.sessions));
    metrics::gauge!("sealwright_token_in_flight", &[label()]).set(figures.in_flight as f64);
    metrics::gauge!("sealwright_token_queue").set(figures.queued as f64);
    for (kind, count) in [
        ("signature", figures.signatures),
        ("failure", figures.failures),
        ("refused", figures.refused),
        ("deadline", figures.deadlines),
        ("late", figures.late),
        ("repeated", figures.repeated),
        ("recovery", figures.recoveries),
        ("start", figures.starts),
        ("crash", figures.crashes),
        ("hang", figures.hangs),
        ("login", figures.logins),
        ("wrong-pin", figures.wrong_pins),
        ("wrong-signature", figures.wrong_signatures),
    ] {
        let labels = [label(), ("kind", kind.to_owned())];
        metrics::counter!("sealwright_token_events_total", &labels).absolute(count);
    }
}

fn recorder() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    // From 100 µs to 10 s: a signature of SoftHSM up to a network HSM that is about to fail.
    const BUCKETS: [f64; 16] =
        [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    HANDLE
        .get_or_init(|| {
            let handle = PrometheusBuilder::new().set_buckets(&BUCKETS).and_then(PrometheusBuilder::install_recorder);
            if let Err(error) = &handle {
                tracing::error!(%error, "metrics are off");
            }
            describe();
            handle.ok()
        })
        .clone()
}

fn describe() {
    use metrics::{describe_counter as counter, describe_gauge as gauge, describe_histogram as histogram};
    counter!("sealwright_issued_total", "Certificates issued, by profile");
    counter!("sealwright_replayed_total", "Requests answered again with what they had got before");
    counter!("sealwright_refused_total", "Requests refused, by method and reason");
    counter!("sealwright_revoked_total", "Certificates revoked on request");
    counter!("sealwright_ocsp_total", "OCSP answers, by kind");
    counter!("sealwright_token_failures_total", "Signatures that the token did not make, by class");
    counter!("sealwright_tls_failures_total", "TLS handshakes that failed");
    counter!("sealwright_connections_refused_total", "Connections closed at once, by listener and why");
    counter!("sealwright_crl_failures_total", "CRLs that could not be made");
    histogram!("sealwright_rpc_seconds", "Time of a gRPC call");
    histogram!("sealwright_sign_seconds", "Time from asking the token until its signature is there");
    histogram!("sealwright_crl_seconds", "Time to make and publish a CRL");
    gauge!("sealwright_crl_number", "Number of the newest CRL");
    gauge!("sealwright_crl_entries", "Certificates on the newest CRL");
    gauge!("sealwright_crl_age_seconds", "Age of the newest CRL");
    gauge!("sealwright_crl_seconds_left", "Time until nextUpdate of the newest CRL; negative when it is stale");
    gauge!("sealwright_journal_records", "Records in the journal");
    gauge!("sealwright_journal_bytes", "Size of the journal");
    counter!("sealwright_journal_syncs_total", "Syncs of the journal; records / syncs is the group commit's size");
    gauge!("sealwright_journal_sync_seconds_total", "Time spent in syncs of the journal");
    gauge!("sealwright_journal_queue", "Changes that wait for the journal");
    histogram!(
        "sealwright_token_seconds",
        "Time of a request to a token, by token, operation and stage (queue, module, total)"
    );
    gauge!("sealwright_token_up", "1 when the token signs, 0 when its breaker is open, by token");
    gauge!("sealwright_token_locked_out", "1 when we try no PIN until an operator says so, by token");
    gauge!("sealwright_token_workers", "Signer processes that serve, by token");
    gauge!("sealwright_token_sessions", "Sessions in them, by token");
    gauge!("sealwright_token_in_flight", "Requests that signers have, by token");
    gauge!("sealwright_token_queue", "Requests that wait for any token");
    counter!("sealwright_token_events_total", "What happened to a token, by token and kind");
}

/// Metrics and readiness of one running service.
#[derive(Clone)]
pub struct Telemetry {
    ca: Arc<Ca>,
    metrics: Option<PrometheusHandle>,
    probe: Arc<Mutex<Option<Probe>>>,
}

/// The outcome of the last readiness probe, and when it was.
type Probe = (Instant, Result<(), String>);

impl Telemetry {
    /// Starts the recorder, once a process.
    pub fn new(ca: Arc<Ca>) -> Self {
        Self { ca, metrics: recorder(), probe: Arc::default() }
    }

    /// The routes, for a listener of their own.
    pub fn router(self) -> Router {
        Router::new()
            .fallback(|State(t): State<Self>, request: Request| async move { t.answer(request.uri().path()).await })
            .with_state(self)
    }

    /// Answers `/metrics`, `/livez` and `/readyz`.
    pub async fn answer(&self, path: &str) -> Response {
        match path {
            "/livez" => "ok\n".into_response(),
            "/readyz" => match self.ready().await {
                Ok(()) => format!("ready\n{}", self.alarms()).into_response(),
                Err(reason) => {
                    let text = format!("not ready: {reason}\n{}", self.alarms());
                    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
                }
            },
            "/metrics" => {
                self.sample();
                let text = self.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default();
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
            }
            _ => (StatusCode::NOT_FOUND, "there is nothing here\n").into_response(),
        }
    }

    /// Keeps the histograms small, whether or not anybody reads them; runs for the life of the service.
    pub async fn upkeep(self) {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            if let Some(metrics) = &self.metrics {
                metrics.run_upkeep();
            }
        }
    }

    /// Ready means: the clock is right, each CRL is current, and the keys that issue now sign.
    ///
    /// # Errors
    /// A sentence naming what is not.
    pub async fn ready(&self) -> Result<(), String> {
        // Whoever asks: a probe costs a signature of every active issuer.
        let mut probe = self.probe.lock().await;
        if let Some((at, result)) = probe.as_ref()
            && at.elapsed() < limits::PROBE_AGE
        {
            return result.clone();
        }
        let result = self.probe_now().await;
        *probe = Some((Instant::now(), result.clone()));
        result
    }

    /// A line for each token that somebody should look at, whether or not another one signs in its place.
    fn alarms(&self) -> String {
        let alarm = |status: TokenStatus| {
            let what = match &status.state {
                TokenState::Up if status.statistics.wrong_signatures > 0 => {
                    format!("{} wrong signatures, withheld", status.statistics.wrong_signatures)
                }
                TokenState::Up => return None,
                TokenState::Starting => "it is being started anew".to_owned(),
                TokenState::Down(error) => error.to_string(),
                TokenState::LockedOut => HsmError::PinLockedOut.to_string(),
            };
            Some(format!("alarm: token '{}': {what}\n", status.name))
        };
        self.ca.token.status().into_iter().filter_map(alarm).collect()
    }

    async fn probe_now(&self) -> Result<(), String> {
        if let Some(refusal) = self.ca.store.refusal() {
            return Err(format!("the journal takes no records: {refusal}"));
        }
        if let Some(fault) = self.ca.clock.fault(&self.ca.store) {
            return Err(format!("the clock is at fault ({fault:?})"));
        }
        let issuers = self.ca.issuers.load_full();
        for loaded in issuers.iter() {
            let id = loaded.issuer.id();
            let stale = self.ca.publisher.current(id).is_none_or(|c| c.next_update <= self.ca.now());
            if stale {
                return Err(format!("the CRL of {id} is stale"));
            }
            // A root's key is for its CRL alone.
            if loaded.issuer.state() != IssuerState::Active {
                continue;
            }
            // A text that is no TBSCertificate, TBSCertList or ResponseData: its signature is worth nothing elsewhere.
            let message = format!("sealwright readiness probe, {} at {}", id, self.ca.now());
            let (key, public) = (loaded.key, loaded.issuer.public_key());
            let algorithm = loaded.issuer.signature_algorithm();
            self.ca.sign("probe", key, public, algorithm, message.as_bytes()).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Gauges that are read when somebody looks.
    fn sample(&self) {
        let now = self.ca.now();
        for loaded in self.ca.issuers.load().iter() {
            let id = loaded.issuer.id();
            if let Some(crl) = self.ca.publisher.current(id) {
                let labels = [("issuer", id.to_string())];
                metrics::gauge!("sealwright_crl_age_seconds", &labels).set(crl.this_update.until(now).as_secs_f64());
                let left = crl.next_update.as_secs() as f64 - now.as_secs() as f64;
                metrics::gauge!("sealwright_crl_seconds_left", &labels).set(left);
            }
        }
        let journal = self.ca.store.statistics();
        metrics::gauge!("sealwright_journal_records").set(journal.records as f64);
        metrics::gauge!("sealwright_journal_bytes").set(journal.octets as f64);
        metrics::counter!("sealwright_journal_syncs_total").absolute(journal.syncs);
        metrics::gauge!("sealwright_journal_sync_seconds_total").set(journal.sync_sum.as_secs_f64());
        metrics::gauge!("sealwright_journal_queue").set(journal.queue as f64);
        for status in self.ca.token.status() {
            sample_token(&status);
        }
    }
}
