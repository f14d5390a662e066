//! The plain HTTP listener: CRLs, OCSP, issuer certificates. It must not be TLS (RFC 5280 8: a loop).

use crate::{ca::Ca, limits, listen::PeerAddress, ocsp, ocsp::OcspService, telemetry::Telemetry};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use ca_core::{id::IssuerId, time::UnixTime};
use revocation::ocsp::decode_path;
use std::sync::Arc;
use time::{OffsetDateTime, macros::format_description};

/// What the handlers share.
#[derive(Clone)]
pub struct StatusHttp {
    /// The authority.
    pub ca: Arc<Ca>,
    /// The OCSP responder.
    pub ocsp: Arc<OcspService>,
    /// Metrics and readiness, when they have no listener of their own: for loopback peers alone.
    pub telemetry: Option<Telemetry>,
}

/// The listener's routes. Paths are taken as they are: a double slash inside belongs to the OCSP request.
pub fn router(state: StatusHttp) -> Router {
    Router::new().fallback(dispatch).with_state(state)
}

async fn dispatch(State(state): State<StatusHttp>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    if let Some(rest) = path.strip_prefix("/ocsp").filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        return ocsp(&state, rest, request).await;
    }
    if !read {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if let Some(name) = path.strip_prefix("/crl/").and_then(|n| n.strip_suffix(".crl")) {
        return crl(&state, name, request.headers());
    }
    if let Some(name) = path.strip_prefix("/issuer/").and_then(|n| n.strip_suffix(".cer")) {
        return issuer(&state, name, request.headers());
    }
    match &state.telemetry {
        Some(telemetry) if is_of_this_machine(&request) => telemetry.answer(&path).await,
        _ => not_found(),
    }
}

/// Metrics and readiness are for the operator. What a proxy on this machine forwards comes from elsewhere.
fn is_of_this_machine(request: &Request) -> bool {
    let address = request.extensions().get::<PeerAddress>().and_then(|peer| peer.0);
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    address.is_some_and(|address| address.to_canonical().is_loopback())
        && !forwarded.iter().any(|name| request.headers().contains_key(*name))
}

pub(crate) fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "there is /crl/ISSUER.crl, /issuer/ISSUER.cer and /ocsp/ISSUER\n").into_response()
}

/// `/ocsp`, `/ocsp/ISSUER` (POST) and `/ocsp/ISSUER/BASE64` (GET). The CertID says whose certificate it is; the issuer
/// in the path only keeps caches and logs apart.
async fn ocsp(state: &StatusHttp, rest: &str, request: Request) -> Response {
    let answer = match *request.method() {
        Method::POST => {
            let typed = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
            if typed.map(|t| t.split(';').next().unwrap_or_default().trim()) != Some("application/ocsp-request") {
                return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type must be application/ocsp-request\n")
                    .into_response();
            }
            match axum::body::to_bytes(request.into_body(), limits::OCSP_BODY).await {
                Ok(body) => state.ocsp.answer(&body).await,
                Err(_) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
            }
        }
        Method::GET | Method::HEAD => {
            let encoded = rest.strip_prefix('/').and_then(|r| r.split_once('/')).map(|(_, encoded)| encoded);
            let Some(encoded) = encoded.filter(|e| !e.is_empty()) else { return not_found() };
            match decode_path(encoded) {
                Ok(der) => state.ocsp.answer(&der).await,
                Err(error) => state.ocsp.refuse(error),
            }
        }
        _ => return StatusCode::METHOD_NOT_ALLOWED.into_response(),
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/ocsp-response"));
    match answer.cacheable {
        Some((this_update, next_update)) => caching(&mut headers, state.ca.now(), this_update, next_update),
        None => {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
    (StatusCode::OK, headers, Body::from(Bytes::from(answer.der.as_ref().clone()))).into_response()
}

fn crl(state: &StatusHttp, name: &str, asked: &HeaderMap) -> Response {
    let crl = name.parse::<IssuerId>().ok().and_then(|id| state.ca.publisher.current(&id));
    let Some(crl) = crl else { return not_found() };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/pkix-crl"));
    caching(&mut headers, state.ca.now(), crl.this_update, crl.next_update);
    tagged(headers, &crl.sha256, asked, || crl.der.clone())
}

fn issuer(state: &StatusHttp, name: &str, asked: &HeaderMap) -> Response {
    let issuer = name.parse::<IssuerId>().ok().and_then(|id| state.ca.issuer_by_id(&id));
    let Some(issuer) = issuer else { return not_found() };
    let certificate = issuer.issuer.certificate();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/pkix-cert"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400"));
    tagged(headers, &hex::encode(certificate.sha256()), asked, || Bytes::copy_from_slice(certificate.der()))
}

/// The body, or 304 when the asker has it (RFC 9110 13.1.2).
pub(crate) fn tagged(
    mut headers: HeaderMap,
    sha256: &str,
    asked: &HeaderMap,
    body: impl FnOnce() -> Bytes,
) -> Response {
    let tag = format!("\"{}\"", sha256.get(..32).unwrap_or(sha256));
    let known = asked.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let fresh = known.is_some_and(|v| v.split(',').any(|t| t.trim() == tag || t.trim() == "*"));
    if let Ok(value) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, value);
    }
    if fresh {
        (StatusCode::NOT_MODIFIED, headers).into_response()
    } else {
        (StatusCode::OK, headers, body()).into_response()
    }
}

/// Caching as RFC 5019 6.2 has it, but never longer than a minute in a proxy: a revocation has to be seen.
pub(crate) fn caching(headers: &mut HeaderMap, now: UnixTime, this_update: UnixTime, next_update: UnixTime) {
    let age = now.until(next_update).min(ocsp::PROXY_AGE).as_secs();
    let control = format!("public, no-transform, must-revalidate, max-age={age}");
    let pairs = [
        (header::CACHE_CONTROL, Some(control)),
        (header::LAST_MODIFIED, http_date(this_update)),
        (header::EXPIRES, http_date(now.plus(std::time::Duration::from_secs(age)))),
    ];
    for (name, value) in pairs {
        if let Some(value) = value.and_then(|v| HeaderValue::from_str(&v).ok()) {
            headers.insert(name, value);
        }
    }
}

/// IMF-fixdate (RFC 9110 5.6.7).
fn http_date(at: UnixTime) -> Option<String> {
    let format =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    OffsetDateTime::from_unix_timestamp(i64::try_from(at.as_secs()).ok()?).ok()?.format(format).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_imf_fixdates() {
        let text = http_date(UnixTime::from_secs(784_111_777));
        assert_eq!(text.as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    }

    #[test]
    fn only_this_machine_sees_telemetry() {
        let asked = |address: &str, forwarded: bool| {
            let mut request = Request::new(Body::empty());
            request.extensions_mut().insert(PeerAddress(address.parse().ok()));
            if forwarded {
                request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
            }
            is_of_this_machine(&request)
        };
        assert!(asked("127.0.0.1", false) && asked("::1", false) && asked("::ffff:127.0.0.1", false));
        assert!(!asked("127.0.0.1", true) && !asked("192.0.2.1", false) && !asked("nobody", false));
    }
}
