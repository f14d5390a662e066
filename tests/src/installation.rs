//! An installation as an operator makes it: a configuration, a SoftHSM token and a data directory, all of its own.

use crate::{ca::sealwright_bin, tools};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    io::Write,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The PIN of every token here; it protects nothing.
pub const PIN: &str = "throw-away-1234";
const PLACES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];
/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A configured machine.
#[derive(Debug)]
pub struct Installation {
    folder: TempDir,
    module: PathBuf,
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Done {
    /// Must have succeeded.
    ///
    /// # Errors
    /// It did not; with what it said.
    pub fn good(self) -> Result<Self> {
        ensure!(self.code == 0, "exit code {}\n{}\n{}", self.code, self.out, self.err);
        Ok(self)
    }

    /// Must have failed with this code and these words.
    ///
    /// # Errors
    /// It did otherwise.
    pub fn refused(self, code: i32, words: &str) -> Result<Self> {
        ensure!(self.code == code && self.err.contains(words), "{words}? {}\n{}\n{}", self.code, self.out, self.err);
        Ok(self)
    }

    /// Its output as JSON.
    ///
    /// # Errors
    /// It failed, or that is none.
    pub fn json(self) -> Result<Value> {
        let done = self.good()?;
        serde_json::from_str(&done.out).with_context(|| done.out)
    }
}

impl Installation {
    /// With the root in the token, or `external`.
    ///
    /// # Errors
    /// SoftHSM is missing; `scripts/setup` installs it.
    pub fn new(root: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sealwright-installation-").tempdir()?;
        let module = std::env::var_os("SOFTHSM2_MODULE").map(PathBuf::from);
        let module = module.into_iter().chain(PLACES.map(PathBuf::from)).find(|path| path.is_file());
        let made = Self { module: module.context("SoftHSM is missing; see scripts/setup")?, folder };
        fs::create_dir(made.path("tokens"))?;
        let conf = format!("directories.tokendir = {}\nobjectstore.backend = file\n", made.path("tokens").display());
        fs::write(made.path("softhsm2.conf"), conf)?;
        let words = ["--init-token", "--free", "--label", "ca", "--so-pin", PIN, "--pin", PIN];
        tools::run(Command::new("softhsm2-util").args(words).env("SOFTHSM2_CONF", made.path("softhsm2.conf")))?;
        made.secret("pin", PIN)?;
        let config = format!(
            "data_dir = '{}'\n[token]\nmodule = '{}'\nuri = 'pkcs11:token=ca'\npin = {{ file = '{}' }}\n\
             [grpc]\nlisten = '127.0.0.1:{}'\nnames = ['127.0.0.1']\n[http]\nlisten = '127.0.0.1:{}'\n\
             base_url = 'http://127.0.0.1:1'\n[[tenants]]\nname = 'default'\nroot = '{root}'\n",
            made.path("data").display(),
            made.module.display(),
            made.path("pin").display(),
            free_port()?,
            free_port()?,
        );
        fs::write(made.path("sealwright.toml"), config)?;
        Ok(made)
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that only its owner can read.
    ///
    /// # Errors
    /// Of the file system.
    pub fn secret(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(path)
    }

    fn prepared(&self) -> Result<Command> {
        let mut command = Command::new(sealwright_bin()?);
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        command.env("SEALWRIGHT_CONFIG", self.path("sealwright.toml"));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs `sealwright WORDS...` in its folder.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn run(&self, words: &[&str]) -> Result<Done> {
        let output = self.prepared()?.args(words).output()?;
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let code = output.status.code().with_context(|| format!("{words:?} was killed"))?;
        Ok(Done { code, out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// Runs `sealwright WORDS` on a terminal of its own, where somebody types these lines; gives the exit code and
    /// everything that stood on the terminal.
    ///
    /// # Errors
    /// `script` of util-linux cannot be run.
    pub fn typed(&self, words: &str, lines: &[&str]) -> Result<(i32, String)> {
        let program = self.prepared()?;
        let mut terminal = Command::new("script");
        terminal.args(["--quiet", "--return", "--command"]);
        terminal.arg(format!("'{}' {words}", program.get_program().to_string_lossy())).arg("/dev/null");
        terminal.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        terminal.current_dir(self.folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = terminal.spawn().context("script of util-linux is missing")?;
        let mut keyboard = child.stdin.take().context("no keyboard")?;
        for line in lines {
            // What is typed before the question is asked would be thrown away with it.
            thread::sleep(Duration::from_millis(500));
            writeln!(keyboard, "{line}")?;
        }
        thread::sleep(Duration::from_millis(500));
        let output = child.wait_with_output()?;
        drop(keyboard);
        let code = output.status.code().context("script was killed")?;
        Ok((code, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Runs OpenSC's tool on its token.
    ///
    /// # Errors
    /// It failed.
    pub fn pkcs11_tool(&self, words: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new("pkcs11-tool");
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf")).arg("--module").arg(&self.module);
        tools::run(command.args(["--token-label", "ca", "--login", "--pin", PIN]).args(words))
    }

    /// Runs the service until the guard is dropped.
    ///
    /// # Errors
    /// It does not come up.
    pub fn serve(&self) -> Result<Service> {
        let log = self.path("serve.log");
        let file = fs::File::create(&log)?;
        let child = self.prepared()?.arg("serve").stdout(file.try_clone()?).stderr(file).spawn()?;
        let mut service = Service(child);
        let end = Instant::now() + START;
        loop {
            let text = fs::read_to_string(&log)?;
            if text.contains("serving") {
                return Ok(service);
            }
            if service.0.try_wait()?.is_some() || Instant::now() > end {
                bail!("the service did not come up:\n{text}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A running service; killed when dropped.
#[derive(Debug)]
pub struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A file as text.
///
/// # Errors
/// Of the file system.
pub fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}
