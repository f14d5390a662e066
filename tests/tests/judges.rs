//! What the service signs, before foreign judges. Each judge first refuses a negative control.

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use proto::v1::{Certificate, RevocationReason};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use std::{
    fs,
    time::{Duration, Instant},
};
use tests::{
    api::{Api, issued},
    ca::Ca,
    device::DeviceKey,
    http,
    judge::{Case, other_root, tampered},
};

struct Subject {
    certificate: Certificate,
    chain: Vec<Vec<u8>>,
}

async fn subject(ca: &Ca, serial: &str) -> Result<Subject> {
    let answer = ca.role("station").await?.enroll(&DeviceKey::new()?, serial).await?;
    Ok(Subject { certificate: issued(&answer)?, chain: answer.chain })
}

impl Subject {
    fn case(&self, ca: &Ca) -> Result<Case> {
        Case::new(ca, &self.certificate.der, &self.chain)
    }

    fn tampered(&self, ca: &Ca) -> Result<Case> {
        Case::new(ca, &tampered(&self.certificate.der), &self.chain)
    }

    fn elsewhere(&self) -> Result<Case> {
        Case::under(&other_root()?, &self.certificate.der, &self.chain)
    }
}

async fn revoke_and_wait(operator: &mut Api, certificate: &Certificate) -> Result<()> {
    operator.revoke(certificate, RevocationReason::KeyCompromise).await?;
    let end = Instant::now() + Duration::from_secs(20);
    while !operator.status(certificate).await?.on_crl {
        ensure!(Instant::now() < end, "no CRL within 20 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_and_gnutls_judge_chains_and_crls() -> Result<()> {
    let ca = Ca::start()?;
    let (good, bad) = (subject(&ca, "SN-GOOD").await?, subject(&ca, "SN-BAD").await?);
    let controls = [good.tampered(&ca)?, good.elsewhere()?];
    for (name, control) in ["tampered", "another root"].iter().zip(&controls) {
        ensure!(!control.openssl_verify(false)?.accepted, "openssl accepts: {name}");
        ensure!(!control.certtool_verify(false)?.accepted, "certtool accepts: {name}");
    }
    let (good_case, bad_case) = (good.case(&ca)?, bad.case(&ca)?);
    for case in [&good_case, &bad_case] {
        let verdict = case.openssl_verify(false)?;
        ensure!(verdict.accepted, "{}", verdict.text);
        let verdict = case.certtool_verify(false)?;
        ensure!(verdict.accepted, "{}", verdict.text);
    }

    revoke_and_wait(&mut ca.role("operator").await?, &bad.certificate).await?;
    for case in [&good_case, &bad_case] {
        let crl = case.fetch_crl(&ca)?;
        // The CRL itself: a tampered one and another issuer's are refused.
        let genuine = fs::read(case.path("crl.pem"))?;
        fs::write(case.path("crl.pem"), tests::judge::pem("X509 CRL", &tampered(&crl))?)?;
        ensure!(!case.openssl_verify(true)?.accepted, "openssl accepts a tampered CRL");
        ensure!(!case.certtool_verify_crl(&case.issuer()?)?.accepted, "certtool accepts a tampered CRL");
        fs::write(case.path("crl.pem"), genuine)?;
        fs::write(case.path("other.pem"), other_root()?)?;
        ensure!(!case.certtool_verify_crl(&case.path("other.pem"))?.accepted, "certtool accepts another issuer's CRL");
        let verdict = case.certtool_verify_crl(&case.issuer()?)?;
        ensure!(verdict.accepted, "{}", verdict.text);
    }
    let verdict = good_case.openssl_verify(true)?;
    ensure!(verdict.accepted, "{}", verdict.text);
    let verdict = good_case.certtool_verify(true)?;
    ensure!(verdict.accepted, "{}", verdict.text);
    let verdict = bad_case.openssl_verify(true)?;
    ensure!(!verdict.accepted && verdict.text.contains("revoked"), "{}", verdict.text);
    let verdict = bad_case.certtool_verify(true)?;
    ensure!(!verdict.accepted && verdict.text.contains("revoked"), "{}", verdict.text);
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_judges_ocsp_by_post_and_get() -> Result<()> {
    let ca = Ca::start()?;
    let (good, bad) = (subject(&ca, "SN-GOOD").await?, subject(&ca, "SN-BAD").await?);
    ca.role("operator").await?.revoke(&bad.certificate, RevocationReason::KeyCompromise).await?;
    let (case, revoked) = (good.case(&ca)?, bad.case(&ca)?);
    let url = case.urls()?.1;
    let path = http::path_of(&url)?.trim_end_matches('/');
    let ask = |request: &[u8]| http::post(&ca.http()?, http::path_of(&url)?, "application/ocsp-request", request);

    // Controls: another root, a tampered response, the answer to another nonce.
    let answer = ask(&case.ocsp_request(true)?)?;
    ensure!(answer.status == 200, "HTTP {}", answer.status);
    ensure!(answer.head.to_lowercase().contains("application/ocsp-response"), "{}", answer.head);
    let control = good.elsewhere()?;
    control.ocsp_request(true)?;
    ensure!(!control.ocsp_judge(&answer.body)?.accepted, "openssl accepts a response under another root");
    ensure!(!case.ocsp_judge(&tampered(&answer.body))?.accepted, "openssl accepts a tampered response");
    let verdict = case.ocsp_judge(&answer.body)?;
    ensure!(verdict.accepted, "{}", verdict.text);
    case.ocsp_request(true)?;
    ensure!(!case.ocsp_judge(&answer.body)?.accepted, "openssl accepts the answer to another nonce");
    assert_eq!(revoked.ocsp_says(&answer.body)?, None, "openssl takes the answer for that to another certificate");

    assert_eq!(case.ocsp_status(&ca)?, "good");
    assert_eq!(revoked.ocsp_status(&ca)?, "revoked");

    // GET says what POST says, with base64 as it is (slashes, doubled ones too, and plus) and percent-encoded.
    for subject in [&case, &revoked] {
        let request = subject.ocsp_request(false)?;
        let posted = ask(&request)?.body;
        let verdict = subject.ocsp_judge(&posted)?;
        ensure!(verdict.accepted, "{}", verdict.text);
        let base64 = STANDARD.encode(&request);
        let percent = base64.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D");
        for encoded in [base64, percent] {
            let answer = http::get(&ca.http()?, &format!("{path}/{encoded}"))?;
            ensure!(answer.status == 200, "GET {encoded}: HTTP {}", answer.status);
            let verdict = subject.ocsp_judge(&answer.body)?;
            ensure!(verdict.accepted, "{}", verdict.text);
            let said = subject.ocsp_says(&answer.body)?;
            ensure!(said.is_some() && said == subject.ocsp_says(&posted)?, "GET says {said:?}");
        }
    }

    // Slashes side by side in the base64: a request is found whose encoding has them.
    let mut with_slashes = None;
    for serial in 0..4_000u32 {
        let request = case.ocsp_request_of(&format!("0x3ffff{serial:04x}ff"))?;
        let base64 = STANDARD.encode(&request);
        if base64.contains("//") {
            with_slashes = Some(base64);
            break;
        }
    }
    let encoded = with_slashes.context("no request with two slashes")?;
    let answer = http::get(&ca.http()?, &format!("{path}/{encoded}"))?;
    let verdict = case.ocsp_judge(&answer.body)?;
    ensure!(verdict.accepted && !verdict.text.contains("Cert Status: good"), "{}", verdict.text);
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn ocsp_never_says_good_of_what_was_not_issued() -> Result<()> {
    let ca = Ca::start()?;
    let issued = subject(&ca, "SN-1").await?;
    let case = issued.case(&ca)?;
    let url = case.urls()?.1;
    let path = http::path_of(&url)?.to_owned();
    let control = http::post(&ca.http()?, &path, "application/ocsp-request", &case.ocsp_request(true)?)?;
    let verdict = case.ocsp_judge(&control.body)?;
    ensure!(verdict.text.contains("Cert Status: good"), "the control, an issued one: {}", verdict.text);
    for serial in ["0x01", "0x7f", "0x00ffffffffffffffffffffffffffffffff", "0x123456789abcdef0123456789abcdef0"] {
        let request = case.ocsp_request_of(serial)?;
        let answer = http::post(&ca.http()?, &path, "application/ocsp-request", &request)?;
        let verdict = case.ocsp_judge(&answer.body)?;
        ensure!(verdict.accepted, "{}", verdict.text);
        ensure!(verdict.text.contains("Cert Status: unknown"), "{serial}: {}", verdict.text);
    }
    // Garbage is malformedRequest (RFC 6960 2.3), never an HTTP failure without a body.
    for garbage in [&b""[..], b"\x30", b"\x30\x82\xff\xff", &[0xff; 300]] {
        let answer = http::post(&ca.http()?, &path, "application/ocsp-request", garbage)?;
        ensure!(answer.status == 400 || answer.body == [0x30, 3, 0x0a, 1, 1], "{answer:?}");
    }
    let huge = http::post(&ca.http()?, &path, "application/ocsp-request", &vec![0x30; 1 << 20]);
    ensure!(!matches!(huge, Ok(ref answer) if answer.status == 200 && answer.body.len() > 10), "{huge:?}");
    assert_eq!(case.ocsp_status(&ca)?, "good", "it still answers");
    ca.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn webpki_judges_chain_and_crl() -> Result<()> {
    let ca = Ca::start()?;
    let (good, bad) = (subject(&ca, "SN-GOOD").await?, subject(&ca, "SN-BAD").await?);
    revoke_and_wait(&mut ca.role("operator").await?, &bad.certificate).await?;
    let crl = good.case(&ca)?.fetch_crl(&ca)?;
    let root = ca.roots(None)?.0;

    let judge = |root: &str, subject: &Subject, leaf: &[u8], crl: &[u8]| -> Result<(), String> {
        let root = CertificateDer::from_pem_slice(root.as_bytes()).map_err(|e| e.to_string())?;
        let anchors = [webpki::anchor_from_trusted_cert(&root).map_err(|e| e.to_string())?];
        let chain: Vec<_> = subject.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let leaf = CertificateDer::from(leaf);
        let leaf = webpki::EndEntityCert::try_from(&leaf).map_err(|e| e.to_string())?;
        let list = webpki::BorrowedCertRevocationList::from_der(crl).map_err(|e| e.to_string())?;
        let list: webpki::CertRevocationList<'_> = list.into();
        let lists = [&list];
        let revocation = webpki::RevocationOptionsBuilder::new(&lists)
            .map_err(|_| "no CRL")?
            .with_depth(webpki::RevocationCheckDepth::EndEntity)
            .with_status_policy(webpki::UnknownStatusPolicy::Deny)
            .build();
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &chain,
            UnixTime::now(),
            webpki::KeyUsage::client_auth(),
            Some(revocation),
            None,
        )
        .map(|_| ())
        .map_err(|e| format!("{e:?}"))
    };
    let der = &good.certificate.der;
    assert!(judge(&other_root()?, &good, der, &crl).is_err(), "another root");
    assert!(judge(&root, &good, &tampered(der), &crl).is_err(), "a tampered certificate");
    assert!(judge(&root, &good, der, &tampered(&crl)).is_err(), "a tampered CRL");
    assert_eq!(judge(&root, &good, der, &crl), Ok(()));
    let revoked = judge(&root, &bad, &bad.certificate.der, &crl).err().context("the revoked one is accepted")?;
    assert!(revoked.contains("CertRevoked"), "{revoked}");
    ca.finish()
}
