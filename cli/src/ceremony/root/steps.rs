//! The steps of a root ceremony, in their order. What each establishes is in the transcript before the next begins.

use super::{
    certify::{Request, RootKey},
    dialog::Dialog,
    record::{Recorder, sha256_of},
    script::Script,
    surroundings,
};
use crate::{
    files::{self, Access},
    key::{facts::attributes, place},
    pem,
};
use anyhow::{Context, Result, ensure};
use ca_core::{certificate::Certificate, csr::MAX_REQUEST_LEN, time::UnixTime};
use ceremony::transcript::{self, Facts, facts};
use hsm::{KeyId, KeyRequest, Token};
use serde_json::{Value, json};
use server::config::Config;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// As the steps below number themselves.
const STEPS: usize = 9;

/// The files that go in.
#[derive(Debug)]
pub struct Inputs {
    /// The script with its octets.
    pub script: (PathBuf, Vec<u8>),
    /// The configuration.
    pub config: PathBuf,
    /// The issuing CAs' requests.
    pub requests: Vec<PathBuf>,
}

/// A ceremony to be led.
#[derive(Debug)]
pub struct Ceremony {
    /// What is to be made.
    pub script: Script,
    /// Names the token.
    pub config: Config,
    /// Who answers.
    pub dialog: Dialog,
    /// The transcript.
    pub recorder: Recorder,
    /// Where the results go.
    pub dir: PathBuf,
    /// What goes in.
    pub files: Inputs,
}

impl Ceremony {
    /// Leads through all steps.
    ///
    /// # Errors
    /// What ended it.
    pub fn lead(self) -> Result<()> {
        self.begin()?;
        self.surroundings()?;
        self.clock()?;
        self.participants()?;
        let token = self.token()?;
        let root_key = self.root_key(token)?;
        let root = self.root_certificate(&root_key)?;
        self.issuing(&root_key, &root)?;
        self.crl(&root_key, &root)?;
        self.close(&root_key)
    }

    fn step(&self, number: usize, title: &str) {
        self.dialog.say(&format!("\nStep {number} of {STEPS}: {title}"));
    }

    fn note(&self, step: &str, facts: Facts) -> Result<()> {
        self.recorder.note(place::now(), step, facts)
    }

    fn begin(&self) -> Result<()> {
        let program = std::env::current_exe()?;
        let (program_hash, config_hash) = (sha256_of(&program)?, sha256_of(&self.files.config)?);
        let script_hash: [u8; 32] = Sha256::digest(&self.files.script.1).into();
        let version = env!("CARGO_PKG_VERSION");
        self.note(
            transcript::BEGIN,
            facts([
                ("title", json!(self.script.title)),
                ("program", json!(format!("sealwright {version}"))),
                ("answers", json!(self.dialog.kind())),
            ]),
        )?;
        let now = place::now();
        self.recorder.file(now, &program, program_hash, "in")?;
        self.recorder.file(now, &self.files.config, config_hash, "in")?;
        self.recorder.file(now, &self.files.script.0, script_hash, "in")?;
        self.dialog.say(&self.script.title);
        self.step(1, "the program and its files");
        self.dialog.say(&format!("  sealwright {version}, SHA-256\n    {}", hex::encode(program_hash)));
        self.dialog.confirm("program", "Is that the published program?")?;
        self.dialog.say(&format!(
            "  configuration, SHA-256\n    {}\n  script, SHA-256\n    {}",
            hex::encode(config_hash),
            hex::encode(script_hash)
        ));
        self.dialog.confirm("files", "Are those the files that were agreed on?")
    }

    fn surroundings(&self) -> Result<()> {
        self.step(2, "the surroundings");
        let up = surroundings::interfaces_up();
        self.note("surroundings", facts([("interfaces_up", json!(up))]))?;
        if up.is_empty() {
            self.dialog.say("  No network interface is up.");
            return Ok(());
        }
        self.dialog.say(&format!("  WARNING: network interfaces are up: {}", up.join(", ")));
        self.dialog.confirm("network", "Go on although this machine may have a network?")
    }

    fn clock(&self) -> Result<()> {
        self.step(3, "the clock");
        let now = place::now();
        self.dialog.confirm("clock", &format!("It is {now} (UTC). Do two of you agree, by your own watches?"))?;
        self.note("clock confirmed", facts([("shown", json!(now.to_string()))]))
    }

    fn participants(&self) -> Result<()> {
        self.step(4, "those present");
        let mut present: Vec<Value> = Vec::new();
        for role in &self.script.roles {
            let name = self.dialog.name(&format!("participant {role}"), &format!("Name of the {role}"))?;
            present.push(json!({ "role": role, "name": name }));
        }
        self.note("participants", facts([("present", json!(present))]))
    }

    fn token(&self) -> Result<Token> {
        self.step(5, "the token");
        let token = place::token(&self.config, None)?;
        let info = token.info();
        self.note(
            "token",
            facts([
                ("label", json!(info.label)),
                ("serial", json!(info.serial)),
                ("manufacturer", json!(info.manufacturer)),
                ("model", json!(info.model)),
                ("library", json!(info.library)),
            ]),
        )?;
        self.dialog.say(&format!(
            "  {} {} '{}', serial {}\n  {}",
            info.manufacturer, info.model, info.label, info.serial, info.library
        ));
        self.dialog.confirm("token", "Is that the token for this root, and does its serial number stand on it?")?;
        Ok(token)
    }

    fn root_key(&self, token: Token) -> Result<RootKey> {
        self.step(6, "the root key");
        let choice = self.script.algorithm().map_err(anyhow::Error::msg)?;
        let algorithm = choice.key;
        let id = KeyId::from_bytes(rand::random());
        self.dialog.say(&format!("  {algorithm}, label '{}', id {id}", self.script.label));
        self.dialog.confirm("generate", "Make it now?")?;
        // The id is recorded first: should the machine fail now, it is known which key in the token is nobody's.
        self.note("root key to be made", facts([("key_id", json!(id.to_string()))]))?;
        let label = self.script.label.clone();
        let key = token.generate(&KeyRequest { label, id, algorithm, extractable_under: None })?;
        token.prove(&id, &key.public_key)?;
        let spki_sha256 = hex::encode(key.public_key.spki_sha256());
        self.note(
            transcript::KEY,
            facts([
                ("key_id", json!(id.to_string())),
                ("label", json!(key.label)),
                ("algorithm", json!(algorithm.to_string())),
                ("spki_sha256", json!(spki_sha256)),
                ("attributes", json!(attributes(&key.attributes))),
            ]),
        )?;
        self.dialog.say(&format!(
            "  Made in the token; it cannot leave it and only signs.\n  public key, SHA-256\n    {spki_sha256}"
        ));
        Ok(RootKey { token, key, signature: choice.signature })
    }

    fn root_certificate(&self, key: &RootKey) -> Result<Certificate> {
        self.step(7, "the root certificate");
        let now = place::now();
        let root = key.certificate(&self.script, now)?;
        self.note(transcript::ROOT, certificate_facts(&root))?;
        self.say_certificate(&root);
        self.write("root.pem", pem::certificate(root.der()).as_bytes(), now)?;
        Ok(root)
    }

    fn say_certificate(&self, certificate: &Certificate) {
        self.dialog.say(&format!(
            "  {}\n  valid {} to {}\n  SHA-256\n    {}",
            certificate.subject(),
            certificate.not_before(),
            certificate.not_after(),
            hex::encode(certificate.sha256())
        ));
    }

    fn issuing(&self, key: &RootKey, root: &Certificate) -> Result<()> {
        self.step(8, "the issuing CAs");
        if self.files.requests.is_empty() {
            self.dialog.say("  No request was given.");
        }
        for (at, path) in self.files.requests.iter().enumerate() {
            let number = at + 1;
            let octets = files::read(path, MAX_REQUEST_LEN as u64)?;
            self.recorder.file(place::now(), path, Sha256::digest(&octets).into(), "in")?;
            let request = Request::parse(&octets).with_context(|| path.display().to_string())?;
            let (name, spki) = (request.name.to_string(), hex::encode(request.key.spki_sha256()));
            self.dialog.say(&format!("  Request {number}: {name}\n  public key, SHA-256\n    {spki}"));
            self.dialog.confirm(&format!("issuing {number}"), "Is that the key of the issuing CA? Sign it?")?;
            let now = place::now();
            let issued = key.issue(&self.script, root, &request, now)?;
            self.note(transcript::ISSUED, certificate_facts(&issued))?;
            self.say_certificate(&issued);
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            // In the order that `init --import-chain` takes.
            let chain = [pem::certificate(issued.der()), pem::certificate(root.der())].concat();
            self.write(&format!("{stem}-chain.pem"), chain.as_bytes(), now)?;
        }
        Ok(())
    }

    fn crl(&self, key: &RootKey, root: &Certificate) -> Result<()> {
        self.step(9, "the first CRL");
        let now = place::now();
        let (der, number, next_update) = key.crl(&self.script, root, now)?;
        self.note("crl", facts([("number", json!(number)), ("next_update", json!(next_update.to_string()))]))?;
        self.write("root.crl", &der, now)?;
        self.dialog.say(&format!("  Number {number}, good until {next_update}: make the next one before."));
        Ok(())
    }

    fn write(&self, name: &str, octets: &[u8], now: UnixTime) -> Result<()> {
        let path = self.dir.join(name);
        files::create(&path, octets, Access::Everybody)?;
        self.check_written(&path, octets)?;
        self.recorder.file(now, &path, Sha256::digest(octets).into(), "out")
    }

    /// What is on the medium counts, not what was meant to be on it.
    fn check_written(&self, path: &Path, octets: &[u8]) -> Result<()> {
        let there: [u8; 32] = Sha256::digest(octets).into();
        ensure!(sha256_of(path)? == there, "{} does not hold what was written", path.display());
        Ok(())
    }

    fn close(&self, key: &RootKey) -> Result<()> {
        self.note(transcript::CLOSE, facts([("participants", json!(self.script.roles.len()))]))?;
        let algorithm = key.key.public_key.algorithm().signature_algorithm();
        let signature = key.sign(algorithm, &self.recorder.seal_message())?;
        self.recorder.seal(place::now(), algorithm, &signature)?;
        self.dialog.say("\nThe transcript is sealed with the root key.");
        Ok(())
    }
}

fn certificate_facts(certificate: &Certificate) -> Facts {
    facts([
        ("certificate", json!(hex::encode(certificate.der()))),
        ("sha256", json!(hex::encode(certificate.sha256()))),
        ("subject", json!(certificate.subject())),
        ("serial", json!(certificate.serial().to_string())),
        ("not_before", json!(certificate.not_before().to_string())),
        ("not_after", json!(certificate.not_after().to_string())),
    ])
}
