//! Parsing what requests have in common; every error names its field.

use crate::{
    ca::Ca,
    error::Failure,
    identity::{Admitted, Peer, judge},
    limits,
};
use ca_core::{
    id::{IdError, IdempotencyKey, IssuerId, TenantId},
    serial::SerialNumber,
    time::UnixTime,
};
use proto::v1;
use sha2::{Digest, Sha256};
use store::CertificateEntry;
use tonic::{Code, Request};

/// The caller, judged now that the whole request is there.
///
/// # Errors
/// UNAUTHENTICATED or PERMISSION_DENIED; INTERNAL when the gate was not passed, which would be a fault in the wiring.
pub fn peer<T>(ca: &Ca, request: &Request<T>) -> Result<Peer, Failure> {
    let admitted = request.extensions().get::<Admitted>();
    judge(ca, admitted.ok_or_else(|| Failure::internal("a request that passed no gate"))?)
}

/// The peer's tenant, for methods that no anonymous peer reaches.
///
/// # Errors
/// UNAUTHENTICATED without a client certificate.
pub fn own_tenant(peer: &Peer) -> Result<TenantId, Failure> {
    peer.tenant().cloned().ok_or_else(|| {
        Failure::new(Code::Unauthenticated, "CLIENT_CERTIFICATE_REQUIRED", "this method needs a client certificate")
    })
}

/// The tenant that a request is about: the peer's own, or the one that an anonymous caller names.
///
/// # Errors
/// NOT_FOUND for a tenant that is not there or not the peer's: the answer is the same.
pub fn tenant(ca: &Ca, peer: &Peer, named: &str) -> Result<TenantId, Failure> {
    let named = match named {
        "" => None,
        name => Some(id::<TenantId>("tenant", name)?),
    };
    let tenant = match (peer.tenant(), named) {
        (Some(own), None) => own.clone(),
        (Some(own), Some(named)) if *own == named => named,
        (Some(_), Some(_)) => return Err(no_tenant()),
        (None, named) => named.unwrap_or_else(TenantId::default_tenant),
    };
    if ca.has_tenant(&tenant) { Ok(tenant) } else { Err(no_tenant()) }
}

fn no_tenant() -> Failure {
    Failure::new(Code::NotFound, "NOT_FOUND", "there is no such tenant for this caller").at("tenant")
}

/// An identifier.
///
/// # Errors
/// INVALID_ARGUMENT naming `field`.
pub fn id<T: std::str::FromStr<Err = IdError>>(field: &'static str, value: &str) -> Result<T, Failure> {
    value.parse().map_err(|e| Failure::field(field, "INVALID_FIELD", format!("{field} {e}")))
}

/// An identifier that may be absent.
///
/// # Errors
/// INVALID_ARGUMENT naming `field`.
pub fn optional_id<T: std::str::FromStr<Err = IdError>>(
    field: &'static str,
    value: &str,
) -> Result<Option<T>, Failure> {
    if value.is_empty() { Ok(None) } else { id(field, value).map(Some) }
}

/// The idempotency key.
///
/// # Errors
/// INVALID_ARGUMENT naming the field.
pub fn idempotency_key(value: &str) -> Result<IdempotencyKey, Failure> {
    id("idempotency_key", value)
}

/// An issuer and a serial number.
///
/// # Errors
/// INVALID_ARGUMENT naming the field.
pub fn reference(reference: Option<&v1::CertificateRef>) -> Result<(IssuerId, SerialNumber), Failure> {
    let reference = reference
        .ok_or_else(|| Failure::field("ref", "MISSING_FIELD", "name a certificate: issuer_id, serial_number"))?;
    let issuer = id("ref.issuer_id", &reference.issuer_id)?;
    let serial = reference.serial_number.parse().map_err(|e: ca_core::serial::SerialError| {
        Failure::field("ref.serial_number", "INVALID_FIELD", e.to_string())
    })?;
    Ok((issuer, serial))
}

/// One issued certificate of the tenant.
///
/// # Errors
/// NOT_FOUND, also for another tenant's and for an intent without a certificate.
pub fn certificate(
    ca: &Ca,
    tenant: &TenantId,
    reference: Option<&v1::CertificateRef>,
) -> Result<CertificateEntry, Failure> {
    let (issuer, serial) = self::reference(reference)?;
    ca.store
        .certificate(&issuer, &serial)?
        .filter(|e| e.tenant == *tenant && e.signature.is_some())
        .ok_or_else(|| Failure::not_found("certificate"))
}

/// A page size.
///
/// # Errors
/// INVALID_ARGUMENT naming the field.
pub fn page_size(size: i32) -> Result<usize, Failure> {
    match usize::try_from(size) {
        Ok(0) => Ok(limits::PAGE),
        Ok(n) if n <= limits::PAGE_MAX => Ok(n),
        _ => Err(Failure::field(
            "page_size",
            "INVALID_FIELD",
            format!("page_size must lie between 0 and {}", limits::PAGE_MAX),
        )),
    }
}

/// A page token: the place in the journal where the next page begins, bound to the filter it was made for.
pub mod page_token {
    use super::{Digest, Failure, Sha256};
    use prost::Message;

    fn filter_tag(filter: &impl Message) -> String {
        hex::encode(Sha256::digest(filter.encode_to_vec()).get(..8).unwrap_or_default())
    }

    /// Makes the token for the next page; `filter` is the request without page token and size.
    pub fn encode(filter: &impl Message, next: Option<u64>) -> String {
        next.map(|n| format!("{n:x}.{}", filter_tag(filter))).unwrap_or_default()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// INVALID_ARGUMENT naming the field when it is malformed or of another filter.
    pub fn decode(filter: &impl Message, token: &str) -> Result<Option<u64>, Failure> {
        if token.is_empty() {
            return Ok(None);
        }
        let bad = || {
            Failure::field(
                "page_token",
                "INVALID_FIELD",
                "this page token belongs to another listing; begin again without one",
            )
        };
        let (next, tag) = token.split_once('.').ok_or_else(bad)?;
        if tag != filter_tag(filter) {
            return Err(bad());
        }
        u64::from_str_radix(next, 16).map(Some).map_err(|_| bad())
    }
}

/// SHA-256 of a request in its canonical encoding, its idempotency key and what may differ on a retry taken out first.
pub fn digest(method: &str, normalised: &impl prost::Message) -> [u8; 32] {
    Sha256::new().chain_update(method).chain_update([0]).chain_update(normalised.encode_to_vec()).finalize().into()
}

/// A point in time from the wire.
///
/// # Errors
/// INVALID_ARGUMENT naming `field`.
pub fn time(field: &'static str, value: &prost_types::Timestamp) -> Result<UnixTime, Failure> {
    u64::try_from(value.seconds)
        .map(UnixTime::from_secs)
        .map_err(|_| Failure::field(field, "INVALID_FIELD", format!("{field} lies before 1970")))
}

/// Text of a limited length without control characters.
///
/// # Errors
/// INVALID_ARGUMENT naming `field`.
pub fn text(field: &'static str, value: &str, max: usize) -> Result<String, Failure> {
    if value.chars().count() > max {
        return Err(Failure::field(field, "TOO_LARGE", format!("{field} may have at most {max} characters")));
    }
    if value.chars().any(char::is_control) {
        return Err(Failure::field(field, "INVALID_FIELD", format!("{field} must not contain control characters")));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_belongs_to_its_filter() {
        let filter = v1::ListCertificatesRequest { device_id: "a".into(), ..Default::default() };
        let other = v1::ListCertificatesRequest { device_id: "b".into(), ..Default::default() };
        let token = page_token::encode(&filter, Some(4711));
        assert_eq!(page_token::decode(&filter, &token).unwrap(), Some(4711));
        assert_eq!(page_token::decode(&other, &token).unwrap_err().reason(), "INVALID_FIELD");
        assert_eq!(page_token::decode(&filter, "").unwrap(), None);
        assert!(page_token::decode(&filter, "zz").is_err());
        assert_eq!(page_token::encode(&filter, None), "");
    }

    #[test]
    fn limits_of_page_sizes() {
        assert_eq!(page_size(0).unwrap(), limits::PAGE);
        assert_eq!(page_size(500).unwrap(), 500);
        assert!(page_size(501).is_err());
        assert!(page_size(-1).is_err());
    }

    #[test]
    fn control_characters_and_length_are_refused() {
        assert!(text("comment", "a\u{1b}[31m", 256).is_err());
        assert!(text("comment", &"ä".repeat(257), 256).is_err());
        assert!(text("comment", &"ä".repeat(256), 256).is_ok());
    }
}
