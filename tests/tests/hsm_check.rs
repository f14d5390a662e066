//! `sealwright hsm check` on two real tokens, as an operator runs it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use softhsm::{Kind, ThrowawayToken};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};
use tests::ca::sealwright_bin;

const PIN: &str = "a-pin-that-is-nowhere-4711";

fn create(kind: Kind, dir: &Path) -> Result<ThrowawayToken> {
    Ok(match kind {
        Kind::SoftHsm => ThrowawayToken::create(dir, "line", PIN)?,
        Kind::Kryoptic => ThrowawayToken::create_kryoptic(dir, "line", PIN)?,
    })
}

/// Runs the check on a token with this PIN; nothing that it says has a PIN in it.
fn check(token: &ThrowawayToken, pin: &str, words: &[&str]) -> Result<Output> {
    let file = token.dir.join("pin");
    fs::write(&file, format!("{pin}\n"))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let (name, conf) = token.environment();
    let mut command = Command::new(sealwright_bin()?);
    command.args(["hsm", "check", "--fast", "--uri", "pkcs11:token=line", "--module"]).arg(&token.module);
    command.arg("--pin-file").arg(&file).arg("--environment").arg(format!("{name}={}", conf.display()));
    let output = command.args(words).stdin(Stdio::null()).output()?;
    for text in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(text);
        ensure!(!text.contains(pin) && !text.contains(PIN), "a PIN was said:\n{text}");
    }
    Ok(output)
}

fn passes(kind: Kind) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let token = create(kind, dir.path())?;
    let output = check(&token, PIN, &[])?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.stderr.is_empty(), "no progress where there is no terminal");
    for words in [
        "Token line",
        &token.serial,
        "P-256: ",
        "signs ECDSA with SHA-256",
        "RSA-2048: ",
        "ms a signature",
        "CKM_ECDSA",
    ] {
        ensure!(text.contains(words), "{words} is missing in:\n{text}");
    }
    ensure!(!text.contains("FAILED"), "{text}");
    let output = check(&token, PIN, &["--output", "json"])?;
    ensure!(output.status.code() == Some(0));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(report["failures"] == 0, "{report}");
    let found = &report["tokens"][0];
    ensure!(found["serial"] == token.serial && found["label"] == "line", "{found}");
    let checks = found["checks"].as_array().context("no checks")?;
    let result = |subject: &str, check: &str| {
        checks.iter().find(|c| c["subject"] == subject && c["check"] == check).map(|c| c["result"].clone())
    };
    for algorithm in ["P-256", "P-384", "P-521", "Ed25519", "RSA-2048"] {
        for check in ["generate", "attributes", "extraction", "new process", "same id", "destroy"] {
            ensure!(result(algorithm, check) == Some("ok".into()), "{algorithm}: {check}: {checks:?}");
        }
    }
    ensure!(found["mechanisms"].as_array().is_some_and(|m| m.iter().any(|m| m["name"] == "CKM_ECDSA")));
    ensure!(found["latencies"].as_array().is_some_and(|l| l.iter().all(|l| l["median_us"].as_u64() > Some(0))));
    ensure!(found["best"].is_null() && found["shapes"] == Value::Array(Vec::new()), "--fast measures no shapes");
    Ok(())
}

#[test]
fn softhsm_passes() -> Result<()> {
    passes(Kind::SoftHsm)
}

#[test]
fn kryoptic_passes() -> Result<()> {
    passes(Kind::Kryoptic)
}

#[test]
fn a_wrong_pin_is_said_once_and_ends_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let token = create(Kind::SoftHsm, dir.path())?;
    let output = check(&token, "a-wrong-pin-0815", &["--output", "json"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let checks = report["tokens"][0]["checks"].as_array().context("no checks")?;
    ensure!(report["failures"] == 1 && checks.len() == 1, "{report}");
    ensure!(checks[0]["check"] == "login" && checks[0]["result"] == "failed", "{report}");
    ensure!(checks[0]["cure"].as_str().is_some_and(|cure| cure.contains("correct the PIN")), "{report}");
    let text = String::from_utf8(check(&token, "a-wrong-pin-0815", &[])?.stdout)?;
    ensure!(text.contains("FAILED   token: login: the token refused the PIN"), "{text}");
    Ok(())
}

/// What stands in the configuration of a service can be checked beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_use_is_checked_by_its_configuration() -> Result<()> {
    let ca = tests::ca::Ca::start()?;
    let config = ca.directory().join("sealwright.toml");
    let (code, text) = ca.command(&["hsm", "check", "--fast", "--config"], |c| c.arg(&config))?;
    ensure!(code == 0 && text.contains("Token sealwright-dev"), "{code}: {text}");
    let mut station = ca.role("station").await?;
    station.enroll(&tests::device::DeviceKey::new()?, "SN-1").await?;
    ca.finish()
}
