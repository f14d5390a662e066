//! Who may log in, and when: one signer of a token at a time, and nobody after a wrong PIN.

use super::pool::TokenState;
use super::statistics::count;
use super::supervisor::{Supervisor, UNLOCK};
use crate::HsmError;
use crate::wire::{self, ToSigner};
use std::time::{Duration, Instant};

impl Supervisor {
    pub(super) fn login_wanted(&mut self, line: u64) {
        let Some(unit) = self.unit_of(line) else { return };
        let Some(ward) = self.wards.get_mut(unit) else { return };
        ward.waiting.push_back(line);
        self.next_login(unit);
    }

    pub(super) fn next_login(&mut self, unit: usize) {
        let Some(ward) = self.wards.get_mut(unit) else { return };
        while ward.login.is_none()
            && let Some(line) = ward.waiting.pop_front()
        {
            let locked = ward.lock_out.is_locked();
            let permission = if locked { Err(HsmError::PinLockedOut) } else { Ok(()) };
            let outbox = self.shared.pool().lines.get(&line).map(|l| l.outbox.clone());
            let mut frame = Vec::new();
            if let Some(outbox) = outbox
                && wire::put(&mut frame, &ToSigner::Login(permission)).is_ok()
            {
                outbox.send(&frame);
                if !locked {
                    ward.login = Some(line);
                    count(&self.shared.counters(unit).logins);
                }
            }
        }
    }

    pub(super) fn login_ended(&mut self, line: u64, result: Result<(), HsmError>) {
        let Some(unit) = self.unit_of(line) else { return };
        let name = self.shared.name(unit).to_owned();
        let Some(ward) = self.wards.get_mut(unit) else { return };
        if result == Err(HsmError::PinWrong) {
            count(&self.shared.counters(unit).wrong_pins);
            ward.lock_out.lock();
            tracing::error!(
                token = name,
                "the PIN is wrong; the token is locked out by us until 'sealwright hsm unlock'"
            );
        }
        if ward.login == Some(line) {
            ward.login = None;
        }
        if result == Err(HsmError::PinWrong) {
            // It has no login any more. Others that have theirs go on.
            self.ends_with(line, HsmError::PinWrong);
            self.keeper.kill(line);
        }
        self.next_login(unit);
    }

    /// A token that we locked out ourselves: an operator's word ends it.
    pub(super) fn look_for_word(&mut self, unit: usize) {
        let Some(ward) = self.wards.get_mut(unit) else { return };
        let name = self.shared.name(unit);
        let is_told = matches!(self.shared.pool().units.get(unit).map(|u| &u.state), Some(TokenState::LockedOut));
        if !is_told && self.shared.pool().lines.values().all(|l| l.unit != unit || !l.serving) {
            tracing::error!(token = name, "locked out by us; run 'sealwright hsm unlock' when the PIN is right");
            return self.set_state(unit, TokenState::LockedOut, UNLOCK);
        }
        if ward.looked.elapsed() < UNLOCK {
            return;
        }
        ward.looked = Instant::now();
        if ward.lock_out.is_lifted() {
            tracing::warn!(token = name, "an operator has unlocked the token; the PIN is tried again");
            ward.failed = 0;
            ward.next_try = Some(Instant::now());
            if is_told {
                self.set_state(unit, TokenState::Starting, Duration::ZERO);
            }
        }
    }
}
