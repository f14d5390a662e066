//! The service is killed, its files are damaged: nothing that was acknowledged is lost, and nothing is made up.

use anyhow::{Result, ensure};
use std::{fs, path::PathBuf, time::Duration};
use tests::{
    ca::{Ca, copy_folder, files},
    load::{self, History},
};

fn kills() -> usize {
    std::env::var("SEALWRIGHT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_lose_nothing_that_was_acknowledged() -> Result<()> {
    let mut ca = Ca::start()?;
    let stations = load::stations(&ca, 4).await?;
    let history = History::default();
    let kills = kills();
    for kill in 1..=kills {
        let load = history.load(&ca, &stations).await?;
        tokio::time::sleep(Duration::from_millis(rand::random_range(20..400))).await;
        ca.kill()?;
        load.stop().await;
        let (code, text) = ca.verify_journal()?;
        ensure!(code == 0, "kill {kill}: journal verify says {code}:\n{text}");
        ca.restart()?;
        history.check(&ca, &stations).await.map_err(|e| e.context(format!("after kill {kill}")))?;
    }
    history.check_all(&ca).await?;
    history.check_retries(&ca, &stations, 20).await?;
    let (enrolled, revoked) = history.counts();
    eprintln!("{kills} kills, {enrolled} certificates and {revoked} revocations acknowledged, none lost");
    ensure!(enrolled > kills && revoked > 0, "too little load to say anything");
    ca.finish()
}

async fn some_history() -> Result<(Ca, History, Vec<tests::api::Credential>)> {
    let ca = Ca::start()?;
    let stations = load::stations(&ca, 2).await?;
    let history = History::default();
    let load = history.load(&ca, &stations).await?;
    while history.counts().0 < 24 || history.counts().1 < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    load.stop().await;
    history.check(&ca, &stations).await?;
    Ok((ca, history, stations))
}

/// The folder of the index, which a rebuild replaces.
fn index(ca: &Ca) -> Result<PathBuf> {
    let found = files(ca.directory(), &|path| path.file_name().is_some_and(|name| name == "db"))?;
    ensure!(found.len() == 1, "not one index: {found:?}");
    Ok(found.iter().filter_map(|file| file.parent()).map(PathBuf::from).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_is_rebuilt_from_the_journal() -> Result<()> {
    let (mut ca, history, stations) = some_history().await?;
    ensure!(ca.stop()?.success());
    let index = index(&ca)?;
    let db = index.join("db");

    fs::remove_dir_all(&index)?;
    ca.restart()?;
    history.check_all(&ca).await?;
    history.check_retries(&ca, &stations, 4).await?;
    ensure!(ca.stop()?.success());

    let whole = fs::read(&db)?;
    fs::write(&db, whole.get(..whole.len() / 3).unwrap_or_default())?;
    ca.restart()?;
    history.check_all(&ca).await?;
    history.check_retries(&ca, &stations, 4).await?;
    ensure!(ca.stop()?.success());

    let garbage: Vec<u8> = (0..whole.len()).map(|_| rand::random()).collect();
    fs::write(&db, garbage)?;
    ca.restart()?;
    history.check_all(&ca).await?;
    history.check_retries(&ca, &stations, 4).await?;
    ensure!(ca.stop()?.success());

    // An index of yesterday: behind the journal.
    let old = tempfile::tempdir()?;
    copy_folder(&index, old.path())?;
    ca.restart()?;
    let load = history.load(&ca, &stations).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    load.stop().await;
    history.check(&ca, &stations).await?;
    ensure!(ca.stop()?.success());
    fs::remove_dir_all(&index)?;
    copy_folder(old.path(), &index)?;
    ca.restart()?;
    history.check_all(&ca).await?;
    ensure!(ca.stop()?.success());
    let (code, text) = ca.verify_journal()?;
    ensure!(code == 0, "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_journal_is_found_and_nothing_starts_on_it() -> Result<()> {
    let (mut ca, history, _) = some_history().await?;
    ensure!(ca.stop()?.success());
    let journal = files(ca.directory(), &|path| {
        path.components().any(|part| part.as_os_str() == "journal") || path.extension().is_some_and(|e| e == "journal")
    })?;
    let journal: Vec<_> = journal.into_iter().filter(|f| fs::metadata(f).is_ok_and(|m| m.len() > 1_000)).collect();
    let [file] = journal.as_slice() else { anyhow::bail!("not one journal file: {journal:?}") };
    let whole = fs::read(file)?;
    // A changed octet anywhere, a record cut out of the middle: found. (The very tail is another matter: a torn write.)
    let mut damages = Vec::new();
    for part in 1..8 {
        let mut changed = whole.clone();
        let at = whole.len() * part / 9;
        if let Some(octet) = changed.get_mut(at) {
            *octet ^= 0x20;
        }
        damages.push((format!("octet {at} changed"), changed));
    }
    let third = whole.len() / 3;
    damages.push(("a third cut out".to_owned(), [&whole[..third], &whole[2 * third..]].concat()));
    for (what, damaged) in damages {
        fs::write(file, damaged)?;
        let (code, text) = ca.verify_journal()?;
        ensure!(code == 1, "{what}: journal verify exits {code}:\n{text}");
        ensure!(text.chars().any(|c| c.is_ascii_digit()), "{what}: no place is named:\n{text}");
        let log = ca.must_not_start()?;
        ensure!(log.to_lowercase().contains("journal"), "{what}: refused without saying why:\n{log}");
    }
    fs::write(file, whole)?;
    ca.restart()?;
    history.check_all(&ca).await?;
    ca.finish()
}
