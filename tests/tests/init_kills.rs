//! The first start is killed at any moment: the next one goes on, and nothing is there twice.

use anyhow::{Context, Result, ensure};
use proto::v1::{IssuerState, ListIssuersRequest};
use std::time::Duration;
use tests::ca::{Ca, Options, ROLES};

fn kills() -> u64 {
    std::env::var("SEALWRIGHT_INIT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

/// How long a first start may be left alone before it is killed, in milliseconds.
const LONGEST: u64 = 1_000;

/// What a tenant must have, seen with each of its credentials.
async fn check_tenant(ca: &Ca, tenant: Option<&str>) -> Result<()> {
    let mut seen: Option<Vec<Vec<u8>>> = None;
    for role in ROLES {
        let mut api = ca.holder(&ca.credential(tenant, role)?).await?;
        let issuers = api
            .authority
            .list_issuers(ListIssuersRequest::default())
            .await
            .with_context(|| format!("{role} of {tenant:?}"))?
            .into_inner()
            .issuers;
        let states: Vec<_> = issuers.iter().map(|i| (i.issuer_id.clone(), i.state())).collect();
        let active = states.iter().filter(|(_, state)| *state == IssuerState::Active).count();
        let roots = states.iter().filter(|(id, _)| id.contains("-root-")).count();
        ensure!(active == 1 && roots == 1 && states.len() == 2, "{tenant:?}: {states:?}");
        let certificates: Vec<_> = issuers.into_iter().map(|i| i.certificate).collect();
        ensure!(seen.as_ref().is_none_or(|seen| *seen == certificates), "{role} of {tenant:?} sees other issuers");
        seen = Some(certificates);
    }
    Ok(())
}

async fn one_kill(after: Duration, other_tenant: bool) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = Options { other_tenant, ..Options::default() };
    let mut ca = Ca::at(&folder.path().join("ca"), &folder.path().join("server.log"), options);
    ca.start_and_kill(after)?;
    ca.restart()?;
    check_tenant(&ca, None).await?;
    if other_tenant {
        check_tenant(&ca, Some("other")).await?;
    }
    // What it serves can be used: a device is enrolled and the journal is whole.
    let mut station = ca.role("station").await?;
    station.enroll(&tests::device::DeviceKey::new()?, "SN-1").await?;
    ca.finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_first_start_is_continued_by_the_next() -> Result<()> {
    let kills = kills();
    for kill in 0..kills {
        // One in each part of the time, so that no phase is left out by chance.
        let part = LONGEST * 1_000 / kills.max(1);
        let after = Duration::from_micros(part * kill + rand::random_range(0..part.max(1)));
        one_kill(after, kill % 4 == 3).await.with_context(|| format!("killed after {after:?}"))?;
    }
    eprintln!("{kills} first starts were killed, and each next one served");
    Ok(())
}

/// Two kills in a row: what the second run took over from the first is taken over by the third.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_killed_again_and_again_arrives() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut ca = Ca::at(&folder.path().join("ca"), &folder.path().join("server.log"), Options::default());
    for _ in 0..8 {
        ca.start_and_kill(Duration::from_millis(rand::random_range(150..500)))?;
    }
    ca.restart()?;
    check_tenant(&ca, None).await?;
    ca.finish()
}
