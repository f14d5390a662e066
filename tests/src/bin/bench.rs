//! Throughput and latency of the whole service over real connections: `make bench`.

use anyhow::{Context, Result, ensure};
use proto::v1::EnrollRequest;
use std::{
    io::{Write, stdout},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tests::{
    api::{Api, issued, station_request},
    ca::Ca,
    device::DeviceKey,
    http,
    judge::Case,
};

/// Requests prepared before the clock runs, so that the clients' own key generation is not measured.
const PREPARED: usize = 20_000;

fn seconds() -> u64 {
    std::env::var("SEALWRIGHT_BENCH_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10)
}

struct Figures {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

fn figures(mut latencies: Vec<Duration>, took: Duration) -> Result<Figures> {
    latencies.sort();
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().context("nothing was measured");
    Ok(Figures { per_second: latencies.len() as f64 / took.as_secs_f64(), p50: at(50)?, p99: at(99)? })
}

fn report(what: &str, figures: &Figures) -> Result<()> {
    let Figures { per_second, p50, p99 } = figures;
    writeln!(stdout(), "{what:44} {per_second:>8.0}/s   p50 {p50:>9.2?}   p99 {p99:>9.2?}")?;
    Ok(())
}

/// `clients` stations, each with one request in flight, spread over `connections`.
async fn enroll(ca: &Ca, requests: &[EnrollRequest], clients: usize, connections: usize) -> Result<Figures> {
    let mut apis: Vec<Api> = Vec::new();
    for _ in 0..connections {
        apis.push(ca.role("station").await?);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let requests: Arc<[EnrollRequest]> = requests.into();
    let began = Instant::now();
    let end = began + Duration::from_secs(seconds());
    let tasks: Vec<_> = apis
        .iter()
        .cycle()
        .take(clients)
        .map(|api| {
            let (mut api, next, requests) = (api.clone(), Arc::clone(&next), Arc::clone(&requests));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    let sent = Instant::now();
                    api.enrollment.enroll(request.clone()).await?;
                    latencies.push(sent.elapsed());
                }
                Ok::<_, tonic::Status>(latencies)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    figures(all, began.elapsed())
}

fn ocsp(address: &str, path: &str, request: &[u8], threads: usize) -> Result<Figures> {
    let began = Instant::now();
    let end = began + Duration::from_secs(seconds());
    let all = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(move || {
                    let mut latencies = Vec::new();
                    while Instant::now() < end {
                        let sent = Instant::now();
                        let answer = http::post(address, path, "application/ocsp-request", request)?;
                        ensure!(answer.status == 200, "HTTP {}", answer.status);
                        latencies.push(sent.elapsed());
                    }
                    Ok(latencies)
                })
            })
            .collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        Ok::<_, anyhow::Error>(all)
    })?;
    figures(all, began.elapsed())
}

#[tokio::main]
async fn main() -> Result<()> {
    let ca = Ca::start()?;
    let mut requests = Vec::with_capacity(PREPARED);
    for n in 0..PREPARED {
        requests.push(station_request(&DeviceKey::new()?, &format!("BENCH-{n:06}"))?);
    }
    let (alone, together) = requests.split_at(PREPARED / 4);
    report("enroll, 1 in flight", &enroll(&ca, alone, 1, 1).await?)?;
    report("enroll, 64 in flight on 4 connections", &enroll(&ca, together, 64, 4).await?)?;

    let answer = ca.role("station").await?.enroll(&DeviceKey::new()?, "BENCH-OCSP").await?;
    let case = Case::new(&ca, &issued(&answer)?.der, &answer.chain)?;
    let (address, url) = (ca.http()?, case.urls()?.1);
    let path = http::path_of(&url)?;
    report("OCSP with nonce, 8 clients, new connections", &ocsp(&address, path, &case.ocsp_request(true)?, 8)?)?;
    report("OCSP kept, 8 clients, new connections", &ocsp(&address, path, &case.ocsp_request(false)?, 8)?)?;
    ca.finish()
}
