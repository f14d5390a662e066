//! Making responses (RFC 6960 4.2).

use super::{CertId, ID_PKIX_OCSP_BASIC, ID_PKIX_OCSP_NONCE, Nonce};
use crate::{
    CrlReason,
    tlv::{self, push, wrap},
};
use ca_core::{
    key::{PublicKey, SignatureAlgorithm},
    time::UnixTime,
};
use der::Encode;
use sha1::{Digest, Sha1};

/// An answer without a signature (RFC 6960 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The request could not be read.
    MalformedRequest,
    /// The responder is at fault.
    InternalError,
    /// The responder cannot answer now.
    TryLater,
    /// The responder cannot speak about this certificate: not its issuer, or no certificate of ours (RFC 5019 2.2.3).
    Unauthorized,
}

impl Failure {
    /// The whole DER OCSPResponse.
    pub const fn der(self) -> &'static [u8] {
        match self {
            Self::MalformedRequest => &[0x30, 3, 0x0a, 1, 1],
            Self::InternalError => &[0x30, 3, 0x0a, 1, 2],
            Self::TryLater => &[0x30, 3, 0x0a, 1, 3],
            Self::Unauthorized => &[0x30, 3, 0x0a, 1, 6],
        }
    }
}

/// What is known about a certificate (RFC 6960 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertStatus {
    /// We issued it and have not revoked it.
    Good,
    /// Revoked.
    Revoked {
        /// When.
        at: UnixTime,
        /// Why; [`CrlReason::Unspecified`] is not written.
        reason: CrlReason,
    },
    /// Nothing is known about it.
    Unknown,
}

/// The answer about one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SingleStatus {
    /// The CertID of the request, or one of our own for an answer made beforehand.
    pub cert_id: CertId,
    /// Its status.
    pub status: CertStatus,
    /// When the status was known to be right.
    pub this_update: UnixTime,
    /// By when there will be something newer; later than `this_update`. `None`: newer information is there at any time.
    pub next_update: Option<UnixTime>,
}

/// Who answers: the responder's key and the certificates that go with its answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponderInfo {
    key_hash: [u8; 20],
    algorithm: SignatureAlgorithm,
    certificates: Vec<Vec<u8>>,
}

impl ResponderInfo {
    /// A responder with `key`, naming itself byKey: SHA-1 of the key bits (RFC 6960 4.2.1 KeyHash).
    ///
    /// `certificates` are DER: the delegated responder's own, or none when the issuer itself answers.
    pub fn new(key: &PublicKey, algorithm: SignatureAlgorithm, certificates: Vec<Vec<u8>>) -> Self {
        Self { key_hash: Sha1::digest(key.key_bits()).into(), algorithm, certificates }
    }

    /// The algorithm that answers are signed with.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
}

/// Why an answer was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// No status at all.
    #[error("a response must speak of at least one certificate")]
    Empty,
    /// nextUpdate does not follow thisUpdate, or thisUpdate lies after producedAt (RFC 6960 4.2.2.1).
    #[error("this_update must not be later than produced_at, and next_update must be later than this_update")]
    Validity,
    /// Something that cannot be written.
    #[error("the response cannot be encoded: {0}")]
    Encoding(#[from] der::Error),
}

impl ResponseError {
    /// The argument of [`prepare`] that is at fault.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Empty | Self::Encoding(_) => "statuses",
            Self::Validity => "next_update",
        }
    }
}

/// A ResponseData: the bytes to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TbsResponse(Vec<u8>);

impl TbsResponse {
    /// The DER ResponseData.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Makes the ResponseData. The same arguments give the same bytes.
///
/// # Errors
/// [`ResponseError`] names what is wrong.
pub fn prepare(
    responder: &ResponderInfo,
    produced_at: UnixTime,
    statuses: &[SingleStatus],
    nonce: Option<&Nonce>,
) -> Result<TbsResponse, ResponseError> {
    if statuses.is_empty() {
        return Err(ResponseError::Empty);
    }
    let mut list = Vec::with_capacity(160 * statuses.len());
    for status in statuses {
        if status.this_update > produced_at || status.next_update.is_some_and(|next| next <= status.this_update) {
            return Err(ResponseError::Validity);
        }
        push(&mut list, tlv::SEQUENCE, &single_response(status)?);
    }
    // The default version 1 is left out. responderID is a CHOICE, so its tags are explicit.
    let mut data = wrap(tlv::context(2), &wrap(tlv::OCTET_STRING, &responder.key_hash));
    produced_at.to_generalized()?.encode_to_vec(&mut data)?;
    push(&mut data, tlv::SEQUENCE, &list);
    if let Some(nonce) = nonce {
        let mut extension = wrap(tlv::OID, ID_PKIX_OCSP_NONCE.as_bytes());
        push(&mut extension, tlv::OCTET_STRING, &wrap(tlv::OCTET_STRING, nonce.as_bytes()));
        let extensions = wrap(tlv::SEQUENCE, &wrap(tlv::SEQUENCE, &extension));
        push(&mut data, tlv::context(1), &extensions);
    }
    Ok(TbsResponse(wrap(tlv::SEQUENCE, &data)))
}

fn single_response(single: &SingleStatus) -> der::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(160);
    out.extend_from_slice(single.cert_id.der());
    match single.status {
        // good [0] and unknown [2] are IMPLICIT NULL, revoked [1] an IMPLICIT SEQUENCE.
        CertStatus::Good => push(&mut out, tlv::context_primitive(0), &[]),
        CertStatus::Unknown => push(&mut out, tlv::context_primitive(2), &[]),
        CertStatus::Revoked { at, reason } => {
            let mut info = at.to_generalized()?.to_der()?;
            if reason != CrlReason::Unspecified {
                push(&mut info, tlv::context(0), &[tlv::ENUMERATED, 1, reason.code()]);
            }
            push(&mut out, tlv::context(1), &info);
        }
    }
    single.this_update.to_generalized()?.encode_to_vec(&mut out)?;
    if let Some(next) = single.next_update {
        push(&mut out, tlv::context(0), &next.to_generalized()?.to_der()?);
    }
    Ok(out)
}

/// The DER OCSPResponse from the bytes that were signed and their signature (ECDSA: DER, RFC 3279 2.2.3).
///
/// # Errors
/// None for an algorithm of ours; the signature is that of the encoder.
pub fn finish(tbs: &TbsResponse, responder: &ResponderInfo, signature: &[u8]) -> Result<Vec<u8>, ResponseError> {
    let mut basic = tbs.0.clone();
    responder.algorithm.identifier().encode_to_vec(&mut basic)?;
    tlv::push_bits(&mut basic, signature);
    if !responder.certificates.is_empty() {
        push(&mut basic, tlv::context(0), &wrap(tlv::SEQUENCE, &responder.certificates.concat()));
    }
    let mut bytes = wrap(tlv::OID, ID_PKIX_OCSP_BASIC.as_bytes());
    push(&mut bytes, tlv::OCTET_STRING, &wrap(tlv::SEQUENCE, &basic));
    // responseStatus successful (0), responseBytes [0].
    let mut response = vec![tlv::ENUMERATED, 1, 0];
    push(&mut response, tlv::context(0), &wrap(tlv::SEQUENCE, &bytes));
    Ok(wrap(tlv::SEQUENCE, &response))
}
