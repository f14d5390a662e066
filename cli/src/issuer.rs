//! `sealwright issuer`

use crate::{
    connection::{ConnectionArgs, DevPrincipal},
    json,
    output::{self, Format, OutputArgs},
    rows, terminal,
};
use proto::v1::{GetTrustBundleRequest, ListIssuersRequest, authority_service_client::AuthorityServiceClient};

/// What about the issuers.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum IssuerCommand {
    /// List the issuing CAs of your tenant
    #[command(after_help = "Example:
  sealwright issuer list")]
    List(IssuerListArgs),
    /// Write the root certificates that your devices and servers must trust, as PEM
    #[command(after_help = "Examples:
  sealwright issuer trust > roots.pem
  sealwright issuer trust --fingerprint

Compare the fingerprints with what you were told on another way before you rely on the roots.")]
    Trust(IssuerTrustArgs),
}

/// Options of `issuer list`.
#[derive(Clone, Debug, clap::Args)]
pub struct IssuerListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Options of `issuer trust`.
#[derive(Clone, Debug, clap::Args)]
pub struct IssuerTrustArgs {
    /// Write the SHA-256 fingerprint of each root instead, one a line
    #[arg(long)]
    fingerprint: bool,
    /// The tenant, when you have no client certificate
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    tenant: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub async fn run(command: IssuerCommand) -> anyhow::Result<()> {
    match command {
        IssuerCommand::List(args) => {
            let mut client = AuthorityServiceClient::new(args.connection.connect(DevPrincipal::Operator).await?);
            let issuers = client.list_issuers(ListIssuersRequest {}).await?.into_inner().issuers;
            let mut list = args.output.list("issuers", rows::ISSUER);
            list.page(&issuers, json::issuer, rows::issuer)?;
            Ok(list.end(false)?)
        }
        IssuerCommand::Trust(args) => {
            let mut client = AuthorityServiceClient::new(args.connection.connect(DevPrincipal::Operator).await?);
            let bundle = client.get_trust_bundle(GetTrustBundleRequest { tenant: args.tenant }).await?.into_inner();
            let human = || match args.fingerprint {
                true => bundle.fingerprints.iter().map(|line| terminal::clean(line) + "\n").collect(),
                false => bundle.pem.clone(),
            };
            match args.output.output {
                Format::Human => output::text(&human())?,
                Format::Json => args.output.result(|| json::trust_bundle(&bundle), String::new)?,
            }
            Ok(())
        }
    }
}
