//! `sealwright key generate`

use super::{facts, place, view};
use crate::{output::OutputArgs, service::ConfigArgs};
use anyhow::{Context, Result};
use ca_core::{id::TenantId, key::KeyAlgorithm};
use hsm::{KeyId, KeyRequest};
use server::config::key_algorithm;
use store::RecordKey;

/// Options of `key generate`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright key generate --algorithm P-384 --label 'spare issuing' --purpose 'the issuing CA of 2031' --by m.keller
  sealwright key generate --algorithm RSA-3072 --label spare --purpose 'tests of old devices' --tenant default

The service must be stopped: the key is recorded in its journal. The token's attributes are read back, and a key that
could leave the token or do more than sign is destroyed at once.")]
pub struct GenerateArgs {
    /// P-256, P-384, P-521, Ed25519, RSA-2048, RSA-3072, RSA-4096, ML-DSA-44, ML-DSA-65 or ML-DSA-87
    #[arg(long, value_name = "NAME", value_parser = algorithm)]
    algorithm: KeyAlgorithm,
    /// The key's label in the token, 1 to 64 octets; no other key may have it
    #[arg(long, value_name = "TEXT", value_parser = place::parse_words)]
    label: String,
    /// What it is for
    #[arg(long, value_name = "TEXT", value_parser = place::parse_words)]
    purpose: String,
    /// Whose it is; without it the key is the installation's
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantId>,
    #[command(flatten)]
    by: place::ByArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The padding of an RSA key's signatures is not a property of the key.
fn algorithm(text: &str) -> Result<KeyAlgorithm, String> {
    key_algorithm(text).map(|choice| choice.key)
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(args: &GenerateArgs) -> Result<()> {
    let config = args.config.load()?;
    let store = place::journal(&config)?;
    let token = place::token(&config, Some(&store))?;
    let id = KeyId::from_bytes(rand::random());
    let request = KeyRequest { label: args.label.clone(), id, algorithm: args.algorithm };
    let key = token.generate(&request)?;
    let info = token.info();
    let record = RecordKey {
        tenant: args.tenant.clone(),
        id: *id.as_bytes(),
        label: args.label.clone(),
        algorithm: args.algorithm.to_string(),
        spki: key.public_key.spki_der().to_vec(),
        purpose: args.purpose.clone(),
        by: args.by.name(),
        attributes: facts::attributes(&key.attributes),
        token_serial: info.serial,
        token_label: info.label,
    };
    store.commit(record, place::now()).with_context(|| {
        format!("key {id} was made but not recorded; `sealwright key retire {id} --destroy` takes it away")
    })?;
    store.close();
    let sha256 = hex::encode(key.public_key.spki_sha256());
    let more = [("Label", key.label), ("Algorithm", args.algorithm.to_string()), ("Public key SHA256", sha256)];
    view::outcome(args.output, "Made key", &id, &more)
}
