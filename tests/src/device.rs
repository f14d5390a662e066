//! A device's side: keys and certification requests, and a software TPM.

use crate::tools;
use anyhow::Result;
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData};
use sha2::{Digest, Sha256};
use std::{path::PathBuf, process::Command};
use tempfile::TempDir;

/// A key made on the device.
#[derive(Debug)]
pub struct DeviceKey(KeyPair);

impl DeviceKey {
    /// A new P-256 key.
    ///
    /// # Errors
    /// None in practice.
    pub fn new() -> Result<Self> {
        Ok(Self(KeyPair::generate()?))
    }

    /// A new key of another algorithm.
    ///
    /// # Errors
    /// The algorithm cannot be generated here.
    pub fn of(algorithm: &'static rcgen::SignatureAlgorithm) -> Result<Self> {
        Ok(Self(KeyPair::generate_for(algorithm)?))
    }

    /// A PKCS#10 request for it, DER.
    ///
    /// # Errors
    /// The name cannot be encoded.
    pub fn csr(&self, common_name: &str) -> Result<Vec<u8>> {
        self.csr_with(common_name, |_| Ok(()))
    }

    /// As [`Self::csr`] with more in it.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn csr_with(
        &self,
        common_name: &str,
        more: impl FnOnce(&mut CertificateParams) -> Result<()>,
    ) -> Result<Vec<u8>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        more(&mut params)?;
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// The private key, PEM.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> Vec<u8> {
        Sha256::digest(self.0.subject_public_key_info()).to_vec()
    }
}

/// A software TPM with its own vendor; shut down in order when dropped.
#[derive(Debug)]
pub struct SoftwareTpm {
    folder: TempDir,
    port: u16,
}

impl SoftwareTpm {
    /// Manufactures and starts one (about a second).
    ///
    /// # Errors
    /// `scripts/software-tpm` failed.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sealwright-tpm-").tempdir()?;
        let script = tools::repository().join("scripts/software-tpm");
        tools::run(Command::new(&script).arg("make").arg(folder.path()))?;
        let port = tools::run(Command::new(&script).arg("start").arg(folder.path()))?;
        Ok(Self { port: String::from_utf8(port)?.trim().parse()?, folder })
    }

    /// The vendor's issuing and root certificate, PEM.
    pub fn vendor(&self) -> PathBuf {
        self.folder.path().join("vendor.pem")
    }

    /// Its RSA endorsement key's certificate as it lies in the TPM, DER.
    ///
    /// # Errors
    /// Of tpm2-tools.
    pub fn ek_certificate(&self) -> Result<Vec<u8>> {
        tools::run(Command::new("tpm2_nvread").args(["-T", &self.address(), "0x01c00002"]))
    }

    /// TPMT_PUBLIC of a new attestation key under that endorsement key.
    ///
    /// # Errors
    /// Of tpm2-tools.
    pub fn ak_public(&self) -> Result<Vec<u8>> {
        let path = |name: &str| self.folder.path().join(name);
        let tool = |name: &str| {
            let mut command = Command::new(name);
            command.args(["-T", &self.address()]);
            command
        };
        tools::run(tool("tpm2_createek").args(["-G", "rsa", "-c"]).arg(path("ek.ctx")))?;
        let mut create = tool("tpm2_createak");
        create
            .arg("-C")
            .arg(path("ek.ctx"))
            .arg("-c")
            .arg(path("ak.ctx"))
            .args(["-G", "ecc", "-g", "sha256", "-s", "ecdsa"]);
        tools::run(create.arg("-u").arg(path("ak.pub")))?;
        tools::run(tool("tpm2_flushcontext").arg("-t"))?;
        // TPM2B_PUBLIC: two octets of length before it.
        Ok(std::fs::read(path("ak.pub"))?.get(2..).unwrap_or_default().to_vec())
    }

    /// How the command line names it.
    pub fn address(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        let script = tools::repository().join("scripts/software-tpm");
        // Nobody is left to tell.
        let _ = tools::run(Command::new(script).arg("stop").arg(self.folder.path()));
    }
}
