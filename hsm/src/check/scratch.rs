//! A key that is made for the check and destroyed whatever happens.

use crate::{HsmError, KeyId, KeyRequest, Token, TokenKey};
use ca_core::key::KeyAlgorithm;
use std::thread;
use std::time::{Duration, Instant};

/// How the labels of scratch keys begin.
pub(super) const LABEL: &str = "sealwright check ";
/// How long a token that lost its signer may take to be asked for the key's end.
const BACK: Duration = Duration::from_secs(10);

pub(super) struct Scratch {
    pub request: KeyRequest,
}

impl Scratch {
    pub fn new(algorithm: KeyAlgorithm) -> Self {
        let id = KeyId::from_bytes(rand::random());
        let label = format!("{LABEL}{algorithm} {}", hex::encode(id.as_bytes().get(..4).unwrap_or_default()));
        Self { request: KeyRequest { label, id, algorithm, extractable_under: None } }
    }

    pub fn id(&self) -> &KeyId {
        &self.request.id
    }

    /// Makes the key.
    pub fn make(&self, token: &Token) -> Result<TokenKey, HsmError> {
        token.generate(&self.request)
    }

    /// Destroys it; a key that is gone already, or was never made, is fine.
    pub fn remove(self, token: &Token) -> Result<(), HsmError> {
        let until = Instant::now() + BACK;
        loop {
            match token.destroy(self.id()) {
                Ok(()) | Err(HsmError::KeyMissing { .. }) => return Ok(()),
                Err(error) if error.is_retryable() && Instant::now() < until => {
                    thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(error),
            }
        }
    }
}
