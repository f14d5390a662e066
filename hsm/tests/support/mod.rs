#![allow(dead_code, reason = "not every test binary uses all of it")]

use ca_core::key::KeyAlgorithm;
use hsm::{KeyId, KeyRequest, Pin, Token, TokenConfig, TokenUri};
use std::process::Command;
use std::time::Duration;

pub fn config() -> TokenConfig {
    let token = softhsm::test::token();
    TokenConfig {
        deadline: Duration::from_secs(10),
        ..TokenConfig::new(token.module, TokenUri::from_label(&token.label).unwrap())
    }
}

pub fn open() -> Token {
    Token::open(config(), Pin::new(softhsm::test::PIN.into()).unwrap()).unwrap()
}

pub fn id(n: u8) -> KeyId {
    KeyId::from_bytes([n; 16])
}

pub fn request(n: u8, algorithm: KeyAlgorithm) -> KeyRequest {
    KeyRequest { label: format!("key {n}"), id: id(n), algorithm }
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
