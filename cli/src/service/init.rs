//! `sealwright init`

use super::{ConfigArgs, credential::Credential};
use crate::{
    connection::read_certificates,
    error::Problem,
    files::{self, Access},
    output::OutputArgs,
};
use anyhow::{Context, Result};
use ca_core::{
    certificate::Certificate,
    id::{PrincipalId, TenantId},
};
use serde_json::{Value, json};
use server::{
    access::Role,
    bootstrap::{self, Made},
    ca::Ca,
    config::{Config, TenantSection},
    convert, serve, service_certificates, token_identity,
};
use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Options of `init`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright init --config /etc/sealwright/sealwright.toml --out-dir ~/sealwright-admin
  sealwright init --import-chain chain.pem --tenant default --out-dir ~/sealwright-admin

Makes what the configuration asks for and is not there yet; what exists is never overwritten. For a tenant with
root = \"external\" it writes a CSR; --import-chain takes the issuing CA's certificate and those above it, root last.")]
pub struct InitArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where the first admin's key and certificate and the roots are written
    #[arg(long, value_name = "DIR")]
    out_dir: PathBuf,
    /// The chain for a CSR that an earlier run wrote
    #[arg(long, value_name = "FILE", requires = "tenant")]
    import_chain: Option<PathBuf>,
    /// Only this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// The first admin's name. Another name makes one more admin, for when every admin's credential is lost or expired
    #[arg(long, value_name = "NAME", default_value = "admin")]
    admin: PrincipalId,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// The first thing that is not as it must be.
pub async fn run(args: InitArgs) -> Result<()> {
    let config = args.config.load()?;
    server::telemetry::start_logging(&config.telemetry);
    private_dir(&config.data_dir)?;
    folder(&args.out_dir)?;
    let tenants: Vec<TenantSection> = selected(&config, args.tenant.as_deref())?;
    let ca = tokio::task::block_in_place(|| serve::open(config, true))?;
    token_identity::enroll(&ca).await?;
    let mut made = Vec::new();
    for tenant in &tenants {
        made.push(make(&ca, tenant, &args).await.with_context(|| format!("tenant {}", tenant.name))?);
    }
    let store = ca.store.clone();
    tokio::task::spawn_blocking(move || store.close()).await?;
    let human = || made.iter().map(describe).collect::<Vec<_>>().join("");
    Ok(args.output.result(|| json!({ "tenants": made }), human)?)
}

fn selected(config: &Config, only: Option<&str>) -> Result<Vec<TenantSection>> {
    let chosen: Vec<_> =
        config.tenants.iter().filter(|t| only.is_none_or(|name| t.name.as_str() == name)).cloned().collect();
    if chosen.is_empty() {
        return Err(Problem::usage("there is no such tenant in the configuration", "Look at [[tenants]].").into());
    }
    Ok(chosen)
}

/// Makes a folder that only its owner can enter, unless it is there.
///
/// # Errors
/// When it cannot be made.
pub fn folder(dir: &Path) -> Result<()> {
    if !dir.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| dir.display().to_string())?;
    }
    Ok(())
}

/// Makes a folder that only its owner can enter; one that others can enter is refused.
///
/// # Errors
/// A [`Problem`] with the cure; when it cannot be made.
pub fn private_dir(dir: &Path) -> Result<()> {
    folder(dir)?;
    if is_open(dir)? {
        let what = format!("{} can be entered by others than its owner", dir.display());
        return Err(Problem::usage(what, format!("chmod 700 {}", dir.display())).into());
    }
    Ok(())
}

/// Whether others than its owner may read, write or enter.
///
/// # Errors
/// When it cannot be looked at.
pub fn is_open(path: &Path) -> Result<bool> {
    let meta = fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(meta.permissions().mode() & 0o077 != 0)
}

async fn make(ca: &Arc<Ca>, tenant: &TenantSection, args: &InitArgs) -> Result<Value> {
    let dir = if args.tenant.is_some() || ca.config.tenants.len() == 1 {
        args.out_dir.clone()
    } else {
        args.out_dir.join(tenant.name.as_str())
    };
    folder(&dir)?;
    if let Some(path) = &args.import_chain {
        let chain = read_certificates(path)?
            .iter()
            .map(|der| Certificate::from_der(der))
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| path.display().to_string())?;
        bootstrap::import_chain(ca, tenant, &chain).await?;
    } else if let Made::Request { csr } = bootstrap::make_tenant(ca, tenant).await? {
        return Ok(json!({ "tenant": tenant.name, "csr": csr }));
    }
    finish(ca, &tenant.name, &args.admin, &dir).await
}

/// What follows once a tenant has its issuing CA; every step that was done before is left alone.
async fn finish(ca: &Arc<Ca>, tenant: &TenantId, admin: &PrincipalId, dir: &Path) -> Result<Value> {
    renew(ca).await?;
    let admin = Credential::make(ca, tenant, admin.as_str(), Role::Admin, dir).await?;
    let issuer = ca.active_issuer(tenant)?;
    let roots = dir.join("trust.pem");
    if !roots.exists() {
        files::create(&roots, convert::pem([issuer.issuer.root().der()]).as_bytes(), Access::Everybody)?;
    }
    Ok(json!({
        "tenant": tenant,
        "issuer_id": issuer.issuer.id(),
        "root_sha256": hex::encode(issuer.issuer.root().sha256()),
        "trust_bundle": roots,
        "admin": { "cert": admin.cert, "key": admin.key },
    }))
}

/// Responders and TLS certificate. All of them must come to be, except that the TLS certificate waits for the first
/// tenant while that one waits for its chain.
async fn renew(ca: &Arc<Ca>) -> Result<()> {
    let first = ca.config.tenants.first().is_some_and(|t| ca.active_issuer(&t.name).is_ok());
    match service_certificates::renew(ca).await {
        Ok(renewed) => match renewed.errors.into_iter().next() {
            Some(error) if first => Err(error),
            _ => Ok(()),
        },
        Err(error) if first => Err(error),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "there is no TLS certificate yet");
            Ok(())
        }
    }
}

fn describe(tenant: &Value) -> String {
    let text = |key: &str| tenant.pointer(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    if tenant.get("csr").is_some() {
        return format!(
            "Tenant {}: the issuing CA's key is in the token. Have the root sign {}, then run\n  sealwright init \
             --import-chain CHAIN.pem --tenant {}\n",
            text("/tenant"),
            text("/csr"),
            text("/tenant")
        );
    }
    format!(
        "Tenant {}: issuer {} is ready.\n  root SHA-256  {}\n  roots         {}\n  admin         {}\n                {}\n",
        text("/tenant"),
        text("/issuer_id"),
        text("/root_sha256"),
        text("/trust_bundle"),
        text("/admin/cert"),
        text("/admin/key"),
    )
}
