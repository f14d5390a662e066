//! A software CA for the tests, and the commands that judge its lists and answers.

use aws_lc_rs::{rand::SystemRandom, signature as lc};
use ca_core::{certificate::Certificate, key::SignatureAlgorithm, serial::SerialNumber, time::UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SigningKey,
};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

pub const URL: &str = "http://pki.example.test/crl/issuing-1.crl";
pub const ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::EcdsaSha256;
const HOUR: Duration = Duration::from_secs(3600);

pub fn now() -> UnixTime {
    UnixTime::from_secs(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
}

pub fn hour_ago() -> UnixTime {
    now().minus(HOUR)
}

pub fn tomorrow() -> UnixTime {
    now().plus(24 * HOUR)
}

pub fn serial(n: u64) -> SerialNumber {
    SerialNumber::from_be_bytes(&n.to_be_bytes()).unwrap()
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: Certificate,
    /// What its lists and answers are signed with.
    pub algorithm: SignatureAlgorithm,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::with(name, KeyPair::generate().unwrap(), ALGORITHM)
    }

    /// Its lists and answers are signed with `algorithm`; its certificate in rcgen's way.
    pub fn with(name: &str, key: KeyPair, algorithm: SignatureAlgorithm) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), certificate: Certificate::from_der(&der).unwrap(), algorithm }
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let key = self.issuer.key();
        let encoding: &dyn lc::RsaEncoding = match self.algorithm {
            SignatureAlgorithm::RsaPssSha256 => &lc::RSA_PSS_SHA256,
            SignatureAlgorithm::RsaPssSha384 => &lc::RSA_PSS_SHA384,
            SignatureAlgorithm::RsaPssSha512 => &lc::RSA_PSS_SHA512,
            _ => return key.sign(message).unwrap(),
        };
        let pair = lc::RsaKeyPair::from_pkcs8(&key.serialize_der()).unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }

    /// A leaf with this serial number.
    pub fn leaf(&self, n: u64) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("device {n}"));
        params.serial_number = Some(n.into());
        params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![URL.to_owned()] }];
        params.use_authority_key_identifier_extension = true;
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().to_vec()
    }

    /// A delegated responder's certificate and key; without the OCSP signing usage when `usage` says so.
    pub fn responder(&self, usage: ExtendedKeyUsagePurpose) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "responder");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        // id-pkix-ocsp-nocheck, NULL
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 48, 1, 5], vec![5, 0])];
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        (Certificate::from_der(&der).unwrap(), key)
    }
}

/// An openssl that knows ML-DSA (3.5 or newer): the one that SEALWRIGHT_OPENSSL names, or that `scripts/kryoptic` built.
pub fn openssl_with_ml_dsa() -> Option<String> {
    let named = std::env::var("SEALWRIGHT_OPENSSL").ok();
    let built = || {
        let test = std::env::current_exe().ok()?;
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let places = test.ancestors().map(|folder| folder.join("kryoptic/openssl"));
        let places = places.chain(manifest.ancestors().map(|folder| folder.join("target/kryoptic/openssl")));
        places.into_iter().find(|path| path.is_file())?.to_str().map(ToOwned::to_owned)
    };
    let found = named.or_else(built);
    if found.is_none() {
        eprintln!("skipped: no openssl with ML-DSA; run scripts/kryoptic or set SEALWRIGHT_OPENSSL");
    }
    found
}

/// A directory with files for the commands.
pub struct Bench(TempDir);

impl Bench {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn certificate(&self, name: &str, der: &[u8]) -> PathBuf {
        self.write(name, pem("CERTIFICATE", der).as_bytes())
    }

    pub fn crl(&self, name: &str, der: &[u8]) -> PathBuf {
        self.write(name, pem("X509 CRL", der).as_bytes())
    }
}

pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// What a command said, both streams, and whether it succeeded.
pub struct Verdict {
    pub ok: bool,
    pub text: String,
}

impl From<Output> for Verdict {
    fn from(output: Output) -> Self {
        let text = [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned()).concat();
        Self { ok: output.status.success(), text }
    }
}

pub fn run(program: &str, words: &[&str], files: &[(&str, &Path)]) -> Verdict {
    let mut command = Command::new(program);
    command.args(words);
    for (option, path) in files {
        command.arg(option).arg(path);
    }
    command.output().unwrap_or_else(|error| panic!("{program}: {error}")).into()
}
