#![allow(dead_code, reason = "not every test binary uses all of it")]

use ca_core::key::{KeyAlgorithm, PublicKey, SignatureAlgorithm};
use hsm::{HsmError, KeyId, KeyRequest, PinSource, Program, SignRequest, Token, TokenConfig, TokenUri, TokensConfig};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A test that runs on each of the two tokens.
#[allow(unused_macros, reason = "not every test binary uses all of it")]
macro_rules! on_both_tokens {
    ($name:ident, $body:block) => {
        mod $name {
            use super::*;

            fn body() {
                $body
            }

            #[test]
            fn softhsm() {
                softhsm::test::in_child_on(softhsm::Kind::SoftHsm, concat!(stringify!($name), "::softhsm"), body);
            }

            #[test]
            fn kryoptic() {
                softhsm::test::in_child_on(softhsm::Kind::Kryoptic, concat!(stringify!($name), "::kryoptic"), body);
            }
        }
    };
}

/// The keeper's and signer's program of this crate.
pub fn program() -> Program {
    Program { path: PathBuf::from(env!("CARGO_BIN_EXE_hsm-signer")), arguments: Vec::new() }
}

/// A PIN file as an operator would make it.
pub fn pin_file(name: &str, pin: &str) -> PinSource {
    let path = softhsm::test::token().dir.join(name);
    fs::write(&path, format!("{pin}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    PinSource::File(path)
}

/// This test's token, with one worker and one session.
pub fn one() -> TokenConfig {
    let token = softhsm::test::token();
    let uri = TokenUri::from_label(&token.label).unwrap();
    TokenConfig {
        workers: Some(1),
        sessions: Some(1),
        ..TokenConfig::new(token.module, uri, pin_file("pin", softhsm::test::PIN))
    }
}

pub fn with(token: TokenConfig) -> TokensConfig {
    TokensConfig { program: program(), deadline: Duration::from_secs(10), ..TokensConfig::one(token) }
}

pub fn config() -> TokensConfig {
    with(one())
}

pub fn open() -> Token {
    Token::open(config()).unwrap()
}

pub fn id(n: u8) -> KeyId {
    KeyId::from_bytes([n; 16])
}

pub fn request(n: u8, algorithm: KeyAlgorithm) -> KeyRequest {
    KeyRequest { label: format!("key {n}"), id: id(n), algorithm, extractable_under: None }
}

/// A request that key `n` sign a short message in its usual way.
pub fn signing(n: u8, public_key: &PublicKey) -> SignRequest {
    signing_with(n, public_key, public_key.algorithm().signature_algorithm())
}

pub fn signing_with(n: u8, public_key: &PublicKey, algorithm: SignatureAlgorithm) -> SignRequest {
    SignRequest { key: id(n), public_key: public_key.clone(), algorithm, message: b"message".to_vec() }
}

/// Key 1 of a token, made or found.
pub fn key(token: &Token) -> PublicKey {
    match token.find(&id(1)) {
        Ok(key) => key.public_key,
        Err(HsmError::KeyMissing { .. }) => token.generate(&request(1, KeyAlgorithm::EcP256)).unwrap().public_key,
        Err(error) => panic!("{error}"),
    }
}

/// Signs with key 1.
pub fn sign(token: &Token, public_key: &PublicKey) -> Result<(), HsmError> {
    token.sign(signing(1, public_key)).map(|_| ())
}

/// OpenSC's tool, as another process on the same token.
pub fn pkcs11_tool(arguments: &[&str]) -> String {
    let token = softhsm::test::token();
    let output = Command::new("pkcs11-tool")
        .arg("--module")
        .arg(&token.module)
        .args(["--token-label", &token.label, "--login", "--pin", &token.pin])
        .args(arguments)
        .output()
        .expect("pkcs11-tool is needed: apt install opensc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Kills this process's keepers, and their signers with them.
pub fn kill_keeper() {
    for keeper in children(std::process::id()) {
        kill(keeper);
    }
}

/// One that has just ended by itself is no failure.
fn kill(process: u32) {
    Command::new("kill").args(["-KILL", &process.to_string()]).stderr(Stdio::null()).status().unwrap();
}

/// Kills this process's signers, as a crash of the vendor's library would.
pub fn kill_signers() {
    for keeper in children(std::process::id()) {
        for signer in children(keeper) {
            kill(signer);
        }
    }
}

fn children(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task");
    let tasks = fs::read_dir(path).unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>())
        .collect()
}
