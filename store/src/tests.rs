//! Faults that only the inside can provoke.

use crate::{OpenOptions, ReserveCrlNumber, SetServerIdentity, Store, StoreError};
use ca_core::{id::IssuerId, time::UnixTime};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn identity(n: u8) -> SetServerIdentity {
    SetServerIdentity { chain: vec![vec![n; 10]], key_id: vec![n; 4] }
}

#[test]
fn after_a_failed_sync_nothing_is_accepted_until_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), OpenOptions { create: true, ..OpenOptions::default() }).unwrap();
    store.commit(identity(1), NOW).unwrap();
    store.fail_next_sync();
    assert_eq!(store.commit(identity(2), NOW), Err(StoreError::Poisoned));
    assert_eq!(store.commit(identity(3), NOW), Err(StoreError::Poisoned));
    assert!(store.statistics().poisoned);
    // Readers see what was durable.
    assert_eq!(store.server_identity().unwrap().map(|i| i.key_id), Some(vec![1; 4]));
    store.close();
    let (store, report) = Store::open(dir.path(), OpenOptions::default()).unwrap();
    // The second one was written whole: it may be there, the third one cannot.
    assert_eq!(report.records, 2);
    assert_eq!(store.server_identity().unwrap().map(|i| i.key_id), Some(vec![2; 4]));
    store.commit(identity(4), NOW).unwrap();
}

#[test]
fn a_refusal_that_rests_on_a_batch_that_failed_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), OpenOptions { create: true, ..OpenOptions::default() }).unwrap();
    let (block, blocked) = std::sync::mpsc::channel::<()>();
    store.submit(identity(1), NOW, move |_| {
        let _ = blocked.recv();
    });
    store.fail_next_sync();
    let (tell, told) = std::sync::mpsc::channel();
    let second = tell.clone();
    store.submit(identity(2), NOW, move |r| tell.send(r).unwrap());
    let unknown = ReserveCrlNumber { issuer: IssuerId::new("none").unwrap() };
    store.submit(unknown, NOW, move |r| second.send(r.map(|_| ())).unwrap());
    block.send(()).unwrap();
    assert_eq!(told.iter().collect::<Vec<_>>(), [Err(StoreError::Poisoned), Err(StoreError::Poisoned)]);
}

#[test]
fn records_never_go_back_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), OpenOptions { create: true, ..OpenOptions::default() }).unwrap();
    store.commit(identity(1), NOW).unwrap();
    store.commit(identity(2), UnixTime::from_secs(5)).unwrap();
    assert_eq!(store.server_identity().unwrap().map(|i| i.at), Some(NOW));
    store.close();
    let (store, _) = Store::open(dir.path(), OpenOptions::default()).unwrap();
    assert_eq!(store.high_water(), NOW);
}

#[test]
fn an_index_that_fails_at_work_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), OpenOptions { create: true, ..OpenOptions::default() }).unwrap();
    store.commit(identity(1), NOW).unwrap();
    store.lose_index();
    // The batch that meets the failure has happened all the same, or was never begun.
    let began = std::time::Instant::now();
    let refused = store.commit(identity(2), NOW).unwrap_err();
    assert!(refused.retry_after().is_some(), "{refused}");
    while store.commit(identity(3), NOW).is_err() {
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "it does not recover");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(store.server_identity().unwrap().map(|i| i.key_id), Some(vec![3; 4]));
    let records = store.statistics().records;
    store.close();
    let (_store, report) = Store::open(dir.path(), OpenOptions::default()).unwrap();
    assert_eq!((report.records, report.index), (records, crate::IndexState::Intact));
}
