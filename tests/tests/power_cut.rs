//! The power goes while stations enroll: what was acknowledged was on the disk.

use anyhow::{Result, ensure};
use std::{fs, path::Path, process::Command, time::Duration};
use tests::{
    ca::{Ca, Options},
    load::{self, History},
    power_cut::Disk,
    tools,
};

fn cuts() -> usize {
    std::env::var("SEALWRIGHT_POWER_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

fn disk(folder: &Path) -> Option<Disk> {
    match Disk::create(folder, 192) {
        Ok(disk) => Some(disk),
        Err(error) => {
            eprintln!("skipped: needs root and loop devices: {error:#}");
            None
        }
    }
}

/// The method itself: what is synced stays, what is only written goes. Otherwise it would prove nothing.
#[test]
fn a_power_cut_loses_what_was_not_synced() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("sealwright-disk-").tempdir()?;
    let Some(disk) = disk(folder.path()) else { return Ok(()) };
    let (synced, written) = (disk.path().join("synced"), disk.path().join("written"));
    fs::write(&synced, "here")?;
    tools::run(Command::new("sync").arg("-f").arg(disk.path()))?;
    fs::write(&written, "here")?;
    disk.keep()?;
    disk.power_up()?;
    ensure!(fs::read(&synced).is_ok_and(|text| text == b"here"), "what was synced is gone");
    ensure!(!fs::read(&written).is_ok_and(|text| text == b"here"), "what was not synced is still there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_under_load_lose_nothing_that_was_acknowledged() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("sealwright-disk-").tempdir()?;
    let Some(disk) = disk(folder.path()) else { return Ok(()) };
    let mut ca = Ca::at(&disk.path().join("ca"), &folder.path().join("server.log"), Options::default());
    ca.restart()?;
    let stations = load::stations(&ca, 4).await?;
    // The token's own files are the ceremony's affair: SoftHSM does not sync them.
    tools::run(Command::new("sync").arg("-f").arg(disk.path()))?;

    let (history, cuts) = (History::default(), cuts());
    for cut in 1..=cuts {
        let load = history.load(&ca, &stations).await?;
        tokio::time::sleep(Duration::from_millis(rand::random_range(50..800))).await;
        ca.signal("STOP")?;
        // Answers that have left the service still arrive and count.
        tokio::time::sleep(Duration::from_millis(100)).await;
        disk.keep()?;
        load.stop().await;
        ca.kill()?;
        disk.power_up()?;
        ca.restart().map_err(|e| e.context(format!("after power cut {cut}")))?;
        history.check(&ca, &stations).await.map_err(|e| e.context(format!("after power cut {cut}")))?;
    }
    history.check_all(&ca).await?;
    history.check_retries(&ca, &stations, 10).await?;
    let (enrolled, revoked) = history.counts();
    eprintln!("{cuts} power cuts, {enrolled} certificates and {revoked} revocations acknowledged, none lost");
    ensure!(enrolled > cuts, "too little load to say anything");
    ca.finish()
}
