//! Foreign judges of what the service signs: OpenSSL and GnuTLS on the command line.

use crate::{
    ca::Ca,
    http,
    tools::{self, Verdict},
};
use anyhow::{Context, Result, ensure};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// One certificate with what is needed to judge it, as files.
#[derive(Debug)]
pub struct Case {
    folder: TempDir,
    leaf: PathBuf,
    chain: PathBuf,
    root: PathBuf,
}

impl Case {
    /// From an answer's DER and chain, and the root as dev.json names it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn new(ca: &Ca, leaf: &[u8], chain: &[Vec<u8>]) -> Result<Self> {
        Self::under(&ca.roots(None)?.0, leaf, chain)
    }

    /// As [`Self::new`] under another root.
    ///
    /// # Errors
    /// Of the file system.
    pub fn under(root: &str, leaf: &[u8], chain: &[Vec<u8>]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sealwright-judge-").tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let (leaf_path, chain_path, root_path) = (path("leaf.pem"), path("chain.pem"), path("root.pem"));
        fs::write(&leaf_path, pem("CERTIFICATE", leaf)?)?;
        let chain: Result<String> = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        fs::write(&chain_path, chain?)?;
        fs::write(&root_path, root)?;
        Ok(Self { leaf: leaf_path, chain: chain_path, root: root_path, folder })
    }

    /// A file in this case's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The end-entity certificate's file.
    pub fn leaf(&self) -> &Path {
        &self.leaf
    }

    /// Names where the leaf says that its CRL is, and its OCSP responder.
    ///
    /// # Errors
    /// It does not say.
    pub fn urls(&self) -> Result<(String, String)> {
        let show = |what: &[&str]| -> Result<String> {
            let out = tools::run(Command::new("openssl").args(["x509", "-noout", "-in"]).arg(&self.leaf).args(what))?;
            Ok(String::from_utf8(out)?)
        };
        let text = show(&["-ext", "crlDistributionPoints"])?;
        let crl = text.split("URI:").nth(1).and_then(|rest| rest.split_whitespace().next());
        let ocsp = show(&["-ocsp_uri"])?.trim().to_owned();
        ensure!(!ocsp.is_empty(), "no OCSP URL");
        Ok((crl.context("no CRL URL")?.to_owned(), ocsp))
    }

    /// Fetches the CRL from where the leaf says, and keeps it beside; DER.
    ///
    /// # Errors
    /// It is not there.
    pub fn fetch_crl(&self, ca: &Ca) -> Result<Vec<u8>> {
        let der = ca.fetch(&self.urls()?.0)?;
        fs::write(self.path("crl.pem"), pem("X509 CRL", &der)?)?;
        Ok(der)
    }

    /// `openssl verify -x509_strict`; with a CRL in `crl.pem` of this folder, `-crl_check`.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn openssl_verify(&self, crl: bool) -> Result<Verdict> {
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-CAfile"]).arg(&self.root).arg("-untrusted").arg(&self.chain);
        if crl {
            command.arg("-crl_check").arg("-CRLfile").arg(self.path("crl.pem"));
        }
        tools::ask(command.arg(&self.leaf))
    }

    /// `certtool --verify` of the chain up to the root; with the CRL likewise.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn certtool_verify(&self, crl: bool) -> Result<Verdict> {
        let whole = self.path("whole.pem");
        fs::write(&whole, [fs::read(&self.leaf)?, fs::read(&self.chain)?].concat())?;
        let mut command = Command::new("certtool");
        command.arg("--verify").arg("--load-ca-certificate").arg(&self.root).arg("--infile").arg(whole);
        if crl {
            command.arg("--load-crl").arg(self.path("crl.pem"));
        }
        tools::ask(&mut command)
    }

    /// `certtool --verify-crl` with a certificate as its issuer.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn certtool_verify_crl(&self, issuer: &Path) -> Result<Verdict> {
        let mut command = Command::new("certtool");
        command.args(["--verify-crl", "--load-ca-certificate"]).arg(issuer).arg("--infile").arg(self.path("crl.pem"));
        tools::ask(&mut command)
    }

    /// The issuing CA's certificate alone.
    ///
    /// # Errors
    /// Of OpenSSL.
    pub fn issuer(&self) -> Result<PathBuf> {
        let path = self.path("issuer.pem");
        tools::run(Command::new("openssl").args(["x509", "-in"]).arg(&self.chain).arg("-out").arg(&path))?;
        Ok(path)
    }

    /// Makes an OCSP request in `request.der` of this folder, with a nonce or without.
    ///
    /// # Errors
    /// Of OpenSSL.
    pub fn ocsp_request(&self, nonce: bool) -> Result<Vec<u8>> {
        self.ocsp_request_for(&["-cert".as_ref(), self.leaf.as_os_str()], nonce)
    }

    /// As [`Self::ocsp_request`] for any serial number.
    ///
    /// # Errors
    /// Of OpenSSL.
    pub fn ocsp_request_of(&self, serial: &str) -> Result<Vec<u8>> {
        self.ocsp_request_for(&["-serial".as_ref(), serial.as_ref()], true)
    }

    fn ocsp_request_for(&self, what: &[&OsStr], nonce: bool) -> Result<Vec<u8>> {
        let path = self.path("request.der");
        let mut command = Command::new("openssl");
        command.args(["ocsp", "-issuer"]).arg(self.issuer()?).args(what);
        tools::run(command.arg(if nonce { "-nonce" } else { "-no_nonce" }).arg("-reqout").arg(&path))?;
        Ok(fs::read(path)?)
    }

    /// Judges an OCSP response by the request made last: signature, responder, nonce. The text has the whole response.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn ocsp_judge(&self, response: &[u8]) -> Result<Verdict> {
        let path = self.path("response.der");
        fs::write(&path, response)?;
        let mut command = Command::new("openssl");
        // With -cert OpenSSL would make a request of its own and not look at the one given; without -no_nonce it
        // would put another nonce into that.
        command.args(["ocsp", "-no_nonce", "-resp_text", "-reqin"]).arg(self.path("request.der"));
        command.arg("-respin").arg(path).arg("-CAfile").arg(&self.root).arg("-verify_other").arg(&self.chain);
        let mut verdict = tools::ask(&mut command)?;
        verdict.accepted &= verdict.text.contains("Response verify OK") && !verdict.text.contains("WARNING");
        Ok(verdict)
    }

    /// What a response says of this certificate, if anything: `good`, `revoked` or `unknown`.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn ocsp_says(&self, response: &[u8]) -> Result<Option<String>> {
        let path = self.path("response.der");
        fs::write(&path, response)?;
        let mut command = Command::new("openssl");
        command.args(["ocsp", "-no_nonce", "-issuer"]).arg(self.issuer()?).arg("-cert").arg(&self.leaf);
        command.arg("-respin").arg(path).arg("-CAfile").arg(&self.root).arg("-verify_other").arg(&self.chain);
        let verdict = tools::ask(&mut command)?;
        let name = self.leaf.display().to_string();
        let status = verdict.text.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(": "));
        let status = status.filter(|_| verdict.text.contains("Response verify OK"));
        Ok(status.map(str::trim).filter(|status| ["good", "revoked", "unknown"].contains(status)).map(str::to_owned))
    }

    /// What OCSP says of this certificate, after the response was judged.
    ///
    /// # Errors
    /// No response, or one that OpenSSL refuses.
    pub fn ocsp_status(&self, ca: &Ca) -> Result<String> {
        let request = self.ocsp_request(true)?;
        let path = self.urls()?.1;
        let answer = http::post(&ca.http()?, http::path_of(&path)?, "application/ocsp-request", &request)?;
        ensure!(answer.status == 200, "OCSP: HTTP status {}", answer.status);
        let verdict = self.ocsp_judge(&answer.body)?;
        ensure!(verdict.accepted, "OCSP response refused:\n{}", verdict.text);
        self.ocsp_says(&answer.body)?.context("no status in the response")
    }
}

/// PEM from DER.
///
/// # Errors
/// None in practice.
pub fn pem(label: &str, der: &[u8]) -> Result<String> {
    let base64 = String::from_utf8(tools::pipe("openssl", &["base64", "-e"], der)?)?;
    Ok(format!("-----BEGIN {label}-----\n{base64}-----END {label}-----\n"))
}

/// A self-signed root of somebody else.
///
/// # Errors
/// None in practice.
pub fn other_root() -> Result<String> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Another root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(&key)?.pem())
}

/// The same bytes with one bit of the last octet changed: a broken signature in a whole structure.
pub fn tampered(der: &[u8]) -> Vec<u8> {
    let mut bytes = der.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes
}
