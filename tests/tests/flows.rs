//! The whole life of certificates, as stations, devices and operators live it.

use anyhow::{Context, Result, ensure};
use proto::v1::{
    CertificateState, DisablePrincipalRequest, EnrollRequest, ListCertificatesRequest, ListDevicesRequest,
    RevocationReason, RevokeRequest, Role, Status, revoke_request::Target,
};
use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};
use tests::{
    api::{self, credential, fresh, identity, issued, refused, station_request},
    ca::{Ca, Options},
    device::{DeviceKey, SoftwareTpm},
    judge::Case,
};
use tonic::Code;

/// A revocation must be on a published CRL within this (BR 4.9.7 allows a day).
const CRL_SEEN: Duration = Duration::from_secs(20);

async fn until<F: Future<Output = Result<bool>>>(what: &str, mut check: impl FnMut() -> F) -> Result<()> {
    let end = Instant::now() + CRL_SEEN;
    while !check().await? {
        ensure!(Instant::now() < end, "not within {CRL_SEEN:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_station_enrolls_a_device_and_the_inventory_shows_it() -> Result<()> {
    let ca = Ca::start()?;
    let (mut station, mut auditor) = (ca.role("station").await?, ca.role("auditor").await?);
    let key = DeviceKey::new()?;
    let answer = station.enroll(&key, "SN-1").await?;
    let certificate = issued(&answer)?;
    assert_eq!(certificate.state(), CertificateState::Issued);
    assert_eq!((certificate.device_id.as_str(), certificate.profile.as_str()), ("SN-1", "tls-client"));
    assert!(!answer.replayed);
    assert!(certificate.requested_by.contains("station"), "{}", certificate.requested_by);

    let installed = station.confirm(&certificate).await?;
    assert_eq!(installed.state(), CertificateState::Installed);

    let read = auditor.get(certificate.r#ref.clone()).await?;
    assert_eq!(read.certificate.map(|c| c.der), Some(certificate.der.clone()));
    assert_eq!(read.chain, answer.chain);
    let devices = auditor.certificates.list_devices(ListDevicesRequest::default()).await?.into_inner().devices;
    let device = devices.iter().find(|d| d.device_id == "SN-1").context("not listed")?;
    assert_eq!((device.certificate_count, &device.current), (1, &certificate.r#ref));
    assert_eq!(device.identity, Some(identity("SN-1")));

    // The device itself: a role of its own, over the certificate that it was given.
    let mut device = ca.holder(&credential(&answer.pem, &key)).await?;
    assert_eq!(device.get(certificate.r#ref.clone()).await?.certificate.map(|c| c.der), Some(certificate.der));
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_even_after_a_restart() -> Result<()> {
    let mut ca = Ca::start()?;
    let request = station_request(&DeviceKey::new()?, "SN-1")?;
    let mut station = ca.role("station").await?;
    let first = station.enrollment.enroll(request.clone()).await?.into_inner();
    let again = station.enrollment.enroll(request.clone()).await?.into_inner();
    assert!(!first.replayed && again.replayed);
    assert_eq!(issued(&first)?.der, issued(&again)?.der);

    ensure!(ca.stop()?.success());
    ca.restart()?;
    let mut station = ca.role("station").await?;
    let later = station.enrollment.enroll(request).await?.into_inner();
    assert!(later.replayed);
    assert_eq!(issued(&first)?.der, issued(&later)?.der);
    let all = ca.role("auditor").await?.all_certificates().await?;
    assert_eq!(all.iter().filter(|c| c.device_id == "SN-1").count(), 1);
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_on_sixteen_connections_gives_one_certificate() -> Result<()> {
    let ca = Ca::start()?;
    let request = station_request(&DeviceKey::new()?, "SN-1")?;
    let mut senders = Vec::new();
    for _ in 0..16 {
        let (mut api, request) = (ca.role("station").await?, request.clone());
        senders.push(tokio::spawn(async move {
            // IN_PROGRESS asks to come again.
            for _ in 0..100 {
                match api.enrollment.enroll(request.clone()).await {
                    Err(status) if status.code() == Code::Unavailable => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    other => return other,
                }
            }
            Err(tonic::Status::deadline_exceeded("a hundred tries"))
        }));
    }
    let mut given = HashSet::new();
    for sender in senders {
        given.insert(issued(&sender.await??.into_inner())?.der);
    }
    assert_eq!(given.len(), 1);
    let all = ca.role("auditor").await?.all_certificates().await?;
    assert_eq!(all.iter().filter(|c| c.device_id == "SN-1").count(), 1);
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gives_one_certificate_to_sixteen_racers() -> Result<()> {
    let ca = Ca::start()?;
    let token = ca.role("operator").await?.token(None).await?;
    let mut racers = Vec::new();
    for racer in 0..16 {
        let mut api = ca.anonymous().await?;
        let key = DeviceKey::new()?;
        let request =
            EnrollRequest { enrollment_token: token.clone(), ..station_request(&key, &format!("SN-{racer}"))? };
        racers.push(tokio::spawn(async move { api.enrollment.enroll(request).await }));
    }
    let mut won = 0;
    for racer in racers {
        match racer.await? {
            Ok(_) => won += 1,
            Err(status) => {
                let refusal = api::refusal(&status);
                ensure!(!refusal.reason.is_empty() && refusal.code != Code::Internal, "{refusal:?}");
            }
        }
    }
    assert_eq!(won, 1);
    let all = ca.role("auditor").await?.all_certificates().await?;
    assert_eq!(all.iter().filter(|c| c.device_id.starts_with("SN-")).count(), 1);
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_one_device_refuses_another() -> Result<()> {
    let ca = Ca::start()?;
    let token = ca.role("operator").await?.token(Some("SN-1")).await?;
    let mut device = ca.anonymous().await?;
    let key = DeviceKey::new()?;
    let request = |serial| -> Result<EnrollRequest> {
        Ok(EnrollRequest { enrollment_token: token.clone(), ..station_request(&key, serial)? })
    };
    let wrong = device.enrollment.enroll(request("SN-2")?).await;
    refused(wrong.map_err(Into::into))?;
    let right = device.enrollment.enroll(request("SN-1")?).await?.into_inner();
    let certificate = issued(&right)?;
    assert_eq!(certificate.device_id, "SN-1");
    assert!(certificate.requested_by.starts_with("token:"), "{}", certificate.requested_by);
    assert!(!certificate.requested_by.contains(&token), "the secret is shown");
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_lives_until_its_successor_is_confirmed() -> Result<()> {
    let ca = Ca::start()?;
    let mut operator = ca.role("operator").await?;
    let old_key = DeviceKey::new()?;
    let enrolled = ca.role("station").await?.enroll(&old_key, "SN-1").await?;
    let old = issued(&enrolled)?;
    let mut device = ca.holder(&credential(&enrolled.pem, &old_key)).await?;
    let new_key = DeviceKey::new()?;
    let renewed = device.renew(&new_key).await?;
    let new = renewed.certificate.context("no certificate")?;
    assert_eq!(new.device_id, "SN-1");
    assert_eq!(new.subject, old.subject, "a successor has the names of what it replaces");
    assert_eq!(Some(&new.replaces_serial_number), old.r#ref.as_ref().map(|r| &r.serial_number));
    assert_ne!(
        operator.state(&old).await?,
        CertificateState::Revoked,
        "the old one lives until the new one is confirmed"
    );

    device.confirm(&new).await?;
    let status = operator.status(&old).await?;
    assert_eq!(status.status(), Status::Revoked);
    assert_eq!(status.revocation.map(|r| r.reason()), Some(RevocationReason::Superseded));
    assert_eq!(operator.status(&new).await?.status(), Status::Good);
    // The connection that is authenticated with the superseded certificate has no rights left.
    let after = device.get(new.r#ref.clone()).await;
    let code = after.err().map(|status| status.code());
    assert!(matches!(code, Some(Code::Unauthenticated | Code::PermissionDenied)), "{code:?}");
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_lives_until_its_successor_is_first_used() -> Result<()> {
    let ca = Ca::start()?;
    let mut operator = ca.role("operator").await?;
    let old_key = DeviceKey::new()?;
    let enrolled = ca.role("station").await?.enroll(&old_key, "SN-1").await?;
    let old = issued(&enrolled)?;
    let new_key = DeviceKey::new()?;
    let renewed = ca.holder(&credential(&enrolled.pem, &old_key)).await?.renew(&new_key).await?;
    let new = renewed.certificate.clone().context("no certificate")?;
    assert_ne!(operator.state(&old).await?, CertificateState::Revoked);

    let mut device = ca.holder(&credential(&renewed.pem, &new_key)).await?;
    device.get(new.r#ref.clone()).await?;
    until("the first use supersedes", || {
        let (mut operator, old) = (operator.clone(), old.clone());
        async move { Ok(operator.state(&old).await? == CertificateState::Revoked) }
    })
    .await?;
    assert_eq!(operator.state(&new).await?, CertificateState::Installed);
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_seen_by_status_ocsp_and_crl() -> Result<()> {
    let ca = Ca::start()?;
    let mut operator = ca.role("operator").await?;
    let key = DeviceKey::new()?;
    let answer = ca.role("station").await?.enroll(&key, "SN-1").await?;
    let certificate = issued(&answer)?;
    let case = Case::new(&ca, &certificate.der, &answer.chain)?;
    assert_eq!(operator.status(&certificate).await?.status(), Status::Good);
    assert_eq!(case.ocsp_status(&ca)?, "good");
    let mut device = ca.holder(&credential(&answer.pem, &key)).await?;
    device.get(certificate.r#ref.clone()).await?;

    operator.revoke(&certificate, RevocationReason::CessationOfOperation).await?;
    let first = operator.status(&certificate).await?;
    assert_eq!(first.status(), Status::Revoked);
    assert_eq!(case.ocsp_status(&ca)?, "revoked", "OCSP says so at once");
    let code = device.get(certificate.r#ref.clone()).await.err().map(|status| status.code());
    assert!(matches!(code, Some(Code::Unauthenticated | Code::PermissionDenied)), "open connection: {code:?}");

    let reference = certificate.r#ref.clone().context("no reference")?;
    until("on the CRL", || {
        let (mut operator, certificate) = (operator.clone(), certificate.clone());
        async move { Ok(operator.status(&certificate).await?.on_crl) }
    })
    .await?;
    case.fetch_crl(&ca)?;
    let text = tests::tools::run(
        std::process::Command::new("openssl").args(["crl", "-noout", "-text", "-in"]).arg(case.path("crl.pem")),
    )?;
    let text = String::from_utf8(text)?.to_lowercase();
    assert!(text.contains(&reference.serial_number), "GetStatus says on_crl, the CRL does not:\n{text}");
    assert!(text.contains("cessation of operation"), "{text}");

    // Again: the first date stays, the reason can only be raised to keyCompromise.
    operator.revoke(&certificate, RevocationReason::Superseded).await?;
    let second = operator.status(&certificate).await?.revocation;
    assert_eq!(second, first.revocation);
    operator.revoke(&certificate, RevocationReason::KeyCompromise).await?;
    let third = operator.status(&certificate).await?.revocation.context("not revoked")?;
    assert_eq!(third.reason(), RevocationReason::KeyCompromise);
    assert_eq!(Some(third.revoked_at), first.revocation.map(|r| r.revoked_at));
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_revoked_as_a_whole() -> Result<()> {
    let ca = Ca::start()?;
    let (mut station, mut operator) = (ca.role("station").await?, ca.role("operator").await?);
    let (key, bystander) = (DeviceKey::new()?, DeviceKey::new()?);
    let enrolled = station.enroll(&key, "SN-1").await?;
    let other = issued(&station.enroll(&bystander, "SN-2").await?)?;
    let renewed = ca.holder(&credential(&enrolled.pem, &key)).await?.renew(&DeviceKey::new()?).await?;
    let request = RevokeRequest {
        idempotency_key: fresh(),
        target: Some(Target::DeviceId("SN-1".to_owned())),
        reason: RevocationReason::KeyCompromise.into(),
        ..Default::default()
    };
    let answer = operator.revocation.revoke(request.clone()).await?.into_inner();
    assert_eq!(answer.certificates.len(), 2);
    for certificate in [issued(&enrolled)?, renewed.certificate.context("no certificate")?] {
        assert_eq!(operator.status(&certificate).await?.status(), Status::Revoked);
    }
    assert_eq!(operator.status(&other).await?.status(), Status::Good);
    let again = operator.revocation.revoke(request).await?.into_inner();
    assert_eq!(again.certificates.len(), 2, "the same key gives the same answer");
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_stays_whole_while_certificates_are_added() -> Result<()> {
    let ca = Ca::start()?;
    let (mut station, mut auditor) = (ca.role("station").await?, ca.role("auditor").await?);
    let mut before = HashSet::new();
    for n in 0..12 {
        before.insert(issued(&station.enroll(&DeviceKey::new()?, &format!("SN-{n:02}")).await?)?.sha256);
    }
    let mut request = ListCertificatesRequest { profile: "tls-client".to_owned(), page_size: 5, ..Default::default() };
    let mut seen = Vec::new();
    for added in 0.. {
        let page = auditor.certificates.list_certificates(request.clone()).await?.into_inner();
        assert!(page.certificates.len() <= 5);
        seen.extend(page.certificates.into_iter().map(|c| c.sha256));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        if added < 3 {
            station.enroll(&DeviceKey::new()?, &format!("NEW-{added}")).await?;
        }
    }
    let distinct: HashSet<_> = seen.iter().cloned().collect();
    assert_eq!(distinct.len(), seen.len(), "something was listed twice");
    assert!(before.is_subset(&distinct), "something was left out");

    request.page_token = "nonsense".to_owned();
    let wrong = refused(auditor.certificates.list_certificates(request).await.map_err(Into::into))?;
    assert_eq!((wrong.code, wrong.field.as_str()), (Code::InvalidArgument, "page_token"));

    let filter = ListCertificatesRequest { device_id: "SN-03".to_owned(), ..Default::default() };
    let one = auditor.certificates.list_certificates(filter).await?.into_inner().certificates;
    assert_eq!(one.iter().map(|c| c.device_id.as_str()).collect::<Vec<_>>(), ["SN-03"]);
    let prefix = ListDevicesRequest { device_id_prefix: "NEW-".to_owned(), ..Default::default() };
    let devices = auditor.certificates.list_devices(prefix).await?.into_inner().devices;
    assert!(!devices.is_empty() && devices.iter().all(|d| d.device_id.starts_with("NEW-")));
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_principal_stops_at_once_on_its_open_connection() -> Result<()> {
    let ca = Ca::start()?;
    let mut admin = ca.role("admin").await?;
    let (held, certificate) = admin.principal("line-7", Role::Station).await?;
    let mut line = ca.holder(&held).await?;
    line.enroll(&DeviceKey::new()?, "SN-1").await?;

    let disable = |id: &str| DisablePrincipalRequest { idempotency_key: fresh(), principal_id: id.to_owned() };
    admin.access.disable_principal(disable("line-7")).await?;
    let refusal = refused(line.enroll(&DeviceKey::new()?, "SN-2").await)?;
    assert!(matches!(refusal.code, Code::Unauthenticated | Code::PermissionDenied), "{refusal:?}");
    assert_eq!(admin.status(&certificate).await?.status(), Status::Revoked);
    assert!(admin.all_certificates().await?.iter().all(|c| c.device_id != "SN-2"));

    // The last admin cannot lock everybody out.
    let principals = admin.access.list_principals(proto::v1::ListPrincipalsRequest::default()).await?.into_inner();
    let admins: Vec<_> = principals.principals.iter().filter(|p| p.role() == Role::Admin).collect();
    ensure!(admins.len() == 1, "{admins:?}");
    let last = admins.first().map(|p| p.principal_id.clone()).unwrap_or_default();
    let refusal = refused(admin.access.disable_principal(disable(&last)).await.map_err(Into::into))?;
    assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
    ca.finish()
}

fn device_enroll(ca: &Ca, tpm: &SoftwareTpm, folder: &Path) -> Result<(i32, String)> {
    let (server, trust) = (ca.grpc()?, ca.roots(None)?.1);
    ca.command(&["device", "enroll", "--server", &server, "--tpm", &tpm.address()], |command| {
        command.arg("--trust").arg(&trust).arg("--dir").arg(folder)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_attests_its_key_and_renews_over_it() -> Result<()> {
    let tpm = SoftwareTpm::start()?;
    let ca = Ca::start_with(Options { tpm_roots: Some(tpm.vendor()), ..Default::default() })?;
    let device = tempfile::tempdir()?;
    let folder = device.path().join("device");
    let (code, text) = device_enroll(&ca, &tpm, &folder)?;
    ensure!(code == 0, "{text}");
    let mut auditor = ca.role("auditor").await?;
    let attested = |list: Vec<proto::v1::Certificate>| -> Vec<_> {
        list.into_iter().filter(|c| c.attestation.is_some()).collect()
    };
    let first = attested(auditor.all_certificates().await?);
    let [certificate] = first.as_slice() else { anyhow::bail!("not one attested certificate: {first:?}") };
    let result = certificate.attestation.clone().context("no result")?;
    assert_eq!(result.format, "tpm2");
    assert_eq!(result.claims.get("key.hardware_bound").map(String::as_str), Some("yes"), "{:?}", result.claims);
    assert!(certificate.requested_by.starts_with("attestation:"), "{}", certificate.requested_by);
    assert!(certificate.device_id.starts_with("tpm-"), "{}", certificate.device_id);
    assert_eq!(certificate.state(), CertificateState::Installed, "the agent confirms what it installed");

    // Again: nothing to do. Then a successor, with a new key in the same TPM.
    let (code, text) = device_enroll(&ca, &tpm, &folder)?;
    ensure!(code == 0, "{text}");
    assert_eq!(attested(auditor.all_certificates().await?).len(), 1);
    let (code, text) = ca.command(&["device", "renew", "--dir"], |command| command.arg(&folder))?;
    ensure!(code == 0, "{text}");
    let second = attested(auditor.all_certificates().await?);
    let [old, new] = second.as_slice() else { anyhow::bail!("the renewal is not attested: {second:?}") };
    assert_eq!((old.state(), new.state()), (CertificateState::Revoked, CertificateState::Installed));
    assert_eq!(old.device_id, new.device_id);
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_of_an_unknown_vendor_is_refused() -> Result<()> {
    let (tpm, trusted) = (SoftwareTpm::start()?, SoftwareTpm::start()?);
    let ca = Ca::start_with(Options { tpm_roots: Some(trusted.vendor()), ..Default::default() })?;
    let device = tempfile::tempdir()?;
    let before = ca.role("auditor").await?.all_certificates().await?.len();
    let (code, text) = device_enroll(&ca, &tpm, &device.path().join("device"))?;
    assert_ne!(code, 0, "{text}");
    assert_eq!(ca.role("auditor").await?.all_certificates().await?.len(), before);
    let (code, text) = device_enroll(&ca, &trusted, &device.path().join("control"))?;
    ensure!(code == 0, "{text}");
    ca.finish()
}
