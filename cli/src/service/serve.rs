//! `sealwright serve`

use super::{ConfigArgs, init::private_dir};

/// Options of `serve`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  sealwright serve --config /etc/sealwright/sealwright.toml

Ends in order on SIGTERM and SIGINT: calls in progress finish, within ten seconds.")]
pub struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Vouch for the clock: issue although it disagrees with the journal. For this one run
    #[arg(long)]
    accept_clock: bool,
}

/// Runs the service until it is told to stop.
///
/// # Errors
/// What keeps it from starting, or what ended it.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let mut config = args.config.load()?;
    config.accept_clock = args.accept_clock;
    if config.data_dir.is_dir() {
        private_dir(&config.data_dir)?;
    }
    server::telemetry::start_logging(&config.telemetry);
    server::serve::run(config).await
}
