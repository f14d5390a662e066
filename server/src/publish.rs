//! CRLs: signed on a schedule and after revocations, kept in a file each, served from memory.

use crate::{ca::Ca, error::Failure, limits};
use axum::body::Bytes;
use ca_core::{id::IssuerId, issuer::IssuerState, serial::SerialNumber, time::UnixTime};
use revocation::{
    CrlReason,
    crl::{self, CrlRequest, CrlScope, RevokedEntry},
};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};
use store::{PublishCrl, ReserveCrlNumber, Store};
use tokio::sync::Notify;

/// A CRL as it is served.
pub struct PublishedCrl {
    /// Its number.
    pub number: u64,
    /// thisUpdate.
    pub this_update: UnixTime,
    /// nextUpdate.
    pub next_update: UnixTime,
    /// The CertificateList, DER.
    pub der: Bytes,
    /// SHA-256 of that, hexadecimal: its entity tag.
    pub sha256: String,
    /// Every fact up to this record of the journal is in it.
    sequence: u64,
    /// The listed serial numbers, sorted.
    pub(crate) serials: Vec<SerialNumber>,
}

impl PublishedCrl {
    /// Whether this CRL lists the certificate.
    pub fn lists(&self, serial: &SerialNumber) -> bool {
        self.serials.binary_search(serial).is_ok()
    }

    /// How many certificates it lists.
    pub fn len(&self) -> usize {
        self.serials.len()
    }

    /// Whether it lists none.
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }
}

/// The published CRLs, and who waits for the next.
pub struct Publisher {
    dir: PathBuf,
    current: RwLock<HashMap<IssuerId, Arc<PublishedCrl>>>,
    wake: Mutex<HashMap<IssuerId, Arc<Notify>>>,
}

impl Publisher {
    /// CRL files live in `crl/` under `data_dir`.
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("crl"), current: RwLock::default(), wake: Mutex::default() }
    }

    /// The newest CRL of an issuer.
    pub fn current(&self, issuer: &IssuerId) -> Option<Arc<PublishedCrl>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).get(issuer).cloned()
    }

    /// Wakes the schedule of an issuer whose facts changed. The store calls this, not the handlers: a caller that goes
    /// away must not keep a revocation from being published.
    pub fn wake(&self, issuer: &IssuerId) {
        self.notify(issuer).notify_one();
    }

    fn notify(&self, issuer: &IssuerId) -> Arc<Notify> {
        let mut wake = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
        wake.entry(issuer.clone()).or_default().clone()
    }

    /// The newest recorded CRL, from its file.
    ///
    /// # Errors
    /// When none was ever published, or the file is not the recorded one.
    pub fn stored(&self, store: &Store, issuer: &IssuerId) -> anyhow::Result<PublishedCrl> {
        let recorded = store.crl(issuer)?.ok_or_else(|| anyhow::anyhow!("none was ever published"))?;
        let der = fs::read(self.file(issuer, recorded.number))?;
        anyhow::ensure!(<[u8; 32]>::from(Sha256::digest(&der)) == recorded.sha256, "the file is not the recorded CRL");
        Ok(PublishedCrl {
            number: recorded.number,
            this_update: recorded.this_update,
            next_update: recorded.next_update,
            sha256: hex::encode(recorded.sha256),
            sequence: recorded.sequence,
            serials: crl::serials(&der)?,
            der: der.into(),
        })
    }

    fn set(&self, issuer: &IssuerId, crl: PublishedCrl) {
        let labels = [("issuer", issuer.to_string())];
        metrics::gauge!("sealwright_crl_number", &labels).set(crl.number as f64);
        metrics::gauge!("sealwright_crl_entries", &labels).set(crl.len() as f64);
        self.current.write().unwrap_or_else(PoisonError::into_inner).insert(issuer.clone(), Arc::new(crl));
    }

    /// The number is in the name: a CRL that was written and never recorded does not replace the one that was.
    fn file(&self, issuer: &IssuerId, number: u64) -> PathBuf {
        // An issuer id has no slash (see `id`), and the suffix keeps it from being "..".
        self.dir.join(format!("{issuer}.{number}.crl"))
    }

    /// Removes the files of other numbers; one that stays does no harm.
    fn sweep(&self, issuer: &IssuerId, number: u64) {
        let keep = self.file(issuer, number);
        let prefix = format!("{issuer}.");
        for path in fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|e| e.path()) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let rest = name.strip_prefix(&prefix).and_then(|r| r.strip_suffix(".crl"));
            if path != keep && rest.is_some_and(|r| r.bytes().all(|b| b.is_ascii_digit())) {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// The CRL's schedule for one issuer; runs for the life of the service.
pub async fn run(ca: Arc<Ca>, issuer: IssuerId) {
    let wake = ca.publisher.notify(&issuer);
    if let Err(error) = load(&ca, &issuer) {
        tracing::info!(%issuer, %error, "no usable CRL on disk; a new one is made");
    }
    let mut backoff = Duration::from_secs(1);
    loop {
        if is_due(&ca, &issuer) || is_behind(&ca, &issuer) {
            match publish(&ca, &issuer).await {
                Ok(()) => backoff = Duration::from_secs(1),
                Err(error) => {
                    tracing::warn!(%issuer, %error, "no new CRL could be made; the old one stays");
                    metrics::counter!("sealwright_crl_failures_total", "issuer" => issuer.to_string()).increment(1);
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(Duration::from_secs(30));
                    continue;
                }
            }
        }
        tokio::select! {
            () = wake.notified() => tokio::time::sleep(ca.config.status.crl_delay).await,
            // Short steps: the wall clock decides, also after the machine was suspended.
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }
}

fn is_due(ca: &Ca, issuer: &IssuerId) -> bool {
    let now = ca.now();
    // A CRL from the future was made while the clock was wrong; nobody accepts it.
    ca.publisher.current(issuer).is_none_or(|c| {
        now >= c.this_update.plus(ca.config.status.crl_validity / 2) || now.plus(limits::CLOCK_BEHIND) < c.this_update
    })
}

fn is_behind(ca: &Ca, issuer: &IssuerId) -> bool {
    let Some(current) = ca.publisher.current(issuer) else { return true };
    ca.store.revoked_sequence(issuer).is_ok_and(|newest| newest > current.sequence)
}

/// An expired certificate stays on the CRLs of two more periods (RFC 5280 3.3 asks for one).
/// While the clock is at fault the journal's time counts: a clock that is years ahead must not empty the list.
fn keep(ca: &Ca, not_after: UnixTime) -> bool {
    not_after.plus(ca.config.status.crl_validity * 2) >= ca.clock.stamp(&ca.store)
}

fn load(ca: &Ca, issuer: &IssuerId) -> anyhow::Result<()> {
    let crl = ca.publisher.stored(&ca.store, issuer)?;
    ca.publisher.set(issuer, crl);
    Ok(())
}

/// Makes, signs, stores and publishes one CRL. Its number is durable before the token is asked.
async fn publish(ca: &Arc<Ca>, id: &IssuerId) -> Result<(), Failure> {
    let Some(issuer) = ca.issuer_by_id(id).filter(|i| i.issuer.state() != IssuerState::Retired) else {
        return Ok(());
    };
    let begun = Instant::now();
    let number = ca.commit(ReserveCrlNumber { issuer: id.clone() }).await?;
    let this_update = ca.now();
    let next_update = this_update.plus(ca.config.status.crl_validity);
    let (entries, sequence) = tokio::task::block_in_place(|| collect(ca, id, this_update))?;
    let mut serials: Vec<SerialNumber> = entries.iter().map(|e| e.serial.clone()).collect();
    serials.sort();
    let request = CrlRequest {
        issuer_name_der: issuer.issuer.name_der(),
        authority_key_identifier: issuer.issuer.key_identifier(),
        algorithm: issuer.issuer.signature_algorithm(),
        number,
        this_update,
        next_update,
        idp_url: issuer.issuer.urls().crl(),
        scope: CrlScope::Everything,
    };
    let tbs = crl::prepare(&request, entries).map_err(Failure::internal)?;
    let signature = ca.sign("crl", issuer.key, issuer.issuer.public_key(), tbs.algorithm(), tbs.as_bytes()).await?;
    let der = crl::finish(tbs, &signature).map_err(Failure::internal)?;
    let sha256: [u8; 32] = Sha256::digest(&der).into();
    tokio::task::block_in_place(|| write_whole(&ca.publisher.file(id, number), &der)).map_err(Failure::internal)?;
    ca.commit(PublishCrl { issuer: id.clone(), number, this_update, next_update, sha256, sequence }).await?;
    let entries = serials.len();
    ca.publisher.sweep(id, number);
    let (der, sha256) = (der.into(), hex::encode(sha256));
    ca.publisher.set(id, PublishedCrl { number, this_update, next_update, der, sha256, sequence, serials });
    metrics::histogram!("sealwright_crl_seconds").record(begun.elapsed().as_secs_f64());
    tracing::info!(issuer = %id, number, entries, "CRL published");
    Ok(())
}

fn collect(ca: &Ca, issuer: &IssuerId, this_update: UnixTime) -> Result<(Vec<RevokedEntry>, u64), Failure> {
    let mut entries = Vec::new();
    let sequence = ca.store.revoked(issuer, &mut |e| {
        if keep(ca, e.not_after) {
            let reason = CrlReason::from_code(e.reason).unwrap_or(CrlReason::Unspecified);
            // While the clock is behind, records carry the journal's time; a date after thisUpdate would say "not yet".
            let at = e.at.min(this_update);
            entries.push(RevokedEntry { serial: e.serial, at, reason, invalidity_date: e.invalidity_date });
        }
    })?;
    Ok((entries, sequence))
}

/// Replaces a file so that every reader sees the old or the new one, whole, and a power cut leaves one of them.
///
/// # Errors
/// What the file system says.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("a file without a folder"))?;
    fs::create_dir_all(dir)?;
    let next = path.with_extension("next");
    let mut file = fs::File::create(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    fs::File::open(dir)?.sync_all()
}
