//! One key on two tokens: both sign, either may go, and no certificate is lost or doubled.

use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use tests::{
    ca::Ca,
    http,
    load::{self, History},
    tools,
};

/// Copies the token with its keys, as a vendor's cloning would, and names the copy in the configuration.
fn with_a_copy(ca: &Ca) -> Result<()> {
    let (first, second) = (ca.directory().join("softhsm"), ca.directory().join("softhsm-2"));
    tools::run(Command::new("cp").arg("-a").arg(&first).arg(&second))?;
    let conf = fs::read_to_string(first.join("softhsm2.conf"))?;
    fs::write(second.join("softhsm2.conf"), conf.replace("/softhsm/", "/softhsm-2/"))?;
    let file = ca.directory().join("sealwright.toml");
    let text = fs::read_to_string(&file)?;
    let begin = text.find("[token]\n").context("no token")? + "[token]\n".len();
    let end = begin + text.get(begin..).and_then(|rest| rest.find("\n[")).context("no end of the token")? + 1;
    let token = text.get(begin..end).unwrap_or_default();
    let copy =
        token.replace("softhsm2.conf", "SOFTHSM2.CONF").replace("/softhsm/SOFTHSM2.CONF", "/softhsm-2/softhsm2.conf");
    let (before, after) = (text.get(..end).unwrap_or_default(), text.get(end..).unwrap_or_default());
    Ok(fs::write(&file, format!("{before}[[token.copies]]\n{copy}{after}"))?)
}

fn up(ca: &Ca) -> Result<f64> {
    ca.metric("sealwright_token_up", "")
}

fn until(ca: &Ca, tokens: f64) -> Result<Duration> {
    let begun = Instant::now();
    while up(ca)? != tokens {
        ensure!(begun.elapsed() < Duration::from_secs(10), "{tokens} tokens are not up:\n{}", ca.log_tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(begun.elapsed())
}

fn move_away(tokens: &Path) -> Result<()> {
    fs::rename(tokens, tokens.with_extension("away"))?;
    Ok(fs::create_dir(tokens)?)
}

fn move_back(tokens: &Path) -> Result<()> {
    fs::remove_dir(tokens)?;
    Ok(fs::rename(tokens.with_extension("away"), tokens)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_of_two_tokens_may_go() -> Result<()> {
    let mut ca = Ca::start()?;
    let stations = load::stations(&ca, 4).await?;
    ensure!(ca.stop()?.success());
    with_a_copy(&ca)?;
    ca.serve(&[])?;
    until(&ca, 2.0)?;
    let history = History::default();
    let load = history.persistent(&ca, &stations).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for folder in ["softhsm-2", "softhsm"] {
        let tokens = ca.directory().join(folder).join("tokens");
        let before = history.counts().0;
        move_away(&tokens)?;
        until(&ca, 1.0)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(history.counts().0 > before, "nothing was issued with one token");
        let ready = http::get(&ca.http()?, "/readyz")?;
        let text = String::from_utf8_lossy(&ready.body).into_owned();
        ensure!(ready.status == 200 && text.contains("alarm: token"), "{}: {text}", ready.status);
        move_back(&tokens)?;
        eprintln!("figure: {folder} is back after {:?}", until(&ca, 2.0)?);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let signed: Vec<f64> = ["signature", "crash", "repeated"]
        .iter()
        .map(|kind| ca.metric("sealwright_token_events_total", &format!("\"{kind}\"")))
        .collect::<Result<_>>()?;
    load.stop().await;
    let refusals = history.refusals();
    ensure!(refusals.hopeless.is_empty(), "without a cure: {:#?}", refusals.hopeless);
    history.check(&ca, &stations).await?;
    history.check_all(&ca).await?;
    eprintln!("figure: {} certificates, signatures, crashes and repetitions {signed:?}", history.counts().0);
    ca.finish()
}
