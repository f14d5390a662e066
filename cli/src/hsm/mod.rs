//! `sealwright hsm`: the token itself, on the machine of the service.

mod accept;
mod check;
mod one;
mod shown;
mod status;
mod unlock;

use crate::runtime;

/// What about the tokens.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum HsmCommand {
    /// Check whether a token does what is needed, and how fast
    Check(Box<check::CheckArgs>),
    /// Show each token of the configuration, and whether the journal knows it
    Status(status::StatusArgs),
    /// Let the PIN be tried again after a wrong one was corrected
    Unlock(unlock::UnlockArgs),
    /// Accept a token that was exchanged, rebuilt or restored
    Accept(accept::AcceptArgs),
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(command: HsmCommand) -> anyhow::Result<()> {
    match command {
        HsmCommand::Check(args) => check::run(*args),
        HsmCommand::Status(args) => status::run(&args),
        HsmCommand::Unlock(args) => unlock::run(&args),
        HsmCommand::Accept(args) => runtime::service(accept::run(args)),
    }
}
