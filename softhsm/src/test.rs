//! A process and a token of its own for each test.
//!
//! SoftHSM reads `SOFTHSM2_CONF` when it is initialised, and a process has one initialisation: tests that share a
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

use crate::ThrowawayToken;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const MARKER: &str = "SEALWRIGHT_TEST_CHILD";
const DIR: &str = "SEALWRIGHT_TEST_TOKEN_DIR";
const SERIAL: &str = "SEALWRIGHT_TEST_TOKEN_SERIAL";

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

/// [`in_child`] with `variables` in the child's environment beside the token's own.
///
/// # Panics
/// As [`in_child`].
#[allow(clippy::panic, reason = "this is the test's failure")]
pub fn in_child_with(test_name: &str, variables: &[(&str, String)], body: fn()) {
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
        let token = ThrowawayToken::create(dir.path(), LABEL, PIN).map_err(|e| e.to_string())?;
        let binary = env::current_exe().map_err(|e| e.to_string())?;
        let (variable, conf) = token.environment();
        let output = Command::new(binary)
            .args([test_name, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"])
            .env(MARKER, test_name)
            .env(DIR, &token.dir)
            .env(SERIAL, &token.serial)
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

/// The token of this child.
///
/// # Panics
/// Outside [`in_child`].
#[allow(clippy::panic, reason = "a test that is written wrongly")]
pub fn token() -> ThrowawayToken {
    let (Some(dir), Ok(serial), Ok(module)) = (env::var_os(DIR), env::var(SERIAL), crate::find_module()) else {
        panic!("softhsm::test::token() outside softhsm::test::in_child()");
    };
    let dir = PathBuf::from(dir);
    let conf = dir.join("softhsm2.conf");
    ThrowawayToken { module, dir, conf, label: LABEL.to_owned(), serial, pin: PIN.to_owned() }
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
