//! Distinguished names from structured configuration (RFC 5280 4.1.2.4).
//!
//! A value is never parsed: `x, O=evil` in a common name stays one common name.

use const_oid::{ObjectIdentifier, db::rfc4519};
use der::{Any, Encode, Tag};
use serde::{Deserialize, Serialize};
use std::fmt;
use x509_cert::{
    attr::AttributeTypeAndValue,
    name::{Name, RdnSequence, RelativeDistinguishedName},
};

/// The attribute types that names here are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AttributeType {
    /// CN, at most 64 characters.
    CommonName,
    /// serialNumber (of the device, not of the certificate), PrintableString of at most 64 characters.
    SerialNumber,
    /// O, at most 64 characters.
    Organization,
    /// OU, at most 64 characters.
    OrganizationalUnit,
    /// C, two letters (ISO 3166).
    Country,
    /// L, at most 128 characters.
    Locality,
    /// ST, at most 128 characters.
    State,
}

impl AttributeType {
    /// The object identifier (RFC 4519).
    pub fn oid(self) -> ObjectIdentifier {
        match self {
            Self::CommonName => rfc4519::COMMON_NAME,
            Self::SerialNumber => rfc4519::SERIAL_NUMBER,
            Self::Organization => rfc4519::ORGANIZATION_NAME,
            Self::OrganizationalUnit => rfc4519::ORGANIZATIONAL_UNIT_NAME,
            Self::Country => rfc4519::COUNTRY_NAME,
            Self::Locality => rfc4519::LOCALITY_NAME,
            Self::State => rfc4519::ST,
        }
    }

    /// The name used in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CommonName => "commonName",
            Self::SerialNumber => "serialNumber",
            Self::Organization => "organization",
            Self::OrganizationalUnit => "organizationalUnit",
            Self::Country => "country",
            Self::Locality => "locality",
            Self::State => "state",
        }
    }

    /// The path of this attribute in errors.
    pub fn field(self) -> &'static str {
        match self {
            Self::CommonName => "subject.commonName",
            Self::SerialNumber => "subject.serialNumber",
            Self::Organization => "subject.organization",
            Self::OrganizationalUnit => "subject.organizationalUnit",
            Self::Country => "subject.country",
            Self::Locality => "subject.locality",
            Self::State => "subject.state",
        }
    }

    /// The longest value in characters (RFC 5280 appendix A.1, the `ub-` bounds).
    pub const fn max_chars(self) -> usize {
        match self {
            Self::CommonName | Self::SerialNumber | Self::Organization | Self::OrganizationalUnit => 64,
            Self::Country => 2,
            Self::Locality | Self::State => 128,
        }
    }

    /// PrintableString where RFC 5280 appendix A.1 demands it, UTF8String otherwise (4.1.2.4).
    fn tag(self) -> Tag {
        match self {
            Self::Country | Self::SerialNumber => Tag::PrintableString,
            _ => Tag::Utf8String,
        }
    }
}

impl fmt::Display for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An empty value.
    #[error("{0} must not be empty")]
    Empty(AttributeType),
    /// A value beyond the bound of RFC 5280 appendix A.1.
    #[error("{kind} has {chars} characters; at most {max} are allowed (RFC 5280 appendix A.1)", max = kind.max_chars())]
    TooLong {
        /// The attribute.
        kind: AttributeType,
        /// How many characters it has.
        chars: usize,
    },
    /// A character that the attribute's string type does not have, or a control character.
    #[error("{0} contains a character that is not allowed{rule}", rule = alphabet(*.0))]
    Character(AttributeType),
    /// A second value of an attribute that names one thing.
    #[error("{0} may occur only once")]
    Repeated(AttributeType),
    /// More attributes than [`DistinguishedName::MAX_ATTRIBUTES`].
    #[error("a name has at most {max} attributes", max = DistinguishedName::MAX_ATTRIBUTES)]
    TooMany,
    /// The encoder refused it.
    #[error("the name cannot be encoded")]
    Encoding,
}

impl NameError {
    /// The path of the offending field, such as `subject.commonName`.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Empty(kind) | Self::Character(kind) | Self::Repeated(kind) | Self::TooLong { kind, .. } => {
                kind.field()
            }
            Self::TooMany | Self::Encoding => "subject",
        }
    }
}

fn alphabet(kind: AttributeType) -> &'static str {
    match kind {
        AttributeType::Country => "; it is two capital letters, such as DE",
        AttributeType::SerialNumber => "; it may have A-Z a-z 0-9 space and ' ( ) + , - . / : = ?",
        _ => "; control and invisible characters are refused",
    }
}

/// One attribute as configuration writes it: `{ type = "organization", value = "ACME, Inc." }`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: AttributeType,
    /// Its value, taken literally.
    pub value: String,
}

/// A checked, ordered distinguished name, one attribute to each RDN.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Vec<Attribute>", into = "Vec<Attribute>")]
pub struct DistinguishedName {
    attributes: Vec<Attribute>,
    name: Name,
    der: Vec<u8>,
}

impl DistinguishedName {
    /// More attributes serve no directory; a bound for error messages and sizes.
    pub const MAX_ATTRIBUTES: usize = 16;

    /// Checks and encodes the attributes in the order given. Only organizationalUnit may occur more than once.
    ///
    /// # Errors
    /// [`NameError`] names the attribute.
    pub fn new(attributes: impl IntoIterator<Item = (AttributeType, String)>) -> Result<Self, NameError> {
        let attributes: Vec<_> = attributes.into_iter().map(|(kind, value)| Attribute { kind, value }).collect();
        Self::try_from(attributes)
    }

    /// The name without attributes; a certificate that has it needs a critical subjectAltName (RFC 5280 4.2.1.6).
    pub fn empty() -> Self {
        Self { attributes: Vec::new(), name: Name::default(), der: vec![0x30, 0] }
    }

    /// The attributes, in encoding order.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }
    /// The DER Name.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
    /// For the X.509 encoder.
    pub fn to_x509(&self) -> &Name {
        &self.name
    }
}

impl fmt::Display for DistinguishedName {
    /// RFC 4514: last attribute first, special characters escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl TryFrom<Vec<Attribute>> for DistinguishedName {
    type Error = NameError;

    fn try_from(attributes: Vec<Attribute>) -> Result<Self, NameError> {
        if attributes.len() > Self::MAX_ATTRIBUTES {
            return Err(NameError::TooMany);
        }
        let mut rdns = RdnSequence::default();
        for (i, attribute) in attributes.iter().enumerate() {
            check(attribute)?;
            let kind = attribute.kind;
            let repeated = attributes.iter().take(i).any(|a| a.kind == kind);
            if repeated && kind != AttributeType::OrganizationalUnit {
                return Err(NameError::Repeated(kind));
            }
            let value = Any::new(kind.tag(), attribute.value.as_bytes()).map_err(|_| NameError::Encoding)?;
            let mut rdn = RelativeDistinguishedName::default();
            rdn.insert(AttributeTypeAndValue { oid: kind.oid(), value }).map_err(|_| NameError::Encoding)?;
            rdns.push(rdn);
        }
        let name = Name::hazmat_from_rdn_sequence(rdns);
        let der = name.to_der().map_err(|_| NameError::Encoding)?;
        Ok(Self { attributes, name, der })
    }
}

impl From<DistinguishedName> for Vec<Attribute> {
    fn from(name: DistinguishedName) -> Self {
        name.attributes
    }
}

fn check(attribute: &Attribute) -> Result<(), NameError> {
    let Attribute { kind, value } = attribute;
    let chars = value.chars().count();
    if chars == 0 {
        return Err(NameError::Empty(*kind));
    }
    if chars > kind.max_chars() {
        return Err(NameError::TooLong { kind: *kind, chars });
    }
    let good = match kind {
        AttributeType::Country => chars == 2 && value.chars().all(|c| c.is_ascii_uppercase()),
        AttributeType::SerialNumber => value.chars().all(is_printable_string),
        _ => !value.chars().any(is_invisible),
    };
    if good { Ok(()) } else { Err(NameError::Character(*kind)) }
}

/// Control characters, and those that reorder or hide text: what people read must be what is certified.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The PrintableString alphabet (X.680 41.4).
fn is_printable_string(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, ' ' | '\'' | '(' | ')' | '+' | ',' | '-' | '.' | '/' | ':' | '=' | '?')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use der::Decode;
    use proptest::prelude::*;

    fn cn(value: &str) -> Result<DistinguishedName, NameError> {
        DistinguishedName::new([(AttributeType::CommonName, value.to_owned())])
    }

    #[test]
    fn special_characters_stay_one_value() {
        for value in ["x, O=evil", "a+b", "#0500", "\\,\"<>;", " lead", "ünï"] {
            let name = Name::from_der(cn(value).unwrap().der()).unwrap();
            assert_eq!(name.iter().count(), 1, "{value}");
            let text = name.iter().next().unwrap().value.value();
            assert_eq!(text, value.as_bytes());
        }
        assert_eq!(cn("x, O=evil").unwrap().to_string(), "CN=x\\, O=evil");
    }

    #[test]
    fn string_types_are_those_of_rfc_5280() {
        let name = DistinguishedName::new([
            (AttributeType::Country, "DE".to_owned()),
            (AttributeType::SerialNumber, "SN-1".to_owned()),
            (AttributeType::CommonName, "x".to_owned()),
        ])
        .unwrap();
        let expected =
            concat!("3028", "310b3009060355040613024445", "310d300b06035504051304534e2d31", "310a300806035504030c0178");
        assert_eq!(hex::encode(name.der()), expected);
        assert_eq!(name.to_string(), "CN=x,SERIALNUMBER=SN-1,C=DE");
    }

    #[test]
    fn bounds_alphabets_and_repetition() {
        assert!(cn(&"ü".repeat(64)).is_ok());
        assert_eq!(cn(&"a".repeat(65)), Err(NameError::TooLong { kind: AttributeType::CommonName, chars: 65 }));
        assert_eq!(cn(""), Err(NameError::Empty(AttributeType::CommonName)));
        for bad in ["a\0b", "a\u{202e}b", "a\u{200b}"] {
            assert_eq!(cn(bad).unwrap_err().field(), "subject.commonName");
        }
        for bad in ["de", "D", "D1"] {
            let refused = DistinguishedName::new([(AttributeType::Country, bad.to_owned())]);
            assert_eq!(refused, Err(NameError::Character(AttributeType::Country)));
        }
        let serial = DistinguishedName::new([(AttributeType::SerialNumber, "a_b".to_owned())]);
        assert_eq!(serial, Err(NameError::Character(AttributeType::SerialNumber)));
        let pair = |kind: AttributeType| DistinguishedName::new([(kind, "a".to_owned()), (kind, "b".to_owned())]);
        assert!(pair(AttributeType::OrganizationalUnit).is_ok());
        assert_eq!(pair(AttributeType::CommonName), Err(NameError::Repeated(AttributeType::CommonName)));
        let many = vec![(AttributeType::OrganizationalUnit, "a".to_owned()); 17];
        assert_eq!(DistinguishedName::new(many), Err(NameError::TooMany));
    }

    #[test]
    fn the_empty_name_is_an_empty_sequence() {
        assert_eq!(DistinguishedName::empty(), DistinguishedName::new([]).unwrap());
    }

    proptest! {
        #[test]
        fn any_accepted_value_survives(value in "\\PC{0,70}") {
            if let Ok(name) = cn(&value) {
                let decoded = Name::from_der(name.der()).unwrap();
                prop_assert_eq!(decoded.iter().count(), 1);
                prop_assert_eq!(decoded.iter().next().unwrap().value.value(), value.as_bytes());
                prop_assert_eq!(decoded.to_der().unwrap(), name.der());
            }
        }
    }
}
