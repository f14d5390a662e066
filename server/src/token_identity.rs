//! Which tokens are ours: each has an identity key of its own that is in no backup, and the journal says which. A token
//! of the right name without that key was swapped, rebuilt or restored, and is refused.

use crate::ca::{Ca, key_id};
use anyhow::{Context, Result};
use ca_core::key::PublicKey;
use hsm::{Identity, KeyId, TokenState};
use std::sync::Arc;
use store::{SetTokenIdentity, Store, TokenIdentityEntry};

/// What the journal says that matters when tokens are opened.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The tokens. None: the installation is new, or older than identities.
    pub identities: Vec<Identity>,
    /// The keys that may leave their token wrapped under a trusted key.
    pub exceptions: Vec<KeyId>,
}

/// What the journal knows. The exception of a key that was retired is over.
///
/// # Errors
/// The journal cannot be read.
pub fn known(store: &Store) -> Result<Known> {
    let excepted = store.keys()?.into_iter().filter(|key| key.exception.is_some() && key.retired.is_none());
    Ok(Known {
        identities: store.token_identities()?.into_iter().map(identity).collect::<Result<_>>()?,
        exceptions: excepted.map(|key| KeyId::from_bytes(key.id)).collect(),
    })
}

fn identity(entry: TokenIdentityEntry) -> Result<Identity> {
    let public_key = PublicKey::from_spki_der(&entry.spki).context("a token's identity in the journal")?;
    Ok(Identity { key: key_id(&entry.key_id)?, serial: entry.serial, label: entry.label, public_key })
}

/// Gives each token that is there and that the journal does not know its identity. Once the journal knows one, an
/// unknown token never gets this far: it is refused when it is opened.
///
/// # Errors
/// What token or journal says.
pub async fn enroll(ca: &Arc<Ca>) -> Result<()> {
    for (unit, status) in ca.token.status().into_iter().enumerate() {
        let Some(info) = status.info.filter(|_| status.state == TokenState::Up) else { continue };
        if known(&ca.store)?.identities.iter().any(|k| k.serial == info.serial && k.label == info.label) {
            continue;
        }
        let (token, key) = (ca.token.clone(), KeyId::from_bytes(rand::random()));
        let made = tokio::task::spawn_blocking(move || token.enroll(unit, key)).await?;
        let made = made.with_context(|| format!("the identity key of token '{}'", info.label))?;
        tracing::info!(token = info.label, serial = info.serial, "the token has its identity key");
        record(ca, made, info.manufacturer, None).await?;
    }
    Ok(())
}

/// Records a token's identity; `accepted` says who takes it in the place of another, and why.
///
/// # Errors
/// What the journal says.
pub async fn record(
    ca: &Arc<Ca>,
    identity: Identity,
    manufacturer: String,
    accepted: Option<store::Acceptance>,
) -> Result<()> {
    ca.commit(SetTokenIdentity {
        serial: identity.serial,
        label: identity.label,
        manufacturer,
        key_id: *identity.key.as_bytes(),
        spki: identity.public_key.spki_der().to_vec(),
        accepted,
    })
    .await?;
    Ok(())
}
