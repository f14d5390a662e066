//! The 68 functions of PKCS#11 2.40: what each is given, and that all of them go through [`intercept`].

#![allow(non_snake_case, reason = "the names are the standard's")]
#![allow(clippy::too_many_arguments, reason = "so are the signatures")]

use crate::intercept::intercept;
use crate::output::Output;
use cryptoki_sys::*;
use std::ffi::c_void;

macro_rules! one_of {
    ($absent:expr ;) => {
        $absent
    };
    ($absent:expr ; $present:expr) => {
        $present
    };
}

// `[session]` marks a call on a session; what stands behind `=>` is the part of its answer that a fault may change.
macro_rules! table {
    ($($name:ident $([$session:ident])? ($($argument:ident: $kind:ty),*) $(=> $output:expr)?;)*) => {
        /// The functions that a rule can name, in the order of the standard's list.
        pub const FUNCTIONS: [&str; 68] = [$(stringify!($name)),*];

        /// True for each of [`FUNCTIONS`] that is called on a session.
        const ON_SESSION: [bool; 68] = [$(one_of!(false; $(!stringify!($session).is_empty())?)),*];

        /// The list that callers get instead of the wrapped module's.
        pub(crate) static LIST: CK_FUNCTION_LIST =
            CK_FUNCTION_LIST { version: CK_VERSION { major: 2, minor: 40 }, $($name: Some($name)),* };

        $(pub(crate) unsafe extern "C" fn $name(
            $($session: CK_SESSION_HANDLE,)? $($argument: $kind),*
        ) -> CK_RV {
            let session = one_of!(None; $(Some($session))?);
            let output = one_of!(Output::Nothing; $($output)?);
            // SAFETY: the caller keeps the standard's rules for each pointer until this call returns; `output` holds
            // arguments of this call only.
            unsafe {
                intercept(stringify!($name), session, output, |real| match real.$name {
                    // SAFETY: the wrapped module gets the caller's arguments unchanged.
                    Some(function) => function($($session,)? $($argument),*),
                    None => CKR_FUNCTION_NOT_SUPPORTED,
                })
            }
        })*
    };
}

/// True for a function that is called on a session.
pub(crate) fn on_session(function: &str) -> bool {
    FUNCTIONS.iter().position(|name| *name == function).is_some_and(|index| ON_SESSION[index])
}

/// The functions that ask a token without a session.
const ON_TOKEN: [&str; 6] = [
    "C_GetTokenInfo",
    "C_GetMechanismList",
    "C_GetMechanismInfo",
    "C_InitToken",
    "C_OpenSession",
    "C_CloseAllSessions",
];

/// True for a function that cannot do its work without a token.
pub(crate) fn needs_token(function: &str) -> bool {
    on_session(function) || ON_TOKEN.contains(&function)
}

table! {
    C_Initialize(arguments: *mut c_void);
    C_Finalize(reserved: *mut c_void);
    C_GetInfo(info: *mut CK_INFO) => Output::Info(info);
    C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) => Output::List(list);
    C_GetSlotList(present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: *mut CK_ULONG) => Output::Slots(count);
    C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO);
    C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO);
    C_GetMechanismList(slot: CK_SLOT_ID, mechanisms: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG);
    C_GetMechanismInfo(slot: CK_SLOT_ID, mechanism: CK_MECHANISM_TYPE, info: *mut CK_MECHANISM_INFO);
    C_InitToken(slot: CK_SLOT_ID, pin: *mut CK_UTF8CHAR, length: CK_ULONG, label: *mut CK_UTF8CHAR);
    C_InitPIN[session](pin: *mut CK_UTF8CHAR, length: CK_ULONG);
    C_SetPIN[session](old: *mut CK_UTF8CHAR, old_length: CK_ULONG, new: *mut CK_UTF8CHAR, new_length: CK_ULONG);
    C_OpenSession(slot: CK_SLOT_ID, flags: CK_FLAGS, application: *mut c_void, notify: CK_NOTIFY, session: *mut CK_SESSION_HANDLE);
    C_CloseSession[session]();
    C_CloseAllSessions(slot: CK_SLOT_ID);
    C_GetSessionInfo[session](info: *mut CK_SESSION_INFO);
    C_GetOperationState[session](state: *mut CK_BYTE, length: *mut CK_ULONG);
    C_SetOperationState[session](state: *mut CK_BYTE, length: CK_ULONG, encryption: CK_OBJECT_HANDLE, authentication: CK_OBJECT_HANDLE);
    C_Login[session](user: CK_USER_TYPE, pin: *mut CK_UTF8CHAR, length: CK_ULONG) => Output::Login(user);
    C_Logout[session]();
    C_CreateObject[session](template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE);
    C_CopyObject[session](object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, copy: *mut CK_OBJECT_HANDLE);
    C_DestroyObject[session](object: CK_OBJECT_HANDLE);
    C_GetObjectSize[session](object: CK_OBJECT_HANDLE, size: *mut CK_ULONG);
    C_GetAttributeValue[session](object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG) => Output::Attributes(template, count);
    C_SetAttributeValue[session](object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjectsInit[session](template: *mut CK_ATTRIBUTE, count: CK_ULONG) => Output::Search(template, count);
    C_FindObjects[session](objects: *mut CK_OBJECT_HANDLE, room: CK_ULONG, count: *mut CK_ULONG) => Output::Found(objects, room, count);
    C_FindObjectsFinal[session]();
    C_EncryptInit[session](mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Encrypt[session](data: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_EncryptUpdate[session](data: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_EncryptFinal[session](out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_DecryptInit[session](mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Decrypt[session](data: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_DecryptUpdate[session](data: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_DecryptFinal[session](out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_DigestInit[session](mechanism: *mut CK_MECHANISM);
    C_Digest[session](data: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_DigestUpdate[session](data: *mut CK_BYTE, length: CK_ULONG);
    C_DigestKey[session](key: CK_OBJECT_HANDLE);
    C_DigestFinal[session](out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_SignInit[session](mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Sign[session](data: *mut CK_BYTE, length: CK_ULONG, signature: *mut CK_BYTE, out_length: *mut CK_ULONG) => Output::Signature(signature, out_length);
    C_SignUpdate[session](data: *mut CK_BYTE, length: CK_ULONG);
    C_SignFinal[session](signature: *mut CK_BYTE, out_length: *mut CK_ULONG) => Output::Signature(signature, out_length);
    C_SignRecoverInit[session](mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_SignRecover[session](data: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_VerifyInit[session](mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Verify[session](data: *mut CK_BYTE, length: CK_ULONG, signature: *mut CK_BYTE, signature_length: CK_ULONG);
    C_VerifyUpdate[session](data: *mut CK_BYTE, length: CK_ULONG);
    C_VerifyFinal[session](signature: *mut CK_BYTE, length: CK_ULONG);
    C_VerifyRecoverInit[session](mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_VerifyRecover[session](signature: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_DigestEncryptUpdate[session](data: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_DecryptDigestUpdate[session](data: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_SignEncryptUpdate[session](data: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_DecryptVerifyUpdate[session](data: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_GenerateKey[session](mechanism: *mut CK_MECHANISM, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE);
    C_GenerateKeyPair[session](mechanism: *mut CK_MECHANISM, public: *mut CK_ATTRIBUTE, public_count: CK_ULONG, private: *mut CK_ATTRIBUTE, private_count: CK_ULONG, public_key: *mut CK_OBJECT_HANDLE, private_key: *mut CK_OBJECT_HANDLE);
    C_WrapKey[session](mechanism: *mut CK_MECHANISM, wrapping: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
    C_UnwrapKey[session](mechanism: *mut CK_MECHANISM, wrapping: CK_OBJECT_HANDLE, wrapped: *mut CK_BYTE, length: CK_ULONG, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE);
    C_DeriveKey[session](mechanism: *mut CK_MECHANISM, base: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE);
    C_SeedRandom[session](seed: *mut CK_BYTE, length: CK_ULONG);
    C_GenerateRandom[session](random: *mut CK_BYTE, length: CK_ULONG);
    C_GetFunctionStatus[session]();
    C_CancelFunction[session]();
    C_WaitForSlotEvent(flags: CK_FLAGS, slot: *mut CK_SLOT_ID, reserved: *mut c_void);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_knows_sessions_and_tokens() {
        let count = |is: fn(&str) -> bool| FUNCTIONS.iter().filter(|name| is(name)).count();
        assert_eq!(count(on_session), 68 - 13);
        assert_eq!(count(needs_token), 68 - 13 + ON_TOKEN.len());
        assert!(ON_TOKEN.iter().all(|name| FUNCTIONS.contains(name) && !on_session(name)));
        assert!(on_session("C_Sign") && !on_session("C_Initialize") && !on_session("C_Nothing"));
    }
}
