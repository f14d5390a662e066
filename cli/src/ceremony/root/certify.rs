//! What the root key signs: its own certificate, issuing CAs', and the first CRL.

use super::script::Script;
use anyhow::{Context, Result, bail};
use ca_core::{
    authority::{self, ParentUrls, PreparedAuthority, Subject},
    certificate::Certificate,
    csr::CertificationRequest,
    key::{PublicKey, SignatureAlgorithm},
    name::{AttributeType, DistinguishedName},
    serial::SerialNumber,
    time::UnixTime,
};
use der::{
    Decode, Tag, Tagged,
    asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef},
};
use hsm::{SignRequest, Token, TokenKey};
use revocation::crl::{self, CrlRequest, CrlScope};
use std::time::Duration;
use x509_cert::{name::Name, request::CertReq};

/// Clocks of those who verify run behind.
const BACKDATE: Duration = Duration::from_secs(3600);

/// The root key in its token.
#[derive(Debug)]
pub struct RootKey {
    /// The token.
    pub token: Token,
    /// The key.
    pub key: TokenKey,
    /// What it signs certificates and CRLs with.
    pub signature: SignatureAlgorithm,
}

impl RootKey {
    /// Signs; a signature that does not verify is withheld.
    ///
    /// # Errors
    /// What the token says.
    pub fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>> {
        let public_key = self.key.public_key.clone();
        let request = SignRequest { key: self.key.id, public_key, algorithm, message: message.to_vec() };
        Ok(self.token.sign(request)?)
    }

    fn finish(&self, prepared: &PreparedAuthority) -> Result<Certificate> {
        Ok(prepared.finish(&self.sign(prepared.algorithm(), prepared.tbs())?)?)
    }

    /// The self-signed certificate.
    ///
    /// # Errors
    /// A name that cannot be, or what the token says.
    pub fn certificate(&self, script: &Script, now: UnixTime) -> Result<Certificate> {
        let name = script.name(&self.key.public_key)?;
        let subject = Subject {
            name: &name,
            public_key: &self.key.public_key,
            serial: SerialNumber::from_random(rand::random()),
            not_before: now.minus(BACKDATE),
            not_after: now.plus(script.root_life()),
        };
        self.finish(&authority::root(subject, self.signature)?)
    }

    /// An issuing CA's certificate for a request. Of the request it has the key and the name, and nothing else.
    ///
    /// # Errors
    /// A name that cannot be, or what the token says.
    pub fn issue(&self, script: &Script, root: &Certificate, csr: &Request, now: UnixTime) -> Result<Certificate> {
        let subject = Subject {
            name: &csr.name,
            public_key: &csr.key,
            serial: SerialNumber::from_random(rand::random()),
            not_before: now.minus(BACKDATE),
            not_after: now.plus(script.issuing_life()).min(root.not_after()),
        };
        let urls = ParentUrls { crl: Some(&script.crl_url), ocsp: None, ca_issuers: script.ca_issuers_url.as_deref() };
        self.finish(&authority::issuing_ca(subject, root, self.signature, urls)?)
    }

    /// The first CRL, which lists nothing; gives its number and end as well.
    ///
    /// # Errors
    /// What the token says.
    pub fn crl(&self, script: &Script, root: &Certificate, now: UnixTime) -> Result<(Vec<u8>, u64, UnixTime)> {
        // The time in seconds: a later list has a greater number, whoever makes it.
        let (number, next_update) = (now.as_secs(), now.plus(script.crl_life()));
        let request = CrlRequest {
            issuer_name_der: root.subject_der(),
            authority_key_identifier: root.subject_key_identifier().context("the root has no key identifier")?,
            algorithm: self.signature,
            number,
            this_update: now,
            next_update,
            idp_url: &script.crl_url,
            scope: CrlScope::Everything,
        };
        let tbs = crl::prepare(&request, [])?;
        let signature = self.sign(tbs.algorithm(), tbs.as_bytes())?;
        Ok((crl::finish(tbs, &signature)?, number, next_update))
    }
}

/// What an issuing CA asks for, its proof of possession verified.
#[derive(Clone, Debug)]
pub struct Request {
    /// The issuing CA's name.
    pub name: DistinguishedName,
    /// Its key.
    pub key: PublicKey,
}

impl Request {
    /// Reads a certification request, PEM or DER.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(octets: &[u8]) -> Result<Self> {
        let csr = CertificationRequest::parse(octets)?;
        let parsed = CertReq::from_der(csr.der())?;
        Ok(Self { name: name(&parsed.info.subject)?, key: csr.public_key().clone() })
    }
}

const KINDS: [AttributeType; 7] = [
    AttributeType::CommonName,
    AttributeType::SerialNumber,
    AttributeType::Organization,
    AttributeType::OrganizationalUnit,
    AttributeType::Country,
    AttributeType::Locality,
    AttributeType::State,
];

/// The same name, checked and in our encoding.
fn name(subject: &Name) -> Result<DistinguishedName> {
    let mut parts = Vec::new();
    for rdn in subject.as_ref().iter() {
        let mut attributes = rdn.iter();
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else {
            bail!("csr.subject: a part of the name has not one value")
        };
        let kind = KINDS.into_iter().find(|kind| kind.oid() == attribute.oid);
        let kind = kind.with_context(|| format!("csr.subject: attribute {} is not known here", attribute.oid))?;
        let value = &attribute.value;
        let text = match value.tag() {
            Tag::Utf8String => value.decode_as::<Utf8StringRef<'_>>()?.as_str().to_owned(),
            Tag::PrintableString => value.decode_as::<PrintableStringRef<'_>>()?.as_str().to_owned(),
            Tag::Ia5String => value.decode_as::<Ia5StringRef<'_>>()?.as_str().to_owned(),
            other => bail!("csr.subject: a value is a {other}, which no name should have"),
        };
        parts.push((kind, text));
    }
    Ok(DistinguishedName::new(parts)?)
}
