//! `sealwright hsm check`

use super::shown;
use crate::{error::Problem, output::OutputArgs, progress::Meter, service::ConfigArgs};
use anyhow::{Result, ensure};
use hsm::{
    PinSource, TokenConfig, TokenUri, TokensConfig,
    check::{self, Options},
};
use server::{config::parse_duration, serve, token_identity};
use std::{path::PathBuf, time::Duration};

/// Options of `hsm check`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright hsm check --config /etc/sealwright/sealwright.toml
  sealwright hsm check --uri 'pkcs11:token=sealwright' --module /usr/lib/softhsm/libsofthsm2.so --pin-file pin \\
      --environment SOFTHSM2_CONF=/etc/sealwright/softhsm2.conf

Makes scratch keys labelled 'sealwright check ...' and destroys them again; other keys are only listed. The PIN is tried
once: when it is wrong, nothing more is tried. It can run beside the service, and slows it down. Exit status 1 when
something failed that is required; what a token merely lacks is 'missing'.")]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// A token that is in no configuration, as a PKCS#11 URI; with --module and --pin-file
    #[arg(long, value_name = "URI", requires_all = ["module", "pin_file"])]
    uri: Option<TokenUri>,
    /// Its PKCS#11 library, an absolute path
    #[arg(long, value_name = "PATH", requires = "uri")]
    module: Option<PathBuf>,
    /// The file with its PIN, which only its owner can read
    #[arg(long, value_name = "FILE", requires = "uri")]
    pin_file: Option<PathBuf>,
    /// A variable for the library
    #[arg(long, value_name = "NAME=VALUE", requires = "uri", value_parser = parse_variable)]
    environment: Vec<(String, String)>,
    /// How long one signature may take, for slow tokens: up to 60s. Otherwise that of the configuration, or 5s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    deadline: Option<Duration>,
    /// How many seconds each number of sessions is measured
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Leave out RSA above 2048 bits, and the sessions
    #[arg(long)]
    fast: bool,
    #[command(flatten)]
    output: OutputArgs,
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

impl CheckArgs {
    fn tokens(&self) -> Result<TokensConfig> {
        let mut wanted = match (&self.uri, &self.module, &self.pin_file) {
            (Some(uri), Some(module), Some(pin)) => TokensConfig::one(TokenConfig {
                environment: self.environment.clone(),
                ..TokenConfig::new(module.clone(), uri.clone(), PinSource::File(pin.clone()))
            }),
            _ => serve::token_config(&self.config.load()?, token_identity::Known::default())?,
        };
        if wanted.tokens.iter().any(|t| matches!(t.pin, PinSource::Prompt | PinSource::Shares(_))) {
            return Err(Problem::usage(
                "the check starts many processes, and each would ask for the PIN",
                "Give --uri, --module and --pin-file, with the PIN in a file for as long as the check runs.",
            )
            .into());
        }
        wanted.deadline = self.deadline.unwrap_or(wanted.deadline);
        Ok(wanted)
    }
}

/// Runs the verb.
///
/// # Errors
/// When a check failed.
pub fn run(args: CheckArgs) -> Result<()> {
    let wanted = args.tokens()?;
    let options = Options { fast: args.fast, measure: Duration::from_secs(args.seconds) };
    let mut meter = Meter::new();
    let report = check::run(wanted, &options, |step| {
        meter.show(|| format!("{}: {} of {}: {}", step.token, step.done, step.of, step.what));
    });
    meter.clear();
    let failures = report.failures();
    args.output.result(|| shown::json(&report), || report.tokens.iter().map(shown::human).collect())?;
    ensure!(failures == 0, "{failures} checks failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name() {
        assert_eq!(parse_variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_variable("A="), Ok(("A".to_owned(), String::new())));
        assert!(parse_variable("A").is_err() && parse_variable("=b").is_err());
    }
}
