//! The wrapped module, and what faults ask it on their own.

use cryptoki_sys::*;
use libloading::Library;
use std::path::{Path, PathBuf};
use std::ptr;

/// The most slots, and the most keys, that a fault looks at: a test's token has a handful.
const MOST: usize = 256;
/// The longest CKA_ID that is compared; the service's own have 20 octets.
const LONGEST_ID: usize = 256;

/// Why the wrapped module is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("FAULTY_PKCS11_MODULE is not set; it must be the absolute path of the module to wrap")]
    Unset,
    #[error("FAULTY_PKCS11_MODULE={0}: the path must be absolute")]
    Relative(PathBuf),
    #[error("FAULTY_PKCS11_MODULE={path}: {error}")]
    Library { path: PathBuf, error: libloading::Error },
    #[error("FAULTY_PKCS11_MODULE={path}: C_GetFunctionList answered {rv:#x}")]
    List { path: PathBuf, rv: CK_RV },
}

/// The wrapped module. It stays loaded as long as the process.
pub(crate) struct Real {
    pub(crate) list: CK_FUNCTION_LIST,
    _library: Library,
}

impl Real {
    pub(crate) fn load(path: &Path) -> Result<Self, LoadError> {
        if !path.is_absolute() {
            return Err(LoadError::Relative(path.to_owned()));
        }
        let failed = |error| LoadError::Library { path: path.to_owned(), error };
        // SAFETY: a PKCS#11 module's constructors may run; whoever configures a test chose that module.
        let library = unsafe { Library::new(path) }.map_err(failed)?;
        // SAFETY: the standard gives the symbol this type.
        let get =
            unsafe { library.get::<unsafe extern "C" fn(*mut CK_FUNCTION_LIST_PTR) -> CK_RV>(b"C_GetFunctionList\0") };
        let mut list = ptr::null_mut();
        // SAFETY: `list` is a place for one pointer.
        let rv = unsafe { get.map_err(failed)?(&mut list) };
        if rv != CKR_OK || list.is_null() {
            return Err(LoadError::List { path: path.to_owned(), rv });
        }
        // SAFETY: after CKR_OK it points to the module's list, which lives as long as the library.
        Ok(Self { list: unsafe { *list }, _library: library })
    }

    /// Closes every session of this process on every token, or says which answer stood in the way. A module that is not
    /// initialised has none.
    pub(crate) fn close_all_sessions(&self) -> Result<(), CK_RV> {
        let absent = CKR_FUNCTION_NOT_SUPPORTED;
        let list_slots = self.list.C_GetSlotList.ok_or(absent)?;
        let close = self.list.C_CloseAllSessions.ok_or(absent)?;
        let mut slots = [0; MOST];
        let mut count = MOST as CK_ULONG;
        // SAFETY: `slots` has room for `count` slots.
        match unsafe { list_slots(CK_TRUE, slots.as_mut_ptr(), &mut count) } {
            CKR_OK => {}
            CKR_CRYPTOKI_NOT_INITIALIZED => return Ok(()),
            rv => return Err(rv),
        }
        for slot in slots.iter().take(count as usize) {
            // SAFETY: no pointers.
            match unsafe { close(*slot) } {
                CKR_OK => {}
                rv => return Err(rv),
            }
        }
        Ok(())
    }

    /// Logs out.
    pub(crate) fn logout(&self, session: CK_SESSION_HANDLE) -> Option<CK_RV> {
        // SAFETY: no pointers.
        Some(unsafe { self.list.C_Logout?(session) })
    }

    /// A private key of the session's token with another CKA_ID than `key` has. It is sought in a session of its own,
    /// since the caller's is in the middle of a search.
    pub(crate) fn other_private_key(
        &self,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
    ) -> Option<CK_OBJECT_HANDLE> {
        let own = self.id(session, key)?;
        let mut info = CK_SESSION_INFO::default();
        // SAFETY: `info` is a place for the answer.
        let rv = unsafe { self.list.C_GetSessionInfo?(session, &mut info) };
        let mut aside = 0;
        // SAFETY: no callback, and `aside` is a place for the handle.
        let mut open = || unsafe {
            Some(self.list.C_OpenSession?(info.slotID, CKF_SERIAL_SESSION, ptr::null_mut(), None, &mut aside))
        };
        if rv != CKR_OK || open()? != CKR_OK {
            return None;
        }
        let keys = self.private_keys(aside).unwrap_or_default();
        let other = keys.into_iter().find(|other| self.id(aside, *other).is_some_and(|id| id != own));
        // SAFETY: no pointers.
        unsafe { self.list.C_CloseSession?(aside) };
        other
    }

    fn private_keys(&self, session: CK_SESSION_HANDLE) -> Option<Vec<CK_OBJECT_HANDLE>> {
        let mut class = CKO_PRIVATE_KEY;
        let value = (&raw mut class).cast();
        let mut wanted =
            CK_ATTRIBUTE { type_: CKA_CLASS, pValue: value, ulValueLen: size_of::<CK_OBJECT_CLASS>() as CK_ULONG };
        // SAFETY: one attribute, whose value is `class`.
        if unsafe { self.list.C_FindObjectsInit?(session, &mut wanted, 1) } != CKR_OK {
            return None;
        }
        let mut keys = vec![0; MOST];
        let mut count = 0;
        // SAFETY: `keys` has room for `MOST` handles.
        let rv = unsafe { self.list.C_FindObjects?(session, keys.as_mut_ptr(), MOST as CK_ULONG, &mut count) };
        // SAFETY: no pointers.
        unsafe { self.list.C_FindObjectsFinal?(session) };
        keys.truncate(if rv == CKR_OK { count as usize } else { 0 });
        Some(keys)
    }

    fn id(&self, session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) -> Option<Vec<u8>> {
        let mut id = vec![0u8; LONGEST_ID];
        let value = id.as_mut_ptr().cast();
        let mut asked = CK_ATTRIBUTE { type_: CKA_ID, pValue: value, ulValueLen: LONGEST_ID as CK_ULONG };
        // SAFETY: one attribute, with room for as many octets as it says.
        let rv = unsafe { self.list.C_GetAttributeValue?(session, key, &mut asked, 1) };
        id.truncate(asked.ulValueLen as usize);
        (rv == CKR_OK).then_some(id)
    }
}
