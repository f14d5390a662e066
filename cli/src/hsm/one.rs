//! One token of the configuration, opened alone, and what the journal knows of it.

use anyhow::Result;
use hsm::{HsmError, Identity, Token, TokenConfig, TokensConfig};
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
    Unknown(String),
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

/// Whether the token is one that the journal knows, asked as the service asks it: by its identity key and its age.
///
/// # Errors
/// When it went away meanwhile.
pub fn standing(alone: TokensConfig, known: &[Identity]) -> std::result::Result<Standing, HsmError> {
    if known.is_empty() {
        return Ok(Standing::First);
    }
    match Token::open(TokensConfig { known: known.to_vec(), ..alone }) {
        Ok(_) => Ok(Standing::Known),
        Err(HsmError::WrongToken { reason, .. }) => Ok(Standing::Unknown(reason.into_owned())),
        Err(error) => Err(error),
    }
}
