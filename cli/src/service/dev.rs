//! `sealwright dev`: a whole throw-away authority on loopback, with a SoftHSM token of its own.

use super::{
    credential::Credential,
    init::{folder, is_open, private_dir},
};
use crate::{
    error::Problem,
    files::{self, Access},
    terminal,
};
use anyhow::{Context, Result};
use ca_core::id::{IdempotencyKey, ProfileName, TenantId};
use serde_json::{Map, Value, json};
use server::{access::Role, bootstrap, ca::Ca, config::Config, convert, limits, principals, request, serve};
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// SoftHSM reads its configuration from where this variable says.
const SOFTHSM_CONF: &str = "SOFTHSM2_CONF";
const TOKEN: &str = "sealwright-dev";
/// The data directory in the authority's own.
const DATA: &str = "data";
const ROLES: [(&str, Role); 4] =
    [("admin", Role::Admin), ("operator", Role::Operator), ("station", Role::Station), ("auditor", Role::Auditor)];

/// Options of `dev`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  sealwright dev --dir target/dev --grpc-port 0 --http-port 0

Everything is in the directory: a SoftHSM token, the journal, credentials for each role, and dev.json for scripts.
Starting again on the same directory goes on where it stopped. NOT FOR PRODUCTION: use 'init' and 'serve' there.")]
pub struct DevArgs {
    /// Where everything is kept; made when it is not there
    #[arg(long, value_name = "DIR", default_value = "sealwright-dev")]
    dir: PathBuf,
    /// Port for gRPC on 127.0.0.1; 0 takes the one of the last run, or any
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    grpc_port: u16,
    /// Port for CRLs, OCSP and metrics on 127.0.0.1; 0 takes the one of the last run, or any
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
    /// Trust anchors for TPM endorsement key certificates: a PEM or DER file, or a folder of them. May be repeated
    #[arg(long, value_name = "FILE")]
    tpm_roots: Vec<PathBuf>,
    /// One more tenant beside "default". May be repeated
    #[arg(long, value_name = "NAME")]
    tenant: Vec<TenantId>,
    /// Log filter
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

/// Makes the directory, and SoftHSM's configuration in it.
///
/// # Errors
/// When the directory cannot be written.
pub fn prepare(args: &DevArgs) -> Result<()> {
    own_dir(&args.dir)?;
    let dir = fs::canonicalize(&args.dir)?;
    let tokens = dir.join("softhsm").join("tokens");
    folder(&tokens)?;
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
    files::replace(&softhsm_conf(&dir), text.as_bytes(), Access::Owner)?;
    Ok(())
}

fn softhsm_conf(dir: &Path) -> PathBuf {
    dir.join("softhsm").join("softhsm2.conf")
}

/// The directory of a development authority, closed to others. One with other things in it is not ours to close.
fn own_dir(dir: &Path) -> Result<()> {
    folder(dir)?;
    let ours = dir.join("softhsm").is_dir() || fs::read_dir(dir)?.next().is_none();
    if ours && is_open(dir)? {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).with_context(|| dir.display().to_string())?;
    }
    private_dir(dir)
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, or what ended it.
pub async fn run(args: DevArgs) -> Result<()> {
    let dir = fs::canonicalize(&args.dir)?;
    let module = softhsm::find_module()?;
    let ports = Ports::choose(&dir, &args)?;
    let config = configuration(&dir, &module, &ports, &args)?;
    server::telemetry::start_logging(&config.telemetry);
    tokio::task::block_in_place(|| token(&dir, &module))?;
    folder(&config.data_dir)?;
    let ca = tokio::task::block_in_place(|| serve::open(config.clone(), true))?;
    let mut tenants = Map::new();
    for tenant in &config.tenants {
        bootstrap::make_tenant(&ca, tenant).await?;
    }
    let running = serve::start(ca.clone()).await?;
    for tenant in &config.tenants {
        tenants.insert(tenant.name.to_string(), describe(&ca, &tenant.name, &dir).await?);
    }
    let mut description = tenants.get("default").and_then(Value::as_object).cloned().unwrap_or_default();
    description.insert("grpc".to_owned(), json!(running.grpc.to_string()));
    description.insert("http".to_owned(), json!(format!("http://{}", running.http)));
    description.insert("tenants".to_owned(), Value::Object(tenants));
    let description = Value::Object(description);
    let file = dir.join("dev.json");
    files::replace(&file, serde_json::to_string_pretty(&description)?.as_bytes(), Access::Owner)?;
    crate::output::text(&banner(&args.dir, &description))?;
    let mut running = running;
    let outcome = tokio::select! {
        ended = running.failed() => ended,
        signal = serve::terminated() => signal,
    };
    running.stop().await;
    outcome
}

/// The ports, kept over restarts: certificates carry the HTTP one.
struct Ports {
    grpc: u16,
    http: u16,
}

impl Ports {
    fn choose(dir: &Path, args: &DevArgs) -> Result<Self> {
        let file = dir.join("ports.json");
        let last: Value = fs::read(&file).ok().and_then(|t| serde_json::from_slice(&t).ok()).unwrap_or_default();
        let last = |key: &str| last.get(key).and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
        let ports = Self {
            grpc: port(args.grpc_port, last("grpc"), "--grpc-port")?,
            http: port(args.http_port, last("http"), "--http-port")?,
        };
        let text = json!({ "grpc": ports.grpc, "http": ports.http }).to_string();
        files::replace(&file, text.as_bytes(), Access::Owner)?;
        Ok(ports)
    }
}

fn port(wanted: u16, last: Option<u16>, option: &str) -> Result<u16, Problem> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).and_then(|l| l.local_addr()).map(|a| a.port());
    if wanted == 0 {
        if let Some(port) = last.and_then(|p| free(p).ok()) {
            return Ok(port);
        }
        return free(0).map_err(|e| Problem::usage(format!("no free port: {e}"), "Close some programs."));
    }
    free(wanted).map_err(|e| {
        Problem::usage(
            format!("port {wanted} cannot be used: {e}"),
            format!("Choose another with {option}, or 0 for any."),
        )
    })
}

fn configuration(dir: &Path, module: &Path, ports: &Ports, args: &DevArgs) -> Result<Config> {
    let mut text = String::new();
    let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    writeln!(text, "# Written by 'sealwright dev'. Not for production.")?;
    writeln!(text, "data_dir = {}", quoted(&dir.join(DATA)))?;
    writeln!(text, "[token]\nmodule = {}\nuri = \"pkcs11:token={TOKEN}\"", quoted(module))?;
    writeln!(text, "pin = {{ file = {} }}", quoted(&dir.join("softhsm").join("pin")))?;
    writeln!(text, "environment = {{ {SOFTHSM_CONF} = {} }}", quoted(&softhsm_conf(dir)))?;
    writeln!(text, "[grpc]\nlisten = \"127.0.0.1:{}\"\nnames = [\"localhost\", \"127.0.0.1\", \"::1\"]", ports.grpc)?;
    writeln!(text, "[http]\nlisten = \"127.0.0.1:{0}\"\nbase_url = \"http://127.0.0.1:{0}\"", ports.http)?;
    writeln!(text, "[telemetry]\nlog = {}", toml::Value::String(args.log.clone()))?;
    writeln!(text, "[[tenants]]\nname = \"default\"\norganization = \"Sealwright Development\"")?;
    for tenant in args.tenant.iter().filter(|t| t.as_str() != "default") {
        writeln!(text, "[[tenants]]\nname = \"{tenant}\"\norganization = \"Sealwright Development {tenant}\"")?;
    }
    let own = dir.join("tpm-roots");
    folder(&own)?;
    let mut roots = vec![own];
    for path in &args.tpm_roots {
        roots.push(fs::canonicalize(path).with_context(|| path.display().to_string())?);
    }
    let roots: Vec<String> = roots.iter().map(|p| quoted(p)).collect();
    writeln!(text, "[trust_stores.tpm-vendors]\nfiles = [{}]", roots.join(", "))?;
    let file = dir.join("sealwright.toml");
    files::replace(&file, text.as_bytes(), Access::Owner)?;
    Ok(Config::parse(&text, &file)?)
}

/// The directory's token, made at the first start, and its PIN. The PIN file is written last: without it, and without a
/// journal, what lies there is a token that a cut-off run began, and no key is in it.
fn token(dir: &Path, module: &Path) -> Result<()> {
    let file = dir.join("softhsm").join("pin");
    if !file.exists() {
        if dir.join(DATA).exists() {
            return Err(Problem::usage(
                format!("{} is missing, and without it the keys in the token cannot be used", file.display()),
                "Put it back from a copy, or begin anew with another --dir.",
            )
            .into());
        }
        let tokens = dir.join("softhsm").join("tokens");
        fs::remove_dir_all(&tokens).with_context(|| tokens.display().to_string())?;
        folder(&tokens)?;
        let secret = || hex::encode(rand::random::<[u8; 8]>());
        let pin = hsm::Pin::new(secret())?;
        let text = zeroize::Zeroizing::new(secret());
        let user = hsm::Pin::new(text.to_string())?;
        let environment = [(SOFTHSM_CONF.to_owned(), softhsm_conf(dir).display().to_string())];
        hsm::init_token(&hsm::Program::this(), module, &environment, TOKEN, &pin, &user)?;
        files::create(&file, text.as_bytes(), Access::Owner)?;
    }
    Ok(())
}

async fn describe(ca: &Arc<Ca>, tenant: &TenantId, dir: &Path) -> Result<Value> {
    let own = dir.join("credentials").join(tenant.as_str());
    let mut description = Map::new();
    for (name, role) in ROLES {
        let credential = Credential::make(ca, tenant, name, role, &own).await?;
        description.insert(name.to_owned(), json!({ "cert": credential.cert, "key": credential.key }));
    }
    let issuer = ca.active_issuer(tenant)?;
    let trust = own.join("trust.pem");
    let mut roots = vec![issuer.issuer.root().der().to_vec()];
    // The server's own certificate is of the first tenant's authority.
    let server = ca.active_issuer(&TenantId::default_tenant())?.issuer.root().der().to_vec();
    if !roots.contains(&server) {
        roots.push(server);
    }
    files::replace(&trust, convert::pem(roots.iter().map(Vec::as_slice)).as_bytes(), Access::Everybody)?;
    description.insert("issuer_id".to_owned(), json!(issuer.issuer.id()));
    description.insert("trust_bundle".to_owned(), json!(trust));
    description.insert("root_sha256".to_owned(), json!(hex::encode(issuer.issuer.root().sha256())));
    description.insert("enrollment_token".to_owned(), json!(enrollment_token(ca, tenant, &own).await?));
    Ok(Value::Object(description))
}

/// A token that can still be used: the one of the last run, or a new one.
async fn enrollment_token(ca: &Arc<Ca>, tenant: &TenantId, dir: &Path) -> Result<String> {
    let file = dir.join("enrollment-token");
    if let Ok(known) = fs::read_to_string(&file) {
        let hash: [u8; 32] = Sha256::digest(known.as_bytes()).into();
        let entry = ca.store.token_by_secret(&hash)?;
        if entry.is_some_and(|t| t.used_by.is_none() && t.expires_at > ca.now()) {
            return Ok(known);
        }
    }
    let key = hex::encode(rand::random::<[u8; 16]>());
    let new = principals::NewToken {
        tenant: tenant.clone(),
        profile: ProfileName::new("tls-client")?,
        device: None,
        time_to_live: limits::TOKEN_TTL_MAX,
        by: "dev".to_owned(),
        idempotency_key: IdempotencyKey::new(key)?,
        request_sha256: request::digest("dev", &proto::v1::CreateEnrollmentTokenRequest::default()),
    };
    let (_, secret) = principals::create_token(ca, new).await?;
    files::replace(&file, secret.as_bytes(), Access::Owner)?;
    Ok(secret.to_string())
}

fn banner(dir: &Path, description: &Value) -> String {
    let text = |pointer: &str| description.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let dir = terminal::clean(&dir.display().to_string());
    format!(
        "\
*******************************************************************************
*  DEVELOPMENT MODE: a throw-away authority on loopback. NOT FOR PRODUCTION.  *
*******************************************************************************
Root SHA-256     {root}
gRPC             {grpc}   (TLS 1.3)
HTTP             {http}   (CRL, OCSP, issuer certificates, /metrics, /readyz)
Issuer           {issuer}
For scripts      {dir}/dev.json

Try, in another terminal:
  SEALWRIGHT_TOKEN={token} \\
    sealwright device enroll --dir my-device --server {grpc} --trust {trust} --serial-number SN-0001
  sealwright list certificates --dev {dir}
  sealwright revoke SERIAL --reason key-compromise --dev {dir} --yes
  curl -s {http}/crl/{issuer}.crl | openssl crl -inform DER -noout -text

Stop with Ctrl-C; start again on the same directory to go on.
",
        root = text("/root_sha256"),
        grpc = text("/grpc"),
        http = text("/http"),
        issuer = text("/issuer_id"),
        trust = text("/trust_bundle"),
        token = text("/enrollment_token"),
    )
}
