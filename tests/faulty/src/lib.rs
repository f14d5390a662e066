//! A PKCS#11 module that wraps a real one and breaks it by a plan. **For tests only: never configure it for a service.**
//! It makes signatures wrong, swaps keys and takes tokens away; that is its whole purpose. It says so itself: its
//! C_GetInfo has the manufacturer `Sealwright tests` and a description that begins with `FAULT INJECTION`.
//!
//! The process that loads it has in its environment:
//!
//! | variable | what |
//! |---|---|
//! | `FAULTY_PKCS11_MODULE` | absolute path of the module to wrap; without it C_GetFunctionList answers CKR_GENERAL_ERROR |
//! | `FAULTY_PKCS11_PLAN` | path of the plan; no variable or no file is no faults |
//! | `FAULTY_PKCS11_LOG` | path of a file that gets a line for each fault and each C_Login; may be absent |
//!
//! A plan has a rule a line, `FUNCTION TRIGGER ACTION`, and `#` begins a comment:
//!
//! ```text
//! C_Sign      nth=3                    ckr=CKR_DEVICE_ERROR
//! C_Sign      chance=20                wrong-signature
//! *           once-file=/tmp/x/crashed crash
//! ```
//!
//! [`Trigger`] and [`Action`] say what there is, [`Plan`] in which order rules meet a call. `*` stands for every function
//! that the action can be for; with `ckr` and the like that includes C_GetFunctionList and C_Initialize, the first calls of
//! all. A changed plan is in force from the next call on, with all counts at nothing. Calls are
//! counted as the C interface sees them: many callers make two of C_Sign, the first of which asks for the length only.
//! A rule on an answer counts the calls whose answer it can change, so `wrong-signature` counts signatures.
//!
//! A plan that cannot be read, or a log that cannot be written, ends the process: no test passes because of that.
//!
//! The library `faulty_pkcs11` is both halves: the module (a `cdylib`, see [`library`]) and this API for tests.

mod codes;
mod intercept;
mod log;
mod output;
mod plan;
mod random;
mod real;
mod rule;
mod table;
mod watch;

pub use codes::{CODES, Code, CodeError};
pub use log::{Fault, Login, faults, logins};
pub use plan::{Plan, PlanError, WriteError};
pub use rule::{Action, Rule, RuleError, Target, Trigger};
pub use table::FUNCTIONS;

use cryptoki_sys::{CK_FUNCTION_LIST_PTR_PTR, CK_RV, CKR_ARGUMENTS_BAD};
use std::path::{Path, PathBuf};

const FILE: &str = "libfaulty_pkcs11.so";

/// No module was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{FILE} is not beside the test; make faulty-pkcs11 a dev-dependency, or run cargo build -p faulty-pkcs11")]
pub struct NotBuilt;

/// The module's file, for tests that name it in a configuration.
///
/// Cargo builds it into `target/PROFILE/deps` whenever a test depends on this package, and a copy into `target/PROFILE`
/// only for a build of the package itself. So the nearest `deps` folder is asked first.
///
/// # Errors
/// [`NotBuilt`] says how to build it.
pub fn library() -> Result<PathBuf, NotBuilt> {
    let test = std::env::current_exe().map_err(|_| NotBuilt)?;
    let places = test.ancestors().skip(1).flat_map(|dir: &Path| [dir.join("deps").join(FILE), dir.join(FILE)]);
    // The test itself is in `deps`.
    places.into_iter().find(|path| path.is_file()).ok_or(NotBuilt)
}

/// The module's only symbol: the list of the 68 functions of PKCS#11 2.40.
///
/// # Safety
/// `list` is null or a place for one pointer.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the standard's name")]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: not null, so as our caller promises.
    unsafe { table::C_GetFunctionList(list) }
}
