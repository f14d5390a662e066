//! Tests against a real TPM in software, where swtpm and swtpm_setup are installed.

use super::{
    TpmAddress, TpmError, TpmKey,
    attestation::Attestation,
    commands::{Hierarchy, Tpm},
    endorsement::Endorsement,
};
use enrollment::{
    attestation::binding::{Binding, SessionId, activation_mac_matches},
    tpm2::{Public, make_credential, templates::Template, verify::verify_certify},
};
use proto::v1::TpmCredentialChallenge;
use rustls::SignatureScheme;
use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A TPM that was just manufactured, with endorsement certificates of a vendor of its own.
pub struct SoftwareTpm {
    process: Child,
    _directory: TempDir,
    pub address: TpmAddress,
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl SoftwareTpm {
    /// `None`, with a message, where the programs are not installed.
    pub fn start() -> Option<Self> {
        Self::with_server(None)
    }

    fn with_server(port: Option<u16>) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        if !manufacture(directory.path()) {
            eprintln!("skipped: swtpm and swtpm_setup are not installed");
            return None;
        }
        let socket = directory.path().join("tpm.sock");
        let (server, address) = match port {
            Some(port) => (
                format!("type=tcp,port={port},bindaddr=127.0.0.1"),
                format!("swtpm:host=127.0.0.1,port={port}").parse().unwrap(),
            ),
            None => (format!("type=unixio,path={}", socket.display()), TpmAddress::Unix(socket)),
        };
        let control = format!("type=unixio,path={}", directory.path().join("control.sock").display());
        let state = format!("dir={}", directory.path().display());
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &state, "--server", &server, "--ctrl", &control])
            .spawn()
            .unwrap();
        let tpm = Self { process, _directory: directory, address };
        let begun = Instant::now();
        while Tpm::open(&tpm.address).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "swtpm did not start");
            thread::sleep(Duration::from_millis(10));
        }
        Some(tpm)
    }

    /// How many transient objects and sessions are loaded.
    fn loaded(&self) -> usize {
        let mut tpm = Tpm::open(&self.address).unwrap();
        [0x8000_0000, 0x0200_0000, 0x0300_0000].into_iter().map(|first| tpm.handles(first).unwrap().len()).sum()
    }
}

fn manufacture(directory: &Path) -> bool {
    let at = |name: &str| directory.join(name).display().to_string();
    let authority = format!(
        "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
        directory.display(),
        at("signkey.pem"),
        at("issuercert.pem"),
        at("certserial")
    );
    std::fs::write(at("localca.conf"), authority).unwrap();
    std::fs::write(at("localca.options"), "").unwrap();
    let Ok(tool) = which("swtpm_localca") else { return false };
    let setup = format!(
        "create_certs_tool = {tool}\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\nactive_pcr_banks = sha256\n",
        at("localca.conf"),
        at("localca.options")
    );
    std::fs::write(at("setup.conf"), setup).unwrap();
    Command::new("swtpm_setup")
        .args(["--tpm2", "--createek", "--create-ek-cert", "--lock-nvram", "--overwrite", "--vmid", "SN-0001"])
        .args(["--tpmstate", &directory.display().to_string(), "--config", &at("setup.conf")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn which(program: &str) -> Result<String, ()> {
    let paths = std::env::var_os("PATH").ok_or(())?;
    std::env::split_paths(&paths)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .map(|path| path.display().to_string())
        .ok_or(())
}

#[test]
fn a_key_signs_csrs_and_is_found_again_by_its_file() {
    let Some(tpm) = SoftwareTpm::start() else { return };
    let key = TpmKey::generate(&tpm.address).unwrap();
    let json = key.to_json().unwrap();
    let again = TpmKey::from_json(&json, None).unwrap();
    assert_eq!(again.public_key(), key.public_key());
    assert_ne!(TpmKey::generate(&tpm.address).unwrap().public_key(), key.public_key());

    let csr = rcgen::CertificateParams::default().serialize_request(&again).unwrap();
    ca_core_verifies(&again);
    let path = tempfile::NamedTempFile::new().unwrap();
    for (tampered, expected) in [(true, false), (false, true)] {
        let mut der = csr.der().to_vec();
        if tampered {
            *der.last_mut().unwrap() ^= 1;
        }
        std::fs::write(path.path(), der).unwrap();
        let words = ["req", "-verify", "-noout", "-inform", "DER", "-in"];
        let output = Command::new("openssl").args(words).arg(path.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(text.contains("verify OK"), expected, "{text}");
    }
    assert_eq!(tpm.loaded(), 0);
}

fn ca_core_verifies(key: &TpmKey) {
    use ca_core::key::SignatureAlgorithm::EcdsaSha256;
    // r and s begin with a zero octet often enough to be met here.
    for message in 0..64u8 {
        let signature = key.sign(&[message]).unwrap();
        key.public_key().verify(EcdsaSha256, &[message], &signature).unwrap();
        assert!(key.public_key().verify(EcdsaSha256, &[!message], &signature).is_err());
    }
}

#[test]
fn another_tpm_does_not_have_the_key() {
    let (Some(tpm), Some(other)) = (SoftwareTpm::start(), SoftwareTpm::start()) else { return };
    let key = TpmKey::generate(&tpm.address).unwrap();
    let moved = TpmKey::from_json(&key.to_json().unwrap(), Some(&other.address)).unwrap();
    assert!(matches!(moved.sign(b"x"), Err(TpmError::OtherKey)));
    assert_eq!(other.loaded(), 0);
}

#[test]
fn tls_takes_the_key_for_its_one_scheme() {
    use rustls::sign::SigningKey;
    let Some(tpm) = SoftwareTpm::start() else { return };
    let key = TpmKey::generate(&tpm.address).unwrap();
    assert!(key.choose_scheme(&[SignatureScheme::ED25519, SignatureScheme::RSA_PSS_SHA256]).is_none());
    let offered = [SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256];
    let signer = key.choose_scheme(&offered).unwrap();
    let signature = signer.sign(b"handshake").unwrap();
    let algorithm = ca_core::key::SignatureAlgorithm::EcdsaSha256;
    key.public_key().verify(algorithm, b"handshake", &signature).unwrap();
}

#[test]
fn a_tls_server_accepts_the_key_as_a_client() {
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
        crypto::aws_lc_rs::default_provider,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        server::WebPkiClientVerifier,
        sign::{CertifiedKey, SingleCertAndKey},
        version::TLS13,
    };
    use std::sync::Arc;
    let Some(tpm) = SoftwareTpm::start() else { return };
    let key = TpmKey::generate(&tpm.address).unwrap();

    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer_key = rcgen::KeyPair::generate().unwrap();
    let root = params.self_signed(&issuer_key).unwrap().der().clone();
    let issuer = rcgen::Issuer::new(params, issuer_key);
    let named = |name: &str| rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let client_certificate = named("device").signed_by(&key, &issuer).unwrap().der().clone();
    let server_key = rcgen::KeyPair::generate().unwrap();
    let server_certificate = named("localhost").signed_by(&server_key, &issuer).unwrap().der().clone();

    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let roots = Arc::new(roots);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build().unwrap();
    let server_secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server_certificate], server_secret)
        .unwrap();
    let handshake = |signer: TpmKey| {
        let certified = Arc::new(CertifiedKey::new(vec![client_certificate.clone()], Arc::new(signer)));
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(Arc::clone(&roots))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
        let mut server = ServerConnection::new(Arc::new(server.clone())).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok::<_, rustls::Error>(server.peer_certificates().map(<[_]>::to_vec))
    };
    assert!(handshake(TpmKey::generate(&tpm.address).unwrap()).is_err(), "a key of another certificate");
    assert_eq!(handshake(key).unwrap(), Some(vec![client_certificate.clone()]));
}

/// The whole attestation, the server's half by the library that the server uses.
fn attest(tpm: &SoftwareTpm, place: usize, template: &Template) {
    let mut connection = Tpm::open(&tpm.address).unwrap();
    let endorsement = Endorsement::at(&mut connection, place).unwrap().expect("a certificate");
    let attestation = Attestation::with_endorsement(&tpm.address, &mut connection, endorsement).unwrap();
    drop(connection);
    let hello = attestation.hello();

    let certificate = ek_key(&hello.ek_certificate);
    let ek = template.public(&certificate).unwrap();
    let ak = Public::parse(&hello.ak_public).unwrap();
    let secret = [7; 32];
    let challenge = |name: &[u8]| {
        let blob = make_credential(&ek, name, &secret, &mut |octets| rand::fill(octets)).unwrap();
        TpmCredentialChallenge { id_object: blob.id_object, encrypted_secret: blob.encrypted_secret }
    };
    let session = SessionId([3; 16]);
    let subject = TpmKey::generate(&tpm.address).unwrap();
    let (profile, tenant) = ("tls-client".parse().unwrap(), "default".parse().unwrap());
    let binding = Binding::new(&[1; 32], &session, &subject.public_key().spki_sha256(), &profile, &tenant);

    // A credential for another key is not opened, and leaves nothing behind.
    let mut other = ak.name();
    *other.last_mut().unwrap() ^= 1;
    let refused = attestation.prove(&challenge(&other), &session, &binding, &subject).unwrap_err();
    assert!(matches!(refused, TpmError::Refused { command: "TPM2_ActivateCredential", .. }), "{refused:?}");
    assert_eq!(tpm.loaded(), 0);

    let proof = attestation.prove(&challenge(&ak.name()), &session, &binding, &subject).unwrap();
    assert_eq!(tpm.loaded(), 0);
    assert!(!activation_mac_matches(&proof.activation_mac, &[8; 32], &session, &binding));
    assert!(activation_mac_matches(&proof.activation_mac, &secret, &session, &binding));
    let verify = |binding: &[u8; 32]| {
        verify_certify(&ak, &proof.subject_public, &proof.certify_attest, &proof.certify_signature, binding)
    };
    assert!(verify(&[0; 32]).is_err());
    assert_eq!(verify(&binding.0).unwrap().key(), subject.public_key());
    // The attestation key is the same each time.
    assert_eq!(Attestation::begin(&tpm.address).unwrap().hello().ak_public, hello.ak_public);
}

fn ek_key(certificate: &[u8]) -> ca_core::key::PublicKey {
    use der::{Decode, Encode};
    let certificate = x509_cert::Certificate::from_der(certificate).unwrap();
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der().unwrap();
    ca_core::key::PublicKey::from_spki_der(&spki).unwrap()
}

#[test]
fn a_key_is_attested_with_either_endorsement_key() {
    let Some(tpm) = SoftwareTpm::start() else { return };
    attest(&tpm, 0, &Template::EK_RSA_2048);
    attest(&tpm, 2, &Template::EK_P384);
}

#[test]
fn an_endorsement_key_that_is_not_persistent_is_made_again() {
    let Some(tpm) = SoftwareTpm::start() else { return };
    let mut connection = Tpm::open(&tpm.address).unwrap();
    for (handle, template) in [(0x8101_0001, &Template::EK_RSA_2048), (0x8101_0016, &Template::EK_P384)] {
        let persistent = connection.read_public(super::commands::Handle(handle)).unwrap().unwrap();
        let made = connection
            .with_primary(Hierarchy::Endorsement, &template.in_public(), |_, _, public| Ok(public.to_vec()))
            .unwrap();
        assert_eq!(made, persistent);
    }
    assert_eq!(connection.read_public(super::commands::Handle(0x8101_0777)).unwrap(), None);
    assert_eq!(connection.nv_read(0x01c0_0777).unwrap(), None);
}

#[test]
fn tcp_works_too() {
    // Taken and given back, so that it is free.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Some(tpm) = SoftwareTpm::with_server(Some(port)) else { return };
    let key = TpmKey::generate(&tpm.address).unwrap();
    assert_eq!(key.sign(b"x").unwrap().first(), Some(&0x30));
}
