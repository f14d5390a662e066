//! `sealwright key attest`

use super::{facts, place};
use crate::{
    connection::read_certificates,
    error::{Exit, Problem},
    files::{self, Access},
    output::{self, OutputArgs, fields},
    service::ConfigArgs,
};
use anyhow::{Context, Result};
use ca_core::certificate::Certificate;
use ceremony::attestation::{Attestation, Expected, FORMAT, KeyFacts, NONCE, Statement, TEXT_MOST, TokenFacts};
use hsm::{KeyId, SignRequest, TokenInfo};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Options of `key attest`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright key attest 4f1d2c3b4a59687786958493a2b1c0df --nonce 9c6e01b2d4f58a73 --out key.json
  sealwright key attest --verify key.json --nonce 9c6e01b2d4f58a73 --certificate issuing.pem

The statement has the token's facts and the key's attributes and is signed by the key. It proves that the key can be
used; that it is in a token and cannot leave it is the token's own assertion, read by this program. Whoever verifies
gives the nonce. Verifying needs neither token nor configuration.")]
pub struct AttestArgs {
    /// The key's id, 32 hexadecimal digits
    #[arg(value_name = "ID", value_parser = place::parse_id, required_unless_present = "verify")]
    id: Option<KeyId>,
    /// Verify this statement instead of making one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["id", "out"])]
    verify: Option<PathBuf>,
    /// The verifier's challenge, 8 to 64 octets in hexadecimal digits; without it a random one
    #[arg(long, value_name = "HEX", value_parser = parse_nonce)]
    nonce: Option<Nonce>,
    /// With --verify: the key must be the one of this certificate, the first in the file
    #[arg(long, value_name = "FILE", requires = "verify")]
    certificate: Option<PathBuf>,
    /// Write the statement to this new file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The verifier's challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Nonce(Vec<u8>);

fn parse_nonce(text: &str) -> Result<Nonce, String> {
    let octets = hex::decode(text).ok().filter(|octets| NONCE.contains(&octets.len()));
    octets.map(Nonce).ok_or_else(|| "a nonce has 16 to 128 hexadecimal digits".to_owned())
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(args: &AttestArgs) -> Result<()> {
    match (&args.verify, args.id) {
        (Some(file), _) => verify(args, file),
        (None, Some(id)) => make(args, id),
        // clap has seen to it that there is one of them.
        (None, None) => Err(Problem::usage("no key is named", "Give its id, or --verify with a file.").into()),
    }
}

fn make(args: &AttestArgs, id: KeyId) -> Result<()> {
    let config = args.config.load()?;
    let token = place::token(&config, None)?;
    let key = place::find(&token, &id)?;
    let nonce = args.nonce.clone().map_or_else(|| rand::random::<[u8; 16]>().to_vec(), |nonce| nonce.0);
    let info = token.info();
    let statement = Statement {
        format: FORMAT.to_owned(),
        made_at: place::now().to_string(),
        nonce: hex::encode(nonce),
        assurance: assurance(&info),
        token: TokenFacts {
            label: info.label,
            serial: info.serial,
            manufacturer: info.manufacturer,
            model: info.model,
            library: info.library,
        },
        key: KeyFacts {
            id: id.to_string(),
            label: key.label,
            algorithm: key.public_key.algorithm().to_string(),
            spki: hex::encode(key.public_key.spki_der()),
            attributes: facts::attributes(&key.attributes),
        },
    };
    let algorithm = key.public_key.algorithm().signature_algorithm();
    let signature =
        token.sign(SignRequest { key: id, public_key: key.public_key, algorithm, message: statement.message()? })?;
    let attestation = statement.signed(algorithm, &signature).context("the token's signature")?;
    let text = format!("{:#}\n", serde_json::to_value(&attestation)?);
    match &args.out {
        Some(path) => {
            files::create(path, text.as_bytes(), Access::Everybody)?;
            let written = || fields(&[("Statement", path.display().to_string()), ("Key", id.to_string())]);
            Ok(args.output.result(|| json!({ "key_id": id.to_string(), "statement": path }), written)?)
        }
        None => Ok(output::text(&text)?),
    }
}

/// What such a statement is worth, said in it.
fn assurance(info: &TokenInfo) -> String {
    let mut text = "Proof of possession: whoever made this could use the private key. That the key is in a token and \
                    has these attributes is the token's own assertion, as its PKCS#11 library gave it."
        .to_owned();
    let vendor = if info.manufacturer.contains("Yubico") {
        " This token can attest keys itself, with a certificate chain to its maker; such an attestation is stronger, \
         is made with the maker's tool, and is not part of this statement."
    } else {
        " No attestation by the token's maker is part of this statement."
    };
    text.push_str(vendor);
    text
}

fn verify(args: &AttestArgs, file: &Path) -> Result<()> {
    let refused = |error: ceremony::attestation::AttestationError| Problem::new(Exit::Refused, error.to_string(), "");
    let text = String::from_utf8(files::read(file, TEXT_MOST as u64)?)
        .map_err(|_| Problem::usage(format!("{} is no text", file.display()), "Check the path."))?;
    let attestation = Attestation::parse(&text).map_err(refused)?;
    let spki = match &args.certificate {
        Some(path) => {
            let der = read_certificates(path)?;
            let first = der.first().map(|der| Certificate::from_der(der)).transpose()?;
            first.map(|certificate| certificate.public_key().spki_der().to_vec())
        }
        None => None,
    };
    let expected = Expected { nonce: args.nonce.clone().map(|nonce| nonce.0), spki };
    let key = attestation.verify(&expected).map_err(refused)?;
    let Statement { made_at, nonce, token, key: stated, assurance, .. } = attestation.statement;
    let fresh = if args.nonce.is_some() { "yes, the nonce is the given one" } else { "not checked: give --nonce" };
    let as_json = || {
        json!({ "verified": true, "nonce_checked": args.nonce.is_some(), "key_id": stated.id, "label": stated.label,
                "algorithm": stated.algorithm, "public_key_sha256": hex::encode(key.spki_sha256()), "made_at": made_at,
                "nonce": nonce, "token": token, "attributes": stated.attributes, "assurance": assurance })
    };
    let human = || {
        fields(&[
            ("Signature", "good".to_owned()),
            ("Fresh", fresh.to_owned()),
            ("Key", format!("{} '{}', {}", stated.id, stated.label, stated.algorithm)),
            ("Public key", format!("SHA-256 {}", hex::encode(key.spki_sha256()))),
            ("Token", format!("{} {} '{}', serial {}", token.manufacturer, token.model, token.label, token.serial)),
            ("Made", made_at.clone()),
            ("Worth", assurance.clone()),
        ])
    };
    Ok(args.output.result(as_json, human)?)
}
