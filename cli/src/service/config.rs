//! `sealwright config`

use super::ConfigArgs;
use crate::output;

/// The commented configuration with every default.
pub const EXAMPLE: &str = include_str!("../../sealwright.example.toml");

/// What about the configuration.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration file without starting anything
    #[command(after_help = "Example:
  sealwright config check --config /etc/sealwright/sealwright.toml")]
    Check(ConfigArgs),
    /// Print a commented configuration with all defaults
    #[command(after_help = "Example:
  sealwright config example > /etc/sealwright/sealwright.toml")]
    Example,
}

/// Runs the verb.
///
/// # Errors
/// What is wrong with the file.
pub fn run(command: ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Check(args) => {
            args.load()?;
            output::text(&format!("{} is good\n", args.config.display()))?;
        }
        ConfigCommand::Example => output::text(EXAMPLE)?,
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use server::config::Config;
    use std::path::Path;

    #[test]
    fn the_example_is_a_good_configuration() {
        let config = Config::parse(EXAMPLE, Path::new("example")).unwrap();
        assert_eq!(config.tenants.len(), 1);
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        let text = EXAMPLE.replace("[grpc]\n", "[grpc]\nlissten = \"0.0.0.0:1\"\n");
        let error = Config::parse(&text, Path::new("example")).unwrap_err().to_string();
        assert!(error.contains("lissten") && error.contains("line"), "{error}");
    }
}
