//! The command line options that say which server, and as whom.

use super::{Target, connect, host_of, read_certificates, read_identity};
use crate::error::{Exit, Problem};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tonic::transport::Channel;

/// Which server, and as whom.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArgs {
    /// The server's gRPC address; its host must be in the server's certificate [env: SEALWRIGHT_SERVER]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "dev")]
    pub server: Option<String>,
    /// PEM file with the root certificates to trust [env: SEALWRIGHT_TRUST]
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    pub trust: Option<PathBuf>,
    /// PEM file with your certificate and its chain, leaf first [env: SEALWRIGHT_CERT]
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    pub cert: Option<PathBuf>,
    /// PEM file with your private key [env: SEALWRIGHT_KEY]
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    pub key: Option<PathBuf>,
    /// Use the server that `sealwright dev` runs with this directory; the environment is ignored
    #[arg(long, value_name = "DIR")]
    pub dev: Option<PathBuf>,
    /// With --dev: act as this principal, not the one that fits the command
    #[arg(long = "as", value_name = "WHO", requires = "dev")]
    pub act_as: Option<DevPrincipal>,
}

/// The principals that `sealwright dev` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DevPrincipal {
    // Manages principals.
    Admin,
    // Revokes, makes tokens, reads.
    Operator,
    // Enrolls devices.
    Station,
    // Reads.
    Auditor,
}

/// `dev.json`, as `sealwright dev` writes it. Paths are relative to its directory.
#[derive(Clone, Debug, serde::Deserialize)]
struct DevFile {
    /// The gRPC address, `host:port`.
    grpc: String,
    /// PEM file with the roots.
    trust_bundle: PathBuf,
    admin: DevIdentity,
    operator: DevIdentity,
    station: DevIdentity,
    auditor: DevIdentity,
}

#[derive(Clone, Debug, serde::Deserialize)]
struct DevIdentity {
    cert: PathBuf,
    key: PathBuf,
}

impl DevFile {
    /// Reads `DIR/dev.json`.
    ///
    /// # Errors
    /// A [`Problem`] that names the file.
    fn read(dir: &Path) -> Result<Self, Problem> {
        let path = dir.join("dev.json");
        let json = fs::read(&path).map_err(|error| Problem {
            advice: format!("Start the server first: sealwright dev --dir {}", dir.display()),
            ..Problem::file(&path, &error)
        })?;
        serde_json::from_slice(&json).map_err(|error| {
            Problem::new(
                Exit::Failure,
                format!("{}: {error}", path.display()),
                "It is written by `sealwright dev`; start that again, with this version.",
            )
        })
    }

    fn identity(&self, who: DevPrincipal) -> &DevIdentity {
        match who {
            DevPrincipal::Admin => &self.admin,
            DevPrincipal::Operator => &self.operator,
            DevPrincipal::Station => &self.station,
            DevPrincipal::Auditor => &self.auditor,
        }
    }
}

impl ConnectionArgs {
    /// The target; with `--dev`, as `default` unless `--as` says otherwise.
    ///
    /// # Errors
    /// A [`Problem`] that names the option or file at fault.
    pub fn target(&self, default: DevPrincipal) -> Result<Target, Problem> {
        self.resolve(Some(default), |name| std::env::var_os(name))
    }

    /// The target, without a client certificate whatever is set.
    ///
    /// # Errors
    /// As [`Self::target`].
    pub fn anonymous(&self) -> Result<Target, Problem> {
        self.resolve(None, |name| std::env::var_os(name))
    }

    /// Connects as [`Self::target`] says.
    ///
    /// # Errors
    /// Those of [`Self::target`] and [`connect`].
    pub async fn connect(&self, default: DevPrincipal) -> anyhow::Result<Channel> {
        connect(&self.target(default)?).await
    }

    fn resolve(
        &self,
        default: Option<DevPrincipal>,
        environment: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<Target, Problem> {
        if let Some(dir) = &self.dev {
            let file = DevFile::read(dir)?;
            let identity = default.map(|default| file.identity(self.act_as.unwrap_or(default)));
            return Ok(Target {
                server: file.grpc.trim_start_matches("https://").trim_end_matches('/').to_owned(),
                trust: read_certificates(&dir.join(&file.trust_bundle))?,
                identity: identity.map(|id| read_identity(&dir.join(&id.cert), &dir.join(&id.key))).transpose()?,
            });
        }
        let path = |given: &Option<PathBuf>, name: &str| given.clone().or_else(|| environment(name).map(PathBuf::from));
        let server = self
            .server
            .clone()
            .or_else(|| environment("SEALWRIGHT_SERVER").and_then(|value| value.into_string().ok()))
            .ok_or_else(|| {
                Problem::usage(
                    "no server is given",
                    "Use --server HOST:PORT or SEALWRIGHT_SERVER, or --dev DIR for a development server.",
                )
            })?;
        host_of(&server)?;
        let trust = path(&self.trust, "SEALWRIGHT_TRUST").ok_or_else(|| {
            Problem::usage(
                "no trusted root is given",
                "Use --trust FILE or SEALWRIGHT_TRUST with the root certificate that you got with the server's address.",
            )
        })?;
        let identity = match (path(&self.cert, "SEALWRIGHT_CERT"), path(&self.key, "SEALWRIGHT_KEY")) {
            _ if default.is_none() => None,
            (Some(cert), Some(key)) => Some(read_identity(&cert, &key)?),
            (None, None) => None,
            (Some(_), None) => return Err(Problem::usage("--cert is given without --key", "Give both or none.")),
            (None, Some(_)) => return Err(Problem::usage("--key is given without --cert", "Give both or none.")),
        };
        Ok(Target { server, trust: read_certificates(&trust)?, identity })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::connection::tests::self_signed;

    fn nothing(_: &str) -> Option<std::ffi::OsString> {
        None
    }

    #[test]
    fn a_missing_option_is_named() {
        let who = Some(DevPrincipal::Operator);
        let error = ConnectionArgs::default().resolve(who, nothing).unwrap_err();
        assert_eq!((error.exit, error.what.as_str()), (Exit::Usage, "no server is given"));
        let args = ConnectionArgs { server: Some("localhost:1".into()), ..Default::default() };
        assert_eq!(args.resolve(who, nothing).unwrap_err().what, "no trusted root is given");
        let half = |name: &str| match name {
            "SEALWRIGHT_TRUST" | "SEALWRIGHT_CERT" => Some("absent.pem".into()),
            _ => None,
        };
        assert_eq!(args.resolve(who, half).unwrap_err().what, "--cert is given without --key");
    }

    #[test]
    fn dev_json_gives_everything_and_the_environment_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        for who in ["root", "admin", "operator", "station", "auditor"] {
            self_signed(dir.path(), who);
        }
        let id = |who: &str| serde_json::json!({"cert": format!("{who}.pem"), "key": format!("{who}.key")});
        let json = serde_json::json!({
            "grpc": "localhost:4433", "http": "localhost:8080", "trust_bundle": "root.pem", "issuer_id": "i",
            "admin": id("admin"), "operator": id("operator"), "station": id("station"), "auditor": id("auditor"),
            "enrollment_token": "t"
        });
        fs::write(dir.path().join("dev.json"), json.to_string()).unwrap();
        let args = ConnectionArgs { dev: Some(dir.path().to_owned()), ..Default::default() };
        let target = args.resolve(Some(DevPrincipal::Operator), |_| Some("elsewhere:1".into())).unwrap();
        assert_eq!(target.server, "localhost:4433");
        assert_eq!(target.trust, read_certificates(&dir.path().join("root.pem")).unwrap());
        let operator = read_certificates(&dir.path().join("operator.pem")).unwrap();
        assert_eq!(target.identity.unwrap().cert, operator);

        let as_auditor = ConnectionArgs { act_as: Some(DevPrincipal::Auditor), ..args.clone() };
        let auditor = read_certificates(&dir.path().join("auditor.pem")).unwrap();
        assert_eq!(as_auditor.resolve(Some(DevPrincipal::Admin), nothing).unwrap().identity.unwrap().cert, auditor);
        assert!(args.resolve(None, nothing).unwrap().identity.is_none());
    }
}
