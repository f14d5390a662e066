//! Keys that make a request safe to repeat.

use crate::error::RepeatWith;
use anyhow::Context;
use tonic::{Response, Status};

/// The option that every changing verb has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct IdempotencyArgs {
    /// Repeat an earlier request: the key that it was made with; a new random one by default
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pub idempotency_key: Option<String>,
}

impl IdempotencyArgs {
    /// The given key, or 16 random octets in hexadecimal.
    pub fn key(&self) -> String {
        self.idempotency_key.clone().unwrap_or_else(|| hex::encode(rand::random::<[u8; 16]>()))
    }
}

fn parse_key(text: &str) -> Result<String, String> {
    if (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("an idempotency key is 1 to 64 visible ASCII characters".to_owned())
    }
}

/// The message of an answer; an error remembers the key, so that the person can repeat the request with it.
///
/// # Errors
/// The status, with [`RepeatWith`] around it.
pub fn answer<T>(result: Result<Response<T>, Status>, key: String) -> anyhow::Result<T> {
    Ok(result.context(RepeatWith(key))?.into_inner())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn keys_are_random_unless_given() {
        let args = IdempotencyArgs::default();
        assert_ne!(args.key(), args.key());
        assert_eq!(parse_key(&args.key()).unwrap().len(), 32);
        assert_eq!(IdempotencyArgs { idempotency_key: Some("k".into()) }.key(), "k");
        for bad in ["", "a b", "ä", &"x".repeat(65)] {
            assert!(parse_key(bad).is_err(), "{bad}");
        }
    }
}
