//! `sealwright status`

use crate::{
    connection::{ConnectionArgs, DevPrincipal},
    json,
    lookup::{self, CertificateArgs},
    output::OutputArgs,
    rows,
};
use proto::v1::{GetStatusRequest, revocation_service_client::RevocationServiceClient};

/// Tells whether a certificate is good or revoked, and whether the CRL says so yet.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  sealwright status 4f3a91c2d0 --output json | jq -r .status

The exit code is 0 for a revoked certificate too; read the status.")]
pub struct StatusArgs {
    #[command(flatten)]
    certificate: CertificateArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let channel = args.connection.connect(DevPrincipal::Operator).await?;
    let of = lookup::reference(&channel, &args.certificate.serial, &args.certificate.issuer).await?;
    let request = GetStatusRequest { r#ref: Some(of.clone()) };
    let status = RevocationServiceClient::new(channel).get_status(request).await?.into_inner();
    Ok(args.output.result(|| json::get_status(&of, &status), || rows::status(&of, &status))?)
}
