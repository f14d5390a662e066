//! The one table of PKCS#11 return codes: what each takes to go on. Nothing else in the crate decides by a code.

use cryptoki::error::RvError;
use serde::{Deserialize, Serialize};

/// What it takes to go on after a failed PKCS#11 call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureClass {
    /// The session is lost or in a wrong state: open another.
    NewSession,
    /// The login is gone: log in again (once).
    LoginAgain,
    /// The library or the device is in an unknown state: a new process, with a new C_Initialize.
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
    /// The library cannot work on this machine.
    Fatal,
}

impl FailureClass {
    /// True when another attempt, after recovery, may succeed.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::NewSession | Self::LoginAgain | Self::Reinitialise | Self::KeyMissing | Self::TokenGone)
    }

    /// True when the process that holds the module must be replaced.
    pub(crate) fn needs_new_process(self) -> bool {
        matches!(self, Self::Reinitialise | Self::TokenGone | Self::Fatal)
    }

    /// The class of a code (PKCS#11 3.2 section 5.1). Every code of the standard stands here; a new one in the binding
    /// does not compile until somebody has decided.
    pub(crate) fn of(code: RvError) -> Self {
        use RvError as R;
        match code {
            // The session or its state.
            R::SessionHandleInvalid
            | R::SessionClosed
            | R::SessionCount
            | R::SessionReadOnly
            | R::SessionParallelNotSupported
            | R::OperationActive
            | R::OperationNotInitialized
            | R::Cancel
            | R::FunctionCanceled
            | R::FunctionNotParallel
            | R::HostMemory
            // A buffer of the length that the token itself asked for a moment ago.
            | R::BufferTooSmall
            // Some modules answer this while they reconnect; the standard says the same call may succeed later.
            | R::FunctionFailed
            // Nobody knows what a vendor means by its codes; one more try in a new session is harmless.
            | R::VendorDefined(_)
            | R::UnknownErrorCode(_) => Self::NewSession,

            // "Already logged in" means that the session's view of the login is not ours.
            R::UserNotLoggedIn | R::UserAlreadyLoggedIn => Self::LoginAgain,

            // Somebody else's login in this process, which holds nobody but us: the library is confused.
            R::UserAnotherAlreadyLoggedIn
            | R::UserTooManyTypes
            | R::CryptokiNotInitialized
            | R::CryptokiAlreadyInitialized
            | R::GeneralError
            | R::DeviceError
            | R::DeviceMemory
            | R::MutexBad
            | R::MutexNotLocked
            | R::StateUnsaveable
            | R::SavedStateInvalid => Self::Reinitialise,

            R::KeyHandleInvalid | R::ObjectHandleInvalid | R::KeyChanged | R::KeyNeeded | R::KeyNotNeeded => {
                Self::KeyMissing
            }

            R::DeviceRemoved | R::TokenNotPresent | R::TokenNotRecognized | R::SlotIdInvalid | R::NoEvent => {
                Self::TokenGone
            }

            // A PIN of a length or with characters that the token does not take was looked at, and may have been counted.
            R::PinIncorrect | R::PinInvalid | R::PinLenRange | R::PinTooWeak => Self::PinWrong,
            // A one-time code or a new PIN is asked for: only a person can give one.
            R::PinLocked | R::PinExpired | R::UserPinNotInitialized | R::NewPinMode | R::NextOtp => Self::PinLocked,

            R::NeedToCreateThreads
            | R::CantLock
            | R::FipsSelfTestFailed
            | R::LibraryLoadFailed
            | R::RandomNoRng => Self::Fatal,

            R::ArgumentsBad
            | R::AttributeReadOnly
            | R::AttributeSensitive
            | R::AttributeTypeInvalid
            | R::AttributeValueInvalid
            | R::ActionProhibited
            | R::DataInvalid
            | R::DataLenRange
            | R::EncryptedDataInvalid
            | R::EncryptedDataLenRange
            | R::FunctionNotSupported
            | R::CurveNotSupported
            | R::KeySizeRange
            | R::KeyTypeInconsistent
            | R::KeyIndigestible
            | R::KeyFunctionNotPermitted
            | R::KeyNotWrappable
            | R::KeyUnextractable
            | R::MechanismInvalid
            | R::MechanismParamInvalid
            | R::SessionExists
            | R::SessionReadOnlyExists
            | R::SessionReadWriteSoExists
            | R::SignatureInvalid
            | R::SignatureLenRange
            | R::TemplateIncomplete
            | R::TemplateInconsistent
            | R::TokenWriteProtected
            | R::UnwrappingKeyHandleInvalid
            | R::UnwrappingKeySizeRange
            | R::UnwrappingKeyTypeInconsistent
            | R::UserTypeInvalid
            | R::WrappedKeyInvalid
            | R::WrappedKeyLenRange
            | R::WrappingKeyHandleInvalid
            | R::WrappingKeySizeRange
            | R::WrappingKeyTypeInconsistent
            | R::RandomSeedNotSupported
            | R::DomainParamsInvalid
            | R::InformationSensitive
            | R::ExceededMaxIterations
            | R::PublicKeyInvalid
            | R::FunctionRejected => Self::Refused,
        }
    }
}

/// `KeyHandleInvalid` as `CKR_KEY_HANDLE_INVALID`.
pub(crate) fn name(code: RvError) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_the_standard_names_them() {
        for (code, expected) in [
            (RvError::KeyHandleInvalid, "CKR_KEY_HANDLE_INVALID"),
            (RvError::SlotIdInvalid, "CKR_SLOT_ID_INVALID"),
            (RvError::RandomNoRng, "CKR_RANDOM_NO_RNG"),
            (RvError::SessionReadWriteSoExists, "CKR_SESSION_READ_WRITE_SO_EXISTS"),
            (RvError::VendorDefined(0x8000_0001), "CKR 0x80000001"),
        ] {
            assert_eq!(name(code), expected);
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
            (RvError::CantLock, C::Fatal),
        ] {
            assert_eq!(FailureClass::of(code), class, "{}", name(code));
        }
    }
}
