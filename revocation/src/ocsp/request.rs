//! Reading requests (RFC 6960 4.1).

use super::{CertId, Failure, ID_PKIX_OCSP_NONCE, ID_PKIX_OCSP_RESPONSE, certid::RawCertId};
use der::{AnyRef, Decode, Sequence, asn1::OctetStringRef};
use x509_cert::ext::Extensions;

/// The longest request that is read, in octets.
pub const MAX_REQUEST_LEN: usize = 8 * 1024;
/// The most CertIDs in one request.
pub const MAX_CERT_IDS: usize = 32;

/// A nonce of 1 to 128 octets (RFC 9654 2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(Vec<u8>);

impl Nonce {
    /// RFC 9654 2.1: a server refuses more.
    pub const MAX_LEN: usize = 128;

    /// `None` when it is empty or longer than [`Self::MAX_LEN`].
    pub fn new(octets: &[u8]) -> Option<Self> {
        (1..=Self::MAX_LEN).contains(&octets.len()).then(|| Self(octets.to_vec()))
    }

    /// The octets, without the OCTET STRING around them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Why a request was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Over [`MAX_REQUEST_LEN`].
    #[error("the request is longer than 8 KiB")]
    TooLarge,
    /// A path that is not base64.
    #[error("the path is not a base64 request")]
    Encoding,
    /// Not a DER OCSPRequest of version 1.
    #[error("not a DER OCSPRequest")]
    Malformed,
    /// No CertID, or over [`MAX_CERT_IDS`].
    #[error("a request must have 1 to 32 CertIDs")]
    CertIds,
    /// A nonce of 0 or over 128 octets, two nonces, or one that is not an OCTET STRING (RFC 9654 2.1).
    #[error("the nonce must be one OCTET STRING of 1 to 128 octets")]
    Nonce,
    /// An extension that must be understood and is not.
    #[error("a critical extension is not understood")]
    CriticalExtension,
}

impl RequestError {
    /// The answer for it (RFC 6960 4.2.1).
    pub fn failure(self) -> Failure {
        Failure::MalformedRequest
    }
}

/// A request. Who signed it, if anyone, plays no part: status is public.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    cert_ids: Vec<CertId>,
    nonce: Option<Nonce>,
}

#[derive(Sequence)]
struct RawRequest<'a> {
    cert_id: RawCertId<'a>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Extensions>,
}

#[derive(Sequence)]
struct RawTbsRequest<'a> {
    // DER leaves the default version 1 (the integer 0) out; a request that writes it is read all the same.
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    version: Option<u8>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    requestor_name: Option<AnyRef<'a>>,
    request_list: AnyRef<'a>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Extensions>,
}

#[derive(Sequence)]
struct RawOcspRequest<'a> {
    tbs: RawTbsRequest<'a>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    signature: Option<AnyRef<'a>>,
}

impl Request {
    /// Parses the body of a POST, or what [`super::decode_path`] made of a path.
    ///
    /// # Errors
    /// [`RequestError`]; the answer for it is [`RequestError::failure`].
    pub fn parse(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > MAX_REQUEST_LEN {
            return Err(RequestError::TooLarge);
        }
        let tbs = RawOcspRequest::from_der(der).map_err(|_| RequestError::Malformed)?.tbs;
        if tbs.version.is_some_and(|version| version != 0) {
            return Err(RequestError::Malformed);
        }
        let cert_ids = cert_ids(tbs.request_list)?;
        let mut nonce = None;
        for extension in tbs.extensions.iter().flatten() {
            match extension.extn_id {
                ID_PKIX_OCSP_NONCE => {
                    let octets = <&OctetStringRef>::from_der(extension.extn_value.as_bytes())
                        .map_err(|_| RequestError::Nonce)?;
                    let value = Nonce::new(octets.as_bytes()).ok_or(RequestError::Nonce)?;
                    if nonce.replace(value).is_some() {
                        return Err(RequestError::Nonce);
                    }
                }
                ID_PKIX_OCSP_RESPONSE => {}
                _ if extension.critical => return Err(RequestError::CriticalExtension),
                _ => {}
            }
        }
        Ok(Self { cert_ids, nonce })
    }

    /// What is asked for: 1 to [`MAX_CERT_IDS`], in the order of the request.
    pub fn cert_ids(&self) -> &[CertId] {
        &self.cert_ids
    }

    /// The nonce that the answer must repeat.
    pub fn nonce(&self) -> Option<&Nonce> {
        self.nonce.as_ref()
    }
}

/// Reads one CertID after the other, and stops at the limit before reading what is over it.
fn cert_ids(list: AnyRef<'_>) -> Result<Vec<CertId>, RequestError> {
    if der::Tagged::tag(&list) != der::Tag::Sequence {
        return Err(RequestError::Malformed);
    }
    let mut ids = Vec::new();
    let mut rest = list.value();
    while !rest.is_empty() {
        if ids.len() == MAX_CERT_IDS {
            return Err(RequestError::CertIds);
        }
        let (request, after) = RawRequest::from_der_partial(rest).map_err(|_| RequestError::Malformed)?;
        rest = after;
        if request.extensions.iter().flatten().any(|extension| extension.critical) {
            return Err(RequestError::CriticalExtension);
        }
        ids.push(request.cert_id.to_cert_id().map_err(|_| RequestError::Malformed)?);
    }
    if ids.is_empty() {
        return Err(RequestError::CertIds);
    }
    Ok(ids)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::{
        ocsp::{HashAlgorithm, IssuerHashes},
        tlv,
    };
    use ca_core::serial::SerialNumber;
    use proptest::prelude::*;

    fn id(n: u8) -> Vec<u8> {
        let issuer = IssuerHashes::new(b"name", b"key");
        let serial = SerialNumber::from_be_bytes(&[n.max(1)]).unwrap();
        CertId::new(HashAlgorithm::Sha256, &issuer, &serial).unwrap().der().to_vec()
    }

    fn extension(oid: const_oid::ObjectIdentifier, critical: bool, value: &[u8]) -> Vec<u8> {
        let mut der = tlv::wrap(tlv::OID, oid.as_bytes());
        if critical {
            der.extend([1, 1, 0xff]);
        }
        tlv::push(&mut der, tlv::OCTET_STRING, value);
        tlv::wrap(tlv::SEQUENCE, &der)
    }

    fn request(ids: usize, extensions: &[u8], after: &[u8]) -> Vec<u8> {
        let list: Vec<u8> = (0..ids).flat_map(|n| tlv::wrap(tlv::SEQUENCE, &id(n as u8))).collect();
        let mut tbs = tlv::wrap(tlv::SEQUENCE, &list);
        if !extensions.is_empty() {
            tbs.extend(tlv::wrap(tlv::context(2), &tlv::wrap(tlv::SEQUENCE, extensions)));
        }
        let mut whole = tlv::wrap(tlv::SEQUENCE, &tbs);
        whole.extend_from_slice(after);
        tlv::wrap(tlv::SEQUENCE, &whole)
    }

    fn with_nonce(len: usize) -> Result<Request, RequestError> {
        let value = tlv::wrap(tlv::OCTET_STRING, &vec![9; len]);
        Request::parse(&request(1, &extension(ID_PKIX_OCSP_NONCE, false, &value), &[]))
    }

    #[test]
    fn nonce_lengths_are_those_of_rfc_9654() {
        for len in [0, 129, 1000] {
            assert_eq!(with_nonce(len), Err(RequestError::Nonce), "{len}");
        }
        for len in [1, 15, 16, 32, 33, 128] {
            assert_eq!(with_nonce(len).unwrap().nonce().unwrap().as_bytes(), vec![9; len]);
        }
        assert_eq!(Request::parse(&request(1, &[], &[])).unwrap().nonce(), None);
        let bare = extension(ID_PKIX_OCSP_NONCE, false, &[9; 16]);
        assert_eq!(Request::parse(&request(1, &bare, &[])), Err(RequestError::Nonce));
        let one = extension(ID_PKIX_OCSP_NONCE, false, &tlv::wrap(tlv::OCTET_STRING, &[9; 16]));
        assert_eq!(Request::parse(&request(1, &[one.clone(), one].concat(), &[])), Err(RequestError::Nonce));
    }

    #[test]
    fn unknown_critical_extensions_are_refused_and_others_ignored() {
        let oid = const_oid::ObjectIdentifier::new_unwrap("1.2.3.4");
        let critical = request(1, &extension(oid, true, &[5, 0]), &[]);
        assert_eq!(Request::parse(&critical), Err(RequestError::CriticalExtension));
        assert!(Request::parse(&request(1, &extension(oid, false, &[5, 0]), &[])).is_ok());
    }

    #[test]
    fn the_number_of_cert_ids_is_limited() {
        assert_eq!(Request::parse(&request(0, &[], &[])), Err(RequestError::CertIds));
        assert_eq!(Request::parse(&request(MAX_CERT_IDS, &[], &[])).unwrap().cert_ids().len(), MAX_CERT_IDS);
        assert_eq!(Request::parse(&request(MAX_CERT_IDS + 1, &[], &[])), Err(RequestError::CertIds));
        assert_eq!(Request::parse(&request(10_000, &[], &[])), Err(RequestError::TooLarge));
    }

    #[test]
    fn a_signature_is_passed_over() {
        let signature = tlv::wrap(tlv::context(0), &tlv::wrap(tlv::SEQUENCE, b"\x02\x01\x00"));
        assert!(Request::parse(&request(1, &[], &signature)).is_ok());
        assert_eq!(Request::parse(&request(1, &[], b"\x05\x00")), Err(RequestError::Malformed));
    }

    proptest! {
        #[test]
        fn changed_bits_never_panic(at in 0usize..400, bit in 0u8..8, ids in 1usize..4) {
            let value = tlv::wrap(tlv::OCTET_STRING, &[9; 16]);
            let mut der = request(ids, &extension(ID_PKIX_OCSP_NONCE, false, &value), &[]);
            let at = at % der.len();
            der[at] ^= 1 << bit;
            if let Ok(read) = Request::parse(&der) {
                prop_assert!(!read.cert_ids().is_empty());
            }
        }

        #[test]
        fn any_octets_are_answered(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(&der);
        }
    }
}
