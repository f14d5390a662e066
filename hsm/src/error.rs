//! What can go wrong with a token, by what it takes to go on.

use crate::ckr::{self, FailureClass};
use crate::{KeyId, PinError, UriError};
use cryptoki::context::Function;
use cryptoki::error::Error as Cryptoki;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A sentence of ours; owned where it came from another process.
pub type Text = Cow<'static, str>;

/// How long a caller is asked to wait where nobody knows better.
pub(crate) const RECONNECT: Duration = Duration::from_secs(1);

/// A PKCS#11 call that failed: which, with which code, and what that means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
                let class = match (FailureClass::of(code), function) {
                    // No PIN was tried: only C_Login counts towards the lock.
                    (FailureClass::PinWrong, other) if !matches!(other, Function::Login) => FailureClass::Refused,
                    (class, _) => class,
                };
                Self { call: format!("C_{function:?}"), code: ckr::name(code), class }
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

/// Everything this crate answers when it cannot do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum HsmError {
    /// The module's file is missing or is no PKCS#11 library.
    #[error("PKCS#11 module {path}: {reason}; set the path of the library that came with the token")]
    Module {
        /// The configured path.
        path: PathBuf,
        /// What is wrong with it.
        reason: Text,
    },
    /// A configuration value out of its limits.
    #[error("token configuration: {field} {reason}")]
    Configuration {
        /// The field of [`crate::TokenConfig`] or [`crate::KeyRequest`].
        field: Text,
        /// Its limits.
        reason: Text,
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
    /// The token refused the PIN. It was tried once and is not tried again until an operator says so.
    #[error("the token refused the PIN; it was tried once. Correct it, then run 'sealwright hsm unlock'")]
    PinWrong,
    /// The token says that one more wrong PIN locks it, so it was not tried.
    #[error(
        "one more wrong PIN would lock the token, so the PIN was not tried; log in once with the vendor's tool to clear the counter"
    )]
    PinFinalTry,
    /// The token's user PIN is locked, expired or not set.
    #[error("the token's user PIN is locked, expired or not initialised; reset it with the security officer's PIN")]
    PinLocked,
    /// An earlier PIN was wrong; none is tried until an operator says so.
    #[error(
        "locked out by us: a wrong PIN was tried once, and no other is tried until an operator has corrected it and run 'sealwright hsm unlock'"
    )]
    PinLockedOut,
    /// The PIN cannot be had from where the configuration says.
    #[error("the PIN cannot be read: {0}")]
    PinSource(String),
    /// The token is not the one that was enrolled, or it was restored from somewhere.
    #[error(
        "the token '{token}' is not the one that this authority knows: {reason}; put the right token back, or accept this one with 'sealwright hsm accept'"
    )]
    WrongToken {
        /// Its label.
        token: String,
        /// What differs.
        reason: Text,
    },
    /// The module says of itself that it injects faults.
    #[error("PKCS#11 module {path} injects faults for tests; configure the real module")]
    FaultInjection {
        /// The configured path.
        path: PathBuf,
    },
    /// The processes that hold PIN and module cannot be started.
    #[error("the signer process cannot be used: {0}")]
    Process(String),
    /// The token's signature does not verify with the public key of the certificate. It was not let go.
    #[error(
        "the token returned a signature that does not verify; it was withheld. Take this token out of service and look at it"
    )]
    WrongSignature,
    /// Several tokens are in use, and a key can be made in one only.
    #[error(
        "{count} tokens are configured; make the key on one of them and copy it with the vendor's tool, or configure one token alone for this"
    )]
    SeveralTokens {
        /// How many.
        count: usize,
    },
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
        reason: Text,
    },
    /// A key that could leave the token was asked for, and nobody has recorded that it may.
    #[error("key {id} must not be extractable: no recorded exception names it; nothing was generated")]
    NoException {
        /// Its CKA_ID.
        id: KeyId,
    },
    /// The key under which another may leave the token is not one for that.
    #[error("wrapping key {id}: {reason}")]
    WrappingKey {
        /// Its CKA_ID.
        id: KeyId,
        /// Why not, and what to do.
        reason: Text,
    },
    /// The key on the token is not the one that was expected.
    #[error("key {id} on the token is not the expected one: its public key differs or does not verify its signature")]
    KeyMismatch {
        /// Its CKA_ID.
        id: KeyId,
    },
    /// The signature algorithm does not go with the key.
    #[error("a {key} key cannot make {algorithm} signatures")]
    AlgorithmMismatch {
        /// The key's algorithm.
        key: String,
        /// The algorithm asked for.
        algorithm: String,
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
        reason: Text,
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

    /// What the token returned is not the signature that was asked for.
    pub(crate) fn is_wrong_signature(&self) -> bool {
        matches!(self, Self::WrongSignature | Self::MalformedSignature { .. })
    }

    /// The signer that said so ends, or has ended.
    pub(crate) fn ends_signer(&self) -> bool {
        match self {
            Self::Unavailable { failure: Some(failure), .. } | Self::Fatal(failure) => {
                failure.class.needs_new_process()
            }
            _ => false,
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
    fn messages_name_the_code_and_not_the_bindings_prose() {
        let failure = Failure::from(Cryptoki::Pkcs11(cryptoki::error::RvError::GeneralError, Function::SignInit));
        let error = HsmError::from(failure);
        assert_eq!(error.to_string(), "the token is not available (C_SignInit: CKR_GENERAL_ERROR); try again in 1s");
        assert!(error.is_retryable());
        assert!(!HsmError::PinWrong.is_retryable());
        assert_eq!(HsmError::PinLockedOut.retry_after(), None);
    }
}
