//! The connection to one token: which slot it is in, the login, and how it comes back after a failure.

use crate::error::{RECONNECT, Trouble};
use crate::module::{Calls, Module, lock};
use crate::statistics::{Counters, count};
use crate::{Failure, FailureClass, HsmError, Pin, TokenUri};
use cryptoki::context::Pkcs11;
use cryptoki::error::{Error as Cryptoki, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) struct Link {
    module: Arc<Module>,
    uri: TokenUri,
    pin: Pin,
    /// The longest wait for the library to be free.
    wait: Duration,
    counters: Arc<Counters>,
    phase: Mutex<Phase>,
    epoch: AtomicU64,
    era: AtomicU64,
}

enum Phase {
    Up(Anchor),
    /// A call failed; the next user repairs it.
    Broken {
        reinitialise: bool,
        /// Closed when its successor is there, so that the login survives.
        old: Option<Anchor>,
    },
    Down {
        until: Instant,
        failure: Option<Failure>,
    },
}

/// The session that keeps the login: closing a process's last session logs it out. Nothing else is done with it.
struct Anchor {
    ticket: Ticket,
    session: Session,
}

/// A connection as a worker sees it: sessions and handles are good for one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub epoch: u64,
    pub generation: u64,
    /// Rises when sessions were found gone without our doing. Their numbers may be other sessions' by now.
    pub era: u64,
    pub slot: Slot,
}

impl Link {
    pub fn new(module: Arc<Module>, uri: TokenUri, pin: Pin, wait: Duration, counters: Arc<Counters>) -> Self {
        let phase = Mutex::new(Phase::Broken { reinitialise: false, old: None });
        Self { module, uri, pin, wait, counters, phase, epoch: AtomicU64::new(0), era: AtomicU64::new(0) }
    }

    pub fn calls(&self) -> Result<Calls<'_>, HsmError> {
        self.module.calls(self.wait)
    }

    /// The first connection: errors are told as they are, nothing is retried.
    pub fn open(&self) -> Result<Ticket, HsmError> {
        let mut phase = lock(&self.phase);
        let anchor = self.connect()?;
        let ticket = anchor.ticket;
        *phase = Phase::Up(anchor);
        Ok(ticket)
    }

    /// The present connection, repaired when it was reported broken.
    pub fn ensure(&self) -> Result<Ticket, HsmError> {
        let mut phase = lock(&self.phase);
        let generation = self.module.generation();
        let reinitialise = match &*phase {
            Phase::Up(anchor) if anchor.ticket.generation == generation => return Ok(anchor.ticket),
            Phase::Up(_) => false,
            Phase::Broken { reinitialise, .. } => *reinitialise,
            Phase::Down { until, failure } => {
                let left = until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    return Err(HsmError::Unavailable { retry_after: left, failure: failure.clone() });
                }
                true
            }
        };
        self.examine(&phase);
        match self.repair(reinitialise, generation) {
            Ok(anchor) => {
                let ticket = anchor.ticket;
                if matches!(&*phase, Phase::Down { .. }) {
                    tracing::info!(token = %self.uri, "the token is back");
                }
                if let Phase::Broken { old: Some(old), .. } = std::mem::replace(&mut *phase, Phase::Up(anchor)) {
                    self.retire(old);
                }
                Ok(ticket)
            }
            Err(trouble) => {
                let error = HsmError::from(trouble);
                let failure = match &error {
                    HsmError::Unavailable { failure, .. } => failure.clone(),
                    // It was there at open, so this is an absence and not a wrong name.
                    HsmError::TokenNotFound { .. } => {
                        Some(Failure::ours("C_GetSlotList", "token not present", FailureClass::TokenGone))
                    }
                    standing => return Err(standing.clone()),
                };
                tracing::warn!(token = %self.uri, %error, "the token is not available");
                let retry_after = error.retry_after().unwrap_or(RECONNECT);
                *phase = Phase::Down { until: Instant::now() + retry_after, failure: failure.clone() };
                Err(HsmError::Unavailable { retry_after, failure })
            }
        }
    }

    fn repair(&self, reinitialise: bool, seen: u64) -> Result<Anchor, Trouble> {
        if !reinitialise {
            match self.connect() {
                Ok(anchor) => return Ok(anchor),
                Err(Trouble::Call(failure)) if !failure.class().is_transient() => return Err(failure.into()),
                Err(Trouble::Answer(error)) if !matches!(error, HsmError::TokenNotFound { .. }) => {
                    return Err(error.into());
                }
                Err(_) => {}
            }
        }
        if self.module.reinitialise(seen, self.wait)? {
            count(&self.counters.reinitialisations);
        }
        self.connect()
    }

    /// A worker of `ticket` met `failure`. Reports about an older epoch are late and change nothing.
    pub fn broken(&self, ticket: Ticket, failure: &Failure, again: bool) {
        let mut phase = lock(&self.phase);
        if matches!(&*phase, Phase::Up(anchor) if anchor.ticket == ticket) {
            let class = failure.class();
            let severe = matches!(class, FailureClass::Reinitialise | FailureClass::TokenGone);
            count(&self.counters.recoveries);
            tracing::warn!(token = %self.uri, %failure, "recovering");
            // What a new session did not cure may be cured by a new initialisation.
            let reinitialise = severe || (again && class != FailureClass::KeyMissing);
            let old = match std::mem::replace(&mut *phase, Phase::Broken { reinitialise, old: None }) {
                Phase::Up(anchor) => Some(anchor),
                _ => None,
            };
            *phase = Phase::Broken { reinitialise, old };
        }
    }

    pub fn close(&self) {
        let mut phase = lock(&self.phase);
        match std::mem::replace(&mut *phase, Phase::Broken { reinitialise: false, old: None }) {
            Phase::Up(anchor) | Phase::Broken { old: Some(anchor), .. } => self.retire(anchor),
            _ => {}
        }
        drop(phase);
        self.module.detach(self.wait);
    }

    fn retire(&self, anchor: Anchor) {
        if let Ok(calls) = self.calls() {
            self.give_back(&calls, anchor.ticket, anchor.session);
        }
    }

    /// Closes a session, unless sessions of its time are gone: its number may be another session's by now.
    pub fn give_back(&self, calls: &Calls<'_>, ticket: Ticket, session: Session) {
        if calls.generation() == ticket.generation && self.era.load(SeqCst) == ticket.era {
            // A session that is gone already is what was wanted.
            let _ = session.close();
        }
    }

    /// Before a repair: finds out whether the sessions of the broken connection still exist.
    fn examine(&self, phase: &Phase) {
        if let Phase::Up(anchor) | Phase::Broken { old: Some(anchor), .. } = phase
            && anchor.ticket.era == self.era.load(SeqCst)
        {
            let alive = self.calls().is_ok_and(|calls| {
                calls.generation() == anchor.ticket.generation && anchor.session.get_session_info().is_ok()
            });
            if !alive {
                self.era.fetch_add(1, SeqCst);
            }
        }
    }

    /// Checks that the token of `ticket` is still in its slot, to tell a missing key from a missing token.
    pub fn present(&self, calls: &Calls<'_>, ticket: Ticket) -> Result<(), Trouble> {
        let info = calls.context().get_token_info(ticket.slot)?;
        if matches(calls.context(), &self.uri, ticket.slot, &info)? {
            Ok(())
        } else {
            Err(Failure::ours("C_GetTokenInfo", "another token in the slot", FailureClass::TokenGone).into())
        }
    }

    fn connect(&self) -> Result<Anchor, Trouble> {
        let calls = self.calls()?;
        let context = calls.context();
        let (slot, info) = select(context, &self.uri)?;
        let session = context.open_rw_session_no_drop(slot)?;
        if let Err(trouble) = self.login(&session, &info) {
            let _ = session.close();
            return Err(trouble);
        }
        let epoch = self.epoch.fetch_add(1, SeqCst) + 1;
        let ticket = Ticket { epoch, generation: calls.generation(), era: self.era.load(SeqCst), slot };
        Ok(Anchor { ticket, session })
    }

    fn login(&self, session: &Session, info: &TokenInfo) -> Result<(), Trouble> {
        let state = session.get_session_info()?.session_state();
        if !info.login_required() || matches!(state, SessionState::RwUser | SessionState::RoUser) {
            return Ok(());
        }
        let name = format!("{}\0{}", info.serial_number(), info.label());
        if self.module.is_locked_out(&name) {
            return Err(HsmError::PinLockedOut.into());
        }
        may_try(info.user_pin_final_try(), info.user_pin_locked())?;
        if info.user_pin_count_low() {
            tracing::warn!(token = %self.uri, "a wrong PIN was entered on this token since the last login");
        }
        count(&self.counters.logins);
        match session.login(UserType::User, Some(self.pin.auth())) {
            Ok(()) | Err(Cryptoki::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) => {
                let failure = Failure::from(error);
                if failure.class() == FailureClass::PinWrong {
                    self.module.lock_out(name);
                }
                Err(failure.into())
            }
        }
    }
}

/// Whether the token's flags allow a login without risking its lock.
fn may_try(final_try: bool, locked: bool) -> Result<(), HsmError> {
    match (locked, final_try) {
        (true, _) => Err(HsmError::PinLocked),
        (false, true) => Err(HsmError::PinFinalTry),
        (false, false) => Ok(()),
    }
}

/// The one token that matches `uri`.
pub(crate) fn select(context: &Pkcs11, uri: &TokenUri) -> Result<(Slot, TokenInfo), Trouble> {
    let mut found = Vec::new();
    let mut unreadable = None;
    for slot in context.get_slots_with_token()? {
        match context.get_token_info(slot) {
            Ok(info) if info.token_initialized() && matches(context, uri, slot, &info)? => found.push((slot, info)),
            Ok(_) => {}
            // One broken neighbour must not hide the token that is wanted.
            Err(error) => unreadable = Some(Failure::from(error)),
        }
    }
    match (found.pop(), found.len(), unreadable) {
        (Some(one), 0, _) => Ok(one),
        (None, _, Some(failure)) => Err(failure.into()),
        (None, _, None) => Err(HsmError::TokenNotFound { wanted: uri.to_string() }.into()),
        (Some(_), others, _) => Err(HsmError::TokenAmbiguous { wanted: uri.to_string(), count: others + 1 }.into()),
    }
}

fn matches(context: &Pkcs11, uri: &TokenUri, slot: Slot, info: &TokenInfo) -> Result<bool, Trouble> {
    let library = context.get_library_info()?;
    let place = context.get_slot_info(slot)?;
    let version = library.library_version().to_string();
    let number = slot.id().to_string();
    Ok(uri.matches(|name| match name {
        "token" => Some(info.label()),
        "manufacturer" => Some(info.manufacturer_id()),
        "serial" => Some(info.serial_number()),
        "model" => Some(info.model()),
        "slot-id" => Some(&number),
        "slot-description" => Some(place.slot_description()),
        "slot-manufacturer" => Some(place.manufacturer_id()),
        "library-manufacturer" => Some(library.manufacturer_id()),
        "library-description" => Some(library.library_description()),
        "library-version" => Some(&version),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_login_where_it_could_lock_the_token() {
        assert_eq!(may_try(false, false), Ok(()));
        assert_eq!(may_try(true, false), Err(HsmError::PinFinalTry));
        assert_eq!(may_try(false, true), Err(HsmError::PinLocked));
        assert_eq!(may_try(true, true), Err(HsmError::PinLocked));
    }
}
