//! A process that is killed, and a disk that is full.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and the child talks to its parent")]

mod fixture;

use fixture::*;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use store::{verify::verify, *};

const CHILD: &str = "STORE_CRASH_CHILD";

/// The child: eight writers enroll and revoke without end, and print what was acknowledged.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let (store, report) = open(Path::new(&dir));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            std::thread::spawn(move || {
                for n in 0.. {
                    // A number of its own for every writer and run.
                    let n = report.records * 1_000_000 + n * 8 + writer;
                    enroll(&store, intend(n, device(&format!("d-{n}")))).unwrap();
                    println!("issued {n}.");
                    if n % 3 == 0 {
                        store.commit(revoke_one(n, 1), NOW).unwrap();
                        println!("revoked {n}.");
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        let _ = writer.join();
    }
}

#[test]
fn whatever_was_acknowledged_survives_twenty_kills() {
    let (dir, store) = fresh();
    store.close();
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    let mut torn = 0;
    for round in 0..20u64 {
        let before = acknowledged.len();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let mut lines = Vec::new();
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                // A line that the kill cut has no full stop.
                let Some((what, n)) = line.strip_suffix('.').and_then(|l| l.rsplit_once(' ')) else { continue };
                if let Ok(n) = n.parse() {
                    lines.push((what.rsplit(' ').next().unwrap_or_default().to_owned(), n));
                }
            }
            lines
        });
        std::thread::sleep(Duration::from_millis(150 + round * 37 % 211));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(reader.join().unwrap());
        let verified = verify(dir.path(), &mut |_| ()).unwrap();
        assert!(round < 5 || acknowledged.len() > before || before > 0, "the child never got to work");
        let (store, report) = open(dir.path());
        assert!(report.records <= verified.records);
        torn += u32::from(report.torn_tail.is_some());
        assert!(!matches!(report.index, IndexState::Rebuilt(_)), "{report:?}");
        for (what, n) in &acknowledged {
            let entry = store.certificate(&issuer(), &serial(*n)).unwrap().unwrap();
            assert!(entry.signature.is_some(), "{n} is lost");
            assert!(what != "revoked" || entry.revocation.is_some(), "the revocation of {n} is lost");
        }
        store.close();
    }
    assert!(acknowledged.len() > 200, "only {} acknowledgements", acknowledged.len());
    let kept = dump(dir.path());
    rebuild(dir.path(), &mut |_| ()).unwrap();
    assert_eq!(dump(dir.path()), kept);
    let _ = writeln!(std::io::stderr(), "{} acknowledgements, {torn} torn tails", acknowledged.len());
}

/// A small file system, unmounted at the end.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_and_recovers_when_there_is_space() {
    let Some(small) = Tmpfs::mount("1m") else {
        let _ = writeln!(std::io::stderr(), "skipped: a tmpfs cannot be mounted here");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    // The journal alone on the small disk.
    std::os::unix::fs::symlink(small.0.path(), dir.path().join("journal")).unwrap();
    let (store, _) = create(dir.path());
    store.commit(add_issuer(), NOW).unwrap();
    let ballast = small.0.path().join("ballast");
    fs::write(&ballast, vec![1; 500_000]).unwrap();
    let mut kept = Vec::new();
    let mut n = 0;
    let error = loop {
        n += 1;
        let intent = Intend { tbs: vec![1; 3_000], ..intend(n, device(&format!("d-{n}"))) };
        match enroll(&store, intent) {
            Ok(_) => kept.push(n),
            Err(error) => break error,
        }
    };
    assert_eq!(error, StoreError::Full);
    assert_eq!(store.refusal(), Some(StoreError::Full));
    assert!(kept.len() > 50);
    assert!(!store.statistics().poisoned);
    // What is small may still find room; what is not is refused again, and nothing of it stays.
    let big = |n| Intend { tbs: vec![1; 30_000], ..intend(n, device("d-big")) };
    assert_eq!(store.commit(big(10_000), NOW), Err(StoreError::Full));
    assert_eq!(store.certificate(&issuer(), &serial(10_000)), Ok(None));
    assert!(verify(dir.path(), &mut |_| ()).is_ok());
    fs::remove_file(&ballast).unwrap();
    assert_eq!(store.commit(big(10_000), NOW), Ok(Intended::New));
    assert_eq!(store.refusal(), None);
    store.close();
    let (store, report) = open(dir.path());
    assert_eq!(report.torn_tail, None);
    for n in kept {
        assert!(store.certificate(&issuer(), &serial(n)).unwrap().unwrap().signature.is_some());
    }
    assert!(store.certificate(&issuer(), &serial(10_000)).unwrap().is_some());
    store.close();
    assert!(verify(dir.path(), &mut |_| ()).is_ok());
}

#[test]
fn a_disk_that_is_full_for_the_index_too_recovers_without_a_restart() {
    let Some(small) = Tmpfs::mount("6m") else {
        let _ = writeln!(std::io::stderr(), "skipped: a tmpfs cannot be mounted here");
        return;
    };
    let dir = small.0.path().join("store");
    let (store, _) = create(&dir);
    store.commit(add_issuer(), NOW).unwrap();
    let ballast = small.0.path().join("ballast");
    fs::write(&ballast, vec![1; 3_000_000]).unwrap();
    let mut kept = Vec::new();
    let mut n = 0;
    // Index and journal fill the rest together, whoever fails first; go on until nothing is taken for a while.
    let mut refused = 0;
    while refused < 20 {
        n += 1;
        match enroll(&store, Intend { tbs: vec![1; 8_000], ..intend(n, device(&format!("d-{n}"))) }) {
            Ok(_) => (kept.push(n), refused = 0).1,
            Err(StoreError::Full | StoreError::Index(_)) => {
                refused += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(other) => panic!("{other}"),
        }
        assert!(n < 2_000, "the disk never got full");
    }
    assert!(kept.len() > 10, "{} kept", kept.len());
    fs::remove_file(&ballast).unwrap();
    let began = std::time::Instant::now();
    let again = |n| Intend { tbs: vec![1; 8_000], ..intend(n, device("d-again")) };
    while store.commit(again(10_000), NOW).is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "it does not recover");
        std::thread::sleep(Duration::from_millis(100));
    }
    for n in &kept {
        assert!(store.certificate(&issuer(), &serial(*n)).unwrap().unwrap().signature.is_some(), "{n} is lost");
    }
    store.close();
    assert!(verify(&dir, &mut |_| ()).is_ok());
    // On a disk this small sled may not get its last rows down at the end; the next start replays what is missing.
    let all_there = || {
        let (store, _) = open(&dir);
        for n in &kept {
            assert!(store.certificate(&issuer(), &serial(*n)).unwrap().unwrap().signature.is_some(), "{n} is lost");
        }
        store.close();
    };
    all_there();
    rebuild(&dir, &mut |_| ()).unwrap();
    all_there();
}
