//! `sealwright device renew`

use super::{
    directory::Directory,
    exchange::{Connect, Means, confirm, submit},
    key::DeviceKey,
    record::RequestKind,
    status::{is_due, now, report},
    tpm::TpmAddress,
};
use crate::output::OutputArgs;
use std::path::PathBuf;

/// Replaces key and certificate by new ones, authenticated with the old.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright device renew --dir /var/lib/sealwright --if-due
  sealwright device renew --dir /var/lib/sealwright

With --if-due it may run daily; the old certificate stays in use until the new one is in place.")]
pub struct RenewArgs {
    /// The device's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Do nothing before two thirds of the certificate's lifetime have passed
    #[arg(long)]
    pub if_due: bool,
    /// Where the TPM is now, if it is not where it was
    #[arg(long, value_name = "TPM")]
    pub tpm: Option<TpmAddress>,
    /// How to write what the device has now
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub async fn run(args: &RenewArgs, connect: impl Connect) -> anyhow::Result<()> {
    let mut directory = Directory::open(&args.dir, false)?;
    let means = Means { token: None, tpm: args.tpm.clone() };
    directory.installed()?;
    // The certificate in use may still wait for its confirmation; it is confirmed before it makes room.
    confirm(&mut directory, &means, &connect).await?;
    let record = directory.enrolled()?.clone();
    let request = match record.request.clone() {
        // What was begun is finished, due or not.
        Some(request) => Some(request),
        None if args.if_due && !is_due(&directory.certificate()?, now()) => None,
        None => {
            let (current, _) = directory.current(args.tpm.as_ref())?;
            let tpm = match &current {
                DeviceKey::Tpm(key) => Some(key.address()),
                DeviceKey::File(_) => None,
            };
            let key = DeviceKey::generate(tpm)?;
            Some(directory.begin(record, RequestKind::Renew, &key)?)
        }
    };
    if let Some(request) = request {
        submit(&mut directory, &request, &means, &connect).await?;
        confirm(&mut directory, &means, &connect).await?;
    }
    report(&directory, args.output)
}
