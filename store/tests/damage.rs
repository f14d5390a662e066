//! Damage to the directory: found, repaired or refused, and nothing acknowledged is lost.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fixture;

use fixture::*;
use std::{fs, os::unix::fs::FileExt, path::Path};
use store::{verify::verify, *};

fn flip(path: &Path, at: usize) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    byte[0] ^= 0x01;
    file.write_all_at(&byte, at as u64).unwrap();
}

/// A closed store with one of each record, and how many.
fn filled() -> (tempfile::TempDir, u64) {
    let (dir, store) = fresh();
    fill(&store);
    let records = store.statistics().records;
    store.close();
    (dir, records)
}

/// The ends of the records of a journal of one file, the header's first.
fn ends(dir: &Path) -> Vec<u64> {
    let mut ends: Vec<u64> = read_records(dir, 1).unwrap().map(|record| record.unwrap().offset).collect();
    ends.push(fs::metadata(&segments(dir)[0]).unwrap().len());
    ends
}

#[test]
fn a_whole_journal_verifies_and_is_shown() {
    let (dir, records) = filled();
    let verified = verify(dir.path(), &mut |_| ()).unwrap();
    assert_eq!((verified.records, verified.last_sequence, verified.segments), (records, records, 1));
    assert_eq!(verified.unfinished_octets, 0);
    let shown: Vec<_> = read_records(dir.path(), 1).unwrap().map(|r| r.unwrap()).collect();
    assert_eq!(shown.len() as u64, records);
    assert_eq!(shown.last().unwrap().hash, verified.last_hash);
    let kinds: std::collections::BTreeSet<_> = shown.iter().map(|r| r.kind).collect();
    assert_eq!(kinds.len(), 18, "one of each kind: {kinds:?}");
    let tail: Vec<_> = read_records(dir.path(), records - 1).unwrap().map(|r| r.unwrap().sequence).collect();
    assert_eq!(tail, [records - 1, records]);
}

#[test]
fn every_flipped_octet_is_found_at_its_record() {
    let (dir, _) = filled();
    let ends = ends(dir.path());
    let copy = tempfile::tempdir().unwrap();
    copy_journal(dir.path(), copy.path());
    let segment = segments(copy.path()).remove(0);
    let length = fs::metadata(&segment).unwrap().len() as usize;
    for at in 0..length {
        flip(&segment, at);
        let damage = verify(copy.path(), &mut |_| ()).unwrap_err();
        assert_eq!(damage.segment, segment);
        let record = ends.partition_point(|end| *end <= at as u64) as u64;
        assert_eq!(damage.sequence.max(1), record.max(1), "octet {at}: {damage}");
        if record > 0 {
            assert_eq!(damage.offset, ends[record as usize - 1]);
        }
        // Opening refuses, and says where. It changes nothing.
        let refused = Store::open(copy.path(), OpenOptions::default()).unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { .. }), "octet {at}: {refused}");
        assert!(refused.to_string().contains("restore"));
        flip(&segment, at);
    }
    assert_eq!(fs::metadata(&segment).unwrap().len() as usize, length);
    assert!(verify(copy.path(), &mut |_| ()).is_ok());
    let mut mark = fs::read(copy.path().join("durable")).unwrap();
    mark[3] ^= 1;
    fs::write(copy.path().join("durable"), &mark).unwrap();
    assert!(verify(copy.path(), &mut |_| ()).is_err(), "the mark is verified too");
}

#[test]
fn a_journal_cut_short_is_refused() {
    let (dir, _) = filled();
    let ends = ends(dir.path());
    for length in [0, 50, ends[0], ends[3], ends[3] + 10, ends[ends.len() - 2], ends[ends.len() - 1] - 1] {
        let copy = tempfile::tempdir().unwrap();
        copy_journal(dir.path(), copy.path());
        let segment = segments(copy.path()).remove(0);
        fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(length).unwrap();
        assert!(verify(copy.path(), &mut |_| ()).is_err(), "cut to {length}");
        let refused = Store::open(copy.path(), OpenOptions::default()).unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { .. }), "cut to {length}: {refused}");
    }
    fs::remove_file(segments(dir.path()).remove(0)).unwrap();
    let create = OpenOptions { create: true, ..OpenOptions::default() };
    let refused = Store::open(dir.path(), create).unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { .. }), "a lost journal is not replaced by an empty one: {refused}");
}

/// A store whose last change was written but whose mark is the one before it, as when the machine stopped between the
/// write and the sync.
fn unsynced() -> (tempfile::TempDir, u64, Vec<u64>) {
    let (dir, store) = fresh();
    enroll(&store, intend(1, device("d-1"))).unwrap();
    enroll(&store, Intend { replaces: Some((issuer(), serial(1))), ..intend(2, device("d-1")) }).unwrap();
    let durable = store.statistics().records;
    store.clone().close();
    drop(store);
    let mark = fs::read(dir.path().join("durable")).unwrap();
    let (store, _) = open(dir.path());
    // Three records that are one change.
    store.commit(confirm(2), NOW).unwrap();
    store.close();
    fs::write(dir.path().join("durable"), mark).unwrap();
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let ends = ends(dir.path());
    assert_eq!(ends.len() as u64, durable + 4);
    (dir, durable, ends)
}

#[test]
fn a_tail_torn_at_any_length_is_cut_off_as_a_whole_change() {
    let (dir, durable, ends) = unsynced();
    let (start, end) = (ends[durable as usize], ends[durable as usize + 3]);
    for length in start..=end {
        let copy = tempfile::tempdir().unwrap();
        copy_journal(dir.path(), copy.path());
        let segment = segments(copy.path()).remove(0);
        fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(length).unwrap();
        let verified = verify(copy.path(), &mut |_| ()).unwrap();
        // Opening with an index is slow; every tenth length and the edges of the records are enough.
        if length % 10 != 0 && !ends.contains(&length) {
            continue;
        }
        let (store, report) = open(copy.path());
        if length == end {
            assert_eq!((report.records, &report.torn_tail), (durable + 3, &None));
            assert_eq!(store.certificate(&issuer(), &serial(1)).unwrap().unwrap().state(), CertificateState::Revoked);
            continue;
        }
        assert_eq!(report.records, durable);
        assert_eq!(verified.unfinished_octets, length - start);
        match report.torn_tail {
            None => assert_eq!(length, start),
            Some(torn) => {
                assert_eq!((torn.offset, torn.octets), (start, length - start));
                assert_eq!(fs::metadata(torn.kept_as).unwrap().len(), length - start);
            }
        }
        // Half a change did not happen: nothing is installed, nothing revoked.
        assert_eq!(store.certificate(&issuer(), &serial(2)).unwrap().unwrap().state(), CertificateState::Issued);
        assert_eq!(store.certificate(&issuer(), &serial(1)).unwrap().unwrap().state(), CertificateState::Issued);
        assert_eq!(store.commit(confirm(2), NOW).unwrap().state(), CertificateState::Installed);
        store.close();
        assert!(verify(copy.path(), &mut |_| ()).is_ok());
    }
}

#[test]
fn zeroes_and_garbage_behind_the_durable_end_are_cut_off() {
    let (dir, durable, ends) = unsynced();
    let (start, end) = (ends[durable as usize], ends[durable as usize + 3]);
    // The write of one batch may reach the disk in any order: its first record lost, the others there.
    for at in [start, start + 40, ends[durable as usize + 1], end - 1] {
        let copy = tempfile::tempdir().unwrap();
        copy_journal(dir.path(), copy.path());
        flip(&segments(copy.path()).remove(0), at as usize);
        let (store, report) = open(copy.path());
        assert_eq!(report.records, durable, "octet {at}");
        assert!(report.torn_tail.is_some());
        drop(store);
    }
    for tail in [vec![0u8; 5_000], vec![0xa5; 5_000]] {
        let copy = tempfile::tempdir().unwrap();
        copy_journal(dir.path(), copy.path());
        let segment = fs::OpenOptions::new().write(true).open(segments(copy.path()).remove(0)).unwrap();
        segment.write_all_at(&tail, end).unwrap();
        let (_store, report) = open(copy.path());
        assert_eq!(report.records, durable + 3);
        assert_eq!(report.torn_tail.map(|torn| torn.octets), Some(5_000));
    }
}

#[test]
fn damage_before_a_later_batch_is_refused_even_without_a_mark() {
    let (dir, records) = filled();
    let ends = ends(dir.path());
    for mark in [None, Some(vec![0u8; 80])] {
        for record in [0, 3, records as usize - 2] {
            let copy = tempfile::tempdir().unwrap();
            copy_journal(dir.path(), copy.path());
            match &mark {
                None => fs::remove_file(copy.path().join("durable")).unwrap(),
                Some(bytes) => fs::write(copy.path().join("durable"), bytes).unwrap(),
            }
            flip(&segments(copy.path()).remove(0), ends[record] as usize + 50);
            let refused = Store::open(copy.path(), OpenOptions::default()).unwrap_err();
            assert!(matches!(refused, OpenError::Damaged { .. }), "record {record}: {refused}");
        }
    }
}

#[test]
fn a_damaged_index_is_made_anew_and_equal() {
    let (dir, records) = filled();
    let expected = dump(dir.path());
    let db = dir.path().join("index").join("db");
    let length = fs::metadata(&db).unwrap().len();
    type Harm = Box<dyn Fn(&Path)>;
    let harms: Vec<(&str, Harm)> = vec![
        ("deleted", Box::new(|dir| fs::remove_dir_all(dir.join("index")).unwrap())),
        ("emptied", Box::new(|dir| fs::write(dir.join("index/db"), b"").unwrap())),
        ("without its file", Box::new(|dir| fs::remove_file(dir.join("index/db")).unwrap())),
        ("garbage", Box::new(move |dir| fs::write(dir.join("index/db"), vec![0xa5; length as usize]).unwrap())),
        ("zeroed", Box::new(move |dir| fs::write(dir.join("index/db"), vec![0; length as usize]).unwrap())),
        (
            "a file",
            Box::new(|dir| {
                fs::remove_dir_all(dir.join("index")).unwrap();
                fs::write(dir.join("index"), b"x").unwrap();
            }),
        ),
    ];
    for (name, harm) in harms {
        harm(dir.path());
        let (store, report) = open(dir.path());
        assert!(matches!(report.index, IndexState::Rebuilt(_)), "{name}: {report:?}");
        assert_eq!((report.records, report.open_intents), (records, 1), "{name}");
        store.close();
        assert_eq!(dump(dir.path()), expected, "{name}");
    }
    let (store, report) = open(dir.path());
    assert_eq!(report.index, IndexState::Intact);
    store.close();
}

#[test]
fn an_index_truncated_or_flipped_anywhere_never_loses_a_fact() {
    let (dir, records) = filled();
    let expected = dump(dir.path());
    let db = dir.path().join("index").join("db");
    let whole = fs::read(&db).unwrap();
    let used = whole.iter().rposition(|b| *b != 0).unwrap();
    for step in 1..12 {
        for truncate in [true, false] {
            let at = used * step / 12;
            let mut bytes = whole.clone();
            if truncate {
                bytes.truncate(at);
            } else {
                for byte in bytes.iter_mut().skip(at).take(64) {
                    *byte ^= 0xff;
                }
            }
            fs::write(&db, &bytes).unwrap();
            let (store, report) = open(dir.path());
            assert_eq!(report.records, records);
            let fourth = store.certificate(&issuer(), &serial(4)).unwrap().unwrap();
            assert_eq!(fourth.state(), CertificateState::Installed);
            store.close();
            assert_eq!(dump(dir.path()), expected, "at {at}, {:?}", report.index);
        }
    }
}

fn copy_index(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to.join("blobs")).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn an_index_that_is_behind_is_replayed_and_a_foreign_or_later_one_replaced() {
    let (dir, store) = fresh();
    enroll(&store, intend(100, device("d-100"))).unwrap();
    store.close();
    let old = tempfile::tempdir().unwrap();
    copy_index(&dir.path().join("index"), &old.path().join("index"));
    let journal_then = tempfile::tempdir().unwrap();
    copy_journal(dir.path(), journal_then.path());
    let (store, _) = open(dir.path());
    fill(&store);
    let records = store.statistics().records;
    store.close();
    let expected = dump(dir.path());
    let newer = tempfile::tempdir().unwrap();
    copy_index(&dir.path().join("index"), &newer.path().join("index"));

    copy_index(&old.path().join("index"), &dir.path().join("index"));
    let (store, report) = open(dir.path());
    assert_eq!(report.index, IndexState::Replayed(records - 3));
    store.close();
    assert_eq!(dump(dir.path()), expected);

    // The journal put back to an earlier state, with its mark: the index is ahead.
    copy_index(&newer.path().join("index"), &journal_then.path().join("index"));
    let (store, report) = open(journal_then.path());
    assert_eq!(report.index, IndexState::Rebuilt("it is ahead of the journal".into()));
    assert_eq!(store.certificate(&issuer(), &serial(4)), Ok(None));
    store.close();

    let (other, store) = fresh();
    fill(&store);
    store.close();
    copy_index(&newer.path().join("index"), &other.path().join("index"));
    let (store, report) = open(other.path());
    assert_eq!(report.index, IndexState::Rebuilt("it is empty or of another store".into()));
    store.close();
}

#[test]
fn a_rebuild_on_purpose_gives_the_same_index_and_respects_the_lock() {
    let (dir, records) = filled();
    let expected = dump(dir.path());
    let mut reached = 0;
    assert_eq!(rebuild(dir.path(), &mut |sequence| reached = sequence).unwrap(), records);
    assert_eq!(reached, records);
    assert_eq!(dump(dir.path()), expected);
    let (store, _) = open(dir.path());
    let refused = rebuild(dir.path(), &mut |_| ()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked(_)), "{refused}");
    let second = Store::open(dir.path(), OpenOptions::default()).unwrap_err();
    assert!(second.to_string().contains("in use by another process"), "{second}");
    // Verifying and showing need no lock.
    assert_eq!(verify(dir.path(), &mut |_| ()).unwrap().records, records);
    assert_eq!(read_records(dir.path(), 1).unwrap().count() as u64, records);
    drop(store);
}

#[test]
fn the_chain_goes_on_over_many_files_and_a_missing_one_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let options = || OpenOptions { create: true, segment_octets: 4_000 };
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    store.commit(add_issuer(), NOW).unwrap();
    fill(&store);
    for n in 100..140 {
        enroll(&store, intend(n, device(&format!("d-{n}")))).unwrap();
    }
    let records = store.statistics().records;
    let running = verify(dir.path(), &mut |_| ()).unwrap();
    assert_eq!(running.records, records);
    store.close();
    let files = segments(dir.path());
    assert!(files.len() > 5, "{} files", files.len());
    let expected = dump(dir.path());
    let (store, report) = Store::open(dir.path(), options()).unwrap();
    assert_eq!((report.records, report.index), (records, IndexState::Intact));
    for n in 100..140 {
        assert!(store.certificate(&issuer(), &serial(n)).unwrap().unwrap().signature.is_some());
    }
    store.close();
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    Store::open(dir.path(), options()).unwrap().0.close();
    assert_eq!(dump(dir.path()), expected);
    // From a later file on.
    let shown: Vec<_> = read_records(dir.path(), records - 5).unwrap().map(|r| r.unwrap().sequence).collect();
    assert_eq!(shown, (records - 5..=records).collect::<Vec<_>>());

    // Octets anywhere in any file.
    for (file, path) in files.iter().enumerate() {
        let length = fs::metadata(path).unwrap().len() as usize;
        for at in (0..length).step_by(97).chain([length - 1]) {
            flip(path, at);
            let damage = verify(dir.path(), &mut |_| ()).unwrap_err();
            assert_eq!(damage.segment, *path, "file {file}, octet {at}: {damage}");
            flip(path, at);
        }
    }
    // A whole file gone: the newest, one in the middle.
    for missing in [files.len() - 1, files.len() / 2] {
        let aside = dir.path().join("aside");
        fs::rename(&files[missing], &aside).unwrap();
        assert!(verify(dir.path(), &mut |_| ()).is_err());
        assert!(matches!(Store::open(dir.path(), options()).unwrap_err(), OpenError::Damaged { .. }));
        fs::rename(&aside, &files[missing]).unwrap();
    }
    // A file that was never finished holds nothing.
    fs::write(dir.path().join("journal/00000000000000999999.new"), b"half a header").unwrap();
    let (store, report) = Store::open(dir.path(), options()).unwrap();
    assert_eq!(report.records, records);
    store.close();
}

#[test]
fn an_opening_without_a_journal_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let refused = Store::open(&dir.path().join("none"), OpenOptions::default()).unwrap_err();
    assert!(matches!(refused, OpenError::Missing(_)));
    assert!(!dir.path().join("none").exists());
    assert!(verify(dir.path(), &mut |_| ()).is_err());
    assert!(read_records(dir.path(), 1).is_err());
}
