//! `sealwright ceremony root`

mod certify;
mod dialog;
pub mod record;
mod script;
mod steps;
mod surroundings;

use crate::{
    error::{Exit, Problem},
    output::{self, OutputArgs, fields},
    runtime,
    service::{ConfigArgs, init::folder},
};
use anyhow::{Context, Result};
use dialog::Dialog;
use record::Recorder;
use script::Script;
use serde_json::json;
use std::path::{Path, PathBuf};

/// A script with every key.
pub const EXAMPLE: &str = include_str!("example.toml");
/// The transcript's name in the folder.
const TRANSCRIPT: &str = "transcript.jsonl";
/// More issuing CAs than this are another day's work.
const REQUESTS_MOST: usize = 16;

/// Options of `ceremony root`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright ceremony root --example > root.toml
  sealwright ceremony root --script root.toml --issuing-csr default-issuing.csr --out-dir /media/root-2026
  sealwright ceremony root --script root.toml --out-dir rehearsal --answers answers.toml

Leads those present through the making of a root: it checks, asks, makes the key in the token that the configuration
names, signs the root, the issuing CAs' requests that `sealwright init` wrote and the first CRL, and keeps a transcript
that the root key seals. Run it on a machine without a network. With --answers it is a rehearsal, and the transcript
says so. `sealwright ceremony verify` checks the transcript for any witness.")]
pub struct RootArgs {
    /// What is to be made, a TOML file
    #[arg(long, value_name = "FILE", required_unless_present = "example")]
    script: Option<PathBuf>,
    /// A certification request of an issuing CA; give it several times
    #[arg(long = "issuing-csr", value_name = "FILE")]
    requests: Vec<PathBuf>,
    /// Where certificates, CRL and transcript are written; nothing in it is overwritten
    #[arg(long, value_name = "DIR", required_unless_present = "example")]
    out_dir: Option<PathBuf>,
    /// Answers to the questions, a TOML file: QUESTION = \"answer\". For rehearsals
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Print a commented script and do nothing else
    #[arg(long, exclusive = true)]
    example: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(args: RootArgs) -> Result<()> {
    if args.example {
        return Ok(output::text(EXAMPLE)?);
    }
    let (Some(script_path), Some(dir)) = (args.script.clone(), args.out_dir.clone()) else {
        return Err(Problem::usage("--script and --out-dir are needed", "--example prints a script.").into());
    };
    if args.requests.len() > REQUESTS_MOST {
        return Err(Problem::usage(format!("at most {REQUESTS_MOST} requests"), "Leave some for another day.").into());
    }
    let (script, script_octets) = Script::load(&script_path)?;
    let config = args.config.load()?;
    let dialog = Dialog::new(args.answers.as_deref())?;
    folder(&dir)?;
    let path = dir.join(TRANSCRIPT);
    let recorder = Recorder::create(&path)?;
    let files = steps::Inputs {
        script: (script_path, script_octets),
        config: args.config.config.clone(),
        requests: args.requests.clone(),
    };
    let ceremony = steps::Ceremony { script, config, dialog, recorder: recorder.clone(), dir, files };
    runtime::service(lead(ceremony, recorder))?;
    conclude(&path, args.output)
}

/// Until the last step, or until somebody ends it.
async fn lead(ceremony: steps::Ceremony, recorder: Recorder) -> Result<()> {
    let led = tokio::task::spawn_blocking(move || ceremony.lead());
    let outcome = tokio::select! {
        led = led => led.context("the ceremony's thread")?,
        signal = server::serve::terminated() => signal.and_then(|()| Err(anyhow::anyhow!("ended by a signal"))),
    };
    if let Err(error) = &outcome {
        recorder.interrupted(crate::key::place::now(), &format!("{error:#}"));
        return Err(Problem::new(
            Exit::Failure,
            format!("the ceremony was interrupted: {error:#}"),
            "The transcript says so. A root key that was made stays in the token; begin again in a new folder, with \
             another label in the script.",
        )
        .into());
    }
    outcome
}

/// Reads the transcript as any witness will, and shows what they write down.
fn conclude(path: &Path, output: OutputArgs) -> Result<()> {
    let (verified, _) = super::verify::read(path)?;
    let fingerprint = ceremony::transcript::fingerprint(&verified.hash);
    let root = verified.root.as_ref().context("the transcript has no root")?;
    let sha256 = hex::encode(root.sha256());
    let as_json = || {
        json!({ "transcript": path, "fingerprint": fingerprint, "root_sha256": sha256, "root": root.subject(),
                "issued": verified.issued.len(), "scripted": verified.scripted })
    };
    let human = || {
        fields(&[
            ("Root", root.subject().to_owned()),
            ("Root SHA-256", sha256.clone()),
            ("Issuing CAs", verified.issued.len().to_string()),
            ("Transcript", path.display().to_string()),
            ("Fingerprint", fingerprint.clone()),
            ("Write down", "Each witness writes the fingerprint down by hand and takes it home.".to_owned()),
        ])
    };
    Ok(output.result(as_json, human)?)
}
