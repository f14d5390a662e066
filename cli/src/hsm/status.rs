//! `sealwright hsm status`

use super::one::{self, Standing};
use crate::{
    output::{OutputArgs, fields},
    service::ConfigArgs,
};
use anyhow::{Result, ensure};
use hsm::{HsmError, Token, TokensConfig};
use serde_json::{Value, json};

/// Options of `hsm status`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  sealwright hsm status --config /etc/sealwright/sealwright.toml

Logs in to each token with a process of its own, beside the running service. The PIN is tried once, and not at all while
it is locked out. Exit status 1 when a token does not sign, or is
not the one that the journal knows.")]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// When a token does not sign, or the journal is broken.
pub fn run(args: &StatusArgs) -> Result<()> {
    let config = args.config.load()?;
    let (journal, known) = match one::journal(&config)? {
        Ok((store, known)) => {
            store.close();
            ("open".to_owned(), Ok(known))
        }
        Err(why) => (why.clone(), Err(why)),
    };
    let tokens: Vec<Value> = one::each(&config)?.into_iter().map(|alone| look(alone, known.as_deref())).collect();
    let is = |token: &Value, key: &str, text: &str| token.get(key).and_then(Value::as_str) == Some(text);
    let silent = tokens.iter().filter(|t| !is(t, "state", "signs")).count();
    let strange = tokens.iter().filter(|t| is(t, "identity", "unknown")).count();
    let as_text = || tokens.iter().map(human).collect::<Vec<_>>().join("\n");
    args.output.result(|| json!({ "journal": journal, "tokens": tokens }), as_text)?;
    ensure!(silent == 0, "{silent} of {} tokens do not sign", tokens.len());
    ensure!(strange == 0, "the journal does not know {strange} of {} tokens", tokens.len());
    Ok(())
}

fn look(alone: TokensConfig, known: std::result::Result<&[hsm::Identity], &String>) -> Value {
    let name = one::name(&alone);
    let opened = Token::open(alone.clone()).and_then(|token| {
        let info = token.info();
        let mechanisms = token.mechanisms()?.len();
        let standing = match known {
            Ok(known) => one::standing(alone, known)?,
            Err(why) => Standing::NotAsked(why.clone()),
        };
        Ok((info, mechanisms, standing))
    });
    match opened {
        Ok((info, mechanisms, standing)) => {
            let (identity, detail) = match standing {
                Standing::Known => ("known", "the journal knows its identity key".to_owned()),
                Standing::First => {
                    ("first", "the journal knows no token yet; the next start enrolls this one".to_owned())
                }
                Standing::Unknown(why) => {
                    ("unknown", format!("{why}; the service refuses it until 'sealwright hsm accept'"))
                }
                Standing::NotAsked(why) => ("not_asked", why),
            };
            json!({
                "name": name, "state": "signs", "label": info.label, "serial": info.serial,
                "manufacturer": info.manufacturer, "model": info.model, "library": info.library,
                "mechanisms": mechanisms, "identity": identity, "detail": detail,
            })
        }
        Err(error) => {
            let state = match error {
                HsmError::PinLockedOut | HsmError::PinWrong => "locked_out",
                _ if error.is_retryable() => "away",
                HsmError::TokenNotFound { .. } => "away",
                _ => "wrong",
            };
            json!({
                "name": name, "state": state, "label": "", "serial": "", "manufacturer": "", "model": "", "library": "",
                "mechanisms": null, "identity": "not_asked", "detail": error.to_string(),
            })
        }
    }
}

fn human(token: &Value) -> String {
    let text = |key: &str| match token.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    fields(&[
        ("Token", text("name")),
        ("State", text("state")),
        ("Serial", text("serial")),
        ("Model", [text("manufacturer"), text("model")].join(" ").trim().to_owned()),
        ("Library", text("library")),
        ("Mechanisms", text("mechanisms")),
        ("Identity", text("identity")),
        ("", text("detail")),
    ])
}
