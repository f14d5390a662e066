//! Finding kryoptic, and making a token of it in a directory. It is the second token of the tests: PKCS#11 3.2, ML-DSA,
//! mechanisms that hash, and another file format and other habits than SoftHSM's.

use crate::provision::{Kind, SoftHsmError, ThrowawayToken, at, serial_of, text_of};
use std::env;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MODULE: &str = "libkryoptic_pkcs11.so";
const OPENSSL: &str = "openssl";
/// The slot of the one token in the configuration.
const SLOT: &str = "1";
/// How the PIN reaches pkcs11-tool: by its environment, which only the same user can read.
const PIN_VARIABLE: &str = "SEALWRIGHT_KRYOPTIC_PIN";

/// The PKCS#11 library that `scripts/kryoptic` builds: `SEALWRIGHT_KRYOPTIC_MODULE` if set, else where that script
/// leaves it.
///
/// # Errors
/// [`SoftHsmError::KryopticNotBuilt`] says what to run.
pub fn find_kryoptic() -> Result<PathBuf, SoftHsmError> {
    find("SEALWRIGHT_KRYOPTIC_MODULE", MODULE)
}

/// The `openssl` program that `scripts/kryoptic` builds, which judges ML-DSA where the distribution's cannot:
/// `SEALWRIGHT_OPENSSL` if set, else where that script leaves it.
///
/// # Errors
/// [`SoftHsmError::KryopticNotBuilt`] says what to run.
pub fn find_openssl() -> Result<PathBuf, SoftHsmError> {
    find("SEALWRIGHT_OPENSSL", OPENSSL)
}

/// A variable that is set decides alone. Else the folder is looked for from the running program upwards (it is in
/// cargo's target folder), and from the package upwards (cargo names it for tests).
fn find(variable: &str, name: &str) -> Result<PathBuf, SoftHsmError> {
    if let Some(path) = env::var_os(variable) {
        return Some(PathBuf::from(path)).filter(|p| p.is_file()).ok_or(SoftHsmError::KryopticNotBuilt);
    }
    let given = env::var_os("SEALWRIGHT_KRYOPTIC_DIR").map(|dir| PathBuf::from(dir).join(name));
    let program = env::current_exe().unwrap_or_default();
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    given
        .into_iter()
        .chain(program.ancestors().skip(1).map(|dir| dir.join("kryoptic").join(name)))
        .chain(package.ancestors().map(|dir| dir.join("target/kryoptic").join(name)))
        .find(|path| path.is_file())
        .ok_or(SoftHsmError::KryopticNotBuilt)
}

impl ThrowawayToken {
    /// Initialises a kryoptic token in `dir`, of which there must be none yet, with OpenSC's `pkcs11-tool`. The PIN is
    /// also the security officer's; kryoptic asks for no length, but announces a minimum of 8.
    ///
    /// # Errors
    /// [`SoftHsmError`].
    pub fn create_kryoptic(dir: &Path, label: &str, pin: &str) -> Result<Self, SoftHsmError> {
        let module = find_kryoptic()?;
        let conf = write_kryoptic_configuration(dir)?;
        let tool = |arguments: &[&str]| pkcs11_tool(&module, &conf, pin, arguments);
        let so_pin = format!("env:{PIN_VARIABLE}");
        tool(&["--init-token", "--slot", SLOT, "--label", label, "--so-pin", &so_pin])?;
        let officer = ["--login", "--login-type", "so", "--so-pin", &so_pin];
        tool(&[&["--init-pin", "--slot", SLOT, "--new-pin", &so_pin], &officer[..]].concat())?;
        let slots = tool(&["--list-slots"])?;
        let serial = serial_of(&slots, "serial num", "token label", label)
            .ok_or_else(|| SoftHsmError::Pkcs11Tool("the new token is not listed".to_owned()))?;
        let dir = fs::canonicalize(dir).map_err(at(dir))?;
        let (label, pin) = (label.to_owned(), pin.to_owned());
        Ok(Self { kind: Kind::Kryoptic, module, dir, conf, label, serial, pin })
    }
}

/// Makes `dir/kryoptic.conf` for a token in `dir/token.sql`, and returns the former's path, which must be in
/// `KRYOPTIC_CONF` before the library is initialised.
fn write_kryoptic_configuration(dir: &Path) -> Result<PathBuf, SoftHsmError> {
    // In a TOML literal string everything stands for itself, but the quote and the line end.
    let text = text_of(dir).filter(|t| !t.contains('\''));
    let text = text.ok_or_else(|| SoftHsmError::Path(dir.to_owned()))?;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
    let create = |path: &Path, content: &str| {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        made.and_then(|mut file| file.write_all(content.as_bytes())).map_err(at(path))
    };
    // SQLite would make it readable for all; an empty file is a token that is not initialised.
    create(&dir.join("token.sql"), "")?;
    let conf = dir.join("kryoptic.conf");
    create(&conf, &format!("[[slots]]\nslot = {SLOT}\ndbtype = \"sqlite\"\ndbargs = '{text}/token.sql'\n"))?;
    Ok(conf)
}

fn pkcs11_tool(module: &Path, conf: &Path, pin: &str, arguments: &[&str]) -> Result<String, SoftHsmError> {
    let output = Command::new("pkcs11-tool")
        .arg("--module")
        .arg(module)
        .args(arguments)
        .env(Kind::Kryoptic.variable(), conf)
        .env(PIN_VARIABLE, pin)
        .stdin(Stdio::null())
        .output()
        .map_err(|_| SoftHsmError::NoPkcs11Tool)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(SoftHsmError::Pkcs11Tool(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn makes_a_token_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let token = ThrowawayToken::create_kryoptic(dir.path(), "a label", "throw-away-1234").unwrap();
        assert_eq!((token.kind, token.serial.len()), (Kind::Kryoptic, 16));
        for name in ["token.sql", "kryoptic.conf"] {
            let metadata = fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
            assert!(metadata.len() > 0, "{name}");
        }
        // The PIN is the user's: with another one the same command fails.
        let log_in = ["--login", "--pin", "env:SEALWRIGHT_KRYOPTIC_PIN", "--list-objects", "--type", "privkey"];
        pkcs11_tool(&token.module, &token.conf, &token.pin, &log_in).unwrap();
        let wrong = pkcs11_tool(&token.module, &token.conf, "another-1234", &log_in).unwrap_err();
        assert!(wrong.to_string().contains("CKR_PIN_INCORRECT"), "{wrong}");
    }

    #[test]
    fn a_token_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        ThrowawayToken::create_kryoptic(dir.path(), "one", "throw-away-1234").unwrap();
        let again = ThrowawayToken::create_kryoptic(dir.path(), "two", "throw-away-1234").unwrap_err();
        assert!(matches!(again, SoftHsmError::Io { .. }), "{again}");
    }

    #[test]
    fn refuses_a_path_that_the_configuration_cannot_hold() {
        for path in ["relative", "/tmp/a\nb", "/tmp/a'b"] {
            assert!(matches!(write_kryoptic_configuration(Path::new(path)), Err(SoftHsmError::Path(_))), "{path}");
        }
    }

    #[test]
    fn what_is_not_built_is_said_with_the_remedy() {
        let name = "kryoptic::tests::what_is_not_built_is_said_with_the_remedy";
        let nowhere = || "/nonexistent/file".to_owned();
        let variables = [("SEALWRIGHT_KRYOPTIC_MODULE", nowhere()), ("SEALWRIGHT_OPENSSL", nowhere())];
        crate::test::in_child_with(name, &variables, || {
            for missing in [find_kryoptic(), find_openssl()] {
                let error = missing.unwrap_err().to_string();
                assert!(error.ends_with("run scripts/kryoptic first"), "{error}");
            }
        });
    }

    #[test]
    fn the_openssl_program_knows_ml_dsa() {
        let listed = Command::new(find_openssl().unwrap()).args(["list", "-signature-algorithms"]).output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains("ML-DSA-65"));
    }
}
