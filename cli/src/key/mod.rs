//! `sealwright key`: the keys in the token, on the server's own machine.

mod attest;
pub mod facts;
mod generate;
pub mod place;
mod retire;
mod view;

/// What about the keys.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a key pair in the token that cannot leave it and only signs
    Generate(generate::GenerateArgs),
    /// List the keys in the token: what each is for, and what is wrong with it
    List(view::ListArgs),
    /// Show one key with its attributes
    Inspect(view::InspectArgs),
    /// Have a key state its own facts, signed, with a fresh nonce; or verify such a statement
    Attest(attest::AttestArgs),
    /// End a key's use for good, and destroy it if asked to
    Retire(retire::RetireArgs),
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Generate(args) => generate::run(&args),
        KeyCommand::List(args) => view::list(&args),
        KeyCommand::Inspect(args) => view::inspect(&args),
        KeyCommand::Attest(args) => attest::run(&args),
        KeyCommand::Retire(args) => retire::run(&args),
    }
}
