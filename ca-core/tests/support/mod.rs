//! Keys, a small hierarchy and the openssl command, for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, reason = "test code may panic; no test uses all of it")]

use aws_lc_rs::{rand::SystemRandom, signature as lc};
use ca_core::{
    authority::{self, ParentUrls, Subject},
    certificate::Certificate,
    csr::CertificationRequest,
    id::{DeviceId, IssuerId, PrincipalId, ProfileName, TenantId},
    issue::Facts,
    issuer::{Issuer, IssuerState, IssuerUrls},
    key::{PublicKey, SignatureAlgorithm},
    name::{AttributeType, DistinguishedName},
    profile::{CertificateProfile, ProfileSpec},
    serial::SerialNumber,
    time::UnixTime,
};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// 2026-06-01T00:00:00Z.
pub const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);
pub const DAY: Duration = Duration::from_secs(86_400);

pub struct Key {
    pub pair: KeyPair,
    pub public: PublicKey,
    /// What it signs with.
    pub algorithm: SignatureAlgorithm,
}

impl Key {
    fn new(pair: KeyPair) -> Self {
        let public = PublicKey::from_spki_der(&pair.subject_public_key_info()).unwrap();
        let algorithm = public.algorithm().signature_algorithm();
        Self { pair, public, algorithm }
    }
    pub fn p256() -> Self {
        Self::new(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap())
    }
    pub fn p384() -> Self {
        Self::new(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap())
    }
    pub fn p521() -> Self {
        Self::new(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap())
    }
    pub fn rsa2048() -> Self {
        Self::new(KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap())
    }
    /// RSA that signs with PSS.
    pub fn pss(algorithm: SignatureAlgorithm) -> Self {
        Self { algorithm, ..Self::rsa2048() }
    }
    pub fn ml_dsa(algorithm: SignatureAlgorithm) -> Self {
        Self::new(
            KeyPair::generate_for(match algorithm {
                SignatureAlgorithm::MlDsa44 => &rcgen::PKCS_ML_DSA_44,
                SignatureAlgorithm::MlDsa65 => &rcgen::PKCS_ML_DSA_65,
                _ => &rcgen::PKCS_ML_DSA_87,
            })
            .unwrap(),
        )
    }
    /// Ed25519 from a seed: its signatures are the same each time.
    pub fn ed25519(seed: u8) -> Self {
        let mut pkcs8 = hex::decode("302e020100300506032b657004220420").unwrap();
        pkcs8.extend([seed; 32]);
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from(pkcs8);
        Self::new(KeyPair::try_from(&der).unwrap())
    }
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let encoding: &dyn lc::RsaEncoding = match self.algorithm {
            SignatureAlgorithm::RsaPssSha256 => &lc::RSA_PSS_SHA256,
            SignatureAlgorithm::RsaPssSha384 => &lc::RSA_PSS_SHA384,
            SignatureAlgorithm::RsaPssSha512 => &lc::RSA_PSS_SHA512,
            _ => return self.pair.sign(message).unwrap(),
        };
        let pair = lc::RsaKeyPair::from_pkcs8(&self.pair.serialize_der()).unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }
    /// A request made by rcgen.
    pub fn csr(&self, common_name: &str, edit: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        edit(&mut params);
        params.serialize_request(&self.pair).unwrap().der().to_vec()
    }
    pub fn request(&self, common_name: &str) -> CertificationRequest {
        CertificationRequest::parse(&self.csr(common_name, |_| {})).unwrap()
    }
}

pub fn serial(first: u8) -> SerialNumber {
    SerialNumber::from_random([first; 16])
}

pub fn name(common_name: &str) -> DistinguishedName {
    DistinguishedName::new([
        (AttributeType::Organization, "ACME, Inc.".to_owned()),
        (AttributeType::OrganizationalUnit, "A".to_owned()),
        (AttributeType::OrganizationalUnit, "B".to_owned()),
        (AttributeType::CommonName, common_name.to_owned()),
    ])
    .unwrap()
}

pub fn subject<'a>(name: &'a DistinguishedName, key: &'a Key, n: u8, days: u32) -> Subject<'a> {
    Subject {
        name,
        public_key: &key.public,
        serial: serial(n),
        not_before: NOW.minus(DAY),
        not_after: NOW.plus(DAY * days),
    }
}

pub fn urls() -> IssuerUrls {
    IssuerUrls::new(
        "http://pki.example.com/crl/1.crl",
        "http://pki.example.com/ocsp/1",
        "http://pki.example.com/ca/1.cer",
    )
    .unwrap()
}

/// A root and an issuing CA below it.
pub struct Hierarchy {
    pub root_key: Key,
    pub root: Certificate,
    pub issuing_key: Key,
    pub issuer: Issuer,
}

impl Hierarchy {
    pub fn new(root_key: Key, issuing_key: Key) -> Self {
        let root_name = name("Root");
        let prepared = authority::root(subject(&root_name, &root_key, 1, 7300), root_key.algorithm).unwrap();
        let root = prepared.finish(&root_key.sign(prepared.tbs())).unwrap();
        let ca_name = name("Issuing CA 1");
        let parent_urls = ParentUrls { crl: Some("http://pki.example.com/crl/root.crl"), ..ParentUrls::default() };
        let ca_subject = subject(&ca_name, &issuing_key, 2, 3650);
        let prepared = authority::issuing_ca(ca_subject, &root, root_key.algorithm, parent_urls).unwrap();
        let ca = prepared.finish(&root_key.sign(prepared.tbs())).unwrap();
        let issuer = Issuer::new(
            IssuerId::new("issuing-1").unwrap(),
            TenantId::default_tenant(),
            IssuerState::Active,
            ca,
            vec![root.clone()],
            urls(),
        )
        .and_then(|issuer| issuer.with_signature_algorithm(issuing_key.algorithm))
        .unwrap();
        Self { root_key, root, issuing_key, issuer }
    }
    pub fn p256() -> Self {
        Self::new(Key::p256(), Key::p256())
    }
    pub fn sign(&self, tbs: &[u8]) -> Vec<u8> {
        self.issuing_key.sign(tbs)
    }
}

pub fn facts() -> Facts {
    Facts {
        device_id: Some(DeviceId::new("dev-1").unwrap()),
        device_serial_number: Some("SN0001".to_owned()),
        device_manufacturer: Some("ACME, O=evil".to_owned()),
        device_model: Some("M1".to_owned()),
        principal_id: Some(PrincipalId::new("alice").unwrap()),
        ..Facts::of_tenant(TenantId::default_tenant())
    }
}

pub fn compile(spec: ProfileSpec) -> CertificateProfile {
    CertificateProfile::compile(ProfileName::new("test").unwrap(), spec).unwrap()
}

/// Writes DER for openssl.
pub fn write(dir: &Path, name: &str, der: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, der).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Writes a certificate as PEM, which `openssl verify` wants.
pub fn write_pem(dir: &Path, name: &str, der: &[u8]) -> String {
    let pem = der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, der).unwrap();
    write(dir, name, pem.as_bytes())
}

/// An openssl that knows ML-DSA (3.5 or newer): the one that SEALWRIGHT_OPENSSL names, or that `scripts/kryoptic` built.
pub fn openssl_with_ml_dsa() -> Option<PathBuf> {
    let named = std::env::var_os("SEALWRIGHT_OPENSSL").map(PathBuf::from);
    let built = || {
        let test = std::env::current_exe().ok()?;
        let places = test.ancestors().map(|folder| folder.join("kryoptic/openssl"));
        let places =
            places.chain(Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|f| f.join("target/kryoptic/openssl")));
        places.into_iter().find(|path| path.is_file())
    };
    let found = named.or_else(built);
    if found.is_none() {
        eprintln!("skipped: no openssl with ML-DSA; run scripts/kryoptic or set SEALWRIGHT_OPENSSL");
    }
    found
}

/// Runs openssl: whether it succeeded, and all that it said. `None`, and a word about it, where there is none.
pub fn openssl(args: &[&str]) -> Option<(bool, String)> {
    match Command::new("openssl").args(args).output() {
        Ok(out) => {
            let text = [out.stdout, out.stderr].concat();
            Some((out.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(_) => {
            eprintln!("skipped: no openssl command");
            None
        }
    }
}

/// As [`openssl`], for commands that must succeed.
pub fn openssl_ok(args: &[&str]) -> Option<String> {
    let (ok, text) = openssl(args)?;
    assert!(ok, "openssl {args:?}: {text}");
    Some(text)
}
