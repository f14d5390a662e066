//! `sealwright profile`

use crate::{
    connection::{ConnectionArgs, DevPrincipal},
    json,
    output::{self, OutputArgs},
    rows,
};
use proto::v1::{GetProfileRequest, ListProfilesRequest, authority_service_client::AuthorityServiceClient};

/// What about the profiles.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ProfileCommand {
    /// List the certificate profiles
    #[command(after_help = "Example:
  sealwright profile list")]
    List(ProfileListArgs),
    /// Show one certificate profile
    #[command(after_help = "Examples:
  sealwright profile show tls-client
  sealwright profile show tls-client --toml > tls-client.toml")]
    Show(ProfileShowArgs),
}

/// Options of `profile list`.
#[derive(Clone, Debug, clap::Args)]
pub struct ProfileListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Options of `profile show`.
#[derive(Clone, Debug, clap::Args)]
pub struct ProfileShowArgs {
    /// The profile's name
    #[arg(value_name = "NAME")]
    name: String,
    /// Write the profile's TOML, and nothing else
    #[arg(long, conflicts_with = "output")]
    toml: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub async fn run(command: ProfileCommand) -> anyhow::Result<()> {
    match command {
        ProfileCommand::List(args) => {
            let mut client = AuthorityServiceClient::new(args.connection.connect(DevPrincipal::Operator).await?);
            let profiles = client.list_profiles(ListProfilesRequest {}).await?.into_inner().profiles;
            let mut list = args.output.list("profiles", rows::PROFILE);
            list.page(&profiles, json::profile, rows::profile)?;
            Ok(list.end(false)?)
        }
        ProfileCommand::Show(args) => {
            let mut client = AuthorityServiceClient::new(args.connection.connect(DevPrincipal::Operator).await?);
            let answer = client.get_profile(GetProfileRequest { name: args.name }).await?.into_inner();
            let profile = answer.profile.unwrap_or_default();
            if args.toml {
                return Ok(output::text(&profile.toml)?);
            }
            Ok(args.output.result(|| json::profile(&profile), || rows::profile_fields(&profile))?)
        }
    }
}
