//! What `hsm check` found, for people and for programs.

use crate::terminal::clean;
use hsm::check::{Finding, Report, TokenReport, Verdict};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// The whole report.
pub fn json(report: &Report) -> Value {
    json!({ "failures": report.failures(), "tokens": report.tokens.iter().map(token).collect::<Vec<_>>() })
}

fn token(report: &TokenReport) -> Value {
    let info = report.info.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    json!({
        "name": report.name,
        "label": text(info.map(|i| &i.label)),
        "serial": text(info.map(|i| &i.serial)),
        "manufacturer": text(info.map(|i| &i.manufacturer)),
        "model": text(info.map(|i| &i.model)),
        "library": text(info.map(|i| &i.library)),
        "checks": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "mechanisms": report.mechanisms.iter().map(|m| json!({
            "name": m.name, "number": m.number, "min_key": m.min_key, "max_key": m.max_key,
            "signs": m.signs, "generates": m.generates, "hardware": m.hardware,
        })).collect::<Vec<_>>(),
        "latencies": report.latencies.iter().map(|l| json!({
            "algorithm": l.algorithm, "signature": l.signature, "samples": l.samples,
            "median_us": micros(l.median), "longest_us": micros(l.longest),
        })).collect::<Vec<_>>(),
        "shapes": report.shapes.iter().map(|s| json!({
            "workers": s.workers, "sessions": s.sessions, "per_second": s.per_second.round(), "problem": s.problem,
        })).collect::<Vec<_>>(),
        "best": report.best.map(|(workers, sessions)| json!({ "workers": workers, "sessions": sessions })),
    })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn finding(finding: &Finding) -> Value {
    let (result, detail, cure) = match &finding.verdict {
        Verdict::Ok(text) => ("ok", text, None),
        Verdict::Missing(text) => ("missing", text, None),
        Verdict::Failed { what, cure } => ("failed", what, Some(cure)),
    };
    json!({ "subject": finding.subject, "check": finding.check, "result": result, "detail": detail, "cure": cure })
}

/// One token: what it is, a line for each algorithm, whatever is missing or failed, and the speed.
pub fn human(report: &TokenReport) -> String {
    let mut lines = vec![format!("Token {}", report.name)];
    for subject in subjects(report) {
        lines.extend(of_subject(report, subject));
    }
    let relevant = relevant_mechanisms(report);
    if !relevant.is_empty() {
        lines.push(format!("  Mechanisms for what Sealwright signs: {}", relevant.join(", ")));
    }
    lines.extend(shapes(report));
    lines.iter().map(|line| clean(line) + "\n").collect()
}

/// What is good in a line, for the token itself in one each; then the rest.
fn of_subject(report: &TokenReport, subject: &str) -> Vec<String> {
    let of_it = || report.findings.iter().filter(|f| f.subject == subject);
    let ok: Vec<_> = of_it().filter(|f| matches!(f.verdict, Verdict::Ok(_))).collect();
    let mut lines = Vec::new();
    if subject != "token" && !ok.is_empty() {
        lines.push(format!("  ok       {subject}: {}", summary(report, subject, &ok)));
    }
    for Finding { check, verdict, .. } in of_it() {
        match verdict {
            Verdict::Ok(text) if subject == "token" => lines.push(format!("  ok       {check}: {text}")),
            Verdict::Ok(_) => {}
            Verdict::Missing(text) => lines.push(format!("  missing  {subject}: {check}: {text}")),
            Verdict::Failed { what, cure } => {
                lines.push(format!("  FAILED   {subject}: {check}: {what}. Cure: {cure}"));
            }
        }
    }
    lines
}

fn subjects(report: &TokenReport) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    report.findings.iter().map(|f| f.subject.as_str()).filter(|s| seen.insert(*s)).collect()
}

/// What a subject's good checks come to; JSON has each of them.
fn summary(report: &TokenReport, subject: &str, ok: &[&Finding]) -> String {
    let signs: Vec<_> = ok.iter().filter_map(|f| f.check.strip_prefix("signs ")).collect();
    let detail = ok.iter().find_map(|f| match &f.verdict {
        Verdict::Ok(text) if signs.is_empty() => Some(format!(", {text}")),
        _ => None,
    });
    let signs = if signs.is_empty() { String::new() } else { format!("; signs {}", signs.join(", ")) };
    let speed = report.latencies.iter().find(|l| l.algorithm == subject);
    let speed = speed.map(|l| format!("; {:.2} ms a signature", l.median.as_secs_f64() * 1e3)).unwrap_or_default();
    format!("{} checks{}{signs}{speed}", ok.len(), detail.unwrap_or_default())
}

/// A token may list hundreds; JSON has them all.
fn relevant_mechanisms(report: &TokenReport) -> Vec<String> {
    let ours = ["ECDSA", "EDDSA", "RSA_PKCS", "ML_DSA", "EC_KEY", "ECC_KEY", "EC_EDWARDS", "ECC_EDWARDS"];
    let found = report.mechanisms.iter().filter(|m| m.signs || m.generates);
    // SHA-1 does not exist here.
    let wanted = |name: &str| ours.iter().any(|part| name.contains(part)) && !name.contains("SHA1");
    found.filter(|m| wanted(&m.name)).map(|m| m.name.clone()).collect()
}

fn shapes(report: &TokenReport) -> Vec<String> {
    if report.shapes.is_empty() {
        return Vec::new();
    }
    let mut lines = vec!["  Signatures a second with a full queue".to_owned()];
    for shape in &report.shapes {
        let rate = || format!("{:.0}", shape.per_second);
        let what = shape.problem.clone().unwrap_or_else(rate);
        lines.push(format!("    workers {:2}, sessions {:2}: {what}", shape.workers, shape.sessions));
    }
    if let Some((workers, sessions)) = report.best {
        lines.push(format!("  Best in [token]: workers = {workers}, sessions = {sessions}"));
    }
    lines
}
