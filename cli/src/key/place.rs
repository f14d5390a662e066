//! Where the keys are: the token and the journal that the configuration names.

use crate::error::{Exit, Problem};
use anyhow::{Context, Result};
use ca_core::time::UnixTime;
use hsm::{HsmError, KeyId, Token, TokenKey};
use server::{
    config::{self, Config},
    serve,
};
use std::time::{Duration, SystemTime};
use store::{OpenError, OpenOptions, Store};

/// Opens the token; the PIN is tried once.
///
/// # Errors
/// What the token says.
pub fn token(config: &Config) -> Result<Token> {
    let pin = config::read_pin(&config.token.pin)?;
    serve::open_token(config, pin)
}

/// Opens the journal to write in it.
///
/// # Errors
/// A [`Problem`] when the service runs: it alone writes then.
pub fn journal(config: &Config) -> Result<Store> {
    match journal_if_free(config)? {
        Journal::Open(store) => Ok(store),
        Journal::InUse => Err(Problem::new(
            Exit::Unavailable,
            "the service is running, and this must be recorded in its journal",
            "Stop the service, run this again, and start it; nothing was changed.",
        )
        .into()),
        Journal::Missing => Err(Problem::new(
            Exit::NotFound,
            format!("{} holds no journal", config.data_dir.display()),
            "Run 'sealwright init' first, or correct data_dir.",
        )
        .into()),
    }
}

/// The journal, if it can be had.
pub enum Journal {
    /// Open; nobody else has it now.
    Open(Store),
    /// The running service has it.
    InUse,
    /// There is none.
    Missing,
}

/// Opens the journal unless a running service has it.
///
/// # Errors
/// What is wrong with it.
pub fn journal_if_free(config: &Config) -> Result<Journal> {
    match Store::open(&config.data_dir, OpenOptions { create: false, ..OpenOptions::default() }) {
        Ok((store, _)) => Ok(Journal::Open(store)),
        Err(OpenError::Locked(_)) => Ok(Journal::InUse),
        Err(OpenError::Missing(_)) => Ok(Journal::Missing),
        Err(error) => Err(error).with_context(|| format!("the journal in {}", config.data_dir.display())),
    }
}

/// Finds one key.
///
/// # Errors
/// A [`Problem`] when it is not in the token.
pub fn find(token: &Token, id: &KeyId) -> Result<TokenKey> {
    match token.find(id) {
        Err(HsmError::KeyMissing { .. }) => Err(no_such_key(id).into()),
        other => Ok(other?),
    }
}

/// There is no such key.
pub fn no_such_key(id: &KeyId) -> Problem {
    Problem::new(Exit::NotFound, format!("the token has no key {id}"), "`sealwright key list` shows what it has.")
}

/// The clock of this machine.
pub fn now() -> UnixTime {
    UnixTime::from_secs(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

/// Reads a key's id as clap wants it.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_id(text: &str) -> Result<KeyId, String> {
    text.parse().map_err(|_| "a key id has 32 hexadecimal digits; `sealwright key list` shows them".to_owned())
}

/// Who does something with a key.
#[derive(Clone, Debug, clap::Args)]
pub struct ByArgs {
    /// Who does this, for the journal; the number of the system's user is recorded as well
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    by: String,
}

impl ByArgs {
    /// For the journal.
    pub fn name(&self) -> String {
        let user = rustix::process::getuid().as_raw();
        if self.by.is_empty() { format!("uid {user}") } else { format!("{} (uid {user})", self.by) }
    }
}
