//! The fields of a foreign certificate that an endorsement key's owner is judged by.
//!
//! Vendors encode names in ways that DER does not allow, so nothing is decoded that is not needed and nothing is
//! encoded again. The signature is checked elsewhere, over the octets as they are.

use const_oid::ObjectIdentifier;
use der::{AnyRef, Decode, Encode, Reader, SliceReader, Tag, Tagged, asn1::OctetStringRef};

const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");

/// No certificate that is looked at has more elements than this on one level.
const MAX_ELEMENTS: usize = 64;

/// The fields, as far as present.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub spki: Vec<u8>,
    pub is_ca: bool,
    /// The first octet of KeyUsage; digitalSignature is 0x80.
    pub key_usage: Option<u8>,
    pub extended_key_usage: Vec<ObjectIdentifier>,
    /// The attributes of the directoryNames in the subject alternative name, in their order.
    pub alternative_name: Vec<(ObjectIdentifier, String)>,
}

/// Reads the fields; `None` when `certificate` is not the DER of one X.509 certificate.
pub(super) fn fields(certificate: &[u8]) -> Option<Fields> {
    let outer = elements(sequence(AnyRef::from_der(certificate).ok()?)?)?;
    let [tbs, _, _] = outer.as_slice() else { return None };
    let tbs = elements(sequence(*tbs)?)?;
    // Version 3 only: without extensions there is nothing to judge.
    let [version, _serial, _algorithm, _issuer, _validity, _subject, spki, rest @ ..] = tbs.as_slice() else {
        return None;
    };
    context(version, 0)?;
    let mut fields = Fields { spki: spki.to_der().ok()?, ..Fields::default() };
    let extensions = rest.iter().find_map(|e| context(e, 3))?;
    let mut seen = Vec::new();
    for extension in elements(sequence(AnyRef::from_der(extensions).ok()?)?)? {
        let parts = elements(sequence(extension)?)?;
        let oid: ObjectIdentifier = parts.first()?.decode_as().ok()?;
        let value: &OctetStringRef = parts.last()?.decode_as().ok()?;
        if seen.contains(&oid) {
            return None;
        }
        seen.push(oid);
        read_extension(&mut fields, oid, AnyRef::from_der(value.as_bytes()).ok())?;
    }
    Some(fields)
}

fn read_extension(fields: &mut Fields, oid: ObjectIdentifier, value: Option<AnyRef<'_>>) -> Option<()> {
    match oid {
        BASIC_CONSTRAINTS => {
            let first = elements(sequence(value?)?)?.first().copied();
            fields.is_ca = first.is_some_and(|e| e.tag() == Tag::Boolean && e.value() != [0]);
        }
        KEY_USAGE => {
            let bits = value.filter(|v| v.tag() == Tag::BitString)?;
            fields.key_usage = Some(bits.value().get(1).copied().unwrap_or(0));
        }
        EXTENDED_KEY_USAGE => {
            let usages = elements(sequence(value?)?)?;
            fields.extended_key_usage = usages.iter().map(|u| u.decode_as().ok()).collect::<Option<_>>()?;
        }
        SUBJECT_ALT_NAME => {
            for name in elements(sequence(value?)?)? {
                // directoryName [4] EXPLICIT Name
                if let Some(name) = context(&name, 4) {
                    directory_name(&mut fields.alternative_name, AnyRef::from_der(name).ok()?)?;
                }
            }
        }
        _ => {}
    }
    Some(())
}

fn directory_name(into: &mut Vec<(ObjectIdentifier, String)>, name: AnyRef<'_>) -> Option<()> {
    for rdn in elements(sequence(name)?)? {
        if rdn.tag() != Tag::Set {
            return None;
        }
        for attribute in elements(rdn.value())? {
            let parts = elements(sequence(attribute)?)?;
            let [kind, value] = parts.as_slice() else { return None };
            let text = match value.tag() {
                Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => std::str::from_utf8(value.value()).ok(),
                _ => None,
            };
            let text = text.filter(|t| t.len() <= 128 && !t.chars().any(char::is_control));
            if let Some(text) = text {
                into.push((kind.decode_as().ok()?, text.to_owned()));
            }
        }
    }
    Some(())
}

fn sequence(element: AnyRef<'_>) -> Option<&[u8]> {
    (element.tag() == Tag::Sequence).then(|| element.value())
}

fn context<'a>(element: &AnyRef<'a>, wanted: u32) -> Option<&'a [u8]> {
    match element.tag() {
        Tag::ContextSpecific { constructed: true, number } if number.value() == wanted => Some(element.value()),
        _ => None,
    }
}

fn elements(mut bytes: &[u8]) -> Option<Vec<AnyRef<'_>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        if found.len() == MAX_ELEMENTS {
            return None;
        }
        let mut reader = SliceReader::new(bytes).ok()?;
        found.push(AnyRef::decode(&mut reader).ok()?);
        bytes = bytes.get(usize::try_from(reader.position()).ok()?..)?;
    }
    Some(found)
}
