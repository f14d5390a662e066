//! How many processes and sessions a token gains from, found by measurement: SoftHSM has one lock in each process, so
//! more processes help and more sessions do not; a network HSM wants many sessions.

use super::config::Identity;
use super::job::{Job, Place, Task};
use super::pool::TokenState;
use super::shared::SharedRef;
use super::supervisor::Event;
use crate::wire::{Operation, SignWork};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// Workers and sessions in each, cheapest first.
pub(crate) const SHAPES: [(u32, u32); 7] = [(1, 1), (2, 1), (1, 2), (1, 4), (1, 8), (1, 16), (2, 4)];
/// How much faster a costlier shape must be to be taken: noise is below this.
pub(crate) const GAIN: f64 = 1.15;
/// One measurement. At 5 ms a signature, as a network HSM takes, 30 are made in each session.
const MEASURE: Duration = Duration::from_millis(150);
/// Requests kept in flight meanwhile, as a busy line would.
pub(crate) const IN_FLIGHT: usize = 48;
/// How long signers of another shape may take to come up.
const CHANGE: Duration = Duration::from_secs(5);

/// Finds the shape of each token whose configuration leaves it open, or takes up what was found before.
pub(super) fn tune(shared: &SharedRef) {
    for (unit, token) in shared.config.tokens.iter().enumerate() {
        let is_up = shared.pool().units.get(unit).is_some_and(|u| u.state == TokenState::Up);
        // One that is away is measured at a later start.
        if (token.workers.is_some() && token.sessions.is_some()) || !is_up {
            continue;
        }
        let may = |(workers, sessions): &(u32, u32)| {
            token.workers.is_none_or(|w| w == *workers) && token.sessions.is_none_or(|s| s == *sessions)
        };
        let fallback = (token.workers.unwrap_or(1), token.sessions.unwrap_or(1));
        let file = file(shared, unit);
        if let Some(known) = file.as_ref().and_then(read).filter(may) {
            change(shared, unit, known);
            continue;
        }
        let shapes: Vec<_> = SHAPES.into_iter().filter(may).collect();
        let (best, is_measured) = match (identity(shared, unit), shapes.is_empty()) {
            (Some(identity), false) => (measure_all(shared, unit, &identity, &shapes, fallback), true),
            _ => (fallback, false),
        };
        change(shared, unit, best);
        if let Some(file) = file.filter(|_| is_measured)
            && let Err(error) = std::fs::write(&file, format!("{} {}\n", best.0, best.1))
        {
            tracing::warn!(%error, file = %file.display(), "what was measured is not kept");
        }
    }
}

/// Its identity key is the one that may be used for nothing.
fn identity(shared: &SharedRef, unit: usize) -> Option<Identity> {
    let facts = {
        let pool = shared.pool();
        let unit = pool.units.get(unit)?;
        if unit.state != TokenState::Up {
            return None;
        }
        unit.facts.clone()?
    };
    shared.config.known.iter().find(|i| i.serial == facts.serial && i.label == facts.label).cloned()
}

/// Another library or another machine is measured again.
fn file(shared: &SharedRef, unit: usize) -> Option<PathBuf> {
    let dir = shared.config.state_dir.as_ref()?;
    let facts = shared.pool().units.get(unit)?.facts.clone()?;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let about = format!("{}\0{}\0{}\0{processors}", facts.serial, facts.label, facts.library);
    let tag = hex::encode(Sha256::digest(about));
    Some(dir.join(format!("token-measured-{}", tag.get(..16)?)))
}

fn read(file: &PathBuf) -> Option<(u32, u32)> {
    let text = std::fs::read_to_string(file).ok()?;
    let (workers, sessions) = text.trim().split_once(' ')?;
    let shape = (workers.parse().ok()?, sessions.parse().ok()?);
    SHAPES.contains(&shape).then_some(shape)
}

fn measure_all(
    shared: &SharedRef,
    unit: usize,
    identity: &Identity,
    shapes: &[(u32, u32)],
    fallback: (u32, u32),
) -> (u32, u32) {
    let mut best = (fallback, 0.0);
    for shape in shapes {
        if !change(shared, unit, *shape) {
            continue;
        }
        let rate = measure(shared, unit, identity);
        tracing::info!(
            token = shared.name(unit),
            workers = shape.0,
            sessions = shape.1,
            per_second = rate.round(),
            "measured"
        );
        if rate > best.1 * GAIN {
            best = (*shape, rate);
        }
    }
    best.0
}

/// True when the token serves in this shape.
fn change(shared: &SharedRef, unit: usize, (workers, sessions): (u32, u32)) -> bool {
    let _ = shared.events.send(Event::Shape { unit, workers, sessions });
    let until = Instant::now() + CHANGE;
    loop {
        let serving = {
            let pool = shared.pool();
            let lines = pool.lines.values().filter(|l| l.unit == unit && l.serving && !l.retiring);
            lines.filter(|l| l.sessions == sessions).count()
        };
        if u32::try_from(serving).is_ok_and(|n| n == workers) {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Signatures per second with a full pipeline. They are thrown away unchecked: what the token gains is asked here, not
/// what the check of each signature costs beside it.
#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn measure(shared: &SharedRef, unit: usize, identity: &Identity) -> f64 {
    let algorithm = identity.public_key.algorithm().signature_algorithm();
    let message = b"sealwright measurement of a token v1\0".to_vec();
    let capabilities = shared.pool().units.get(unit).and_then(|u| u.capabilities.clone());
    let Some(Ok(prepared)) = capabilities.map(|c| c.prepare(algorithm, message)) else { return 0.0 };
    let operation = Operation::Sign(SignWork::new(identity.key, prepared));
    let (made, waiting, failed) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let begun = Instant::now();
    while begun.elapsed() < MEASURE && !failed.load(Relaxed) {
        if waiting.load(Relaxed) >= IN_FLIGHT as u64 {
            thread::sleep(Duration::from_micros(200));
            continue;
        }
        waiting.fetch_add(1, Relaxed);
        let (made, waiting, failed) = (made.clone(), waiting.clone(), failed.clone());
        let done = Box::new(move |result: Result<_, _>| {
            waiting.fetch_sub(1, Relaxed);
            match result {
                Ok(_) => drop(made.fetch_add(1, Relaxed)),
                Err(_) => failed.store(true, Relaxed),
            }
        });
        let task = Task::Other(operation.clone());
        shared.submit(Job::new(task, Place::Unit(unit), false, shared.config.deadline, done));
    }
    let rate = made.load(Relaxed) as f64 / begun.elapsed().as_secs_f64();
    while waiting.load(Relaxed) > 0 && begun.elapsed() < CHANGE {
        thread::sleep(Duration::from_millis(1));
    }
    if failed.load(Relaxed) { 0.0 } else { rate }
}
