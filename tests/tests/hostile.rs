//! What an attacker, a careless operator or a caller that goes away must not bring about.

use anyhow::{Context, Result, ensure};
use proto::v1::{
    BeginAttestationRequest, Certificate, CreateEnrollmentTokenRequest, CreatePrincipalRequest,
    DisablePrincipalRequest, EnrollRequest, ListPrincipalsRequest, RenewRequest, RevocationReason, RevokeRequest,
    RevokeResponse, Role, Status, TpmHello, begin_attestation_request::Hello, revoke_request::Target,
};
use std::{fs, process::Command, time::Duration};
use tests::{
    api::{Api, Refusal, credential, fresh, issued, refused, station_request},
    ca::{Ca, Options},
    device::DeviceKey,
    judge::Case,
    slow::Begun,
    tools,
};
use tonic::Code;

/// Long enough for headers to pass the gate on a busy machine.
const HEADERS: Duration = Duration::from_millis(500);

fn answered<T>(result: Result<T, tonic::Status>) -> Result<T> {
    result.map_err(Into::into)
}

fn disable(id: &str) -> DisablePrincipalRequest {
    DisablePrincipalRequest { idempotency_key: fresh(), principal_id: id.to_owned() }
}

fn revocation(target: Target, reason: RevocationReason) -> RevokeRequest {
    let reason = reason.into();
    RevokeRequest { idempotency_key: fresh(), target: Some(target), reason, ..Default::default() }
}

fn target(certificate: &Certificate) -> Result<Target> {
    certificate.r#ref.clone().map(Target::Ref).context("no reference")
}

async fn revoke_device(operator: &mut Api, id: &str, reason: RevocationReason) -> Result<RevokeResponse> {
    let request = revocation(Target::DeviceId(id.to_owned()), reason);
    Ok(operator.revocation.revoke(request).await?.into_inner())
}

/// Starts a call and goes away after `delay`; true when it was still open then.
async fn abandon<F: Future>(call: F, delay: Duration) -> bool {
    tokio::time::timeout(delay, call).await.is_err()
}

/// Whether it is revoked once everything that was begun has ended.
async fn settled_as_revoked(auditor: &mut Api, certificate: &Certificate) -> Result<bool> {
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        if auditor.status(certificate).await?.status() == Status::Revoked {
            return Ok(true);
        }
    }
    Ok(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_before_its_caller_was_disabled_is_not_carried_out() -> Result<()> {
    let ca = Ca::start()?;
    let mut admin = ca.role("admin").await?;
    let victim = issued(&ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-1").await?)?;
    let second = ca.holder(&admin.principal("second", Role::Admin).await?.0).await?;
    let operator = ca.holder(&admin.principal("op-2", Role::Operator).await?.0).await?;
    let station = ca.holder(&admin.principal("line-2", Role::Station).await?.0).await?;
    let create = |id: &str| -> Result<CreatePrincipalRequest> {
        let (csr, role) = (DeviceKey::new()?.csr(id)?, Role::Admin.into());
        Ok(CreatePrincipalRequest { idempotency_key: fresh(), principal_id: id.to_owned(), role, csr })
    };
    let token = CreateEnrollmentTokenRequest { idempotency_key: fresh(), ..Default::default() };
    let (creating, tokens) =
        ("/sealwright.v1.AccessService/CreatePrincipal", "/sealwright.v1.AccessService/CreateEnrollmentToken");
    let (enrolling, revoking) = ("/sealwright.v1.EnrollmentService/Enroll", "/sealwright.v1.RevocationService/Revoke");
    let renewal = RenewRequest { idempotency_key: fresh(), csr: DeviceKey::new()?.csr("second")?, evidence: None };

    let control = Begun::open(&second.channel, creating, &create("in-time")?).await?;
    let begun = [
        ("second", Begun::open(&second.channel, creating, &create("late")?).await?),
        ("second", Begun::open(&second.channel, tokens, &token).await?),
        ("second", Begun::open(&second.channel, "/sealwright.v1.EnrollmentService/Renew", &renewal).await?),
        (
            "second",
            Begun::open(&second.channel, "/sealwright.v1.AccessService/DisablePrincipal", &disable("in-time")).await?,
        ),
        ("op-2", Begun::open(&operator.channel, tokens, &token).await?),
        (
            "op-2",
            Begun::open(&operator.channel, revoking, &revocation(target(&victim)?, RevocationReason::Superseded))
                .await?,
        ),
        ("line-2", Begun::open(&station.channel, enrolling, &station_request(&DeviceKey::new()?, "SN-LATE")?).await?),
    ];
    tokio::time::sleep(HEADERS).await;
    control.finish().await.context("a slow caller in good standing")?;
    for id in ["second", "op-2", "line-2"] {
        admin.access.disable_principal(disable(id)).await?;
    }
    for (who, begun) in begun {
        let refusal = refused(begun.finish().await).with_context(|| format!("a call of {who}"))?;
        assert_eq!(refusal.code, Code::Unauthenticated, "{who}: {refusal:?}");
        assert!(
            ["PRINCIPAL_DISABLED", "CLIENT_CERTIFICATE_REVOKED"].contains(&refusal.reason.as_str()),
            "{who}: {refusal:?}"
        );
    }
    let listed = admin.access.list_principals(ListPrincipalsRequest::default()).await?.into_inner().principals;
    assert!(listed.iter().any(|p| p.principal_id == "in-time" && p.disabled_at.is_none()), "{listed:?}");
    assert!(listed.iter().all(|p| p.principal_id != "late"), "{listed:?}");
    assert_eq!(admin.status(&victim).await?.status(), Status::Good);
    assert!(admin.all_certificates().await?.iter().all(|c| c.device_id != "SN-LATE"));
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_published_though_its_caller_went_away() -> Result<()> {
    let ca = Ca::start()?;
    let (mut station, mut auditor) = (ca.role("station").await?, ca.role("auditor").await?);
    let operator = ca.role("operator").await?;
    let mut published = Vec::new();
    for n in 0..60 {
        let answer = station.enroll(&DeviceKey::new()?, &format!("SN-{n}")).await?;
        let certificate = issued(&answer)?;
        let request = revocation(target(&certificate)?, RevocationReason::KeyCompromise);
        let mut caller = operator.revocation.clone();
        let gone = abandon(async move { caller.revoke(request).await }, Duration::from_millis(n % 6)).await;
        if !settled_as_revoked(&mut auditor, &certificate).await? {
            continue;
        }
        // Also when it was answered: the next one must not find this one's publication under way.
        auditor.until_on_crl(&certificate).await.with_context(|| format!("try {n}, caller gone: {gone}"))?;
        if gone {
            published.push((certificate, answer.chain));
        }
        if published.len() == 4 {
            break;
        }
    }
    ensure!(!published.is_empty(), "no revocation outlived its caller");
    for (certificate, chain) in published {
        let case = Case::new(&ca, &certificate.der, &chain)?;
        case.fetch_crl(&ca)?;
        let mut show = Command::new("openssl");
        let text = tools::run(show.args(["crl", "-noout", "-text", "-in"]).arg(case.path("crl.pem")))?;
        let serial = certificate.r#ref.context("no reference")?.serial_number;
        ensure!(String::from_utf8(text)?.to_lowercase().contains(&serial), "{serial} is not on the CRL");
    }
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_successor_is_published_though_its_caller_went_away() -> Result<()> {
    let ca = Ca::start()?;
    let (mut station, mut auditor) = (ca.role("station").await?, ca.role("auditor").await?);
    let mut published = 0;
    for n in 0..40 {
        let key = DeviceKey::new()?;
        let enrolled = station.enroll(&key, &format!("SN-{n}")).await?;
        let mut device = ca.holder(&credential(&enrolled.pem, &key)).await?;
        let first = device.renew(&DeviceKey::new()?).await?.certificate.context("no certificate")?;
        // A publication that the first renewal may have asked for must not carry the second one along.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let next = DeviceKey::new()?;
        let gone = abandon(async move { device.renew(&next).await }, Duration::from_millis(2 + n % 5)).await;
        if !settled_as_revoked(&mut auditor, &first).await? {
            continue;
        }
        let reason = auditor.status(&first).await?.revocation.map(|r| r.reason());
        assert_eq!(reason, Some(RevocationReason::Superseded));
        auditor.until_on_crl(&first).await.with_context(|| format!("try {n}, caller gone: {gone}"))?;
        // What the device holds is untouched.
        assert_eq!(auditor.status(&issued(&enrolled)?).await?.status(), Status::Good);
        published += usize::from(gone);
        if published == 2 {
            break;
        }
    }
    ensure!(published > 0, "no renewal outlived its caller");
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_locks_the_admins_out_or_ends_the_service() -> Result<()> {
    let ca = Ca::start()?;
    let (mut admin, mut operator) = (ca.role("admin").await?, ca.role("operator").await?);
    let reason = RevocationReason::PrivilegeWithdrawn;
    let principals = admin.access.list_principals(ListPrincipalsRequest::default()).await?.into_inner().principals;
    let named = |role| principals.iter().find(|p| p.role() == role).map(|p| p.principal_id.clone()).unwrap_or_default();
    let first = named(Role::Admin);
    admin.principal("line-7", Role::Station).await?;
    let all = admin.all_certificates().await?;
    let (services, others): (Vec<_>, Vec<_>) =
        all.into_iter().filter(|c| !c.principal_id.is_empty()).partition(|c| c.principal_id.starts_with("service."));
    ensure!(others.len() == 5 && services.len() >= 3, "{others:?} {services:?}");

    // An operator revokes devices; every principal is an admin's business, its own among them.
    for certificate in &others {
        let refusal = refused(operator.revoke(certificate, reason).await)?;
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::PermissionDenied, "ROLE_NOT_ALLOWED"));
        assert_eq!(admin.status(certificate).await?.status(), Status::Good);
    }
    // The service's own certificates are nobody's.
    for certificate in &services {
        for api in [&mut admin, &mut operator] {
            for reason in [RevocationReason::KeyCompromise, RevocationReason::Superseded] {
                let refusal = refused(api.revoke(certificate, reason).await)?;
                assert_eq!((refusal.code, refusal.reason.as_str()), (Code::PermissionDenied, "SERVICE_CERTIFICATE"));
            }
        }
        assert_eq!(admin.status(certificate).await?.status(), Status::Good);
        let disabled = admin.access.disable_principal(disable(&certificate.principal_id)).await;
        // As if it were not there.
        assert_eq!(refused(answered(disabled))?.code, Code::NotFound);
    }
    for id in ["service.tls", "service.mine"] {
        let refusal = refused(admin.principal(id, Role::Admin).await)?;
        assert_eq!((refusal.reason.as_str(), refusal.field.as_str()), ("RESERVED_NAME", "principal_id"), "{id}");
    }

    // The last admin stays: by its name and by its certificate.
    let own = others.iter().find(|c| c.principal_id == first).context("the admin's certificate")?;
    let (held, second) = admin.principal("second", Role::Admin).await?;
    admin.revoke(&second, reason).await?;
    for refusal in [
        refused(admin.revoke(own, reason).await)?,
        refused(admin.revoke(own, RevocationReason::KeyCompromise).await)?,
        refused(answered(admin.access.disable_principal(disable(&first)).await))?,
    ] {
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "LAST_ADMIN"), "{refusal:?}");
    }
    // An admin whose only certificate is revoked is no admin.
    let refusal = refused(ca.holder(&held).await?.all_certificates().await)?;
    assert_eq!(refusal.code, Code::Unauthenticated);
    // Another admin who works makes the first one free to go.
    let (held, third) = admin.principal("third", Role::Admin).await?;
    let mut successor = ca.holder(&held).await?;
    successor.revoke(own, reason).await?;
    assert_eq!(refused(admin.all_certificates().await)?.code, Code::Unauthenticated);
    let refusal = refused(successor.revoke(&third, reason).await)?;
    assert_eq!(refusal.reason, "LAST_ADMIN");
    successor.all_certificates().await?;
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compromised_key_is_never_certified_again() -> Result<()> {
    let mut ca = Ca::start_with(Options { other_tenant: true, ..Default::default() })?;
    let (mut station, mut operator) = (ca.role("station").await?, ca.role("operator").await?);
    let stolen = DeviceKey::new()?;
    let first = issued(&station.enroll(&stolen, "SN-1").await?)?;
    let mine = DeviceKey::new()?;
    let device = station.enroll(&mine, "SN-2").await?;
    let device = credential(&device.pem, &mine);
    // A thief renews before anybody notices.
    let thief = DeviceKey::new()?;
    let victim = station.enroll(&thief, "SN-3").await?;
    let loot = ca.holder(&credential(&victim.pem, &thief)).await?.renew(&DeviceKey::new()?).await?;
    operator.revoke(&issued(&victim)?, RevocationReason::KeyCompromise).await?;
    let loot = loot.certificate.context("no certificate")?;
    assert_eq!(operator.status(&loot).await?.status(), Status::Revoked, "what the thief asked for ends with the key");

    // Any other reason leaves the key usable, until it is raised.
    operator.revoke(&first, RevocationReason::Superseded).await?;
    let again = issued(&station.enroll(&stolen, "SN-1").await?)?;
    operator.revoke(&first, RevocationReason::KeyCompromise).await?;
    assert_eq!(operator.status(&again).await?.status(), Status::Revoked, "it has the same key");

    for restarted in [false, true] {
        if restarted {
            ensure!(ca.stop()?.success());
            ca.restart()?;
        }
        let (mut station, mut admin) = (ca.role("station").await?, ca.role("admin").await?);
        let token = ca.role("operator").await?.token(None).await?;
        let by_token = EnrollRequest { enrollment_token: token, ..station_request(&stolen, "SN-5")? };
        let principal = CreatePrincipalRequest {
            idempotency_key: fresh(),
            principal_id: "thief".to_owned(),
            role: Role::Station.into(),
            csr: stolen.csr("thief")?,
        };
        let refusals = [
            ("the same device", refused(station.enroll(&stolen, "SN-1").await)?),
            ("another device", refused(station.enroll(&stolen, "SN-4").await)?),
            ("a token", refused(answered(ca.anonymous().await?.enrollment.enroll(by_token).await))?),
            ("a renewal", refused(ca.holder(&device).await?.renew(&stolen).await)?),
            ("a principal", refused(answered(admin.access.create_principal(principal).await))?),
        ];
        for (who, refusal) in refusals {
            let Refusal { code, reason, field, .. } = &refusal;
            let seen = (*code, reason.as_str(), field.as_str());
            let wanted = (Code::FailedPrecondition, "KEY_COMPROMISED", "csr.subject_public_key");
            assert_eq!(seen, wanted, "{who}, restarted: {restarted}");
        }
    }
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_all_the_certificates_it_can_get_is_revoked_whole() -> Result<()> {
    let ca = Ca::start()?;
    let (mut station, mut operator) = (ca.role("station").await?, ca.role("operator").await?);
    let mut held = Vec::new();
    let refusal = loop {
        match station.enroll(&DeviceKey::new()?, "SN-1").await {
            Ok(answer) => held.push(issued(&answer)?),
            refusal => break refused(refusal)?,
        }
        ensure!(held.len() < 300, "a device may have any number of certificates");
    };
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "TOO_MANY_CERTIFICATES"));
    ensure!(held.len() >= 8, "only {}", held.len());
    // Another device is no matter.
    let key = DeviceKey::new()?;
    let bystander = station.enroll(&key, "SN-2").await?;
    let answer = revoke_device(&mut operator, "SN-1", RevocationReason::KeyCompromise).await?;
    assert_eq!(answer.certificates.len(), held.len());
    for certificate in &held {
        assert_eq!(operator.status(certificate).await?.status(), Status::Revoked);
    }
    operator.until_on_crl(held.last().context("none")?).await?;
    for certificate in &held {
        ensure!(operator.status(certificate).await?.on_crl);
    }
    station.enroll(&DeviceKey::new()?, "SN-1").await?;

    // Renewed again and again without an end to any: bounded too, and the certificate itself stays good.
    let mut device = ca.holder(&credential(&bystander.pem, &key)).await?;
    let mut successors = Vec::new();
    let refusal = loop {
        match device.renew(&DeviceKey::new()?).await {
            Ok(answer) => successors.push(answer.certificate.context("no certificate")?),
            refusal => break refused(refusal)?,
        }
        ensure!(successors.len() < 64, "a certificate may have any number of successors");
    };
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "RENEWED_TOO_OFTEN"));
    assert_eq!(operator.status(&issued(&bystander)?).await?.status(), Status::Good);
    let last = successors.pop().context("not even one")?;
    assert_eq!(operator.status(&last).await?.status(), Status::Good);
    device.confirm(&last).await?;
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_a_disabled_operator_open_nothing() -> Result<()> {
    let ca = Ca::start()?;
    let mut admin = ca.role("admin").await?;
    let (held, _) = admin.principal("op-2", Role::Operator).await?;
    let mut leaving = ca.holder(&held).await?;
    let (used, open, named) =
        (leaving.token(None).await?, leaving.token(None).await?, leaving.token(Some("SN-3")).await?);
    let good = ca.role("operator").await?.token(None).await?;
    let request = |token: &str, serial: &str| -> Result<EnrollRequest> {
        let key = DeviceKey::new()?;
        Ok(EnrollRequest { enrollment_token: token.to_owned(), ..station_request(&key, serial)? })
    };
    let mut device = ca.anonymous().await?;
    let lost = request(&used, "SN-1")?;
    device.enrollment.enroll(lost.clone()).await?;
    admin.access.disable_principal(disable("op-2")).await?;
    for (token, serial) in [(&open, "SN-2"), (&named, "SN-3")] {
        let refusal = refused(answered(device.enrollment.enroll(request(token, serial)?).await))?;
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unauthenticated, "TOKEN_UNKNOWN"));
    }
    device.enrollment.enroll(request(&good, "SN-4")?).await?;
    // What was issued in time is issued: its answer can be asked for again.
    assert!(device.enrollment.enroll(lost).await?.into_inner().replayed);
    let all = admin.all_certificates().await?;
    let devices: Vec<_> = all.iter().filter(|c| !c.device_id.is_empty()).map(|c| c.device_id.as_str()).collect();
    assert_eq!(devices.len(), 2, "{devices:?}");
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_do_not_learn_of_each_others_keys() -> Result<()> {
    let ca = Ca::start_with(Options { other_tenant: true, ..Default::default() })?;
    let (mut station, mut other) = (ca.role("station").await?, ca.other("station").await?);
    let key = DeviceKey::new()?;
    let mut request = station_request(&key, "SN-1")?;
    let here = issued(&station.enrollment.enroll(request.clone()).await?.into_inner())?;
    // The very same request: key, CSR, device and idempotency key.
    let there = other.enrollment.enroll(request.clone()).await?.into_inner();
    assert!(!there.replayed);
    assert_ne!(issued(&there)?.r#ref, here.r#ref);
    // Within a tenant a key has one holder.
    for api in [&mut station, &mut other] {
        let refusal = refused(api.enroll(&key, "SN-2").await)?;
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::AlreadyExists, "KEY_IN_USE"));
    }
    request.idempotency_key = fresh();
    station.enrollment.enroll(request).await?;
    // One tenant's revocation is not the other's, unless the key itself is bad.
    let mut operator = ca.role("operator").await?;
    operator.revoke(&here, RevocationReason::CessationOfOperation).await?;
    assert_eq!(ca.other("operator").await?.status(&issued(&there)?).await?.status(), Status::Good);
    let refusal = refused(ca.other("operator").await?.revoke(&here, RevocationReason::KeyCompromise).await)?;
    assert_eq!(refusal.code, Code::NotFound);
    ca.finish()
}

/// How many challenges one network may begin within two minutes.
const CHALLENGES: usize = 1_024;

#[tokio::test(flavor = "multi_thread")]
async fn strangers_behind_one_address_do_not_take_every_challenge() -> Result<()> {
    let vectors = tools::repository().join("enrollment/tests/vectors");
    let folder = tempfile::tempdir()?;
    let vendor = folder.path().join("vendor.pem");
    let read = |name: &str| fs::read(vectors.join(name)).with_context(|| name.to_owned());
    fs::write(&vendor, [read("issuercert.pem")?, read("swtpm-localca-rootca-cert.pem")?].concat())?;
    let ca = Ca::start_with(Options { tpm_roots: Some(vendor), ..Default::default() })?;
    let hello =
        TpmHello { ek_certificate: read("rsa_ek_cert.der")?, ek_chain: Vec::new(), ak_public: read("rsa_ak_pub.bin")? };
    let begin = || BeginAttestationRequest {
        idempotency_key: fresh(),
        profile: "tls-client".to_owned(),
        csr_spki_sha256: rand::random::<[u8; 32]>().to_vec(),
        hello: Some(Hello::Tpm2(hello.clone())),
        ..Default::default()
    };
    let mut device = ca.anonymous().await?;
    let first = begin();
    let opened = device.enrollment.begin_attestation(first.clone()).await?.into_inner();
    // One is taken. Eight connections take the others.
    let mut callers = Vec::new();
    for _ in 0..8 {
        let mut api = ca.anonymous().await?;
        let requests: Vec<_> = (0..CHALLENGES / 8 + 8).map(|_| begin()).collect();
        callers.push(tokio::spawn(async move {
            let mut refusals = Vec::new();
            for request in requests {
                let answer = api.enrollment.begin_attestation(request).await;
                refusals.extend(answer.err());
            }
            refusals
        }));
    }
    let mut refusals = Vec::new();
    for caller in callers {
        refusals.extend(caller.await?);
    }
    assert_eq!(refusals.len(), 8 * 8 + 1);
    for status in refusals {
        let refusal = refused::<()>(Err(status.into()))?;
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_CHALLENGES"));
    }
    // Who has begun goes on, and who is known is not counted.
    let again = device.enrollment.begin_attestation(first).await?.into_inner();
    assert_eq!(again.session_id, opened.session_id);
    ca.role("station").await?.enrollment.begin_attestation(begin()).await?;
    ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-1").await?;
    ca.finish()
}
