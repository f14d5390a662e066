//! Foreign tools: run, and judged by their exit status.

use anyhow::{Context, Result, ensure};
use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The repository's root.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// What a tool said.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// It ended with success.
    pub accepted: bool,
    /// Output and errors.
    pub text: String,
    /// Output alone.
    pub stdout: Vec<u8>,
}

/// Runs a command that may refuse.
///
/// # Errors
/// It cannot be run; `scripts/setup` installs what is missing.
pub fn ask(command: &mut Command) -> Result<Verdict> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}; see scripts/setup"))?;
    let text = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    Ok(Verdict { accepted: output.status.success(), text, stdout: output.stdout })
}

/// Runs a command that must succeed; gives its output.
///
/// # Errors
/// It failed; with everything it said.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let verdict = ask(command)?;
    ensure!(verdict.accepted, "{command:?} failed:\n{}", verdict.text);
    Ok(verdict.stdout)
}

/// Runs `program` with `arguments` and `input`, must succeed; gives its output.
///
/// # Errors
/// It failed; with everything it said.
pub fn pipe<S: AsRef<OsStr>>(program: &str, arguments: &[S], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {program}; see scripts/setup"))?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(input)?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// `openssl WORDS...`; words are separated by spaces.
///
/// # Errors
/// It failed.
pub fn openssl(words: &str) -> Result<Vec<u8>> {
    run(Command::new("openssl").args(words.split_whitespace()))
}
