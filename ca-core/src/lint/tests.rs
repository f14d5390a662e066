//! A sound certificate, spoilt one rule at a time.

use super::*;
use crate::{
    alt_name::AltName,
    name::{AttributeType, DistinguishedName},
    serial::SerialNumber,
    tbs::{self, Contents},
};
use der::asn1::Null;

const KEY_ID: &[u8] = &[7; 20];
const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);

fn ed25519() -> PublicKey {
    // RFC 8410 10.1.
    let spki = "302a300506032b657003210019bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    PublicKey::from_spki_der(&hex::decode(spki).unwrap()).unwrap()
}

fn name(text: &str) -> DistinguishedName {
    DistinguishedName::new([(AttributeType::CommonName, text.to_owned())]).unwrap()
}

fn urls() -> IssuerUrls {
    IssuerUrls::new("http://a/crl", "http://a/ocsp", "http://a/cer").unwrap()
}

/// A sound end-entity certificate, to be spoilt one rule at a time.
struct Case {
    serial: SerialNumber,
    algorithm: SignatureAlgorithm,
    issuer: DistinguishedName,
    subject: DistinguishedName,
    validity: (UnixTime, UnixTime),
    extensions: Vec<Extension>,
    role: Role,
    /// Changes the encoded bytes, where the encoder would not make the fault.
    patch: Option<(&'static [u8], &'static [u8])>,
}

const BC: usize = 0;
const KU: usize = 1;
const EKU: usize = 2;
const SKI: usize = 3;
const AKI: usize = 4;
const SAN: usize = 5;
const CDP: usize = 6;
const AIA: usize = 7;

fn sound() -> Case {
    Case {
        serial: SerialNumber::from_random([9; 16]),
        algorithm: SignatureAlgorithm::Ed25519,
        issuer: name("issuer"),
        subject: name("subject"),
        validity: (NOW, NOW.plus(std::time::Duration::from_secs(60))),
        extensions: vec![
            tbs::basic_constraints(false, None).unwrap(),
            tbs::key_usage(KeyUsages::DigitalSignature.into()).unwrap(),
            tbs::extended_key_usage(&[rfc5912::ID_KP_CLIENT_AUTH]).unwrap(),
            tbs::subject_key_identifier(&ed25519()).unwrap(),
            tbs::authority_key_identifier(KEY_ID).unwrap(),
            tbs::subject_alt_name(&[AltName::Dns("a.b".to_owned())], false).unwrap(),
            tbs::crl_distribution_point("http://a/crl").unwrap(),
            tbs::authority_info_access(Some("http://a/ocsp"), Some("http://a/cer")).unwrap(),
        ],
        role: Role::EndEntity,
        patch: None,
    }
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// The clauses of what is found.
fn findings(spoil: impl FnOnce(&mut Case)) -> Vec<&'static str> {
    let mut case = sound();
    spoil(&mut case);
    let contents = Contents {
        serial: &case.serial,
        algorithm: case.algorithm,
        issuer_name: case.issuer.der(),
        not_before: case.validity.0,
        not_after: case.validity.1,
        subject: case.subject.der(),
        public_key: &ed25519(),
        extensions: case.extensions,
    };
    let mut tbs = contents.encode().unwrap();
    if let Some((from, to)) = case.patch {
        tbs = replace(&tbs, from, to);
    }
    let (issuer, urls) = (name("issuer"), urls());
    let expected = Expected {
        role: case.role,
        issuer_name: issuer.der(),
        issuer_key_identifier: KEY_ID,
        algorithm: SignatureAlgorithm::Ed25519,
        issuer_validity: Some((NOW, NOW.plus(std::time::Duration::from_secs(3600)))),
        may_outlive_issuer: false,
        urls: (case.role == Role::EndEntity).then_some(&urls),
    };
    check_tbs(&tbs, &expected).into_iter().map(|f| f.clause).collect()
}

#[test]
fn a_sound_certificate_has_no_findings() {
    assert_eq!(findings(|_| {}), Vec::<&str>::new());
}

#[test]
fn fields_that_break_a_rule_are_found() {
    assert_eq!(findings(|c| c.algorithm = SignatureAlgorithm::EcdsaSha256), ["RFC 5280 4.1.2.3"]);
    assert_eq!(findings(|c| c.issuer = name("other")), ["RFC 5280 4.1.2.4"]);
    assert_eq!(findings(|c| c.issuer = DistinguishedName::empty()), ["RFC 5280 4.1.2.4"; 2]);
    assert_eq!(findings(|c| c.validity.1 = NOW.plus(std::time::Duration::from_secs(3601))), ["RFC 5280 6.1.3"]);
    assert_eq!(findings(|c| c.validity.0 = UnixTime::from_secs(1)), ["RFC 5280 6.1.3"]);
    assert_eq!(findings(|c| c.validity = (c.validity.1, NOW)), ["RFC 5280 4.1.2.5"]);
    // The first octet of the serial number is 0x49; version 3 is [0] 2.
    assert_eq!(findings(|c| c.patch = Some((&[2, 16, 0x49], &[2, 16, 0xc9]))), ["RFC 5280 4.1.2.2"]);
    assert_eq!(findings(|c| c.patch = Some((&[0xa0, 3, 2, 1, 2], &[0xa0, 3, 2, 1, 1]))), ["RFC 5280 4.1.2.1"]);
    assert_eq!(findings(|c| c.patch = Some((&[0xa0, 3, 2, 1, 2], &[0xa0, 3, 2, 1, 9]))), ["RFC 5280 4.1"]);
}

#[test]
fn extensions_that_break_a_rule_are_found() {
    for (i, clause) in
        [(KU, "RFC 5280 4.2.1.3"), (SKI, "RFC 5280 4.2.1.2"), (AKI, "RFC 5280 4.2.1.1"), (CDP, "RFC 5280 4.2.1.13")]
    {
        assert_eq!(findings(|c| drop(c.extensions.remove(i))), [clause]);
    }
    assert_eq!(findings(|c| drop(c.extensions.remove(AIA))), ["RFC 5280 4.2.2.1"; 3]);
    assert_eq!(findings(|c| drop(c.extensions.remove(BC))), Vec::<&str>::new());
    assert_eq!(findings(|c| c.extensions.push(c.extensions[EKU].clone())), ["RFC 5280 4.2"]);
    assert_eq!(findings(|c| c.extensions[EKU].critical = true), ["RFC 5280 4.2"]);
    assert_eq!(findings(|c| c.extensions[KU].critical = false), ["RFC 5280 4.2.1.3"]);
    assert_eq!(findings(|c| c.extensions[SAN].critical = true), ["RFC 5280 4.2.1.6"]);
    assert_eq!(findings(|c| c.subject = DistinguishedName::empty()), ["RFC 5280 4.2.1.6"]);
    let nameless = |c: &mut Case| {
        c.subject = DistinguishedName::empty();
        c.extensions.remove(SAN);
    };
    assert_eq!(findings(nameless), ["RFC 5280 4.1.2.6"]);
    let put = |i: usize, e: Result<Extension, tbs::EncodingError>| findings(|c| c.extensions[i] = e.unwrap());
    assert_eq!(put(BC, tbs::basic_constraints(true, None)), ["RFC 5280 4.2.1.9"]);
    assert_eq!(put(BC, tbs::basic_constraints(false, Some(0))), ["RFC 5280 4.2.1.9"]);
    assert_eq!(put(KU, tbs::key_usage(KeyUsages::KeyCertSign.into())), ["RFC 5280 4.2.1.3"]);
    assert_eq!(put(KU, tbs::key_usage(FlagSet::default())), ["RFC 5280 4.2.1.3"]);
    assert_eq!(
        put(KU, tbs::key_usage(KeyUsages::KeyEncipherment.into())),
        ["RFC 5480 3, RFC 8410 5, RFC 4055 1.2, RFC 9881 5"]
    );
    assert_eq!(put(EKU, tbs::extended_key_usage(&[rfc5912::ID_KP_OCSP_SIGNING])), ["RFC 6960 4.2.2.2"]);
    assert_eq!(put(EKU, tbs::extended_key_usage(&[])), ["RFC 5280 4.2.1.12"]);
    assert_eq!(put(AKI, tbs::authority_key_identifier(&[8; 20])), ["RFC 5280 4.2.1.1"]);
    assert_eq!(put(SAN, tbs::subject_alt_name(&[], false)), ["RFC 5280 4.2.1.6"]);
    assert_eq!(put(CDP, tbs::crl_distribution_point("http://b/crl")), ["RFC 5280 4.2.1.13"]);
    assert_eq!(put(AIA, tbs::authority_info_access(Some("http://b/ocsp"), Some("http://a/cer"))), ["RFC 5280 4.2.2.1"]);
    let rubbish = tbs::extension(rfc5280::ID_CE_SUBJECT_ALT_NAME, false, &Null);
    assert_eq!(put(SAN, rubbish), ["RFC 5280 4.2"]);
}

#[test]
fn roles_have_rules_of_their_own() {
    let responder = findings(|c| c.role = Role::OcspResponder);
    assert_eq!(responder, ["RFC 6960 4.2.2.2", "RFC 6960 4.2.2.2.1"]);
    let authority = findings(|c| c.role = Role::Authority);
    assert_eq!(authority, ["RFC 5280 4.2.1.9", "RFC 5280 4.2.1.3"]);
}

#[test]
fn the_outside_must_match_the_inside() {
    let case = sound();
    let (issuer, key) = (name("issuer"), ed25519());
    let contents = Contents {
        serial: &case.serial,
        algorithm: case.algorithm,
        issuer_name: issuer.der(),
        not_before: NOW,
        not_after: NOW,
        subject: case.subject.der(),
        public_key: &key,
        extensions: case.extensions,
    };
    let tbs = contents.encode().unwrap();
    let expected = Expected {
        role: Role::EndEntity,
        issuer_name: issuer.der(),
        issuer_key_identifier: KEY_ID,
        algorithm: SignatureAlgorithm::Ed25519,
        issuer_validity: None,
        may_outlive_issuer: false,
        urls: None,
    };
    let check = |der: &[u8], tbs: &[u8]| -> Vec<_> {
        check_certificate(der, tbs, &expected).into_iter().map(|f| f.clause).collect()
    };
    let assemble = crate::certificate::assemble;
    let der = assemble(&tbs, SignatureAlgorithm::Ed25519, &[1; 64]);
    assert_eq!(check(&der, &tbs), Vec::<&str>::new());
    let other = assemble(&tbs, SignatureAlgorithm::EcdsaSha256, &[1; 64]);
    assert_eq!(check(&other, &tbs), ["RFC 5280 4.1.1.2"]);
    assert_eq!(check(&assemble(&tbs, SignatureAlgorithm::Ed25519, &[]), &tbs), ["RFC 5280 4.1.1.3"]);
    let changed = replace(&tbs, b"subject", b"Subject");
    assert_eq!(check(&der, &changed), ["RFC 5280 4.1.1.1"]);
    assert_eq!(check(&der[1..], &tbs), ["RFC 5280 4.1"]);
}
