//! TLS 1.3 for the gRPC listener: the server's key stays in the token, and client certificates are judged by the
//! journal, call by call.

use crate::{
    ca::Ca,
    identity, limits,
    listen::{self, Counted, Door},
};
use arc_swap::ArcSwap;
use ca_core::key::{KeyAlgorithm, PublicKey, SignatureAlgorithm};
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
use std::{io, net::IpAddr, sync::Arc};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;

/// The server's TLS key: it signs in the token, once a handshake.
#[derive(Debug)]
struct TokenTlsKey {
    token: Token,
    key: KeyId,
    public_key: PublicKey,
    scheme: SignatureScheme,
    algorithm: SignatureAlgorithm,
}

impl TokenTlsKey {
    fn new(token: Token, key: KeyId, public_key: PublicKey) -> Option<Self> {
        let algorithm = public_key.algorithm();
        // TLS 1.3 has no PKCS#1 v1.5 signatures (RFC 8446 4.2.3), so RSA keys do not serve here.
        let scheme = match algorithm {
            KeyAlgorithm::EcP256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            KeyAlgorithm::EcP384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            KeyAlgorithm::Ed25519 => SignatureScheme::ED25519,
            KeyAlgorithm::EcP521
            | KeyAlgorithm::Rsa(_)
            | KeyAlgorithm::MlDsa44
            | KeyAlgorithm::MlDsa65
            | KeyAlgorithm::MlDsa87 => return None,
        };
        Some(Self { token, key, public_key, scheme, algorithm: algorithm.signature_algorithm() })
    }
}

impl SigningKey for TokenTlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.scheme).then(|| {
            Box::new(TokenTlsKey {
                token: self.token.clone(),
                key: self.key,
                public_key: self.public_key.clone(),
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
        let request = SignRequest {
            key: self.key,
            public_key: self.public_key.clone(),
            algorithm: self.algorithm,
            message: message.to_vec(),
        };
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
        if end_entity.len() > limits::CLIENT_CERTIFICATE {
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
    /// That key's public half.
    pub public_key: PublicKey,
    /// Names of the CAs whose client certificates are wanted, DER.
    pub client_issuers: Vec<Vec<u8>>,
}

/// Builds the TLS configuration. Nothing resumes: a revoked client must not come back by ticket.
///
/// # Errors
/// When the key's algorithm does not serve in TLS 1.3.
pub fn server_config(token: &Token, tls: ServerTls) -> Result<ServerConfig, TlsError> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let key = TokenTlsKey::new(token.clone(), tls.key, tls.public_key)
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

/// The doors of the gRPC listener.
pub struct Doors {
    /// Connections before the end of the handshake.
    pub arrivals: Door,
    /// Connections with a certificate of ours.
    pub members: Door,
    /// Other connections.
    pub strangers: Door,
}

/// Accepts connections. Who is silent waits outside; handshakes run beside each other, so a slow one holds up nobody;
/// and strangers have places of their own, so that they cannot take those of the stations.
pub fn incoming(
    ca: Arc<Ca>,
    listener: TcpListener,
    doors: Doors,
    config: Arc<ArcSwap<ServerConfig>>,
) -> ReceiverStream<io::Result<TlsStream<Counted>>> {
    let (ready, connections) = mpsc::channel(64);
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(limits::HANDSHAKES));
        let doors = Arc::new(doors);
        loop {
            let (stream, address) = tokio::select! {
                () = ready.closed() => return,
                accepted = listen::accept(&listener, &doors.arrivals) => accepted,
            };
            let (acceptor, slots) = (TlsAcceptor::from(config.load_full()), slots.clone());
            let (ca, doors, ready) = (ca.clone(), doors.clone(), ready.clone());
            tokio::spawn(async move {
                let outcome = tokio::select! {
                    () = ready.closed() => return,
                    outcome = handshake(stream, &acceptor, &slots) => outcome,
                };
                match outcome {
                    Ok(mut stream) => {
                        if settle(&ca, &doors, &mut stream, address) {
                            let _ = ready.send(Ok(stream)).await;
                        }
                    }
                    Err(error) => {
                        metrics::counter!("sealwright_tls_failures_total").increment(1);
                        tracing::info!(%address, %error, "no TLS handshake");
                    }
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

async fn handshake(stream: Counted, acceptor: &TlsAcceptor, slots: &Semaphore) -> io::Result<TlsStream<Counted>> {
    stream.spoken().await?;
    let shake = async {
        let _slot = slots.acquire().await.map_err(io::Error::other)?;
        acceptor.accept(stream).await
    };
    tokio::time::timeout(limits::HANDSHAKE, shake).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Gives the connection its lasting place; false when there is none left.
fn settle(ca: &Ca, doors: &Doors, stream: &mut TlsStream<Counted>, address: IpAddr) -> bool {
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    // Only for its place: what it may do is judged at each call.
    let member = leaf.is_some_and(|leaf| identity::identify(ca, leaf).is_ok());
    let door = if member { &doors.members } else { &doors.strangers };
    let Some(place) = door.admit(address) else { return false };
    let (stream, _) = stream.get_mut();
    stream.move_to(place);
    if !member {
        stream.end_after(limits::STRANGER_AGE);
    }
    true
}
