//! A running development CA in a directory of its own.

use crate::{
    api::{self, Api, Credential},
    http, tools,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a start may take: keys are generated in the token, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(30);

/// Finds the binary: `SEALWRIGHT_BIN`, or beside the running test's build folder.
///
/// # Errors
/// Says how to build it.
pub fn sealwright_bin() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SEALWRIGHT_BIN") {
        let path = PathBuf::from(path);
        // Tests run in their crate's folder; a relative path is meant from the repository's root.
        let path = if path.is_absolute() { path } else { tools::repository().join(path) };
        return path.canonicalize().with_context(|| format!("SEALWRIGHT_BIN={}", path.display()));
    }
    let test = std::env::current_exe()?;
    test.ancestors()
        .map(|folder| folder.join("sealwright"))
        .find(|candidate| candidate.is_file())
        .context("there is no sealwright binary; run cargo build -p cli --bin sealwright first")
}

/// How the service is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// With a second tenant called `other`.
    pub other_tenant: bool,
    /// Trusts these TPM vendors.
    pub tpm_roots: Option<PathBuf>,
    /// With at most this many open files.
    pub open_files: Option<u32>,
}

/// A principal that `sealwright dev` makes.
pub const ROLES: [&str; 4] = ["admin", "operator", "station", "auditor"];

/// A development CA; killed when dropped.
#[derive(Debug)]
pub struct Ca {
    child: Option<Child>,
    directory: PathBuf,
    log: PathBuf,
    options: Options,
    environment: Vec<(&'static str, String)>,
    file: Value,
    temporary: Option<TempDir>,
}

impl Ca {
    /// Starts one in a new directory and waits until it answers.
    ///
    /// # Errors
    /// What the service's log ended with.
    pub fn start() -> Result<Self> {
        Self::start_with(Options::default())
    }

    /// As [`Self::start`], with options.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(options: Options) -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("sealwright-test-").tempdir()?;
        let mut ca = Self::at(&temporary.path().join("ca"), &temporary.path().join("server.log"), options);
        ca.temporary = Some(temporary);
        ca.restart()?;
        Ok(ca)
    }

    /// Names a CA in a given directory, which need not exist; [`Self::restart`] starts it.
    pub fn at(directory: &Path, log: &Path, options: Options) -> Self {
        Self {
            child: None,
            directory: directory.to_owned(),
            log: log.to_owned(),
            options,
            environment: Vec::new(),
            file: Value::Null,
            temporary: None,
        }
    }

    /// Starts the service on its directory, stopped or killed before, and waits until it answers.
    ///
    /// # Errors
    /// It ended or did not come up; with the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "it still runs");
        let ready = self.directory.join("dev.json");
        if ready.exists() {
            fs::remove_file(&ready)?;
        }
        let mut child = self.spawn(&mut self.development()?)?;
        let end = Instant::now() + START;
        loop {
            let file = fs::read(&ready).ok().and_then(|json| serde_json::from_slice(&json).ok());
            if let Some(file) = file {
                self.file = file;
                self.child = Some(child);
                return Ok(());
            }
            if let Some(status) = child.try_wait()? {
                bail!("sealwright dev ended with {status}:\n{}", self.log_tail());
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                bail!("sealwright dev was not ready after {START:?}:\n{}", self.log_tail());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the service and waits for it to refuse to; gives its log.
    ///
    /// # Errors
    /// It came up, or ended with success.
    pub fn must_not_start(&mut self) -> Result<String> {
        let before = fs::metadata(&self.log).map_or(0, |meta| meta.len());
        match self.restart() {
            Ok(()) => bail!("it started"),
            Err(error) => {
                let text = format!("{error:#}");
                ensure!(text.contains("ended with") && !text.contains("exit status: 0"), "{text}");
                let log = fs::read(&self.log)?;
                let new = log.get(usize::try_from(before)?..).unwrap_or_default();
                Ok(String::from_utf8_lossy(new).into_owned())
            }
        }
    }

    /// The environment of the next start, in addition to the test's own.
    pub fn set_environment(&mut self, environment: Vec<(&'static str, String)>) {
        self.environment = environment;
    }

    /// Starts it as in production on the directory that `dev` made: `sealwright serve` with further words. Waits until it
    /// lives; it may not be ready.
    ///
    /// # Errors
    /// As [`Self::restart`]; it was never started by [`Self::restart`].
    pub fn serve(&mut self, words: &[&str]) -> Result<()> {
        ensure!(self.child.is_none(), "it still runs");
        let address = self.http()?;
        let mut command = Command::new(sealwright_bin()?);
        command.arg("serve").arg("--config").arg(self.directory.join("sealwright.toml")).args(words);
        command.env("SOFTHSM2_CONF", self.directory.join("softhsm/softhsm2.conf"));
        let mut child = self.spawn(&mut command)?;
        let end = Instant::now() + START;
        while !http::get(&address, "/livez").is_ok_and(|answer| answer.status == 200) {
            if let Some(status) = child.try_wait()? {
                bail!("sealwright serve ended with {status}:\n{}", self.log_tail());
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                bail!("sealwright serve did not live after {START:?}:\n{}", self.log_tail());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.child = Some(child);
        Ok(())
    }

    fn development(&self) -> Result<Command> {
        let mut command = match self.options.open_files {
            None => Command::new(sealwright_bin()?),
            Some(most) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("ulimit -n {most}; exec \"$0\" \"$@\"")).arg(sealwright_bin()?);
                shell
            }
        };
        command.arg("dev").arg("--dir").arg(&self.directory).args(["--grpc-port", "0", "--http-port", "0"]);
        if self.options.other_tenant {
            command.args(["--tenant", "other"]);
        }
        if let Some(roots) = &self.options.tpm_roots {
            command.arg("--tpm-roots").arg(roots);
        }
        Ok(command)
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.spawn().context("starting sealwright")
    }

    /// Starts the service and ends it with SIGKILL after this time, wherever it is then.
    ///
    /// # Errors
    /// It cannot be started, or has ended by itself.
    pub fn start_and_kill(&mut self, after: Duration) -> Result<()> {
        ensure!(self.child.is_none(), "it still runs");
        let mut child = self.spawn(&mut self.development()?)?;
        thread::sleep(after);
        if let Some(status) = child.try_wait()? {
            bail!("sealwright dev ended with {status} before it was killed:\n{}", self.log_tail());
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends it with SIGKILL, as the kernel or a power switch would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends it a signal, for example `STOP`.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let child = self.child.as_ref().context("it does not run")?;
        tools::run(Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()))?;
        Ok(())
    }

    /// Ends it in order with SIGTERM.
    ///
    /// # Errors
    /// It did not end in time, which kills it.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal("TERM")?;
        let mut child = self.child.take().context("it does not run")?;
        let end = Instant::now() + STOP;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                bail!("it did not stop within {STOP:?}:\n{}", self.log_tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What every test ends with: an orderly stop, and the journal is whole.
    ///
    /// # Errors
    /// Either is not so.
    pub fn finish(mut self) -> Result<()> {
        let status = self.stop()?;
        ensure!(status.success(), "SIGTERM ended it with {status}:\n{}", self.log_tail());
        let log = fs::read_to_string(&self.log)?;
        ensure!(!log.contains("panicked"), "the service panicked:\n{}", self.log_tail());
        let (code, text) = self.verify_journal()?;
        ensure!(code == 0, "journal verify: {code}\n{text}");
        Ok(())
    }

    /// Runs `sealwright journal verify` on the stopped service: exit code and everything printed.
    ///
    /// # Errors
    /// The command cannot be run.
    pub fn verify_journal(&self) -> Result<(i32, String)> {
        self.command(&["journal", "verify", "--dir"], |c| c.arg(&self.directory))
    }

    /// Runs `sealwright WORDS...` with what `more` adds: exit code and everything printed.
    ///
    /// # Errors
    /// The command cannot be run or was killed.
    pub fn command(&self, words: &[&str], more: impl FnOnce(&mut Command) -> &mut Command) -> Result<(i32, String)> {
        let mut command = Command::new(sealwright_bin()?);
        command.args(words).stdin(Stdio::null());
        let output = more(&mut command).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code().context("killed")?, String::from_utf8_lossy(&text).into_owned()))
    }

    /// Its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn process(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("it does not run")?.id())
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The lines of its log that contain `word`.
    pub fn log_lines(&self, word: &str) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n")
    }

    fn text(&self, tenant: Option<&str>, key: &str) -> Result<&str> {
        let top = match tenant {
            Some(name) => self.file.pointer(&format!("/tenants/{name}")),
            None => Some(&self.file),
        };
        top.and_then(|t| t.pointer(key))
            .and_then(Value::as_str)
            .with_context(|| format!("dev.json has no {key} (tenant {tenant:?}): {}", self.file))
    }

    /// `host:port` of the gRPC listener.
    ///
    /// # Errors
    /// dev.json does not say.
    pub fn grpc(&self) -> Result<String> {
        Ok(self.text(None, "/grpc")?.trim_start_matches("https://").to_owned())
    }

    /// `host:port` of the HTTP listener.
    ///
    /// # Errors
    /// dev.json does not say.
    pub fn http(&self) -> Result<String> {
        Ok(self.text(None, "/http")?.trim_start_matches("http://").trim_end_matches('/').to_owned())
    }

    /// The roots to trust, PEM, and the file that they stand in.
    ///
    /// # Errors
    /// dev.json or the file is missing.
    pub fn roots(&self, tenant: Option<&str>) -> Result<(String, PathBuf)> {
        let path = self.directory.join(self.text(tenant, "/trust_bundle")?);
        Ok((fs::read_to_string(&path)?, path))
    }

    /// The active issuer.
    ///
    /// # Errors
    /// dev.json does not say.
    pub fn issuer_id(&self, tenant: Option<&str>) -> Result<String> {
        Ok(self.text(tenant, "/issuer_id")?.to_owned())
    }

    /// The certificate and key of one of [`ROLES`].
    ///
    /// # Errors
    /// dev.json or a file is missing.
    pub fn credential(&self, tenant: Option<&str>, role: &str) -> Result<Credential> {
        let read = |key: &str| -> Result<String> {
            Ok(fs::read_to_string(self.directory.join(self.text(tenant, &format!("/{role}/{key}"))?))?)
        };
        Ok(Credential { certificate: read("cert")?, key: read("key")? })
    }

    /// A connection as one of [`ROLES`] of the default tenant.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn role(&self, role: &str) -> Result<Api> {
        self.holder(&self.credential(None, role)?).await
    }

    /// A connection as one of [`ROLES`] of the tenant `other`.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn other(&self, role: &str) -> Result<Api> {
        self.holder(&self.credential(Some("other"), role)?).await
    }

    /// A connection with any client certificate.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn holder(&self, credential: &Credential) -> Result<Api> {
        Ok(Api::new(api::connect(&self.grpc()?, &self.roots(None)?.0, Some(credential)).await?))
    }

    /// A connection without a client certificate.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn anonymous(&self) -> Result<Api> {
        Ok(Api::new(api::connect(&self.grpc()?, &self.roots(None)?.0, None).await?))
    }

    /// GETs what a URL in a certificate points to, from the service as it listens now.
    ///
    /// # Errors
    /// Network, or no status 200.
    pub fn fetch(&self, url: &str) -> Result<Vec<u8>> {
        let answer = http::get(&self.http()?, http::path_of(url)?)?;
        ensure!(answer.status == 200, "{url}: status {}", answer.status);
        Ok(answer.body)
    }

    /// The sum of all samples of a metric whose labels contain `label`.
    ///
    /// # Errors
    /// No metrics are served.
    pub fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let answer = http::get(&self.http()?, "/metrics")?;
        ensure!(answer.status == 200, "/metrics: status {}", answer.status);
        let text = String::from_utf8(answer.body)?;
        Ok(text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// How often requests were refused for this reason.
    ///
    /// # Errors
    /// As [`Self::metric`].
    pub fn refusals(&self, reason: &str) -> Result<f64> {
        self.metric("sealwright_refused_total", &format!("reason=\"{reason}\""))
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if thread::panicking() {
                eprintln!("--- the end of the service's log\n{}\n---", self.log_tail());
            }
            // A service that has ended already is no concern here.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Copies a folder with everything in it.
///
/// # Errors
/// Of the file system.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    tools::run(Command::new("cp").arg("-a").arg(from.join(".")).arg(to))?;
    Ok(())
}

/// The files under a folder whose name satisfies `wanted`.
///
/// # Errors
/// Of the file system.
pub fn files(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, wanted)?);
        } else if wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
