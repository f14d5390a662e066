//! A process and a token of its own for each test.
//!
//! A token's library reads its configuration's path when it is initialised, and a process has one initialisation: tests that share a
//! process would share tokens, logins and faults. So a test runs its body in a child, under `cargo test` and nextest
//! alike:
//!
//! ```no_run
//! # fn name() {
//! softhsm::test::in_child("name", || {
//!     let token = softhsm::test::token();
//!     assert!(token.conf.exists());
//! });
//! # }
//! ```

use crate::{Kind, SoftHsmError, ThrowawayToken};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MARKER: &str = "SEALWRIGHT_TEST_CHILD";
const DIR: &str = "SEALWRIGHT_TEST_TOKEN_DIR";
const SERIAL: &str = "SEALWRIGHT_TEST_TOKEN_SERIAL";
const KIND: &str = "SEALWRIGHT_TEST_TOKEN_KIND";

/// The label of each test's token.
pub const LABEL: &str = "throwaway";
/// Its user PIN and security officer's PIN.
pub const PIN: &str = "throw-away-1234";

/// Runs `body` in a child process with a fresh token. `test_name` is the test's full name as `--exact` takes it: the
/// path of modules inside the test binary, then the function.
///
/// # Panics
/// When SoftHSM is absent, when no test has that name, and when `body` fails in the child.
pub fn in_child(test_name: &str, body: fn()) {
    in_child_with(test_name, &[], body);
}

/// [`in_child`] with a token of `kind`. A test that runs on both tokens is two functions that share a body.
///
/// # Panics
/// As [`in_child`]; and when kryoptic is wanted and not built, so that no test is left out unnoticed.
pub fn in_child_on(kind: Kind, test_name: &str, body: fn()) {
    run(kind, test_name, &[], body);
}

/// [`in_child`] with `variables` in the child's environment beside the token's own.
///
/// # Panics
/// As [`in_child`].
pub fn in_child_with(test_name: &str, variables: &[(&str, String)], body: fn()) {
    run(Kind::SoftHsm, test_name, variables, body);
}

#[allow(clippy::panic, reason = "this is the test's failure")]
fn run(kind: Kind, test_name: &str, variables: &[(&str, String)], body: fn()) {
    if env::var_os(MARKER).is_some_and(|name| name == test_name) {
        // Proof for the parent that the filter met this test.
        if let Some(dir) = env::var_os(DIR)
            && let Err(error) = fs::write(PathBuf::from(dir).join("ran"), test_name)
        {
            panic!("{test_name}: cannot mark the start: {error}");
        }
        return body();
    }
    let made = tempfile::tempdir().map_err(|e| e.to_string()).and_then(|dir| {
        let token = create(kind, dir.path()).map_err(|e| e.to_string())?;
        let binary = env::current_exe().map_err(|e| e.to_string())?;
        let (variable, conf) = token.environment();
        let output = Command::new(binary)
            .args([test_name, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"])
            .env(MARKER, test_name)
            .env(DIR, &token.dir)
            .env(SERIAL, &token.serial)
            .env(KIND, format!("{kind:?}"))
            .env(variable, conf)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .map_err(|e| e.to_string())?;
        Ok((output, token.dir.join("ran").exists()))
    });
    let (output, ran) = made.unwrap_or_else(|error| panic!("{test_name}: {error}"));
    assert!(
        output.status.success() && ran,
        "{test_name} in its own process: {}{}\n{}\n{}",
        output.status,
        if ran { "" } else { ", and no test has that name" },
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

fn create(kind: Kind, dir: &Path) -> Result<ThrowawayToken, SoftHsmError> {
    match kind {
        Kind::SoftHsm => ThrowawayToken::create(dir, LABEL, PIN),
        Kind::Kryoptic => ThrowawayToken::create_kryoptic(dir, LABEL, PIN),
    }
}

/// The token of this child.
///
/// # Panics
/// Outside [`in_child`] and its like.
#[allow(clippy::panic, reason = "a test that is written wrongly")]
pub fn token() -> ThrowawayToken {
    let kind = match env::var(KIND).as_deref() {
        Ok("Kryoptic") => Kind::Kryoptic,
        _ => Kind::SoftHsm,
    };
    let module = match kind {
        Kind::SoftHsm => crate::find_module(),
        Kind::Kryoptic => crate::find_kryoptic(),
    };
    let conf = env::var_os(kind.variable()).map(PathBuf::from);
    let (Some(dir), Ok(serial), Ok(module), Some(conf)) = (env::var_os(DIR), env::var(SERIAL), module, conf) else {
        panic!("softhsm::test::token() outside softhsm::test::in_child()");
    };
    let (label, pin) = (LABEL.to_owned(), PIN.to_owned());
    ThrowawayToken { kind, module, dir: PathBuf::from(dir), conf, label, serial, pin }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_runs_in_another_process() {
        in_child("test::tests::the_body_runs_in_another_process", || {
            assert!(token().conf.exists());
            assert_eq!(env::var_os("SOFTHSM2_CONF"), Some(token().conf.into_os_string()));
        });
    }

    #[test]
    fn a_child_can_have_the_other_token() {
        in_child_on(Kind::Kryoptic, "test::tests::a_child_can_have_the_other_token", || {
            let token = token();
            assert_eq!(token.kind, Kind::Kryoptic);
            assert_eq!(env::var_os("KRYOPTIC_CONF"), Some(token.conf.clone().into_os_string()));
            assert_eq!(token.conf.parent(), Some(token.dir.as_path()));
            assert!(token.module.ends_with("libkryoptic_pkcs11.so"), "{}", token.module.display());
        });
    }

    #[test]
    fn a_variable_is_in_the_child_alone() {
        let name = "test::tests::a_variable_is_in_the_child_alone";
        in_child_with(name, &[("SEALWRIGHT_TEST_COLOUR", "blue".to_owned())], || {
            assert_eq!(env::var("SEALWRIGHT_TEST_COLOUR").as_deref(), Ok("blue"));
            assert!(token().conf.exists());
        });
        if env::var_os(MARKER).is_none() {
            assert_eq!(env::var_os("SEALWRIGHT_TEST_COLOUR"), None);
        }
    }

    #[test]
    #[should_panic(expected = "the child's own failure")]
    fn a_failure_in_the_child_is_the_tests_failure() {
        in_child("test::tests::a_failure_in_the_child_is_the_tests_failure_inner", || {});
    }

    #[test]
    #[ignore = "the inner half of another test"]
    fn a_failure_in_the_child_is_the_tests_failure_inner() {
        in_child("test::tests::a_failure_in_the_child_is_the_tests_failure_inner", || {
            assert!(!token().conf.exists(), "the child's own failure");
        });
    }

    #[test]
    #[should_panic(expected = "no test has that name")]
    fn a_name_that_no_test_has_is_a_failure() {
        in_child("test::tests::nobody", || {});
    }
}
