//! The token goes away and comes back: nothing wrong is said meanwhile, and everything works again by itself.

use anyhow::{Context, Result, ensure};
use proto::v1::{CertificateState, RevocationReason, Status};
use std::{
    fs,
    time::{Duration, Instant},
};
use tests::{
    api::{issued, station_request},
    ca::{Ca, files},
    device::DeviceKey,
    judge::Case,
};
use tonic::Code;
use tonic_types::StatusExt;

/// How long after the token's return the service may need.
const RECOVERY: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_token_stops_signing_until_it_is_back() -> Result<()> {
    let ca = Ca::start()?;
    let (mut station, mut operator) = (ca.role("station").await?, ca.role("operator").await?);
    let before = station.enroll(&DeviceKey::new()?, "SN-1").await?;
    let case = Case::new(&ca, &issued(&before)?.der, &before.chain)?;
    case.fetch_crl(&ca)?;

    let conf = files(ca.directory(), &|path| path.file_name().is_some_and(|name| name == "softhsm2.conf"))?;
    let tokens = conf.first().and_then(|conf| conf.parent()).context("no SoftHSM folder")?.join("tokens");
    let away = tokens.with_extension("away");
    fs::rename(&tokens, &away)?;
    fs::create_dir(&tokens)?;
    let lost = station_request(&DeviceKey::new()?, "SN-2")?;
    let began = Instant::now();
    let refused = station.enrollment.enroll(lost.clone()).await.err().context("signed without a token")?;
    ensure!(began.elapsed() < Duration::from_secs(15), "the refusal took {:?}", began.elapsed());
    ensure!(matches!(refused.code(), Code::Unavailable | Code::ResourceExhausted), "{refused:?}");
    ensure!(refused.get_details_retry_info().is_some(), "no hint when to come again: {refused:?}");
    // What needs no signature works on: reading, and revoking, which is a fact of the journal.
    let certificate = issued(&before)?;
    ensure!(operator.status(&certificate).await?.status() == Status::Good);
    operator.revoke(&certificate, RevocationReason::KeyCompromise).await?;
    ensure!(operator.state(&certificate).await? == CertificateState::Revoked);
    case.fetch_crl(&ca)?;

    fs::remove_dir(&tokens)?;
    fs::rename(&away, &tokens)?;
    let end = Instant::now() + RECOVERY;
    let answer = loop {
        match station.enrollment.enroll(lost.clone()).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => ensure!(Instant::now() < end, "not back after {RECOVERY:?}: {status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let case_after = Case::new(&ca, &issued(&answer)?.der, &answer.chain)?;
    let verdict = case_after.openssl_verify(false)?;
    ensure!(verdict.accepted, "{}", verdict.text);
    ensure!(case.ocsp_status(&ca)? == "revoked", "revoked while the token was away");
    // The interrupted request became one certificate.
    let all = ca.role("auditor").await?.all_certificates().await?;
    ensure!(all.iter().filter(|c| c.device_id == "SN-2").count() == 1);
    while !operator.status(&certificate).await?.on_crl {
        ensure!(Instant::now() < end + RECOVERY, "not on the CRL");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ca.finish()
}
