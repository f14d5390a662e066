//! `sealwright key list` and `key inspect`

use super::{
    facts::{Facts, Known, attributes},
    place::{self, Journal},
};
use crate::{
    output::{Format, OutputArgs, fields},
    service::ConfigArgs,
};
use anyhow::Result;
use hsm::KeyId;
use serde_json::json;
use server::config::Config;

/// Options of `key list`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright key list
  sealwright key list --config /etc/sealwright/sealwright.toml --output json

Works while the service runs; what each key is for stands in the journal, which can be read when it is stopped.")]
pub struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Options of `key inspect`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  sealwright key inspect 4f1d2c3b4a59687786958493a2b1c0df

Works while the service runs. Attributes are what the token says; `sealwright key attest` adds a proof that the key is
there and signs.")]
pub struct InspectArgs {
    /// The key's id, 32 hexadecimal digits
    #[arg(value_name = "ID", value_parser = place::parse_id)]
    id: KeyId,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const NOT_READ: &str = "not known: the running service has the journal";

/// What the journal says, if it can be had, and otherwise why not.
fn known(config: &Config) -> Result<Result<Known, &'static str>> {
    Ok(match place::journal_if_free(config)? {
        Journal::Open(store) => {
            let known = Known::read(&store);
            store.close();
            Ok(known?)
        }
        Journal::InUse => Err(NOT_READ),
        Journal::Missing => Err("not known: there is no journal yet"),
    })
}

/// Runs `key list`.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn list(args: &ListArgs) -> Result<()> {
    let config = args.config.load()?;
    let keys = place::token(&config, None)?.list()?;
    let known = known(&config)?;
    let facts: Vec<Facts<'_>> = keys.iter().map(|key| Facts { key, known: known.as_ref().ok() }).collect();
    let mut list = args.output.list("keys", &["ID", "LABEL", "ALGORITHM", "USE", "FLAW"]);
    list.page(&facts, Facts::json, |facts| {
        let mut uses = facts.uses().unwrap_or_default();
        uses.extend(Some(facts.state()).filter(|state| !state.is_empty()));
        vec![
            facts.key.id.to_string(),
            facts.key.label.clone(),
            facts.key.public_key.algorithm().to_string(),
            uses.join(", "),
            facts.flaw().unwrap_or_default(),
        ]
    })?;
    list.end(false)?;
    match &known {
        Err(why) if args.output.output == Format::Human => eprintln!("What the keys are for is {why}."),
        Err(_) => {}
        Ok(known) => {
            for one in known.missing(&keys) {
                eprintln!("MISSING: key {} of {} is not in the token.", hex::encode(&one.key), one.who);
            }
            for one in known.unmade(&keys) {
                let id = hex::encode(one.id);
                eprintln!(
                    "EXCEPTION WITHOUT A KEY: {id} may have a wrapped backup and is not in the token; if it never was, \
                     `sealwright key retire {id}` ends that."
                );
            }
        }
    }
    Ok(())
}

/// Runs `key inspect`.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn inspect(args: &InspectArgs) -> Result<()> {
    let config = args.config.load()?;
    let key = place::find(&place::token(&config, None)?, &args.id)?;
    let known = known(&config)?;
    let facts = Facts { key: &key, known: known.as_ref().ok() };
    Ok(args.output.result(|| facts.json(), || in_words(&facts, known.as_ref().err()))?)
}

fn in_words(facts: &Facts<'_>, unread: Option<&&str>) -> String {
    let key = facts.key;
    let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let json = facts.json();
    let recorded = |what: &str, field: &str| json[what][field].as_str().unwrap_or_default().to_owned();
    let uses = match unread {
        Some(why) => (*why).to_owned(),
        None => facts.uses().unwrap_or_default().join(", "),
    };
    let mut lines = vec![
        ("Key", key.id.to_string()),
        ("Label", key.label.clone()),
        ("Algorithm", key.public_key.algorithm().to_string()),
        ("Public key", format!("SHA-256 {}", hex::encode(key.public_key.spki_sha256()))),
        ("Use", uses),
        ("Fits certificate", facts.fits().map(yes).unwrap_or_default()),
        ("Purpose", recorded("made", "purpose")),
        ("Made", recorded("made", "at")),
        ("Made by", recorded("made", "by")),
        ("Wrapped under", recorded("exception", "wrapped_backup_under")),
        ("Why that", recorded("exception", "reason")),
        ("Allowed by", recorded("exception", "by")),
        ("Retired", recorded("retired", "at")),
        ("Why retired", recorded("retired", "why")),
    ];
    let named = attributes(&key.attributes);
    lines.extend(named.iter().map(|(name, value)| (name.as_str(), yes(*value))));
    lines.push(("Flaw", facts.flaw().unwrap_or_else(|| "none".to_owned())));
    // The names of attributes are ours and short.
    fields(&lines)
}

/// One fact of a key that was just made or retired, for both forms.
pub fn outcome(output: OutputArgs, what: &str, id: &KeyId, more: &[(&str, String)]) -> Result<()> {
    let as_json = || {
        let mut value = json!({ "key_id": id.to_string() });
        for (name, text) in more {
            value[name.to_lowercase().replace(' ', "_")] = json!(text);
        }
        value
    };
    let human = || {
        let mut lines = vec![(what, id.to_string())];
        lines.extend(more.iter().map(|(name, text)| (*name, text.clone())));
        fields(&lines)
    };
    Ok(output.result(as_json, human)?)
}
