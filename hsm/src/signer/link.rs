//! The connection to one token: which slot it is in, and the login.

use super::mailbox::Mailbox;
use crate::ckr::FailureClass;
use crate::error::Trouble;
use crate::wire::{Facts, FromSigner};
use crate::{Failure, HsmError, KeyId, Pin, TokenUri};
use cryptoki::context::Pkcs11;
use cryptoki::error::{Error as Cryptoki, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) struct Link {
    context: Pkcs11,
    uri: TokenUri,
    pin: Pin,
    slot: Slot,
    mailbox: Arc<Mailbox>,
    /// The session that keeps the login: closing a process's last session logs it out. Nothing else is done with it.
    anchor: Mutex<Session>,
    /// Rises with each login: handles of private objects are good for one.
    epoch: AtomicU64,
    /// The keys that may leave the token wrapped under a trusted key.
    exceptions: HashSet<KeyId>,
}

impl Link {
    /// Finds the token and logs in, if the service allows it.
    pub fn open(context: Pkcs11, uri: TokenUri, pin: Pin, mailbox: Arc<Mailbox>) -> Result<Self, Trouble> {
        let (slot, info) = select(&context, &uri)?;
        let anchor = context.open_rw_session_no_drop(slot)?;
        login(&anchor, &info, &pin, &mailbox)?;
        let (anchor, epoch) = (Mutex::new(anchor), AtomicU64::new(1));
        Ok(Self { context, uri, pin, slot, mailbox, anchor, epoch, exceptions: HashSet::new() })
    }

    /// The same, where these keys may leave the token wrapped under a trusted key.
    pub fn excepting(self, exceptions: HashSet<KeyId>) -> Self {
        Self { exceptions, ..self }
    }

    pub fn excepts(&self, id: &KeyId) -> bool {
        self.exceptions.contains(id)
    }

    pub fn context(&self) -> &Pkcs11 {
        &self.context
    }

    pub fn slot(&self) -> Slot {
        self.slot
    }

    pub fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    pub fn facts(&self) -> Result<Facts, Trouble> {
        let info = self.context.get_token_info(self.slot)?;
        let library = self.context.get_library_info()?;
        Ok(Facts {
            label: info.label().to_owned(),
            serial: info.serial_number().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
            model: info.model().to_owned(),
            library: format!("{} {}", library.library_description().trim_end(), library.library_version()),
            mechanisms: self.context.get_mechanism_list(self.slot)?.into_iter().map(|m| *m).collect(),
        })
    }

    /// A session for a worker.
    pub fn session(&self) -> Result<Session, Trouble> {
        Ok(self.context.open_rw_session_no_drop(self.slot)?)
    }

    /// Logs in again, unless another worker has since `seen`.
    pub fn login_again(&self, seen: u64) -> Result<(), Trouble> {
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        if self.epoch() != seen {
            return Ok(());
        }
        let info = self.context.get_token_info(self.slot)?;
        // The old anchor may be gone with the login; a new one first, so that the last session is never closed.
        let fresh = self.context.open_rw_session_no_drop(self.slot)?;
        login(&fresh, &info, &self.pin, &self.mailbox)?;
        let old = std::mem::replace(&mut *anchor, fresh);
        let _ = old.close();
        self.epoch.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Checks that nobody has logged in since `seen`; waits for who is about to. A search before a login does not see
    /// private keys, and after it nobody can tell.
    pub fn same_login(&self, seen: u64) -> Result<(), Trouble> {
        let _anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        if self.epoch() == seen {
            Ok(())
        } else {
            Err(Failure::ours("C_FindObjects", "the login was lost meanwhile", FailureClass::LoginAgain).into())
        }
    }

    /// Checks that the token is still in its slot, to tell a missing key from a missing token.
    pub fn present(&self) -> Result<(), Trouble> {
        let info = self.context.get_token_info(self.slot)?;
        if matches(&self.context, &self.uri, self.slot, &info)? {
            Ok(())
        } else {
            Err(Failure::ours("C_GetTokenInfo", "another token in the slot", FailureClass::TokenGone).into())
        }
    }
}

fn login(session: &Session, info: &TokenInfo, pin: &Pin, mailbox: &Mailbox) -> Result<(), Trouble> {
    let state = session.get_session_info()?.session_state();
    if !info.login_required() || matches!(state, SessionState::RwUser | SessionState::RoUser) {
        return Ok(());
    }
    may_try(info.user_pin_final_try(), info.user_pin_locked())?;
    if info.user_pin_count_low() {
        mailbox.send(&FromSigner::Notice(
            "a wrong PIN was entered on this token since the last login, not by this service".to_owned(),
        ));
    }
    mailbox.may_login(info.user_pin_count_low())?;
    let result = match session.login(UserType::User, Some(pin.auth())) {
        Ok(()) | Err(Cryptoki::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(error) => Err(Failure::from(error)),
    };
    // The service must know about a wrong PIN before anything else happens.
    mailbox.send(&FromSigner::LoginEnded(result.clone().map_err(HsmError::from)));
    Ok(result?)
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
fn select(context: &Pkcs11, uri: &TokenUri) -> Result<(Slot, TokenInfo), Trouble> {
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
