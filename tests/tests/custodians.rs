//! A PIN that nobody has alone: the service's keeper asks custodians for their shares.

use anyhow::{Context, Result, ensure};
use std::fs;
use tests::installation::{Installation, PIN, text};

/// An installation whose PIN is split among three, two of whom are needed; the file with the PIN is gone.
fn split() -> Result<(Installation, Vec<String>)> {
    let ca = Installation::new("token")?;
    ca.run(&["init", "--out-dir", "admin"])?.good()?;
    let words =
        ["ceremony", "split-pin", "--threshold", "2", "--shares", "3", "--out-dir", "shares", "--pin-file", "pin"];
    ca.run(&words)?.good()?;
    let mut files: Vec<_> = fs::read_dir(ca.path("shares"))?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    let shares = files.iter().map(|file| Ok(text(file)?.split_whitespace().collect())).collect::<Result<Vec<_>>>()?;
    fs::remove_file(ca.path("pin"))?;
    let config = text(&ca.path("sealwright.toml"))?;
    let begin = config.find("pin = {").context("no pin in the configuration")?;
    let end = begin + config.get(begin..).and_then(|rest| rest.find('\n')).context("no end of line")?;
    let (before, after) = (config.get(..begin).unwrap_or_default(), config.get(end..).unwrap_or_default());
    fs::write(ca.path("sealwright.toml"), format!("{before}pin = {{ shares = 2 }}{after}"))?;
    Ok((ca, shares))
}

#[test]
fn two_of_three_custodians_open_the_token() -> Result<()> {
    let (ca, shares) = split()?;
    let [first, second, third] = &shares[..] else { anyhow::bail!("{} shares", shares.len()) };
    // One share twice, and one that was mistyped: told by name, and the token has seen no PIN.
    let (code, shown) = ca.typed("doctor", &[first, first])?;
    ensure!(code == 1 && shown.contains("twice"), "{code}: {shown}");
    let mistyped = format!("{}{}", first.get(..first.len() - 4).unwrap_or_default(), "0000");
    let (code, shown) = ca.typed("doctor", &[&mistyped, second])?;
    ensure!(code == 1 && shown.contains("share"), "{code}: {shown}");
    for pair in [[first, second], [third, first], [second, third]] {
        let (_, shown) = ca.typed("doctor", &[pair[0], pair[1]])?;
        ensure!(shown.contains("logged in") && shown.contains("keys are there and sign"), "{shown}");
        ensure!(!shown.contains(PIN) && pair.iter().all(|share| !shown.contains(share.as_str())), "shown: {shown}");
    }
    Ok(())
}
