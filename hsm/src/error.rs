//! What can go wrong with a token, by what it takes to go on.

use crate::{KeyId, PinError, UriError};
use ca_core::key::{KeyAlgorithm, SignatureAlgorithm};
use cryptoki::error::{Error as Cryptoki, RvError};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long a caller is asked to wait while a token is away; reconnecting is tried at most this often.
pub(crate) const RECONNECT: Duration = Duration::from_secs(1);

/// What it takes to go on after a failed PKCS#11 call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The session is lost or in a wrong state: open another.
    NewSession,
    /// The login is gone: log in again (once).
    LoginAgain,
    /// The library or the device is in an unknown state: C_Finalize and C_Initialize.
    Reinitialise,
    /// The handle does not name a key any more: find the key again.
    KeyMissing,
    /// The token is not there: reinitialise until it is back.
    TokenGone,
    /// The PIN is wrong: never try it again.
    PinWrong,
    /// The PIN is locked or expired: an operator must act.
    PinLocked,
    /// The token does not do this; the same request will be refused again.
    Refused,
    /// The library cannot work in this process.
    Fatal,
}

impl FailureClass {
    /// True when another attempt, after recovery, may succeed.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::NewSession | Self::LoginAgain | Self::Reinitialise | Self::KeyMissing | Self::TokenGone)
    }

    fn of(code: RvError) -> Self {
        use RvError as R;
        match code {
            R::SessionHandleInvalid
            | R::SessionClosed
            | R::SessionCount
            | R::OperationActive
            | R::OperationNotInitialized
            | R::Cancel
            | R::FunctionCanceled
            | R::HostMemory
            // Some modules answer this while they reconnect; the standard says the same call may succeed later.
            | R::FunctionFailed
            // Nobody knows what a vendor means by its codes; one more try in a new session is harmless.
            | R::VendorDefined(_)
            | R::UnknownErrorCode(_) => Self::NewSession,
            R::UserNotLoggedIn | R::UserAlreadyLoggedIn => Self::LoginAgain,
            R::CryptokiNotInitialized
            | R::GeneralError
            | R::DeviceError
            | R::DeviceMemory
            | R::MutexBad
            | R::MutexNotLocked => Self::Reinitialise,
            R::KeyHandleInvalid | R::ObjectHandleInvalid => Self::KeyMissing,
            R::DeviceRemoved | R::TokenNotPresent | R::TokenNotRecognized | R::SlotIdInvalid => Self::TokenGone,
            R::PinIncorrect | R::PinInvalid | R::PinLenRange => Self::PinWrong,
            R::PinLocked | R::PinExpired | R::UserPinNotInitialized => Self::PinLocked,
            R::NeedToCreateThreads | R::CantLock | R::FipsSelfTestFailed | R::LibraryLoadFailed | R::RandomNoRng => {
                Self::Fatal
            }
            _ => Self::Refused,
        }
    }
}

/// A PKCS#11 call that failed: which, with which code, and what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    call: String,
    code: String,
    class: FailureClass,
}

impl Failure {
    /// The name of the call, for example `C_Sign`.
    pub fn call(&self) -> &str {
        &self.call
    }

    /// The name of the code, for example `CKR_DEVICE_ERROR`.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What it takes to go on.
    pub fn class(&self) -> FailureClass {
        self.class
    }

    pub(crate) fn ours(call: &str, code: &str, class: FailureClass) -> Self {
        Self { call: call.to_owned(), code: code.to_owned(), class }
    }

    /// The session itself is gone, not only in a wrong state.
    pub(crate) fn lost_session(&self) -> bool {
        matches!(self.code.as_str(), "CKR_SESSION_HANDLE_INVALID" | "CKR_SESSION_CLOSED")
    }

    /// The library was finalised under this session by another user of the same module.
    pub(crate) fn stale() -> Self {
        Self::ours("the session", "an older initialisation", FailureClass::NewSession)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.code)
    }
}

impl From<Cryptoki> for Failure {
    // The prose of the binding ("some horrible, unrecoverable error") helps nobody: show call and code.
    fn from(error: Cryptoki) -> Self {
        match error {
            Cryptoki::Pkcs11(code, function) => {
                Self { call: format!("C_{function:?}"), code: code_name(code), class: FailureClass::of(code) }
            }
            Cryptoki::NullFunctionPointer | Cryptoki::NotSupported => {
                Self::ours("the module", "does not have this function", FailureClass::Refused)
            }
            Cryptoki::LibraryLoading(_) | Cryptoki::MissingSymbol(_) => {
                Self::ours("the module", "is not a PKCS#11 library", FailureClass::Fatal)
            }
            _ => Self::ours("the module", "returned a value outside PKCS#11", FailureClass::Refused),
        }
    }
}

/// `KeyHandleInvalid` as `CKR_KEY_HANDLE_INVALID`.
fn code_name(code: RvError) -> String {
    match code {
        RvError::VendorDefined(value) | RvError::UnknownErrorCode(value) => format!("CKR 0x{value:08x}"),
        named => {
            let mut name = String::from("CKR");
            for c in format!("{named:?}").chars() {
                if c.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(c.to_ascii_uppercase());
            }
            name
        }
    }
}

/// Everything this crate answers when it cannot do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HsmError {
    /// The module's file is missing or is no PKCS#11 library.
    #[error("PKCS#11 module {path}: {reason}; set the path of the library that came with the token")]
    Module {
        /// The configured path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A configuration value out of its limits.
    #[error("token configuration: {field} {reason}")]
    Configuration {
        /// The field of [`crate::TokenConfig`] or [`crate::KeyRequest`].
        field: &'static str,
        /// Its limits.
        reason: &'static str,
    },
    /// The URI is not acceptable.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The PIN is not acceptable; no token saw it.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// No token of the module matches the URI.
    #[error("no token matches {wanted}; list them with 'pkcs11-tool --module MODULE -L'")]
    TokenNotFound {
        /// The URI that was looked for.
        wanted: String,
    },
    /// Several tokens match the URI.
    #[error("{count} tokens match {wanted}; add serial=... to the URI")]
    TokenAmbiguous {
        /// The URI that was looked for.
        wanted: String,
        /// How many tokens match.
        count: usize,
    },
    /// A token of that label exists already.
    #[error("a token labelled '{label}' exists already")]
    TokenExists {
        /// The label.
        label: String,
    },
    /// No free slot where a token could be initialised.
    #[error("the module has no uninitialised token")]
    NoFreeToken,
    /// The token refused the PIN. It was tried once and is not tried again in this process.
    #[error("the token refused the PIN; it was tried once, correct it and start the process again")]
    PinWrong,
    /// The token says that one more wrong PIN locks it, so it was not tried.
    #[error(
        "one more wrong PIN would lock the token, so the PIN was not tried; log in once with the vendor's tool to clear the counter"
    )]
    PinFinalTry,
    /// The token's user PIN is locked, expired or not set.
    #[error("the token's user PIN is locked, expired or not initialised; reset it with the security officer's PIN")]
    PinLocked,
    /// An earlier PIN was wrong; no further one is tried in this process.
    #[error("an earlier PIN was wrong, so none is tried any more; correct it and start the process again")]
    PinLockedOut,
    /// The queue is full.
    #[error("the token's queue is full; try again in {retry_after:?}")]
    Busy {
        /// When there should be room.
        retry_after: Duration,
    },
    /// The token is away or recovering.
    #[error("the token is not available{}; try again in {retry_after:?}", .failure.as_ref().map(|f| format!(" ({f})")).unwrap_or_default())]
    Unavailable {
        /// When the next attempt makes sense.
        retry_after: Duration,
        /// The call that failed, where it was a call.
        failure: Option<Failure>,
    },
    /// No answer within the deadline. The token may still have done it.
    #[error("the token did not answer within {after:?}")]
    Deadline {
        /// The deadline.
        after: Duration,
    },
    /// No such key on the token.
    #[error("the token has no key pair with id {id}")]
    KeyMissing {
        /// The CKA_ID looked for.
        id: KeyId,
    },
    /// Several objects with one CKA_ID; nobody can tell which key would sign.
    #[error("the token has {private} private and {public} public keys with id {id}; exactly one of each is needed")]
    KeyAmbiguous {
        /// The CKA_ID looked for.
        id: KeyId,
        /// Private keys found.
        private: usize,
        /// Public keys found.
        public: usize,
    },
    /// An object with this id or label is there already.
    #[error("the token already has an object with {what}; nothing was generated")]
    KeyExists {
        /// The id or the label, as words.
        what: String,
    },
    /// The key is not one that may sign here.
    #[error("key {id} is not usable: {reason}")]
    KeyUnsuitable {
        /// Its CKA_ID.
        id: KeyId,
        /// Why.
        reason: &'static str,
    },
    /// The key on the token is not the one that was expected.
    #[error("key {id} on the token is not the expected one: its public key differs or does not verify its signature")]
    KeyMismatch {
        /// Its CKA_ID.
        id: KeyId,
    },
    /// The signature algorithm does not go with the key.
    #[error("a {key} key cannot make {algorithm:?} signatures")]
    AlgorithmMismatch {
        /// The key's algorithm.
        key: KeyAlgorithm,
        /// The algorithm asked for.
        algorithm: SignatureAlgorithm,
    },
    /// The token lacks the mechanism.
    #[error("the token has no mechanism for {what}")]
    Unsupported {
        /// The algorithm, as words.
        what: String,
    },
    /// The message is over the limit.
    #[error("a message of {octets} octets is over the limit of {limit}")]
    MessageTooLong {
        /// Its size.
        octets: usize,
        /// The limit.
        limit: usize,
    },
    /// The token returned something that is no signature of this algorithm.
    #[error("the token returned a malformed signature: {reason}")]
    MalformedSignature {
        /// What is wrong.
        reason: &'static str,
    },
    /// The token refused the call; it will refuse it again.
    #[error("the token refused the request ({0})")]
    Refused(Failure),
    /// The module cannot work in this process.
    #[error("the PKCS#11 module cannot be used ({0})")]
    Fatal(Failure),
    /// The token was closed.
    #[error("the token was closed")]
    Closed,
}

impl HsmError {
    /// True when the same request may succeed later without anybody doing anything here.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unavailable { .. } | Self::Deadline { .. })
    }

    /// How long to wait before trying again, where a retry makes sense and there is an estimate.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after } | Self::Unavailable { retry_after, .. } => Some(*retry_after),
            Self::Deadline { .. } => Some(RECONNECT),
            _ => None,
        }
    }

    pub(crate) fn away(failure: Option<Failure>) -> Self {
        Self::Unavailable { retry_after: RECONNECT, failure }
    }
}

impl From<Failure> for HsmError {
    fn from(failure: Failure) -> Self {
        match failure.class {
            FailureClass::PinWrong => Self::PinWrong,
            FailureClass::PinLocked => Self::PinLocked,
            FailureClass::Refused => Self::Refused(failure),
            FailureClass::Fatal => Self::Fatal(failure),
            _ => Self::away(Some(failure)),
        }
    }
}

/// Inside the crate: a failed call, which recovery may cure, or an answer that stands.
#[derive(Debug)]
pub(crate) enum Trouble {
    Call(Failure),
    Answer(HsmError),
}

impl From<Cryptoki> for Trouble {
    fn from(error: Cryptoki) -> Self {
        Self::Call(error.into())
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Call(failure)
    }
}

impl From<HsmError> for Trouble {
    fn from(error: HsmError) -> Self {
        Self::Answer(error)
    }
}

impl From<Trouble> for HsmError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Call(failure) => failure.into(),
            Trouble::Answer(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;

    #[test]
    fn codes_are_named_as_the_standard_names_them() {
        for (code, name) in [
            (RvError::KeyHandleInvalid, "CKR_KEY_HANDLE_INVALID"),
            (RvError::SlotIdInvalid, "CKR_SLOT_ID_INVALID"),
            (RvError::RandomNoRng, "CKR_RANDOM_NO_RNG"),
            (RvError::SessionReadWriteSoExists, "CKR_SESSION_READ_WRITE_SO_EXISTS"),
            (RvError::VendorDefined(0x8000_0001), "CKR 0x80000001"),
        ] {
            assert_eq!(code_name(code), name);
        }
    }

    #[test]
    fn every_code_has_the_class_that_recovery_needs() {
        use FailureClass as C;
        for (code, class) in [
            (RvError::SessionHandleInvalid, C::NewSession),
            (RvError::SessionClosed, C::NewSession),
            (RvError::OperationActive, C::NewSession),
            (RvError::UserNotLoggedIn, C::LoginAgain),
            (RvError::CryptokiNotInitialized, C::Reinitialise),
            (RvError::GeneralError, C::Reinitialise),
            (RvError::DeviceError, C::Reinitialise),
            (RvError::ObjectHandleInvalid, C::KeyMissing),
            (RvError::KeyHandleInvalid, C::KeyMissing),
            (RvError::DeviceRemoved, C::TokenGone),
            (RvError::TokenNotPresent, C::TokenGone),
            (RvError::PinIncorrect, C::PinWrong),
            (RvError::PinLocked, C::PinLocked),
            (RvError::UserPinNotInitialized, C::PinLocked),
            (RvError::MechanismInvalid, C::Refused),
            (RvError::KeyFunctionNotPermitted, C::Refused),
            (RvError::DataLenRange, C::Refused),
            (RvError::CantLock, C::Fatal),
            (RvError::VendorDefined(0x8000_0001), C::NewSession),
        ] {
            assert_eq!(FailureClass::of(code), class, "{code:?}");
        }
    }

    #[test]
    fn messages_name_the_code_and_not_the_bindings_prose() {
        let failure = Failure::from(Cryptoki::Pkcs11(RvError::GeneralError, Function::SignInit));
        let error = HsmError::from(failure);
        assert_eq!(error.to_string(), "the token is not available (C_SignInit: CKR_GENERAL_ERROR); try again in 1s");
        assert!(error.is_retryable());
        assert!(!HsmError::PinWrong.is_retryable());
        assert_eq!(HsmError::PinLockedOut.retry_after(), None);
    }
}
