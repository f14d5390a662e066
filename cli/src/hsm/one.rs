//! One token of the configuration, opened alone, and what the journal knows of it.

use anyhow::Result;
use hsm::{HsmError, Identity, Token, TokenConfig, TokenInfo, TokensConfig};
use server::{config::Config, serve, token_identity};
use store::{OpenError, OpenOptions, Store};

/// What the journal says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has the identity key that the journal knows.
    Known,
    /// The journal knows no token at all; the next start enrolls this one.
    First,
    /// The journal does not know it, or it lacks its identity key; and in which way.
    Unknown(&'static str),
    /// It could not be asked, and why.
    NotAsked(String),
}

/// The configuration of each token alone, with one worker and without known identities: who it is is asked here.
pub fn each(config: &Config) -> Result<Vec<TokensConfig>> {
    let all = serve::token_config(config, token_identity::Known::default())?;
    let alone = |token: &TokenConfig| TokensConfig {
        tokens: vec![TokenConfig { workers: Some(1), sessions: Some(1), ..token.clone() }],
        observer: None,
        ..all.clone()
    };
    Ok(all.tokens.iter().map(alone).collect())
}

/// The token's name in the configuration.
pub fn name(alone: &TokensConfig) -> String {
    let uri = alone.tokens.first().map(|t| &t.uri);
    uri.and_then(|uri| uri.token().or(uri.serial())).unwrap_or("token").to_owned()
}

/// The journal; `Ok(Err(_))` says why it cannot be asked.
///
/// # Errors
/// When it is broken.
pub fn journal(config: &Config) -> Result<std::result::Result<(Store, Vec<Identity>), String>> {
    match Store::open(&config.data_dir, OpenOptions { create: false, ..OpenOptions::default() }) {
        Ok((store, _)) => {
            let known = token_identity::known(&store)?.identities;
            Ok(Ok((store, known)))
        }
        Err(OpenError::Locked(_)) => Ok(Err("the journal is in use by the running service".to_owned())),
        Err(error) if !config.data_dir.join("journal").exists() => Ok(Err(format!("there is no journal: {error}"))),
        Err(error) => Err(error.into()),
    }
}

/// Whether the open token is one that the journal knows.
///
/// # Errors
/// When it went away meanwhile.
pub fn standing(token: &Token, info: &TokenInfo, known: &[Identity]) -> std::result::Result<Standing, HsmError> {
    if known.is_empty() {
        return Ok(Standing::First);
    }
    let Some(ours) = known.iter().find(|i| i.serial == info.serial && i.label == info.label) else {
        return Ok(Standing::Unknown("no token with this serial number and label was enrolled"));
    };
    match token.prove(&ours.key, &ours.public_key) {
        Ok(()) => Ok(Standing::Known),
        Err(HsmError::KeyMissing { .. }) => Ok(Standing::Unknown("it does not have its identity key")),
        Err(HsmError::KeyMismatch { .. }) => Ok(Standing::Unknown("it has another identity key")),
        Err(error) if error.is_retryable() => Err(error),
        Err(_) => Ok(Standing::Unknown("it does not sign with its identity key")),
    }
}
