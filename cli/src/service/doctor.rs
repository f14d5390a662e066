//! `sealwright doctor`

use super::ConfigArgs;
use crate::output::{OutputArgs, fields};
use anyhow::Result;
use serde_json::json;
use server::doctor::{self, Finding, Verdict};

/// Options of `doctor`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  sealwright doctor --config /etc/sealwright/sealwright.toml

Looks at module, token, PIN, keys, clock, disk, ports, chain and CRLs, changes nothing but a missing index, and prints the cure for each
fault. The PIN is tried once. Exit status 1 when something is wrong.")]
pub struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// When a check failed.
pub async fn run(args: DoctorArgs) -> Result<()> {
    let config = args.config.load()?;
    let findings = tokio::task::block_in_place(|| doctor::examine(&config));
    let faults = findings.iter().filter(|f| matches!(f.verdict, Verdict::Fault { .. })).count();
    let as_json = || json!({ "faults": faults, "checks": findings.iter().map(in_json).collect::<Vec<_>>() });
    args.output.result(as_json, || fields(&findings.iter().map(|f| (f.check, in_words(f))).collect::<Vec<_>>()))?;
    anyhow::ensure!(faults == 0, "{faults} checks failed");
    Ok(())
}

fn in_json(finding: &Finding) -> serde_json::Value {
    match &finding.verdict {
        Verdict::Good(what) => json!({ "check": finding.check, "result": "ok", "detail": what }),
        Verdict::Skipped(why) => json!({ "check": finding.check, "result": "skipped", "detail": why }),
        Verdict::Warning { what, cure } => {
            json!({ "check": finding.check, "result": "warning", "detail": what, "cure": cure })
        }
        Verdict::Fault { what, cure } => {
            json!({ "check": finding.check, "result": "fault", "detail": what, "cure": cure })
        }
    }
}

fn in_words(finding: &Finding) -> String {
    match &finding.verdict {
        Verdict::Good(what) => format!("ok       {what}"),
        Verdict::Skipped(why) => format!("skipped  {why}"),
        Verdict::Warning { what, cure } => format!("warning  {what}. Cure: {cure}"),
        Verdict::Fault { what, cure } => format!("FAULT    {what}. Cure: {cure}"),
    }
}
