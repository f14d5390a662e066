//! `sealwright ceremony verify`

use super::root::record::sha256_of;
use crate::{
    error::{Exit, Problem},
    files,
    output::{OutputArgs, fields},
};
use anyhow::Result;
use ceremony::transcript::{self, FileFact, Outcome, TEXT_MOST, Verified, fingerprint, same_fingerprint};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Options of `ceremony verify`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright ceremony verify transcript.jsonl --expect '1f0c 99ab 27de 0b51 6e0f 3c22 80a4 d9f1 47b3 5ac8'
  sealwright ceremony verify /media/root-2026/transcript.jsonl --files /media/root-2026

For any witness, on any machine: needs no token and no configuration. Verifies the chain of lines, the root key's
recorded attributes, the certificates, and the seal by the root's key. Only the fingerprint that you wrote down yourself
shows that this is the transcript of that day.")]
pub struct VerifyArgs {
    /// The transcript
    #[arg(value_name = "TRANSCRIPT")]
    transcript: PathBuf,
    /// The folder with the ceremony's files; each must be as recorded
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// The fingerprint that you wrote down at the ceremony
    #[arg(long, value_name = "FINGERPRINT")]
    expect: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

fn refused(what: impl Into<String>, advice: &str) -> anyhow::Error {
    Problem::new(Exit::Refused, what, advice).into()
}

/// Reads and verifies a transcript, and gives its text.
///
/// # Errors
/// A [`Problem`] that says what is wrong.
pub fn read(path: &Path) -> Result<(Verified, String)> {
    let octets = files::read(path, TEXT_MOST as u64)?;
    let text = String::from_utf8(octets)
        .map_err(|_| Problem::usage(format!("{} is no text", path.display()), "Check the path."))?;
    let verified = transcript::verify(&text)
        .map_err(|error| refused(format!("{}: {error}", path.display()), "Do not trust this root on its word."))?;
    Ok((verified, text))
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(args: &VerifyArgs) -> Result<()> {
    let (verified, _) = read(&args.transcript)?;
    match &verified.outcome {
        Outcome::Sealed => {}
        Outcome::Interrupted(reason) => {
            return Err(refused(
                format!("this ceremony was interrupted: {reason}"),
                "Its root must not be used; look for the transcript of the ceremony that followed.",
            ));
        }
        Outcome::Incomplete => {
            return Err(refused(
                "the transcript ends before the ceremony did: the program was ended, or its end was cut off",
                "Look for a whole copy; without a seal the root must not be used.",
            ));
        }
    }
    let shown = fingerprint(&verified.hash);
    if args.expect.as_ref().is_some_and(|expected| !same_fingerprint(expected, &shown)) {
        return Err(refused(
            format!("the fingerprint is {shown}, not the one that you wrote down"),
            "This is the transcript of another ceremony, or a forged one.",
        ));
    }
    let files = match &args.files {
        Some(dir) => check_files(dir, &verified.files)?,
        None => Vec::new(),
    };
    report(args, &verified, &shown, &files)
}

/// Each file with what became of it. What the ceremony made must be there and as recorded; what went in, as recorded
/// if it is there.
fn check_files<'a>(dir: &Path, recorded: &'a [FileFact]) -> Result<Vec<(&'a FileFact, &'static str)>> {
    let mut found = Vec::new();
    for file in recorded {
        // A name, never a path: a transcript from elsewhere must not lead out of the folder.
        let plain = Path::new(&file.name).file_name().is_some_and(|name| name == file.name.as_str());
        let path = dir.join(&file.name);
        let state = match (plain, path.is_file()) {
            (false, _) => return Err(refused(format!("'{}' is no file's name", file.name), "Do not trust this file.")),
            (true, false) if file.made => {
                let advice = "Give the folder that holds all files of the ceremony.";
                return Err(refused(format!("{} is not there", path.display()), advice));
            }
            (true, false) => "not there, not compared",
            (true, true) if hex::encode(sha256_of(&path)?) == file.sha256 => "as recorded",
            (true, true) => {
                let advice = "The file was changed after the ceremony, or is another one of this name.";
                return Err(refused(format!("{} is not the recorded file", path.display()), advice));
            }
        };
        found.push((file, state));
    }
    Ok(found)
}

fn report(args: &VerifyArgs, verified: &Verified, shown: &str, files: &[(&FileFact, &'static str)]) -> Result<()> {
    let root = verified.root.as_ref().map(|root| (root.subject().to_owned(), hex::encode(root.sha256())));
    let (subject, sha256) = root.unwrap_or_default();
    let issued: Vec<&str> = verified.issued.iter().map(|certificate| certificate.subject()).collect();
    let as_json = || {
        let files: Vec<_> =
            files.iter().map(|(f, state)| json!({ "name": f.name, "sha256": f.sha256, "state": state })).collect();
        json!({ "sealed": true, "scripted": verified.scripted, "fingerprint": shown,
                "fingerprint_expected": args.expect.is_some(), "lines": verified.lines, "began": verified.began,
                "root": subject, "root_sha256": sha256, "issued": issued, "files": files })
    };
    let human = || {
        let expected =
            if args.expect.is_some() { "the one that you wrote down" } else { "compare it with your own note" };
        let answers = if verified.scripted { "from a file: THIS WAS A REHEARSAL" } else { "typed by those present" };
        let mut lines = vec![
            ("Transcript", format!("whole, {} lines, sealed by the root's key", verified.lines)),
            ("Fingerprint", format!("{shown} ({expected})")),
            ("Began", verified.began.clone()),
            ("Answers", answers.to_owned()),
            ("Root", subject.clone()),
            ("Root SHA-256", sha256.clone()),
        ];
        lines.extend(issued.iter().map(|subject| ("Issuing CA", (*subject).to_owned())));
        lines.extend(files.iter().map(|(file, state)| ("File", format!("{} {state}", file.name))));
        fields(&lines)
    };
    Ok(args.output.result(as_json, human)?)
}
