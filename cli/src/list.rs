//! `sealwright list`

use crate::{
    connection::{ConnectionArgs, DevPrincipal},
    json,
    output::OutputArgs,
    paging::{self, LimitArgs},
    rows,
    words::State,
};
use proto::v1::{
    CertificateState, ListCertificatesRequest, ListDevicesRequest, certificate_service_client::CertificateServiceClient,
};

/// What to list.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ListCommand {
    /// List certificates in the order of their issuance
    #[command(after_help = "Examples:
  sealwright list certificates --state revoked
  sealwright list certificates --profile tls-client --all --output json")]
    Certificates(CertificatesArgs),
    /// List devices in the order of their first enrollment
    #[command(after_help = "Example:
  sealwright list devices --prefix SN-00 --limit 20")]
    Devices(DevicesArgs),
}

/// Filters for certificates.
#[derive(Clone, Debug, clap::Args)]
pub struct CertificatesArgs {
    /// Only those of this device
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    device: String,
    /// Only those of this principal
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    principal: String,
    /// Only those under this profile
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    profile: String,
    /// Only those in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only those of this issuer
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    issuer: String,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Filters for devices.
#[derive(Clone, Debug, clap::Args)]
pub struct DevicesArgs {
    /// Only those whose identifier begins with this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only those of this model
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    model: String,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub async fn run(command: ListCommand) -> anyhow::Result<()> {
    match command {
        ListCommand::Certificates(args) => certificates(args).await,
        ListCommand::Devices(args) => devices(args).await,
    }
}

async fn certificates(args: CertificatesArgs) -> anyhow::Result<()> {
    let client = CertificateServiceClient::new(args.connection.connect(DevPrincipal::Operator).await?);
    let filter = ListCertificatesRequest {
        device_id: args.device,
        profile: args.profile,
        state: args.state.map_or(CertificateState::Unspecified, Into::into) as i32,
        issuer_id: args.issuer,
        principal_id: args.principal,
        ..Default::default()
    };
    let mut list = args.output.list("certificates", rows::CERTIFICATE);
    let fetch = |page_size, page_token| {
        let (mut client, request) =
            (client.clone(), ListCertificatesRequest { page_size, page_token, ..filter.clone() });
        async move {
            let page = client.list_certificates(request).await?.into_inner();
            Ok((page.certificates, page.next_page_token))
        }
    };
    let truncated =
        paging::walk(args.limit, fetch, |page| list.page(page, json::certificate, rows::certificate)).await?;
    Ok(list.end(truncated)?)
}

async fn devices(args: DevicesArgs) -> anyhow::Result<()> {
    let client = CertificateServiceClient::new(args.connection.connect(DevPrincipal::Operator).await?);
    let filter = ListDevicesRequest { device_id_prefix: args.prefix, model: args.model, ..Default::default() };
    let mut list = args.output.list("devices", rows::DEVICE);
    let fetch = |page_size, page_token| {
        let (mut client, request) = (client.clone(), ListDevicesRequest { page_size, page_token, ..filter.clone() });
        async move {
            let page = client.list_devices(request).await?.into_inner();
            Ok((page.devices, page.next_page_token))
        }
    };
    let truncated = paging::walk(args.limit, fetch, |page| list.page(page, json::device, rows::device)).await?;
    Ok(list.end(truncated)?)
}
