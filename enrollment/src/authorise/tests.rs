#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use super::*;
use crate::attestation::{
    EvidenceError,
    claims::{ClaimName, ClaimValue, Claims, Ternary},
    policy::{AcceptSpec, AppraisalPolicy, AttestationPolicySpec, PolicyError},
    session::SessionError,
    trust::{TrustPath, TrustStores},
};
use ca_core::{key::PublicKey, profile::ProfileSpec};
use rcgen::{CertificateParams, DnType, KeyPair};

pub(crate) fn csr_of(key: &KeyPair, subject: &[(DnType, &str)]) -> CertificationRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in subject {
        params.distinguished_name.push(kind.clone(), *value);
    }
    CertificationRequest::parse(params.serialize_request(key).unwrap().der()).unwrap()
}

pub(crate) fn csr(subject: &[(DnType, &str)]) -> CertificationRequest {
    csr_of(&KeyPair::generate().unwrap(), subject)
}

/// A result as a verifier would give it for this key and TPM.
pub(crate) fn result_for(key: &PublicKey, anchor: [u8; 32]) -> AttestationResult {
    AttestationResult {
        format: Format::Tpm2,
        attested_key: key.clone(),
        claims: Claims::new()
            .with(ClaimName::KeyAttested, ClaimValue::Ternary(Ternary::Yes))
            .with(ClaimName::KeyHardwareBound, ClaimValue::Ternary(Ternary::Yes))
            .with(ClaimName::KeyExportable, ClaimValue::Ternary(Ternary::No))
            .with(ClaimName::DeviceEkSha256, ClaimValue::Digest(anchor)),
        evidence_sha256: [1; 32],
        trust: vec![TrustPath { store: "tpm".into(), anchor_sha256: [2; 32], anchor_name: "CN=root".into() }],
        device_anchor: anchor,
    }
}

pub(crate) fn appraise(result: &AttestationResult) -> Verdict {
    AppraisalPolicy::built_in().unwrap().evaluate(result, &|_| false)
}

pub(crate) fn profile(change: impl FnOnce(&mut ProfileSpec)) -> CertificateProfile {
    let mut spec = ProfileSpec::tls_client();
    change(&mut spec);
    CertificateProfile::compile(ProfileName::new("tls-client").unwrap(), spec).unwrap()
}

fn station() -> Requester {
    Requester::Principal { id: PrincipalId::new("station-7").unwrap(), role: Role::Station }
}

fn token(device: Option<DeviceFacts>) -> Requester {
    Requester::Token { id: "t1".into(), profile: ProfileName::new("tls-client").unwrap(), device }
}

fn device(serial: &str) -> DeviceFacts {
    DeviceFacts::new("", "", serial).unwrap()
}

fn request<'a>(csr: &'a CertificationRequest, device: Option<DeviceFacts>) -> EnrollmentRequest<'a> {
    EnrollmentRequest { tenant: TenantId::default_tenant(), csr, device, attestation: None }
}

#[test]
fn a_station_enrolls_the_device_that_it_names() {
    let csr = csr(&[(DnType::CommonName, "anything.example")]);
    let named = DeviceFacts::new("ACME", "G7", "SN-1").unwrap();
    let done = authorise(&profile(|_| ()), &station(), &request(&csr, Some(named.clone())), None).unwrap();
    assert_eq!(done.device.as_str(), "SN-1");
    assert_eq!(done.facts, named);
    assert_eq!(done.requester, "principal:station-7");
    assert_eq!((done.anchor, done.attestation), (None, None));
    let subject = done.names.subject(&profile(|_| ())).unwrap();
    assert_eq!(subject.attributes().len(), 3);
}

#[test]
fn every_requester_meets_its_own_door() {
    let csr = csr(&[]);
    let all = [EnrollBy::Station, EnrollBy::Token, EnrollBy::Attestation];
    let result = result_for(csr.public_key(), [9; 32]);
    let verdict = appraise(&result);
    let plain = [station(), token(Some(device("SN-1"))), Requester::Attestation];
    for (i, requester) in plain.iter().enumerate() {
        for mask in 0..8u8 {
            let open: Vec<EnrollBy> =
                all.iter().enumerate().filter(|(k, _)| mask & (1 << k) != 0).map(|(_, e)| *e).collect();
            let expected = open.contains(&all[i]);
            let p = profile(|s| s.enroll_by = open);
            let r = EnrollmentRequest { attestation: Some(&result), ..request(&csr, (i == 0).then(|| device("SN-1"))) };
            let outcome = authorise(&p, requester, &r, Some(&verdict));
            if expected {
                assert!(outcome.is_ok(), "{requester:?} {outcome:?}");
            } else {
                assert_eq!(outcome, Err(Refusal::ProfileNotAllowed));
            }
        }
    }
    let never = [Role::Admin, Role::Operator, Role::Auditor]
        .map(|role| Requester::Principal { id: PrincipalId::new("p").unwrap(), role })
        .into_iter()
        .chain([Requester::Device { id: DeviceId::new("SN-1").unwrap() }]);
    for requester in never {
        let outcome = authorise(&profile(|_| ()), &requester, &request(&csr, Some(device("SN-1"))), None);
        assert_eq!(outcome, Err(Refusal::RoleNotAllowed));
    }
}

#[test]
fn a_token_opens_one_profile_and_one_device() {
    let csr = csr(&[]);
    let p = profile(|_| ());
    let bound = token(Some(DeviceFacts::new("ACME", "", "SN-1").unwrap()));
    for (stated, expected) in [
        (None, Ok("SN-1")),
        (Some(device("SN-1")), Ok("SN-1")),
        (Some(device("SN-2")), Err(Refusal::DeviceMismatch("the enrollment token"))),
        (Some(DeviceFacts::new("EVIL", "", "SN-1").unwrap()), Err(Refusal::DeviceMismatch("the enrollment token"))),
        (Some(DeviceFacts::new("", "G8", "SN-1").unwrap()), Err(Refusal::DeviceMismatch("the enrollment token"))),
    ] {
        let outcome = authorise(&p, &bound, &request(&csr, stated), None);
        assert_eq!(outcome.map(|a| a.device.to_string()), expected.map(str::to_owned));
    }
    let open = token(Some(DeviceFacts::new("ACME", "", "").unwrap()));
    let done = authorise(&p, &open, &request(&csr, Some(DeviceFacts::new("", "G8", "SN-3").unwrap())), None).unwrap();
    assert_eq!(done.facts, DeviceFacts::new("ACME", "G8", "SN-3").unwrap());
    assert_eq!(authorise(&p, &token(None), &request(&csr, None), None), Err(Refusal::DeviceRequired));
    let other = Requester::Token { id: "t".into(), profile: ProfileName::new("idevid").unwrap(), device: None };
    assert_eq!(authorise(&p, &other, &request(&csr, Some(device("SN-1"))), None), Err(Refusal::TokenProfile));
}

#[test]
fn the_csr_names_the_device_only_where_the_profile_says_so() {
    let by_name = csr(&[(DnType::CommonName, "SN-5")]);
    let serial = DnType::CustomDnType(vec![2, 5, 4, 5]);
    let by_serial = csr(&[(DnType::CommonName, "host"), (serial.clone(), "SN-6")]);
    let p = profile(|s| s.device_id_from = vec![DeviceIdSource::Request, DeviceIdSource::Csr]);
    let id =
        |p: &CertificateProfile, c, d| authorise(p, &station(), &request(c, d), None).map(|a| a.device.to_string());
    assert_eq!(id(&p, &by_name, None), Ok("SN-5".into()));
    assert_eq!(id(&p, &by_serial, None), Ok("SN-6".into()));
    assert_eq!(id(&p, &by_name, Some(device("SN-1"))), Ok("SN-1".into()));
    assert_eq!(id(&p, &by_serial, Some(device("SN-1"))), Err(Refusal::DeviceMismatch("the CSR")));
    let p = profile(|s| s.device_id_from = vec![DeviceIdSource::Request]);
    assert_eq!(id(&p, &by_name, None), Err(Refusal::DeviceRequired));
    let p = profile(|s| s.device_id_from = vec![DeviceIdSource::Csr]);
    assert_eq!(id(&p, &by_name, Some(device("SN-1"))), Err(Refusal::DeviceMismatch("the CSR")));
    let hostile = csr(&[(serial, "*%' OR 1=1")]);
    assert!(matches!(id(&p, &hostile, None), Err(Refusal::CsrDeviceId(_))));
}

#[test]
fn evidence_is_demanded_checked_and_never_downgraded() {
    let csr_a = csr(&[]);
    let csr_b = csr(&[]);
    let result = result_for(csr_a.public_key(), [9; 32]);
    let verdict = appraise(&result);
    let refused = Verdict { accepted: false, ..verdict.clone() };
    let with = |c, a| EnrollmentRequest { attestation: a, ..request(c, Some(device("SN-1"))) };
    for mode in [AttestationPolicy::Optional, AttestationPolicy::Required] {
        let p = profile(|s| s.attestation = mode);
        let done = authorise(&p, &station(), &with(&csr_a, Some(&result)), Some(&verdict)).unwrap();
        assert_eq!(done.anchor, Some([9; 32]));
        assert_eq!(done.attestation.unwrap().trust_anchor, "CN=root");
        let outcome = |r, v| authorise(&p, &station(), &r, v).unwrap_err();
        assert_eq!(outcome(with(&csr_b, Some(&result)), Some(&verdict)), Refusal::KeyNotAttested);
        assert!(matches!(outcome(with(&csr_a, Some(&result)), Some(&refused)), Refusal::Policy(_)));
        assert_eq!(outcome(with(&csr_a, Some(&result)), None), Refusal::NotAppraised);
    }
    let p = profile(|s| s.attestation = AttestationPolicy::Required);
    assert_eq!(authorise(&p, &station(), &with(&csr_a, None), None), Err(Refusal::AttestationRequired));
    assert_eq!(authorise(&p, &station(), &with(&csr_a, None), Some(&verdict)), Err(Refusal::AttestationRequired));
    let p = profile(|s| {
        s.attestation = AttestationPolicy::Off;
        s.enroll_by = vec![EnrollBy::Station];
    });
    let outcome = authorise(&p, &station(), &with(&csr_a, Some(&result)), Some(&verdict));
    assert_eq!(outcome, Err(Refusal::AttestationNotAccepted));
}

#[test]
fn evidence_alone_names_the_device() {
    let csr = csr(&[(DnType::CommonName, "somebody-else")]);
    let p = profile(|_| ());
    let result = result_for(csr.public_key(), [0xab; 32]);
    let verdict = appraise(&result);
    let with = |d, a| EnrollmentRequest { attestation: a, ..request(&csr, d) };
    let id = format!("tpm-{}", "ab".repeat(16));
    let done = authorise(&p, &Requester::Attestation, &with(None, Some(&result)), Some(&verdict)).unwrap();
    assert_eq!(done.device.as_str(), id);
    assert_eq!(done.requester, format!("attestation:{}", "ab".repeat(32)));
    assert_eq!(done.names.facts().device_serial_number, None);
    let same = authorise(&p, &Requester::Attestation, &with(Some(device(&id)), Some(&result)), Some(&verdict));
    assert_eq!(same.unwrap(), done);
    for stated in [device("SN-1"), DeviceFacts::new("ACME", "", "").unwrap()] {
        let outcome = authorise(&p, &Requester::Attestation, &with(Some(stated), Some(&result)), Some(&verdict));
        assert_eq!(outcome, Err(Refusal::DeviceMismatch("the evidence")));
    }
    let outcome = authorise(&p, &Requester::Attestation, &with(None, None), None);
    assert_eq!(outcome, Err(Refusal::AttestationRequired));
}

#[test]
fn a_stranger_learns_one_thing_about_evidence() {
    let evidence = [
        Refusal::Evidence(EvidenceError::NotActivated),
        Refusal::Evidence(EvidenceError::NotFresh),
        Refusal::Session(SessionError::Expired),
        Refusal::Policy(vec!["accept[0]: hw.vendor == \"STM\"".into()]),
        Refusal::KeyNotAttested,
        Refusal::OtherAnchor,
    ];
    let mut logged: Vec<String> = Vec::new();
    for refusal in &evidence {
        assert_eq!(refusal.public_reason(), reason::ATTESTATION_FAILED);
        assert_eq!(refusal.public_message(), EvidenceError::PUBLIC);
        assert_eq!(refusal.field(), "evidence");
        logged.push(refusal.to_string());
    }
    logged.dedup();
    assert_eq!(logged.len(), evidence.len(), "the log tells them apart");
    assert_eq!(Refusal::DeviceRequired.public_reason(), reason::DEVICE_REQUIRED);
}

#[test]
fn policies_accept_by_entry_and_trust() {
    let mut stores = TrustStores::new();
    let root = include_bytes!("../../tests/vectors/swtpm-localca-rootca-cert.pem");
    stores.add(crate::attestation::trust::TrustStore::parse("tpm", Format::Tpm2, root).unwrap()).unwrap();
    stores.add(crate::attestation::trust::TrustStore::parse("other", Format::Tpm2, root).unwrap()).unwrap();
    let entry = |trust: Option<&str>, rules: &[&str]| AcceptSpec {
        format: vec!["tpm2".into()],
        trust: trust.map(str::to_owned),
        require: rules.iter().map(|r| (*r).to_owned()).collect(),
    };
    let key = csr(&[]);
    let result = result_for(key.public_key(), [7; 32]);
    let accepted = |entries: Vec<AcceptSpec>| {
        let policy = AppraisalPolicy::compile(&AttestationPolicySpec { accept: entries }, &stores).unwrap();
        policy.evaluate(&result, &|d| *d == [7; 32])
    };
    let hardware = "key.hardware_bound == yes";
    assert!(accepted(vec![entry(Some("tpm"), &[hardware, "device.id.ek_sha256 in inventory"])]).accepted);
    assert!(!accepted(vec![entry(Some("other"), &[hardware])]).accepted);
    assert!(!accepted(vec![entry(None, &[hardware, "hw.vendor == \"STM\""])]).accepted, "absent claim");
    let second = accepted(vec![entry(Some("other"), &[hardware]), entry(None, &["key.exportable == no"])]);
    assert!(second.accepted);
    assert_eq!(second.rules.iter().filter(|r| !r.holds).count(), 1);
    let anchor = format!("trust.anchor == \"{}\"", "02".repeat(32));
    assert!(accepted(vec![entry(Some("tpm"), &[&anchor])]).accepted);

    let compile = |entries| AppraisalPolicy::compile(&AttestationPolicySpec { accept: entries }, &stores).map(drop);
    assert!(matches!(compile(vec![entry(Some("none"), &[hardware])]), Err(PolicyError::Trust(0, _))));
    assert!(matches!(compile(vec![entry(None, &[hardware, "x == y"])]), Err(PolicyError::Rule(0, 1, _))));
    assert_eq!(compile(vec![entry(None, &[])]), Err(PolicyError::Size));
    let unknown = AcceptSpec { format: vec!["none".into()], ..entry(None, &[hardware]) };
    assert!(matches!(compile(vec![unknown]), Err(PolicyError::Format(0, _))));
    assert_eq!(compile(vec![entry(None, &[hardware]); 17]), Err(PolicyError::Size));

    let strong = appraise(&result);
    assert!(strong.accepted);
    let exportable = AttestationResult {
        claims: result.claims.clone().with(ClaimName::KeyExportable, ClaimValue::Ternary(Ternary::Unknown)),
        ..result
    };
    assert!(!appraise(&exportable).accepted, "the built-in policy demands a key that is not exportable");
}
