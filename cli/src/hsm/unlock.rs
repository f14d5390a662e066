//! `sealwright hsm unlock`

use super::one;
use crate::{error::Problem, output::OutputArgs, service::ConfigArgs};
use anyhow::Result;
use serde_json::json;

/// Options of `hsm unlock`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  sealwright hsm unlock --config /etc/sealwright/sealwright.toml

After a wrong PIN nothing is tried any more, by no start and no verb, so that the token does not lock itself. Correct the
PIN first. A running service tries it within a second after this; one that is stopped, at its next start.")]
pub struct UnlockArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// When the data directory cannot be written.
pub fn run(args: &UnlockArgs) -> Result<()> {
    let config = args.config.load()?;
    if !config.data_dir.is_dir() {
        let what = format!("{} is no directory, so nothing is locked out", config.data_dir.display());
        return Err(Problem::usage(what, "Correct data_dir, or run 'sealwright init' first.").into());
    }
    let mut done = Vec::new();
    for alone in one::each(&config)? {
        for token in &alone.tokens {
            let was_locked = hsm::unlock(&config.data_dir, token).map_err(|e| Problem::file(&config.data_dir, &e))?;
            done.push((one::name(&alone), was_locked));
        }
    }
    let json =
        || json!({ "tokens": done.iter().map(|(n, l)| json!({ "name": n, "was_locked_out": l })).collect::<Vec<_>>() });
    let human = || done.iter().map(|(name, was_locked)| sentence(name, *was_locked)).collect();
    Ok(args.output.result(json, human)?)
}

fn sentence(name: &str, was_locked: bool) -> String {
    match was_locked {
        true => format!("Token {name}: unlocked. A running service tries the PIN, once, within a second.\n"),
        false => format!("Token {name}: was not locked out by Sealwright; nothing was changed.\n"),
    }
}
