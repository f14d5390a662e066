//! One TLS connection to a server.

mod options;

pub use options::{ConnectionArgs, DevPrincipal};

use crate::error::{self, Exit, Problem};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{fs, io, path::Path, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, client::ResolvesClientCert, crypto::aws_lc_rs, sign::CertifiedKey,
        sign::SingleCertAndKey, version::TLS13,
    },
};
use tonic::transport::{Channel, Endpoint, Uri};
use zeroize::Zeroizing;

/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One request with its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// PEM files with certificates or a key are small; more is the wrong file.
const MAX_PEM_FILE: u64 = 1 << 20;

/// Whom to talk to, whom to trust, and who we are.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`; the host is also the name that the server's certificate must carry.
    pub server: String,
    /// The certificates that the server's chain must end at.
    pub trust: Vec<CertificateDer<'static>>,
    /// Our certificate chain and key; `None` connects as nobody.
    pub identity: Option<Arc<CertifiedKey>>,
}

/// Connects and completes the TLS handshake.
///
/// # Errors
/// A [`Problem`] that names the cause: address, network, trust. A client certificate that the server refuses shows up
/// only at the first request, because TLS 1.3 clients finish first.
pub async fn connect(target: &Target) -> anyhow::Result<Channel> {
    let host = host_of(&target.server)?.to_owned();
    let name = ServerName::try_from(host).map_err(|_| bad_server(&target.server))?;
    let uri: Uri = format!("https://{}", target.server).parse().map_err(|_| bad_server(&target.server))?;
    let connector = TlsConnector::from(Arc::new(tls_config(target)?));
    let address = target.server.clone();

    // tonic refuses an https URI without its own TLS, so the scheme is only for the requests that are sent.
    let plain: Uri = format!("http://{address}").parse().map_err(|_| bad_server(&address))?;
    let endpoint = Endpoint::from(plain).origin(uri).connect_timeout(CONNECT_TIMEOUT).timeout(REQUEST_TIMEOUT);
    let dial = tower::service_fn(move |_: Uri| {
        let (address, name, connector) = (address.clone(), name.clone(), connector.clone());
        async move {
            let tcp = TcpStream::connect(address.as_str()).await?;
            tcp.set_nodelay(true)?;
            let tls = connector.connect(name, tcp).await?;
            if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err(io::Error::other(Problem::new(
                    Exit::Failure,
                    "the server does not offer HTTP/2",
                    "Check that --server names the gRPC port of a Sealwright server.",
                )));
            }
            Ok::<_, io::Error>(TokioIo::new(tls))
        }
    });
    match endpoint.connect_with_connector(dial).await {
        Ok(channel) => Ok(channel),
        Err(error) => Err(connect_problem(&target.server, &error).into()),
    }
}

fn connect_problem(server: &str, error: &tonic::transport::Error) -> Problem {
    let mut problem = error::transport(error).unwrap_or_else(|| {
        Problem::new(Exit::Unavailable, format!("the server cannot be reached: {error}"), "Check --server.")
    });
    problem.what = format!("{server}: {}", problem.what);
    problem
}

fn tls_config(target: &Target) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in &target.trust {
        roots.add(certificate.clone()).map_err(|error| {
            Problem::usage(format!("a trusted certificate cannot be used: {error}"), "Check the file behind --trust.")
        })?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots);
    let mut config = match &target.identity {
        Some(identity) => {
            let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(Arc::clone(identity)));
            builder.with_client_cert_resolver(resolver)
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The host part of `host:port`; an IPv6 address is written in brackets.
fn host_of(server: &str) -> Result<&str, Problem> {
    let (host, port) = server.rsplit_once(':').ok_or_else(|| bad_server(server))?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(|| bad_server(server))?,
        None if host.contains(':') => return Err(bad_server(server)),
        None => host,
    };
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(bad_server(server));
    }
    Ok(host)
}

fn bad_server(server: &str) -> Problem {
    Problem::usage(
        format!("{server:?} is no server address"),
        "Write HOST:PORT, for example --server ca.example.com:8443 or [2001:db8::1]:8443.",
    )
}

/// Reads every certificate of a PEM file, at least one.
///
/// # Errors
/// A [`Problem`] that names the file.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let pem = read_pem(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(list) if !list.is_empty() => Ok(list),
        _ => Err(Problem::usage(
            format!("{} holds no certificate in PEM", path.display()),
            "It must have at least one block that begins with -----BEGIN CERTIFICATE-----.",
        )),
    }
}

/// Reads a certificate chain, leaf first, and its private key, and checks that they belong together.
///
/// # Errors
/// A [`Problem`] that names the file at fault.
pub fn read_identity(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, Problem> {
    let chain = read_certificates(certificate)?;
    let pem = read_pem(key)?;
    let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        Problem::usage(
            format!("{} holds no private key in PEM", key.display()),
            "It must have a block that begins with -----BEGIN PRIVATE KEY-----, not encrypted.",
        )
    })?;
    let identity = CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider()).map_err(|error| {
        Problem::usage(
            format!("{} and {} do not work together: {error}", certificate.display(), key.display()),
            "Give the certificate and the private key that were made for each other.",
        )
    })?;
    Ok(Arc::new(identity))
}

fn read_pem(path: &Path) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let length = fs::metadata(path).map_err(|error| Problem::file(path, &error))?.len();
    if length > MAX_PEM_FILE {
        return Err(Problem::usage(format!("{} is larger than 1 MiB", path.display()), "Check the path."));
    }
    fs::read(path).map(Zeroizing::new).map_err(|error| Problem::file(path, &error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod handshake;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
pub mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn the_host_part_is_the_server_name() {
        assert_eq!(host_of("ca.example.com:8443"), Ok("ca.example.com"));
        assert_eq!(host_of("[::1]:8443"), Ok("::1"));
        assert_eq!(host_of("127.0.0.1:1"), Ok("127.0.0.1"));
        for bad in ["", "host", ":1", "host:", "host:99999", "::1:80", "[::1:80", "host:x"] {
            assert!(host_of(bad).is_err(), "{bad}");
        }
    }

    /// Writes a certificate and its key into the directory.
    pub fn self_signed(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let (cert_path, key_path) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        fs::write(&cert_path, cert.pem()).unwrap();
        fs::write(&key_path, key.serialize_pem()).unwrap();
        (cert_path, key_path)
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = self_signed(dir.path(), "a");
        let (_, other) = self_signed(dir.path(), "b");
        assert!(read_identity(&cert, &key).is_ok());
        assert_eq!(read_identity(&cert, &other).unwrap_err().exit, Exit::Usage);
        assert_eq!(read_identity(&cert, &cert).unwrap_err().exit, Exit::Usage);
        assert_eq!(read_certificates(&key).unwrap_err().exit, Exit::Usage);
    }
}
