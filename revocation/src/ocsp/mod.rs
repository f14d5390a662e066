//! The online certificate status protocol (RFC 6960) with nonces as RFC 9654 has them.
//!
//! A responder reads a [`Request`], asks its own books about each [`CertId`], and answers with a signed response or
//! with one of the unsigned [`Failure`]s.

mod certid;
mod path;
mod request;
mod response;

pub use certid::{CertId, HashAlgorithm, IssuerHashes, cert_id_matches};
pub use path::{decode_path, encode_path};
pub use request::{MAX_CERT_IDS, MAX_REQUEST_LEN, Nonce, Request, RequestError};
pub use response::{CertStatus, Failure, ResponderInfo, ResponseError, SingleStatus, TbsResponse, finish, prepare};

use const_oid::ObjectIdentifier;

/// id-pkix-ocsp-basic (RFC 6960 4.2.1).
pub(crate) const ID_PKIX_OCSP_BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
/// id-pkix-ocsp-nonce (RFC 6960 4.4.1).
pub(crate) const ID_PKIX_OCSP_NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.2");
/// id-pkix-ocsp-response (RFC 6960 4.4.3): the response types that the client understands; basic is always among them.
pub(crate) const ID_PKIX_OCSP_RESPONSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.4");
