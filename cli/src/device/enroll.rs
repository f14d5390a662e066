//! `sealwright device enroll`

use super::{
    directory::Directory,
    exchange::{Connect, Means, can_attest, confirm, submit},
    key::DeviceKey,
    record::{Identity, Record, RequestKind},
    status::{now, report},
    tpm::{TpmAddress, TpmError},
};
use crate::{
    connection::read_certificates,
    error::{Exit, Problem},
    files,
    identity::IdentityArgs,
    output::OutputArgs,
};
use ca_core::id::{ProfileName, TenantId};
use std::path::PathBuf;

/// Makes a key on this device and gets a certificate for it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright device enroll --dir /var/lib/sealwright --server ca.example.com:8443 --trust roots.pem \\
      --token-file token
  sealwright device enroll --dir /var/lib/sealwright --server ca.example.com:8443 --trust roots.pem \\
      --tpm /dev/tpmrm0 --profile tpm-device

Running the same command again after a lost answer or a power cut gives the same certificate; after success it does
nothing.")]
pub struct EnrollArgs {
    /// Directory for key, certificate and state; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The server's gRPC address; its host must be in the server's certificate
    #[arg(long, value_name = "HOST:PORT", env = "SEALWRIGHT_SERVER")]
    pub server: String,
    /// PEM file with the root certificates to trust; copied into the directory
    #[arg(long, value_name = "FILE", env = "SEALWRIGHT_TRUST")]
    pub trust: PathBuf,
    /// A one-time enrollment token. Other users of this machine can read it in the list of processes: better put it in
    /// the environment, or use --token-file
    #[arg(
        long,
        value_name = "TOKEN",
        env = "SEALWRIGHT_TOKEN",
        hide_env_values = true,
        required_unless_present_any = ["tpm", "token_file"]
    )]
    pub token: Option<String>,
    /// A file with the one-time enrollment token; goes before --token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Make the key in this TPM 2.0 and attest it: /dev/tpmrm0, unix:PATH or swtpm:host=HOST,port=PORT
    #[arg(long, value_name = "TPM")]
    pub tpm: Option<TpmAddress>,
    /// The profile
    #[arg(long, value_name = "NAME", default_value = "tls-client")]
    pub profile: ProfileName,
    /// The tenant
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub tenant: TenantId,
    /// Who this device is, where neither the token nor the evidence says it
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// Enroll anew although there is a certificate, for one that was revoked; an expired one needs no such word
    #[arg(long)]
    pub again: bool,
    /// How to write what the device has now
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub async fn run(args: &EnrollArgs, connect: impl Connect) -> anyhow::Result<()> {
    let roots = read_certificates(&args.trust)?;
    let mut directory = Directory::open(&args.dir, true)?;
    let means = Means { token: token(args)?, tpm: args.tpm.clone() };
    let ended = directory.certificate().is_ok_and(|certificate| now() > certificate.not_after());
    if args.again || ended || directory.installed().is_err() {
        let device = args.identity.identity().map(Identity::from);
        let begun = directory.record().and_then(|record| record.request.clone());
        let request = match begun {
            Some(request) if request.kind == RequestKind::Enroll => {
                check_same(args, &device, directory.enrolled()?)?;
                request
            }
            other => {
                // A renewal that the old certificate cannot authenticate any more.
                if other.is_some() {
                    directory.abandon()?;
                }
                let key = DeviceKey::generate(args.tpm.as_ref())?;
                let attested = match &args.tpm {
                    Some(tpm) => can_attest(tpm)?,
                    None => false,
                };
                if !attested && means.token.is_none() {
                    return Err(TpmError::NoEndorsementCertificate.into());
                }
                let (server, tenant, profile) = (args.server.clone(), args.tenant.clone(), args.profile.clone());
                directory.begin(Record::new(server, tenant, profile, device, attested), RequestKind::Enroll, &key)?
            }
        };
        directory.write_trust(&roots)?;
        submit(&mut directory, &request, &means, &connect).await?;
    }
    confirm(&mut directory, &means, &connect).await?;
    report(&directory, args.output)
}

/// The longest file that can hold a token, in octets.
const TOKEN_FILE: u64 = 4096;

fn token(args: &EnrollArgs) -> Result<Option<String>, Problem> {
    let Some(path) = &args.token_file else { return Ok(args.token.clone()) };
    let unfit = || {
        Problem::usage(
            format!("{} holds no enrollment token", path.display()),
            "Write the token into it as 'sealwright token create' printed it, and nothing else.",
        )
    };
    let text = String::from_utf8(files::read(path, TOKEN_FILE)?).map_err(|_| unfit())?;
    let token = text.trim();
    if token.is_empty() || token.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(unfit());
    }
    Ok(Some(token.to_owned()))
}

/// An enrollment that was begun is only ever continued as it was begun: the server would refuse another.
fn check_same(args: &EnrollArgs, device: &Option<Identity>, begun: &Record) -> Result<(), Problem> {
    let option = if args.server != begun.server {
        "--server"
    } else if args.tenant != begun.tenant {
        "--tenant"
    } else if args.profile != begun.profile {
        "--profile"
    } else if *device != begun.device {
        "--serial-number, --manufacturer or --model"
    } else {
        return Ok(());
    };
    Err(Problem::new(
        Exit::Usage,
        format!("an enrollment with another {option} is under way in {}", args.dir.display()),
        "Repeat it as it was begun, or use another directory.",
    ))
}
