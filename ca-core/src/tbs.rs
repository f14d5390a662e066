//! TBSCertificate bytes: the one place where certificates are encoded.

use crate::{
    alt_name::AltName,
    key::{PublicKey, SignatureAlgorithm},
    serial::SerialNumber,
    time::UnixTime,
};
use const_oid::{ObjectIdentifier, db::rfc5280};
use der::{
    Decode, Document, Encode,
    asn1::{Ia5String, OctetString},
    flagset::FlagSet,
};
use signature::Keypair;
use spki::{
    AlgorithmIdentifierOwned, DynSignatureAlgorithmIdentifier, EncodePublicKey, SubjectPublicKeyInfoOwned,
    SubjectPublicKeyInfoRef,
};
use x509_cert::{
    builder::{Builder, CertificateBuilder, profile::BuilderProfile},
    certificate::TbsCertificate,
    ext::{
        Extension,
        pkix::{
            AuthorityInfoAccessSyntax, AuthorityKeyIdentifier, BasicConstraints, CrlDistributionPoints,
            ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName, SubjectKeyIdentifier,
            crl::dp::DistributionPoint,
            name::{DistributionPointName, GeneralName},
        },
    },
    name::Name,
    time::Validity,
};

/// A value that the encoder refused. Everything was checked before, so this is a fault of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate cannot be encoded")]
pub struct EncodingError;

impl From<der::Error> for EncodingError {
    fn from(_: der::Error) -> Self {
        Self
    }
}

impl From<x509_cert::builder::Error> for EncodingError {
    fn from(_: x509_cert::builder::Error) -> Self {
        Self
    }
}

/// All that goes into a TBSCertificate.
pub(crate) struct Contents<'a> {
    pub(crate) serial: &'a SerialNumber,
    pub(crate) algorithm: SignatureAlgorithm,
    /// DER, from the issuer's certificate.
    pub(crate) issuer_name: &'a [u8],
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    /// DER.
    pub(crate) subject: &'a [u8],
    pub(crate) public_key: &'a PublicKey,
    /// In encoding order.
    pub(crate) extensions: Vec<Extension>,
}

impl Contents<'_> {
    /// The DER TBSCertificate, version 3.
    pub(crate) fn encode(self) -> Result<Vec<u8>, EncodingError> {
        let key = SubjectPublicKeyInfoOwned::from_der(self.public_key.spki_der())?;
        let layout = Layout {
            issuer: Name::from_der(self.issuer_name)?,
            subject: Name::from_der(self.subject)?,
            extensions: self.extensions,
        };
        let validity = Validity::new(self.not_before.to_x509()?, self.not_after.to_x509()?);
        let mut builder = CertificateBuilder::new(layout, self.serial.to_x509()?, validity, key.clone())?;
        Ok(builder.finalize(&Declared { algorithm: self.algorithm, key: Key(key) })?)
    }
}

/// Every extension is decided here, in our order; the stock profiles derive key identifiers in ways of their own.
struct Layout {
    issuer: Name,
    subject: Name,
    extensions: Vec<Extension>,
}

impl BuilderProfile for Layout {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }
    fn get_subject(&self) -> Name {
        self.subject.clone()
    }
    fn build_extensions(
        &self,
        _key: SubjectPublicKeyInfoRef<'_>,
        _issuer_key: SubjectPublicKeyInfoRef<'_>,
        _tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        Ok(self.extensions.clone())
    }
}

/// Tells the builder the algorithm of a key that is elsewhere. The builder asks for a public key too, only to hand it
/// to [`Layout::build_extensions`], which does not look at it.
struct Declared {
    algorithm: SignatureAlgorithm,
    key: Key,
}

#[derive(Clone)]
struct Key(SubjectPublicKeyInfoOwned);

impl EncodePublicKey for Key {
    fn to_public_key_der(&self) -> spki::Result<Document> {
        Ok(Document::try_from(self.0.to_der()?)?)
    }
}

impl Keypair for Declared {
    type VerifyingKey = Key;
    fn verifying_key(&self) -> Key {
        self.key.clone()
    }
}

impl DynSignatureAlgorithmIdentifier for Declared {
    fn signature_algorithm_identifier(&self) -> spki::Result<AlgorithmIdentifierOwned> {
        Ok(self.algorithm.identifier())
    }
}

pub(crate) fn extension(
    oid: ObjectIdentifier,
    critical: bool,
    value: &impl Encode,
) -> Result<Extension, EncodingError> {
    Ok(Extension { extn_id: oid, critical, extn_value: OctetString::new(value.to_der()?)? })
}

/// RFC 5280 4.2.1.9; critical, as it must be in CA certificates and may be in others.
pub(crate) fn basic_constraints(ca: bool, path_len: Option<u8>) -> Result<Extension, EncodingError> {
    let value = BasicConstraints { ca, path_len_constraint: path_len };
    extension(rfc5280::ID_CE_BASIC_CONSTRAINTS, true, &value)
}

/// RFC 5280 4.2.1.3; critical, as it should be.
pub(crate) fn key_usage(usages: FlagSet<KeyUsages>) -> Result<Extension, EncodingError> {
    extension(rfc5280::ID_CE_KEY_USAGE, true, &KeyUsage(usages))
}

/// RFC 5280 4.2.1.12.
pub(crate) fn extended_key_usage(purposes: &[ObjectIdentifier]) -> Result<Extension, EncodingError> {
    extension(rfc5280::ID_CE_EXT_KEY_USAGE, false, &ExtendedKeyUsage(purposes.to_vec()))
}

/// RFC 5280 4.2.1.2 with the identifier of RFC 7093 2 (1).
pub(crate) fn subject_key_identifier(key: &PublicKey) -> Result<Extension, EncodingError> {
    let value = SubjectKeyIdentifier(OctetString::new(key.key_identifier())?);
    extension(rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER, false, &value)
}

/// RFC 5280 4.2.1.1: the issuer's subjectKeyIdentifier, however that was made.
pub(crate) fn authority_key_identifier(key_identifier: &[u8]) -> Result<Extension, EncodingError> {
    let value =
        AuthorityKeyIdentifier { key_identifier: Some(OctetString::new(key_identifier)?), ..Default::default() };
    extension(rfc5280::ID_CE_AUTHORITY_KEY_IDENTIFIER, false, &value)
}

/// RFC 5280 4.2.1.6: critical exactly when the subject is empty.
pub(crate) fn subject_alt_name(names: &[AltName], subject_is_empty: bool) -> Result<Extension, EncodingError> {
    let names = names.iter().map(AltName::to_general_name).collect::<Result<Vec<_>, _>>()?;
    extension(rfc5280::ID_CE_SUBJECT_ALT_NAME, subject_is_empty, &SubjectAltName(names))
}

fn uri(url: &str) -> Result<GeneralName, EncodingError> {
    Ok(GeneralName::UniformResourceIdentifier(Ia5String::new(url)?))
}

/// RFC 5280 4.2.1.13.
pub(crate) fn crl_distribution_point(url: &str) -> Result<Extension, EncodingError> {
    let point = DistributionPoint {
        distribution_point: Some(DistributionPointName::FullName(vec![uri(url)?])),
        reasons: None,
        crl_issuer: None,
    };
    extension(rfc5280::ID_CE_CRL_DISTRIBUTION_POINTS, false, &CrlDistributionPoints(vec![point]))
}

/// RFC 5280 4.2.2.1; OCSP first.
pub(crate) fn authority_info_access(ocsp: Option<&str>, ca_issuers: Option<&str>) -> Result<Extension, EncodingError> {
    use x509_cert::ext::pkix::AccessDescription;
    let mut list = Vec::new();
    for (method, url) in [(rfc5280::ID_AD_OCSP, ocsp), (rfc5280::ID_AD_CA_ISSUERS, ca_issuers)] {
        if let Some(url) = url {
            list.push(AccessDescription { access_method: method, access_location: uri(url)? });
        }
    }
    extension(rfc5280::ID_PE_AUTHORITY_INFO_ACCESS, false, &AuthorityInfoAccessSyntax(list))
}
