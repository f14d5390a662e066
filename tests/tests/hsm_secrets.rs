//! Where the PIN and the module are, and where they are not: seen from outside, as root sees processes.

use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    thread,
    time::{Duration, Instant},
};
use tests::token::Stopped;

/// Reading another process's memory in pieces; the overlap finds what lies across two.
const PIECE: usize = 1 << 20;

fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{parent}/task"))? {
        let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(found)
}

/// How often `wanted` is in the readable memory of a process, and how many octets were read.
fn in_memory(process: u32, wanted: &[u8]) -> Result<(usize, usize)> {
    let memory = File::open(format!("/proc/{process}/mem"))?;
    let (mut found, mut read) = (0, 0);
    for line in fs::read_to_string(format!("/proc/{process}/maps"))?.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().context("range")?, words.next().context("rights")?);
        let (begin, end) = range.split_once('-').context("range")?;
        let (begin, end) = (u64::from_str_radix(begin, 16)?, u64::from_str_radix(end, 16)?);
        if !rights.starts_with('r') || line.contains("[v") {
            continue;
        }
        let mut at = begin;
        while at < end {
            let size = usize::try_from(end - at)?.min(PIECE + wanted.len());
            let mut piece = vec![0; size];
            // Some mappings cannot be read although they say so.
            let Ok(got) = memory.read_at(&mut piece, at) else { break };
            piece.truncate(got);
            read += got;
            found += piece.windows(wanted.len()).filter(|window| *window == wanted).count();
            at += PIECE as u64;
        }
    }
    Ok((found, read))
}

fn text_of(process: u32, file: &str) -> Result<String> {
    let octets = fs::read(format!("/proc/{process}/{file}")).with_context(|| format!("/proc/{process}/{file}"))?;
    Ok(String::from_utf8_lossy(&octets).replace('\0', " "))
}

/// The service, its keeper and a worker.
fn processes(service: u32) -> Result<(u32, u32)> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let [keeper] = children(service)?[..]
            && let Some(worker) = children(keeper)?.first()
        {
            return Ok((keeper, *worker));
        }
        ensure!(Instant::now() < end, "no keeper and worker: {:?}", children(service)?);
        thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pin_is_in_the_worker_and_nowhere_else() -> Result<()> {
    let mut ca = Stopped::new()?;
    ca.ca.serve(&[])?;
    // It serves, so that everything which touches the token has been done once.
    ca.ca.role("station").await?.enroll(&tests::device::DeviceKey::new()?, "SN-1").await?;
    let service = ca.ca.process()?;
    let (keeper, worker) = processes(service)?;
    for process in [service, keeper, worker] {
        let line = text_of(process, "cmdline")?;
        ensure!(!line.contains(&ca.pin), "the PIN is in the arguments: {line}");
    }
    // Which part is which: the names in the list of processes say it.
    ensure!(text_of(keeper, "cmdline")?.starts_with("sealwright-keeper "), "{}", text_of(keeper, "cmdline")?);
    ensure!(text_of(worker, "cmdline")?.starts_with("sealwright-worker "), "{}", text_of(worker, "cmdline")?);
    for process in [keeper, worker] {
        let limits = text_of(process, "limits")?;
        let core = limits.lines().find(|l| l.starts_with("Max core file size")).context("no limit")?;
        ensure!(core.split_whitespace().skip(4).take(2).eq(["0", "0"]), "{core}");
    }
    let maps = |process| text_of(process, "maps");
    ensure!(maps(worker)?.contains("softhsm"), "the module is in the worker");
    for process in [service, keeper] {
        ensure!(!maps(process)?.contains("softhsm"), "the module is in process {process}");
    }
    if fs::metadata("/proc/self")?.uid() != 0 {
        eprintln!("only root can read the memory and the environment of these processes");
        return ca.ca.finish();
    }
    for process in [service, keeper, worker] {
        let environment = text_of(process, "environ")?;
        ensure!(!environment.contains(&ca.pin), "the PIN is in the environment of process {process}");
    }
    let pin = ca.pin.as_bytes();
    let (in_worker, read) = in_memory(worker, pin)?;
    ensure!(in_worker > 0, "the search does not find the PIN where it is; {read} octets were read");
    let (in_service, read) = in_memory(service, pin)?;
    ensure!(read > 1 << 20, "only {read} octets of the service could be read");
    ensure!(in_service == 0, "the PIN is {in_service} times in the service's memory");
    // The keeper read it from a file to hand it over, and wiped it.
    let (in_keeper, _) = in_memory(keeper, pin)?;
    ensure!(in_keeper == 0, "the PIN is {in_keeper} times in the keeper's memory");
    ca.ca.finish()
}
