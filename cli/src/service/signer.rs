//! `sealwright signer`: the processes beside the service. Not for people.

use ceremony::shares::{Share, combine};
use clap::ValueEnum;
use std::process::ExitCode;
use zeroize::Zeroizing;

/// Which process this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Has the PINs; starts and ends the workers
    Keeper,
    /// Has the PKCS#11 module and one token's PIN
    Worker,
}

/// Is that process until it ends.
///
/// # Errors
/// None are told here: the processes talk to the service.
pub fn run(role: Role) -> anyhow::Result<()> {
    let code = match role {
        Role::Keeper => hsm::keeper::run(put_together),
        Role::Worker => hsm::signer::run(),
    };
    anyhow::ensure!(code == ExitCode::SUCCESS, "the {role:?} process ended with an error");
    Ok(())
}

/// Custodians' shares of a PIN, as they typed them.
fn put_together(typed: &[Zeroizing<String>]) -> Result<Zeroizing<String>, String> {
    let shares: Result<Vec<Share>, _> = typed.iter().map(|text| text.trim().parse()).collect();
    combine(&shares.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
}
