//! Verifying a transcript, whatever became of the ceremony.

use super::{
    BEGIN, CLOSE, DOMAIN, FILE, Facts, INTERRUPTED, ISSUED, KEY, Line, ROOT, SEAL, TEXT_MOST, TranscriptError,
};
use crate::{
    attributes::{self, Attributes},
    seal,
};
use ca_core::certificate::Certificate;
use sha2::{Digest, Sha256};

/// How the ceremony ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Sealed by the root key.
    Sealed,
    /// Given up, and why.
    Interrupted(String),
    /// The transcript simply ends: the program was killed, or the end was cut off.
    Incomplete,
}

/// A file that went in or came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFact {
    /// Its name without folders.
    pub name: String,
    /// SHA-256, hexadecimal.
    pub sha256: String,
    /// Whether the ceremony made it.
    pub made: bool,
}

/// A transcript whose chain is whole; where the outcome is [`Outcome::Sealed`], everything in it was verified.
#[derive(Clone, Debug)]
pub struct Verified {
    /// How it ended.
    pub outcome: Outcome,
    /// SHA-256 of the last line that states facts.
    pub hash: [u8; 32],
    /// How many lines.
    pub lines: usize,
    /// Time of the first line.
    pub began: String,
    /// Answers came from a file: a rehearsal.
    pub scripted: bool,
    /// The root certificate, once there is one.
    pub root: Option<Certificate>,
    /// What the root issued.
    pub issued: Vec<Certificate>,
    /// The files.
    pub files: Vec<FileFact>,
    attributes: Option<Attributes>,
    spki_sha256: Option<String>,
}

/// Verifies the chain of lines; of a sealed transcript also the key's attributes, the certificates and the seal.
///
/// # Errors
/// [`TranscriptError`] names the line and what is wrong with it.
pub fn verify(text: &str) -> Result<Verified, TranscriptError> {
    if text.is_empty() || text.len() > TEXT_MOST {
        return Err(TranscriptError::Size);
    }
    let mut found = Verified {
        outcome: Outcome::Incomplete,
        hash: [0; 32],
        lines: 0,
        began: String::new(),
        scripted: false,
        root: None,
        issued: Vec::new(),
        files: Vec::new(),
        attributes: None,
        spki_sha256: None,
    };
    let (mut head, mut closed) = ([0; 32], false);
    for (at, line) in text.lines().enumerate() {
        let number = at + 1;
        let parsed: Line =
            serde_json::from_str(line).map_err(|e| TranscriptError::Syntax { line: number, problem: e.to_string() })?;
        if parsed.index != at as u64 || parsed.previous != hex::encode(head) {
            return Err(TranscriptError::Chain { line: number });
        }
        let ended = found.outcome != Outcome::Incomplete;
        let out_of_place = ended || (parsed.step == BEGIN) != (at == 0) || closed != (parsed.step == SEAL);
        // What interrupts may come between the closing line and the seal.
        if out_of_place && (ended || parsed.step != INTERRUPTED || at == 0) {
            return Err(TranscriptError::Order { line: number, step: parsed.step });
        }
        if parsed.step == SEAL {
            found.check_seal(&parsed.facts, &head)?;
        } else {
            head = Sha256::digest(line).into();
            found.hash = head;
            closed |= parsed.step == CLOSE;
            found.note(number, parsed)?;
        }
        found.lines = number;
    }
    Ok(found)
}

impl Verified {
    fn note(&mut self, line: usize, parsed: Line) -> Result<(), TranscriptError> {
        let text = |field: &'static str| {
            let value = parsed.facts.get(field).and_then(|value| value.as_str());
            value.map(str::to_owned).ok_or(TranscriptError::Fact { line, field })
        };
        let certificate = || {
            let der = hex::decode(text("certificate")?).ok();
            let parsed = der.and_then(|der| Certificate::from_der(&der).ok());
            parsed.ok_or(TranscriptError::Fact { line, field: "certificate" })
        };
        let again = || Err(TranscriptError::Order { line, step: parsed.step.clone() });
        match parsed.step.as_str() {
            BEGIN => {
                self.scripted = text("answers")? != "typed";
                self.began.clone_from(&parsed.time);
            }
            KEY => {
                if self.spki_sha256.is_some() {
                    return again();
                }
                self.spki_sha256 = Some(text("spki_sha256")?);
                let attributes = parsed.facts.get("attributes").cloned().unwrap_or_default();
                let attributes = serde_json::from_value(attributes);
                self.attributes = Some(attributes.map_err(|_| TranscriptError::Fact { line, field: "attributes" })?);
            }
            ROOT => {
                if self.root.is_some() {
                    return again();
                }
                self.root = Some(certificate()?);
            }
            ISSUED => {
                let issued = certificate()?;
                let root = self.root.as_ref().ok_or(TranscriptError::Order { line, step: parsed.step.clone() })?;
                let signed = issued.verify_signature(root.public_key()).is_ok();
                if !signed || issued.issuer_der() != root.subject_der() {
                    return Err(TranscriptError::Issued { line });
                }
                self.issued.push(issued);
            }
            FILE => self.files.push(FileFact {
                name: text("name")?,
                sha256: text("sha256")?,
                made: match text("direction")?.as_str() {
                    "in" => false,
                    "out" => true,
                    _ => return Err(TranscriptError::Fact { line, field: "direction" }),
                },
            }),
            INTERRUPTED => self.outcome = Outcome::Interrupted(text("reason")?),
            _ => {}
        }
        Ok(())
    }

    fn check_seal(&mut self, facts: &Facts, close: &[u8; 32]) -> Result<(), TranscriptError> {
        let attributes = self.attributes.as_ref().ok_or(TranscriptError::Missing(KEY))?;
        if let Some(flaw) = attributes::flaw(attributes) {
            return Err(TranscriptError::Attribute(flaw));
        }
        let root = self.root.as_ref().ok_or(TranscriptError::Missing(ROOT))?;
        let key = root.public_key();
        if self.spki_sha256.as_deref() != Some(&hex::encode(key.spki_sha256())) {
            return Err(TranscriptError::Root("is for another key than the recorded one"));
        }
        if !root.is_ca() || root.issuer_der() != root.subject_der() || root.verify_signature(key).is_err() {
            return Err(TranscriptError::Root("is not a self-signed CA certificate"));
        }
        let text = |name: &str| facts.get(name).and_then(|value| value.as_str()).ok_or(TranscriptError::Seal);
        // What else stood in this line would be covered by no signature.
        if facts.len() != 2 {
            return Err(TranscriptError::Seal);
        }
        let message = seal::message(DOMAIN, close);
        seal::verify(key, text("algorithm")?, &message, text("signature")?).ok_or(TranscriptError::Seal)?;
        self.outcome = Outcome::Sealed;
        Ok(())
    }
}
