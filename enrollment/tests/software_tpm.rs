//! A TPM in software judges the credential blob and makes the evidence: the whole course from hello to authorisation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod tpm;

use ca_core::{
    csr::CertificationRequest,
    id::{IdempotencyKey, ProfileName, TenantId},
    key::SignatureAlgorithm,
    profile::{AttestationPolicy, CertificateProfile, ProfileSpec},
    time::UnixTime,
};
use der::{Encode, asn1::BitString};
use enrollment::{
    attestation::{
        AttestationResult, ChallengeBody, ChallengeContext, Evidence, EvidenceError, EvidenceVerifier, Format, Hello,
        VerifyContext,
        binding::activation_mac,
        policy::AppraisalPolicy,
        session::{BeginRequest, CallerKey, Challenge, ChallengeTable, Fresh, Session, SessionError},
        trust::{TrustStore, TrustStores, certificates},
    },
    authorise::{EnrollmentRequest, Refusal, Requester, authorise},
    tpm2::{
        Attributes, CredentialBlob, Public, Signature, Tpm2Verifier, make_credential,
        templates::Template,
        verify::{Tpm2Evidence, Tpm2Hello, verify_certify},
    },
};
use sha2::{Digest, Sha256};
use std::str::FromStr;
use tpm::{Authorisation, ENDORSEMENT, OWNER, Swtpm, Tpm};
use x509_cert::{
    name::Name,
    request::{CertReq, CertReqInfo, Version},
};

const NOW: UnixTime = UnixTime::from_secs(1_795_500_000);
const ROOT: &[u8] = include_bytes!("vectors/swtpm-localca-rootca-cert.pem");
const ISSUER: &[u8] = include_bytes!("vectors/issuercert.pem");

/// Handle and certificate index of the endorsement keys.
const KEYS: [(u32, u32); 2] = [(0x8101_0001, 0x01c0_0002), (0x8101_0016, 0x01c0_0016)];

fn stores() -> TrustStores {
    let mut stores = TrustStores::new();
    stores.add(TrustStore::parse("tpm", Format::Tpm2, ROOT).unwrap()).unwrap();
    stores
}

/// A stream of octets that is the same in each run.
fn octets() -> impl FnMut(&mut [u8]) {
    let mut counter = 0u64;
    move |out: &mut [u8]| {
        for chunk in out.chunks_mut(32) {
            counter += 1;
            chunk.copy_from_slice(&Sha256::digest(counter.to_be_bytes())[..chunk.len()]);
        }
    }
}

struct Device {
    tpm: Tpm,
    ek: u32,
    ek_auth_by_policy: bool,
    ak: u32,
    subject: u32,
    subject_public: Public,
    hello: Tpm2Hello,
}

fn device(swtpm: &Swtpm, (ek, nv): (u32, u32)) -> Device {
    let mut tpm = swtpm.connect();
    let ek_certificate = tpm.nv_read(nv).unwrap();
    let ek_public = Public::parse(&tpm.read_public(ek).unwrap()).unwrap();
    let (ak, ak_public) = tpm.create_primary(ENDORSEMENT, &Template::ATTESTATION_P256.in_public()).unwrap();
    let (subject, subject_public) = tpm.create_primary(OWNER, &Template::SUBJECT_P256.in_public()).unwrap();
    Device {
        tpm,
        ek,
        ek_auth_by_policy: !ek_public.attributes().has_any(Attributes::USER_WITH_AUTH),
        ak,
        subject,
        subject_public: Public::parse(&subject_public).unwrap(),
        hello: Tpm2Hello { ek_certificate, ek_chain: certificates("chain", ISSUER).unwrap(), ak_public },
    }
}

impl Device {
    fn activate(&mut self, blob: &CredentialBlob) -> Result<Vec<u8>, u32> {
        let (ek, ak) = (self.ek, self.ak);
        let auth = if self.ek_auth_by_policy {
            Authorisation::Policy(self.tpm.endorsement_policy()?)
        } else {
            Authorisation::Password
        };
        let secret = self.tpm.activate_credential(ak, ek, auth, &blob.id_object, &blob.encrypted_secret);
        if let (Authorisation::Policy(session), Err(_)) = (auth, &secret) {
            self.tpm.flush(session);
        }
        secret
    }

    fn csr(&mut self) -> CertificationRequest {
        let info = CertReqInfo {
            version: Version::V1,
            subject: Name::from_str("CN=ignored").unwrap(),
            public_key: spki::SubjectPublicKeyInfoOwned::try_from(self.subject_public.key().spki_der()).unwrap(),
            attributes: Default::default(),
        };
        let digest = Sha256::digest(info.to_der().unwrap());
        let signature = self.tpm.sign(self.subject, &digest).unwrap();
        let signature = Signature::parse(&signature).unwrap().to_x509().unwrap();
        let algorithm = SignatureAlgorithm::EcdsaSha256.identifier();
        let csr = CertReq { info, algorithm, signature: BitString::from_bytes(&signature).unwrap() };
        CertificationRequest::parse(&csr.to_der().unwrap()).unwrap()
    }

    fn evidence(&mut self, challenge: &Challenge) -> Tpm2Evidence {
        let ChallengeBody::Tpm2(blob) = &challenge.body;
        let secret: [u8; 32] = self.activate(blob).unwrap().try_into().unwrap();
        let (certify_attest, certify_signature) =
            self.tpm.certify(self.subject, self.ak, &challenge.binding.0).unwrap();
        Tpm2Evidence {
            activation_mac: activation_mac(&secret, &challenge.session_id, &challenge.binding).to_vec(),
            subject_public: self.subject_public.as_bytes().to_vec(),
            certify_attest,
            certify_signature,
        }
    }
}

struct Authority {
    table: ChallengeTable,
    profile: CertificateProfile,
    caller: CallerKey,
    sessions: u8,
}

impl Authority {
    fn new() -> Self {
        let mut spec = ProfileSpec::tls_client();
        spec.attestation = AttestationPolicy::Required;
        let profile = CertificateProfile::compile(ProfileName::new("tls-client").unwrap(), spec).unwrap();
        Self { table: ChallengeTable::new(), profile, caller: CallerKey::new("address:::1"), sessions: 0 }
    }

    fn begin(&mut self, hello: &Tpm2Hello, csr_spki_sha256: [u8; 32]) -> Result<Challenge, EvidenceError> {
        self.sessions += 1;
        let stores = stores();
        let mut random = octets();
        let mut ctx = ChallengeContext { now: NOW, stores: &stores, random: &mut random };
        let (body, state) = Tpm2Verifier.challenge(&Hello::Tpm2(hello.clone()), &mut ctx)?;
        let request = BeginRequest {
            caller: self.caller,
            tenant: TenantId::default_tenant(),
            profile: self.profile.name().clone(),
            csr_spki_sha256,
            idempotency_key: IdempotencyKey::new(format!("k{}", self.sessions)).unwrap(),
            hello_sha256: hello.sha256(),
        };
        let fresh = Fresh { session_id: [self.sessions; 16], nonce: [self.sessions ^ 0x55; 32] };
        Ok(self.table.begin(request, fresh, body, state, NOW).unwrap())
    }

    fn consume(&mut self, challenge: &Challenge) -> Result<Session, SessionError> {
        let tenant = TenantId::default_tenant();
        self.table.consume(&challenge.session_id, &self.caller, &tenant, self.profile.name(), NOW)
    }

    fn verify(&mut self, challenge: &Challenge, evidence: Tpm2Evidence) -> Result<AttestationResult, EvidenceError> {
        let session = self.consume(challenge).unwrap();
        let stores = stores();
        let ctx = VerifyContext { now: NOW, stores: &stores };
        Tpm2Verifier.verify(&Evidence::Tpm2(evidence), &session, &ctx)
    }
}

#[test]
fn a_device_enrolls_by_evidence_alone() {
    for key in KEYS {
        let Some(swtpm) = Swtpm::start() else { return };
        let mut device = device(&swtpm, key);
        let mut authority = Authority::new();
        let csr = device.csr();
        let challenge = authority.begin(&device.hello, csr.public_key().spki_sha256()).unwrap();
        let evidence = device.evidence(&challenge);
        let result = authority.verify(&challenge, evidence.clone()).unwrap();
        assert_eq!(authority.consume(&challenge).unwrap_err(), SessionError::Unknown, "no replay");

        let verdict = AppraisalPolicy::built_in().unwrap().evaluate(&result, &|_| false);
        let request = EnrollmentRequest {
            tenant: TenantId::default_tenant(),
            csr: &csr,
            device: None,
            attestation: Some(&result),
        };
        let done = authorise(&authority.profile, &Requester::Attestation, &request, Some(&verdict)).unwrap();
        assert_eq!(done.device.as_str(), format!("tpm-{}", hex::encode(&result.device_anchor[..16])));
        assert_eq!(done.attestation.unwrap().trust_anchor, "CN=swtpm-localca-rootca");

        // The same evidence answers no other session, and no other key.
        let second = authority.begin(&device.hello, csr.public_key().spki_sha256()).unwrap();
        assert_eq!(authority.verify(&second, evidence.clone()).unwrap_err(), EvidenceError::NotActivated);
        let third = authority.begin(&device.hello, [0; 32]).unwrap();
        let honest = device.evidence(&third);
        assert_eq!(authority.verify(&third, honest).unwrap_err(), EvidenceError::OtherKey);

        // Fresh activation does not carry an old certification.
        let fourth = authority.begin(&device.hello, csr.public_key().spki_sha256()).unwrap();
        let stale = Tpm2Evidence { activation_mac: device.evidence(&fourth).activation_mac, ..evidence };
        assert_eq!(authority.verify(&fourth, stale).unwrap_err(), EvidenceError::NotFresh);

        // A CSR for another key does not pass the gate.
        let other = rcgen::KeyPair::generate().unwrap();
        let other = rcgen::CertificateParams::default().serialize_request(&other).unwrap();
        let other = CertificationRequest::parse(other.der()).unwrap();
        let request = EnrollmentRequest { csr: &other, ..request };
        let outcome = authorise(&authority.profile, &Requester::Attestation, &request, Some(&verdict));
        assert_eq!(outcome, Err(Refusal::KeyNotAttested));
    }
}

#[test]
fn only_the_named_key_in_the_named_tpm_gets_the_secret() {
    let secret = [0x5a; 32];
    for key in KEYS {
        let Some(swtpm) = Swtpm::start() else { return };
        let mut device = device(&swtpm, key);
        let ek = Public::parse(&device.tpm.read_public(key.0).unwrap()).unwrap();
        let ak = Public::parse(&device.hello.ak_public).unwrap();
        let blob = make_credential(&ek, &ak.name(), &secret, &mut octets()).unwrap();
        assert_eq!(device.activate(&blob).unwrap(), secret);

        // TPM_RC_INTEGRITY, parameter 1: the blob names another object. So a changed AK public is no way in.
        let mut changed = device.hello.ak_public.clone();
        changed[6] ^= 0x04; // noDA, which no rule looks at
        let changed = Public::parse(&changed).unwrap();
        let blob = make_credential(&ek, &changed.name(), &secret, &mut octets()).unwrap();
        assert_eq!(device.activate(&blob).unwrap_err(), 0x1df);
        let blob = make_credential(&ek, &device.subject_public.name(), &secret, &mut octets()).unwrap();
        assert_eq!(device.activate(&blob).unwrap_err(), 0x1df);
    }
}

/// The P-256 endorsement key has no certificate in this TPM, but its template makes one.
#[test]
fn the_p256_template_makes_an_endorsement_key_that_activates() {
    let Some(swtpm) = Swtpm::start() else { return };
    let mut tpm = swtpm.connect();
    let (ek, ek_public) = tpm.create_primary(ENDORSEMENT, &Template::EK_P256.in_public()).unwrap();
    let ek_public = Public::parse(&ek_public).unwrap();
    assert_eq!(Template::EK_P256.public(ek_public.key()).unwrap(), ek_public);
    let (ak, ak_public) = tpm.create_primary(ENDORSEMENT, &Template::ATTESTATION_P256.in_public()).unwrap();
    let name = Public::parse(&ak_public).unwrap().name();
    let blob = make_credential(&ek_public, &name, &[3; 32], &mut octets()).unwrap();
    assert!(Template::EK_P256.needs_policy());
    let session = tpm.endorsement_policy().unwrap();
    let auth = Authorisation::Policy(session);
    assert_eq!(tpm.activate_credential(ak, ek, auth, &blob.id_object, &blob.encrypted_secret).unwrap(), [3; 32]);
}

#[test]
fn the_other_templates_make_the_keys_that_they_promise() {
    let Some(swtpm) = Swtpm::start() else { return };
    let mut tpm = swtpm.connect();
    for template in [Template::SUBJECT_P384, Template::SUBJECT_RSA_2048, Template::EK_RSA_2048, Template::EK_P384] {
        let (handle, public) = tpm.create_primary(OWNER, &template.in_public()).unwrap();
        let public = Public::parse(&public).unwrap();
        assert_eq!(template.public(public.key()).unwrap(), public);
        tpm.flush(handle);
    }
}

/// Attestation keys of every accepted scheme certify subject keys of every accepted kind.
#[test]
fn every_accepted_scheme_certifies() {
    let Some(swtpm) = Swtpm::start() else { return };
    let mut tpm = swtpm.connect();
    let binding = [0x42; 32];
    for (attestation, subject) in [
        (Template::ATTESTATION_RSA_2048, Template::SUBJECT_P384),
        (Template::ATTESTATION_P384, Template::SUBJECT_RSA_2048),
    ] {
        let (ak, ak_public) = tpm.create_primary(ENDORSEMENT, &attestation.in_public()).unwrap();
        let (key, public) = tpm.create_primary(OWNER, &subject.in_public()).unwrap();
        let (attest, mut signature) = tpm.certify(key, ak, &binding).unwrap();
        let ak_public = Public::parse(&ak_public).unwrap();
        let certified = verify_certify(&ak_public, &public, &attest, &signature, &binding).unwrap();
        assert_eq!(certified, Public::parse(&public).unwrap());
        *signature.last_mut().unwrap() ^= 1;
        assert!(verify_certify(&ak_public, &public, &attest, &signature, &binding).is_err());
        tpm.flush(ak);
        tpm.flush(key);
    }
}

#[test]
fn an_unfit_attestation_key_gets_no_challenge() {
    let Some(swtpm) = Swtpm::start() else { return };
    let mut device = device(&swtpm, KEYS[0]);
    let (plain, public) = (device.subject, device.subject_public.as_bytes().to_vec());
    device.tpm.flush(plain);
    let mut authority = Authority::new();
    let hello = Tpm2Hello { ak_public: public, ..device.hello.clone() };
    let refused = authority.begin(&hello, [0; 32]).unwrap_err();
    assert!(matches!(refused, EvidenceError::Structure { field: "ak_public", .. }), "{refused}");
    let hello = Tpm2Hello { ek_chain: Vec::new(), ..device.hello.clone() };
    assert!(matches!(authority.begin(&hello, [0; 32]), Err(EvidenceError::EndorsementKey(_))));
}
