//! Recognising a token when a signer comes up: by name, by its identity key, by its epoch.

use super::age;
use super::config::Identity;
use super::job::{Check, Job, Place, Task};
use super::pool::TokenState;
use super::shared::SharedRef;
use super::supervisor::{Event, Supervisor};
use crate::HsmError;
use crate::mechanism::Capabilities;
use crate::wire::{self, Facts};
use std::path::PathBuf;
use std::sync::Arc;

impl Supervisor {
    pub(super) fn ready(&mut self, line: u64, facts: Facts) {
        let Some(unit) = self.unit_of(line) else { return };
        // A signer says this once.
        let again = self.shared.pool().lines.get_mut(&line).is_none_or(|line| std::mem::replace(&mut line.ready, true));
        if again {
            return self.keeper.kill(line);
        }
        let known = &self.shared.config.known;
        let ours = known.iter().find(|i| i.serial == facts.serial && i.label == facts.label).cloned();
        let wrong = HsmError::WrongToken {
            token: facts.label.clone(),
            reason: format!("no token with serial number '{}' was enrolled", facts.serial).into(),
        };
        let is_any_known = !known.is_empty();
        self.take_facts(unit, facts);
        match ours {
            Some(identity) => self.challenge(line, identity),
            None if is_any_known => self.proved(line, Err(wrong)),
            None => self.proved(line, Ok(())),
        }
    }

    pub(super) fn take_facts(&self, unit: usize, facts: Facts) {
        let mut pool = self.shared.pool();
        let capabilities = Capabilities::from_numbers(&facts.mechanisms);
        // Tokens that can do the same share one value, so that a request prepared for one suits the other.
        let same = pool.units.iter().filter_map(|u| u.capabilities.as_ref()).find(|c| ***c == capabilities).cloned();
        if let Some(unit) = pool.units.get_mut(unit) {
            unit.capabilities = Some(same.unwrap_or_else(|| Arc::new(capabilities)));
            unit.facts = Some(facts);
        }
    }

    /// Lets the token sign a fresh number with its identity key.
    pub(super) fn challenge(&self, line: u64, identity: Identity) {
        let nonce: [u8; 32] = rand::random();
        let algorithm = identity.public_key.algorithm().signature_algorithm();
        // Begins with no 0x30, so it can be no certificate, CRL or OCSP response.
        let message = [b"sealwright token identity v1\0".as_slice(), &nonce].concat();
        let check = Arc::new(Check { public_key: identity.public_key.clone(), algorithm, message });
        let (events, label, key) = (self.shared.events.clone(), identity.label.clone(), identity.key);
        let shared = self.shared.clone();
        let done = Box::new(move |answer: Result<wire::Answer, HsmError>| {
            let wrong = |reason: &'static str| HsmError::WrongToken { token: label, reason: reason.into() };
            let result = match answer {
                Ok(_) => return ask_age(&shared, line, identity),
                Err(error) if error.is_retryable() => Err(error),
                Err(HsmError::WrongSignature) => Err(wrong("it has another identity key")),
                Err(HsmError::KeyMissing { .. }) => Err(wrong("it does not have its identity key")),
                Err(_) => Err(wrong("it does not sign with its identity key")),
            };
            let _ = events.send(Event::Proved { line, result });
        });
        let task = Task::Sign { key, check };
        self.shared.submit(Job::new(task, Place::Line(line), true, self.shared.config.deadline, done));
    }

    /// A token that was put back from a backup is older than when it was last seen.
    pub(super) fn aged(&mut self, line: u64, identity: &Identity, result: Result<Option<u64>, HsmError>) {
        let Some(unit) = self.unit_of(line) else { return };
        let config = &self.shared.config;
        let file = match (&config.state_dir, config.tokens.get(unit)) {
            (Some(dir), Some(token)) => age::file(dir, identity, token),
            _ => return self.proved(line, Ok(())),
        };
        let (seen, now) = (
            age::read(&file),
            match result {
                Ok(epoch) => epoch,
                Err(error) if error.is_retryable() => return self.proved(line, Err(error)),
                // A token that keeps no data objects cannot be told from its older copies.
                Err(_) => return self.proved(line, Ok(())),
            },
        );
        if seen.is_some() && now < seen {
            let reason = "it is older than when it was last used, so it was put back from a backup".into();
            return self.proved(line, Err(HsmError::WrongToken { token: identity.label.clone(), reason }));
        }
        let Some(next) = now.unwrap_or_default().checked_add(1) else {
            let reason = "its epoch is at its end; nobody but an attacker starts a service so often".into();
            return self.proved(line, Err(HsmError::WrongToken { token: identity.label.clone(), reason }));
        };
        if seen.is_none() && now.is_some() {
            tracing::warn!(
                token = identity.label,
                "this token was used before, and it is not remembered when: an older copy could not be told from it"
            );
        }
        if let Some(ward) = self.wards.get_mut(unit).filter(|ward| self.shared.config.serves && !ward.noted) {
            ward.noted = true;
            note_use(&self.shared, line, unit, file, next);
        }
        self.proved(line, Ok(()));
    }

    pub(super) fn proved(&mut self, line: u64, result: Result<(), HsmError>) {
        let Some(unit) = self.unit_of(line) else { return };
        if let Err(error) = result {
            self.ends_with(line, error);
            return self.keeper.kill(line);
        }
        let was = {
            let mut pool = self.shared.pool();
            if let Some(line) = pool.lines.get_mut(&line) {
                line.serving = true;
            }
            let Some(unit) = pool.units.get_mut(unit) else { return };
            unit.strain = 0.0;
            std::mem::replace(&mut unit.state, TokenState::Up)
        };
        if let Some(ward) = self.wards.get_mut(unit) {
            ward.failed = 0;
            ward.next_try = None;
        }
        if !matches!(was, TokenState::Up) {
            tracing::info!(token = self.shared.name(unit), "the token signs");
        }
        self.shared.changed.notify_all();
        self.shared.pump();
    }
}

/// Asks for the token's epoch; what comes is [`Event::Aged`].
fn ask_age(shared: &SharedRef, line: u64, identity: Identity) {
    let events = shared.events.clone();
    let done = Box::new(move |answer: Result<wire::Answer, HsmError>| {
        let result = answer.and_then(|answer| match answer {
            wire::Answer::Epoch(epoch) => Ok(epoch),
            _ => Err(HsmError::Closed),
        });
        let _ = events.send(Event::Aged { line, identity: Box::new(identity), result });
    });
    let task = Task::Other(wire::Operation::ReadEpoch);
    shared.submit(Job::new(task, Place::Line(line), true, shared.config.deadline, done));
}

/// Raises the token's epoch, and remembers it once the token has it: after a cut between, the token is ahead.
fn note_use(shared: &SharedRef, line: u64, unit: usize, file: PathBuf, epoch: u64) {
    let name = shared.name(unit).to_owned();
    let done = Box::new(move |answer: Result<wire::Answer, HsmError>| match answer {
        Ok(_) => {
            if let Err(error) = age::write(&file, epoch) {
                tracing::warn!(token = name, %error, "the token's epoch is not remembered");
            }
        }
        Err(error) => tracing::warn!(token = name, %error, "an older copy of this token could not be told from it"),
    });
    let task = Task::Other(wire::Operation::WriteEpoch(epoch));
    shared.submit(Job::new(task, Place::Line(line), true, shared.config.deadline, done));
}
