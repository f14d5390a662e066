//! Who is calling: a peer is a tenant and a role, read from its TLS certificate and from the journal at each call.

use crate::{access, access::Role, ca::Ca, error::Failure};
use ca_core::{
    certificate::Certificate,
    id::{DeviceId, PrincipalId, TenantId},
};
use const_oid::db::rfc5280::ID_KP_CLIENT_AUTH;
use std::{
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};
use store::{CertificateEntry, CertificateState, Confirm, ConfirmCause, Holder};
use tonic::{
    Code,
    body::Body,
    codegen::http::{Request, Response},
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{Layer, Service};

/// A caller whose certificate was found in the journal, or who showed none.
#[derive(Clone, Debug)]
pub enum Peer {
    /// No client certificate.
    Anonymous,
    /// A principal.
    Principal {
        /// Its tenant.
        tenant: TenantId,
        /// Its name.
        id: PrincipalId,
        /// Its role.
        role: Role,
        /// The certificate of this connection.
        certificate: Arc<CertificateEntry>,
    },
    /// A device.
    Device {
        /// Its tenant.
        tenant: TenantId,
        /// Its name.
        id: DeviceId,
        /// The certificate of this connection.
        certificate: Arc<CertificateEntry>,
    },
}

/// What the gate leaves for the handler, which judges the caller again once the whole request is there: a request that
/// was begun before its caller was revoked must not be carried out after.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The method.
    pub path: &'static str,
    /// The client certificate, DER.
    pub certificate: Option<Vec<u8>>,
    /// Where the call comes from, as far as the transport knows.
    pub address: Option<IpAddr>,
}

impl Peer {
    /// Its role.
    pub fn role(&self) -> Role {
        match self {
            Self::Anonymous => Role::Anonymous,
            Self::Principal { role, .. } => *role,
            Self::Device { .. } => Role::Device,
        }
    }

    /// Its tenant, where it has one.
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Anonymous => None,
            Self::Principal { tenant, .. } | Self::Device { tenant, .. } => Some(tenant),
        }
    }

    /// The certificate of its connection.
    pub fn certificate(&self) -> Option<&Arc<CertificateEntry>> {
        match self {
            Self::Anonymous => None,
            Self::Principal { certificate, .. } | Self::Device { certificate, .. } => Some(certificate),
        }
    }

    /// As the journal names it.
    pub fn requester(&self) -> String {
        match self {
            Self::Anonymous => "anonymous".to_owned(),
            Self::Principal { id, .. } => format!("principal:{id}"),
            Self::Device { id, .. } => format!("device:{id}"),
        }
    }
}

fn unauthenticated(reason: &'static str, message: &str) -> Failure {
    Failure::new(Code::Unauthenticated, reason, message)
}

/// Finds the peer that holds this certificate. A certificate is believed because it is byte for byte one that we
/// recorded, not because it chains to us; the handshake has proven the key.
///
/// # Errors
/// UNAUTHENTICATED with a reason for each way in which the certificate is not good.
pub fn identify(ca: &Ca, der: &[u8]) -> Result<Peer, Failure> {
    let unknown = || unauthenticated("CLIENT_CERTIFICATE_UNKNOWN", "the client certificate is not one of ours");
    let certificate = Certificate::from_der(der).map_err(|_| unknown())?;
    let issuer = ca
        .issuers
        .load()
        .iter()
        .find(|i| i.issuer.name_der() == certificate.issuer_der())
        .cloned()
        .ok_or_else(unknown)?;
    let entry = ca
        .store
        .certificate(issuer.issuer.id(), certificate.serial())
        .map_err(Failure::from)?
        .filter(|e| e.tbs == certificate.tbs() && e.signature.as_deref() == Some(certificate.signature()))
        .ok_or_else(unknown)?;
    if entry.state() == CertificateState::Revoked {
        return Err(unauthenticated("CLIENT_CERTIFICATE_REVOKED", "the client certificate has been revoked"));
    }
    let now = ca.now();
    if now > certificate.not_after() {
        return Err(unauthenticated("CLIENT_CERTIFICATE_EXPIRED", "the client certificate has expired; enroll again"));
    }
    if now < certificate.not_before() {
        return Err(unauthenticated("CLIENT_CERTIFICATE_NOT_YET_VALID", "the client certificate is not valid yet"));
    }
    let usages = certificate.extended_key_usage();
    if certificate.is_ca() || !(usages.is_empty() || usages.contains(&ID_KP_CLIENT_AUTH)) {
        return Err(unauthenticated(
            "CLIENT_CERTIFICATE_USAGE",
            "the client certificate is not for client authentication",
        ));
    }
    let tenant = entry.tenant.clone();
    match entry.holder.clone() {
        Holder::Device { id, .. } => Ok(Peer::Device { tenant, id, certificate: Arc::new(entry) }),
        Holder::Principal { id, .. } => {
            let principal = ca.store.principal(&tenant, &id).map_err(Failure::from)?.ok_or_else(unknown)?;
            if principal.disabled_at.is_some() {
                return Err(unauthenticated("PRINCIPAL_DISABLED", "this principal has been disabled"));
            }
            match Role::from_code(principal.role) {
                Some(role) if role != Role::Device => {
                    Ok(Peer::Principal { tenant, id, role, certificate: Arc::new(entry) })
                }
                _ => Err(unknown()),
            }
        }
    }
}

/// The gate before every gRPC method: finds the peer, asks the table, and records the first use of a successor.
#[derive(Clone)]
pub struct Gate {
    ca: Arc<Ca>,
}

impl Gate {
    /// A gate before the services of `ca`.
    pub fn new(ca: Arc<Ca>) -> Self {
        Self { ca }
    }
}

impl<S> Layer<S> for Gate {
    type Service = Guarded<S>;
    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { ca: self.ca.clone(), inner }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub struct Guarded<S> {
    ca: Arc<Ca>,
    inner: S,
}

/// Who the caller is now, and whether it may call this method.
///
/// # Errors
/// UNAUTHENTICATED or PERMISSION_DENIED with a reason.
pub fn judge(ca: &Ca, admitted: &Admitted) -> Result<Peer, Failure> {
    let peer = match &admitted.certificate {
        None => Peer::Anonymous,
        Some(der) => identify(ca, der)?,
    };
    if !access::allows(admitted.path, peer.role()) {
        return Err(match peer.role() {
            Role::Anonymous => unauthenticated("CLIENT_CERTIFICATE_REQUIRED", "this method needs a client certificate"),
            role => Failure::denied("ROLE_NOT_ALLOWED", format!("the role {role} may not call this method")),
        });
    }
    Ok(peer)
}

/// A successor that is used for the first time takes over: its predecessor is superseded in the same record.
async fn record_first_use(ca: &Ca, peer: &Peer) -> Result<(), Failure> {
    let Some(entry) = peer.certificate() else { return Ok(()) };
    if entry.installed_at.is_some() || entry.replaces.is_none() {
        return Ok(());
    }
    ca.commit(Confirm {
        tenant: entry.tenant.clone(),
        issuer: entry.issuer.clone(),
        serial: entry.serial.clone(),
        by: peer.requester(),
        idempotency_key: None,
        request_sha256: [0; 32],
        cause: ConfirmCause::FirstUse,
    })
    .await?;
    Ok(())
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let ca = self.ca.clone();
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(async move {
            let Some(path) = access::method(request.uri().path()) else {
                let failure = Failure::new(Code::Unimplemented, "UNKNOWN_METHOD", "there is no such method");
                return Ok(failure.into_status("unknown").into_http());
            };
            let certificate = request
                .extensions()
                .get::<TlsConnectInfo<TcpConnectInfo>>()
                .and_then(TlsConnectInfo::peer_certs)
                .and_then(|certs| certs.first().map(|c| c.to_vec()));
            let address = request
                .extensions()
                .get::<TlsConnectInfo<TcpConnectInfo>>()
                .and_then(|info| info.get_ref().remote_addr())
                .map(|address| address.ip());
            let begun = std::time::Instant::now();
            let admitted = Admitted { path, certificate, address };
            let verdict = match judge(&ca, &admitted) {
                Ok(peer) => record_first_use(&ca, &peer).await,
                Err(failure) => Err(failure),
            };
            match verdict {
                Ok(()) => {
                    request.extensions_mut().insert(admitted);
                    let response = inner.call(request).await;
                    metrics::histogram!("sealwright_rpc_seconds", "rpc" => path).record(begun.elapsed().as_secs_f64());
                    response
                }
                Err(failure) => Ok(failure.into_status(access::name(path)).into_http()),
            }
        })
    }
}
