//! The token of a development CA, as somebody with the PIN and other tools can reach it; and its service as in
//! production, with a configuration that may be wrong.

use crate::{
    ca::{Ca, copy_folder, files, sealwright_bin},
    tools,
};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a start may take to end, or to say that it waits.
const START: Duration = Duration::from_secs(30);
/// What the service logs when it waits for its token.
const WAITS: &str = "CRLs from the disk are served meanwhile";

/// What a start or a look at it came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit code; none when it waited for the token, and was then ended.
    pub code: Option<i32>,
    /// Everything that was printed.
    pub text: String,
}

impl Outcome {
    /// Requires a failure with this exit code whose text has each of `words`.
    ///
    /// # Errors
    /// It is another.
    pub fn must_say(&self, code: Option<i32>, words: &[&str]) -> Result<()> {
        ensure!(self.code == code, "exit {:?} instead of {code:?}:\n{}", self.code, self.text);
        for word in words {
            ensure!(self.text.contains(word), "does not say '{word}':\n{}", self.text);
        }
        ensure!(!self.text.contains("panicked"), "{}", self.text);
        Ok(())
    }
}

/// A development CA that was stopped, and its token.
pub struct Stopped {
    /// The CA.
    pub ca: Ca,
    config: String,
    /// Its PIN.
    pub pin: String,
}

impl Stopped {
    /// Starts a CA once, and stops it.
    ///
    /// # Errors
    /// As [`Ca::start`].
    pub fn new() -> Result<Self> {
        let mut ca = Ca::start()?;
        ca.stop()?;
        let config = fs::read_to_string(ca.directory().join("sealwright.toml"))?;
        let pin = fs::read_to_string(ca.directory().join("softhsm/pin"))?.trim_end().to_owned();
        ensure!(pin.len() >= 8, "a PIN that is looked for must not be short");
        Ok(Self { ca, config, pin })
    }

    /// The folder of its token's objects.
    pub fn tokens(&self) -> PathBuf {
        self.ca.directory().join("softhsm/tokens")
    }

    /// Does something to the token, and afterwards puts it back as it was.
    ///
    /// # Errors
    /// What `body` says.
    pub fn with_spoiled_token(&self, body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let (tokens, kept) = (self.tokens(), self.tokens().with_extension("kept"));
        copy_folder(&tokens, &kept)?;
        let result = body(self);
        fs::remove_dir_all(&tokens)?;
        fs::rename(&kept, &tokens)?;
        // The service must not notice that it is an older copy.
        for epoch in files(self.ca.directory(), &|path| path.to_string_lossy().contains("token-epoch-"))? {
            fs::remove_file(epoch)?;
        }
        result
    }

    /// Writes the configuration with the second text of each pair in place of the first, which must be in it.
    ///
    /// # Errors
    /// One is not in it.
    pub fn edited(&self, edits: &[(&str, &str)]) -> Result<PathBuf> {
        let mut config = self.config.clone();
        for (from, to) in edits {
            ensure!(config.contains(from), "no '{from}' in the configuration:\n{config}");
            config = config.replacen(from, to, 1);
        }
        let path = self.ca.directory().join("edited.toml");
        fs::write(&path, config)?;
        Ok(path)
    }

    /// A line of the configuration.
    ///
    /// # Errors
    /// There is none that begins so.
    pub fn line(&self, begin: &str) -> Result<&str> {
        let mut lines = self.config.lines();
        lines.find(|line| line.starts_with(begin)).with_context(|| format!("no line begins with '{begin}'"))
    }

    /// `sealwright serve` with a changed configuration, until it ends or waits for the token.
    ///
    /// # Errors
    /// It serves, or the PIN is in what it says.
    pub fn serve(&self, from: &str, to: &str) -> Result<Outcome> {
        self.run(&["serve"], &self.edited(&[(from, to)])?)
    }

    /// `sealwright doctor` with a changed configuration.
    ///
    /// # Errors
    /// The PIN is in what it says.
    pub fn doctor(&self, from: &str, to: &str) -> Result<Outcome> {
        self.run(&["doctor"], &self.edited(&[(from, to)])?)
    }

    /// Any verb with the configuration as it is.
    ///
    /// # Errors
    /// The PIN is in what it says.
    pub fn verb(&self, words: &[&str]) -> Result<Outcome> {
        self.run(words, &self.ca.directory().join("sealwright.toml"))
    }

    /// Any verb with this configuration.
    ///
    /// # Errors
    /// The PIN is in what it says.
    pub fn run(&self, words: &[&str], config: &Path) -> Result<Outcome> {
        let log = self.ca.directory().join("run.log");
        let file = fs::File::create(&log)?;
        let mut command = Command::new(sealwright_bin()?);
        command.args(words).arg("--config").arg(config).stdin(Stdio::null());
        let mut child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
        let end = Instant::now() + START;
        let code = loop {
            let text = fs::read_to_string(&log)?;
            if let Some(status) = child.try_wait()? {
                break status.code();
            }
            if text.contains(WAITS) || Instant::now() > end {
                child.kill()?;
                child.wait()?;
                ensure!(text.contains(WAITS), "still running after {START:?}:\n{text}");
                break None;
            }
            thread::sleep(Duration::from_millis(20));
        };
        let text = fs::read_to_string(&log)?;
        ensure!(!text.contains(&self.pin), "the PIN was said:\n{text}");
        Ok(Outcome { code, text })
    }

    /// OpenSC's tool on the token, logged in.
    ///
    /// # Errors
    /// It failed.
    pub fn pkcs11_tool(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("pkcs11-tool");
        command.arg("--module").arg(softhsm::find_module()?).args(["--token-label", "sealwright-dev", "--login"]);
        command.args(["--pin", "env:TEST_PIN"]).args(words).env("TEST_PIN", &self.pin);
        command.env("SOFTHSM2_CONF", self.ca.directory().join("softhsm/softhsm2.conf"));
        Ok(String::from_utf8(tools::run(&mut command)?)?)
    }

    /// The CKA_ID of the private key whose label contains `label`.
    ///
    /// # Errors
    /// There is none.
    pub fn id_of(&self, label: &str) -> Result<String> {
        let listed = self.pkcs11_tool(&["--list-objects", "--type", "privkey"])?;
        let mut lines =
            listed.lines().map(str::trim).skip_while(|line| !(line.starts_with("label:") && line.contains(label)));
        let id = lines.find_map(|line| line.strip_prefix("ID:"));
        Ok(id.with_context(|| format!("no key '{label}' in:\n{listed}"))?.trim().to_owned())
    }

    /// Deletes both halves of a key.
    ///
    /// # Errors
    /// It is not there.
    pub fn delete(&self, id: &str) -> Result<()> {
        for half in ["privkey", "pubkey"] {
            self.pkcs11_tool(&["--delete-object", "--type", half, "--id", id])?;
        }
        Ok(())
    }

    /// Makes a P-256 key with this CKA_ID, as another tool does: nobody asks whether it is there already.
    ///
    /// # Errors
    /// The tool failed.
    pub fn make(&self, id: &str) -> Result<()> {
        let words = ["--keypairgen", "--key-type", "EC:prime256v1", "--id", id, "--label", "foreign", "--usage-sign"];
        self.pkcs11_tool(&words).map(|_| ())
    }
}
