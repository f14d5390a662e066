//! `sealwright key generate`

use super::{facts, place, view};
use crate::{
    error::{Exit, Problem},
    output::OutputArgs,
    service::ConfigArgs,
};
use anyhow::{Context, Result};
use ca_core::{id::TenantId, key::KeyAlgorithm};
use hsm::{HsmError, KeyId, KeyRequest, Token};
use server::config::{Config, key_algorithm};
use store::{AllowWrappedBackup, RecordKey, Store};

/// Options of `key generate`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright key generate --algorithm P-384 --label 'spare issuing' --purpose 'the issuing CA of 2031' --by m.keller
  sealwright key generate --algorithm RSA-3072 --label spare --purpose 'tests of old devices' --tenant default
  sealwright key generate --algorithm P-384 --label 'plant2 root' --purpose 'root of plant 2' --by m.keller \\
    --extractable-under 6d8e0c1f2a3b4c5d6e7f8091a2b3c4d5 --reason 'the board wants a backup at another maker'

The service must be stopped: the key is recorded in its journal. The token's attributes are read back, and a key that
could leave the token or do more than sign is destroyed at once. The one exception is --extractable-under: that key can
be wrapped out for a backup, under one that the token's security officer trusts and under no other. It is recorded
before the key is made, and the configuration must allow it.")]
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
    /// Let it leave the token, wrapped under a trusted key: the CKA_ID of that key, 32 hexadecimal digits
    #[arg(long, value_name = "ID", value_parser = place::parse_id, requires = "reason")]
    extractable_under: Option<KeyId>,
    /// Why it may leave the token, for the journal
    #[arg(long, value_name = "TEXT", value_parser = place::parse_words, requires = "extractable_under")]
    reason: Option<String>,
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
    allowed(&config, args)?;
    let store = place::journal(&config)?;
    let id = KeyId::from_bytes(rand::random());
    let token = match &args.extractable_under {
        Some(wrapping) => except(args, &config, &store, id, wrapping)?,
        None => place::token(&config, Some(&store))?,
    };
    let extractable_under = args.extractable_under;
    let request = KeyRequest { label: args.label.clone(), id, algorithm: args.algorithm, extractable_under };
    let key = token.generate(&request).with_context(|| match extractable_under {
        Some(_) => format!(
            "the journal allows key {id} a backup; if `sealwright key list` says that there is no such key, `sealwright \
             key retire {id}` ends that"
        ),
        None => format!("key {id} was not made"),
    })?;
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
    let mut more = vec![("Label", key.label), ("Algorithm", args.algorithm.to_string()), ("Public key SHA256", sha256)];
    more.extend(extractable_under.map(|wrapping| ("Extractable under", wrapping.to_string())));
    view::outcome(args.output, "Made key", &id, &more)
}

fn allowed(config: &Config, args: &GenerateArgs) -> Result<()> {
    if args.extractable_under.is_none() || config.token.allow_wrapped_backup {
        return Ok(());
    }
    let what = "a key that can leave the token needs token.allow_wrapped_backup = true in the configuration";
    Err(Problem::new(Exit::Refused, what, "Nothing was changed. Set it when your policy has such backups.").into())
}

/// Opens the token, sees that the wrapping key and the label will do, and records the exception: before the key is made,
/// so that no moment has one without the other.
fn except(args: &GenerateArgs, config: &Config, store: &Store, id: KeyId, wrapping: &KeyId) -> Result<Token> {
    let token = place::token_excepting(config, store, id)?;
    token.check_wrapping_key(wrapping)?;
    if token.list()?.iter().any(|key| key.label == args.label) {
        return Err(HsmError::KeyExists { what: format!("label '{}'", args.label) }.into());
    }
    let policy = AllowWrappedBackup {
        id: *id.as_bytes(),
        wrapping_key: *wrapping.as_bytes(),
        reason: args.reason.clone().unwrap_or_default(),
        by: args.by.name(),
    };
    store.commit(policy, place::now())?;
    Ok(token)
}
