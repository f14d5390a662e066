//! The agent against a server that loses answers, refuses, and lies.

use super::{
    directory::Directory,
    enroll::{self, EnrollArgs},
    renew::{self, RenewArgs},
    tpm::swtpm::SoftwareTpm,
};
use crate::{
    connection::Target,
    error::{Exit, Problem},
};
use ca_core::{certificate::Certificate, key::PublicKey};
use clap::Parser;
use der::{Decode, Encode};
use enrollment::{
    attestation::binding::{Binding, SessionId, activation_mac_matches},
    tpm2::{Public, make_credential, templates::Template, verify::verify_certify},
};
use proto::v1::{
    self, BeginAttestationRequest, BeginAttestationResponse, CertificateRef, ConfirmInstalledRequest,
    ConfirmInstalledResponse, EnrollRequest, EnrollResponse, Evidence, RenewRequest, RenewResponse,
    TpmCredentialChallenge,
    begin_attestation_request::Hello,
    begin_attestation_response::Challenge,
    enrollment_service_server::{EnrollmentService, EnrollmentServiceServer},
    evidence::Body,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};
use tempfile::TempDir;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

/// What the server does with a request.
#[derive(Clone, Copy, Debug)]
enum Mood {
    /// Does what is asked, and the answer is lost.
    LoseAnswer,
    Refuse(Code),
    /// Issues for a key of its own.
    OtherKey,
}

#[derive(Default)]
struct State {
    moods: VecDeque<Mood>,
    /// Idempotency keys in the order of requests, with the CSR.
    requests: Vec<(String, Vec<u8>)>,
    issued: HashMap<String, v1::Certificate>,
    confirmed: Vec<String>,
    deaf_to_confirmations: usize,
    /// The client certificate of each connection.
    peers: Vec<Option<Vec<u8>>>,
    sessions: Vec<(SessionId, Binding, Public)>,
    attested: usize,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    /// Seconds before now that certificates begin, and after now that they end.
    validity: (i64, i64),
}

struct Fake {
    state: Mutex<State>,
    authority: Authority,
}

const SECRET: [u8; 32] = [7; 32];
const NONCE: [u8; 32] = [9; 32];

struct Bits(Vec<u8>);
impl rcgen::PublicKeyData for Bits {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

fn public_key(csr: &[u8]) -> PublicKey {
    let request = x509_cert::request::CertReq::from_der(csr).unwrap();
    PublicKey::from_spki_der(&request.info.public_key.to_der().unwrap()).unwrap()
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn issue(&self, idempotency_key: &str, csr: &[u8]) -> Result<(v1::Certificate, bool), Status> {
        let mut state = self.state();
        if let Some((_, before)) = state.requests.iter().find(|(key, _)| key == idempotency_key)
            && before != csr
        {
            return Err(Status::already_exists("another request"));
        }
        state.requests.push((idempotency_key.to_owned(), csr.to_vec()));
        let mood = state.moods.pop_front();
        if let Some(Mood::Refuse(code)) = mood {
            return Err(Status::new(code, "no"));
        }
        let number = state.issued.len() as u64 + 1;
        let replayed = state.issued.contains_key(idempotency_key);
        let certificate = state.issued.entry(idempotency_key.to_owned()).or_insert_with(|| {
            let key = match mood {
                Some(Mood::OtherKey) => Bits(rcgen::PublicKeyData::der_bytes(&KeyPair::generate().unwrap()).to_vec()),
                _ => Bits(public_key(csr).key_bits().to_vec()),
            };
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "device");
            params.serial_number = Some(number.into());
            let now = time::OffsetDateTime::now_utc();
            params.not_before = now - time::Duration::seconds(self.authority.validity.0);
            params.not_after = now + time::Duration::seconds(self.authority.validity.1);
            let der = params.signed_by(&key, &self.authority.issuer).unwrap().der().to_vec();
            let serial = Certificate::from_der(&der).unwrap().serial().to_string();
            let r#ref = CertificateRef { issuer_id: "i1".into(), serial_number: serial };
            v1::Certificate { r#ref: Some(r#ref), der, ..Default::default() }
        });
        match mood {
            Some(Mood::LoseAnswer) => Err(Status::unavailable("the answer was lost")),
            _ => Ok((certificate.clone(), replayed)),
        }
    }

    fn check(&self, evidence: Option<Evidence>, csr: &[u8]) {
        let Some(evidence) = evidence else { return };
        let mut state = self.state();
        let at = state.sessions.iter().position(|(id, ..)| id.0[..] == evidence.session_id).expect("a session once");
        let (session, binding, ak) = state.sessions.remove(at);
        let Some(Body::Tpm2(proof)) = evidence.body else { panic!("no TPM evidence") };
        assert!(activation_mac_matches(&proof.activation_mac, &SECRET, &session, &binding));
        let (attest, signature) = (&proof.certify_attest, &proof.certify_signature);
        let subject = verify_certify(&ak, &proof.subject_public, attest, signature, &binding.0).unwrap();
        assert_eq!(subject.key(), &public_key(csr));
        state.attested += 1;
    }
}

#[tonic::async_trait]
impl EnrollmentService for Fake {
    async fn begin_attestation(
        &self,
        request: Request<BeginAttestationRequest>,
    ) -> Result<Response<BeginAttestationResponse>, Status> {
        let request = request.into_inner();
        let Some(Hello::Tpm2(hello)) = request.hello else { panic!("no TPM hello") };
        let certificate = x509_cert::Certificate::from_der(&hello.ek_certificate).unwrap();
        let spki = certificate.tbs_certificate().subject_public_key_info().to_der().unwrap();
        let key = PublicKey::from_spki_der(&spki).unwrap();
        let ek = Template::endorsement_for(&key).unwrap().public(&key).unwrap();
        let ak = Public::parse(&hello.ak_public).unwrap();
        let blob = make_credential(&ek, &ak.name(), &SECRET, &mut |octets| rand::fill(octets)).unwrap();
        let session = SessionId(rand::random());
        let spki_sha256 = request.csr_spki_sha256.try_into().unwrap();
        let (profile, tenant) = (request.profile.parse().unwrap(), request.tenant.parse().unwrap());
        let mut binding = Binding::new(&NONCE, &session, &spki_sha256, &profile, &tenant);
        let mut state = self.state();
        if let Some(Mood::OtherKey) = state.moods.front() {
            binding = Binding([0; 32]);
        }
        state.sessions.push((session, binding, ak));
        Ok(Response::new(BeginAttestationResponse {
            session_id: session.0.to_vec(),
            nonce: NONCE.to_vec(),
            expires_at: None,
            binding: binding.0.to_vec(),
            challenge: Some(Challenge::Tpm2(TpmCredentialChallenge {
                id_object: blob.id_object,
                encrypted_secret: blob.encrypted_secret,
            })),
        }))
    }

    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let request = request.into_inner();
        self.check(request.evidence, &request.csr);
        let (certificate, replayed) = self.issue(&request.idempotency_key, &request.csr)?;
        let chain = vec![self.authority.certificate.clone()];
        Ok(Response::new(EnrollResponse { certificate: Some(certificate), chain, pem: String::new(), replayed }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let request = request.into_inner();
        self.check(request.evidence, &request.csr);
        let (certificate, replayed) = self.issue(&request.idempotency_key, &request.csr)?;
        let chain = vec![self.authority.certificate.clone()];
        Ok(Response::new(RenewResponse { certificate: Some(certificate), chain, pem: String::new(), replayed }))
    }

    async fn confirm_installed(
        &self,
        request: Request<ConfirmInstalledRequest>,
    ) -> Result<Response<ConfirmInstalledResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        if state.deaf_to_confirmations > 0 {
            state.deaf_to_confirmations -= 1;
            return Err(Status::unavailable("the confirmation was lost"));
        }
        let serial = request.r#ref.unwrap().serial_number;
        let certificate = state.issued.values().find(|c| c.r#ref.as_ref().unwrap().serial_number == serial).unwrap();
        let read = Certificate::from_der(&certificate.der).unwrap();
        assert_eq!(read.sha256()[..], request.certificate_sha256);
        // The holder itself speaks.
        assert_eq!(state.peers.last().unwrap().as_ref(), Some(&certificate.der));
        state.confirmed.push(serial);
        Ok(Response::new(ConfirmInstalledResponse { certificate: None }))
    }
}

struct Stage {
    fake: Arc<Fake>,
    address: SocketAddr,
    directory: TempDir,
}

impl Stage {
    async fn new(validity: (i64, i64)) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Issuing 1");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, key);
        let authority = Authority { issuer, certificate, validity };
        let fake = Arc::new(Fake { state: Mutex::default(), authority });
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let service = EnrollmentServiceServer::from_arc(Arc::clone(&fake));
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        let directory = tempfile::tempdir().unwrap();
        let root = crate::pem::certificate(&fake.authority.certificate);
        std::fs::write(directory.path().join("roots.pem"), root).unwrap();
        Self { fake, address, directory }
    }

    async fn connect(&self, target: &Target) -> anyhow::Result<Channel> {
        let trusted: Vec<&[u8]> = target.trust.iter().map(|root| root.as_ref()).collect();
        assert_eq!(trusted, [self.fake.authority.certificate.as_slice()]);
        let peer = target.identity.as_ref().map(|identity| identity.cert[0].to_vec());
        self.fake.state().peers.push(peer);
        Ok(Endpoint::from_shared(format!("http://{}", self.address))?.connect().await?)
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("device")
    }

    async fn enroll(&self, more: &[&str]) -> anyhow::Result<()> {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            args: EnrollArgs,
        }
        let (dir, trust) = (self.path(), self.directory.path().join("roots.pem"));
        let line = ["x", "--server", "ca.example.com:8443", "--dir", text(&dir), "--trust", text(&trust)];
        let args = Line::try_parse_from(line.iter().chain(more)).unwrap().args;
        enroll::run(&args, async |target: &Target| self.connect(target).await).await
    }

    async fn renew(&self, if_due: bool) -> anyhow::Result<()> {
        let args = RenewArgs { dir: self.path(), if_due, tpm: None, output: Default::default() };
        renew::run(&args, async |target: &Target| self.connect(target).await).await
    }

    fn directory(&self) -> Directory {
        Directory::open(&self.path(), false).unwrap()
    }

    fn moods(&self, moods: &[Mood]) {
        self.fake.state().moods.extend(moods);
    }

    /// Attested requests, and certificates.
    fn counts(&self) -> (usize, usize) {
        let state = self.fake.state();
        (state.attested, state.issued.len())
    }

    /// Key, certificate and record agree, and nothing is open.
    fn assert_settled(&self) {
        let directory = self.directory();
        let certificate = directory.certificate().unwrap();
        let (key, chain) = directory.current(None).unwrap();
        assert_eq!(certificate.public_key().spki_der(), key.spki_der());
        assert_eq!(chain[1].to_vec(), self.fake.authority.certificate);
        let record = directory.record().unwrap();
        assert!(record.request.is_none() && record.confirmation.is_none());
        assert_eq!(record.installed.as_ref().unwrap().serial_number, certificate.serial().to_string());
        let left: Vec<_> = std::fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".next.") || name.ends_with(".tmp"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(self.fake.state().confirmed.last(), Some(&certificate.serial().to_string()));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn code(error: &anyhow::Error) -> Option<Code> {
    error.downcast_ref::<Status>().map(Status::code)
}

const TOKEN: [&str; 4] = ["--token", "t", "--serial-number", "SN-1"];
const DAY: (i64, i64) = (10, 86_400);

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let stage = Stage::new(DAY).await;
    stage.moods(&[Mood::LoseAnswer, Mood::LoseAnswer]);
    for _ in 0..2 {
        assert_eq!(code(&stage.enroll(&TOKEN).await.unwrap_err()), Some(Code::Unavailable));
        assert!(stage.directory().installed().is_err());
    }
    stage.enroll(&TOKEN).await.unwrap();
    stage.assert_settled();
    {
        let state = stage.fake.state();
        assert_eq!((state.requests.len(), state.issued.len()), (3, 1));
        assert!(state.requests.iter().all(|request| *request == state.requests[0]));
    }
    // And once more, which does nothing.
    stage.enroll(&TOKEN).await.unwrap();
    assert_eq!(stage.fake.state().requests.len(), 3);
}

#[tokio::test]
async fn a_lost_confirmation_is_made_by_the_next_run() {
    let stage = Stage::new(DAY).await;
    stage.fake.state().deaf_to_confirmations = 1;
    assert_eq!(code(&stage.enroll(&TOKEN).await.unwrap_err()), Some(Code::Unavailable));
    assert!(stage.directory().installed().is_ok() && stage.directory().record().unwrap().confirmation.is_some());
    stage.enroll(&TOKEN).await.unwrap();
    stage.assert_settled();
    assert_eq!(stage.fake.state().requests.len(), 1);

    stage.fake.state().deaf_to_confirmations = 1;
    assert!(stage.renew(false).await.is_err());
    stage.renew(true).await.unwrap();
    stage.assert_settled();
    let state = stage.fake.state();
    assert_eq!((state.requests.len(), state.confirmed.len()), (2, 2));
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_finished_though_not_due() {
    let stage = Stage::new(DAY).await;
    stage.enroll(&TOKEN).await.unwrap();
    let old = stage.directory().certificate().unwrap();
    stage.moods(&[Mood::LoseAnswer]);
    assert!(stage.renew(false).await.is_err());
    assert_eq!(stage.directory().certificate().unwrap(), old);
    stage.renew(true).await.unwrap();
    stage.assert_settled();
    let state = stage.fake.state();
    assert_eq!((state.requests.len(), state.issued.len()), (3, 2));
    assert_eq!(state.requests[1], state.requests[2]);
}

#[tokio::test]
async fn renewal_is_by_the_old_certificate_and_confirmed_by_the_new() {
    let stage = Stage::new(DAY).await;
    stage.enroll(&TOKEN).await.unwrap();
    let old = stage.directory().certificate().unwrap();
    let connections = stage.fake.state().peers.len();
    stage.renew(true).await.unwrap();
    assert_eq!(stage.fake.state().peers.len(), connections, "not due");

    stage.renew(false).await.unwrap();
    stage.assert_settled();
    let new = stage.directory().certificate().unwrap();
    assert_ne!(new.public_key(), old.public_key());
    let state = stage.fake.state();
    assert_eq!(state.peers[connections..], [Some(old.der().to_vec()), Some(new.der().to_vec())]);
}

#[tokio::test]
async fn renewal_is_due_after_two_thirds() {
    for (validity, due) in [((50, 50), false), ((70, 30), true)] {
        let stage = Stage::new(validity).await;
        stage.enroll(&TOKEN).await.unwrap();
        stage.renew(true).await.unwrap();
        assert_eq!(stage.fake.state().issued.len(), if due { 2 } else { 1 });
        stage.assert_settled();
    }
}

#[tokio::test]
async fn a_refusal_ends_the_request_and_another_may_be_made() {
    let stage = Stage::new(DAY).await;
    stage.moods(&[Mood::Refuse(Code::InvalidArgument)]);
    let refused = stage.enroll(&["--token", "t", "--profile", "unknown"]).await.unwrap_err();
    assert_eq!(code(&refused), Some(Code::InvalidArgument));
    assert!(!stage.path().join("key.next.pem").exists());
    stage.enroll(&TOKEN).await.unwrap();
    stage.assert_settled();
    let state = stage.fake.state();
    assert_ne!(state.requests[0].0, state.requests[1].0);
}

#[tokio::test]
async fn a_request_under_way_is_not_changed() {
    let stage = Stage::new(DAY).await;
    stage.moods(&[Mood::LoseAnswer]);
    assert!(stage.enroll(&TOKEN).await.is_err());
    let other = ["--token", "t", "--serial-number", "SN-2"];
    let problem = stage.enroll(&other).await.unwrap_err().downcast::<Problem>().unwrap();
    assert_eq!(problem.exit, Exit::Usage);
    assert_eq!(stage.fake.state().requests.len(), 1);
    stage.enroll(&TOKEN).await.unwrap();
    stage.assert_settled();
}

#[tokio::test]
async fn a_certificate_for_another_key_is_not_installed() {
    let stage = Stage::new(DAY).await;
    stage.moods(&[Mood::OtherKey]);
    let problem = stage.enroll(&TOKEN).await.unwrap_err().downcast::<Problem>().unwrap();
    assert_eq!(problem.exit, Exit::Refused);
    assert!(stage.directory().installed().is_err());
    assert!(stage.fake.state().confirmed.is_empty());
}

#[tokio::test]
async fn a_device_without_directory_is_told_to_enroll() {
    let stage = Stage::new(DAY).await;
    std::fs::create_dir(stage.path()).unwrap();
    let problem = stage.renew(true).await.unwrap_err().downcast::<Problem>().unwrap();
    assert_eq!(problem.exit, Exit::NotFound);
}

#[tokio::test]
async fn a_key_in_the_tpm_is_attested_at_enrollment_and_renewal() {
    let Some(tpm) = SoftwareTpm::start() else { return };
    let stage = Stage::new(DAY).await;
    let address = tpm.address.to_string();
    let line = ["--tpm", address.as_str()];

    // A challenge that is bound to something else is not answered.
    stage.moods(&[Mood::OtherKey]);
    let refused = stage.enroll(&line).await.unwrap_err();
    assert!(matches!(refused.downcast_ref(), Some(super::tpm::TpmError::Binding)), "{refused:?}");
    assert!(stage.fake.state().requests.is_empty());
    stage.fake.state().moods.clear();

    stage.moods(&[Mood::LoseAnswer]);
    assert!(stage.enroll(&line).await.is_err());
    stage.enroll(&line).await.unwrap();
    stage.assert_settled();
    assert_eq!(stage.counts(), (2, 1));
    stage.renew(false).await.unwrap();
    stage.assert_settled();
    assert_eq!(stage.counts(), (3, 2));
    assert!(stage.path().join("tpm-key.json").exists() && !stage.path().join("key.pem").exists());
}
