//! A root ceremony and its witnesses; the PIN among custodians.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{fs, os::unix::fs::PermissionsExt, process::Command};
use tests::{
    installation::{Installation, PIN, text},
    tools::{self, Verdict},
};

const SCRIPT: &str = "title = 'A test'\norganization = 'Example Works'\nalgorithm = 'P-384'\nlabel = 'example root'\n\
                      years = 35\nissuing_years = 25\ncrl_url = 'http://pki.example.com/root.crl'\ncrl_days = 400\n\
                      roles = ['administrator', 'witness']\n";
const ANSWERS: &str = "program = 'yes'\nfiles = 'yes'\nnetwork = 'yes'\nclock = 'yes'\ntoken = 'yes'\ngenerate = 'yes'\n\
                       'participant administrator' = 'A'\n'participant witness' = 'B'\n";

fn openssl(at: &Installation, words: &str) -> Result<Verdict> {
    tools::ask(Command::new("openssl").current_dir(at.path("")).args(words.split_whitespace()))
}

/// A machine for the ceremony, with the request of an issuing CA.
fn prepared(csr: &str, answers: &str) -> Result<Installation> {
    let offline = Installation::new("token")?;
    fs::write(offline.path("root.toml"), SCRIPT)?;
    fs::write(offline.path("answers.toml"), answers)?;
    fs::write(offline.path("default-issuing.csr"), csr)?;
    Ok(offline)
}

const LEAD: [&str; 10] = [
    "ceremony",
    "root",
    "--script",
    "root.toml",
    "--issuing-csr",
    "default-issuing.csr",
    "--out-dir",
    "out",
    "--answers",
    "answers.toml",
];

fn lead(offline: &Installation, more: &[&str]) -> Result<tests::installation::Done> {
    offline.run(&[&LEAD[..], more].concat())
}

#[test]
fn a_root_is_made_offline_and_every_witness_can_verify_it() -> Result<()> {
    let online = Installation::new("external")?;
    online.run(&["init", "--out-dir", "admin"])?.good()?;
    let csr = text(&online.path("data/default-issuing.csr"))?;
    let offline = prepared(&csr, &format!("{ANSWERS}'issuing 1' = 'yes'\n"))?;
    let made = lead(&offline, &["--output", "json"])?.json()?;
    ensure!(made["scripted"] == true && made["issued"] == 1, "{made}");
    let fingerprint = made["fingerprint"].as_str().context("no fingerprint")?.to_owned();

    judge(&offline)?;
    seal_by_openssl(&offline)?;
    let verify = |more: &[&str]| offline.run(&[&["ceremony", "verify", "out/transcript.jsonl"], more].concat());
    let verified = verify(&["--files", "out", "--expect", &fingerprint.to_uppercase()])?.good()?;
    ensure!(verified.out.contains("REHEARSAL") && verified.out.contains("root.crl as recorded"), "{}", verified.out);
    verify(&["--expect", &fingerprint.replace(fingerprint.get(..1).unwrap_or("0"), "x")])?.refused(4, "fingerprint")?;

    // What came out is what the service takes.
    fs::copy(offline.path("out/default-issuing-chain.pem"), online.path("chain.pem"))?;
    online.run(&["init", "--import-chain", "chain.pem", "--tenant", "default", "--out-dir", "admin"])?.good()?;
    ensure!(text(&online.path("admin/trust.pem"))? == text(&offline.path("out/root.pem"))?, "another root");
    drop(online.serve()?);

    // A second run overwrites nothing, and a changed or missing file is found.
    lead(&offline, &[])?.refused(1, "never overwritten")?;
    verify(&["--files", "out"])?.good()?;
    let crl = fs::read(offline.path("out/root.crl"))?;
    fs::write(offline.path("out/root.crl"), [&crl[..], b"x"].concat())?;
    verify(&["--files", "out"])?.refused(4, "not the recorded file")?;
    fs::remove_file(offline.path("out/root.crl"))?;
    verify(&["--files", "out"])?.refused(4, "is not there")?;
    changed_transcripts(&offline)
}

/// OpenSSL on root, chain and CRL; each time it must first refuse what is wrong.
fn judge(offline: &Installation) -> Result<()> {
    let openssl = |words: &str| openssl(offline, words);
    let chain = text(&offline.path("out/default-issuing-chain.pem"))?;
    let end = "-----END CERTIFICATE-----\n";
    let issuing = chain.split_inclusive(end).next().context("an empty chain")?;
    fs::write(offline.path("issuing.pem"), issuing)?;
    let other =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout other.key -out other.pem -subj /CN=x";
    ensure!(openssl(other)?.accepted, "no control");
    for (control, words) in [
        ("verify -x509_strict -CAfile other.pem out/root.pem", "verify -x509_strict -CAfile out/root.pem out/root.pem"),
        ("verify -x509_strict -CAfile other.pem issuing.pem", "verify -x509_strict -CAfile out/root.pem issuing.pem"),
        ("crl -inform DER -in out/root.crl -noout -CAfile other.pem", ""),
    ] {
        let refused = openssl(control)?;
        ensure!(!refused.accepted || refused.text.contains("failure"), "OpenSSL takes anything: {}", refused.text);
        ensure!(words.is_empty() || openssl(words)?.accepted, "{words}: {}", openssl(words)?.text);
    }
    let crl = openssl("crl -inform DER -in out/root.crl -noout -crlnumber -CAfile out/root.pem")?;
    ensure!(crl.accepted && crl.text.contains("verify OK"), "{}", crl.text);
    ensure!(openssl("crl -inform DER -in out/root.crl -out root.crl.pem")?.accepted, "no PEM");
    let checked = openssl("verify -x509_strict -crl_check -CRLfile root.crl.pem -CAfile out/root.pem issuing.pem")?;
    ensure!(checked.accepted, "{}", checked.text);
    let shown = openssl("x509 -in issuing.pem -noout -ext basicConstraints,crlDistributionPoints")?.text;
    ensure!(shown.contains("pathlen:0") && shown.contains("http://pki.example.com/root.crl"), "{shown}");
    Ok(())
}

/// The seal, verified without our program.
fn seal_by_openssl(offline: &Installation) -> Result<()> {
    let transcript = text(&offline.path("out/transcript.jsonl"))?;
    let lines: Vec<&str> = transcript.lines().collect();
    let [.., close, seal] = &lines[..] else { anyhow::bail!("too short") };
    let seal: Value = serde_json::from_str(seal)?;
    let digest = Sha256::digest(close);
    fs::write(offline.path("message"), [&b"sealwright ceremony transcript v1\0"[..], &digest].concat())?;
    fs::write(offline.path("signature"), hex::decode(seal["facts"]["signature"].as_str().context("no signature")?)?)?;
    fs::write(offline.path("public.pem"), openssl(offline, "x509 -in out/root.pem -noout -pubkey")?.stdout)?;
    let words = |message: &str| format!("dgst -sha384 -verify public.pem -signature signature {message}");
    ensure!(!openssl(offline, &words("answers.toml"))?.accepted, "OpenSSL takes anything");
    let verdict = openssl(offline, &words("message"))?;
    ensure!(verdict.accepted, "{}", verdict.text);
    Ok(())
}

fn changed_transcripts(offline: &Installation) -> Result<()> {
    let good = text(&offline.path("out/transcript.jsonl"))?;
    let lines: Vec<&str> = good.lines().collect();
    let refused = |changed: &str, words: &str| -> Result<()> {
        fs::write(offline.path("changed.jsonl"), changed)?;
        offline.run(&["ceremony", "verify", "changed.jsonl"])?.refused(4, words)?;
        Ok(())
    };
    refused(&good.replace("\"scripted\"", "\"typed\""), "does not follow")?;
    refused(&good.replace("\"name\":\"B\"", "\"name\":\"C\""), "does not follow")?;
    refused(&lines.get(..lines.len() - 1).unwrap_or_default().join("\n"), "ends before the ceremony did")?;
    refused(&lines.get(..8).unwrap_or_default().join("\n"), "ends before the ceremony did")?;
    // Somebody who computes all hashes anew has no seal for them.
    let (mut forged, mut head) = (String::new(), "00".repeat(32));
    for line in &lines {
        let mut value: Value = serde_json::from_str(&line.replace("\"scripted\"", "\"typed\""))?;
        value["previous"] = Value::from(head);
        let text = serde_json::to_string(&value)?;
        head = hex::encode(Sha256::digest(&text));
        // The line of the seal is chained to itself by nobody.
        forged.push_str(&format!("{text}\n"));
    }
    refused(&forged, "seal does not verify")
}

#[test]
fn an_interrupted_ceremony_says_so_for_ever() -> Result<()> {
    let online = Installation::new("external")?;
    online.run(&["init", "--out-dir", "admin"])?.good()?;
    let csr = text(&online.path("data/default-issuing.csr"))?;
    // Nobody answers for the request.
    let offline = prepared(&csr, ANSWERS)?;
    lead(&offline, &[])?.refused(1, "issuing 1")?;
    let transcript = text(&offline.path("out/transcript.jsonl"))?;
    ensure!(transcript.lines().last().is_some_and(|line| line.contains("\"interrupted\"")), "{transcript}");
    offline.run(&["ceremony", "verify", "out/transcript.jsonl"])?.refused(4, "interrupted")?;
    // Its key stays in the token: the same label is refused, and that is an interruption too.
    let again: Vec<&str> = LEAD.iter().map(|word| if *word == "out" { "again" } else { *word }).collect();
    offline.run(&again)?.refused(1, "label 'example root'")?;
    offline.run(&["ceremony", "verify", "again/transcript.jsonl"])?.refused(4, "interrupted")?;
    // No before the key is made: nothing is in the token.
    let other = prepared(&csr, &ANSWERS.replace("generate = 'yes'", "generate = 'no'"))?;
    lead(&other, &[])?.refused(1, "'generate' was not yes")?;
    ensure!(other.run(&["key", "list", "--output", "json"])?.json()?["keys"] == serde_json::json!([]), "a key");
    // Without a terminal and without answers there is no ceremony at all.
    let words: Vec<&str> = LEAD.iter().take(8).copied().collect();
    prepared(&csr, "")?.run(&words)?.refused(2, "no terminal")?;
    Ok(())
}

#[test]
fn a_pin_is_split_among_custodians_and_proved_without_being_shown() -> Result<()> {
    let at = Installation::new("token")?;
    let split = ["ceremony", "split-pin", "--threshold", "2", "--shares", "3", "--pin-file", "pin"];
    let made = at.run(&[&split[..], &["--out-dir", "shares", "--output", "json"]].concat())?;
    let made_json = made.clone().json()?;
    let files: Vec<&str> =
        made_json["files"].as_array().context("no files")?.iter().filter_map(Value::as_str).collect();
    ensure!(files.len() == 3, "{made_json}");
    for file in &files {
        let path = at.path(file);
        ensure!(fs::metadata(&path)?.permissions().mode() & 0o777 == 0o600, "{file} is open");
        let share = text(&path)?;
        ensure!(!made.out.contains(share.trim()) && !share.contains(PIN), "a secret is shown");
    }
    let check = |files: &[&str]| {
        let mut words = vec!["ceremony", "combine-check"];
        files.iter().for_each(|file| words.extend(["--share-file", file]));
        at.run(&words)
    };
    for some in [&files[..2], &files[1..], &files[..]] {
        let done = check(some)?.good()?;
        ensure!(!done.out.contains(PIN) && !done.err.contains(PIN), "the PIN is shown");
    }
    check(&files[..1])?.refused(2, "2 are needed")?;
    check(&[files[0], files[0]])?.refused(2, "given twice")?;
    let mut typed = text(&at.path(files[0]))?;
    let digit = typed.chars().nth(60).context("too short")?;
    typed.replace_range(60..61, if digit == '7' { "8" } else { "7" });
    at.secret("wrong", &typed)?;
    check(&["wrong", files[1]])?.refused(2, "checksum is wrong")?;
    fs::set_permissions(at.path("wrong"), fs::Permissions::from_mode(0o644))?;
    check(&["wrong", files[1]])?.refused(2, "can be read by others")?;
    // Another split of the same PIN is another set.
    let other = at.run(&[&split[..], &["--out-dir", "other", "--output", "json"]].concat())?.json()?;
    check(&[files[0], other["files"][1].as_str().context("no file")?])?.refused(2, "belongs to set")?;
    // On paper: what is printed is a share.
    let printed = at.run(&[&split[..], &["--print"]].concat())?.good()?.out;
    let pages: Vec<&str> = printed.split('\u{c}').filter(|page| !page.trim().is_empty()).collect();
    ensure!(pages.len() == 3, "{} pages", pages.len());
    for (number, page) in pages.iter().enumerate() {
        at.secret(&format!("page-{number}"), page.split_once("\n\n").context("no share on the page")?.1)?;
    }
    check(&["page-0", "page-2"])?.good()?;
    Ok(())
}
