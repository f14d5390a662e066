//! `sealwright key retire`

use super::{facts::Known, place, view};
use crate::{
    confirmation::ConfirmationArgs,
    error::{Exit, Problem},
    output::OutputArgs,
    service::ConfigArgs,
    terminal,
};
use anyhow::{Context, Result};
use hsm::{HsmError, KeyId, TokenKey};
use std::io::{self, BufRead, IsTerminal, Write};
use store::RetireKey;

/// Options of `key retire`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright key retire 4f1d2c3b4a59687786958493a2b1c0df --why 'never used' --by m.keller
  sealwright key retire 4f1d2c3b4a59687786958493a2b1c0df --why 'end of life' --destroy --label 'spare issuing' --yes

The service must be stopped. A key that an issuer, an OCSP responder, the TLS certificate or a token's identity still
needs is refused. To destroy it its label must be typed, or given with --label; nothing brings it back.")]
pub struct RetireArgs {
    /// The key's id, 32 hexadecimal digits
    #[arg(value_name = "ID", value_parser = place::parse_id)]
    id: KeyId,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT", value_parser = place::parse_words)]
    why: String,
    /// Destroy it in the token as well
    #[arg(long)]
    destroy: bool,
    /// The label of the key to be destroyed, instead of typing it
    #[arg(long, value_name = "TEXT", requires = "destroy")]
    label: Option<String>,
    #[command(flatten)]
    by: place::ByArgs,
    #[command(flatten)]
    confirmation: ConfirmationArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(args: &RetireArgs) -> Result<()> {
    let config = args.config.load()?;
    let store = place::journal(&config)?;
    let token = place::token(&config, Some(&store))?;
    let key = match token.find(&args.id) {
        Ok(key) => Some(key),
        Err(HsmError::KeyMissing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let known = Known::read(&store)?;
    if key.is_none() && known.record(args.id.as_bytes()).is_none() {
        return Err(place::no_such_key(&args.id).into());
    }
    if let Some(user) = known.uses(args.id.as_bytes()).find(|one| one.live) {
        let what = format!("key {} is needed by {}", args.id, user.who);
        return Err(Problem::new(Exit::Refused, what, "Give that another key, or retire the issuer, first.").into());
    }
    confirm(args, key.as_ref())?;
    // Recorded first: a cut between leaves a key that the journal says is gone, which `key list` shows as a flaw and
    // the same command takes away.
    let why = args.why.clone();
    let record = RetireKey { id: *args.id.as_bytes(), why, by: args.by.name(), destroyed: args.destroy };
    store.commit(record, place::now())?;
    store.close();
    if args.destroy && key.is_some() {
        token.destroy(&args.id).context("the key is recorded as destroyed, but the token did not; run this again")?;
    }
    let destroyed = if args.destroy { "yes" } else { "no" }.to_owned();
    view::outcome(args.output, "Retired key", &args.id, &[("Destroyed", destroyed)])
}

fn confirm(args: &RetireArgs, key: Option<&TokenKey>) -> Result<()> {
    if args.destroy
        && let Some(key) = key
    {
        let typed = match &args.label {
            Some(label) => label.clone(),
            None => ask_label(&args.id)?,
        };
        if typed != key.label {
            let what = format!("that is not the label of key {}", args.id);
            return Err(Problem::usage(what, "Nothing was changed; `sealwright key inspect` shows the label.").into());
        }
    }
    if args.confirmation.must_ask()? {
        let label = key.map(|key| key.label.as_str()).unwrap_or_default();
        let what = if args.destroy { "Retire and DESTROY" } else { "Retire" };
        ConfirmationArgs::demand(&format!("{what} key {} '{label}' for good?", args.id))?;
    }
    Ok(())
}

fn ask_label(id: &KeyId) -> Result<String> {
    if !io::stdin().is_terminal() {
        let what = "to destroy a key its label must be given, and there is no terminal to type it on";
        return Err(Problem::usage(what, "Add --label with the key's label; nothing was changed.").into());
    }
    write!(io::stderr(), "{}", terminal::clean(&format!("Type the label of key {id} to destroy it: ")))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim_end_matches(['\r', '\n']).to_owned())
}
