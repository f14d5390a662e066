//! What is served while the token is away at start: CRLs from the disk, issuer certificates, and "try later" for OCSP.
//! Relying parties need their status just when the signing side is down.

use crate::{
    http::{caching, not_found, tagged},
    publish::{PublishedCrl, Publisher},
};
use anyhow::Result;
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use ca_core::time::UnixTime;
use revocation::ocsp;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use store::Store;

/// The files by path.
struct Shelf {
    crls: HashMap<String, PublishedCrl>,
    issuers: HashMap<String, Vec<u8>>,
}

/// Routes that need no token.
///
/// # Errors
/// The journal cannot be read. A CRL whose file is not the recorded one is left out.
pub fn router(store: &Store, data_dir: &Path) -> Result<Router> {
    let mut shelf = Shelf { crls: HashMap::new(), issuers: HashMap::new() };
    let publisher = Publisher::new(data_dir);
    for issuer in store.issuers()? {
        match publisher.stored(store, &issuer.id) {
            Ok(crl) => {
                shelf.crls.insert(format!("/crl/{}.crl", issuer.id), crl);
            }
            Err(error) => tracing::warn!(issuer = %issuer.id, %error, "no CRL on the disk to serve meanwhile"),
        }
        shelf.issuers.insert(format!("/issuer/{}.cer", issuer.id), issuer.certificate);
    }
    Ok(Router::new().fallback(answer).with_state(Arc::new(shelf)))
}

async fn answer(State(shelf): State<Arc<Shelf>>, request: Request) -> Response {
    let path = request.uri().path();
    let mut headers = HeaderMap::new();
    if path.starts_with("/ocsp/") || path == "/ocsp" {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/ocsp-response"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return (StatusCode::OK, headers, ocsp::Failure::TryLater.der().to_vec()).into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if let Some(crl) = shelf.crls.get(path) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/pkix-crl"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        caching(&mut headers, UnixTime::from_secs(now), crl.this_update, crl.next_update);
        return tagged(headers, &crl.sha256, request.headers(), || crl.der.clone());
    }
    if let Some(certificate) = shelf.issuers.get(path) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/pkix-cert"));
        let sha256 = hex::encode(Sha256::digest(certificate));
        return tagged(headers, &sha256, request.headers(), || certificate.clone().into());
    }
    match path {
        "/livez" => "ok\n".into_response(),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "not ready: the token is away\n").into_response(),
        _ => not_found(),
    }
}
