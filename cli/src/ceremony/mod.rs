//! `sealwright ceremony`

mod combine;
mod secret;
mod split;

/// Which ceremony.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum CeremonyCommand {
    /// Split the token's PIN among custodians, so that some of them together can start the service
    SplitPin(split::SplitArgs),
    /// Prove that the custodians' shares give the PIN again, without showing it
    CombineCheck(combine::CombineArgs),
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(command: CeremonyCommand) -> anyhow::Result<()> {
    match command {
        CeremonyCommand::SplitPin(args) => split::run(&args),
        CeremonyCommand::CombineCheck(args) => combine::run(&args),
    }
}
