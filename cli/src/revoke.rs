//! `sealwright revoke`

use crate::{
    confirmation::ConfirmationArgs,
    connection::{ConnectionArgs, DevPrincipal},
    idempotency::{IdempotencyArgs, answer},
    json,
    lookup::{self, IssuerArgs},
    output::OutputArgs,
    rows, when,
    words::{self, Reason},
};
use ca_core::serial::SerialNumber;
use prost_types::Timestamp;
use proto::v1::{
    CertificateRef, GetCertificateRequest, GetDeviceRequest, RevocationReason, RevokeRequest,
    certificate_service_client::CertificateServiceClient, revocation_service_client::RevocationServiceClient,
    revoke_request,
};
use tonic::transport::Channel;

/// Revokes a certificate, or all live certificates of a device.
#[derive(Clone, Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("target").required(true).args(["serial", "device"]),
    after_help = "Examples:
  sealwright revoke 4f3a91c2d0 --reason key-compromise --invalidity-date 2026-11-01
  sealwright revoke --device SN-0001 --reason cessation-of-operation --yes

A revocation cannot be undone. It is durable when this command returns; OCSP answers it at once,
and the next CRL follows within seconds. Revoking again is no error: the first date stays."
)]
pub struct RevokeArgs {
    /// The serial number in hexadecimal, colons allowed
    #[arg(value_name = "SERIAL")]
    serial: Option<SerialNumber>,
    /// Revoke every live certificate of this device
    #[arg(long, value_name = "ID", conflicts_with = "issuer")]
    device: Option<String>,
    #[command(flatten)]
    issuer: IssuerArgs,
    /// Why
    #[arg(long, value_enum)]
    reason: Reason,
    /// When the key is believed to have been compromised: a date or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = when::parse_time)]
    invalidity_date: Option<Timestamp>,
    /// A note for the journal, at most 256 characters
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
    #[command(flatten)]
    confirmation: ConfirmationArgs,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub async fn run(args: RevokeArgs) -> anyhow::Result<()> {
    // Before anything is sent: a script without --yes learns it at once.
    let ask = args.confirmation.must_ask()?;
    let channel = args.connection.connect(DevPrincipal::Operator).await?;
    let target = match (&args.serial, args.device) {
        (Some(serial), _) => revoke_request::Target::Ref(lookup::reference(&channel, serial, &args.issuer).await?),
        (None, device) => revoke_request::Target::DeviceId(device.unwrap_or_default()),
    };
    let reason = RevocationReason::from(args.reason);
    if ask {
        let object = match &target {
            revoke_request::Target::Ref(of) => describe_certificate(&channel, of).await?,
            revoke_request::Target::DeviceId(id) => describe_device(&channel, id).await?,
        };
        let reason = words::reason(reason as i32);
        ConfirmationArgs::demand(&format!("Revoke {object}, reason {reason}? This cannot be undone."))?;
    }
    let key = args.idempotency.key();
    let request = RevokeRequest {
        idempotency_key: key.clone(),
        target: Some(target),
        reason: reason as i32,
        invalidity_date: args.invalidity_date,
        comment: args.comment,
    };
    let revoked = answer(RevocationServiceClient::new(channel).revoke(request).await, key)?;
    args.output.result(|| json::revoke(&revoked), || rows::revoked(&revoked))?;
    Ok(())
}

async fn describe_certificate(channel: &Channel, of: &CertificateRef) -> anyhow::Result<String> {
    let request = GetCertificateRequest { r#ref: Some(of.clone()) };
    let found = CertificateServiceClient::new(channel.clone()).get_certificate(request).await?.into_inner();
    let certificate = found.certificate.unwrap_or_default();
    Ok(format!("certificate {} ({}) of {}", of.serial_number, certificate.subject, rows::holder(&certificate)))
}

async fn describe_device(channel: &Channel, id: &str) -> anyhow::Result<String> {
    let request = GetDeviceRequest { device_id: id.to_owned() };
    let found = CertificateServiceClient::new(channel.clone()).get_device(request).await?.into_inner();
    let count = found.device.unwrap_or_default().certificate_count;
    Ok(format!("every live certificate of device {id} (it was issued {count} so far)"))
}
