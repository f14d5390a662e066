#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use super::*;
use crate::authorise::tests::{appraise, csr, csr_of, profile, result_for};
use ca_core::profile::{AltNameKind, AltNameSpec, AttestationPolicy, Source};
use rcgen::{CertificateParams, DnType, KeyPair};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn certificate(key: &KeyPair, id: &str) -> Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "default");
    params.distinguished_name.push(DnType::CommonName, id);
    Certificate::from_der(params.self_signed(key).unwrap().der()).unwrap()
}

struct Case {
    key: KeyPair,
    certificate: Certificate,
    holder: Holder,
    profile: ProfileName,
}

fn case() -> Case {
    let key = KeyPair::generate().unwrap();
    Case {
        certificate: certificate(&key, "tpm-1"),
        key,
        holder: Holder::Device { id: DeviceId::new("tpm-1").unwrap(), facts: DeviceFacts::default() },
        profile: ProfileName::new("tls-client").unwrap(),
    }
}

impl Case {
    fn current(&self) -> Current<'_> {
        Current {
            certificate: &self.certificate,
            holder: &self.holder,
            profile: &self.profile,
            revoked: false,
            anchor: None,
            csr: None,
        }
    }

    /// The device was attested when it enrolled.
    fn bound(&self) -> Current<'_> {
        Current { anchor: Some([9; 32]), ..self.current() }
    }

    fn request<'a>(&'a self, csr: &'a CertificationRequest) -> RenewalRequest<'a> {
        RenewalRequest { tenant: TenantId::default_tenant(), requester: &self.holder, csr, attestation: None, now: NOW }
    }
}

#[test]
fn the_holder_gets_its_own_names_for_a_new_key() {
    let case = case();
    let new = csr(&[(DnType::CommonName, "somebody-else")]);
    let done = authorise(&profile(|_| ()), &case.current(), &case.request(&new), None).unwrap();
    assert_eq!(done.names.subject(&profile(|_| ())).unwrap().der(), case.certificate.subject_der());
    assert_eq!(done.requester, "device:tpm-1");
    assert_eq!(done.anchor, None);
}

#[test]
fn an_attested_device_does_not_fall_back_to_a_key_without_evidence() {
    let case = case();
    let new = csr(&[]);
    let refused = authorise(&profile(|_| ()), &case.bound(), &case.request(&new), None);
    assert_eq!(refused, Err(Refusal::AttestationRequired));
}

#[test]
fn what_forbids_a_renewal() {
    let case = case();
    let new = csr(&[]);
    let p = profile(|_| ());
    let outcome =
        |p: &CertificateProfile, c: &Current<'_>, r: &RenewalRequest<'_>| authorise(p, c, r, None).unwrap_err();
    let other = Holder::Device { id: DeviceId::new("tpm-2").unwrap(), facts: DeviceFacts::default() };
    let principal = Holder::Principal(PrincipalId::new("tpm-1").unwrap());
    for wrong in [&other, &principal] {
        let r = RenewalRequest { requester: wrong, ..case.request(&new) };
        assert_eq!(outcome(&p, &case.current(), &r), Refusal::NotYours);
    }
    let idevid = ProfileName::new("idevid").unwrap();
    let c = Current { profile: &idevid, ..case.current() };
    assert_eq!(outcome(&p, &c, &case.request(&new)), Refusal::NotYours);
    let c = Current { revoked: true, ..case.current() };
    assert_eq!(outcome(&p, &c, &case.request(&new)), Refusal::NotUsable);
    let r = RenewalRequest { now: UnixTime::INFINITY, ..case.request(&new) };
    assert_eq!(outcome(&p, &case.current(), &r), Refusal::NotUsable);
    let final_profile = profile(|s| s.renewable = false);
    assert_eq!(outcome(&final_profile, &case.current(), &case.request(&new)), Refusal::NotRenewable);
    let same = csr_of(&case.key, &[]);
    assert_eq!(outcome(&p, &case.current(), &case.request(&same)), Refusal::SameKey);
    let renamed = profile(|s| {
        s.subject.remove(0);
    });
    assert_eq!(outcome(&renamed, &case.current(), &case.request(&new)), Refusal::NamesChanged);
}

#[test]
fn a_profile_that_demands_evidence_demands_it_again_and_of_the_same_tpm() {
    let case = case();
    let new = csr(&[]);
    let p = profile(|s| s.attestation = AttestationPolicy::Required);
    assert_eq!(authorise(&p, &case.bound(), &case.request(&new), None), Err(Refusal::AttestationRequired));
    let own = result_for(new.public_key(), [9; 32]);
    let verdict = appraise(&own);
    let r = RenewalRequest { attestation: Some(&own), ..case.request(&new) };
    assert!(authorise(&p, &case.bound(), &r, Some(&verdict)).is_ok());
    let foreign = result_for(new.public_key(), [8; 32]);
    for p in [&p, &profile(|_| ())] {
        let r = RenewalRequest { attestation: Some(&foreign), ..case.request(&new) };
        assert_eq!(authorise(p, &case.bound(), &r, Some(&verdict)), Err(Refusal::OtherAnchor));
    }
    let other_key = result_for(case.certificate.public_key(), [9; 32]);
    let r = RenewalRequest { attestation: Some(&other_key), ..case.request(&new) };
    assert_eq!(authorise(&p, &case.bound(), &r, Some(&verdict)), Err(Refusal::KeyNotAttested));
    // A device that was never attested is bound to the first TPM that it shows.
    let c = Current { anchor: None, ..case.current() };
    let r = RenewalRequest { attestation: Some(&own), ..case.request(&new) };
    assert_eq!(authorise(&p, &c, &r, Some(&verdict)).unwrap().anchor, Some([9; 32]));
}

#[test]
fn alternative_names_are_kept_or_the_renewal_is_refused() {
    let mut case = case();
    let named = |id: &str, dns: &str| {
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "default");
        params.distinguished_name.push(DnType::CommonName, id);
        params
    };
    let old = named("tpm-1", "a.example");
    case.certificate = Certificate::from_der(old.self_signed(&case.key).unwrap().der()).unwrap();
    let p = profile(|s| {
        let rule = AltNameSpec::from_source(AltNameKind::Dns, Source::Csr);
        s.san = vec![AltNameSpec { allow: vec!["*.example".into()], ..rule }];
    });
    let request = |params: CertificateParams| {
        let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        CertificationRequest::parse(csr.der()).unwrap()
    };
    let first = request(named("x", "a.example"));
    let (same, other, none) = (request(named("y", "a.example")), request(named("tpm-1", "b.example")), csr(&[]));
    let outcome = |c: &Current<'_>, new| authorise(&p, c, &case.request(new), None).map(|r| r.names.csr_sans().len());
    assert_eq!(outcome(&case.current(), &same), Ok(1), "the new CSR asks for the same");
    assert_eq!(outcome(&case.current(), &other), Err(Refusal::NamesChanged));
    assert_eq!(outcome(&case.current(), &none), Err(Refusal::NamesChanged), "never dropped in silence");
    let known = Current { csr: Some(&first), ..case.current() };
    assert_eq!(outcome(&known, &none), Ok(1), "the old CSR is known");
    assert_eq!(outcome(&known, &other), Ok(1), "what the new one asks for does not count");
}
