//! Certification requests (PKCS #10, RFC 2986): parsed strictly, possession of the key verified, nothing believed.

use crate::{
    alt_name::{is_dns_name, is_uri},
    key::{KeyError, PublicKey, SignatureAlgorithm},
};
use const_oid::{
    ObjectIdentifier,
    db::{rfc2985, rfc4519, rfc5280},
};
use der::{Any, AnyRef, Decode, Encode, Sequence, Tag, Tagged, asn1::BitStringRef};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use spki::AlgorithmIdentifierOwned;
use std::{borrow::Cow, net::IpAddr};
use x509_cert::{
    attr::Attribute,
    ext::{
        Extension,
        pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName, name::GeneralName},
    },
    name::Name,
    request::CertReqInfo,
};

/// The largest request, DER or PEM. ML-DSA-87 (a key of 2592 octets, a signature of 4627) takes 10 KiB as PEM; 32 names
/// of the usual length fit beside it.
pub const MAX_REQUEST_LEN: usize = 16 * 1024;
/// Attributes in a request; PKCS #9 knows about as many that make sense.
pub const MAX_ATTRIBUTES: usize = 16;
/// Extensions in an extensionRequest; the largest real ones have about eight.
pub const MAX_EXTENSIONS: usize = 16;
/// Names in a requested subjectAltName; a device has few.
pub const MAX_ALT_NAMES: usize = 32;
/// Attributes in the subject.
pub const MAX_SUBJECT_ATTRIBUTES: usize = 32;

/// Microsoft's own OID for extensionRequest (szOID_CERT_EXTENSIONS), written by its enrollment clients.
const MS_EXTENSION_REQUEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.14");

/// Why a certification request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Larger than [`MAX_REQUEST_LEN`].
    #[error("the request has {0} octets; at most {MAX_REQUEST_LEN} are accepted")]
    TooLarge(usize),
    /// Neither DER nor PEM with one `CERTIFICATE REQUEST`.
    #[error("neither a DER certification request nor PEM with a CERTIFICATE REQUEST block")]
    NotPem,
    /// More than one request.
    #[error("the PEM text has more than one CERTIFICATE REQUEST; send one")]
    SeveralRequests,
    /// Not PKCS #10 version 0.
    #[error("not a PKCS #10 certification request of version 0 (RFC 2986 4.1)")]
    Malformed,
    /// Decodes, but is not the one DER encoding.
    #[error("the request is not in canonical DER (X.690 10 and 11)")]
    NotCanonical,
    /// An odd subject.
    #[error("the subject has an empty relative distinguished name or more than {MAX_SUBJECT_ATTRIBUTES} attributes")]
    Subject,
    /// The public key is not accepted.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The signature algorithm is not accepted.
    #[error(
        "signature algorithm {0} is not accepted; sign the request with ECDSA or RSA PKCS #1 v1.5 with SHA-256, \
         SHA-384 or SHA-512, or with Ed25519"
    )]
    SignatureAlgorithm(String),
    /// The proof of possession fails.
    #[error(
        "the signature does not verify with the public key in the request: it was changed, or signed by another key"
    )]
    Signature,
    /// Too many attributes.
    #[error("the request has more than {MAX_ATTRIBUTES} attributes")]
    TooManyAttributes,
    /// Two extensionRequest attributes, or one with several values.
    #[error("the request has more than one extensionRequest")]
    SeveralExtensionRequests,
    /// extensionRequest does not decode.
    #[error("the extensionRequest attribute is malformed")]
    ExtensionRequest,
    /// Too many extensions.
    #[error("the request asks for more than {MAX_EXTENSIONS} extensions")]
    TooManyExtensions,
    /// One extension twice.
    #[error("the request asks for extension {0} twice")]
    DuplicateExtension(ObjectIdentifier),
    /// basicConstraints does not decode.
    #[error("the requested basicConstraints is malformed")]
    BasicConstraints,
    /// keyUsage does not decode.
    #[error("the requested keyUsage is malformed")]
    KeyUsage,
    /// extKeyUsage does not decode.
    #[error("the requested extKeyUsage is malformed or empty")]
    ExtendedKeyUsage,
    /// subjectAltName does not decode, or has too many names.
    #[error("the requested subjectAltName is malformed, empty or has more than {MAX_ALT_NAMES} names")]
    SubjectAltName,
    /// A name in subjectAltName is not what it claims to be.
    #[error("the requested subjectAltName has an invalid {0}")]
    AltNameSyntax(&'static str),
}

impl CsrError {
    /// The path of the offending field.
    pub fn field(&self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::NotPem | Self::SeveralRequests | Self::Malformed | Self::NotCanonical => "csr",
            Self::Subject => "csr.subject",
            Self::Key(_) => "csr.subject_public_key",
            Self::SignatureAlgorithm(_) => "csr.signature_algorithm",
            Self::Signature => "csr.signature",
            Self::TooManyAttributes => "csr.attributes",
            Self::SeveralExtensionRequests
            | Self::ExtensionRequest
            | Self::TooManyExtensions
            | Self::DuplicateExtension(_) => "csr.extension_request",
            Self::BasicConstraints => "csr.extension_request.basic_constraints",
            Self::KeyUsage => "csr.extension_request.key_usage",
            Self::ExtendedKeyUsage => "csr.extension_request.extended_key_usage",
            Self::SubjectAltName | Self::AltNameSyntax(_) => "csr.extension_request.subject_alt_name",
        }
    }
}

/// A name asked for in subjectAltName. It passed a syntax check; whether it may be certified is the profile's to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestedName {
    /// dNSName, a host name without wildcard.
    Dns(String),
    /// iPAddress.
    Ip(IpAddr),
    /// uniformResourceIdentifier.
    Uri(String),
    /// rfc822Name, unchecked: none is ever issued.
    Email(String),
    /// Any other kind, by its name in RFC 5280: none is ever issued.
    Other(&'static str),
}

/// An extension value that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedValue {
    /// basicConstraints.
    BasicConstraints {
        /// The request asks for a CA certificate.
        ca: bool,
    },
    /// keyUsage.
    KeyUsage(KeyUsage),
    /// extKeyUsage, not empty.
    ExtendedKeyUsage(Vec<ObjectIdentifier>),
    /// subjectAltName, not empty.
    SubjectAltName(Vec<RequestedName>),
    /// Anything else.
    Other,
}

/// An extension that the request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedExtension {
    /// Which one.
    pub oid: ObjectIdentifier,
    /// Marked critical.
    pub critical: bool,
    /// Its value, DER as sent.
    pub value: Vec<u8>,
    /// Its value, where it is understood.
    pub parsed: RequestedValue,
}

#[derive(Sequence)]
struct Outer<'a> {
    info: AnyRef<'a>,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitStringRef<'a>,
}

/// A certification request whose signature was verified over the octets that were sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificationRequest {
    der: Vec<u8>,
    public_key: PublicKey,
    signature_algorithm: SignatureAlgorithm,
    subject_text: String,
    common_name: Option<String>,
    serial_number: Option<String>,
    extensions: Vec<RequestedExtension>,
    unknown_attributes: Vec<ObjectIdentifier>,
}

impl CertificationRequest {
    /// Parses DER, or PEM labelled `CERTIFICATE REQUEST` or `NEW CERTIFICATE REQUEST`, and verifies the proof of
    /// possession.
    ///
    /// # Errors
    /// [`CsrError`] names what is wrong and where.
    pub fn parse(input: &[u8]) -> Result<Self, CsrError> {
        if input.len() > MAX_REQUEST_LEN {
            return Err(CsrError::TooLarge(input.len()));
        }
        let der = decode_armor(input)?;
        let outer = Outer::from_der(&der).map_err(|_| CsrError::Malformed)?;
        let signed = outer.info.to_der().map_err(|_| CsrError::Malformed)?;
        let info = CertReqInfo::from_der(&signed).map_err(|_| CsrError::Malformed)?;
        // What was decoded must be all there is: nothing hides in a second encoding of the same value.
        let canonical = info.to_der().is_ok_and(|again| again == signed) && outer.to_der().is_ok_and(|a| a == *der);
        if !canonical {
            return Err(CsrError::NotCanonical);
        }
        check_subject(&info.subject)?;
        let spki = info.public_key.to_der().map_err(|_| CsrError::Malformed)?;
        let public_key = PublicKey::from_spki_der(&spki)?;
        let signature_algorithm = SignatureAlgorithm::from_identifier(&outer.algorithm)
            .ok_or_else(|| CsrError::SignatureAlgorithm(outer.algorithm.oid.to_string()))?;
        let signature = outer.signature.as_bytes().ok_or(CsrError::Signature)?;
        public_key.verify(signature_algorithm, &signed, signature).map_err(|_| CsrError::Signature)?;
        let (extensions, unknown_attributes) = read_attributes(info.attributes.as_slice())?;
        Ok(Self {
            public_key,
            signature_algorithm,
            subject_text: info.subject.to_string(),
            common_name: single_text(&info.subject, rfc4519::COMMON_NAME),
            serial_number: single_text(&info.subject, rfc4519::SERIAL_NUMBER),
            extensions,
            unknown_attributes,
            der: der.into_owned(),
        })
    }

    /// The request, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
    /// The key whose possession was proven.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
    /// What the request was signed with.
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.signature_algorithm
    }
    /// The subject as RFC 4514 text, for people to read.
    pub fn subject(&self) -> &str {
        &self.subject_text
    }
    /// The subject's commonName; `None` when there is none or more than one.
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }
    /// The subject's serialNumber; `None` when there is none or more than one.
    pub fn serial_number(&self) -> Option<&str> {
        self.serial_number.as_deref()
    }
    /// The extensions asked for, each at most once.
    pub fn extensions(&self) -> &[RequestedExtension] {
        &self.extensions
    }
    /// The names asked for in subjectAltName; empty without one.
    pub fn alt_names(&self) -> &[RequestedName] {
        self.extensions
            .iter()
            .find_map(|e| match &e.parsed {
                RequestedValue::SubjectAltName(names) => Some(names.as_slice()),
                _ => None,
            })
            .unwrap_or_default()
    }
    /// Attributes other than extensionRequest and challengePassword. Nothing of them is kept but the type.
    pub fn unknown_attributes(&self) -> &[ObjectIdentifier] {
        &self.unknown_attributes
    }
}

fn decode_armor(input: &[u8]) -> Result<Cow<'_, [u8]>, CsrError> {
    // A long-form length is not ASCII, and PEM of a request is longer than any short-form DER.
    if let [0x30, length, rest @ ..] = input
        && (*length >= 0x80 || rest.len() == usize::from(*length))
    {
        return Ok(Cow::Borrowed(input));
    }
    let text = std::str::from_utf8(input).map_err(|_| CsrError::NotPem)?;
    // RFC 7468 7 names the second label as one to be accepted.
    let text = text.replace("-----BEGIN NEW CERTIFICATE REQUEST", "-----BEGIN CERTIFICATE REQUEST");
    let text = text.replace("-----END NEW CERTIFICATE REQUEST", "-----END CERTIFICATE REQUEST");
    let mut requests = CertificateSigningRequestDer::pem_slice_iter(text.as_bytes());
    let first = requests.next().and_then(Result::ok).ok_or(CsrError::NotPem)?;
    if requests.next().is_some() {
        return Err(CsrError::SeveralRequests);
    }
    Ok(Cow::Owned(first.to_vec()))
}

fn check_subject(subject: &Name) -> Result<(), CsrError> {
    // X.501 9.3: an RDN is a non-empty set.
    if subject.iter_rdn().any(|rdn| rdn.is_empty()) || subject.iter().count() > MAX_SUBJECT_ATTRIBUTES {
        return Err(CsrError::Subject);
    }
    Ok(())
}

fn single_text(subject: &Name, oid: ObjectIdentifier) -> Option<String> {
    let mut values = subject.iter().filter(|attribute| attribute.oid == oid);
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    text(&first.value)
}

/// The string types that are subsets of UTF-8. TeletexString and BMPString are not read (RFC 5280 4.1.2.4).
fn text(value: &Any) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            std::str::from_utf8(value.value()).ok().map(str::to_owned)
        }
        _ => None,
    }
}

type Attributes = (Vec<RequestedExtension>, Vec<ObjectIdentifier>);

fn read_attributes(attributes: &[Attribute]) -> Result<Attributes, CsrError> {
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(CsrError::TooManyAttributes);
    }
    let mut extensions = None;
    let mut unknown = Vec::new();
    for attribute in attributes {
        match attribute.oid {
            rfc2985::PKCS_9_AT_EXTENSION_REQUEST | MS_EXTENSION_REQUEST => {
                let [value] = attribute.values.as_slice() else { return Err(CsrError::SeveralExtensionRequests) };
                if extensions.replace(read_extensions(value)?).is_some() {
                    return Err(CsrError::SeveralExtensionRequests);
                }
            }
            // A secret of the old days (RFC 2985 5.4.1): tolerated and dropped.
            rfc2985::PKCS_9_AT_CHALLENGE_PASSWORD => {}
            other => unknown.push(other),
        }
    }
    Ok((extensions.unwrap_or_default(), unknown))
}

fn read_extensions(value: &Any) -> Result<Vec<RequestedExtension>, CsrError> {
    let list: Vec<Extension> = value.decode_as().map_err(|_| CsrError::ExtensionRequest)?;
    if list.len() > MAX_EXTENSIONS {
        return Err(CsrError::TooManyExtensions);
    }
    let mut extensions: Vec<RequestedExtension> = Vec::with_capacity(list.len());
    for extension in list {
        let oid = extension.extn_id;
        if extensions.iter().any(|e| e.oid == oid) {
            return Err(CsrError::DuplicateExtension(oid));
        }
        let value = extension.extn_value.into_bytes();
        let parsed = read_value(oid, &value)?;
        extensions.push(RequestedExtension { oid, critical: extension.critical, value: value.into(), parsed });
    }
    Ok(extensions)
}

fn read_value(oid: ObjectIdentifier, value: &[u8]) -> Result<RequestedValue, CsrError> {
    Ok(match oid {
        rfc5280::ID_CE_BASIC_CONSTRAINTS => {
            let bc = BasicConstraints::from_der(value).map_err(|_| CsrError::BasicConstraints)?;
            RequestedValue::BasicConstraints { ca: bc.ca }
        }
        rfc5280::ID_CE_KEY_USAGE => {
            RequestedValue::KeyUsage(KeyUsage::from_der(value).map_err(|_| CsrError::KeyUsage)?)
        }
        rfc5280::ID_CE_EXT_KEY_USAGE => match ExtendedKeyUsage::from_der(value) {
            Ok(eku) if !eku.0.is_empty() => RequestedValue::ExtendedKeyUsage(eku.0),
            _ => return Err(CsrError::ExtendedKeyUsage),
        },
        rfc5280::ID_CE_SUBJECT_ALT_NAME => match SubjectAltName::from_der(value) {
            Ok(san) if (1..=MAX_ALT_NAMES).contains(&san.0.len()) => {
                RequestedValue::SubjectAltName(san.0.iter().map(read_name).collect::<Result<_, _>>()?)
            }
            _ => return Err(CsrError::SubjectAltName),
        },
        _ => RequestedValue::Other,
    })
}

fn read_name(name: &GeneralName) -> Result<RequestedName, CsrError> {
    Ok(match name {
        GeneralName::DnsName(dns) if is_dns_name(dns.as_str()) => RequestedName::Dns(dns.as_str().to_owned()),
        GeneralName::DnsName(_) => return Err(CsrError::AltNameSyntax("dNSName; wildcards are not accepted")),
        GeneralName::IpAddress(octets) => {
            match (<[u8; 4]>::try_from(octets.as_bytes()), octets.as_bytes().try_into()) {
                (Ok(v4), _) => RequestedName::Ip(v4.into()),
                (_, Ok::<[u8; 16], _>(v6)) => RequestedName::Ip(v6.into()),
                _ => return Err(CsrError::AltNameSyntax("iPAddress; it has 4 or 16 octets")),
            }
        }
        GeneralName::UniformResourceIdentifier(uri) if is_uri(uri.as_str()) => {
            RequestedName::Uri(uri.as_str().to_owned())
        }
        GeneralName::UniformResourceIdentifier(_) => {
            return Err(CsrError::AltNameSyntax("uniformResourceIdentifier"));
        }
        GeneralName::Rfc822Name(mail) => RequestedName::Email(mail.as_str().to_owned()),
        GeneralName::OtherName(_) => RequestedName::Other("otherName"),
        GeneralName::DirectoryName(_) => RequestedName::Other("directoryName"),
        GeneralName::EdiPartyName(_) => RequestedName::Other("ediPartyName"),
        GeneralName::RegisteredId(_) => RequestedName::Other("registeredID"),
    })
}
