//! Who may log in, and when: one signer of a token at a time, and nobody after a wrong PIN.

use super::lockout::Permission;
use super::pool::TokenState;
use super::statistics::count;
use super::supervisor::{Supervisor, UNLOCK};
use crate::HsmError;
use crate::wire::{self, ToSigner};
use std::time::{Duration, Instant};

impl Supervisor {
    pub(super) fn login_wanted(&mut self, line: u64, low: bool) {
        let Some(unit) = self.unit_of(line) else { return };
        let Some(ward) = self.wards.get_mut(unit) else { return };
        // A signer has one wish at a time.
        if ward.login != Some(line) && ward.waiting.iter().all(|(other, _)| *other != line) {
            ward.waiting.push_back((line, low));
        }
        self.next_login(unit);
    }

    pub(super) fn next_login(&mut self, unit: usize) {
        let Some(ward) = self.wards.get_mut(unit) else { return };
        while ward.login.is_none()
            && let Some((line, low)) = ward.waiting.front().copied()
        {
            let outbox = self.shared.pool().lines.get(&line).map(|l| l.outbox.clone());
            let Some(outbox) = outbox else {
                ward.waiting.pop_front();
                continue;
            };
            let permission = match ward.lock_out.permit(low) {
                Permission::Later => return,
                Permission::Denied => Err(HsmError::PinLockedOut),
                Permission::Forgetful(why) => {
                    Err(HsmError::Process(format!("no PIN is tried, since a wrong one could not be remembered: {why}")))
                }
                Permission::Granted => {
                    ward.login = Some(line);
                    count(&self.shared.counters(unit).logins);
                    Ok(())
                }
            };
            ward.waiting.pop_front();
            let mut frame = Vec::new();
            if wire::put(&mut frame, &ToSigner::Login(permission)).is_ok() {
                outbox.send(&frame);
            }
        }
    }

    /// The signer that was allowed to log in is gone, and its answer with it.
    pub(super) fn login_lost(&mut self, unit: usize, line: u64) {
        let Some(ward) = self.wards.get_mut(unit) else { return };
        ward.waiting.retain(|(other, _)| *other != line);
        if ward.login == Some(line) {
            ward.login = None;
            ward.lock_out.unsure();
        }
        self.next_login(unit);
    }

    pub(super) fn login_ended(&mut self, line: u64, result: Result<(), HsmError>) {
        let Some(unit) = self.unit_of(line) else { return };
        let name = self.shared.name(unit).to_owned();
        let Some(ward) = self.wards.get_mut(unit).filter(|ward| ward.login == Some(line)) else { return };
        ward.login = None;
        match &result {
            Ok(()) => ward.lock_out.succeeded(),
            Err(HsmError::PinWrong) => ward.lock_out.lock(),
            // The token looks at no PIN now; a person unlocks it there, and it is well again.
            Err(HsmError::PinLocked) => ward.lock_out.ended(),
            Err(_) => ward.lock_out.unsure(),
        }
        if result == Err(HsmError::PinWrong) {
            count(&self.shared.counters(unit).wrong_pins);
            tracing::error!(
                token = name,
                "the PIN is wrong; the token is locked out by us until 'sealwright hsm unlock'"
            );
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
