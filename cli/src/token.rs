//! `sealwright token`

use crate::{
    connection::{ConnectionArgs, DevPrincipal},
    idempotency::{IdempotencyArgs, answer},
    identity::IdentityArgs,
    json,
    output::{OutputArgs, fields},
    when,
};
use proto::v1::{CreateEnrollmentTokenRequest, access_service_client::AccessServiceClient};
use std::time::Duration;

/// What about the tokens.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a one-time enrollment token for one device
    #[command(after_help = "Examples:
  sealwright token create --serial-number SN-0001 --ttl 2h
  sealwright token create --profile tls-client --output json | jq -r .enrollment_token

The token is a secret and is shown only here. Without --serial-number whoever uses it names the
device.")]
    Create(TokenCreateArgs),
}

/// Options of `token create`.
#[derive(Clone, Debug, clap::Args)]
pub struct TokenCreateArgs {
    /// The only profile that the token opens; the server's default is tls-client
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    profile: String,
    #[command(flatten)]
    identity: IdentityArgs,
    /// How long it can be used: 1m to 30d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = when::parse_time_to_live)]
    ttl: Duration,
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
pub async fn run(TokenCommand::Create(args): TokenCommand) -> anyhow::Result<()> {
    let mut client = AccessServiceClient::new(args.connection.connect(DevPrincipal::Operator).await?);
    let key = args.idempotency.key();
    let request = CreateEnrollmentTokenRequest {
        idempotency_key: key.clone(),
        profile: args.profile,
        device: args.identity.identity(),
        time_to_live: Some(prost_types::Duration { seconds: i64::try_from(args.ttl.as_secs())?, nanos: 0 }),
    };
    let token = answer(client.create_enrollment_token(request).await, key)?;
    let human = || {
        fields(&[
            ("Token", token.enrollment_token.clone()),
            ("Identifier", token.token_id.clone()),
            ("Expires", when::human(token.expires_at.as_ref())),
        ])
    };
    Ok(args.output.result(|| json::enrollment_token(&token), human)?)
}
