//! `sealwright show`

use crate::{
    connection::{ConnectionArgs, DevPrincipal},
    error::{Exit, Problem},
    json,
    lookup::{self, CertificateArgs},
    output::{self, OutputArgs},
    rows,
};
use proto::v1::{
    CertificateRef, GetCertificateRequest, GetCertificateResponse, GetDeviceRequest,
    certificate_service_client::CertificateServiceClient,
};
use tonic::transport::Channel;

/// What to show.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ShowCommand {
    /// Show one certificate
    #[command(after_help = "Examples:
  sealwright show certificate 4f3a91c2d0
  sealwright show certificate 4f:3a:91:c2:d0 --pem > device.pem")]
    Certificate(ShowCertificateArgs),
    /// Show one device with its newest certificates
    #[command(after_help = "Examples:
  sealwright show device SN-0001
  sealwright show device SN-0001 --output json | jq -r .device.current.serial_number")]
    Device(ShowDeviceArgs),
}

/// Which certificate.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowCertificateArgs {
    #[command(flatten)]
    certificate: CertificateArgs,
    /// Write the certificate and its chain as PEM, and nothing else
    #[arg(long, conflicts_with = "output")]
    pem: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which device.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowDeviceArgs {
    /// The device's identifier
    #[arg(value_name = "ID")]
    id: String,
    /// Write the device's current certificate and its chain as PEM, and nothing else
    #[arg(long, conflicts_with = "output")]
    pem: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub async fn run(command: ShowCommand) -> anyhow::Result<()> {
    match command {
        ShowCommand::Certificate(args) => certificate(args).await,
        ShowCommand::Device(args) => device(args).await,
    }
}

async fn fetch(channel: &Channel, of: CertificateRef) -> anyhow::Result<GetCertificateResponse> {
    let request = GetCertificateRequest { r#ref: Some(of) };
    Ok(CertificateServiceClient::new(channel.clone()).get_certificate(request).await?.into_inner())
}

async fn certificate(args: ShowCertificateArgs) -> anyhow::Result<()> {
    let channel = args.connection.connect(DevPrincipal::Operator).await?;
    let of = lookup::reference(&channel, &args.certificate.serial, &args.certificate.issuer).await?;
    let found = fetch(&channel, of).await?;
    if args.pem {
        return Ok(output::text(&found.pem)?);
    }
    let human = || rows::certificate_fields(&found.certificate.clone().unwrap_or_default());
    Ok(args.output.result(|| json::get_certificate(&found), human)?)
}

async fn device(args: ShowDeviceArgs) -> anyhow::Result<()> {
    let channel = args.connection.connect(DevPrincipal::Operator).await?;
    let request = GetDeviceRequest { device_id: args.id.clone() };
    let found = CertificateServiceClient::new(channel.clone()).get_device(request).await?.into_inner();
    if args.pem {
        let current = found.device.and_then(|d| d.current).ok_or_else(|| {
            Problem::new(
                Exit::NotFound,
                format!("device {} has no certificate", args.id),
                "Enroll it; `sealwright list certificates --device` shows what it ever had.",
            )
        })?;
        return Ok(output::text(&fetch(&channel, current).await?.pem)?);
    }
    Ok(args.output.result(|| json::get_device(&found), || rows::device_fields(&found))?)
}
