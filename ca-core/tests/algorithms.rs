//! Keys and signature algorithms as openssl and RustCrypto make them, and certificates signed with each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use aws_lc_rs::signature::{KeyPair as _, ML_DSA_44_SIGNING, ML_DSA_65_SIGNING, ML_DSA_87_SIGNING, PqdsaKeyPair};
use ca_core::{
    authority::{self, AuthorityError},
    certificate::Certificate,
    csr::{CertificationRequest, CsrError, MAX_REQUEST_LEN},
    issue::{IssuanceRequest, prepare, select_names},
    issuer::IssuerError,
    key::{AlgorithmMismatch, KeyAlgorithm, KeyError, PublicKey, SignatureAlgorithm as S, Verifier},
    profile::{CertificateProfile, ProfileSpec},
};
use const_oid::ObjectIdentifier;
use der::{Any, Decode, Encode, asn1::BitString};
use ml_dsa::{MlDsa44, MlDsa65, MlDsa87, MlDsaParams, SigningKey as MlDsaKey};
use proptest::prelude::*;
use rcgen::PublicKeyData;
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use std::{path::Path, process::Command};
use support::{
    Hierarchy, Key, NOW, compile, facts, name, openssl, openssl_ok, openssl_with_ml_dsa, serial, subject, write,
    write_pem,
};

const PSS: [S; 3] = [S::RsaPssSha256, S::RsaPssSha384, S::RsaPssSha512];
const ML_DSA: [(S, KeyAlgorithm, u8, usize); 3] = [
    (S::MlDsa44, KeyAlgorithm::MlDsa44, 17, 1312),
    (S::MlDsa65, KeyAlgorithm::MlDsa65, 18, 1952),
    (S::MlDsa87, KeyAlgorithm::MlDsa87, 19, 2592),
];

/// A certification request that openssl signed with PSS.
fn pss_request(key: &str, words: &[&str]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = |file: &str| dir.path().join(file).to_str().unwrap().to_owned();
    let (key_file, out) = (path("key.pem"), path("request.der"));
    let fixed = ["req", "-new", "-newkey", key, "-nodes", "-keyout", &key_file, "-subj", "/CN=x", "-outform", "DER"];
    let rest = ["-out", &out, "-sigopt", "rsa_padding_mode:pss"];
    let (ok, said) = openssl(&[&fixed[..], &rest, words].concat())?;
    assert!(ok, "{said}");
    Some(std::fs::read(out).unwrap())
}

#[test]
fn openssls_pss_requests_are_taken() {
    for (hash, algorithm) in [("-sha256", PSS[0]), ("-sha384", PSS[1]), ("-sha512", PSS[2])] {
        let Some(der) = pss_request("rsa:2048", &[hash, "-sigopt", "rsa_pss_saltlen:digest"]) else { return };
        let request = CertificationRequest::parse(&der).unwrap();
        assert_eq!(request.signature_algorithm(), algorithm);
        assert_eq!(request.public_key().algorithm(), KeyAlgorithm::Rsa(2048));
        // Octet for octet what openssl wrote.
        let identifier = algorithm.identifier().to_der().unwrap();
        assert!(der.windows(identifier.len()).any(|w| w == identifier), "{algorithm}");
    }
}

#[test]
fn pss_with_other_parameters_is_refused() {
    for words in [
        &["-sha256", "-sigopt", "rsa_pss_saltlen:20"][..],
        &["-sha256", "-sigopt", "rsa_pss_saltlen:max"],
        &["-sha256", "-sigopt", "rsa_pss_saltlen:digest", "-sigopt", "rsa_mgf1_md:sha384"],
        &["-sha256", "-sigopt", "rsa_pss_saltlen:digest", "-sigopt", "rsa_mgf1_md:sha1"],
        &["-sha1", "-sigopt", "rsa_pss_saltlen:digest"],
        &["-sha224", "-sigopt", "rsa_pss_saltlen:digest"],
    ] {
        let Some(der) = pss_request("rsa:2048", words) else { return };
        let pss = "1.2.840.113549.1.1.10".to_owned();
        assert_eq!(CertificationRequest::parse(&der).unwrap_err(), CsrError::SignatureAlgorithm(pss), "{words:?}");
    }
    // A key that says itself that it is for PSS: few verifiers take one, and an rsaEncryption key does the same.
    let Some(der) = pss_request("rsa-pss", &["-sha256", "-sigopt", "rsa_pss_saltlen:digest"]) else { return };
    let refused = CertificationRequest::parse(&der).unwrap_err();
    assert!(matches!(refused, CsrError::Key(KeyError::Algorithm(_))), "{refused:?}");
}

fn identifier(oid: &str, parameters: Option<&str>) -> AlgorithmIdentifierOwned {
    let parameters = parameters.map(|text| Any::from_der(&hex::decode(text).unwrap()).unwrap());
    AlgorithmIdentifierOwned { oid: ObjectIdentifier::new(oid).unwrap(), parameters }
}

#[test]
fn identifiers_are_recognised_whole_or_not_at_all() {
    for algorithm in S::ALL {
        assert_eq!(S::from_identifier(&algorithm.identifier()), Some(algorithm));
        let null = AlgorithmIdentifierOwned { parameters: Some(Any::null()), ..algorithm.identifier() };
        let absent = AlgorithmIdentifierOwned { parameters: None, ..algorithm.identifier() };
        assert!([null, absent].iter().filter(|other| S::from_identifier(other) == Some(algorithm)).count() <= 1);
    }
    let sha256 = "300d06096086480165030402010500";
    let bare = "300b0609608648016503040201";
    let mask = |hash: &str, len: u8| format!("a1{:02x}30{len:02x}06092a864886f70d010108{hash}", len + 2);
    let pss = |hash: &str, hash_tag: &str, mask: &str, salt: &str| {
        let content = format!("{hash_tag}{hash}{mask}{salt}");
        identifier("1.2.840.113549.1.1.10", Some(&format!("30{:02x}{content}", content.len() / 2)))
    };
    assert_eq!(
        S::from_identifier(&pss(sha256, "a00f", &mask(sha256, 26), "a203020120")),
        Some(S::RsaPssSha256),
        "the right one"
    );
    for wrong in [
        pss(bare, "a00d", &mask(sha256, 26), "a203020120"),
        pss(sha256, "a00f", &mask(bare, 24), "a203020120"),
        pss(sha256, "a00f", &mask(sha256, 26), "a203020114"),
        pss(sha256, "a00f", &mask(sha256, 26), ""),
        pss(sha256, "a00f", "", "a203020120"),
        // The default trailer, written out.
        pss(sha256, "a00f", &mask(sha256, 26), "a203020120a303020101"),
        identifier("1.2.840.113549.1.1.10", Some("3000")),
        identifier("1.2.840.113549.1.1.10", None),
        identifier("1.2.840.113549.1.1.11", None),
        identifier("2.16.840.1.101.3.4.3.17", Some("0500")),
        // HashML-DSA-65 with SHA-512.
        identifier("2.16.840.1.101.3.4.3.33", None),
    ] {
        assert_eq!(S::from_identifier(&wrong), None, "{wrong:?}");
    }
}

fn ml_dsa_spki(last: u8, key: &[u8], parameters: Option<Any>) -> Vec<u8> {
    let oid = ObjectIdentifier::new(&format!("2.16.840.1.101.3.4.3.{last}")).unwrap();
    let algorithm = AlgorithmIdentifierOwned { oid, parameters };
    SubjectPublicKeyInfoOwned { algorithm, subject_public_key: BitString::from_bytes(key).unwrap() }.to_der().unwrap()
}

/// RustCrypto signs, we verify.
fn foreign_ml_dsa<P: MlDsaParams>(algorithm: S, key_algorithm: KeyAlgorithm, oid: u8, octets: usize) {
    let seed = [oid; 32];
    let signer = MlDsaKey::<P>::from_seed(&seed.into());
    let encoded = signer.expanded_key().verifying_key().encode();
    assert_eq!(encoded.len(), octets);
    let spki = ml_dsa_spki(oid, &encoded, None);
    let key = PublicKey::from_spki_der(&spki).unwrap();
    assert_eq!(key.algorithm(), key_algorithm);
    assert_eq!(key.key_bits(), &encoded[..]);
    assert_eq!(key_algorithm.to_string(), algorithm.to_string());
    let verifier = Verifier::new(&key, algorithm).unwrap();
    let sign =
        |context: &[u8]| signer.expanded_key().sign_deterministic(b"message", context).unwrap().encode().to_vec();
    let right = sign(b"");
    assert_eq!(key.verify(algorithm, b"message", &right), Ok(()));
    assert_eq!(verifier.verify(b"message", &right), Ok(()));
    assert!(verifier.verify(b"massage", &right).is_err());
    // RFC 9881 2: the context is empty.
    assert!(verifier.verify(b"message", &sign(b"x")).is_err());
    assert!(verifier.verify(b"message", &right[1..]).is_err());

    // Another library makes the same key of the same seed.
    let aws = match algorithm {
        S::MlDsa44 => &ML_DSA_44_SIGNING,
        S::MlDsa65 => &ML_DSA_65_SIGNING,
        _ => &ML_DSA_87_SIGNING,
    };
    assert_eq!(PqdsaKeyPair::from_seed(aws, &seed).unwrap().public_key().as_ref(), &encoded[..]);

    for wrong in [
        ml_dsa_spki(oid, &encoded, Some(Any::null())),
        ml_dsa_spki(oid, &encoded[1..], None),
        ml_dsa_spki(oid, &[&encoded[..], &[0]].concat(), None),
        ml_dsa_spki(oid, &[], None),
        // The whole SubjectPublicKeyInfo in place of the key.
        ml_dsa_spki(oid, &spki, None),
    ] {
        assert_eq!(PublicKey::from_spki_der(&wrong), Err(KeyError::Encoding));
    }
    assert!(PublicKey::from_spki_der(&ml_dsa_spki(32, &encoded, None)).is_err(), "HashML-DSA-44");
}

#[test]
fn ml_dsa_as_another_library_makes_it() {
    for (algorithm, key, oid, octets) in ML_DSA {
        match key {
            KeyAlgorithm::MlDsa44 => foreign_ml_dsa::<MlDsa44>(algorithm, key, oid, octets),
            KeyAlgorithm::MlDsa65 => foreign_ml_dsa::<MlDsa65>(algorithm, key, oid, octets),
            _ => foreign_ml_dsa::<MlDsa87>(algorithm, key, oid, octets),
        }
    }
}

fn every_key() -> Vec<Key> {
    let mut keys = vec![Key::p256(), Key::p384(), Key::p521(), Key::ed25519(3), Key::rsa2048()];
    keys.extend(PSS.map(Key::pss));
    keys.extend(ML_DSA.map(|(algorithm, ..)| Key::ml_dsa(algorithm)));
    keys
}

#[test]
fn a_verifier_says_what_the_key_says() {
    let keys = every_key();
    for key in &keys {
        let signature = key.sign(b"message");
        for algorithm in S::ALL {
            let fits = key.public.algorithm().signs_with(algorithm);
            let once = key.public.verify(algorithm, b"message", &signature);
            match Verifier::new(&key.public, algorithm) {
                Ok(verifier) => {
                    assert!(fits && verifier.algorithm() == algorithm);
                    assert_eq!(verifier.verify(b"message", &signature), once);
                    assert_eq!(once.is_ok(), algorithm == key.algorithm, "{algorithm} by {}", key.algorithm);
                }
                Err(AlgorithmMismatch { .. }) => assert!(!fits && once.is_err()),
            }
        }
        for other in keys.iter().filter(|other| other.public != key.public) {
            assert!(other.public.verify(key.algorithm, b"message", &signature).is_err());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_changed_signature_or_message_does_not_verify(which in 0usize..4, at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let key = [
            || Key::ed25519(9), || Key::pss(S::RsaPssSha256), || Key::ml_dsa(S::MlDsa44), || Key::ml_dsa(S::MlDsa87),
        ][which]();
        let verifier = Verifier::new(&key.public, key.algorithm).unwrap();
        let message = b"the bytes of a certificate".to_vec();
        let signature = key.sign(&message);
        prop_assert!(verifier.verify(&message, &signature).is_ok());
        for (mut message, mut signature, change_message) in
            [(message.clone(), signature.clone(), true), (message, signature, false)]
        {
            let octets = if change_message { &mut message } else { &mut signature };
            let at = at.index(octets.len());
            octets[at] ^= 1 << bit;
            prop_assert!(verifier.verify(&message, &signature).is_err());
        }
    }
}

fn device_profile(keys: &[&str]) -> CertificateProfile {
    let key_algorithms = keys.iter().map(ToString::to_string).collect();
    compile(ProfileSpec { key_algorithms, ..ProfileSpec::tls_client() })
}

/// A certificate for `device` under a hierarchy of two such keys, judged by `judge`.
fn issue_and_judge(hierarchy: &Hierarchy, device: &Key, judge: &Path) {
    let issuer = &hierarchy.issuer;
    assert_eq!(issuer.signature_algorithm(), hierarchy.issuing_key.algorithm);
    let request = CertificationRequest::parse(&device.csr("dev-1", |_| {})).unwrap();
    let profile = device_profile(&[&device.public.algorithm().to_string()]);
    let names = select_names(&profile, &request, facts()).unwrap();
    let issuance = IssuanceRequest {
        profile: &profile,
        issuer,
        public_key: &device.public,
        names: &names,
        serial: serial(9),
        now: NOW,
    };
    let prepared = prepare(issuance).unwrap();
    assert_eq!(prepared.algorithm(), hierarchy.issuing_key.algorithm);
    let leaf = prepared.finish(issuer, &hierarchy.sign(prepared.tbs())).unwrap();
    assert_eq!(leaf.signature_algorithm(), issuer.signature_algorithm());
    // No other key's signature, and none in another way.
    assert!(prepared.finish(issuer, &hierarchy.root_key.sign(prepared.tbs())).is_err());

    let dir = tempfile::tempdir().unwrap();
    let root = write_pem(dir.path(), "root.pem", hierarchy.root.der());
    let issuing = write_pem(dir.path(), "issuing.pem", issuer.certificate().der());
    let at = NOW.as_secs().to_string();
    let verify = |leaf: &[u8]| {
        let leaf = write_pem(dir.path(), "leaf.pem", leaf);
        let words = ["verify", "-x509_strict", "-attime", &at, "-CAfile", &root, "-untrusted", &issuing, &leaf];
        let output = Command::new(judge).args(words).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let mut tampered = leaf.der().to_vec();
    *tampered.last_mut().unwrap() ^= 1;
    assert!(!verify(&tampered).0, "a changed signature");
    let (ok, said) = verify(leaf.der());
    assert!(ok, "{said}");
}

#[test]
fn openssl_accepts_what_pss_issuers_sign() {
    if openssl(&["version"]).is_none() {
        return;
    }
    for algorithm in PSS {
        issue_and_judge(&Hierarchy::new(Key::pss(algorithm), Key::pss(algorithm)), &Key::p256(), Path::new("openssl"));
    }
    // The root in one way, the issuing CA in the other.
    issue_and_judge(&Hierarchy::new(Key::rsa2048(), Key::pss(PSS[0])), &Key::rsa2048(), Path::new("openssl"));
    issue_and_judge(&Hierarchy::new(Key::pss(PSS[0]), Key::rsa2048()), &Key::p384(), Path::new("openssl"));
}

#[test]
fn openssl_accepts_what_ml_dsa_issuers_sign() {
    let Some(judge) = openssl_with_ml_dsa() else { return };
    for (algorithm, ..) in ML_DSA {
        issue_and_judge(
            &Hierarchy::new(Key::ml_dsa(algorithm), Key::ml_dsa(algorithm)),
            &Key::ml_dsa(algorithm),
            &judge,
        );
    }
    // A device without ML-DSA under an authority that has it, and the other way round.
    issue_and_judge(&Hierarchy::new(Key::ml_dsa(S::MlDsa65), Key::ml_dsa(S::MlDsa44)), &Key::p256(), &judge);
    issue_and_judge(&Hierarchy::p256(), &Key::ml_dsa(S::MlDsa65), &judge);
}

#[test]
fn the_largest_keys_fit_the_limits() {
    let hierarchy = Hierarchy::new(Key::ml_dsa(S::MlDsa87), Key::ml_dsa(S::MlDsa87));
    let device = Key::ml_dsa(S::MlDsa87);
    let names: Vec<rcgen::SanType> = (0..32)
        .map(|n| rcgen::SanType::DnsName(format!("device-{n:04}.line-7.plant.example.com").try_into().unwrap()))
        .collect();
    let der = device.csr("dev-1", |params| params.subject_alt_names = names);
    let pem = der::pem::encode_string("CERTIFICATE REQUEST", der::pem::LineEnding::CRLF, &der).unwrap();
    assert!(pem.len() < MAX_REQUEST_LEN, "{}", pem.len());
    assert_eq!(CertificationRequest::parse(pem.as_bytes()).unwrap().public_key(), &device.public);
    // What the service takes as a client certificate, see `server::tls`.
    let ca = hierarchy.issuer.certificate().der().len();
    assert!((7_200..9 * 1024).contains(&ca), "{ca}");
}

#[test]
fn an_issuer_signs_with_its_keys_algorithms_alone() {
    let hierarchy = Hierarchy::p256();
    let mismatch = AlgorithmMismatch { key: KeyAlgorithm::EcP256, algorithm: S::RsaPssSha256 };
    let refused = hierarchy.issuer.clone().with_signature_algorithm(S::RsaPssSha256);
    assert_eq!(refused, Err(IssuerError::Algorithm(mismatch)));
    assert_eq!(mismatch.to_string(), "P-256 keys make no RSA-PSS with SHA-256 signatures");
    let key = Key::p256();
    let root_name = name("Root");
    let refused = authority::root(subject(&root_name, &key, 1, 100), S::RsaPssSha256);
    assert_eq!(refused, Err(AuthorityError::Algorithm(mismatch)));

    let pss = Hierarchy::new(Key::p256(), Key::pss(S::RsaPssSha256)).issuer;
    assert_eq!(pss.responder_algorithm(&Key::rsa2048().public), S::RsaPssSha256);
    assert_eq!(pss.responder_algorithm(&key.public), S::EcdsaSha256);
    // An rsaEncryption key all the same: id-RSASSA-PSS keys are refused by much of what must verify.
    assert!(pss.public_key().spki_der().windows(11).any(|w| w == [6, 9, 42, 134, 72, 134, 247, 13, 1, 1, 1]));
}

#[test]
fn a_pss_authority_under_a_foreign_pss_root() {
    let key = Key::pss(S::RsaPssSha256);
    let info = authority::certification_request(&name("Issuing CA 2"), &key.public).unwrap();
    // Signed in one way and named in the other.
    assert_eq!(authority::finish_csr(&info, S::RsaPkcs1Sha256, &key.sign(&info)), Err(AuthorityError::Signature));
    let csr = authority::finish_csr(&info, S::RsaPssSha256, &key.sign(&info)).unwrap();
    assert_eq!(CertificationRequest::parse(&csr).unwrap().signature_algorithm(), S::RsaPssSha256);

    let dir = tempfile::tempdir().unwrap();
    let path = |file: &str| dir.path().join(file).to_str().unwrap().to_owned();
    let (root_key, root, ca) = (path("k.pem"), path("r.der"), path("ca.der"));
    let csr = write(dir.path(), "c.der", &csr);
    let extensions = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
                      subjectKeyIdentifier=hash\n";
    let ext = write(dir.path(), "ext", extensions.as_bytes());
    let pss = ["-sha384", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
    let words =
        ["req", "-x509", "-newkey", "rsa:3072", "-nodes", "-keyout", &root_key, "-subj", "/CN=Root", "-outform"];
    let more = ["DER", "-out", &root, "-addext", "keyUsage=critical,keyCertSign,cRLSign"];
    if openssl_ok(&[&words[..], &more, &pss].concat()).is_none() {
        return;
    }
    let words = ["x509", "-req", "-inform", "DER", "-in", &csr, "-CA", &root, "-CAkey", &root_key, "-CAform", "DER"];
    let more = ["-days", "5", "-extfile", &ext, "-outform", "DER", "-out", &ca, "-set_serial", "77"];
    openssl_ok(&[&words[..], &more, &pss].concat());
    let chain = [&ca, &root].map(|file| Certificate::from_der(&std::fs::read(file).unwrap()).unwrap());
    assert_eq!(chain[0].signature_algorithm(), S::RsaPssSha384);
    authority::check_imported_chain(&key.public, &chain, chain[0].not_before()).unwrap();
}

#[test]
fn ml_dsa_keys_only_sign() {
    for usage in ["keyEncipherment", "keyAgreement"] {
        let toml = format!(
            "key_algorithms = [\"ML-DSA-65\"]\nvalidity = \"1y\"\nkey_usage = [\"digitalSignature\", \"{usage}\"]\n\
             enroll_by = [\"station\"]\n"
        );
        let spec: ProfileSpec = toml::from_str(&toml).unwrap();
        let refused = CertificateProfile::compile("x".parse().unwrap(), spec).unwrap_err();
        assert!(refused.to_string().contains("ML-DSA-65 keys cannot do all of this"), "{refused}");
    }
    assert!(device_profile(&["ML-DSA-44", "ML-DSA-87"]).accepts_key(KeyAlgorithm::MlDsa87));
    // Those who trust the built-in profiles get no keys that their verifiers have never seen.
    assert!(!compile(ProfileSpec::tls_client()).accepts_key(KeyAlgorithm::MlDsa44));
}

#[test]
fn names_of_algorithms_are_read_as_they_are_written() {
    for algorithm in KeyAlgorithm::NAMED {
        assert_eq!(KeyAlgorithm::named(&algorithm.to_string()), Some(algorithm));
    }
    assert_eq!(KeyAlgorithm::named("RSA-1024"), None);
    assert_eq!(Key::ml_dsa(S::MlDsa44).pair.subject_public_key_info().len(), 1312 + 22);
}
