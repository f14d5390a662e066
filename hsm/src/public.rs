//! A token's public key objects as SubjectPublicKeyInfo.

use crate::error::Trouble;
use crate::mechanism::curve_octets;
use crate::{HsmError, KeyId};
use ca_core::key::{KeyAlgorithm, PublicKey};
use cryptoki::object::{Attribute, AttributeType, KeyType, MlDsaParameterSetType, ObjectHandle, ParameterSetType};
use cryptoki::session::Session;
use der::asn1::{AnyRef, BitString, OctetStringRef, UintRef};
use der::{Any, Decode, Encode, Sequence};
use spki::{AlgorithmIdentifierOwned, ObjectIdentifier, SubjectPublicKeyInfoOwned};

const ID_EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ML_DSA_44: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.17");
const ML_DSA_65: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.18");
const ML_DSA_87: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.19");

/// DER of the named curves' identifiers, and PKCS#11 3.0's other name of edwards25519.
pub(crate) const P256_PARAMS: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
pub(crate) const P384_PARAMS: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
pub(crate) const P521_PARAMS: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x23";
pub(crate) const ED25519_PARAMS: &[u8] = b"\x06\x03\x2b\x65\x70";
const ED25519_NAME: &[u8] = b"\x13\x0cedwards25519";

#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

/// What the token gave of a public key; empty where it gave nothing.
#[derive(Default)]
struct Found {
    params: Vec<u8>,
    point: Vec<u8>,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    set: Option<ParameterSetType>,
    value: Vec<u8>,
}

pub(crate) fn read(session: &Session, id: &KeyId, handle: ObjectHandle) -> Result<PublicKey, Trouble> {
    let kind = session.get_attributes(handle, &[AttributeType::KeyType])?.into_iter().find_map(|a| match a {
        Attribute::KeyType(kind) => Some(kind),
        _ => None,
    });
    // Only what a key of this kind has: tokens answer oddly when asked for what they do not know.
    let wanted: &[AttributeType] = match kind {
        Some(KeyType::EC | KeyType::EC_EDWARDS) => &[AttributeType::EcParams, AttributeType::EcPoint],
        Some(KeyType::RSA) => &[AttributeType::Modulus, AttributeType::PublicExponent],
        Some(KeyType::ML_DSA) => &[AttributeType::ParameterSet, AttributeType::Value],
        _ => &[],
    };
    let mut found = Found::default();
    for attribute in session.get_attributes(handle, wanted)? {
        match attribute {
            Attribute::EcParams(v) => found.params = v,
            Attribute::EcPoint(v) => found.point = v,
            Attribute::Modulus(v) => found.modulus = v,
            Attribute::PublicExponent(v) => found.exponent = v,
            Attribute::ParameterSet(v) => found.set = Some(v),
            Attribute::Value(v) => found.value = v,
            _ => {}
        }
    }
    let spki = match kind {
        Some(KeyType::EC) => ec_spki(&found.params, &found.point),
        Some(KeyType::EC_EDWARDS) => edwards_spki(&found.params, &found.point),
        Some(KeyType::RSA) => rsa_spki(&found.modulus, &found.exponent),
        Some(KeyType::ML_DSA) => ml_dsa_spki(found.set, &found.value),
        _ => Err("the token does not give a public key of a known type"),
    };
    let unsuitable = |reason: &'static str| HsmError::KeyUnsuitable { id: *id, reason: reason.into() };
    let spki = spki.map_err(unsuitable)?;
    Ok(PublicKey::from_spki_der(&spki).map_err(|_| unsuitable("its public key is not one that is accepted"))?)
}

fn ec_spki(params: &[u8], point: &[u8]) -> Result<Vec<u8>, &'static str> {
    let algorithm = match params {
        P256_PARAMS => KeyAlgorithm::EcP256,
        P384_PARAMS => KeyAlgorithm::EcP384,
        P521_PARAMS => KeyAlgorithm::EcP521,
        _ => return Err("its curve is not one of the named curves P-256, P-384 and P-521"),
    };
    let octets = 1 + 2 * curve_octets(algorithm).unwrap_or_default();
    let parameters = Any::from_der(params).map_err(|_| "its curve is malformed")?;
    spki(ID_EC_PUBLIC_KEY, Some(parameters), octets_of(point, octets)?)
}

fn edwards_spki(params: &[u8], point: &[u8]) -> Result<Vec<u8>, &'static str> {
    if params != ED25519_PARAMS && params != ED25519_NAME {
        return Err("its curve is not Ed25519");
    }
    spki(ED25519, None, octets_of(point, 32)?)
}

fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Result<Vec<u8>, &'static str> {
    let malformed = "its modulus or exponent is malformed";
    let key = RsaPublicKey {
        modulus: UintRef::new(modulus).map_err(|_| malformed)?,
        exponent: UintRef::new(exponent).map_err(|_| malformed)?,
    };
    spki(RSA_ENCRYPTION, Some(Any::from(AnyRef::NULL)), &key.to_der().map_err(|_| malformed)?)
}

/// CKA_VALUE is the encoded key itself (PKCS#11 3.2, ML-DSA public key objects); its length is checked where it is parsed.
fn ml_dsa_spki(set: Option<ParameterSetType>, value: &[u8]) -> Result<Vec<u8>, &'static str> {
    let oid = match set.map(MlDsaParameterSetType::from) {
        Some(MlDsaParameterSetType::ML_DSA_44) => ML_DSA_44,
        Some(MlDsaParameterSetType::ML_DSA_65) => ML_DSA_65,
        Some(MlDsaParameterSetType::ML_DSA_87) => ML_DSA_87,
        _ => return Err("its CKA_PARAMETER_SET is not one of ML-DSA-44, 65 and 87"),
    };
    spki(oid, None, value)
}

/// CKA_EC_POINT is an OCTET STRING around the point; some tokens give the point alone. The length tells which.
fn octets_of(point: &[u8], octets: usize) -> Result<&[u8], &'static str> {
    if point.len() == octets {
        return Ok(point);
    }
    let inner = <&OctetStringRef>::from_der(point).map_err(|_| "its CKA_EC_POINT is malformed")?.as_bytes();
    if inner.len() == octets { Ok(inner) } else { Err("its CKA_EC_POINT does not have the length of the curve") }
}

fn spki(oid: ObjectIdentifier, parameters: Option<Any>, key: &[u8]) -> Result<Vec<u8>, &'static str> {
    let malformed = "its public key cannot be encoded";
    SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned { oid, parameters },
        subject_public_key: BitString::from_bytes(key).map_err(|_| malformed)?,
    }
    .to_der()
    .map_err(|_| malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_taken_wrapped_and_raw_and_nothing_else() {
        let raw = [7; 32];
        let wrapped = [&[4, 32][..], &raw].concat();
        assert_eq!(octets_of(&raw, 32), Ok(&raw[..]));
        assert_eq!(octets_of(&wrapped, 32), Ok(&raw[..]));
        // 32 octets that happen to be an OCTET STRING are still the raw point.
        let tricky = [&[4, 30][..], &[9; 30]].concat();
        assert_eq!(octets_of(&tricky, 32), Ok(&tricky[..]));
        assert!(octets_of(&raw[..31], 32).is_err());
        assert!(octets_of(&[4, 31], 32).is_err());
    }

    #[test]
    fn ml_dsa_keys_are_named_by_their_parameter_set() {
        for (set, octets) in [
            (MlDsaParameterSetType::ML_DSA_44, 1312),
            (MlDsaParameterSetType::ML_DSA_65, 1952),
            (MlDsaParameterSetType::ML_DSA_87, 2592),
        ] {
            let spki = ml_dsa_spki(Some(set.into()), &vec![7; octets]);
            assert!(spki.is_ok_and(|spki| PublicKey::from_spki_der(&spki).is_ok()), "{set}");
            let short = ml_dsa_spki(Some(set.into()), &vec![7; octets - 1]);
            assert!(short.is_ok_and(|spki| PublicKey::from_spki_der(&spki).is_err()), "{set}");
        }
        assert!(ml_dsa_spki(None, &[7; 1312]).is_err());
    }

    #[test]
    fn explicit_curve_parameters_are_refused() {
        assert!(ec_spki(b"\x30\x03\x02\x01\x01", &[4; 65]).is_err());
        assert!(ec_spki(P256_PARAMS, &[4; 65]).is_ok());
        assert!(edwards_spki(b"\x06\x03\x2b\x65\x71", &[1; 32]).is_err());
    }
}
