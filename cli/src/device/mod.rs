//! The device agent: makes a key on the device, gets a certificate for it, renews it in time.
//!
//! Everything that it must not forget is in one directory, on stable storage before the server hears of it: a lost
//! answer or a power cut is made good by running the same command again.

mod directory;
mod enroll;
mod exchange;
mod key;
mod octets;
mod record;
mod renew;
mod status;
pub mod tpm;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod fake;

use crate::connection;

/// The device's own verbs.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum DeviceCommand {
    /// Make a key on this device and get a certificate for it
    Enroll(Box<enroll::EnrollArgs>),
    /// Replace key and certificate by new ones
    Renew(renew::RenewArgs),
    /// Show what this device has, without asking the server
    Status(status::StatusArgs),
}

/// Runs one of the verbs.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub async fn run(command: DeviceCommand) -> anyhow::Result<()> {
    let connect = async |target: &connection::Target| connection::connect(target).await;
    let done = match command {
        DeviceCommand::Enroll(args) => enroll::run(&args, connect).await,
        DeviceCommand::Renew(args) => renew::run(&args, connect).await,
        DeviceCommand::Status(args) => status::run(&args),
    };
    done.map_err(explained)
}

/// Gives a failure of the TPM its advice.
fn explained(error: anyhow::Error) -> anyhow::Error {
    match error.chain().find_map(|cause| cause.downcast_ref::<tpm::TpmError>()) {
        Some(tpm) => crate::error::Problem::new(crate::error::Exit::Failure, tpm.to_string(), tpm.advice()).into(),
        None => error,
    }
}
