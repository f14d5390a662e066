//! `sealwright enroll`

use crate::{
    connection::{self, ConnectionArgs, DevPrincipal},
    error::Problem,
    files::{self, Access},
    idempotency::{IdempotencyArgs, answer},
    identity::IdentityArgs,
    json,
    output::{OutputArgs, fields},
    rows,
    when::human,
};
use proto::v1::{EnrollRequest, enrollment_service_client::EnrollmentServiceClient};
use std::path::PathBuf;

/// The protocol's limit of a certification request.
const MAX_CSR: u64 = 16 * 1024;

/// Enrolls a device with a certification request that exists already.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright enroll --csr SN-0001.csr --serial-number SN-0001 --out SN-0001.pem
  sealwright enroll --csr SN-0001.csr --token \"$TOKEN\" --out SN-0001.pem

Without --token it needs a station's certificate. The device's private key is not needed and never
asked for.")]
pub struct EnrollArgs {
    /// The PKCS#10 certification request, PEM or DER
    #[arg(long, value_name = "FILE")]
    csr: PathBuf,
    /// The profile; the server's default is tls-client
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    profile: String,
    #[command(flatten)]
    identity: IdentityArgs,
    /// A one-time enrollment token; connects without a client certificate
    #[arg(long, value_name = "TOKEN", env = "SEALWRIGHT_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The tenant, with --token
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    tenant: String,
    /// Where to write the certificate and its chain as PEM; replaced if it exists
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
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
pub async fn run(args: EnrollArgs) -> anyhow::Result<()> {
    let csr = files::read(&args.csr, MAX_CSR)?;
    let target = match args.token {
        Some(_) => args.connection.anonymous()?,
        None => args.connection.target(DevPrincipal::Station)?,
    };
    let mut client = EnrollmentServiceClient::new(connection::connect(&target).await?);
    let key = args.idempotency.key();
    let again = key.clone();
    let request = EnrollRequest {
        idempotency_key: key.clone(),
        tenant: args.tenant,
        profile: args.profile,
        csr,
        device: args.identity.identity(),
        enrollment_token: args.token.unwrap_or_default(),
        evidence: None,
    };
    let enrolled = answer(client.enroll(request).await, key)?;
    files::replace(&args.out, enrolled.pem.as_bytes(), Access::Everybody).map_err(|problem| Problem {
        advice: format!("The certificate is issued; repeat with --idempotency-key {again} to get it once more."),
        ..problem
    })?;
    let human = || {
        let certificate = enrolled.certificate.clone().unwrap_or_default();
        fields(&[
            ("Serial", certificate.r#ref.as_ref().map(|r| r.serial_number.clone()).unwrap_or_default()),
            ("Holder", rows::holder(&certificate)),
            ("Subject", certificate.subject.clone()),
            ("Valid to", human(certificate.not_after.as_ref())),
            ("Written to", args.out.display().to_string()),
            (
                "Note",
                if enrolled.replayed { "issued before; the same certificate again".into() } else { String::new() },
            ),
        ])
    };
    Ok(args.output.result(|| json::enroll(&enrolled), human)?)
}
