//! The configuration file: TOML, unknown keys refused, everything checked before anything starts.

mod key_choice;

pub use key_choice::{KeyChoice, key_algorithm};

use ca_core::{
    id::{ProfileName, TenantId},
    profile::{CertificateProfile, ProfileSpec},
};
use enrollment::attestation::policy::AttestationPolicySpec;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or a key or value that does not exist. The message has line and column.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A value that cannot work.
    #[error("{key}: {problem}")]
    Value {
        /// The key, for example `http.base_url`.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

fn value(key: impl Into<String>, problem: impl ToString) -> ConfigError {
    ConfigError::Value { key: key.into(), problem: problem.to_string() }
}

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the journal, its index and the published CRLs live.
    pub data_dir: PathBuf,
    /// The PKCS#11 token.
    pub token: TokenSection,
    /// The gRPC listener.
    pub grpc: GrpcSection,
    /// The plain HTTP listener for CRLs, OCSP and issuer certificates.
    pub http: HttpSection,
    /// Logs, metrics and readiness.
    #[serde(default)]
    pub telemetry: TelemetrySection,
    /// CRL and OCSP timing.
    #[serde(default)]
    pub status: StatusSection,
    /// The tenants, each with its own root and issuing CA.
    #[serde(default = "one_tenant")]
    pub tenants: Vec<TenantSection>,
    /// Certificate profiles; `tls-client` and `idevid` are built in and may be replaced.
    #[serde(default)]
    pub profiles: BTreeMap<String, ProfileSpec>,
    /// Attestation policy by profile name.
    #[serde(default)]
    pub attestation: BTreeMap<String, AttestationPolicySpec>,
    /// Named sets of attestation trust anchors.
    #[serde(default)]
    pub trust_stores: BTreeMap<String, TrustStoreSection>,
    /// Not in the file: the operator's word, for this one run, that the clock is right whatever the journal says.
    #[serde(skip)]
    pub accept_clock: bool,
}

/// `[token]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSection {
    /// The PKCS#11 module, a shared library.
    pub module: PathBuf,
    /// The token as a RFC 7512 URI, for example `pkcs11:token=sealwright`.
    pub uri: String,
    /// Where the PIN comes from. Never the PIN itself.
    pub pin: PinSource,
    /// Variables for the module, for example `SOFTHSM2_CONF`. Only the process that loads it has them.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Processes that load the module; measured when absent.
    #[serde(default)]
    pub workers: Option<u32>,
    /// Sessions in each of them; measured when absent.
    #[serde(default)]
    pub sessions: Option<u32>,
    /// Further tokens that hold the same keys; all of them sign.
    #[serde(default)]
    pub copies: Vec<CopySection>,
    /// How long a signature may take before the caller is told to come again.
    #[serde(default = "five_seconds", deserialize_with = "duration")]
    pub deadline: Duration,
    /// Requests that may wait for the token.
    #[serde(default = "token_queue")]
    pub queue: usize,
    /// Whether `key generate --extractable-under` may make a key that leaves the token wrapped.
    #[serde(default)]
    pub allow_wrapped_backup: bool,
}

/// One of `[[token.copies]]`: as `[token]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopySection {
    /// As [`TokenSection::module`].
    pub module: PathBuf,
    /// As [`TokenSection::uri`].
    pub uri: String,
    /// As [`TokenSection::pin`].
    pub pin: PinSource,
    /// As [`TokenSection::environment`].
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// As [`TokenSection::workers`].
    #[serde(default)]
    pub workers: Option<u32>,
    /// As [`TokenSection::sessions`].
    #[serde(default)]
    pub sessions: Option<u32>,
}

/// Where the PIN comes from: exactly one of the keys. This process never reads it; its keeper does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum PinSource {
    /// A file that only its owner can read.
    File(PathBuf),
    /// A systemd credential (LoadCredential= or LoadCredentialEncrypted=).
    Credential(String),
    /// Ask on the terminal.
    Prompt(bool),
    /// Ask custodians on the terminal for this many shares.
    Shares(u8),
}

impl PinSource {
    fn resolved(&self) -> hsm::PinSource {
        match self.clone() {
            Self::File(path) => hsm::PinSource::File(path),
            Self::Credential(name) => hsm::PinSource::Credential(name),
            Self::Prompt(_) => hsm::PinSource::Prompt,
            Self::Shares(count) => hsm::PinSource::Shares(count),
        }
    }
}

impl TokenSection {
    /// The tokens as the HSM layer takes them, each with its key in this file.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for a URI that names no token.
    pub fn tokens(&self) -> Result<Vec<hsm::TokenConfig>, ConfigError> {
        let first = (&self.module, &self.uri, &self.pin, &self.environment, self.workers, self.sessions);
        let copies = self.copies.iter().map(|c| (&c.module, &c.uri, &c.pin, &c.environment, c.workers, c.sessions));
        let mut tokens = Vec::new();
        for (index, (module, uri, pin, environment, workers, sessions)) in
            std::iter::once(first).chain(copies).enumerate()
        {
            let key = if index == 0 { "token".to_owned() } else { format!("token.copies[{}]", index - 1) };
            match pin {
                PinSource::Prompt(false) => {
                    return Err(value(format!("{key}.pin.prompt"), "must be true, or left out"));
                }
                PinSource::Shares(n) if !(2..=16).contains(n) => {
                    return Err(value(format!("{key}.pin.shares"), "must lie between 2 and 16"));
                }
                _ => {}
            }
            tokens.push(hsm::TokenConfig {
                module: module.clone(),
                uri: uri.parse().map_err(|e| value(format!("{key}.uri"), e))?,
                pin: pin.resolved(),
                environment: environment.clone().into_iter().collect(),
                workers,
                sessions,
            });
        }
        if tokens.len() > 8 {
            return Err(value("token.copies", "must be at most 7"));
        }
        for (index, token) in tokens.iter().enumerate() {
            let key = if index == 0 { "token".to_owned() } else { format!("token.copies[{}]", index - 1) };
            token.check().map_err(|error| match error {
                hsm::HsmError::Configuration { field, reason } => value(format!("{key}.{field}"), reason),
                other => value(key, other),
            })?;
        }
        Ok(tokens)
    }
}

/// `[grpc]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcSection {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// DNS names and IP addresses in the server's TLS certificate.
    pub names: Vec<String>,
}

/// `[http]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSection {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// What certificates say as CDP and AIA; `http://` only (RFC 5280 8). Fixed once certificates carry it.
    pub base_url: String,
}

/// `[telemetry]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySection {
    /// A listener of its own for /metrics, /livez and /readyz; without it the HTTP listener answers them, to this
    /// machine only.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Log filter, for example `info` or `info,hsm=debug`.
    #[serde(default = "info")]
    pub log: String,
    /// `text` or `json`.
    #[serde(default)]
    pub format: LogFormat,
}

impl Default for TelemetrySection {
    fn default() -> Self {
        Self { listen: None, log: info(), format: LogFormat::Text }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[status]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusSection {
    /// From thisUpdate to nextUpdate of a CRL; it is renewed at half of it.
    #[serde(default = "a_day", deserialize_with = "duration")]
    pub crl_validity: Duration,
    /// How long revocations are gathered before a new CRL is signed.
    #[serde(default = "a_second", deserialize_with = "duration")]
    pub crl_delay: Duration,
    /// From thisUpdate to nextUpdate of an OCSP response.
    #[serde(default = "half_a_day", deserialize_with = "duration")]
    pub ocsp_validity: Duration,
}

impl Default for StatusSection {
    fn default() -> Self {
        Self { crl_validity: a_day(), crl_delay: a_second(), ocsp_validity: half_a_day() }
    }
}

/// One of `[[tenants]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSection {
    /// Its name: a-z 0-9 . _ -
    pub name: TenantId,
    /// The organization in its CA names.
    #[serde(default = "organization")]
    pub organization: String,
    /// Where the root key is: in this token, or held elsewhere (`init` then writes a CSR).
    #[serde(default)]
    pub root: RootPlace,
    /// The root key's algorithm; `RSA-3072-PSS` is an RSA key that signs with PSS.
    #[serde(default = "p384")]
    pub root_key: String,
    /// The issuing and responder keys' algorithm.
    #[serde(default = "p256")]
    pub issuing_key: String,
}

/// Where a tenant's root is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RootPlace {
    /// In the same token.
    #[default]
    Token,
    /// Elsewhere; the chain is imported.
    External,
}

/// One of `[trust_stores]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustStoreSection {
    /// PEM or DER files, or folders of them.
    pub files: Vec<PathBuf>,
}

fn token_queue() -> usize {
    1_024
}
fn five_seconds() -> Duration {
    Duration::from_secs(5)
}
fn a_second() -> Duration {
    Duration::from_secs(1)
}
fn half_a_day() -> Duration {
    Duration::from_secs(12 * 3600)
}
fn a_day() -> Duration {
    Duration::from_secs(24 * 3600)
}
fn info() -> String {
    "info".to_owned()
}
fn organization() -> String {
    "Sealwright".to_owned()
}
fn p256() -> String {
    "P-256".to_owned()
}
fn p384() -> String {
    "P-384".to_owned()
}
fn one_tenant() -> Vec<TenantSection> {
    vec![TenantSection {
        name: TenantId::default_tenant(),
        organization: organization(),
        root: RootPlace::Token,
        root_key: p384(),
        issuing_key: p256(),
    }]
}

fn duration<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

/// Parses `90s`, `15m`, `12h`, `30d`.
///
/// # Errors
/// A sentence that says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is no duration; write for example 90s, 15m, 12h or 30d");
    let unit = text.chars().last().ok_or_else(bad)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let count: u64 = text.trim_end_matches(unit).parse().map_err(|_| bad())?;
    count.checked_mul(factor).map(Duration::from_secs).ok_or_else(bad)
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with the line, or the key and what would be right.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Parses and checks a text; `path` only stands in messages.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self =
            toml::from_str(text).map_err(|e| ConfigError::Syntax { path: path.to_owned(), message: e.to_string() })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !self.http.base_url.starts_with("http://") || self.http.base_url.ends_with('/') {
            return Err(value("http.base_url", "must begin with http:// and must not end with a slash"));
        }
        if self.grpc.names.is_empty() || self.grpc.names.len() > 32 {
            return Err(value("grpc.names", "needs 1 to 32 DNS names or IP addresses for the TLS certificate"));
        }
        if self.tenants.is_empty() {
            return Err(value("tenants", "needs at least one tenant"));
        }
        for (i, tenant) in self.tenants.iter().enumerate() {
            if self.tenants.iter().take(i).any(|other| other.name == tenant.name) {
                return Err(value("tenants", format!("'{}' stands there twice", tenant.name)));
            }
            key_algorithm(&tenant.root_key).map_err(|e| value("tenants.root_key", e))?;
            key_algorithm(&tenant.issuing_key).map_err(|e| value("tenants.issuing_key", e))?;
        }
        // 8 hours to 10 days (CA/B Baseline Requirements 4.9.9); below an hour clients with wrong clocks fail.
        for (key, v) in
            [("status.crl_validity", self.status.crl_validity), ("status.ocsp_validity", self.status.ocsp_validity)]
        {
            if !(Duration::from_secs(3600)..=Duration::from_secs(10 * 86_400)).contains(&v) {
                return Err(value(key, "must lie between 1h and 10d"));
            }
        }
        if self.status.crl_delay > Duration::from_secs(60) {
            return Err(value("status.crl_delay", "must be at most 60s: a revocation has to be seen"));
        }
        self.token.tokens()?;
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.token.deadline) {
            return Err(value("token.deadline", "must lie between 1s and 60s"));
        }
        self.compiled_profiles()?;
        for name in self.attestation.keys() {
            if !self.profiles.contains_key(name) && !built_in_profiles().contains_key(name) {
                return Err(value(format!("attestation.{name}"), "there is no profile of this name"));
            }
        }
        Ok(())
    }

    /// The built-in profiles with those of the file in their place, compiled; with the specification of each.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the profile and what is wrong.
    pub fn compiled_profiles(&self) -> Result<Vec<(CertificateProfile, ProfileSpec)>, ConfigError> {
        let mut specs = built_in_profiles();
        for (name, spec) in &self.profiles {
            if name == crate::bootstrap::PRINCIPAL_PROFILE {
                return Err(value(format!("profiles.{name}"), "this profile is built in and cannot be replaced"));
            }
            specs.insert(name.clone(), spec.clone());
        }
        specs
            .into_iter()
            .map(|(name, spec)| {
                let profile_name = ProfileName::new(name.clone()).map_err(|e| value(format!("profiles.{name}"), e))?;
                let profile = CertificateProfile::compile(profile_name, spec.clone())
                    .map_err(|e| value(format!("profiles.{name}"), e))?;
                Ok((profile, spec))
            })
            .collect()
    }

    /// The TLS certificate's names, split into DNS names and addresses.
    pub fn server_names(&self) -> (Vec<String>, Vec<std::net::IpAddr>) {
        let mut dns = Vec::new();
        let mut ip = Vec::new();
        for name in &self.grpc.names {
            match name.parse() {
                Ok(address) => ip.push(address),
                Err(_) => dns.push(name.clone()),
            }
        }
        (dns, ip)
    }
}

/// The profiles that need no configuration.
fn built_in_profiles() -> BTreeMap<String, ProfileSpec> {
    let profiles = [
        ("tls-client", ProfileSpec::tls_client()),
        ("idevid", ProfileSpec::idevid()),
        (crate::bootstrap::PRINCIPAL_PROFILE, ProfileSpec::principal()),
    ];
    profiles.into_iter().map(|(name, spec)| (name.to_owned(), spec)).collect()
}
