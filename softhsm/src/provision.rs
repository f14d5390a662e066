//! Finding SoftHSM, and making a token of one's own in a directory.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where distributions put the library.
const PLACES: [&str; 9] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/lib/libsofthsm2.so",
];

const TEMPLATE: &str = include_str!("../softhsm2.conf.template");

/// Which soft token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SoftHSM 2, the distribution's.
    SoftHsm,
    /// kryoptic, which `scripts/kryoptic` builds.
    Kryoptic,
}

impl Kind {
    /// The environment variable that names its configuration.
    pub fn variable(self) -> &'static str {
        match self {
            Self::SoftHsm => "SOFTHSM2_CONF",
            Self::Kryoptic => "KRYOPTIC_CONF",
        }
    }
}

/// Why there is no throw-away token.
#[derive(Debug, thiserror::Error)]
pub enum SoftHsmError {
    /// The library or the tool is missing.
    #[error("SoftHSM is not installed; on Debian and Ubuntu: apt install softhsm2")]
    NotInstalled,
    /// kryoptic or the `openssl` program that comes with it is missing.
    #[error("kryoptic is not built: run scripts/kryoptic first")]
    KryopticNotBuilt,
    /// The tool that initialises kryoptic is missing.
    #[error("pkcs11-tool is not installed; on Debian and Ubuntu: apt install opensc")]
    NoPkcs11Tool,
    /// A file or directory could not be made.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The directory's path cannot stand in the token's configuration.
    #[error("{0}: the path must be absolute, UTF-8 and without line ends or quotes for the token's configuration")]
    Path(PathBuf),
    /// The tool failed.
    #[error("softhsm2-util failed: {0}")]
    Tool(String),
    /// The other tool failed.
    #[error("pkcs11-tool failed: {0}")]
    Pkcs11Tool(String),
}

/// The PKCS#11 library of SoftHSM 2: `SOFTHSM2_MODULE` if set, else the usual places.
///
/// # Errors
/// [`SoftHsmError::NotInstalled`] says how to install it.
pub fn find_module() -> Result<PathBuf, SoftHsmError> {
    std::env::var_os("SOFTHSM2_MODULE")
        .map(PathBuf::from)
        .into_iter()
        .chain(PLACES.iter().map(PathBuf::from))
        .find(|path| path.is_file())
        .ok_or(SoftHsmError::NotInstalled)
}

/// Makes `dir/tokens` (0700) and `dir/softhsm2.conf`, and returns the latter's path, which must be in `SOFTHSM2_CONF`
/// before the library is initialised. An existing configuration and its tokens are kept.
///
/// # Errors
/// [`SoftHsmError::Path`] or [`SoftHsmError::Io`].
pub fn write_configuration(dir: &Path) -> Result<PathBuf, SoftHsmError> {
    let text = text_of(dir).ok_or_else(|| SoftHsmError::Path(dir.to_owned()))?;
    let tokens = dir.join("tokens");
    DirBuilder::new().recursive(true).mode(0o700).create(&tokens).map_err(at(&tokens))?;
    let conf = dir.join("softhsm2.conf");
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&conf) {
        Ok(mut file) => file.write_all(TEMPLATE.replace("@DIR@", text).as_bytes()).map_err(at(&conf))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(at(&conf)(error)),
    }
    Ok(conf)
}

/// The path as a configuration's line can hold it.
pub(crate) fn text_of(dir: &Path) -> Option<&str> {
    dir.to_str().filter(|t| dir.is_absolute() && !t.contains(['\n', '\r']))
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> SoftHsmError {
    let path = path.to_owned();
    move |error| SoftHsmError::Io { path, error }
}

/// A token of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThrowawayToken {
    /// Which soft token it is of.
    pub kind: Kind,
    /// The PKCS#11 library.
    pub module: PathBuf,
    /// The directory of its configuration and of its keys.
    pub dir: PathBuf,
    /// Its configuration: the value for [`Kind::variable`].
    pub conf: PathBuf,
    /// The token's label.
    pub label: String,
    /// Its serial number, which the library chose.
    pub serial: String,
    /// Its user PIN; also the security officer's.
    pub pin: String,
}

impl ThrowawayToken {
    /// Initialises a SoftHSM token in `dir` with `softhsm2-util`. The PIN (4 to 255 characters) is in that tool's arguments for
    /// a moment: it protects nothing.
    ///
    /// # Errors
    /// [`SoftHsmError`].
    pub fn create(dir: &Path, label: &str, pin: &str) -> Result<Self, SoftHsmError> {
        let module = find_module()?;
        let conf = write_configuration(dir)?;
        tool(&conf, &["--init-token", "--free", "--label", label, "--so-pin", pin, "--pin", pin])?;
        let slots = tool(&conf, &["--show-slots"])?;
        let serial = serial_of(&slots, "Serial number", "Label", label)
            .ok_or_else(|| SoftHsmError::Tool("the new token is not listed".to_owned()))?;
        let dir = fs::canonicalize(dir).map_err(at(dir))?;
        Ok(Self { kind: Kind::SoftHsm, module, dir, conf, label: label.to_owned(), serial, pin: pin.to_owned() })
    }

    /// The variable that a process must have before it initialises the library.
    pub fn environment(&self) -> (&'static str, &Path) {
        (self.kind.variable(), &self.conf)
    }
}

fn tool(conf: &Path, arguments: &[&str]) -> Result<String, SoftHsmError> {
    let output = Command::new("softhsm2-util")
        .args(arguments)
        .env("SOFTHSM2_CONF", conf)
        .stdin(Stdio::null())
        .output()
        .map_err(|_| SoftHsmError::NotInstalled)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(SoftHsmError::Tool(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// The serial number in a tool's list of slots, by the names that it gives to a token's serial number and label. The
/// tools differ in which of the two lines comes first; a line without indentation begins another slot.
pub(crate) fn serial_of(slots: &str, serial_name: &str, label_name: &str, label: &str) -> Option<String> {
    let (mut serial, mut ours) = (None, false);
    for line in slots.lines() {
        if !line.starts_with(char::is_whitespace) {
            (serial, ours) = (None, false);
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        match name.trim() {
            name if name == serial_name => serial = Some(value.trim()).filter(|s| !s.is_empty()),
            name if name == label_name => ours = value.trim() == label,
            _ => {}
        }
        if let (Some(found), true) = (serial, ours) {
            return Some(found.to_owned());
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn makes_two_tokens_that_differ() {
        let dir = tempfile::tempdir().unwrap();
        let one = ThrowawayToken::create(dir.path(), "one", "1234").unwrap();
        let two = ThrowawayToken::create(dir.path(), "two", "1234").unwrap();
        assert_ne!(one.serial, two.serial);
        assert_eq!(one.serial.len(), 16);
        assert_eq!(one.conf, two.conf);
        let mode = fs::metadata(dir.path().join("tokens")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn refuses_a_path_that_the_configuration_cannot_hold() {
        for path in ["relative", "/tmp/a\nb"] {
            assert!(matches!(write_configuration(Path::new(path)), Err(SoftHsmError::Path(_))), "{path}");
        }
    }

    #[test]
    fn a_short_pin_is_the_tools_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(ThrowawayToken::create(dir.path(), "t", "1"), Err(SoftHsmError::Tool(_))));
    }
}
