//! The PKCS#11 library, loaded and initialised once in the life of a signer process.
//!
//! What a new C_Initialize would mend is mended by a new process: it also mends what a crashed, hung or leaking
//! library left behind.

use crate::HsmError;
use crate::error::Trouble;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use std::path::Path;

/// How the test module that injects faults begins its CK_INFO.libraryDescription.
const FAULTS: &str = "FAULT INJECTION";
/// Set by tests alone.
const ALLOW_FAULTS: &str = "SEALWRIGHT_ALLOW_FAULT_INJECTION";

/// Loads and initialises the library.
///
/// # Errors
/// [`HsmError::Module`] for a file that is no library, [`HsmError::FaultInjection`] for one that is only for tests.
pub(super) fn load(path: &Path) -> Result<Pkcs11, Trouble> {
    let wrong = |reason: &'static str| HsmError::Module { path: path.to_owned(), reason: reason.into() };
    // A bare name would be searched for along LD_LIBRARY_PATH, which whoever starts the process may set.
    if !path.is_absolute() {
        return Err(wrong("is not an absolute path").into());
    }
    let real = path.canonicalize().map_err(|_| wrong("does not exist or is not readable"))?;
    let context = Pkcs11::new(&real).map_err(|_| wrong("is not a PKCS#11 library"))?;
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let described = context.get_library_info()?.library_description().to_owned();
    if described.starts_with(FAULTS) && std::env::var_os(ALLOW_FAULTS).is_none() {
        return Err(HsmError::FaultInjection { path: path.to_owned() }.into());
    }
    Ok(context)
}
