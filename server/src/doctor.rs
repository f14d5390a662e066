//! Looks at everything that a service needs, and names the cure for each fault. On a stopped service it takes the
//! journal's lock, and builds the index where that is missing; nothing else is changed.

use crate::{ca::key_id, config::Config, serve, token_identity};
use ca_core::{certificate::Certificate, profile::ProfileSpec, time::UnixTime};
use hsm::{HsmError, Token};
use std::{
    fmt::Display,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use store::{IssuerEntry, OpenError, OpenOptions, Store};

/// How one check came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it must be.
    Good(String),
    /// Could not be looked at, and why that is no fault.
    Skipped(String),
    /// It works, and yet somebody should look at it.
    Warning {
        /// What is doubtful.
        what: String,
        /// What to do.
        cure: String,
    },
    /// Wrong.
    Fault {
        /// What is wrong.
        what: String,
        /// What to do.
        cure: String,
    },
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it came out.
    pub verdict: Verdict,
}

fn fault(what: impl Display, cure: impl Display) -> Verdict {
    Verdict::Fault { what: what.to_string(), cure: cure.to_string() }
}

/// A build cannot run before it was written: 2026-11-01.
const EARLIEST: u64 = 1_793_491_200;
/// A CRL, some thousand records and a day of logs.
const DISK_LEAST: u64 = 256 * 1024 * 1024;

/// Examines the installation. The PIN is tried at most once.
pub fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |check, verdict| findings.push(Finding { check, verdict });
    add("data directory", data_dir(&config.data_dir));
    add("disk", disk(&config.data_dir));
    add("profiles", profiles(config));
    add("module", module(&config.token.module));
    for copy in &config.token.copies {
        add("module", module(&copy.module));
    }
    let store = open_store(config);
    let known = store.as_ref().ok().and_then(|store| token_identity::known(store).ok()).unwrap_or_default();
    let token = match open_token(config, known) {
        Ok(token) => {
            token.status().iter().for_each(|status| add("token", token_state(status)));
            Some(token)
        }
        Err(verdict) => {
            add("token", verdict);
            None
        }
    };
    match store {
        Ok(store) => {
            add("journal", Verdict::Good(format!("{} records, the service is stopped", store.statistics().records)));
            add("clock", clock(Some(store.high_water())));
            for entry in store.issuers().unwrap_or_default() {
                add("keys", keys(token.as_ref(), &entry));
                add("chain", chain(&entry));
                add("CRL", crl(&store, &entry));
            }
            add("gRPC port", free_port(config.grpc.listen));
            add("HTTP port", free_port(config.http.listen));
            store.close();
        }
        Err(None) => {
            add("journal", Verdict::Good("in use by the running service".to_owned()));
            add("clock", clock(None));
            add("gRPC port", answering(config.grpc.listen));
            add("HTTP port", answering(config.http.listen));
            let telemetry = config.telemetry.listen.unwrap_or(config.http.listen);
            add("readiness", readiness(telemetry));
        }
        Err(Some(verdict)) => {
            add("journal", verdict);
            add("clock", clock(None));
        }
    }
    findings
}

fn data_dir(dir: &Path) -> Verdict {
    match fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => fault(format!("{} is no directory", dir.display()), "correct data_dir"),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            fault(format!("{} is open to others", dir.display()), format!("chmod 700 {}", dir.display()))
        }
        Ok(_) => Verdict::Good(dir.display().to_string()),
        Err(e) => fault(format!("{}: {e}", dir.display()), "run 'sealwright init', or correct data_dir"),
    }
}

/// The built-in idevid cannot know whose hardware it names.
fn profiles(config: &Config) -> Verdict {
    const IDEVID: &str = "idevid";
    let built_in = ProfileSpec::idevid();
    let documentation = built_in.hw_type.as_deref().unwrap_or_default();
    match config.profiles.get(IDEVID) {
        Some(own) if own.hw_type.as_deref() != Some(documentation) => {
            Verdict::Good(format!("{IDEVID} is the configuration's own"))
        }
        _ => Verdict::Warning {
            what: format!("profile {IDEVID} names hardware type {documentation}, which is for documentation only"),
            cure: format!(
                "before a device is enrolled under it, configure [profiles.{IDEVID}] with an hw_type in your own arc"
            ),
        },
    }
}

fn disk(dir: &Path) -> Verdict {
    match rustix::fs::statvfs(dir) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let text = format!("{} MiB free", free / (1024 * 1024));
            if free < DISK_LEAST {
                fault(text, "make room; issuing stops when the disk is full")
            } else {
                Verdict::Good(text)
            }
        }
        Err(e) => Verdict::Skipped(e.to_string()),
    }
}

fn module(path: &Path) -> Verdict {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => Verdict::Good(path.display().to_string()),
        _ => fault(
            format!("{} is not there", path.display()),
            "install the token's PKCS#11 library and correct token.module (SoftHSM: apt-get install softhsm2)",
        ),
    }
}

fn open_token(config: &Config, known: token_identity::Known) -> Result<Token, Verdict> {
    let mut wanted = serve::token_config(config, known).map_err(|e| fault(e, "correct [token]"))?;
    for token in &mut wanted.tokens {
        // Nothing is measured: a running service may be using it.
        (token.workers, token.sessions) = (Some(1), Some(1));
    }
    Token::open(wanted).map_err(|error| fault(&error, cure(&error)))
}

/// What to do about a token that cannot be used.
fn cure(error: &HsmError) -> &'static str {
    match error {
        HsmError::Configuration { .. } => "correct that value in [token]",
        HsmError::Module { .. } => "install the token's library and correct token.module",
        HsmError::FaultInjection { .. } => {
            "set token.module to the vendor's library; this one is for tests and breaks signatures"
        }
        HsmError::TokenNotFound { .. } | HsmError::TokenAmbiguous { .. } | HsmError::Uri(_) => {
            "correct token.uri, and see that the token is plugged in or reachable and that its variables are in token.environment"
        }
        HsmError::PinSource(_) | HsmError::Pin(_) => "put the PIN where token.pin says, readable by this user only",
        HsmError::PinWrong | HsmError::PinLockedOut => {
            "correct the PIN, then run 'sealwright hsm unlock'; it is tried once, so that the token does not lock itself"
        }
        HsmError::PinFinalTry | HsmError::PinLocked => {
            "log in with the vendor's tool, or reset the PIN as its security officer"
        }
        HsmError::WrongToken { .. } => "put the token back that this authority was made with; see docs/HSM.md",
        _ => "see that the token is plugged in or reachable, and look at the vendor's log",
    }
}

fn token_state(status: &hsm::TokenStatus) -> Verdict {
    let name = &status.name;
    match &status.state {
        hsm::TokenState::Up => {
            let about = status.info.as_ref().map(|i| format!(", {} {}, serial {}", i.manufacturer, i.model, i.serial));
            Verdict::Good(format!("'{name}' logged in{}", about.unwrap_or_default()))
        }
        hsm::TokenState::Starting => fault(format!("'{name}' does not answer"), "look at the vendor's log"),
        hsm::TokenState::Down(error) => fault(format!("'{name}': {error}"), cure(error)),
        hsm::TokenState::LockedOut => {
            fault(format!("'{name}': {}", HsmError::PinLockedOut), cure(&HsmError::PinLockedOut))
        }
    }
}

/// `Err(None)` when a running service has it.
fn open_store(config: &Config) -> Result<Store, Option<Verdict>> {
    match Store::open(&config.data_dir, OpenOptions { create: false, ..OpenOptions::default() }) {
        Ok((store, _)) => Ok(store),
        Err(OpenError::Locked(_)) => Err(None),
        Err(e) => Err(Some(fault(e, "run 'sealwright journal verify'; when there is no journal, 'sealwright init'"))),
    }
}

fn now() -> UnixTime {
    UnixTime::from_secs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

fn clock(high_water: Option<UnixTime>) -> Verdict {
    let now = now();
    if now.as_secs() < EARLIEST || high_water.is_some_and(|h| now.plus(crate::limits::CLOCK_BEHIND) < h) {
        return fault(
            format!("the clock says {now}, which is in the past"),
            "set the clock; run chrony or systemd-timesyncd",
        );
    }
    Verdict::Good(now.to_string())
}

fn keys(token: Option<&Token>, entry: &IssuerEntry) -> Verdict {
    let Some(token) = token else { return Verdict::Skipped(format!("{}: without the token", entry.id)) };
    let pairs = [(&entry.key_id, &entry.certificate), (&entry.ocsp_key_id, &entry.ocsp_certificate)];
    for (id, der) in pairs.into_iter().filter(|(_, der)| !der.is_empty()) {
        let checked = (|| -> anyhow::Result<()> {
            let (id, certificate) = (key_id(id)?, Certificate::from_der(der)?);
            let key = token.find(&id)?;
            anyhow::ensure!(key.public_key == *certificate.public_key(), "key {id} is not that of its certificate");
            if let Some(flaw) = token.flaw(&key) {
                anyhow::bail!("key {id}: {flaw}");
            }
            Ok(token.prove(&id, certificate.public_key())?)
        })();
        if let Err(error) = checked {
            return fault(
                format!("{}: {error:#}", entry.id),
                "this is not the token that the authority was made in, or a key was deleted; restore the token's backup",
            );
        }
    }
    Verdict::Good(format!("{}: keys are there and sign", entry.id))
}

fn chain(entry: &IssuerEntry) -> Verdict {
    let cure = "restore the journal from its backup";
    let mut last = String::new();
    for der in std::iter::once(&entry.certificate).chain(&entry.chain) {
        match Certificate::from_der(der) {
            Ok(c) if !c.is_valid_at(now()) => {
                return fault(format!("{}: {} is not valid now", entry.id, c.subject()), "roll over to a new issuer");
            }
            Ok(c) => last = format!("{}: valid until {}", entry.id, c.not_after()),
            Err(e) => return fault(format!("{}: {e}", entry.id), cure),
        }
    }
    Verdict::Good(last)
}

fn crl(store: &Store, entry: &IssuerEntry) -> Verdict {
    match store.crl(&entry.id) {
        Ok(Some(crl)) if crl.next_update <= now() => fault(
            format!("{}: number {} ended {}", entry.id, crl.number, crl.next_update),
            "start the service; it makes a new one",
        ),
        Ok(Some(crl)) => Verdict::Good(format!("{}: number {}, until {}", entry.id, crl.number, crl.next_update)),
        Ok(None) => Verdict::Skipped(format!("{}: the first is made when the service starts", entry.id)),
        Err(e) => fault(format!("{}: {e}", entry.id), "run 'sealwright journal rebuild'"),
    }
}

fn free_port(address: SocketAddr) -> Verdict {
    match TcpListener::bind(address) {
        Ok(_) => Verdict::Good(format!("{address} is free")),
        Err(e) => {
            fault(format!("{address}: {e}"), "stop the program that has it (ss -ltnp), or change the configuration")
        }
    }
}

fn reachable(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    TcpStream::connect_timeout(&address, Duration::from_secs(2))
}

fn answering(address: SocketAddr) -> Verdict {
    match reachable(address) {
        Ok(_) => Verdict::Good(format!("{address} answers")),
        Err(e) => fault(format!("{address}: {e}"), "look at the service's log"),
    }
}

fn readiness(address: SocketAddr) -> Verdict {
    let asked = reachable(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer)?;
        Ok(answer)
    });
    match asked {
        Ok(answer) => {
            let line = |begin: &str| answer.lines().find(|line| line.starts_with(begin)).map(str::to_owned);
            match (answer.contains(" 200 "), line("alarm: ")) {
                (true, None) => Verdict::Good("the token signs".to_owned()),
                (true, Some(what)) => {
                    Verdict::Warning { what, cure: "see docs/HSM.md; another token signs".to_owned() }
                }
                (false, _) => fault(line("not ready").unwrap_or_default(), "look at the service's log"),
            }
        }
        Err(e) => fault(e, "look at the service's log"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_arc_is_pointed_out_until_the_profile_is_ones_own() {
        let text = "data_dir = '/nowhere'\n[token]\nmodule = '/m'\nuri = 'pkcs11:token=t'\npin = { file = '/p' }\n\
                    [grpc]\nlisten = '127.0.0.1:1'\nnames = ['a']\n[http]\nlisten = '127.0.0.1:2'\nbase_url = 'http://a'\n";
        let mut config = Config::parse(text, Path::new("test")).unwrap();
        assert!(matches!(profiles(&config), Verdict::Warning { .. }));
        config.profiles.insert("idevid".to_owned(), ProfileSpec::idevid());
        assert!(matches!(profiles(&config), Verdict::Warning { .. }));
        let own = ProfileSpec { hw_type: Some("1.3.6.1.4.1.99999.1".to_owned()), ..ProfileSpec::idevid() };
        config.profiles.insert("idevid".to_owned(), own);
        assert!(matches!(profiles(&config), Verdict::Good(_)));
    }
}
