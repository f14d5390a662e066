//! A token that was exchanged, rebuilt or restored is refused until an operator accepts it, with a reason that stays.

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::{ca::copy_folder, device::DeviceKey, token::Stopped};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_its_identity_is_refused_until_it_is_accepted() -> Result<()> {
    let mut ca = Stopped::new()?;
    let same = ca.line("module = ")?.to_owned();
    let before = ca.id_of("token identity")?;
    ca.verb(&["hsm", "status"])?.must_say(Some(0), &["sealwright-dev", "signs", "known"])?;
    // What a restored backup looks like: every key but the one that is in no backup.
    ca.delete(&before)?;
    let refused = ["does not have its identity key", "accept this one with 'sealwright hsm accept'"];
    ca.serve(&same, &same)?.must_say(Some(1), &refused)?;
    ca.doctor(&same, &same)?.must_say(Some(1), &refused)?;
    let status = ["unknown", "it does not have its identity key; the service refuses it until 'sealwright hsm accept'"];
    ca.verb(&["hsm", "status"])?.must_say(Some(1), &status)?;

    let why = "restored from the backup of November";
    // Nobody is there to be asked.
    ca.verb(&["hsm", "accept", "--why", why])?
        .must_say(Some(2), &["Add --yes if you are sure; nothing was changed"])?;
    for (option, text) in [("--why", " ".to_owned()), ("--why", "x".repeat(1001)), ("--by", "x".repeat(201))] {
        let words = ["hsm", "accept", "--why", why, "--yes", option, &text];
        let without: Vec<&str> = if option == "--why" { [&words[..2], &words[4..]].concat() } else { words.to_vec() };
        ca.verb(&without)?.must_say(Some(2), &[option])?;
    }
    let keys = ca.pkcs11_tool(&["--list-objects", "--type", "privkey"])?;
    ensure!(!keys.contains("token identity"), "a refusal left a key:\n{keys}");
    ca.serve(&same, &same)?.must_say(Some(1), &refused)?;
    let accepted = ca.verb(&["hsm", "accept", "--why", why, "--by", "anna", "--yes", "--output", "json"])?;
    accepted.must_say(Some(0), &["it does not have its identity key"])?;
    let json: Value = serde_json::from_str(&accepted.text)?;
    let id = json["accepted"][0]["key_id"].as_str().unwrap_or_default().to_owned();
    ensure!(id == ca.id_of("token identity")? && id != before, "{json}");
    ca.verb(&["hsm", "accept", "--why", why, "--yes"])?.must_say(Some(0), &["Nothing to accept"])?;
    ca.verb(&["hsm", "status"])?.must_say(Some(0), &["known"])?;

    ca.ca.serve(&[])?;
    ca.ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-1").await?;
    // While it runs, the journal is the service's.
    ca.verb(&["hsm", "accept", "--why", why, "--yes"])?
        .must_say(Some(4), &["in use by the running service", "Stop"])?;
    let running = ["signs", "not_asked", "in use by the running service"];
    ca.verb(&["hsm", "status"])?.must_say(Some(0), &running)?;
    let (code, shown) = ca.ca.command(&["journal", "show", "--all", "--dir"], |c| c.arg(ca.ca.directory()))?;
    ensure!(code == 0 && shown.contains("anna") && shown.contains(why), "{shown}");
    ca.ca.finish()
}

#[test]
fn a_rebuilt_token_of_the_same_name_is_refused() -> Result<()> {
    let ca = Stopped::new()?;
    let same = ca.line("module = ")?;
    ca.with_spoiled_token(|ca| {
        std::fs::remove_dir_all(ca.tokens())?;
        softhsm::ThrowawayToken::create(&ca.ca.directory().join("softhsm"), "sealwright-dev", &ca.pin)?;
        let refused = ["no token with serial number", "was enrolled", "sealwright hsm accept"];
        ca.serve(same, same)?.must_say(Some(1), &refused)?;
        ca.verb(&["hsm", "status"])?.must_say(Some(1), &["no token with serial number"])?;
        // Accepting it brings no keys back.
        ca.verb(&["hsm", "accept", "--why", "rebuilt", "--yes"])?.must_say(Some(0), &["accepted"])?;
        ca.serve(same, same)?.must_say(Some(1), &["no key pair with id"])
    })?;
    // The old one is known as before.
    ca.doctor(same, same)?.must_say(Some(0), &["keys are there and sign"])
}

/// A copy of the token's own files has its identity key, too; its age shows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_put_back_from_a_copy_is_refused_until_it_is_accepted() -> Result<()> {
    let mut ca = Stopped::new()?;
    let same = ca.line("module = ")?.to_owned();
    let kept = ca.tokens().with_extension("kept");
    copy_folder(&ca.tokens(), &kept)?;
    ca.ca.serve(&[])?;
    ca.ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-1").await?;
    ca.ca.stop()?;
    std::fs::remove_dir_all(ca.tokens())?;
    std::fs::rename(&kept, ca.tokens())?;
    let refused = ["it was put back from a backup", "sealwright hsm accept"];
    ca.serve(&same, &same)?.must_say(Some(1), &refused)?;
    ca.verb(&["hsm", "status"])?.must_say(Some(1), &refused)?;
    ca.verb(&["hsm", "accept", "--why", "the disk failed", "--yes"])?.must_say(Some(0), &["accepted"])?;
    ca.verb(&["hsm", "status"])?.must_say(Some(0), &["known"])?;
    ca.ca.serve(&[])?;
    ca.ca.role("station").await?.enroll(&DeviceKey::new()?, "SN-2").await?;
    ca.ca.finish()
}
