//! How fast changes become durable, and how fast a journal verifies and an index is made anew.
//!
//! `cargo bench -p store`; the directory is made in `$TMPDIR`, which should be a real disk.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic and prints")]

#[path = "../tests/fixture/mod.rs"]
mod fixture;

use fixture::*;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use store::{Intend, Store, verify::verify};

/// Enrollments (two durable changes each) for `time` with this many writers.
fn commits(store: &Store, next: &Arc<AtomicU64>, writers: usize, time: Duration) {
    let (began, before) = (Instant::now(), store.statistics());
    let threads: Vec<_> = (0..writers)
        .map(|_| {
            let (store, next) = (store.clone(), next.clone());
            std::thread::spawn(move || {
                let mut done = 0u64;
                while began.elapsed() < time {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let intent = Intend { tbs: vec![1; 600], ..intend(n, device(&format!("device-{n}"))) };
                    enroll(&store, intent).unwrap();
                    done += 2;
                }
                done
            })
        })
        .collect();
    let changes: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    let (seconds, after) = (began.elapsed().as_secs_f64(), store.statistics());
    let syncs = after.syncs - before.syncs;
    println!(
        "{writers:3} writers: {:8.0} changes/s, {:6.0} syncs/s, {:5.1} changes a sync, {:4} us a sync",
        changes as f64 / seconds,
        syncs as f64 / seconds,
        changes as f64 / syncs as f64,
        (after.sync_sum - before.sync_sum).as_micros() / u128::from(syncs.max(1)),
    );
}

fn main() {
    let (dir, store) = fresh();
    let next = Arc::new(AtomicU64::new(1));
    let time = Duration::from_secs(3);
    for writers in [1, 64] {
        commits(&store, &next, writers, time);
    }
    store.close();

    let began = Instant::now();
    let verified = verify(dir.path(), &mut |_| ()).unwrap();
    let octets: u64 = segments(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "verify: {:8.0} records/s, {:6.0} MB/s ({} records)",
        verified.records as f64 / seconds,
        octets as f64 / seconds / 1e6,
        verified.records
    );

    let began = Instant::now();
    let records = store::rebuild(dir.path(), &mut |_| ()).unwrap();
    println!("rebuild: {:7.0} records/s", records as f64 / began.elapsed().as_secs_f64());

    let began = Instant::now();
    let (store, _) = open(dir.path());
    println!("open: {:?}", began.elapsed());
    store.close();
}
