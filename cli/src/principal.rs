//! `sealwright principal`

use crate::{
    confirmation::ConfirmationArgs,
    connection::{ConnectionArgs, DevPrincipal},
    error::{self, Exit, Problem},
    files::{self, Access},
    idempotency::{IdempotencyArgs, answer},
    json,
    output::{OutputArgs, fields},
    paging::{self, LimitArgs},
    rows,
    when::human,
    words::{self, PrincipalRole},
};
use anyhow::Context;
use ca_core::id::PrincipalId;
use proto::v1::{
    CreatePrincipalRequest, DisablePrincipalRequest, ListPrincipalsRequest, Principal, RenewRequest, Role,
    access_service_client::AccessServiceClient, enrollment_service_client::EnrollmentServiceClient,
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The protocol's limit of a certification request.
const MAX_CSR: u64 = 16 * 1024;

/// What about the principals.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum PrincipalCommand {
    /// Create a principal: make its key here, and get its certificate
    #[command(after_help = "Example:
  sealwright principal create line-3 --role station --out-dir ./credentials

Writes ID.key (private key, readable by you alone) and ID.pem (certificate and chain); hand both over
on a safe way, for --key and --cert. If the answer is lost, run the same command again: it completes
what was begun.")]
    Create(PrincipalCreateArgs),
    /// Renew your own certificate: a new key here, authenticated with the old one
    #[command(after_help = "Example:
  sealwright principal renew --out-dir ./credentials-2027 --as operator --dev target/dev

Writes NAME.key and NAME.pem beside each other; the old certificate works until the new one is first used.
If the answer is lost, run the same command again.")]
    Renew(PrincipalRenewArgs),
    /// Disable a principal for good and revoke its certificates
    #[command(after_help = "Example:
  sealwright principal disable line-3 --yes

Its certificates stop working at once, on open connections too. It cannot be enabled again.")]
    Disable(PrincipalDisableArgs),
    /// List the principals of your tenant
    #[command(after_help = "Example:
  sealwright principal list --all")]
    List(PrincipalListArgs),
}

/// Options of `principal create`.
#[derive(Clone, Debug, clap::Args)]
pub struct PrincipalCreateArgs {
    /// The new principal's name: 1 to 64 characters of a-z 0-9 . _ -
    #[arg(value_name = "ID")]
    id: PrincipalId,
    /// What it may do
    #[arg(long, value_enum)]
    role: PrincipalRole,
    /// The directory for its key and certificate; made if it does not exist
    #[arg(long, value_name = "DIR")]
    out_dir: PathBuf,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Options of `principal renew`.
#[derive(Clone, Debug, clap::Args)]
pub struct PrincipalRenewArgs {
    /// The directory for the new key and certificate; made if it does not exist
    #[arg(long, value_name = "DIR")]
    out_dir: PathBuf,
    /// The files' name
    #[arg(long, value_name = "NAME", default_value = "renewed")]
    name: PrincipalId,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Options of `principal disable`.
#[derive(Clone, Debug, clap::Args)]
pub struct PrincipalDisableArgs {
    /// The principal's name
    #[arg(value_name = "ID")]
    id: PrincipalId,
    #[command(flatten)]
    confirmation: ConfirmationArgs,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Options of `principal list`.
#[derive(Clone, Debug, clap::Args)]
pub struct PrincipalListArgs {
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
pub async fn run(command: PrincipalCommand) -> anyhow::Result<()> {
    match command {
        PrincipalCommand::Create(args) => create(args).await,
        PrincipalCommand::Renew(args) => renew(args).await,
        PrincipalCommand::Disable(args) => disable(args).await,
        PrincipalCommand::List(args) => list(args).await,
    }
}

/// The files of one new principal.
struct Files {
    key: PathBuf,
    /// Only there between the request and its answer; with it the same request can be made again.
    csr: PathBuf,
    certificate: PathBuf,
}

/// A request on disk.
struct Begun {
    csr: Vec<u8>,
    /// Whether an earlier run began it.
    earlier: bool,
}

impl Files {
    fn new(dir: &Path, id: &PrincipalId) -> Self {
        let file = |extension: &str| dir.join(format!("{id}.{extension}"));
        Self { key: file("key"), csr: file("csr"), certificate: file("pem") }
    }

    /// Makes key and request, or takes up those of an earlier run that got no answer.
    fn begin(&self, dir: &Path, id: &PrincipalId) -> anyhow::Result<Begun> {
        let taken = |path: &Path| {
            Problem::usage(
                format!("{} exists already", path.display()),
                "Choose another --out-dir, or move the old file away; it is never overwritten.",
            )
        };
        if self.certificate.exists() {
            return Err(taken(&self.certificate).into());
        }
        match (self.key.exists(), self.csr.exists()) {
            (true, true) => return Ok(Begun { csr: files::read(&self.csr, MAX_CSR)?, earlier: true }),
            (true, false) => return Err(taken(&self.key).into()),
            (false, true) => return Err(taken(&self.csr).into()),
            (false, false) => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| Problem::file(dir, &error))?;
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, id.to_string());
        let csr = params.serialize_request(&key)?.pem()?.into_bytes();
        files::create(&self.key, Zeroizing::new(key.serialize_pem()).as_bytes(), Access::Owner)?;
        files::create(&self.csr, &csr, Access::Everybody)?;
        Ok(Begun { csr, earlier: false })
    }

    /// After a refusal nothing of this run is of use.
    fn forget(&self) {
        for path in [&self.key, &self.csr] {
            if let Err(error) = fs::remove_file(path) {
                eprintln!("warning: {}: {error}", path.display());
            }
        }
    }

    fn finish(&self, pem: &str) -> Result<(), Problem> {
        files::create(&self.certificate, pem.as_bytes(), Access::Everybody)?;
        fs::remove_file(&self.csr).map_err(|error| Problem::file(&self.csr, &error))
    }
}

async fn create(args: PrincipalCreateArgs) -> anyhow::Result<()> {
    // Connecting comes first: a server that is down should leave no files.
    let mut client = AccessServiceClient::new(args.connection.connect(DevPrincipal::Admin).await?);
    let paths = Files::new(&args.out_dir, &args.id);
    let begun = paths.begin(&args.out_dir, &args.id)?;
    // From the request, so that the same command run again makes the same request.
    let key = args.idempotency.idempotency_key.unwrap_or_else(|| key_of(&begun.csr));
    let request = CreatePrincipalRequest {
        idempotency_key: key,
        principal_id: args.id.to_string(),
        role: Role::from(args.role) as i32,
        csr: begun.csr,
    };
    let created = match client.create_principal(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(not_created(&paths, begun.earlier, status).into()),
    };
    paths.finish(&created.pem)?;
    let human = || {
        let certificate = created.certificate.clone().unwrap_or_default();
        principal_fields(
            created.principal.as_ref(),
            &[
                ("Serial", certificate.r#ref.map(|r| r.serial_number).unwrap_or_default()),
                ("Valid to", human(certificate.not_after.as_ref())),
                ("Key", paths.key.display().to_string()),
                ("Certificate", paths.certificate.display().to_string()),
            ],
        )
    };
    Ok(args.output.result(|| json::create_principal(&created), human)?)
}

/// The idempotency key of a request that is on disk: the same after a lost answer.
fn key_of(csr: &[u8]) -> String {
    hex::encode(Sha256::digest(csr)).chars().take(32).collect()
}

async fn renew(args: PrincipalRenewArgs) -> anyhow::Result<()> {
    let mut client = EnrollmentServiceClient::new(args.connection.connect(DevPrincipal::Operator).await?);
    let paths = Files::new(&args.out_dir, &args.name);
    let begun = paths.begin(&args.out_dir, &args.name)?;
    let request = RenewRequest { idempotency_key: key_of(&begun.csr), csr: begun.csr, evidence: None };
    let renewed = match client.renew(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(not_created(&paths, begun.earlier, status).into()),
    };
    paths.finish(&renewed.pem)?;
    let certificate = renewed.certificate.context("the server's answer has no certificate")?;
    let human = || {
        fields(&[
            ("Principal", certificate.principal_id.clone()),
            ("Serial", certificate.r#ref.clone().map(|r| r.serial_number).unwrap_or_default()),
            ("Valid to", human(certificate.not_after.as_ref())),
            ("Key", paths.key.display().to_string()),
            ("Certificate", paths.certificate.display().to_string()),
        ])
    };
    Ok(args.output.result(|| json::certificate(&certificate), human)?)
}

fn not_created(paths: &Files, earlier: bool, status: tonic::Status) -> Problem {
    let mut problem = error::from_status(&status);
    match problem.exit {
        // The server decided against it, so no certificate exists for this key.
        Exit::Usage | Exit::NotFound | Exit::Refused if !earlier => paths.forget(),
        Exit::Usage | Exit::NotFound | Exit::Refused => {
            problem.advice.push_str(&format!(
                " An earlier run left {} and {}; remove them to begin anew.",
                paths.key.display(),
                paths.csr.display()
            ));
        }
        Exit::Failure | Exit::Unavailable => {
            problem.advice.push_str(" Then run the same command again; it goes on with the key that it made.");
        }
    }
    problem
}

async fn disable(args: PrincipalDisableArgs) -> anyhow::Result<()> {
    if args.confirmation.must_ask()? {
        ConfirmationArgs::demand(&format!(
            "Disable principal {} for good and revoke its certificates? This cannot be undone.",
            args.id
        ))?;
    }
    let mut client = AccessServiceClient::new(args.connection.connect(DevPrincipal::Admin).await?);
    let key = args.idempotency.key();
    let request = DisablePrincipalRequest { idempotency_key: key.clone(), principal_id: args.id.to_string() };
    let disabled = answer(client.disable_principal(request).await, key)?;
    let principal = disabled.principal.context("the server's answer names no principal")?;
    Ok(args.output.result(|| json::principal(&principal), || principal_fields(Some(&principal), &[]))?)
}

async fn list(args: PrincipalListArgs) -> anyhow::Result<()> {
    let client = AccessServiceClient::new(args.connection.connect(DevPrincipal::Admin).await?);
    let mut list = args.output.list("principals", rows::PRINCIPAL);
    let fetch = |page_size, page_token| {
        let mut client = client.clone();
        async move {
            let page = client.list_principals(ListPrincipalsRequest { page_size, page_token }).await?.into_inner();
            Ok((page.principals, page.next_page_token))
        }
    };
    let truncated = paging::walk(args.limit, fetch, |page| list.page(page, json::principal, rows::principal)).await?;
    Ok(list.end(truncated)?)
}

fn principal_fields(principal: Option<&Principal>, more: &[(&str, String)]) -> String {
    let principal = principal.cloned().unwrap_or_default();
    let disabled = principal.disabled_at.as_ref().map(|at| human(Some(at))).unwrap_or_default();
    let mut lines = vec![
        ("Principal", principal.principal_id),
        ("Role", words::role(principal.role)),
        ("Created", human(principal.created_at.as_ref())),
        ("Created by", principal.created_by),
        ("Disabled", disabled),
    ];
    lines.extend_from_slice(more);
    fields(&lines)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tonic::Status;

    fn files(dir: &Path) -> (Files, PrincipalId) {
        let id: PrincipalId = "line-3".parse().unwrap();
        (Files::new(dir, &id), id)
    }

    #[test]
    fn a_lost_answer_is_completed_with_the_same_request() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("new");
        let (paths, id) = files(&dir);
        let first = paths.begin(&dir, &id).unwrap();
        assert!(!first.earlier);
        assert_eq!(fs::metadata(&paths.key).unwrap().permissions().mode() & 0o777, 0o600);
        let problem = not_created(&paths, false, Status::unavailable("x"));
        assert_eq!(problem.exit, Exit::Unavailable);

        let again = paths.begin(&dir, &id).unwrap();
        assert!(again.earlier);
        assert_eq!(first.csr, again.csr);
        // A refusal now may follow a success whose answer was lost, so the key stays.
        assert!(not_created(&paths, true, Status::permission_denied("x")).advice.contains("remove them"));
        assert!(paths.key.exists());

        paths.finish("P").unwrap();
        assert!(paths.key.exists() && paths.certificate.exists() && !paths.csr.exists());
        assert!(paths.begin(&dir, &id).is_err());
    }

    #[test]
    fn a_refusal_leaves_no_key() {
        let temporary = tempfile::tempdir().unwrap();
        let (paths, id) = files(temporary.path());
        paths.begin(temporary.path(), &id).unwrap();
        not_created(&paths, false, Status::already_exists("x"));
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_request_names_the_principal_and_proves_its_key() {
        let temporary = tempfile::tempdir().unwrap();
        let (paths, id) = files(temporary.path());
        paths.begin(temporary.path(), &id).unwrap();
        let output = std::process::Command::new("openssl")
            .args(["req", "-verify", "-noout", "-subject", "-in"])
            .arg(&paths.csr)
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: no openssl");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("CN") && said.contains("line-3"), "{said}");
        assert!(said.contains("verify OK"), "{said}");
    }
}
