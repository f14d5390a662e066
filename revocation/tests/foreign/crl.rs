use crate::authority::{ALGORITHM, Authority, Bench, URL, hour_ago, now, run, serial, tomorrow};
use ca_core::{serial::SerialNumber, time::UnixTime};
use der::{Decode, Encode};
use revocation::{
    CrlReason,
    crl::{CrlError, CrlRequest, CrlScope, RevokedEntry, finish, prepare},
};
use std::process::Command;
use x509_cert::crl::CertificateList;

fn request(ca: &Authority, number: u64) -> CrlRequest<'_> {
    CrlRequest {
        issuer_name_der: ca.certificate.subject_der(),
        authority_key_identifier: ca.certificate.subject_key_identifier().unwrap(),
        algorithm: ALGORITHM,
        number,
        this_update: hour_ago(),
        next_update: tomorrow(),
        idp_url: URL,
        scope: CrlScope::Everything,
    }
}

fn entry(n: u64) -> RevokedEntry {
    RevokedEntry { serial: serial(n), at: hour_ago(), reason: CrlReason::KeyCompromise, invalidity_date: None }
}

fn list(ca: &Authority, entries: impl IntoIterator<Item = RevokedEntry>) -> Vec<u8> {
    let tbs = prepare(&request(ca, 7), entries).unwrap();
    let signature = ca.sign(tbs.as_bytes());
    finish(tbs, &signature).unwrap()
}

#[test]
fn openssl_refuses_what_is_wrong_and_accepts_what_is_right() {
    let (ca, other) = (Authority::new("Issuing 1"), Authority::new("Issuing 1"));
    let bench = Bench::new();
    let ca_pem = bench.certificate("ca.pem", ca.certificate.der());
    let verify = |crl: &[u8]| {
        let path = bench.crl("list.pem", crl);
        run("openssl", &["crl", "-noout", "-verify"], &[("-in", &path), ("-CAfile", &ca_pem)])
    };
    let right = list(&ca, [entry(5)]);
    let mut tampered = right.clone();
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    for wrong in [list(&other, [entry(5)]), tampered] {
        let verdict = verify(&wrong);
        assert!(!verdict.text.contains("verify OK"), "{}", verdict.text);
    }
    let verdict = verify(&right);
    assert!(verdict.ok && verdict.text.contains("verify OK"), "{}", verdict.text);
}

#[test]
fn openssl_checks_certificates_against_the_list() {
    let (ca, other) = (Authority::new("Issuing 1"), Authority::new("Issuing 1"));
    let bench = Bench::new();
    let ca_pem = bench.certificate("ca.pem", ca.certificate.der());
    let check = |n: u64, crl: &[u8]| {
        let leaf = bench.certificate("leaf.pem", &ca.leaf(n));
        let crl = bench.crl("list.pem", crl);
        let words = ["verify", "-x509_strict", "-crl_check"];
        run("openssl", &words, &[("-CAfile", &ca_pem), ("-CRLfile", &crl), ("--", &leaf)])
    };
    let verdict = check(6, &list(&other, [entry(5)]));
    assert!(!verdict.ok, "another CA's list: {}", verdict.text);

    let dated = RevokedEntry { invalidity_date: Some(UnixTime::from_secs(1_700_000_000)), ..entry(5) };
    let crl = list(&ca, [entry(9), dated, entry(2)]);
    let revoked = check(5, &crl);
    assert!(!revoked.ok && revoked.text.contains("certificate revoked"), "{}", revoked.text);
    let good = check(6, &crl);
    assert!(good.ok, "{}", good.text);

    let scoped = prepare(&CrlRequest { scope: CrlScope::UserCertificates, ..request(&ca, 8) }, [entry(5)]).unwrap();
    let signature = ca.sign(scoped.as_bytes());
    let good = check(6, &finish(scoped, &signature).unwrap());
    assert!(good.ok, "{}", good.text);
    let cas_only = prepare(&CrlRequest { scope: CrlScope::CaCertificates, ..request(&ca, 9) }, [entry(5)]).unwrap();
    let signature = ca.sign(cas_only.as_bytes());
    assert!(!check(6, &finish(cas_only, &signature).unwrap()).ok, "a list of CA certificates covers no leaf");
}

#[test]
fn openssl_reads_every_field() {
    let ca = Authority::new("Issuing 1");
    let bench = Bench::new();
    let dated = RevokedEntry {
        at: UnixTime::from_secs(2_600_000_000),
        reason: CrlReason::Unspecified,
        invalidity_date: Some(UnixTime::from_secs(1_700_000_000)),
        ..entry(0x8001)
    };
    let path = bench.crl("list.pem", &list(&ca, [dated, entry(3)]));
    let text = run("openssl", &["crl", "-noout", "-text"], &[("-in", &path)]).text;
    let aki: Vec<String> =
        ca.certificate.subject_key_identifier().unwrap().iter().map(|octet| format!("{octet:02X}")).collect();
    for part in [
        "Version 2 (0x1)",
        "CN = Issuing 1",
        aki.join(":").as_str(),
        "X509v3 CRL Number: \n                7",
        "X509v3 Issuing Distribution Point: critical",
        URL,
        "Serial Number: 03",
        "Key Compromise",
        "Serial Number: 8001",
        "2052 GMT",
        "Invalidity Date: \n                Nov 14 22:13:20 2023 GMT",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert_eq!(text.matches("CRL Reason Code").count(), 1);
    assert!(text.find("Serial Number: 03") < text.find("Serial Number: 8001"));
}

#[test]
fn an_empty_list_is_absent() {
    let ca = Authority::new("Issuing 1");
    let der = list(&ca, []);
    let read: CertificateList = CertificateList::from_der(&der).unwrap();
    assert!(read.tbs_cert_list.revoked_certificates.is_none());
    let bench = Bench::new();
    let (ca_pem, path) = (bench.certificate("ca.pem", ca.certificate.der()), bench.crl("list.pem", &der));
    let verdict = run("openssl", &["crl", "-noout", "-verify", "-text"], &[("-in", &path), ("-CAfile", &ca_pem)]);
    assert!(verdict.text.contains("verify OK") && verdict.text.contains("No Revoked Certificates"), "{}", verdict.text);
}

#[test]
fn certtool_agrees() {
    if Command::new("certtool").arg("--version").output().is_err() {
        eprintln!("skipped: certtool is not installed");
        return;
    }
    let (ca, other) = (Authority::new("Issuing 1"), Authority::new("Issuing 1"));
    let bench = Bench::new();
    let ca_pem = bench.certificate("ca.pem", ca.certificate.der());
    let verify = |crl: &[u8]| {
        let path = bench.crl("list.pem", crl);
        run("certtool", &["--verify-crl"], &[("--load-ca-certificate", &ca_pem), ("--infile", &path)]).text
    };
    let refused = verify(&list(&other, [entry(5)]));
    assert!(!refused.contains("Verification output: Verified"), "{refused}");
    let accepted = verify(&list(&ca, [entry(5)]));
    assert!(accepted.contains("Verification output: Verified"), "{accepted}");
}

#[test]
fn order_of_entries_does_not_matter_and_duplicates_are_refused() {
    let ca = Authority::new("Issuing 1");
    let request = request(&ca, 7);
    // By value: one octet before two, whatever the first octet is.
    let numbers = [2u64, 0x7f, 0x80, 0xff, 0x100, 0x0102_0304, u64::MAX];
    let up = prepare(&request, numbers.map(entry)).unwrap();
    let mut down = numbers;
    down.reverse();
    assert_eq!(prepare(&request, down.map(entry)).unwrap(), up);
    let read: x509_cert::crl::TbsCertList = der::Decode::from_der(up.as_bytes()).unwrap();
    let serials: Vec<SerialNumber> = read
        .revoked_certificates
        .unwrap()
        .iter()
        .map(|revoked| SerialNumber::from_be_bytes(revoked.serial_number.as_bytes()).unwrap())
        .collect();
    assert_eq!(serials, numbers.map(serial));
    assert_eq!(prepare(&request, [5, 9, 5].map(entry)), Err(CrlError::Duplicate(serial(5))));
    assert_eq!(prepare(&request, [5, 5].map(entry)), Err(CrlError::Duplicate(serial(5))));
}

#[test]
fn wrong_fields_are_named() {
    let ca = Authority::new("Issuing 1");
    let right = request(&ca, 7);
    for (wrong, field) in [
        (CrlRequest { issuer_name_der: b"\x31\x00", ..right }, "issuer_name_der"),
        (CrlRequest { issuer_name_der: b"", ..right }, "issuer_name_der"),
        (CrlRequest { authority_key_identifier: b"", ..right }, "authority_key_identifier"),
        (CrlRequest { next_update: right.this_update, ..right }, "next_update"),
        (CrlRequest { idp_url: "", ..right }, "idp_url"),
        (CrlRequest { idp_url: "http://b\u{fc}cher.example/", ..right }, "idp_url"),
    ] {
        assert_eq!(prepare(&wrong, []).unwrap_err().field(), field);
    }
}

#[test]
fn a_hundred_thousand_entries_go_round() {
    let ca = Authority::new("Issuing 1");
    let entries = (1..=100_000u64).map(|n| RevokedEntry {
        serial: SerialNumber::from_random(u128::from(n).to_be_bytes()),
        at: hour_ago(),
        reason: CrlReason::Superseded,
        invalidity_date: n.is_multiple_of(2).then(now),
    });
    let der = list(&ca, entries);
    let read: CertificateList = CertificateList::from_der(&der).unwrap();
    assert_eq!(read.tbs_cert_list.revoked_certificates.as_ref().unwrap().len(), 100_000);
    assert_eq!(read.to_der().unwrap(), der);
    let bench = Bench::new();
    let (ca_pem, path) = (bench.certificate("ca.pem", ca.certificate.der()), bench.crl("list.pem", &der));
    let verdict = run("openssl", &["crl", "-noout", "-verify", "-text"], &[("-in", &path), ("-CAfile", &ca_pem)]);
    assert!(verdict.text.contains("verify OK"));
    assert_eq!(verdict.text.matches("Serial Number: ").count(), 100_000);
}

/// Timing, for a release build: `cargo test --release -p revocation -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn a_million_entries() {
    let ca = Authority::new("Issuing 1");
    let at = hour_ago();
    let entries = (1..=1_000_000u64).map(|n| RevokedEntry {
        serial: SerialNumber::from_random(u128::from(n).to_be_bytes()),
        at,
        reason: CrlReason::KeyCompromise,
        invalidity_date: None,
    });
    let start = std::time::Instant::now();
    let tbs = prepare(&request(&ca, 7), entries).unwrap();
    eprintln!("{} octets in {:?}", tbs.as_bytes().len(), start.elapsed());
    assert_eq!(tbs.entries(), 1_000_000);
}
