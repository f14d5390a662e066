//! Lists and answers in every way of signing, judged by openssl.

use crate::authority::{Authority, Bench, URL, hour_ago, now, openssl_with_ml_dsa, run, serial, tomorrow};
use ca_core::key::SignatureAlgorithm as S;
use rcgen::{KeyPair, RsaKeySize};
use revocation::{
    CrlReason,
    crl::{self, CrlRequest, CrlScope, RevokedEntry},
    ocsp::{self, CertStatus, Request, ResponderInfo, SingleStatus},
};

/// A changed signature is refused and the right one accepted, of a list and of an answer.
fn judged(openssl: &str, ca: &Authority) {
    let bench = Bench::new();
    let ca_pem = bench.certificate("ca.pem", ca.certificate.der());
    let request = CrlRequest {
        issuer_name_der: ca.certificate.subject_der(),
        authority_key_identifier: ca.certificate.subject_key_identifier().unwrap(),
        algorithm: ca.algorithm,
        number: 7,
        this_update: hour_ago(),
        next_update: tomorrow(),
        idp_url: URL,
        scope: CrlScope::Everything,
    };
    let entry =
        RevokedEntry { serial: serial(5), at: hour_ago(), reason: CrlReason::KeyCompromise, invalidity_date: None };
    let tbs = crl::prepare(&request, [entry]).unwrap();
    let signature = ca.sign(tbs.as_bytes());
    let list = crl::finish(tbs, &signature).unwrap();
    let verify = |crl: &[u8]| {
        let path = bench.crl("list.pem", crl);
        run(openssl, &["crl", "-noout", "-verify"], &[("-in", &path), ("-CAfile", &ca_pem)])
    };
    let mut tampered = list.clone();
    *tampered.last_mut().unwrap() ^= 1;
    assert!(!verify(&tampered).text.contains("verify OK"), "{}", ca.algorithm);
    let verdict = verify(&list);
    assert!(verdict.text.contains("verify OK"), "{}: {}", ca.algorithm, verdict.text);

    let leaf_pem = bench.certificate("leaf.pem", &ca.leaf(0x8005));
    let asked = bench.path("request.der");
    let files = [("-issuer", ca_pem.as_path()), ("-cert", &leaf_pem), ("-reqout", &asked)];
    let verdict = run(openssl, &["ocsp", "-no_nonce"], &files);
    assert!(verdict.ok, "{}", verdict.text);
    let request = Request::parse(&std::fs::read(&asked).unwrap()).unwrap();
    let info = ResponderInfo::new(ca.certificate.public_key(), ca.algorithm, Vec::new());
    let single = SingleStatus {
        cert_id: request.cert_ids()[0].clone(),
        status: CertStatus::Good,
        this_update: hour_ago(),
        next_update: Some(tomorrow()),
    };
    let tbs = ocsp::prepare(&info, now(), &[single], None).unwrap();
    let answer = ocsp::finish(&tbs, &info, &ca.sign(tbs.as_bytes())).unwrap();
    let verify = |answer: &[u8]| {
        let path = bench.write("response.der", answer);
        let files = [("-issuer", ca_pem.as_path()), ("-CAfile", &ca_pem), ("-respin", &path), ("-cert", &leaf_pem)];
        run(openssl, &["ocsp", "-no_nonce"], &files)
    };
    let mut tampered = answer.clone();
    *tampered.last_mut().unwrap() ^= 1;
    assert!(!verify(&tampered).text.contains("Response verify OK"), "{}", ca.algorithm);
    let verdict = verify(&answer);
    let good = verdict.text.contains("Response verify OK") && verdict.text.contains("leaf.pem: good");
    assert!(good, "{}: {}", ca.algorithm, verdict.text);
}

#[test]
fn openssl_takes_lists_and_answers_in_pss() {
    for algorithm in [S::RsaPssSha256, S::RsaPssSha384, S::RsaPssSha512] {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        judged("openssl", &Authority::with("Issuing 1", key, algorithm));
    }
}

#[test]
fn openssl_takes_lists_and_answers_in_ml_dsa() {
    let Some(openssl) = openssl_with_ml_dsa() else { return };
    for (algorithm, kind) in [
        (S::MlDsa44, &rcgen::PKCS_ML_DSA_44),
        (S::MlDsa65, &rcgen::PKCS_ML_DSA_65),
        (S::MlDsa87, &rcgen::PKCS_ML_DSA_87),
    ] {
        let key = KeyPair::generate_for(kind).unwrap();
        judged(&openssl, &Authority::with("Issuing 1", key, algorithm));
    }
}
