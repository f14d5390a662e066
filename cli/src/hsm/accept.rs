//! `sealwright hsm accept`

use super::one::{self, Standing};
use crate::{
    confirmation::ConfirmationArgs,
    error::{Exit, Problem},
    output::OutputArgs,
    service::{ConfigArgs, init::private_dir},
};
use anyhow::{Context, Result};
use hsm::{KeyId, Token};
use serde_json::{Value, json};
use server::{ca::Ca, config::Config, serve, token_identity};
use std::sync::Arc;
use store::{Acceptance, Store};

/// Options of `hsm accept`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  sealwright hsm accept --config /etc/sealwright/sealwright.toml --why 'restored from the backup of 1 November'

The service knows each token by a key that no backup has, and refuses another one of the same name. This makes such a key
in the token that is there now, and records in the journal who accepted it and why. The service must be stopped. See first
that it is your token and why it changed: whoever exchanges a token can have its keys.")]
pub struct AcceptArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Why the token is another than before; recorded
    #[arg(long, value_name = "TEXT", value_parser = parse_why)]
    why: String,
    /// Who accepts it; recorded. Otherwise the name of the user
    #[arg(long, value_name = "NAME", env = "USER", default_value = "operator", hide_env = true, value_parser = parse_by)]
    by: String,
    #[command(flatten)]
    confirmation: ConfirmationArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The journal's limits, asked for before a key is made.
fn parse_why(text: &str) -> Result<String, String> {
    given(text, 1000)
}

fn parse_by(text: &str) -> Result<String, String> {
    given(text, 200)
}

fn given(text: &str, most: usize) -> Result<String, String> {
    if text.trim().is_empty() || text.len() > most {
        return Err(format!("must have 1 to {most} octets"));
    }
    Ok(text.to_owned())
}

/// A token that is not as the journal knows it.
struct Stranger {
    unit: usize,
    name: String,
    serial: String,
    manufacturer: String,
    reason: String,
}

/// Runs the verb.
///
/// # Errors
/// When the service runs, a token does not sign, or nobody confirms.
pub async fn run(args: AcceptArgs) -> Result<()> {
    let config = args.config.load()?;
    private_dir(&config.data_dir)?;
    let must_ask = args.confirmation.must_ask()?;
    let (store, known) = one::journal(&config)?.map_err(|why| {
        Problem::new(Exit::Refused, why, "Stop the service, and see that data_dir is right; then run this again.")
    })?;
    let strangers = tokio::task::block_in_place(|| strangers(&config, &known))?;
    if must_ask && !strangers.is_empty() {
        let list: Vec<_> =
            strangers.iter().map(|s| format!("'{}' with serial {} ({})", s.name, s.serial, s.reason)).collect();
        ConfirmationArgs::demand(&format!("Accept the token {}?", list.join(" and the token ")))?;
    }
    let accepted = accept(config, store, &strangers, &args).await?;
    let human = || match accepted.is_empty() {
        true => "Nothing to accept: the journal knows each token. Nothing was changed.\n".to_owned(),
        false => strangers
            .iter()
            .map(|s| format!("Token {}, serial {}: accepted. It has a new identity key.\n", s.name, s.serial))
            .collect(),
    };
    Ok(args.output.result(|| json!({ "accepted": accepted }), human)?)
}

fn strangers(config: &Config, known: &[hsm::Identity]) -> Result<Vec<Stranger>> {
    let mut strangers = Vec::new();
    for (unit, alone) in one::each(config)?.into_iter().enumerate() {
        let name = one::name(&alone);
        let token = Token::open(alone.clone()).with_context(|| format!("token {name}"))?;
        let info = token.info();
        let reason = match one::standing(alone, known)? {
            Standing::Known | Standing::NotAsked(_) => continue,
            Standing::First => "the journal knows no token yet".to_owned(),
            Standing::Unknown(reason) => reason,
        };
        let (serial, manufacturer) = (info.serial, info.manufacturer);
        strangers.push(Stranger { unit, name, serial, manufacturer, reason });
    }
    Ok(strangers)
}

async fn accept(config: Config, store: Store, strangers: &[Stranger], args: &AcceptArgs) -> Result<Vec<Value>> {
    if strangers.is_empty() {
        tokio::task::spawn_blocking(move || store.close()).await?;
        return Ok(Vec::new());
    }
    let ca = tokio::task::block_in_place(|| -> Result<Arc<Ca>> {
        let token = serve::open_token(&config, token_identity::Known::default())?;
        Ca::assemble(config, store, token)
    })?;
    let mut accepted = Vec::new();
    for stranger in strangers {
        let (token, unit, key) = (ca.token.clone(), stranger.unit, KeyId::from_bytes(rand::random()));
        let identity = tokio::task::spawn_blocking(move || token.enroll(unit, key)).await?;
        let identity = identity.with_context(|| format!("the identity key of token {}", stranger.name))?;
        let entry = json!({
            "name": stranger.name, "serial": identity.serial, "label": identity.label,
            "key_id": identity.key.to_string(), "reason": stranger.reason,
        });
        let acceptance = Acceptance { by: args.by.clone(), why: args.why.clone() };
        token_identity::record(&ca, identity, stranger.manufacturer.clone(), Some(acceptance)).await.with_context(
            || format!("key {key} was made in the token and is not recorded; destroy it, and try again"),
        )?;
        accepted.push(entry);
    }
    let store = ca.store.clone();
    tokio::task::spawn_blocking(move || store.close()).await?;
    Ok(accepted)
}
