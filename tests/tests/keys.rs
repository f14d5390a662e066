//! Keys in the token, as their operator handles them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{fs, process::Command};
use tests::{
    installation::{Installation, text},
    tools,
};

const NONCE: &str = "00112233445566778899aabbccddeeff";

fn field<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value[name].as_str().with_context(|| format!("no {name} in {value}"))
}

fn listed(at: &Installation) -> Result<Vec<Value>> {
    let list = at.run(&["key", "list", "--output", "json"])?.json()?;
    Ok(list["keys"].as_array().context("no keys")?.clone())
}

fn made(at: &Installation, label: &str) -> Result<String> {
    let words = ["key", "generate", "--algorithm", "P-256", "--label", label, "--purpose", "a test"];
    let words = [&words[..], &["--by", "m.keller", "--output", "json"]].concat();
    Ok(field(&at.run(&words)?.json()?, "key_id")?.to_owned())
}

#[test]
fn a_key_is_made_looked_at_retired_and_destroyed() -> Result<()> {
    let ca = Installation::new("token")?;
    ca.run(&["key", "generate", "--algorithm", "P-256", "--label", "x", "--purpose", "y"])?.refused(3, "no journal")?;
    ca.run(&["init", "--out-dir", "admin"])?.good()?;
    for key in listed(&ca)? {
        ensure!(key["flaw"].is_null() && key["fits_its_certificates"] == true, "{key}");
        ensure!(key["use"].as_array().is_some_and(|uses| uses.len() == 1), "{key}");
    }
    let id = made(&ca, "spare")?;
    let taken = ["key", "generate", "--algorithm", "P-256", "--label", "spare", "--purpose", "y"];
    ca.run(&taken)?.refused(1, "label 'spare'")?;
    let key = ca.run(&["key", "inspect", &id, "--output", "json"])?.json()?;
    ensure!(key["attributes"]["never_extractable"] == true && key["attributes"]["extractable"] == false, "{key}");
    ensure!(key["fits_its_certificates"] == true && key["use"] == serde_json::json!([]), "{key}");
    ensure!(field(&key["made"], "by")?.starts_with("m.keller (uid "), "{key}");
    let shown = ca.run(&["key", "inspect", &id])?.good()?.out;
    ensure!(shown.contains("Purpose") && shown.contains("never_extractable"), "{shown}");

    let retire = |id: &str, more: &[&str]| ca.run(&[&["key", "retire", id, "--why", "a test"], more].concat());
    retire(&id, &[])?.refused(2, "no terminal")?;
    retire(&id, &["--yes", "--destroy"])?.refused(2, "label must be given")?;
    retire(&id, &["--yes", "--destroy", "--label", "spar"])?.refused(2, "not the label")?;
    retire(&"00".repeat(16), &["--yes"])?.refused(3, "no key")?;
    ensure!(listed(&ca)?.iter().any(|key| key["key_id"] == id.as_str()), "a refusal changed something");
    retire(&id, &["--yes"])?.good()?;
    let key = ca.run(&["key", "inspect", &id, "--output", "json"])?.json()?;
    ensure!(key["retired"]["destroyed"] == false && key["flaw"].is_null(), "{key}");
    retire(&id, &["--yes", "--destroy", "--label", "spare"])?.good()?;
    // Whoever repeats it, as after a crash, changes nothing.
    retire(&id, &["--yes", "--destroy", "--label", "spare"])?.good()?;
    ensure!(!listed(&ca)?.iter().any(|key| key["key_id"] == id.as_str()), "it is still there");
    let objects = String::from_utf8(ca.pkcs11_tool(&["--list-objects"])?)?;
    ensure!(!objects.contains("spare") && objects.contains("default root"), "{objects}");

    let show = ca.run(&["journal", "show", "--dir", "data", "--all", "--output", "json"])?.good()?.out;
    let count = |kind: &str| show.matches(&format!("\"{kind}\"")).count();
    ensure!((count("key made"), count("key retired")) == (1, 2), "{show}");
    ca.run(&["journal", "verify", "--dir", "data"])?.good()?;
    Ok(())
}

#[test]
fn a_key_that_somebody_needs_is_not_retired() -> Result<()> {
    let ca = Installation::new("token")?;
    ca.run(&["init", "--out-dir", "admin"])?.good()?;
    let keys = listed(&ca)?;
    ensure!(keys.len() == 5, "root, issuing CA, responder, TLS and the identity of the token: {keys:?}");
    for key in &keys {
        let words = ["key", "retire", field(key, "key_id")?, "--why", "x", "--yes"];
        ca.run(&words)?.refused(4, "is needed by")?;
        let destroy = [&words[..], &["--destroy", "--label", field(key, "label")?]].concat();
        ca.run(&destroy)?.refused(4, "is needed by")?;
    }
    ensure!(listed(&ca)? == keys, "a refusal changed something");
    Ok(())
}

#[test]
fn beside_a_running_service_keys_are_looked_at_and_nothing_is_changed() -> Result<()> {
    let ca = Installation::new("token")?;
    ca.run(&["init", "--out-dir", "admin"])?.good()?;
    let id = made(&ca, "spare")?;
    let service = ca.serve()?;
    let key = ca.run(&["key", "inspect", &id, "--output", "json"])?.json()?;
    ensure!(key["use"].is_null() && key["flaw"].is_null(), "{key}");
    let list = ca.run(&["key", "list"])?.good()?;
    ensure!(list.err.contains("the running service has the journal") && list.out.contains(&id), "{list:?}");
    let more = ["key", "generate", "--algorithm", "P-256", "--label", "more", "--purpose", "y"];
    ca.run(&more)?.refused(5, "the service is running")?;
    ca.run(&["key", "retire", &id, "--why", "x", "--yes"])?.refused(5, "the service is running")?;
    drop(service);
    ensure!(listed(&ca)?.len() == 6, "a refusal made a key");
    Ok(())
}

#[test]
fn a_key_that_others_made_shows_its_flaw() -> Result<()> {
    let ca = Installation::new("token")?;
    let id = "0f".repeat(16);
    ca.pkcs11_tool(&["--keypairgen", "--key-type", "EC:prime256v1", "--id", &id, "--label", "foreign"])?;
    let keys = listed(&ca)?;
    let [key] = &keys[..] else { anyhow::bail!("{keys:?}") };
    ensure!(key["key_id"] == id.as_str() && key["flaw"].is_string(), "{key}");
    // Its statement about itself is signed, and says what it is; a verifier refuses it. A token of ours may refuse to
    // use it at all.
    let attested = ca.run(&["key", "attest", &id, "--out", "key.json"])?;
    if attested.code == 0 {
        ca.run(&["key", "attest", "--verify", "key.json"])?.refused(4, "key.attributes")?;
    }
    Ok(())
}

#[test]
fn a_key_that_is_gone_is_missed() -> Result<()> {
    let ca = Installation::new("token")?;
    ca.run(&["init", "--out-dir", "admin"])?.good()?;
    ensure!(!ca.run(&["key", "list"])?.good()?.err.contains("MISSING"), "missed too early");
    let keys = listed(&ca)?;
    let tls = keys.iter().find(|key| key["label"] == "tls").context("no TLS key")?;
    let id = field(tls, "key_id")?;
    ca.pkcs11_tool(&["--delete-object", "--type", "privkey", "--id", id])?;
    let list = ca.run(&["key", "list"])?.good()?;
    ensure!(list.err.contains(&format!("MISSING: key {id} of TLS")) && !list.out.contains(id), "{list:?}");
    ca.run(&["key", "inspect", id])?.refused(3, "no key")?;
    Ok(())
}

#[test]
fn a_statement_is_verified_by_us_and_by_openssl() -> Result<()> {
    let ca = Installation::new("token")?;
    ca.run(&["init", "--out-dir", "admin"])?.good()?;
    let id = made(&ca, "spare")?;
    ca.run(&["key", "attest", &id, "--nonce", NONCE, "--out", "key.json"])?.good()?;
    let check = |more: &[&str]| ca.run(&[&["key", "attest", "--verify", "key.json"], more].concat());
    check(&["--nonce", &NONCE.replace("00", "01")])?.refused(4, "nonce")?;
    check(&["--certificate", "admin/trust.pem"])?.refused(4, "not the expected public key")?;
    let verified = check(&["--nonce", NONCE, "--output", "json"])?.json()?;
    ensure!(verified["key_id"] == id.as_str() && verified["nonce_checked"] == true, "{verified}");
    let good = text(&ca.path("key.json"))?;
    for (from, to) in [("\"label\": \"spare\"", "\"label\": \"other\""), ("\"local\": true", "\"local\": false")] {
        ensure!(good.contains(from), "{good}");
        fs::write(ca.path("key.json"), good.replace(from, to))?;
        check(&[])?.refused(4, "signature")?;
    }

    // The same without our program: SHA-256 of the sorted JSON, behind the domain.
    let attestation: Value = serde_json::from_str(&good)?;
    let digest = Sha256::digest(serde_json::to_string(&attestation["statement"])?);
    fs::write(ca.path("message"), [&b"sealwright key attestation v1\0"[..], &digest].concat())?;
    fs::write(ca.path("signature"), hex::decode(field(&attestation, "signature")?)?)?;
    fs::write(ca.path("spki"), hex::decode(field(&attestation["statement"]["key"], "spki")?)?)?;
    let openssl = |message: &str| {
        let mut command = Command::new("openssl");
        command.current_dir(ca.path("")).args(["dgst", "-sha256", "-keyform", "DER", "-verify", "spki"]);
        tools::ask(command.args(["-signature", "signature", message]))
    };
    ensure!(!openssl("pin")?.accepted, "OpenSSL takes anything");
    let verdict = openssl("message")?;
    ensure!(verdict.accepted, "{}", verdict.text);

    // The root's key attests the root, and the certificate ties the two together.
    let keys = listed(&ca)?;
    let root = keys.iter().find(|key| key["label"] == "default root").context("no root")?;
    ca.run(&["key", "attest", field(root, "key_id")?, "--nonce", NONCE, "--out", "root.json"])?.good()?;
    let words = ["key", "attest", "--verify", "root.json", "--nonce", NONCE, "--certificate", "admin/trust.pem"];
    ca.run(&words)?.good()?;
    Ok(())
}
