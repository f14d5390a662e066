//! Real handshakes with a TLS server that is wrong in one way at a time.

use super::*;
use crate::error::explain;
use proto::v1::{ListIssuersRequest, authority_service_client::AuthorityServiceClient};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{io::AsyncReadExt, net::TcpListener};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, SupportedProtocolVersion, server::WebPkiClientVerifier, version::TLS12},
};

struct Pki {
    root: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

fn pki(name: &str) -> Pki {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = ca.self_signed(&ca_key).unwrap().der().clone();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .signed_by(&key, &rcgen::Issuer::new(ca, ca_key))
        .unwrap()
        .der()
        .clone();
    Pki { root, leaf, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
}

/// Listens, shakes hands with everybody and says nothing.
async fn silent_server(
    of: &Pki,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[u8],
    clients: Option<&Pki>,
) -> String {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(pki) => {
            let mut roots = RootCertStore::empty();
            roots.add(pki.root.clone()).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap(),
            )
        }
    };
    let mut config = builder.with_single_cert(vec![of.leaf.clone()], of.key.clone_key()).unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    let _ = tls.read_to_end(&mut Vec::new()).await;
                }
            });
        }
    });
    format!("localhost:{port}")
}

fn target(server: String, trust: &Pki, identity: Option<&Pki>) -> Target {
    let identity = identity.map(|pki| {
        let key = pki.key.clone_key();
        Arc::new(CertifiedKey::from_der(vec![pki.leaf.clone()], key, &aws_lc_rs::default_provider()).unwrap())
    });
    Target { server, trust: vec![trust.root.clone()], identity }
}

async fn refused(target: Target) -> Problem {
    explain(&connect(&target).await.unwrap_err())
}

#[tokio::test(flavor = "current_thread")]
async fn a_good_server_is_accepted_and_each_fault_is_named() {
    let (good, other) = (pki("localhost"), pki("localhost"));
    let server = silent_server(&good, &[&TLS13], b"h2", None).await;
    connect(&target(server.clone(), &good, None)).await.unwrap();

    let problem = refused(target(server.clone(), &other, None)).await;
    assert_eq!(problem.exit, Exit::Refused);
    assert!(problem.what.contains("is not trusted"), "{problem:?}");

    let problem = refused(target(server.replace("localhost", "127.0.0.1"), &good, None)).await;
    assert_eq!(problem.exit, Exit::Refused);
    assert!(problem.what.contains("is not trusted"), "{problem:?}");

    let old = silent_server(&good, &[&TLS12], b"h2", None).await;
    let problem = refused(target(old, &good, None)).await;
    assert!(problem.what.contains("does not speak TLS 1.3"), "{problem:?}");

    let http1 = silent_server(&good, &[&TLS13], b"http/1.1", None).await;
    let problem = refused(target(http1, &good, None)).await;
    assert_eq!(problem.exit, Exit::Failure, "{problem:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn nobody_there_is_unavailable() {
    let pki = pki("localhost");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let problem = refused(target(format!("localhost:{port}"), &pki, None)).await;
    assert_eq!(problem.exit, Exit::Unavailable);
    assert!(problem.what.contains("cannot be reached"), "{problem:?}");
    // Names below .invalid never resolve (RFC 6761 6.4).
    let problem = refused(target("nowhere.invalid:1".to_owned(), &pki, None)).await;
    assert_eq!(problem.exit, Exit::Unavailable);
    assert!(problem.what.contains("cannot be reached") && !problem.what.ends_with("transport error"), "{problem:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_refused_client_certificate_is_said_to_be_that() {
    let (good, stranger) = (pki("localhost"), pki("stranger"));
    let server = silent_server(&good, &[&TLS13], b"h2", Some(&good)).await;
    for (identity, expected) in
        [(Some(&stranger), "refused the client certificate"), (None, "wants a client certificate")]
    {
        // The refusal comes after our side of the handshake, so either step may be the one that sees it.
        let error = match connect(&target(server.clone(), &good, identity)).await {
            Err(error) => error,
            Ok(channel) => {
                AuthorityServiceClient::new(channel).list_issuers(ListIssuersRequest {}).await.unwrap_err().into()
            }
        };
        let problem = explain(&error);
        assert_eq!(problem.exit, Exit::Refused, "{error:?}");
        assert!(problem.what.contains(expected), "{problem:?}");
    }
}
