//! PINs and shares on their way in: from the terminal or a file, never from the command line.

use crate::{error::Problem, files, service::init::is_open};
use anyhow::{Context, Result};
use std::{fs::File, io::Read, path::Path};
use zeroize::Zeroizing;

/// A share on paper has at most 1200 characters, a PIN 255 octets and a line end.
const SECRET_MOST: u64 = 4096;

/// Reads a secret that only its owner may read.
///
/// # Errors
/// A [`Problem`] that names the file.
pub fn from_file(path: &Path) -> Result<Zeroizing<String>> {
    let problem = |error| Problem::file(path, &error);
    let mut file = File::open(path).map_err(problem)?;
    if is_open(path)? {
        let what = format!("{} can be read by others", path.display());
        return Err(Problem::usage(what, format!("chmod 600 {}", path.display())).into());
    }
    if file.metadata().map_err(problem)?.len() > SECRET_MOST {
        return Err(Problem::usage(format!("{} is too long", path.display()), "Check the path.").into());
    }
    // As large as it may be at once: growing would leave unwiped copies behind.
    let mut text = Zeroizing::new(String::with_capacity(SECRET_MOST as usize + 1));
    file.by_ref().take(SECRET_MOST).read_to_string(&mut text).map_err(problem)?;
    Ok(text)
}

/// Asks on the terminal, without echo.
///
/// # Errors
/// When there is no terminal.
pub fn ask(question: &str) -> Result<Zeroizing<String>> {
    rpassword::prompt_password(question)
        .map(Zeroizing::new)
        .context("there is no terminal to ask on; give the secret in a file")
}

/// The secret without its line end.
pub fn trimmed(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

/// Writes a secret that only its owner may read, in a file that is not there yet.
///
/// # Errors
/// A [`Problem`] that names the file.
pub fn to_file(path: &Path, text: &str) -> Result<(), Problem> {
    files::create(path, text.as_bytes(), files::Access::Owner)
}
