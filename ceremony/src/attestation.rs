//! A key's statement about itself: the token's facts, the key's attributes and a fresh nonce, signed by the key.
//!
//! It proves that whoever made it could use the key then. That the key is in a token, and has these attributes, is what
//! the token's software said: an assertion, as strong as the machine on which it was read.

use crate::{
    attributes::{self, Attributes},
    seal,
};
use ca_core::key::{PublicKey, SignatureAlgorithm};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What `format` must say.
pub const FORMAT: &str = "sealwright key attestation v1";
const DOMAIN: &[u8] = b"sealwright key attestation v1\0";
/// Octets of the longest attestation as JSON; the largest public key takes a fifth of it.
pub const TEXT_MOST: usize = 64 * 1024;
/// Octets of a nonce: enough that none comes twice, and room for a verifier's own format.
pub const NONCE: std::ops::RangeInclusive<usize> = 8..=64;

// The fields of these three stand in the order of their names, so that their text is the JSON with sorted keys and no
// spaces: whoever verifies without this program can make it too.

/// What is stated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// What this statement is worth, for people.
    pub assurance: String,
    /// [`FORMAT`].
    pub format: String,
    /// The key.
    pub key: KeyFacts,
    /// When, RFC 3339, by the clock of the machine.
    pub made_at: String,
    /// The verifier's challenge or a random one, hexadecimal.
    pub nonce: String,
    /// The token.
    pub token: TokenFacts,
}

/// What the token says about the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFacts {
    /// For example `P-256`.
    pub algorithm: String,
    /// The private key's attributes.
    pub attributes: Attributes,
    /// `CKA_ID`, hexadecimal.
    pub id: String,
    /// `CKA_LABEL`.
    pub label: String,
    /// SubjectPublicKeyInfo, DER, hexadecimal.
    pub spki: String,
}

/// What the token says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFacts {
    /// Its label.
    pub label: String,
    /// Its PKCS#11 library.
    pub library: String,
    /// Its manufacturer.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
}

/// A statement with the key's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// What is stated.
    pub statement: Statement,
    /// DER AlgorithmIdentifier, hexadecimal.
    pub signature_algorithm: String,
    /// Hexadecimal; ECDSA as in X.509.
    pub signature: String,
}

/// Why an attestation is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// Not JSON of this form.
    #[error("the file is no key attestation: {0}; give the file that 'sealwright key attest' wrote")]
    Syntax(String),
    /// A form that this program does not know.
    #[error("format: {0:?} is not known; use the program that wrote it, or a newer one")]
    Format(String),
    /// The public key is none.
    #[error("key.spki: {0}")]
    PublicKey(String),
    /// The key's algorithm is not that of the public key.
    #[error("key.algorithm: it says {stated}, but the public key is {actual}")]
    Algorithm {
        /// What is stated.
        stated: String,
        /// What the key is.
        actual: String,
    },
    /// The signature does not verify.
    #[error("signature: it is not the key's over this statement; the statement was changed or made by another key")]
    Signature,
    /// Another nonce than the verifier's.
    #[error("nonce: it is not the expected one; this may be an old statement, ask for a new one")]
    Nonce,
    /// Another key than the verifier's.
    #[error("key.spki: it is not the expected public key")]
    OtherKey,
    /// An attribute is not as it must be.
    #[error("key.attributes: {0} is not as it must be for a key that never leaves its token and only signs")]
    Attribute(&'static str),
    /// The encoder refused.
    #[error("the statement cannot be written: {0}")]
    Encoding(String),
}

/// What the verifier knows already.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The challenge that was given.
    pub nonce: Option<Vec<u8>>,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Option<Vec<u8>>,
}

impl Statement {
    /// What the key must sign.
    ///
    /// # Errors
    /// [`AttestationError::Encoding`].
    pub fn message(&self) -> Result<Vec<u8>, AttestationError> {
        let text = serde_json::to_vec(self).map_err(|e| AttestationError::Encoding(e.to_string()))?;
        Ok(seal::message(DOMAIN, &Sha256::digest(text).into()))
    }

    /// Puts the signature beside it.
    ///
    /// # Errors
    /// What [`Attestation::verify`] says: nothing is handed out that does not verify.
    pub fn signed(self, algorithm: SignatureAlgorithm, signature: &[u8]) -> Result<Attestation, AttestationError> {
        let signature_algorithm = seal::algorithm_text(algorithm).ok_or(AttestationError::Signature)?;
        let attestation = Attestation { statement: self, signature_algorithm, signature: hex::encode(signature) };
        attestation.verify_signature()?;
        Ok(attestation)
    }
}

impl Attestation {
    /// Reads the text of an attestation; nothing of it is verified.
    ///
    /// # Errors
    /// [`AttestationError::Syntax`].
    pub fn parse(text: &str) -> Result<Self, AttestationError> {
        if text.len() > TEXT_MOST {
            return Err(AttestationError::Syntax("it is too long".to_owned()));
        }
        serde_json::from_str(text).map_err(|e| AttestationError::Syntax(e.to_string()))
    }

    /// Verifies the signature, then what is stated.
    ///
    /// # Errors
    /// [`AttestationError`] names the first field that is wrong.
    pub fn verify(&self, expected: &Expected) -> Result<PublicKey, AttestationError> {
        let key = self.verify_signature()?;
        let statement = &self.statement;
        if expected.nonce.as_ref().is_some_and(|nonce| hex::encode(nonce) != statement.nonce) {
            return Err(AttestationError::Nonce);
        }
        if expected.spki.as_ref().is_some_and(|spki| spki != key.spki_der()) {
            return Err(AttestationError::OtherKey);
        }
        match attributes::flaw(&statement.key.attributes) {
            Some(flaw) => Err(AttestationError::Attribute(flaw)),
            None => Ok(key),
        }
    }

    fn verify_signature(&self) -> Result<PublicKey, AttestationError> {
        let statement = &self.statement;
        if statement.format != FORMAT {
            return Err(AttestationError::Format(statement.format.clone()));
        }
        let spki = hex::decode(&statement.key.spki)
            .map_err(|_| AttestationError::PublicKey("it is not hexadecimal".into()))?;
        let key = PublicKey::from_spki_der(&spki).map_err(|e| AttestationError::PublicKey(e.to_string()))?;
        let actual = key.algorithm().to_string();
        if actual != statement.key.algorithm {
            return Err(AttestationError::Algorithm { stated: statement.key.algorithm.clone(), actual });
        }
        seal::verify(&key, &self.signature_algorithm, &statement.message()?, &self.signature)
            .ok_or(AttestationError::Signature)?;
        Ok(key)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use rcgen::{KeyPair, PublicKeyData, SigningKey};

    fn statement(key: &KeyPair) -> Statement {
        let good =
            ["sensitive", "always_sensitive", "never_extractable", "local", "sign"].map(|n| (n.to_owned(), true));
        let bad = ["extractable", "other_use"].map(|n| (n.to_owned(), false));
        Statement {
            format: FORMAT.to_owned(),
            made_at: "2026-11-25T15:00:00Z".to_owned(),
            nonce: "00112233445566778899".to_owned(),
            token: TokenFacts {
                label: "ca".to_owned(),
                serial: "1".to_owned(),
                manufacturer: "Example HSM".to_owned(),
                model: "M".to_owned(),
                library: "L 1.0".to_owned(),
            },
            key: KeyFacts {
                id: "00".repeat(16),
                label: "spare".to_owned(),
                algorithm: "P-256".to_owned(),
                spki: hex::encode(key.subject_public_key_info()),
                attributes: good.into_iter().chain(bad).collect(),
            },
            assurance: "a test".to_owned(),
        }
    }

    fn attested(change: impl FnOnce(&mut Statement)) -> Attestation {
        let key = KeyPair::generate().unwrap();
        let mut statement = statement(&key);
        change(&mut statement);
        let signature = key.sign(&statement.message().unwrap()).unwrap();
        statement.signed(SignatureAlgorithm::EcdsaSha256, &signature).unwrap()
    }

    #[test]
    fn what_was_signed_verifies_and_nothing_else_does() {
        let good = attested(|_| ());
        let text = serde_json::to_string_pretty(&good).unwrap();
        let read = Attestation::parse(&text).unwrap();
        assert_eq!(read, good);
        let key = read.verify(&Expected::default()).unwrap();
        let right = Expected { nonce: hex::decode("00112233445566778899").ok(), spki: Some(key.spki_der().to_vec()) };
        read.verify(&right).unwrap();
        let with = |change: fn(&mut Attestation)| {
            let mut changed = good.clone();
            change(&mut changed);
            changed.verify(&Expected::default()).unwrap_err()
        };
        assert_eq!(with(|a| a.statement.nonce.push('0')), AttestationError::Signature);
        assert_eq!(with(|a| a.statement.token.serial = "2".into()), AttestationError::Signature);
        assert_eq!(with(|a| a.statement.key.label.clear()), AttestationError::Signature);
        assert_eq!(with(|a| a.signature.clear()), AttestationError::Signature);
        assert_eq!(with(|a| a.signature_algorithm.clear()), AttestationError::Signature);
        assert!(matches!(with(|a| a.statement.format.push('2')), AttestationError::Format(_)));
        assert!(matches!(with(|a| a.statement.key.spki.clear()), AttestationError::PublicKey(_)));
        assert!(matches!(with(|a| a.statement.key.algorithm = "P-384".into()), AttestationError::Algorithm { .. }));
        let other = attested(|_| ());
        let stolen = Attestation { signature: other.signature, ..good.clone() };
        assert_eq!(stolen.verify(&Expected::default()).unwrap_err(), AttestationError::Signature);
    }

    #[test]
    fn the_verifiers_own_knowledge_counts() {
        let good = attested(|_| ());
        let nonce = Expected { nonce: Some(vec![1; 16]), ..Expected::default() };
        assert_eq!(good.verify(&nonce).unwrap_err(), AttestationError::Nonce);
        let spki = Expected { spki: Some(vec![1; 91]), ..Expected::default() };
        assert_eq!(good.verify(&spki).unwrap_err(), AttestationError::OtherKey);
    }

    #[test]
    fn a_key_that_could_leave_its_token_is_refused_although_it_signed() {
        let weak = attested(|s| {
            s.key.attributes.insert("extractable".to_owned(), true);
        });
        assert_eq!(weak.verify(&Expected::default()).unwrap_err(), AttestationError::Attribute("extractable"));
    }

    #[test]
    fn the_text_that_is_signed_has_sorted_keys() {
        let statement = statement(&KeyPair::generate().unwrap());
        let sorted: std::collections::BTreeMap<String, serde_json::Value> =
            serde_json::from_value(serde_json::to_value(&statement).unwrap()).unwrap();
        let part = |name: &str| -> std::collections::BTreeMap<String, serde_json::Value> {
            serde_json::from_value(sorted[name].clone()).unwrap()
        };
        let text = serde_json::to_string(&statement).unwrap();
        for name in ["key", "token"] {
            assert!(text.contains(&serde_json::to_string(&part(name)).unwrap()), "{name} in {text}");
        }
        let order: Vec<usize> = sorted.keys().map(|name| text.find(&format!("\"{name}\":")).unwrap()).collect();
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn the_signed_message_is_no_der() {
        let key = KeyPair::generate().unwrap();
        assert_eq!(statement(&key).message().unwrap()[0], b's');
        assert!(Attestation::parse(&" ".repeat(TEXT_MOST + 1)).is_err());
        assert!(Attestation::parse("{\"statement\":{}}").is_err());
    }
}
