//! `sealwright ceremony`

mod combine;
mod root;
mod secret;
mod split;
mod verify;

/// Which ceremony.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum CeremonyCommand {
    /// Make a root together, offline, with a transcript that the root key seals
    Root(Box<root::RootArgs>),
    /// Verify the transcript of a root ceremony
    Verify(verify::VerifyArgs),
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
    // PIN and shares are in this process for a while.
    hsm::keep_secrets()?;
    match command {
        CeremonyCommand::Root(args) => root::run(*args),
        CeremonyCommand::Verify(args) => verify::run(&args),
        CeremonyCommand::SplitPin(args) => split::run(&args),
        CeremonyCommand::CombineCheck(args) => combine::run(&args),
    }
}
