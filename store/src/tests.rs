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
    assert_eq!(store.refusal(), Some(StoreError::Poisoned));
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

#[test]
fn an_index_that_is_not_made_durable_does_not_stop_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), OpenOptions { create: true, ..OpenOptions::default() }).unwrap();
    store.fail_index_syncs(true);
    let began = std::time::Instant::now();
    // Longer than two checkpoints.
    while began.elapsed() < std::time::Duration::from_millis(2_500) {
        store.commit(identity(1), NOW).unwrap();
        assert_eq!(store.refusal(), None);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    store.fail_index_syncs(false);
    store.commit(identity(2), NOW).unwrap();
    let clone = store.clone();
    store.close();
    assert_eq!(clone.refusal(), Some(StoreError::Closed));
    drop(clone);
    // The kernel may have dropped what it failed to write.
    let (store, report) = Store::open(dir.path(), OpenOptions::default()).unwrap();
    assert!(matches!(report.index, crate::IndexState::Rebuilt(_)), "{report:?}");
    assert_eq!(store.server_identity().unwrap().map(|i| i.key_id), Some(vec![2; 4]));
    store.close();
    let (_store, report) = Store::open(dir.path(), OpenOptions::default()).unwrap();
    assert_eq!(report.index, crate::IndexState::Intact);
}

#[test]
fn an_index_needs_no_new_descriptor_to_be_made_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), OpenOptions { create: true, ..OpenOptions::default() }).unwrap();
    // Nothing can be opened by this name any more, as when no descriptors are left.
    let (index, away) = (dir.path().join("index"), dir.path().join("away"));
    std::fs::rename(&index, &away).unwrap();
    store.commit(identity(1), NOW).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    assert_eq!(store.refusal(), None);
    store.commit(identity(2), NOW).unwrap();
    std::fs::rename(&away, &index).unwrap();
    store.close();
    let (_store, report) = Store::open(dir.path(), OpenOptions::default()).unwrap();
    assert_eq!(report.index, crate::IndexState::Intact);
}

#[test]
fn nobody_else_reads_the_directory() {
    use std::os::unix::fs::PermissionsExt;
    fn look(path: &std::path::Path, seen: &mut usize) {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o777;
            assert_eq!(mode, if metadata.is_dir() { 0o700 } else { 0o600 }, "{}", entry.path().display());
            *seen += 1;
            if metadata.is_dir() {
                look(&entry.path(), seen);
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("a/store");
    let (opened, _) = Store::open(&store, OpenOptions { create: true, ..OpenOptions::default() }).unwrap();
    opened.commit(identity(1), NOW).unwrap();
    let mut seen = 0;
    look(dir.path(), &mut seen);
    assert!(seen >= 7, "only {seen} files and folders");
    opened.close();
    // What an earlier run left open is closed.
    for open in ["journal", "index"] {
        std::fs::set_permissions(store.join(open), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(store.join("index/db"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (_opened, _) = Store::open(&store, OpenOptions { create: true, ..OpenOptions::default() }).unwrap();
    look(dir.path(), &mut seen);
}
