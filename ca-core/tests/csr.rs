//! Certification requests of all sorts, made by rcgen, by hand and by openssl.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use ca_core::{
    csr::{CertificationRequest, CsrError, MAX_REQUEST_LEN, RequestedName, RequestedValue},
    key::{KeyAlgorithm, KeyError, SignatureAlgorithm},
};
use const_oid::{
    ObjectIdentifier,
    db::{rfc2985, rfc4519, rfc5280},
};
use der::{
    Any, Decode, Encode, Sequence, Tag,
    asn1::{BitString, OctetString, SetOfVec},
};
use proptest::prelude::*;
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use std::{fs, sync::LazyLock};
use support::{Key, openssl, openssl_ok};
use x509_cert::{
    attr::{Attribute, AttributeTypeAndValue},
    ext::Extension,
    name::{Name, RdnSequence, RelativeDistinguishedName},
    request::{CertReqInfo, Version},
};

fn parse(der: &[u8]) -> Result<CertificationRequest, CsrError> {
    CertificationRequest::parse(der)
}

fn refusal(der: &[u8]) -> CsrError {
    parse(der).expect_err("must be refused")
}

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    Key::p256().csr("dev-1", |p| {
        p.subject_alt_names = vec![
            rcgen::SanType::DnsName("a.example.com".try_into().unwrap()),
            rcgen::SanType::IpAddress("10.0.0.1".parse().unwrap()),
            rcgen::SanType::URI("urn:dev:1".try_into().unwrap()),
            rcgen::SanType::Rfc822Name("a@example.com".try_into().unwrap()),
        ];
        p.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    })
});

// ---- requests made by hand -------------------------------------------------------------------------------------

const CHALLENGE: ObjectIdentifier = rfc2985::PKCS_9_AT_CHALLENGE_PASSWORD;
const EXTENSION_REQUEST: ObjectIdentifier = rfc2985::PKCS_9_AT_EXTENSION_REQUEST;
const MS_EXTENSION_REQUEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.14");

#[derive(Sequence)]
struct Raw {
    info: Any,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

fn attribute(oid: ObjectIdentifier, values: &[Any]) -> Attribute {
    Attribute { oid, values: SetOfVec::try_from(values.to_vec()).unwrap() }
}

fn extension(oid: ObjectIdentifier, value: &[u8]) -> Extension {
    Extension { extn_id: oid, critical: false, extn_value: OctetString::new(value).unwrap() }
}

fn extension_request(oid: ObjectIdentifier, list: &[Extension]) -> Attribute {
    attribute(oid, &[Any::encode_from(&list.to_vec()).unwrap()])
}

fn rdn(list: &[(ObjectIdentifier, Tag, &str)]) -> RelativeDistinguishedName {
    let mut rdn = RelativeDistinguishedName::default();
    for (oid, tag, value) in list {
        rdn.insert(AttributeTypeAndValue { oid: *oid, value: Any::new(*tag, value.as_bytes()).unwrap() }).unwrap();
    }
    rdn
}

fn subject(rdns: impl IntoIterator<Item = RelativeDistinguishedName>) -> Name {
    let mut sequence = RdnSequence::default();
    rdns.into_iter().for_each(|rdn| sequence.push(rdn));
    Name::hazmat_from_rdn_sequence(sequence)
}

fn sign(info: &[u8], key: &Key) -> Vec<u8> {
    let raw = Raw {
        info: Any::from_der(info).unwrap(),
        algorithm: SignatureAlgorithm::Ed25519.identifier(),
        signature: BitString::from_bytes(&key.sign(info)).unwrap(),
    };
    raw.to_der().unwrap()
}

fn handmade(subject: Name, attributes: Vec<Attribute>) -> Vec<u8> {
    let key = Key::ed25519(7);
    let info = CertReqInfo {
        version: Version::V1,
        subject,
        public_key: SubjectPublicKeyInfoOwned::from_der(key.public.spki_der()).unwrap(),
        attributes: SetOfVec::try_from(attributes).unwrap(),
    };
    sign(&info.to_der().unwrap(), &key)
}

#[test]
fn reads_what_was_asked_for() {
    let csr = parse(&GOOD).unwrap();
    assert_eq!(csr.der(), GOOD.as_slice());
    assert_eq!(csr.common_name(), Some("dev-1"));
    assert_eq!(csr.serial_number(), None);
    assert_eq!(csr.subject(), "CN=dev-1");
    assert_eq!(csr.public_key().algorithm(), KeyAlgorithm::EcP256);
    let expected = [
        RequestedName::Dns("a.example.com".to_owned()),
        RequestedName::Ip("10.0.0.1".parse().unwrap()),
        RequestedName::Uri("urn:dev:1".to_owned()),
        RequestedName::Email("a@example.com".to_owned()),
    ];
    assert_eq!(csr.alt_names(), expected);
    assert!(
        csr.extensions().iter().any(|e| matches!(&e.parsed, RequestedValue::KeyUsage(ku) if ku.digital_signature()))
    );
}

#[test]
fn pem_is_read_leniently() {
    use base64_lines as lines;
    let body = |width| lines(&GOOD, width);
    for text in [
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{}-----END CERTIFICATE REQUEST-----\n", body(64)),
        format!("some text\r\n-----BEGIN CERTIFICATE REQUEST-----\r\n{}-----END CERTIFICATE REQUEST-----", body(76)),
        format!("-----BEGIN NEW CERTIFICATE REQUEST-----\n{}-----END NEW CERTIFICATE REQUEST-----\n\n", body(4000)),
    ] {
        assert_eq!(parse(text.as_bytes()).unwrap().der(), GOOD.as_slice(), "{text}");
    }
    let one = format!("-----BEGIN CERTIFICATE REQUEST-----\n{}-----END CERTIFICATE REQUEST-----\n", body(64));
    assert_eq!(refusal(format!("{one}{one}").as_bytes()), CsrError::SeveralRequests);
    assert_eq!(refusal(one.replace("REQUEST", "RUBBISH").as_bytes()), CsrError::NotPem);
    assert_eq!(refusal(&one.as_bytes()[..one.len() / 2]), CsrError::NotPem);
    for empty in ["", "0", "hello"] {
        assert_eq!(refusal(empty.as_bytes()), CsrError::NotPem);
    }
}

fn base64_lines(der: &[u8], width: usize) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in der.chunks(3) {
        let bits = group.iter().fold(0u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let c = if i <= group.len() { ALPHABET[(bits >> (18 - 6 * i)) as usize & 63] } else { b'=' };
            text.push(char::from(c));
        }
    }
    text.as_bytes().chunks(width).map(|line| format!("{}\n", std::str::from_utf8(line).unwrap())).collect()
}

#[test]
fn size_is_limited() {
    assert_eq!(refusal(&vec![0x30; MAX_REQUEST_LEN + 1]), CsrError::TooLarge(MAX_REQUEST_LEN + 1));
    let mut trailing = GOOD.clone();
    trailing.push(0);
    assert_eq!(refusal(&trailing), CsrError::Malformed);
}

#[test]
fn the_algorithm_comes_from_key_and_signature_together() {
    for (key, algorithm) in [
        (Key::p256(), KeyAlgorithm::EcP256),
        (Key::p384(), KeyAlgorithm::EcP384),
        (Key::p521(), KeyAlgorithm::EcP521),
        (Key::ed25519(1), KeyAlgorithm::Ed25519),
        (Key::rsa2048(), KeyAlgorithm::Rsa(2048)),
    ] {
        assert_eq!(key.request("x").public_key().algorithm(), algorithm);
    }
}

#[test]
fn the_key_must_be_the_signer() {
    let key = Key::ed25519(7);
    let info = CertReqInfo {
        version: Version::V1,
        subject: Name::default(),
        public_key: SubjectPublicKeyInfoOwned::from_der(key.public.spki_der()).unwrap(),
        attributes: SetOfVec::new(),
    };
    let info = info.to_der().unwrap();
    assert!(parse(&sign(&info, &key)).is_ok());
    let error = refusal(&sign(&info, &Key::ed25519(8)));
    assert_eq!((error.clone(), error.field()), (CsrError::Signature, "csr.signature"));
    // Version 1 instead of 0, signed by the right key.
    let at = info.windows(3).position(|w| w == [2, 1, 0]).unwrap();
    let mut later = info;
    later[at + 2] = 1;
    assert_eq!(refusal(&sign(&later, &key)), CsrError::Malformed);
}

#[test]
fn a_point_off_the_curve_is_refused_as_such() {
    let key = Key::p256();
    let mut der = key.csr("x", |_| {});
    let at = der.windows(65).position(|w| w == key.public.key_bits()).unwrap();
    der[at + 40] ^= 1;
    let error = refusal(&der);
    assert_eq!(error, CsrError::Key(KeyError::NotOnCurve));
    assert_eq!(error.field(), "csr.subject_public_key");
}

#[test]
fn attributes_follow_pkcs_9() {
    let unknown = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.13.2.3");
    let password = attribute(CHALLENGE, &[Any::new(Tag::Utf8String, *b"secret").unwrap()]);
    let other = attribute(unknown, &[Any::new(Tag::Ia5String, *b"10.0").unwrap()]);
    let ski = extension(rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER, &[4, 1, 1]);
    let csr = parse(&handmade(Name::default(), vec![password, other.clone()])).unwrap();
    assert_eq!(csr.unknown_attributes(), [unknown]);
    assert!(csr.extensions().is_empty());
    assert!(!format!("{csr:?}").contains("secret"));

    for oid in [EXTENSION_REQUEST, MS_EXTENSION_REQUEST] {
        let csr = parse(&handmade(Name::default(), vec![extension_request(oid, std::slice::from_ref(&ski))])).unwrap();
        assert_eq!(csr.extensions().len(), 1);
        assert_eq!(csr.extensions()[0].value, [4, 1, 1]);
        assert_eq!(csr.extensions()[0].parsed, RequestedValue::Other);
    }
    let one = extension_request(EXTENSION_REQUEST, std::slice::from_ref(&ski));
    let two = extension_request(MS_EXTENSION_REQUEST, std::slice::from_ref(&ski));
    assert_eq!(refusal(&handmade(Name::default(), vec![one, two])), CsrError::SeveralExtensionRequests);
    let twice = extension_request(EXTENSION_REQUEST, &[ski.clone(), ski.clone()]);
    assert_eq!(
        refusal(&handmade(Name::default(), vec![twice])),
        CsrError::DuplicateExtension(rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER)
    );
    let values: Vec<_> = [vec![ski.clone()], vec![]].iter().map(|v| Any::encode_from(v).unwrap()).collect();
    assert_eq!(
        refusal(&handmade(Name::default(), vec![attribute(EXTENSION_REQUEST, &values)])),
        CsrError::SeveralExtensionRequests
    );
    let many: Vec<_> = (1..=17u32)
        .map(|i| extension(ObjectIdentifier::new_unwrap("1.3.6.1.4.1.32473").push_arc(i).unwrap(), &[5, 0]))
        .collect();
    let refused = refusal(&handmade(Name::default(), vec![extension_request(EXTENSION_REQUEST, &many)]));
    assert_eq!(refused, CsrError::TooManyExtensions);
}

#[test]
fn malformed_extensions_name_themselves() {
    let long: Vec<u8> = (0..33).flat_map(|_| [0x82, 1, b'a']).collect();
    let san = |names: &[u8]| [&[0x30, u8::try_from(names.len()).unwrap()], names].concat();
    for (oid, value, field) in [
        (rfc5280::ID_CE_BASIC_CONSTRAINTS, vec![0x30, 1], "csr.extension_request.basic_constraints"),
        (rfc5280::ID_CE_KEY_USAGE, vec![5, 0], "csr.extension_request.key_usage"),
        (rfc5280::ID_CE_EXT_KEY_USAGE, vec![0x30, 0], "csr.extension_request.extended_key_usage"),
        (rfc5280::ID_CE_SUBJECT_ALT_NAME, vec![0x30, 0], "csr.extension_request.subject_alt_name"),
        (rfc5280::ID_CE_SUBJECT_ALT_NAME, san(&long), "csr.extension_request.subject_alt_name"),
        (rfc5280::ID_CE_SUBJECT_ALT_NAME, san(b"\x82\x03*.a"), "csr.extension_request.subject_alt_name"),
        (rfc5280::ID_CE_SUBJECT_ALT_NAME, san(b"\x82\x04a\0.b"), "csr.extension_request.subject_alt_name"),
        (rfc5280::ID_CE_SUBJECT_ALT_NAME, san(&[0x87, 3, 1, 2, 3]), "csr.extension_request.subject_alt_name"),
        (rfc5280::ID_CE_SUBJECT_ALT_NAME, san(b"\x86\x03a b"), "csr.extension_request.subject_alt_name"),
    ] {
        let request = extension_request(EXTENSION_REQUEST, &[extension(oid, &value)]);
        assert_eq!(refusal(&handmade(Name::default(), vec![request])).field(), field, "{value:?}");
    }
}

#[test]
fn subjects_of_all_sorts() {
    let cn = |value| (rfc4519::COMMON_NAME, Tag::Utf8String, value);
    let serial = (rfc4519::SERIAL_NUMBER, Tag::PrintableString, "S1");
    let read = |name: Name| {
        let csr = parse(&handmade(name, vec![])).unwrap();
        (csr.common_name().map(str::to_owned), csr.serial_number().map(str::to_owned))
    };
    assert_eq!(read(subject([])), (None, None));
    assert_eq!(read(subject([rdn(&[cn("a")]), rdn(&[serial])])), (Some("a".into()), Some("S1".into())));
    assert_eq!(read(subject([rdn(&[cn("a"), serial])])), (Some("a".into()), Some("S1".into())));
    assert_eq!(read(subject([rdn(&[cn("a")]), rdn(&[cn("b")])])), (None, None));
    assert_eq!(read(subject([rdn(&[(rfc4519::COMMON_NAME, Tag::BmpString, "ab")])])), (None, None));
    assert_eq!(read(subject([rdn(&[cn("x, O=evil")])])), (Some("x, O=evil".into()), None));
    assert_eq!(refusal(&handmade(subject([rdn(&[])]), vec![])), CsrError::Subject);
    let long = subject((0..33).map(|_| rdn(&[cn("a")])));
    assert_eq!(refusal(&handmade(long, vec![])), CsrError::Subject);
}

#[test]
fn every_single_bit_counts() {
    for der in [GOOD.clone(), Key::ed25519(3).csr("x", |_| {}), Key::rsa2048().csr("x", |_| {})] {
        assert!(parse(&der).is_ok());
        for bit in 0..der.len() * 8 {
            let mut flipped = der.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped).is_err(), "bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn mutated_requests_never_panic_or_pass(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut der = GOOD.clone();
        for (index, byte) in edits {
            let at = index.index(der.len());
            der[at] = byte;
        }
        if der != *GOOD {
            prop_assert!(parse(&der).is_err());
        }
        let keep = cut.index(der.len());
        prop_assert!(parse(&der[..keep]).is_err());
    }

    #[test]
    fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse(&bytes).is_err());
        prop_assert!(parse(&[&[0x30, 0x82], bytes.as_slice()].concat()).is_err());
    }
}

/// Requests as people make them with openssl: `(name, arguments of openssl genpkey, arguments of openssl req, what is
/// expected)`.
#[test]
fn openssl_corpus() {
    const EC: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    const CN: &[&str] = &["-subj", "/CN=dev-1"];
    type Case = (&'static str, &'static [&'static str], &'static [&'static str], Result<&'static str, &'static str>);
    let cases: &[Case] = &[
        ("ok", EC, CN, Ok("CN=dev-1")),
        ("sha384 with P-256", EC, &["-subj", "/CN=a", "-sha384"], Ok("CN=a")),
        (
            "sha256 with P-521",
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
            &["-subj", "/CN=a", "-sha256"],
            Ok("CN=a"),
        ),
        (
            "a CA",
            EC,
            &["-subj", "/CN=a", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign"],
            Ok("CN=a"),
        ),
        ("unknown extension", EC, &["-subj", "/CN=a", "-addext", "1.2.3.4=DER:0500"], Ok("CN=a")),
        ("custom EKU", EC, &["-subj", "/CN=a", "-addext", "extendedKeyUsage=1.2.3.4"], Ok("CN=a")),
        ("otherName", EC, &["-subj", "/CN=a", "-addext", "subjectAltName=otherName:1.2.3.4;UTF8:x"], Ok("CN=a")),
        ("registered ID", EC, &["-subj", "/CN=a", "-addext", "subjectAltName=RID:1.2.3.4"], Ok("CN=a")),
        ("empty subject", EC, &["-subj", "/"], Ok("")),
        ("two OUs", EC, &["-subj", "/OU=A/OU=B/CN=a"], Ok("CN=a,OU=B,OU=A")),
        ("multi-valued RDN", EC, &["-multivalue-rdn", "-subj", "/CN=a+serialNumber=1"], Ok("CN=a+SERIALNUMBER=1")),
        ("Ed25519", &["-algorithm", "ED25519"], CN, Ok("CN=dev-1")),
        ("RSA", RSA, CN, Ok("CN=dev-1")),
        ("RSA with sha512", RSA, &["-subj", "/CN=a", "-sha512"], Ok("CN=a")),
        (
            "secp256k1",
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
            CN,
            Err("csr.subject_public_key"),
        ),
        (
            "explicit curve",
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"],
            CN,
            Err("csr.subject_public_key"),
        ),
        (
            "RSA of 1024 bits",
            &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
            CN,
            Err("csr.subject_public_key"),
        ),
        (
            "RSA exponent 3",
            &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_pubexp:3"],
            CN,
            Err("csr.subject_public_key"),
        ),
        ("RSA-PSS", RSA, &["-subj", "/CN=a", "-sigopt", "rsa_padding_mode:pss"], Err("csr.signature_algorithm")),
        ("SHA-1", RSA, &["-subj", "/CN=a", "-sha1"], Err("csr.signature_algorithm")),
        ("Ed448", &["-algorithm", "ED448"], CN, Err("csr.subject_public_key")),
        (
            "wildcard",
            EC,
            &["-subj", "/CN=a", "-addext", "subjectAltName=DNS:*.example.com"],
            Err("csr.extension_request.subject_alt_name"),
        ),
    ];
    if openssl(&["version"]).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (key, out) = (path("key.pem"), path("csr.pem"));
    for (what, genpkey, req, expected) in cases {
        let (made, said) = openssl(&[&["genpkey", "-out", &key], *genpkey].concat()).unwrap();
        assert!(made, "{what}: {said}");
        let (made, said) = openssl(&[&["req", "-new", "-key", &key, "-out", &out], *req].concat()).unwrap();
        assert!(made, "{what}: {said}");
        let pem = fs::read(&out).unwrap();
        match (parse(&pem), expected) {
            (Ok(csr), Ok(text)) => assert_eq!(csr.subject(), *text, "{what}"),
            (Err(error), Err(field)) => assert_eq!(error.field(), *field, "{what}: {error}"),
            (result, _) => panic!("{what}: {result:?}"),
        }
    }

    // The old way: challengePassword, and what asking for a subjectKeyIdentifier looks like.
    let config = path("req.cnf");
    fs::write(
        &config,
        "[req]\nprompt=no\ndistinguished_name=dn\nattributes=attrs\nreq_extensions=ext\n[dn]\nCN=a\n\
         [attrs]\nchallengePassword=secret-1\nunstructuredName=x\n[ext]\nsubjectKeyIdentifier=hash\n",
    )
    .unwrap();
    openssl_ok(&[&["genpkey", "-out", &key], EC].concat());
    openssl_ok(&["req", "-new", "-newhdr", "-key", &key, "-config", &config, "-out", &out]);
    let pem = fs::read(&out).unwrap();
    assert!(pem.starts_with(b"-----BEGIN NEW CERTIFICATE REQUEST"));
    let csr = parse(&pem).unwrap();
    assert_eq!(csr.unknown_attributes(), [rfc2985::PKCS_9_AT_UNSTRUCTURED_NAME]);
    assert_eq!(csr.extensions().len(), 1);
}
