//! Stations that enroll and an operator who revokes, with a record of every acknowledgement: what a client was told
//! must be true after whatever befell the service.

use crate::{
    api::{Api, Credential, issued, refused, station_request},
    ca::Ca,
    device::DeviceKey,
};
use anyhow::{Context, Result, ensure};
use proto::v1::{Certificate, EnrollRequest, RevocationReason, Role, Status};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tonic_types::StatusExt;

/// Every how many enrollments one is revoked.
const REVOKE_EACH: usize = 4;
/// How long a client that is told to come again does so before it gives up.
const PATIENCE: Duration = Duration::from_secs(15);
/// It comes again after the hint, but not later than this: to come early must do no harm.
const AGAIN: Duration = Duration::from_millis(200);

#[derive(Clone, Debug)]
struct Asked {
    station: usize,
    request: EnrollRequest,
}

#[derive(Debug)]
struct Acknowledged {
    asked: Asked,
    certificate: Certificate,
    revoked: bool,
}

#[derive(Debug, Default)]
struct Record {
    // By device identifier, which each request has alone.
    pending: BTreeMap<String, Asked>,
    acknowledged: BTreeMap<String, Acknowledged>,
    // Since the last check.
    new: Vec<String>,
    refusals: Refusals,
}

/// What persistent clients were refused.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    /// With a hint when to come again.
    pub hinted: usize,
    /// The longest from a request's first refusal to its certificate.
    pub longest: Duration,
    /// Without a hint, or for longer than their patience.
    pub hopeless: Vec<String>,
}

/// What clients were told.
#[derive(Clone, Debug, Default)]
pub struct History {
    record: Arc<Mutex<Record>>,
    number: Arc<AtomicUsize>,
}

/// Running clients.
#[derive(Debug)]
pub struct Load(Vec<JoinHandle<()>>);

impl Load {
    /// Ends the clients where they are; their open requests stay pending in the history.
    pub async fn stop(self) {
        for task in &self.0 {
            task.abort();
        }
        for task in self.0 {
            // Aborted, or ended by the loss of its connection: both are expected.
            let _ = task.await;
        }
    }
}

/// Makes station principals, one for each connection of the load.
///
/// # Errors
/// The service refuses.
pub async fn stations(ca: &Ca, count: usize) -> Result<Vec<Credential>> {
    let mut admin = ca.role("admin").await?;
    let mut held = Vec::new();
    for n in 0..count {
        held.push(admin.principal(&format!("line-{n}"), Role::Station).await?.0);
    }
    Ok(held)
}

impl History {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many enrollments and how many revocations were acknowledged.
    pub fn counts(&self) -> (usize, usize) {
        let record = self.record();
        (record.acknowledged.len(), record.acknowledged.values().filter(|a| a.revoked).count())
    }

    /// Starts one client for each station; each enrolls as fast as it can until its connection is lost.
    ///
    /// # Errors
    /// A connection fails.
    pub async fn load(&self, ca: &Ca, stations: &[Credential]) -> Result<Load> {
        let mut tasks = Vec::new();
        for (index, held) in stations.iter().enumerate() {
            let (mut station, mut operator) = (ca.holder(held).await?, ca.role("operator").await?);
            let history = self.clone();
            tasks.push(tokio::spawn(
                async move { while history.step(index, &mut station, &mut operator).await.is_ok() {} },
            ));
        }
        Ok(Load(tasks))
    }

    /// As [`Self::load`], with clients that come again when they are told to, with the same request.
    ///
    /// # Errors
    /// A connection fails.
    pub async fn persistent(&self, ca: &Ca, stations: &[Credential]) -> Result<Load> {
        let mut tasks = Vec::new();
        for (index, held) in stations.iter().enumerate() {
            let mut station = ca.holder(held).await?;
            let history = self.clone();
            tasks.push(tokio::spawn(async move { while history.persist(index, &mut station).await.is_ok() {} }));
        }
        Ok(Load(tasks))
    }

    /// What persistent clients were refused so far.
    pub fn refusals(&self) -> Refusals {
        self.record().refusals.clone()
    }

    async fn persist(&self, index: usize, station: &mut Api) -> Result<()> {
        let (id, request) = self.ask(index)?;
        let mut since: Option<Instant> = None;
        let certificate = loop {
            let status = match station.enrollment.enroll(request.clone()).await {
                Ok(answer) => break issued(&answer.into_inner())?,
                Err(status) => status,
            };
            let waited = since.get_or_insert_with(Instant::now).elapsed();
            let hint = status.get_details_retry_info().and_then(|info| info.retry_delay);
            let Some(hint) = hint.filter(|_| waited < PATIENCE) else {
                // The request stays pending; what came of it is asked after the restart.
                self.record().refusals.hopeless.push(format!("{id} after {waited:?}: {status:?}"));
                tokio::time::sleep(AGAIN).await;
                return Ok(());
            };
            self.record().refusals.hinted += 1;
            tokio::time::sleep(hint.min(AGAIN)).await;
        };
        let mut record = self.record();
        record.refusals.longest = record.refusals.longest.max(since.map_or(Duration::ZERO, |s| s.elapsed()));
        drop(record);
        self.acknowledge(&id, &certificate)
    }

    /// A new device's request, noted as open.
    fn ask(&self, index: usize) -> Result<(String, EnrollRequest)> {
        let id = format!("LOAD-{}", self.number.fetch_add(1, Ordering::Relaxed));
        let request = station_request(&DeviceKey::new()?, &id)?;
        self.record().pending.insert(id.clone(), Asked { station: index, request: request.clone() });
        Ok((id, request))
    }

    async fn step(&self, index: usize, station: &mut Api, operator: &mut Api) -> Result<()> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let id = format!("LOAD-{number}");
        let request = station_request(&DeviceKey::new()?, &id)?;
        self.record().pending.insert(id.clone(), Asked { station: index, request: request.clone() });
        let certificate = issued(&station.enrollment.enroll(request).await?.into_inner())?;
        self.acknowledge(&id, &certificate)?;
        if number.is_multiple_of(REVOKE_EACH) {
            operator.revoke(&certificate, RevocationReason::KeyCompromise).await?;
            if let Some(entry) = self.record().acknowledged.get_mut(&id) {
                entry.revoked = true;
            }
        }
        Ok(())
    }

    fn acknowledge(&self, id: &str, certificate: &Certificate) -> Result<()> {
        let mut record = self.record();
        let asked = record.pending.remove(id).context("acknowledged what nobody asked for")?;
        let certificate = certificate.clone();
        record.new.push(id.to_owned());
        record.acknowledged.insert(id.to_owned(), Acknowledged { asked, certificate, revoked: false });
        Ok(())
    }

    /// After a restart: everything acknowledged since the last check is there, byte for byte and revoked where it was
    /// revoked; every open request, asked again by its station, gives one certificate.
    ///
    /// # Errors
    /// Says what was lost.
    pub async fn check(&self, ca: &Ca, stations: &[Credential]) -> Result<()> {
        let new = std::mem::take(&mut self.record().new);
        self.check_these(ca, &new).await?;
        let pending: Vec<_> = self.record().pending.clone().into_iter().collect();
        let mut callers = Vec::new();
        for held in stations {
            callers.push(ca.holder(held).await?);
        }
        for (id, asked) in pending {
            // An idempotency key belongs to its caller: the retry comes from the station that asked.
            let caller = callers.get_mut(asked.station).context("fewer stations than before")?;
            let certificate = enroll(caller, &asked.request).await.with_context(|| format!("{id}: the retry"))?;
            let again = enroll(caller, &asked.request).await?;
            ensure!(certificate.der == again.der, "{id}: two certificates for one key");
            self.acknowledge(&id, &certificate)?;
        }
        Ok(())
    }

    async fn check_these(&self, ca: &Ca, ids: &[String]) -> Result<()> {
        let mut auditor = ca.role("auditor").await?;
        for id in ids {
            let (certificate, revoked) = {
                let record = self.record();
                let entry = record.acknowledged.get(id).context("unknown")?;
                (entry.certificate.clone(), entry.revoked)
            };
            let found = auditor.get(certificate.r#ref.clone()).await.with_context(|| format!("{id} is lost"))?;
            ensure!(found.certificate.map(|c| c.der) == Some(certificate.der.clone()), "{id}: other bytes");
            let status = auditor.status(&certificate).await?.status();
            ensure!(!revoked || status == Status::Revoked, "{id}: its revocation is lost");
        }
        Ok(())
    }

    /// Over the whole history: everything is there, no serial number twice, no device with two certificates, and
    /// what was revoked is revoked.
    ///
    /// # Errors
    /// Says what is wrong.
    pub async fn check_all(&self, ca: &Ca) -> Result<()> {
        let all = ca.role("auditor").await?.all_certificates().await?;
        let mut serials = HashSet::new();
        let mut by_device: HashMap<String, Certificate> = HashMap::new();
        for certificate in all {
            let reference = certificate.r#ref.clone().context("no reference")?;
            ensure!(
                serials.insert((reference.issuer_id.clone(), reference.serial_number.clone())),
                "{reference:?} twice"
            );
            if certificate.device_id.starts_with("LOAD-") {
                let id = certificate.device_id.clone();
                ensure!(by_device.insert(id.clone(), certificate).is_none(), "{id} has two certificates");
            }
        }
        let record = self.record();
        for (id, entry) in &record.acknowledged {
            let found = by_device.get(id).with_context(|| format!("{id} is not listed"))?;
            ensure!(found.der == entry.certificate.der, "{id}: other bytes");
            ensure!(!entry.revoked || found.revocation.is_some(), "{id}: its revocation is lost");
        }
        Ok(())
    }

    /// Asks again for a few that were acknowledged long ago: the same certificates come back, or the refusal to give
    /// a revoked one.
    ///
    /// # Errors
    /// They do not.
    pub async fn check_retries(&self, ca: &Ca, stations: &[Credential], count: usize) -> Result<()> {
        let sample: Vec<_> = {
            let record = self.record();
            let step = (record.acknowledged.len() / count.max(1)).max(1);
            let every = record.acknowledged.values().step_by(step);
            every.map(|a| (a.asked.clone(), a.certificate.der.clone(), a.revoked)).collect()
        };
        for (asked, der, revoked) in sample {
            let held = stations.get(asked.station).context("fewer stations than before")?;
            let again = enroll(&mut ca.holder(held).await?, &asked.request).await;
            if revoked && again.is_err() {
                ensure!(refused(again)?.reason == "REVOKED", "a revoked one is refused for another reason");
                continue;
            }
            let certificate = again?;
            ensure!(certificate.der == der, "{}: another certificate for the same key", certificate.device_id);
        }
        Ok(())
    }
}

async fn enroll(station: &mut Api, request: &EnrollRequest) -> Result<Certificate> {
    issued(&station.enrollment.enroll(request.clone()).await?.into_inner())
}
