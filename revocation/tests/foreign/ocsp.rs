use crate::authority::{ALGORITHM, Authority, Bench, Verdict, hour_ago, now, run, serial, tomorrow};
use rcgen::{ExtendedKeyUsagePurpose, SigningKey};
use revocation::{
    CrlReason,
    ocsp::{
        CertId, CertStatus, Failure, HashAlgorithm, IssuerHashes, Nonce, Request, ResponderInfo, SingleStatus,
        cert_id_matches, decode_path, encode_path, finish, prepare,
    },
};
use std::path::PathBuf;

const REVOKED: CertStatus =
    CertStatus::Revoked { at: ca_core::time::UnixTime::from_secs(1_700_000_000), reason: CrlReason::KeyCompromise };

struct Scene {
    ca: Authority,
    bench: Bench,
    ca_pem: PathBuf,
    leaf_pem: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let (ca, bench) = (Authority::new("Issuing 1"), Bench::new());
        let ca_pem = bench.certificate("ca.pem", ca.certificate.der());
        let leaf_pem = bench.certificate("leaf.pem", &ca.leaf(0x8005));
        Self { ca, bench, ca_pem, leaf_pem }
    }

    /// A request made by openssl.
    fn ask(&self, words: &[&str]) -> Vec<u8> {
        let path = self.bench.path("request.der");
        let words = [&["ocsp"], words].concat();
        let verdict =
            run("openssl", &words, &[("-issuer", &self.ca_pem), ("-cert", &self.leaf_pem), ("-reqout", &path)]);
        assert!(verdict.ok, "{}", verdict.text);
        std::fs::read(path).unwrap()
    }

    /// openssl's opinion of an answer, by the request if there is one (nonce), then by certificate (status).
    fn judge(&self, request: Option<&[u8]>, response: &[u8]) -> Verdict {
        let response = self.bench.write("response.der", response);
        let mut files = vec![("-issuer", self.ca_pem.as_path()), ("-CAfile", &self.ca_pem), ("-respin", &response)];
        let request = request.map(|der| self.bench.write("reqin.der", der));
        match &request {
            Some(path) => files.push(("-reqin", path)),
            None => files.push(("-cert", &self.leaf_pem)),
        }
        run("openssl", if request.is_some() { &["ocsp"] } else { &["ocsp", "-no_nonce"] }, &files)
    }

    fn answer(&self, request: &Request, status: CertStatus, nonce: Option<&Nonce>) -> Vec<u8> {
        let info = ResponderInfo::new(self.ca.certificate.public_key(), ALGORITHM, Vec::new());
        let tbs = prepare(&info, now(), &[single(request.cert_ids()[0].clone(), status)], nonce).unwrap();
        finish(&tbs, &info, &self.ca.sign(tbs.as_bytes())).unwrap()
    }
}

fn single(cert_id: CertId, status: CertStatus) -> SingleStatus {
    SingleStatus { cert_id, status, this_update: hour_ago(), next_update: Some(tomorrow()) }
}

fn verified(verdict: &Verdict) -> bool {
    verdict.text.contains("Response verify OK")
}

#[test]
fn openssl_refuses_a_tampered_answer_and_anothers() {
    let scene = Scene::new();
    let asked = scene.ask(&["-no_nonce"]);
    let request = Request::parse(&asked).unwrap();
    let right = scene.answer(&request, CertStatus::Good, None);
    let mut tampered = right.clone();
    *tampered.last_mut().unwrap() ^= 1;
    assert!(!verified(&scene.judge(None, &tampered)));
    let other = Scene::new();
    assert!(!verified(&scene.judge(None, &other.answer(&request, CertStatus::Good, None))));
    let verdict = scene.judge(None, &right);
    assert!(verified(&verdict) && verdict.text.contains("leaf.pem: good"), "{}", verdict.text);
}

#[test]
fn openssl_reads_each_status_and_hash() {
    let scene = Scene::new();
    for hash in ["-sha1", "-sha256"] {
        let request = Request::parse(&scene.ask(&["-no_nonce", hash])).unwrap();
        let id = &request.cert_ids()[0];
        assert_eq!(id.serial(), Some(&serial(0x8005)));
        let issuer = &scene.ca.certificate;
        assert!(cert_id_matches(issuer.subject_der(), issuer.public_key().key_bits(), id));
        let other = Authority::new("Issuing 1").certificate;
        assert!(!cert_id_matches(other.subject_der(), other.public_key().key_bits(), id));
        for (status, words) in [
            (CertStatus::Good, vec![": good"]),
            (REVOKED, vec![": revoked", "Reason: keyCompromise", "Revocation Time: Nov 14 22:13:20 2023 GMT"]),
            (CertStatus::Unknown, vec![": unknown"]),
        ] {
            let response = scene.answer(&request, status, None);
            let response_path = scene.bench.write("response.der", &response);
            let verdict = run(
                "openssl",
                &["ocsp", "-no_nonce", hash],
                &[
                    ("-issuer", &scene.ca_pem),
                    ("-CAfile", &scene.ca_pem),
                    ("-cert", &scene.leaf_pem),
                    ("-respin", &response_path),
                ],
            );
            assert!(verified(&verdict), "{}", verdict.text);
            for word in words {
                assert!(verdict.text.contains(word), "{word}: {}", verdict.text);
            }
        }
    }
    let request = Request::parse(&scene.ask(&["-no_nonce", "-sha384"])).unwrap();
    assert_eq!(request.cert_ids()[0].hash_algorithm(), HashAlgorithm::Other);
}

#[test]
fn openssl_sees_its_nonce_again() {
    let scene = Scene::new();
    let asked = scene.ask(&["-nonce"]);
    let request = Request::parse(&asked).unwrap();
    let wrong = Nonce::new(&[1; 16]).unwrap();
    let verdict = scene.judge(Some(&asked), &scene.answer(&request, CertStatus::Good, Some(&wrong)));
    assert!(verdict.text.contains("Nonce Verify error"), "{}", verdict.text);
    let verdict = scene.judge(Some(&asked), &scene.answer(&request, CertStatus::Good, request.nonce()));
    assert!(verified(&verdict) && !verdict.text.to_lowercase().contains("nonce"), "{}", verdict.text);
    // By GET the same octets arrive.
    assert_eq!(decode_path(&format!("/{}", encode_path(&asked))).unwrap(), asked);
}

#[test]
fn openssl_accepts_a_delegated_responder_only_with_its_usage() {
    let scene = Scene::new();
    let request = Request::parse(&scene.ask(&["-no_nonce"])).unwrap();
    let answer = |usage| {
        let (certificate, key) = scene.ca.responder(usage);
        let info = ResponderInfo::new(certificate.public_key(), ALGORITHM, vec![certificate.der().to_vec()]);
        let statuses = [single(request.cert_ids()[0].clone(), REVOKED)];
        let tbs = prepare(&info, now(), &statuses, None).unwrap();
        scene.judge(None, &finish(&tbs, &info, &key.sign(tbs.as_bytes()).unwrap()).unwrap())
    };
    let refused = answer(ExtendedKeyUsagePurpose::ClientAuth);
    assert!(!verified(&refused), "{}", refused.text);
    let accepted = answer(ExtendedKeyUsagePurpose::OcspSigning);
    assert!(verified(&accepted) && accepted.text.contains(": revoked"), "{}", accepted.text);
}

#[test]
fn openssl_accepts_an_answer_made_beforehand() {
    let scene = Scene::new();
    let issuer = &scene.ca.certificate;
    let hashes = IssuerHashes::new(issuer.subject_der(), issuer.public_key().key_bits());
    let id = CertId::new(HashAlgorithm::Sha1, &hashes, &serial(0x8005)).unwrap();
    let info = ResponderInfo::new(issuer.public_key(), ALGORITHM, Vec::new());
    let tbs = prepare(&info, now(), &[single(id, CertStatus::Good)], None).unwrap();
    let verdict = scene.judge(None, &finish(&tbs, &info, &scene.ca.sign(tbs.as_bytes())).unwrap());
    assert!(verified(&verdict) && verdict.text.contains(": good"), "{}", verdict.text);
}

#[test]
fn a_signed_request_is_read_like_any_other() {
    let scene = Scene::new();
    let (certificate, key) = scene.ca.responder(ExtendedKeyUsagePurpose::ClientAuth);
    let signer = scene.bench.certificate("signer.pem", certificate.der());
    let key_path = scene.bench.write("signer.key", key.serialize_pem().as_bytes());
    let path = scene.bench.path("signed.der");
    let verdict = run(
        "openssl",
        &["ocsp", "-no_nonce"],
        &[
            ("-issuer", &scene.ca_pem),
            ("-cert", &scene.leaf_pem),
            ("-signer", &signer),
            ("-signkey", &key_path),
            ("-reqout", &path),
        ],
    );
    assert!(verdict.ok, "{}", verdict.text);
    let (signed, unsigned) = (std::fs::read(path).unwrap(), scene.ask(&["-no_nonce"]));
    assert!(signed.len() > unsigned.len() + 200, "it carries a signature and a certificate");
    assert_eq!(Request::parse(&signed).unwrap(), Request::parse(&unsigned).unwrap());
}

#[test]
fn openssl_knows_the_failures() {
    let scene = Scene::new();
    for (failure, words) in [
        (Failure::MalformedRequest, "malformedrequest (1)"),
        (Failure::InternalError, "internalerror (2)"),
        (Failure::TryLater, "trylater (3)"),
        (Failure::Unauthorized, "unauthorized (6)"),
    ] {
        let verdict = scene.judge(None, failure.der());
        assert!(verdict.text.contains(words), "{words}: {}", verdict.text);
    }
}

#[test]
fn every_changed_bit_of_a_real_request_is_answered() {
    let scene = Scene::new();
    let asked = scene.ask(&["-nonce"]);
    let right = Request::parse(&asked).unwrap();
    let mut same = 0;
    for at in 0..asked.len() * 8 {
        let mut changed = asked.clone();
        changed[at / 8] ^= 1 << (at % 8);
        same += usize::from(Request::parse(&changed).is_ok_and(|read| read == right));
    }
    // Each octet means something: the extension's criticality is not in the request, so nothing may go unseen.
    assert_eq!(same, 0);
}
