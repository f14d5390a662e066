//! A wrong token, PIN, module or key at the start: each is named, with what to do, and nothing is served.

use anyhow::{Context, Result, ensure};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tests::{ca::files, token::Stopped};

#[test]
fn a_module_or_uri_that_is_wrong() -> Result<()> {
    let ca = Stopped::new()?;
    let module = ca.line("module = ")?;
    for (wrong, words) in [
        ("/nonexistent/pkcs11.so", "does not exist"),
        ("/etc/hostname", "is not a PKCS#11 library"),
        ("libsofthsm2.so", "is not an absolute path"),
    ] {
        let to = format!("module = \"{wrong}\"");
        ca.serve(module, &to)?.must_say(Some(1), &[wrong, words, "set the path of the library"])?;
        ca.doctor(module, &to)?.must_say(Some(1), &["FAULT", words, "correct token.module"])?;
    }
    let uri = ca.line("uri = ")?;
    for wrong in ["sealwright", "pkcs11:", "pkcs11:token=a;pin-value=1234", "pkcs11:tokn=a"] {
        let to = format!("uri = \"{wrong}\"");
        ca.serve(uri, &to)?.must_say(Some(2), &["error: token.uri"])?;
    }
    // A token that is away may come: the service waits for it and says what it looks for.
    let to = "uri = \"pkcs11:token=nobody\"";
    ca.serve(uri, to)?.must_say(None, &["no token matches pkcs11:token=nobody"])?;
    ca.doctor(uri, to)?.must_say(Some(1), &["no token matches pkcs11:token=nobody", "Cure: correct token.uri"])?;
    Ok(())
}

/// A PIN file with these rights.
fn pin_file(dir: &Path, pin: &str, mode: u32) -> Result<String> {
    let path = dir.join("another-pin");
    fs::write(&path, pin)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(format!("pin = {{ file = \"{}\" }}", path.display()))
}

#[test]
fn a_pin_that_is_wrong() -> Result<()> {
    let mut ca = Stopped::new()?;
    let (pin, dir) = (ca.line("pin = ")?.to_owned(), ca.ca.directory().to_owned());
    ca.serve(&pin, &pin_file(&dir, "1234", 0o644)?)?.must_say(Some(1), &["another-pin", "chmod 600"])?;
    ca.serve(&pin, &pin_file(&dir, "", 0o600)?)?.must_say(Some(1), &["the PIN is empty"])?;
    ca.serve(&pin, "pin = { file = \"/nonexistent\" }")?.must_say(Some(1), &["/nonexistent", "cannot be read"])?;
    ca.serve(&pin, "pin = { env = \"A_PIN\" }")?.must_say(Some(2), &["unknown variant `env`"])?;
    ca.serve(&pin, "pin = { credential = \"p\" }")?.must_say(Some(1), &["LoadCredential="])?;

    let wrong = pin_file(&dir, "a-wrong-pin-0815", 0o600)?;
    let refused = ca.serve(&pin, &wrong)?;
    refused.must_say(Some(1), &["the token refused the PIN; it was tried once", "sealwright hsm unlock"])?;
    ensure!(!refused.text.contains("0815"), "{}", refused.text);
    // The right PIN is not tried either, by no start and no verb, until an operator says so.
    ca.serve(&pin, &pin)?.must_say(Some(1), &["locked out by us", "sealwright hsm unlock"])?;
    ca.doctor(&pin, &pin)?
        .must_say(Some(1), &["locked out by us", "Cure: correct the PIN, then run 'sealwright hsm unlock'"])?;
    ca.verb(&["hsm", "status"])?.must_say(Some(1), &["locked_out", "locked out by us"])?;
    ca.verb(&["hsm", "check", "--fast"])?.must_say(Some(1), &["FAILED   token: login: locked out by us"])?;
    ca.verb(&["hsm", "unlock"])?
        .must_say(Some(0), &["sealwright-dev: unlocked", "tries the PIN, once, within a second"])?;
    ca.verb(&["hsm", "unlock"])?.must_say(Some(0), &["was not locked out"])?;
    ca.verb(&["hsm", "status"])?.must_say(Some(0), &["signs"])?;
    ca.ca.serve(&[])?;
    ca.ca.stop()?;
    Ok(())
}

#[test]
fn keys_that_are_not_as_the_journal_knows_them() -> Result<()> {
    let ca = Stopped::new()?;
    let same = ca.line("module = ")?;
    let issuing = ca.id_of("issuing")?;
    ca.with_spoiled_token(|ca| {
        ca.delete(&issuing)?;
        ca.serve(same, same)?.must_say(Some(1), &["issuer default-ca", "no key pair with id", &issuing])?;
        ca.doctor(same, same)?.must_say(Some(1), &["no key pair with id", "Cure: ", "restore the token's backup"])
    })
    .context("a key is missing")?;
    ca.with_spoiled_token(|ca| {
        ca.make(&issuing)?;
        let words = ["2 private and 2 public keys with id", &issuing, "exactly one of each is needed"];
        ca.serve(same, same)?.must_say(Some(1), &words)?;
        ca.doctor(same, same)?.must_say(Some(1), &words)
    })
    .context("two keys have one id")?;
    ca.with_spoiled_token(|ca| {
        ca.delete(&issuing)?;
        ca.make(&issuing)?;
        ca.serve(same, same)?.must_say(Some(1), &["is not the key of its certificate", "changed or swapped"])?;
        ca.doctor(same, same)?.must_say(Some(1), &["is not that of its certificate", "Cure: "])
    })
    .context("a certificate does not fit its key")?;
    ca.with_spoiled_token(|ca| {
        make_extractable(&ca.tokens())?;
        ca.serve(same, same)?
            .must_say(Some(1), &["may not sign here: CKA_EXTRACTABLE is true", "restore the token"])?;
        ca.doctor(same, same)?.must_say(Some(1), &["CKA_EXTRACTABLE is true", "Cure: "])
    })
    .context("a key is extractable")?;
    ca.doctor(same, same)?.must_say(Some(0), &["keys are there and sign"])
}

/// Sets CKA_EXTRACTABLE of the oldest private key in SoftHSM's files, which is that of the root: a value is its type and
/// kind (1 is a Boolean), 8 octets each, and one octet.
fn make_extractable(tokens: &Path) -> Result<()> {
    let mut found: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
    for path in files(tokens, &|path| path.extension().is_some_and(|e| e == "object"))? {
        found.push((fs::metadata(&path)?.modified()?, path));
    }
    found.sort();
    let pattern = [&0x162_u64.to_be_bytes()[..], &1_u64.to_be_bytes(), &[0]].concat();
    for (_, path) in found {
        let mut octets = fs::read(&path)?;
        if let Some(at) = octets.windows(pattern.len()).position(|w| w == pattern) {
            *octets.get_mut(at + pattern.len() - 1).context("cut")? = 0xff;
            fs::write(&path, octets)?;
            return Ok(());
        }
    }
    anyhow::bail!("no private key in {}", tokens.display())
}

#[test]
fn a_module_that_injects_faults() -> Result<()> {
    let ca = Stopped::new()?;
    let module = format!("module = \"{}\"", faulty_pkcs11::library()?.display());
    let variable = format!("environment = {{ FAULTY_PKCS11_MODULE = \"{}\",", softhsm::find_module()?.display());
    let config = ca.edited(&[(ca.line("module = ")?, &module), ("environment = {", &variable)])?;
    let words = ["libfaulty_pkcs11.so injects faults for tests", "configure the real module"];
    ca.run(&["serve"], &config)?.must_say(Some(1), &words)?;
    let doctor = ca.run(&["doctor"], &config)?;
    doctor.must_say(Some(1), &words)?;
    doctor.must_say(Some(1), &["FAULT", "Cure: set token.module to the vendor's library; this one is for tests"])
}
