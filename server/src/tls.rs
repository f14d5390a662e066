//! TLS 1.3 for the gRPC listener: the server's key stays in the token, and client certificates are judged by the
//! journal, call by call.

use crate::limits;
use arc_swap::ArcSwap;
use ca_core::key::{KeyAlgorithm, SignatureAlgorithm};
use hsm::{KeyId, SignRequest, Token};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey},
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;

/// The server's TLS key: it signs in the token, once a handshake.
#[derive(Debug)]
struct TokenTlsKey {
    token: Token,
    key: KeyId,
    scheme: SignatureScheme,
    algorithm: SignatureAlgorithm,
}

impl TokenTlsKey {
    fn new(token: Token, key: KeyId, algorithm: KeyAlgorithm) -> Option<Self> {
        // TLS 1.3 has no PKCS#1 v1.5 signatures (RFC 8446 4.2.3), so RSA keys do not serve here.
        let scheme = match algorithm {
            KeyAlgorithm::EcP256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            KeyAlgorithm::EcP384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            KeyAlgorithm::Ed25519 => SignatureScheme::ED25519,
            KeyAlgorithm::EcP521 | KeyAlgorithm::Rsa(_) => return None,
        };
        Some(Self { token, key, scheme, algorithm: algorithm.signature_algorithm() })
    }
}

impl SigningKey for TokenTlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.scheme).then(|| {
            Box::new(TokenTlsKey {
                token: self.token.clone(),
                key: self.key,
                scheme: self.scheme,
                algorithm: self.algorithm,
            }) as Box<dyn Signer>
        })
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        match self.scheme {
            SignatureScheme::ED25519 => rustls::SignatureAlgorithm::ED25519,
            _ => rustls::SignatureAlgorithm::ECDSA,
        }
    }
}

impl Signer for TokenTlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TlsError> {
        let request = SignRequest { key: self.key, algorithm: self.algorithm, message: message.to_vec() };
        // The handshake waits for the token, so let the runtime's other tasks move to another thread.
        tokio::task::block_in_place(|| self.token.sign(request))
            .map_err(|e| TlsError::General(format!("the token did not sign the handshake: {e}")))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

/// Proves possession of the client's key and leaves the rest to the journal: only a certificate that is byte for byte
/// one of ours, valid, unrevoked, with an enabled holder gets a role (see `identity`). Judging it there and not in the
/// handshake gives the caller a sentence in place of a closed connection.
#[derive(Debug)]
struct PossessionVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    hints: Vec<DistinguishedName>,
}

impl ClientCertVerifier for PossessionVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        // A certificate of ours is at most 8 KiB (see `issue`).
        if end_entity.len() > 8 * 1024 {
            return Err(TlsError::InvalidCertificate(rustls::CertificateError::BadEncoding));
        }
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What the listener needs to know.
pub struct ServerTls {
    /// The server's certificate and those above it, DER, without the root.
    pub chain: Vec<Vec<u8>>,
    /// Its key in the token.
    pub key: KeyId,
    /// That key's algorithm.
    pub algorithm: KeyAlgorithm,
    /// Names of the CAs whose client certificates are wanted, DER.
    pub client_issuers: Vec<Vec<u8>>,
}

/// Builds the TLS configuration. Nothing resumes: a revoked client must not come back by ticket.
///
/// # Errors
/// When the key's algorithm does not serve in TLS 1.3.
pub fn server_config(token: &Token, tls: ServerTls) -> Result<ServerConfig, TlsError> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let key = TokenTlsKey::new(token.clone(), tls.key, tls.algorithm)
        .ok_or_else(|| TlsError::General("the TLS key must be P-256, P-384 or Ed25519".to_owned()))?;
    let chain = tls.chain.into_iter().map(CertificateDer::from).collect();
    let certified = CertifiedKey::new(chain, Arc::new(key));
    let verifier = PossessionVerifier {
        algorithms: provider.signature_verification_algorithms,
        hints: tls.client_issuers.into_iter().map(DistinguishedName::from).collect(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Accepts connections; handshakes run beside each other, so a slow one holds up nobody.
pub fn incoming(
    listener: TcpListener,
    config: Arc<ArcSwap<ServerConfig>>,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (ready, connections) = mpsc::channel(64);
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(limits::HANDSHAKES));
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let stream = tokio::select! {
                () = ready.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors, most likely: give the others time to end.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let _ = stream.set_nodelay(true);
            let acceptor = TlsAcceptor::from(config.load_full());
            let ready = ready.clone();
            tokio::spawn(async move {
                let outcome = tokio::time::timeout(limits::HANDSHAKE, acceptor.accept(stream)).await;
                drop(slot);
                match outcome {
                    Ok(Ok(stream)) => {
                        let _ = ready.send(Ok(stream)).await;
                    }
                    Ok(Err(error)) => {
                        metrics::counter!("sealwright_tls_failures_total").increment(1);
                        tracing::info!(%error, "TLS handshake failed");
                    }
                    Err(_) => {
                        metrics::counter!("sealwright_tls_failures_total").increment(1);
                        tracing::info!("TLS handshake timed out");
                    }
                }
            });
        }
    });
    ReceiverStream::new(connections)
}
