//! Where the keys are: the token and the journal that the configuration names.

use crate::error::{Exit, Problem};
use anyhow::{Context, Result};
use ca_core::time::UnixTime;
use hsm::{HsmError, KeyId, Token, TokenKey};
use server::{
    config::Config,
    serve,
    token_identity::{self, Known},
};
use std::time::{Duration, SystemTime};
use store::{OpenError, OpenOptions, Store};

/// Opens the tokens, one signer each; the PIN is tried once. Where the journal is open, they must be those it knows.
///
/// # Errors
/// What the token says.
pub fn token(config: &Config, journal: Option<&Store>) -> Result<Token> {
    open(config, journal.map(token_identity::known).transpose()?.unwrap_or_default())
}

/// As [`token`], where one more key may leave under a trusted key. The exception must be recorded before it is made.
///
/// # Errors
/// As [`token`].
pub fn token_excepting(config: &Config, journal: &Store, key: KeyId) -> Result<Token> {
    let mut known = token_identity::known(journal)?;
    known.exceptions.push(key);
    open(config, known)
}

fn open(config: &Config, known: Known) -> Result<Token> {
    let mut tokens = serve::token_config(config, known)?;
    for token in &mut tokens.tokens {
        // Nothing is measured for a few requests.
        (token.workers, token.sessions) = (Some(1), Some(1));
    }
    Ok(Token::open(tokens)?)
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

/// Reads a text that the journal must take: 1 to 1000 octets and more than spaces. A key must not be made first and
/// its record refused then.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn parse_words(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.len() > 1000 {
        return Err("write 1 to 1000 octets, not only spaces".to_owned());
    }
    Ok(text.to_owned())
}

/// The journal takes 200 octets, of which the system's user needs some.
fn parse_name(text: &str) -> Result<String, String> {
    if text.len() > 150 { Err("a name has at most 150 octets".to_owned()) } else { Ok(text.to_owned()) }
}

/// Who does something with a key.
#[derive(Clone, Debug, clap::Args)]
pub struct ByArgs {
    /// Who does this, for the journal; the number of the system's user is recorded as well
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, value_parser = parse_name)]
    by: String,
}

impl ByArgs {
    /// For the journal.
    pub fn name(&self) -> String {
        let user = rustix::process::getuid().as_raw();
        if self.by.is_empty() { format!("uid {user}") } else { format!("{} (uid {user})", self.by) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_the_journal_would_refuse_is_refused_before_a_key_is_made() {
        assert!(parse_words(" ").is_err() && parse_words(&"x".repeat(1001)).is_err());
        assert_eq!(parse_words("the next CA").unwrap(), "the next CA");
        assert!(parse_name(&"x".repeat(151)).is_err());
        let by = ByArgs { by: parse_name(&"x".repeat(150)).unwrap() };
        assert!(by.name().len() <= 200 && by.name().contains(" (uid "));
        assert!(ByArgs { by: String::new() }.name().starts_with("uid "));
    }
}
