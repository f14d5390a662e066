//! What is known of a key: by the token, and by the journal.

use anyhow::Result;
use ca_core::certificate::Certificate;
use ceremony::attributes::Attributes;
use hsm::{KeyAttributes, TokenKey};
use serde_json::{Value, json};
use store::{IssuerState, KeyEntry, KeyException, Store};

/// The attributes by name.
pub fn attributes(of: &KeyAttributes) -> Attributes {
    [
        ("sensitive", of.sensitive),
        ("extractable", of.extractable),
        ("always_sensitive", of.always_sensitive),
        ("never_extractable", of.never_extractable),
        ("local", of.local),
        ("sign", of.sign),
        ("other_use", of.other_use),
        ("modifiable", of.modifiable),
        ("copyable", of.copyable),
        ("wrap_with_trusted", of.wrap_with_trusted),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Somebody that needs a key, with the certificate that the key must fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// `CKA_ID`.
    pub key: Vec<u8>,
    /// Who, in words.
    pub who: String,
    /// SubjectPublicKeyInfo that the key must have, DER; `None` where the certificate cannot be read.
    spki: Option<Vec<u8>>,
    /// An issuer that is retired needs its key no more.
    pub live: bool,
}

/// Everything that the journal says about keys.
#[derive(Debug)]
pub struct Known {
    uses: Vec<Use>,
    records: Vec<KeyEntry>,
}

impl Known {
    /// Reads the journal.
    ///
    /// # Errors
    /// Where it is damaged.
    pub fn read(store: &Store) -> Result<Self> {
        let spki = |der: &[u8]| Certificate::from_der(der).ok().map(|c| c.public_key().spki_der().to_vec());
        let mut uses = Vec::new();
        for issuer in store.issuers()? {
            let live = issuer.state != IssuerState::Retired;
            let who = format!("issuer {} ({})", issuer.id, issuer.state);
            uses.push(Use { key: issuer.key_id, who, spki: spki(&issuer.certificate), live });
            if !issuer.ocsp_key_id.is_empty() {
                let (who, spki) = (format!("OCSP responder of {}", issuer.id), spki(&issuer.ocsp_certificate));
                uses.push(Use { key: issuer.ocsp_key_id, who, spki, live });
            }
        }
        if let Some(server) = store.server_identity()? {
            let leaf = server.chain.first().and_then(|leaf| spki(leaf));
            uses.push(Use { key: server.key_id, who: "TLS".to_owned(), spki: leaf, live: true });
        }
        for token in store.token_identities()? {
            let who = format!("identity of token {}", token.label);
            uses.push(Use { key: token.key_id.to_vec(), who, spki: Some(token.spki), live: true });
        }
        Ok(Self { uses, records: store.keys()? })
    }

    /// Who needs this key.
    pub fn uses<'a>(&'a self, id: &'a [u8]) -> impl Iterator<Item = &'a Use> {
        self.uses.iter().filter(move |one| one.key == id)
    }

    /// The records about this key.
    pub fn record(&self, id: &[u8]) -> Option<&KeyEntry> {
        self.records.iter().find(|record| record.id == id)
    }

    /// Exceptions whose key is not among the given ones: the run that was to make it was cut off, or it was lost.
    pub fn unmade<'a>(&'a self, there: &'a [TokenKey]) -> impl Iterator<Item = &'a KeyEntry> {
        let there = |id| there.iter().any(|key| key.id.as_bytes() == id);
        self.records.iter().filter(move |r| r.exception.is_some() && r.retired.is_none() && !there(&r.id))
    }

    /// Those that need a key which is not among the given ones.
    pub fn missing<'a>(&'a self, there: &'a [TokenKey]) -> impl Iterator<Item = &'a Use> {
        self.uses.iter().filter(|one| one.live && !there.iter().any(|key| one.key == key.id.as_bytes()))
    }
}

fn exception(of: &KeyException) -> Value {
    json!({
        "wrapped_backup_under": hex::encode(of.wrapping_key_id), "reason": of.reason,
        "by": of.by, "at": of.at.to_string(),
    })
}

/// One key of the token with what the journal says about it.
#[derive(Debug)]
pub struct Facts<'a> {
    /// By the token.
    pub key: &'a TokenKey,
    /// By the journal, if it could be read.
    pub known: Option<&'a Known>,
}

impl Facts<'_> {
    fn record(&self) -> Option<&KeyEntry> {
        self.known.and_then(|known| known.record(self.key.id.as_bytes()))
    }

    /// What it is for; `None` where the journal could not be read.
    pub fn uses(&self) -> Option<Vec<String>> {
        self.known.map(|known| known.uses(self.key.id.as_bytes()).map(|one| one.who.clone()).collect())
    }

    /// Whether it is the key of every certificate that it is for, and the one whose making was recorded; `None` where
    /// there is nothing to compare with.
    pub fn fits(&self) -> Option<bool> {
        let known = self.known?;
        let recorded = self.record().and_then(|record| record.made.as_ref()).map(|made| Some(made.spki.as_slice()));
        let mut wanted = known.uses(self.key.id.as_bytes()).map(|one| one.spki.as_deref()).chain(recorded).peekable();
        wanted.peek()?;
        Some(wanted.all(|spki| spki == Some(self.key.public_key.spki_der())))
    }

    /// What is wrong with it.
    pub fn flaw(&self) -> Option<String> {
        let attributes = &self.key.attributes;
        if let Some(flaw) = attributes.flaw_under(self.is_excepted()) {
            let unread = self.known.is_none() && attributes.flaw_under(true).is_none();
            return Some(if unread {
                format!("{flaw}, unless the journal allows it a backup")
            } else {
                flaw.to_owned()
            });
        }
        let retired = self.record().and_then(|record| record.retired.as_ref());
        if retired.is_some_and(|retired| retired.destroyed) {
            return Some("the journal says that it was destroyed, and it is there".to_owned());
        }
        (self.fits() == Some(false)).then(|| "it is not the key of its certificate or record".to_owned())
    }

    /// Whether it is recorded that it may leave the token wrapped under a trusted key.
    fn is_excepted(&self) -> bool {
        self.record().is_some_and(|record| record.exception.is_some() && record.retired.is_none())
    }

    /// In one word or two.
    pub fn state(&self) -> String {
        let state = match self.record().map(|record| (&record.made, &record.retired)) {
            Some((_, Some(_))) => "retired",
            Some((Some(made), None)) => &made.purpose,
            _ => "",
        };
        let backup = if self.is_excepted() { "wrapped backup allowed" } else { "" };
        [state, backup].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let key = self.key;
        let record = self.record();
        json!({
            "key_id": key.id.to_string(),
            "label": key.label,
            "algorithm": key.public_key.algorithm().to_string(),
            "public_key_sha256": hex::encode(key.public_key.spki_sha256()),
            "attributes": attributes(&key.attributes),
            "use": self.uses(),
            "fits_its_certificates": self.fits(),
            "flaw": self.flaw(),
            "made": record.and_then(|record| record.made.as_ref()).map(|made| json!({
                "at": made.at.to_string(), "by": made.by, "purpose": made.purpose, "tenant": made.tenant,
                "token_serial": made.token_serial, "token_label": made.token_label,
            })),
            "exception": record.and_then(|record| record.exception.as_ref()).map(exception),
            "retired": record.and_then(|record| record.retired.as_ref()).map(|retired| json!({
                "at": retired.at.to_string(), "by": retired.by, "why": retired.why, "destroyed": retired.destroyed,
            })),
        })
    }
}
