//! kryoptic as a PKCS#11 module: the three entry points that a caller looks up by name. Everything else is reached
//! through the tables that they return.
//!
//! Upstream's crate for this (`kryoptic`) can only link a system's OpenSSL; this one links the one that
//! `scripts/kryoptic` builds, which has ML-DSA.

// The caller's pointers go to kryoptic as they are, and it checks them; a PKCS#11 module cannot be had without this.
#![allow(unsafe_code)]

use kryoptic_lib::fns::general;
use kryoptic_lib::pkcs11::{
    CK_FLAGS, CK_FUNCTION_LIST_PTR_PTR, CK_INTERFACE_PTR, CK_INTERFACE_PTR_PTR, CK_RV, CK_ULONG_PTR, CK_UTF8CHAR_PTR,
    CK_VERSION_PTR,
};

/// The table of PKCS#11 2.40.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    general::fn_get_function_list(list)
}

/// All tables: 2.40, 3.0 and 3.2.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetInterfaceList(list: CK_INTERFACE_PTR, count: CK_ULONG_PTR) -> CK_RV {
    general::fn_get_interface_list(list, count)
}

/// The table of one version.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetInterface(
    name: CK_UTF8CHAR_PTR,
    version: CK_VERSION_PTR,
    interface: CK_INTERFACE_PTR_PTR,
    flags: CK_FLAGS,
) -> CK_RV {
    general::fn_get_interface(name, version, interface, flags)
}
