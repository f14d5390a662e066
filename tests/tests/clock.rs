//! A wrong clock stops issuing and nothing else; the operator's word sets it right.

use anyhow::{Context, Result, ensure};
use proto::v1::{Certificate, RevocationReason, Status};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tests::{
    api::{issued, refused},
    ca::{Ca, files},
    device::DeviceKey,
    http,
    judge::Case,
    tools,
};
use tonic::Code;

/// Finds libfaketime, which apt-get install faketime brings; without it a test says that it was skipped.
fn faketime() -> Result<Option<PathBuf>> {
    let name: &dyn Fn(&Path) -> bool = &|path| path.file_name().is_some_and(|n| n == "libfaketimeMT.so.1");
    let folders = fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path().join("faketime")));
    let mut found = Vec::new();
    for folder in folders.filter(|folder| folder.is_dir()) {
        found.extend(files(&folder, name)?);
    }
    if found.is_empty() {
        eprintln!("skipped: there is no faketime");
    }
    Ok(found.pop())
}

/// The environment of a process whose wall clock is ahead. Monotonic clocks stay as they are: a machine's are right
/// when its wall clock is not.
fn ahead(library: &Path, days: u32) -> Vec<(&'static str, String)> {
    vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", format!("+{days}d")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

fn clock_refusal<T>(result: Result<T>) -> Result<()> {
    let refusal = refused(result)?;
    ensure!((refusal.code, refusal.reason.as_str()) == (Code::Unavailable, "CLOCK"), "{refusal:?}");
    Ok(())
}

fn unix_now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?)
}

/// What OCSP answers, without a judgement of its times and its signer.
fn ocsp_text(ca: &Ca, case: &Case) -> Result<String> {
    let (address, path) = (ca.http()?, case.urls()?.1);
    let answer = http::post(&address, http::path_of(&path)?, "application/ocsp-request", &case.ocsp_request(true)?)?;
    ensure!(answer.status == 200, "OCSP: HTTP status {}", answer.status);
    let path = case.path("answer.der");
    fs::write(&path, answer.body)?;
    let mut show = Command::new("openssl");
    Ok(tools::ask(show.args(["ocsp", "-noverify", "-resp_text", "-respin"]).arg(path))?.text)
}

fn crl_text(ca: &Ca, case: &Case) -> Result<String> {
    case.fetch_crl(ca)?;
    let mut show = Command::new("openssl");
    let text = tools::run(show.args(["crl", "-noout", "-text", "-in"]).arg(case.path("crl.pem")))?;
    Ok(String::from_utf8(text)?.to_lowercase())
}

fn serial(certificate: &Certificate) -> Result<String> {
    Ok(certificate.r#ref.clone().context("no reference")?.serial_number)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_far_ahead_stops_issuing_and_nothing_else() -> Result<()> {
    let Some(library) = faketime()? else { return Ok(()) };
    let mut ca = Ca::start()?;
    let mut station = ca.role("station").await?;
    let (good, revoked) =
        (station.enroll(&DeviceKey::new()?, "SN-1").await?, station.enroll(&DeviceKey::new()?, "SN-2").await?);
    let case = Case::new(&ca, &issued(&good)?.der, &good.chain)?;
    let ended = Case::new(&ca, &issued(&revoked)?.der, &revoked.chain)?;
    let before = ca.role("auditor").await?.all_certificates().await?.len();
    ensure!(ca.stop()?.success());

    ca.set_environment(ahead(&library, 90));
    ca.restart().context("the clock is 90 days ahead")?;
    let mut station = ca.role("station").await.context("to a service whose clock is 90 days ahead")?;
    clock_refusal(station.enroll(&DeviceKey::new()?, "SN-3").await)?;
    // By this clock the responder's certificate has ended: it must not sign, and must not fall silent.
    ensure!(ocsp_text(&ca, &case)?.contains("trylater"));
    crl_text(&ca, &case)?;
    // A revocation cannot wait for the clock.
    let (mut operator, certificate) = (ca.role("operator").await?, issued(&revoked)?);
    operator.revoke(&certificate, RevocationReason::KeyCompromise).await?;
    assert_eq!(operator.status(&certificate).await?.status(), Status::Revoked);
    operator.until_on_crl(&certificate).await?;
    ensure!(crl_text(&ca, &ended)?.contains(&serial(&certificate)?));
    ensure!(ca.stop()?.success());

    ca.set_environment(Vec::new());
    ca.restart().context("the clock is right again")?;
    let all = ca.role("auditor").await?.all_certificates().await?;
    let devices = all.iter().filter(|c| !c.device_id.is_empty()).count();
    assert_eq!(devices, 2, "of {before} before: {:?}", all.len());
    ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-3").await.context("the clock is right again")?;
    // What was signed under the wrong clock does not stay.
    let mut operator = ca.role("operator").await?;
    operator.until_on_crl(&certificate).await?;
    assert_eq!(ended.ocsp_status(&ca)?, "revoked");
    assert_eq!(case.ocsp_status(&ca)?, "good");
    case.fetch_crl(&ca)?;
    let verdict = case.openssl_verify(true)?;
    ensure!(verdict.accepted, "{}", verdict.text);
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_from_the_future_stops_issuing_until_the_operator_vouches() -> Result<()> {
    let Some(library) = faketime()? else { return Ok(()) };
    let mut ca = Ca::start()?;
    let old = ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-1").await?;
    let case = Case::new(&ca, &issued(&old)?.der, &old.chain)?;
    ensure!(ca.stop()?.success());

    // Twenty days is a plant's holidays: nobody can tell.
    ca.set_environment(ahead(&library, 20));
    ca.restart()?;
    let future = issued(&ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-2").await?)?;
    let not_before = future.not_before.context("no not_before")?.seconds;
    ensure!(not_before > unix_now()? + 19 * 86_400, "the clock was not ahead");
    ensure!(ca.stop()?.success());

    ca.set_environment(Vec::new());
    ca.restart()?;
    let mut operator = ca.role("operator").await?;
    clock_refusal(ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-3").await)?;
    for certificate in [issued(&old)?, future] {
        operator.revoke(&certificate, RevocationReason::KeyCompromise).await?;
        operator.until_on_crl(&certificate).await?;
        ensure!(crl_text(&ca, &case)?.contains(&serial(&certificate)?));
    }
    // Judged by a clock that is right: a CRL or response from the future would be refused.
    let verdict = case.openssl_verify(true)?;
    ensure!(!verdict.accepted && verdict.text.contains("certificate revoked"), "{}", verdict.text);
    clock_refusal(ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-3").await)?;
    ensure!(ca.stop()?.success());

    ca.serve(&[])?;
    clock_refusal(ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-3").await)?;
    ensure!(ca.stop()?.success());
    ca.serve(&["--accept-clock"])?;
    let answer = ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-3").await.context("vouched for")?;
    let not_before = issued(&answer)?.not_before.context("no not_before")?.seconds;
    ensure!(not_before <= unix_now()?, "from the future");
    let now = Case::new(&ca, &issued(&answer)?.der, &answer.chain)?;
    now.fetch_crl(&ca)?;
    let verdict = now.openssl_verify(true)?;
    ensure!(verdict.accepted, "{}", verdict.text);
    assert_eq!(now.ocsp_status(&ca)?, "good");
    assert_eq!(case.ocsp_status(&ca)?, "revoked");
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_runs_away_from_the_machines_own_seconds_stops_issuing() -> Result<()> {
    let Some(library) = faketime()? else { return Ok(()) };
    let mut ca = Ca::start()?;
    let certificate = issued(&ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-1").await?)?;
    ensure!(ca.stop()?.success());
    // An hour for each second that the machine counts.
    let mut environment = ahead(&library, 0);
    environment.retain(|(name, _)| *name != "FAKETIME");
    environment.push(("FAKETIME", "+0 x3600".to_owned()));
    ca.set_environment(environment);
    ca.restart()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    clock_refusal(ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-2").await)?;
    let mut operator = ca.role("operator").await?;
    operator.revoke(&certificate, RevocationReason::KeyCompromise).await?;
    operator.until_on_crl(&certificate).await?;
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn ocsp_goes_on_after_a_run_with_the_clock_ahead() -> Result<()> {
    let Some(library) = faketime()? else { return Ok(()) };
    let mut ca = Ca::start()?;
    let answer = ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-1").await?;
    let case = Case::new(&ca, &issued(&answer)?.der, &answer.chain)?;
    ensure!(ca.stop()?.success());
    // Past half of the responder's life, so that it is renewed.
    ca.set_environment(ahead(&library, 20));
    ca.restart()?;
    ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-2").await?;
    ensure!(ca.stop()?.success());
    ca.set_environment(Vec::new());
    ca.restart()?;
    assert_eq!(case.ocsp_status(&ca)?, "good");
    ca.role("operator").await?.revoke(&issued(&answer)?, RevocationReason::KeyCompromise).await?;
    assert_eq!(case.ocsp_status(&ca)?, "revoked");
    ca.finish()
}
