//! Callers that sign as fast as they can and come again when they are told to, with a record of what they were told.

use crate::rig::{BACK, sign};
use ca_core::key::PublicKey;
use hsm::Token;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// One cell of the record of throughput.
pub const CELL: Duration = Duration::from_millis(100);
/// Cells of the record: the longest run is half an hour.
const CELLS: usize = 18_000;
/// Callers come again after the hint, but not later than this: to come early must do no harm, and measures finer.
const AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Right signatures that callers got.
    pub signed: u64,
    /// Requests that needed more than one call.
    pub asked_again: u64,
    /// The longest from a request's first refusal to its signature.
    pub longest_cure: Duration,
    /// Refusals without a retry hint, and those that the hint did not cure in time.
    pub failed: BTreeMap<String, u64>,
}

struct Record {
    stop: AtomicBool,
    begun: Instant,
    number: AtomicU64,
    cells: Vec<AtomicU64>,
    tally: Mutex<Tally>,
}

/// Running callers.
pub struct Load {
    record: Arc<Record>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(callers: usize, token: &Token, key: &PublicKey) -> Self {
        let record = Arc::new(Record {
            stop: AtomicBool::new(false),
            begun: Instant::now(),
            number: AtomicU64::new(0),
            cells: std::iter::repeat_with(|| AtomicU64::new(0)).take(CELLS).collect(),
            tally: Mutex::default(),
        });
        let caller = |_| {
            let (record, token, key) = (record.clone(), token.clone(), key.clone());
            thread::spawn(move || {
                while !record.stop.load(Relaxed) {
                    record.ask(&token, &key);
                }
            })
        };
        let threads = (0..callers).map(caller).collect();
        Self { record, threads }
    }

    /// Signatures so far.
    pub fn signed(&self) -> u64 {
        self.record.tally.lock().unwrap().signed
    }

    /// The number of the cell that is being filled.
    pub fn now(&self) -> usize {
        self.record.cell()
    }

    /// Signatures in each cell from `from` to the last whole one.
    pub fn cells(&self, from: usize) -> Vec<u64> {
        let cells = self.record.cells.get(from..self.now()).unwrap_or_default();
        cells.iter().map(|cell| cell.load(Relaxed)).collect()
    }

    /// Signatures a second over the next `time`.
    pub fn rate(&self, time: Duration) -> f64 {
        let (before, begun) = (self.signed(), Instant::now());
        thread::sleep(time);
        (self.signed() - before) as f64 / begun.elapsed().as_secs_f64()
    }

    /// Waits for the callers' last answers.
    pub fn stop(self) -> Tally {
        self.record.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.record.tally.lock().unwrap().clone()
    }
}

impl Record {
    fn cell(&self) -> usize {
        usize::try_from(self.begun.elapsed().as_millis() / CELL.as_millis()).unwrap()
    }

    fn ask(&self, token: &Token, key: &PublicKey) {
        // Each its own message: another request's signature would be a wrong one.
        let message = self.number.fetch_add(1, Relaxed).to_be_bytes();
        let mut refused: Option<Instant> = None;
        loop {
            match sign(token, key, &message) {
                Ok(()) => break,
                Err(error) => {
                    let since = *refused.get_or_insert_with(Instant::now);
                    let hint = error.retry_after().filter(|_| error.is_retryable() && since.elapsed() < BACK);
                    let Some(hint) = hint else {
                        *self.tally.lock().unwrap().failed.entry(error.to_string()).or_default() += 1;
                        return thread::sleep(AGAIN);
                    };
                    thread::sleep(hint.min(AGAIN));
                }
            }
        }
        if let Some(cell) = self.cells.get(self.cell()) {
            cell.fetch_add(1, Relaxed);
        }
        let mut tally = self.tally.lock().unwrap();
        tally.signed += 1;
        if let Some(since) = refused {
            tally.asked_again += 1;
            tally.longest_cure = tally.longest_cure.max(since.elapsed());
        }
    }
}

impl Tally {
    /// Every request got its signature, if not at once then after the hint.
    pub fn assert_all_served(&self) {
        assert!(self.failed.is_empty() && self.signed > 0, "{self:?}");
    }
}
