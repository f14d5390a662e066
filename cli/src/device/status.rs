//! `sealwright device status`

use super::{directory::Directory, key::KeyKind, record::RequestKind};
use crate::output::{OutputArgs, fields};
use ca_core::{certificate::Certificate, time::UnixTime};
use serde_json::json;
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// Shows what this device has, without asking the server.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  sealwright device status --dir /var/lib/sealwright --output json")]
pub struct StatusArgs {
    /// The device's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// How to write it
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(args: &StatusArgs) -> anyhow::Result<()> {
    report(&Directory::open(&args.dir, false)?, args.output)
}

/// The device's clock.
pub fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_secs(since.as_secs())
}

/// When a certificate should be renewed: after two thirds of its lifetime. One without end never is.
pub fn renew_at(certificate: &Certificate) -> UnixTime {
    if certificate.not_after() == UnixTime::INFINITY {
        return UnixTime::INFINITY;
    }
    let lifetime = certificate.not_before().until(certificate.not_after());
    certificate.not_before().plus(Duration::from_secs(lifetime.as_secs() / 3 * 2))
}

/// Whether it should be renewed by now.
pub fn is_due(certificate: &Certificate, now: UnixTime) -> bool {
    let at = renew_at(certificate);
    at != UnixTime::INFINITY && at <= now
}

/// Writes what the device has to standard output.
///
/// # Errors
/// Those of the directory and of standard output.
pub fn report(directory: &Directory, output: OutputArgs) -> anyhow::Result<()> {
    let record = directory.enrolled()?;
    let certificate = directory.installed().is_ok().then(|| directory.certificate()).transpose()?;
    let in_progress = match &record.request {
        Some(request) if request.kind == RequestKind::Enroll => Some("enroll"),
        Some(_) => Some("renew"),
        None => None,
    };
    let key = record.installed.as_ref().map(|installed| match installed.key {
        KeyKind::File => "file",
        KeyKind::Tpm => "tpm",
    });
    let issuer_id = record.installed.as_ref().map(|installed| installed.issuer_id.clone());
    let confirmed = certificate.is_some() && record.confirmation.is_none();
    let json = || {
        let at = |time: fn(&Certificate) -> UnixTime| certificate.as_ref().map(|c| time(c).to_string());
        json!({
            "enrolled": certificate.is_some(),
            "confirmed": confirmed,
            "in_progress": in_progress,
            "server": record.server,
            "tenant": record.tenant,
            "profile": record.profile,
            "issuer_id": issuer_id,
            "serial_number": certificate.as_ref().map(|c| c.serial().to_string()),
            "subject": certificate.as_ref().map(|c| c.subject().to_owned()),
            "not_before": at(Certificate::not_before),
            "not_after": at(Certificate::not_after),
            "renew_at": at(renew_at),
            "renewal_due": certificate.as_ref().is_some_and(|c| is_due(c, now())),
            "expired": certificate.as_ref().is_some_and(|c| c.not_after() < now()),
            "key": key,
            "attested": record.attested,
            "sha256": certificate.as_ref().map(|c| hex::encode(c.sha256())),
        })
    };
    let human = || {
        let of = |value: fn(&Certificate) -> String| certificate.as_ref().map(value).unwrap_or_default();
        let never = |time: UnixTime| {
            if time == UnixTime::INFINITY { "never".to_owned() } else { time.to_string() }
        };
        let due = certificate.as_ref().map(|c| {
            let note = if is_due(c, now()) { " (due)" } else { "" };
            format!("{}{note}", never(renew_at(c)))
        });
        fields(&[
            ("Serial", of(|c| c.serial().to_string())),
            ("Subject", of(|c| c.subject().to_owned())),
            ("Issuer", issuer_id.clone().unwrap_or_default()),
            ("Valid to", certificate.as_ref().map(|c| never(c.not_after())).unwrap_or_default()),
            ("Renew at", due.unwrap_or_default()),
            ("Key", key.unwrap_or_default().to_owned()),
            (
                "Confirmed",
                if certificate.is_none() {
                    ""
                } else if confirmed {
                    "yes"
                } else {
                    "not yet"
                }
                .to_owned(),
            ),
            ("In progress", in_progress.unwrap_or_default().to_owned()),
            ("Server", record.server.clone()),
            ("Tenant", record.tenant.to_string()),
            ("Profile", record.profile.to_string()),
        ])
    };
    Ok(output.result(json, human)?)
}
