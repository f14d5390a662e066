//! The checks of one key algorithm, on one scratch key.

use super::report::{Verdict, failed};
use super::scratch::Scratch;
use super::{Bench, cure};
use crate::mechanism::fits;
use crate::{Failure, HsmError, KeyRequest, SignRequest, Statistics, Token, TokenKey};
use ca_core::key::{KeyAlgorithm, SignatureAlgorithm};

/// A CRL of some twenty thousand entries.
const LARGE: usize = 1 << 20;
/// Codes with which tokens say that they have the mechanism, but not for this curve, size or parameter set.
const LACKING: [&str; 6] = [
    "CKR_MECHANISM_INVALID",
    "CKR_MECHANISM_PARAM_INVALID",
    "CKR_CURVE_NOT_SUPPORTED",
    "CKR_DOMAIN_PARAMS_INVALID",
    "CKR_KEY_SIZE_RANGE",
    "CKR_FUNCTION_NOT_SUPPORTED",
];

/// A key under check.
pub(super) struct Subject<'a> {
    pub token: &'a Token,
    pub key: TokenKey,
}

impl Subject<'_> {
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.key.public_key.algorithm()
    }

    /// The signature algorithms that the token has for this key, its usual one first.
    pub fn signature_algorithms(&self) -> Vec<SignatureAlgorithm> {
        let key = self.algorithm();
        let mut able: Vec<_> = self.token.info().algorithms.into_iter().filter(|a| fits(key, *a)).collect();
        able.sort_by_key(|a| *a != key.signature_algorithm());
        able
    }

    pub fn request(&self, algorithm: SignatureAlgorithm, message: Vec<u8>) -> SignRequest {
        SignRequest { key: self.key.id, public_key: self.key.public_key.clone(), algorithm, message }
    }

    /// A signature over a short message, which the layer verifies.
    fn sign(&self, algorithm: SignatureAlgorithm) -> Result<(), HsmError> {
        // Begins with no 0x30, so it can be no certificate, CRL or OCSP response.
        self.token.sign(self.request(algorithm, b"sealwright check v1\0".to_vec())).map(|_| ())
    }
}

impl Bench<'_> {
    /// Everything about one algorithm. True when a key was made and has signed.
    pub(super) fn algorithm(&mut self, token: &Token, algorithm: KeyAlgorithm) -> bool {
        let before = token.statistics();
        let scratch = Scratch::new(algorithm);
        let mut signed = false;
        match scratch.make(token) {
            Ok(key) => {
                self.note(algorithm, "generate", Verdict::Ok(format!("CKA_ID {}", key.id)));
                signed = self.key(&Subject { token, key });
                self.twice(token, &scratch);
            }
            Err(HsmError::Unsupported { what }) => {
                self.note(algorithm, "generate", Verdict::Missing(format!("the token has no mechanism for {what}")));
            }
            Err(HsmError::Refused(failure)) if is_lacking(&failure) => {
                self.note(algorithm, "generate", Verdict::Missing(format!("the token makes no such key ({failure})")));
            }
            Err(error @ HsmError::KeyUnsuitable { .. }) => {
                self.note(algorithm, "generate", Verdict::Ok("made, and destroyed again".into()));
                self.note(algorithm, "attributes", failed(&error, cure(&error)));
            }
            Err(error) => self.note(algorithm, "generate", failed(&error, cure(&error))),
        }
        self.steady(token, algorithm, before);
        self.destroy(token, algorithm, scratch);
        signed
    }

    fn key(&mut self, subject: &Subject<'_>) -> bool {
        let (token, key, algorithm) = (subject.token, &subject.key, subject.algorithm());
        let found = key.attributes;
        let attributes = match found.flaw() {
            Some(flaw) => failed(flaw, cure(&HsmError::KeyUnsuitable { id: key.id, reason: flaw.into() })),
            None => {
                let mut text = "sensitive, never extractable, made on the token, only signs".to_owned();
                for (holds, more) in [(!found.modifiable, ", not modifiable"), (!found.copyable, ", not copyable")] {
                    text.push_str(if holds { more } else { "" });
                }
                Verdict::Ok(text)
            }
        };
        self.note(algorithm, "attributes", attributes);
        let public = match token.find(&key.id) {
            Ok(again) if again == *key => Verdict::Ok(format!("{} octets", key.public_key.spki_der().len())),
            Ok(_) => failed("the key is another when it is looked for", "take this token out of service"),
            Err(error) => failed(&error, cure(&error)),
        };
        self.note(algorithm, "public key", public);
        let signed = self.signatures(subject);
        self.other_algorithm(subject);
        let extracted = match token.extract(&key.id) {
            Ok(leaks) if leaks.is_empty() => Verdict::Ok("refused each time".into()),
            Ok(leaks) => {
                failed(leaks.join("; "), "the private key can leave this token; set its policy, or use another")
            }
            Err(error) => failed(&error, cure(&error)),
        };
        self.note(algorithm, "extraction", extracted);
        self.step(&format!("{algorithm}: in a new process"));
        let again = self.in_a_new_process(subject);
        self.note(algorithm, "new process", again);
        signed
    }

    /// Each signature algorithm, messages of several sizes, and the latency of the usual one.
    fn signatures(&mut self, subject: &Subject<'_>) -> bool {
        let algorithm = subject.algorithm();
        let usual = algorithm.signature_algorithm();
        let able = subject.signature_algorithms();
        if !able.contains(&usual) {
            self.note(
                algorithm,
                format!("signs {usual}"),
                Verdict::Missing("the token has no mechanism for it".into()),
            );
        }
        let mut working = None;
        for signature in able {
            self.step(&format!("{algorithm}: {signature}"));
            let verdict = match subject.sign(signature) {
                Ok(()) => {
                    working = working.or(Some(signature));
                    Verdict::Ok("verifies".into())
                }
                Err(HsmError::Refused(failure)) if is_lacking(&failure) => {
                    Verdict::Missing(format!("refused ({failure})"))
                }
                Err(error) => failed(&error, cure(&error)),
            };
            self.note(algorithm, format!("signs {signature}"), verdict);
        }
        let Some(signature) = working else {
            self.note(algorithm, "signature", failed("the key signs in no way that is known here", super::ALGORITHM));
            return false;
        };
        for (check, octets) in [("empty message", 0), ("message of 1 MiB", LARGE)] {
            let verdict = match subject.token.sign(subject.request(signature, vec![7; octets])) {
                Ok(_) => Verdict::Ok("verifies".into()),
                Err(HsmError::Refused(failure)) => Verdict::Missing(format!("refused ({failure})")),
                Err(error) => failed(&error, cure(&error)),
            };
            self.note(algorithm, check, verdict);
        }
        self.step(&format!("{algorithm}: how long a signature takes"));
        self.latency(subject, signature);
        true
    }

    /// An algorithm that does not go with the key must be refused.
    fn other_algorithm(&mut self, subject: &Subject<'_>) {
        let key = subject.algorithm();
        let able = subject.token.info().algorithms;
        let Some(other) = able.into_iter().find(|a| !fits(key, *a)) else { return };
        let verdict = match subject.sign(other) {
            Err(HsmError::AlgorithmMismatch { .. }) => Verdict::Ok(format!("{other} is refused")),
            Ok(()) => failed(format!("signs with {other}"), "take this token out of service"),
            Err(error) => failed(&error, cure(&error)),
        };
        self.note(key, "wrong algorithm", verdict);
    }

    /// A new process has neither handles nor a login from before.
    fn in_a_new_process(&mut self, subject: &Subject<'_>) -> Verdict {
        let Some(signature) = subject.signature_algorithms().first().copied() else {
            return Verdict::Missing("nothing to sign with".into());
        };
        let looked = self.open(1, 1).and_then(|token| {
            let found = token.find(&subject.key.id)?;
            Subject { token: &token, key: found.clone() }.sign(signature)?;
            Ok(found)
        });
        match looked {
            Ok(found) if found == subject.key => Verdict::Ok("found by its CKA_ID, and signs".into()),
            Ok(_) => failed("another process finds another key of this id", "take this token out of service"),
            Err(error) => failed(&error, cure(&error)),
        }
    }

    /// A second key of the same id is not made.
    fn twice(&mut self, token: &Token, scratch: &Scratch) {
        let request = KeyRequest { label: format!("{} b", scratch.request.label), ..scratch.request.clone() };
        let verdict = match token.generate(&request) {
            Err(HsmError::KeyExists { .. }) => Verdict::Ok("a second key of one id is refused".into()),
            Ok(_) => failed("a second key of the same id was made", "the token hides its objects; look at its policy"),
            Err(error) => failed(&error, cure(&error)),
        };
        self.note(scratch.request.algorithm, "same id", verdict);
    }

    /// What happened on the way although it was mended.
    fn steady(&mut self, token: &Token, algorithm: KeyAlgorithm, before: Statistics) {
        let now = token.statistics();
        if now.wrong_signatures > before.wrong_signatures {
            let what = format!(
                "{} of {} signatures did not verify and were withheld",
                now.wrong_signatures - before.wrong_signatures,
                now.signatures - before.signatures + now.wrong_signatures - before.wrong_signatures
            );
            self.note(algorithm, "every signature", failed(what, cure(&HsmError::WrongSignature)));
        } else if now.signatures > before.signatures {
            let what = format!("{} made, all of them right", now.signatures - before.signatures);
            self.note(algorithm, "every signature", Verdict::Ok(what));
        }
        let events = [
            (now.hangs - before.hangs, "the library hung and its process was killed"),
            (now.crashes - before.crashes, "the library crashed"),
            (now.recoveries - before.recoveries, "a session, login or handle was lost"),
        ];
        let seen: Vec<_> =
            events.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{what}, {n} times")).collect();
        if !seen.is_empty() {
            let cure = "Sealwright goes on after it, and yet: look at the vendor's log, and ask the vendor";
            self.note(algorithm, "steady", failed(seen.join("; "), cure));
        }
    }

    /// Destroys the scratch key; then it must be gone.
    fn destroy(&mut self, token: &Token, algorithm: KeyAlgorithm, scratch: Scratch) {
        let id = *scratch.id();
        let was_made = self.report.verdict(&algorithm.to_string(), "generate");
        let was_made = matches!(was_made, Some(Verdict::Ok(_)));
        if let Err(error) = scratch.remove(token) {
            let what = format!("{error}; the scratch key {id} may be left");
            return self.note(algorithm, "destroy", failed(what, "destroy it with the vendor's tool, by its CKA_ID"));
        }
        if was_made {
            let verdict = match token.find(&id) {
                Err(HsmError::KeyMissing { .. }) => Verdict::Ok("gone".into()),
                Ok(_) => failed("the destroyed key is still there", "take this token out of service"),
                Err(error) => failed(&error, cure(&error)),
            };
            self.note(algorithm, "destroy", verdict);
        }
    }
}

fn is_lacking(failure: &Failure) -> bool {
    LACKING.contains(&failure.code())
}
