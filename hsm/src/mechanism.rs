//! From our algorithms to the token's mechanisms, and from its signatures to X.509's encoding.

use crate::HsmError;
use ca_core::key::{KeyAlgorithm, SignatureAlgorithm};
use cryptoki::mechanism::dsa::{HedgeType, SignAdditionalContext};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use der::asn1::{Any, OctetStringRef, UintRef};
use der::oid::AssociatedOid;
use der::{Encode, Sequence};
use sha2::{Digest, Sha256, Sha384, Sha512};
use spki::AlgorithmIdentifierOwned;
use std::ffi::c_ulong;

/// What the token can do, read once at open: the CKM_ numbers of its mechanisms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) mechanisms: Vec<u64>,
}

/// Input for one C_Sign, made by the caller's thread so that hashing never holds up the token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub(crate) algorithm: SignatureAlgorithm,
    /// `data` is a digest (PKCS#1: a DigestInfo) and the mechanism does not hash; else it is the message.
    pub(crate) raw: bool,
    pub(crate) data: Vec<u8>,
}

impl Capabilities {
    #[cfg(test)]
    pub fn new(mechanisms: Vec<MechanismType>) -> Self {
        Self { mechanisms: mechanisms.into_iter().map(number).collect() }
    }

    /// From CK_MECHANISM_TYPE values.
    pub fn from_numbers(numbers: &[u64]) -> Self {
        Self { mechanisms: numbers.to_vec() }
    }

    fn has(&self, mechanism: MechanismType) -> bool {
        self.mechanisms.contains(&number(mechanism))
    }

    pub fn signs(&self, algorithm: SignatureAlgorithm) -> bool {
        self.has(hashing(algorithm).mechanism_type()) || self.signs_raw(algorithm)
    }

    fn signs_raw(&self, algorithm: SignatureAlgorithm) -> bool {
        raw(algorithm).is_some_and(|mechanism| self.has(mechanism.mechanism_type()))
    }

    pub fn signature_algorithms(&self) -> Vec<SignatureAlgorithm> {
        SignatureAlgorithm::ALL.into_iter().filter(|a| self.signs(*a)).collect()
    }

    pub fn generates(&self, algorithm: KeyAlgorithm) -> bool {
        self.has(match algorithm {
            KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::EcP521 => MechanismType::ECC_KEY_PAIR_GEN,
            KeyAlgorithm::Ed25519 => MechanismType::ECC_EDWARDS_KEY_PAIR_GEN,
            KeyAlgorithm::Rsa(_) => MechanismType::RSA_PKCS_KEY_PAIR_GEN,
            KeyAlgorithm::MlDsa44 | KeyAlgorithm::MlDsa65 | KeyAlgorithm::MlDsa87 => MechanismType::ML_DSA_KEY_PAIR_GEN,
        })
    }

    /// Chooses raw CKM_ECDSA over a digest made here where the token has it (all do but a few), and for RSA the
    /// mechanism that hashes on the token (some allow no other with keys of a CA); else what there is.
    pub fn prepare(&self, algorithm: SignatureAlgorithm, message: Vec<u8>) -> Result<Prepared, HsmError> {
        if !self.signs(algorithm) {
            return Err(HsmError::Unsupported { what: format!("{algorithm} signatures") });
        }
        let prefer_raw = is_ecdsa(algorithm) || !self.has(hashing(algorithm).mechanism_type());
        let raw = prefer_raw && self.signs_raw(algorithm);
        let data = match hash(algorithm) {
            Some(hash) if raw && is_pkcs1(algorithm) => hash.digest_info(&message)?,
            Some(hash) if raw => hash.digest(&message),
            _ => message,
        };
        Ok(Prepared { algorithm, raw, data })
    }
}

impl Prepared {
    /// For the way to a signer.
    pub fn into_parts(self) -> (SignatureAlgorithm, bool, Vec<u8>) {
        (self.algorithm, self.raw, self.data)
    }

    /// As it left [`Prepared::into_parts`].
    pub fn from_parts(algorithm: SignatureAlgorithm, raw: bool, data: Vec<u8>) -> Self {
        Self { algorithm, raw, data }
    }

    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    pub fn mechanism(&self) -> Mechanism<'static> {
        raw(self.algorithm).filter(|_| self.raw).unwrap_or_else(|| hashing(self.algorithm))
    }

    /// The octets for C_Sign with a key of `key`. A digest longer than the curve's order is cut to its leftmost
    /// octets, as FIPS 186-5 6.4.1 and CKM_ECDSA do; tokens differ in whether they do it or refuse.
    pub fn data(&self, key: KeyAlgorithm) -> &[u8] {
        match curve_octets(key) {
            Some(octets) if self.raw => self.data.get(..octets).unwrap_or(&self.data),
            _ => &self.data,
        }
    }
}

// CK_ULONG has 32 bits on some machines.
#[allow(clippy::useless_conversion, reason = "not useless where CK_ULONG is shorter")]
fn number(mechanism: MechanismType) -> u64 {
    u64::from(*mechanism)
}

/// The hash of a signature algorithm that hashes the message first.
#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Sequence)]
struct DigestInfo<'a> {
    algorithm: AlgorithmIdentifierOwned,
    digest: &'a OctetStringRef,
}

impl Hash {
    fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(message).to_vec(),
            Self::Sha384 => Sha384::digest(message).to_vec(),
            Self::Sha512 => Sha512::digest(message).to_vec(),
        }
    }

    /// What CKM_RSA_PKCS signs (RFC 8017 9.2, step 2): it pads, and no more.
    fn digest_info(self, message: &[u8]) -> Result<Vec<u8>, HsmError> {
        let oid = match self {
            Self::Sha256 => Sha256::OID,
            Self::Sha384 => Sha384::OID,
            Self::Sha512 => Sha512::OID,
        };
        let unencodable = |_| HsmError::Unsupported { what: "a DigestInfo of this length".to_owned() };
        DigestInfo {
            algorithm: AlgorithmIdentifierOwned { oid, parameters: Some(Any::null()) },
            digest: OctetStringRef::new(&self.digest(message)).map_err(unencodable)?,
        }
        .to_der()
        .map_err(unencodable)
    }

    /// MGF1 with the same hash and a salt of its length: what the AlgorithmIdentifier will say (RFC 4055 3.1).
    fn pss(self) -> PkcsPssParams {
        let (hash_alg, mgf, salt): (_, _, c_ulong) = match self {
            Self::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32),
            Self::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48),
            Self::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64),
        };
        PkcsPssParams { hash_alg, mgf, s_len: salt.into() }
    }
}

fn hash(algorithm: SignatureAlgorithm) -> Option<Hash> {
    use SignatureAlgorithm as S;
    Some(match algorithm {
        S::EcdsaSha256 | S::RsaPkcs1Sha256 | S::RsaPssSha256 => Hash::Sha256,
        S::EcdsaSha384 | S::RsaPkcs1Sha384 | S::RsaPssSha384 => Hash::Sha384,
        S::EcdsaSha512 | S::RsaPkcs1Sha512 | S::RsaPssSha512 => Hash::Sha512,
        S::Ed25519 | S::MlDsa44 | S::MlDsa65 | S::MlDsa87 => return None,
    })
}

fn is_ecdsa(algorithm: SignatureAlgorithm) -> bool {
    use SignatureAlgorithm as S;
    matches!(algorithm, S::EcdsaSha256 | S::EcdsaSha384 | S::EcdsaSha512)
}

fn is_pkcs1(algorithm: SignatureAlgorithm) -> bool {
    use SignatureAlgorithm as S;
    matches!(algorithm, S::RsaPkcs1Sha256 | S::RsaPkcs1Sha384 | S::RsaPkcs1Sha512)
}

/// The mechanism that takes the message.
fn hashing(algorithm: SignatureAlgorithm) -> Mechanism<'static> {
    match algorithm {
        SignatureAlgorithm::EcdsaSha256 => Mechanism::EcdsaSha256,
        SignatureAlgorithm::EcdsaSha384 => Mechanism::EcdsaSha384,
        SignatureAlgorithm::EcdsaSha512 => Mechanism::EcdsaSha512,
        SignatureAlgorithm::RsaPkcs1Sha256 => Mechanism::Sha256RsaPkcs,
        SignatureAlgorithm::RsaPkcs1Sha384 => Mechanism::Sha384RsaPkcs,
        SignatureAlgorithm::RsaPkcs1Sha512 => Mechanism::Sha512RsaPkcs,
        SignatureAlgorithm::RsaPssSha256 => Mechanism::Sha256RsaPkcsPss(Hash::Sha256.pss()),
        SignatureAlgorithm::RsaPssSha384 => Mechanism::Sha384RsaPkcsPss(Hash::Sha384.pss()),
        SignatureAlgorithm::RsaPssSha512 => Mechanism::Sha512RsaPkcsPss(Hash::Sha512.pss()),
        SignatureAlgorithm::Ed25519 => Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)),
        // No parameters: the context is empty, and the token adds randomness where it can.
        SignatureAlgorithm::MlDsa44 | SignatureAlgorithm::MlDsa65 | SignatureAlgorithm::MlDsa87 => {
            Mechanism::MlDsa(SignAdditionalContext::new(HedgeType::Preferred, None))
        }
    }
}

/// The mechanism that takes a digest; `None` where there is none.
fn raw(algorithm: SignatureAlgorithm) -> Option<Mechanism<'static>> {
    use SignatureAlgorithm as S;
    Some(match algorithm {
        S::EcdsaSha256 | S::EcdsaSha384 | S::EcdsaSha512 => Mechanism::Ecdsa,
        S::RsaPkcs1Sha256 | S::RsaPkcs1Sha384 | S::RsaPkcs1Sha512 => Mechanism::RsaPkcs,
        S::RsaPssSha256 | S::RsaPssSha384 | S::RsaPssSha512 => Mechanism::RsaPkcsPss(hash(algorithm)?.pss()),
        S::Ed25519 | S::MlDsa44 | S::MlDsa65 | S::MlDsa87 => return None,
    })
}

/// True when keys of `key` make signatures of `algorithm`.
pub(crate) fn fits(key: KeyAlgorithm, algorithm: SignatureAlgorithm) -> bool {
    key.signs_with(algorithm)
}

/// Octets of a field element and of r and s; `None` for keys without a prime curve.
pub(crate) fn curve_octets(key: KeyAlgorithm) -> Option<usize> {
    match key {
        KeyAlgorithm::EcP256 => Some(32),
        KeyAlgorithm::EcP384 => Some(48),
        KeyAlgorithm::EcP521 => Some(66),
        _ => None,
    }
}

/// The token's signature as X.509 wants it, after a check of its length.
pub(crate) fn encode(key: KeyAlgorithm, raw: Vec<u8>) -> Result<Vec<u8>, HsmError> {
    let octets = match key {
        KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::EcP521 => return ecdsa_der(key, &raw),
        KeyAlgorithm::Ed25519 => 64,
        KeyAlgorithm::Rsa(bits) => usize::from(bits).div_ceil(8),
        // FIPS 204, table 2.
        KeyAlgorithm::MlDsa44 => 2420,
        KeyAlgorithm::MlDsa65 => 3309,
        KeyAlgorithm::MlDsa87 => 4627,
    };
    if raw.len() == octets {
        Ok(raw)
    } else {
        Err(HsmError::MalformedSignature { reason: "its length is not that of the key".into() })
    }
}

#[derive(Sequence)]
struct EcdsaSigValue<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// PKCS#11's `r || s` as an Ecdsa-Sig-Value (RFC 3279 2.2.3).
///
/// # Errors
/// [`HsmError::MalformedSignature`] unless `raw` has exactly twice the octets of the curve and r and s are not zero.
pub fn ecdsa_der(key: KeyAlgorithm, raw: &[u8]) -> Result<Vec<u8>, HsmError> {
    let malformed = |reason: &'static str| HsmError::MalformedSignature { reason: reason.into() };
    let octets = curve_octets(key).ok_or(malformed("the key has no prime curve"))?;
    if raw.len() != 2 * octets {
        return Err(malformed("r and s do not have the length of the curve"));
    }
    let (r, s) = raw.split_at(octets);
    if r.iter().all(|b| *b == 0) || s.iter().all(|b| *b == 0) {
        return Err(malformed("r or s is zero"));
    }
    let value = |octets| UintRef::new(octets).map_err(|_| malformed("r or s is not encodable"));
    EcdsaSigValue { r: value(r)?, s: value(s)? }.to_der().map_err(|_| malformed("r or s is not encodable"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use der::Decode;
    use proptest::prelude::*;

    fn left_pad(value: &[u8], octets: usize) -> Vec<u8> {
        let mut padded = vec![0; octets - value.len()];
        padded.extend_from_slice(value);
        padded
    }

    #[test]
    fn raw_ecdsa_is_preferred_and_digests_are_cut_to_the_curve() {
        let raw = Capabilities::new(vec![MechanismType::ECDSA, MechanismType::ECDSA_SHA256]);
        let prepared = raw.prepare(SignatureAlgorithm::EcdsaSha512, b"m".to_vec()).unwrap();
        assert!(matches!(prepared.mechanism(), Mechanism::Ecdsa));
        assert_eq!(prepared.data(KeyAlgorithm::EcP256), &Sha512::digest(b"m")[..32]);
        assert_eq!(prepared.data(KeyAlgorithm::EcP521).len(), 64);

        let hashed = Capabilities::new(vec![MechanismType::ECDSA_SHA256]);
        let prepared = hashed.prepare(SignatureAlgorithm::EcdsaSha256, b"m".to_vec()).unwrap();
        assert!(matches!(prepared.mechanism(), Mechanism::EcdsaSha256));
        assert_eq!(prepared.data(KeyAlgorithm::EcP256), b"m");
        assert!(matches!(
            hashed.prepare(SignatureAlgorithm::EcdsaSha384, Vec::new()),
            Err(HsmError::Unsupported { .. })
        ));
        assert_eq!(hashed.signature_algorithms(), [SignatureAlgorithm::EcdsaSha256]);
    }

    #[test]
    fn rsa_is_hashed_on_the_token_where_it_can_and_here_where_it_cannot() {
        use SignatureAlgorithm as S;
        let both = [
            MechanismType::SHA256_RSA_PKCS,
            MechanismType::RSA_PKCS,
            MechanismType::SHA256_RSA_PKCS_PSS,
            MechanismType::RSA_PKCS_PSS,
        ];
        let both = Capabilities::new(both.to_vec());
        let bare = Capabilities::new(vec![MechanismType::RSA_PKCS, MechanismType::RSA_PKCS_PSS]);
        for (algorithm, hashed, plain) in [
            (S::RsaPkcs1Sha256, MechanismType::SHA256_RSA_PKCS, MechanismType::RSA_PKCS),
            (S::RsaPssSha256, MechanismType::SHA256_RSA_PKCS_PSS, MechanismType::RSA_PKCS_PSS),
        ] {
            let prepared = both.prepare(algorithm, b"m".to_vec()).unwrap();
            assert_eq!(
                (prepared.mechanism().mechanism_type(), prepared.data(KeyAlgorithm::Rsa(2048))),
                (hashed, &b"m"[..])
            );
            assert_eq!(bare.prepare(algorithm, b"m".to_vec()).unwrap().mechanism().mechanism_type(), plain);
        }
        // The DigestInfo of RFC 8017 9.2, note 1, for SHA-512.
        let prefix = hex::decode("3051300d060960864801650304020305000440").unwrap();
        let prepared = bare.prepare(S::RsaPkcs1Sha512, b"m".to_vec()).unwrap();
        assert_eq!(prepared.data(KeyAlgorithm::Rsa(2048)), [&prefix[..], &Sha512::digest(b"m")].concat());
        let prepared = bare.prepare(S::RsaPssSha384, b"m".to_vec()).unwrap();
        assert_eq!(prepared.data(KeyAlgorithm::Rsa(2048)), &Sha384::digest(b"m")[..]);
        let Mechanism::RsaPkcsPss(parameters) = prepared.mechanism() else { panic!("{:?}", prepared.mechanism()) };
        assert_eq!((parameters.hash_alg, parameters.mgf), (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384));
        assert_eq!(parameters.s_len, 48.into());
    }

    #[test]
    fn ml_dsa_takes_the_message_and_needs_its_own_mechanism() {
        let able = Capabilities::new(vec![MechanismType::ML_DSA, MechanismType::ML_DSA_KEY_PAIR_GEN]);
        let prepared = able.prepare(SignatureAlgorithm::MlDsa65, b"m".to_vec()).unwrap();
        assert_eq!(prepared.data(KeyAlgorithm::MlDsa65), b"m");
        assert_eq!(prepared.mechanism().mechanism_type(), MechanismType::ML_DSA);
        assert!(able.generates(KeyAlgorithm::MlDsa87) && !able.generates(KeyAlgorithm::EcP256));
        let other = Capabilities::new(vec![MechanismType::HASH_ML_DSA_SHA512]);
        assert!(!other.signs(SignatureAlgorithm::MlDsa65));
        assert!(encode(KeyAlgorithm::MlDsa44, vec![1; 2420]).is_ok());
        assert!(encode(KeyAlgorithm::MlDsa44, vec![1; 3309]).is_err());
    }

    #[test]
    fn wrong_lengths_and_zero_are_refused() {
        for raw in [vec![1; 63], vec![1; 65], vec![1; 96], Vec::new(), vec![0; 64], [vec![0; 32], vec![1; 32]].concat()]
        {
            assert!(ecdsa_der(KeyAlgorithm::EcP256, &raw).is_err(), "{raw:?}");
        }
        assert!(ecdsa_der(KeyAlgorithm::Ed25519, &[1; 64]).is_err());
        assert!(encode(KeyAlgorithm::Rsa(2048), vec![1; 255]).is_err());
        assert!(encode(KeyAlgorithm::Ed25519, vec![1; 63]).is_err());
    }

    proptest! {
        #[test]
        fn conversion_keeps_r_and_s(seed in proptest::collection::vec(any::<u8>(), 132), zeros in 0usize..40, curve in 0usize..3) {
            let key = [KeyAlgorithm::EcP256, KeyAlgorithm::EcP384, KeyAlgorithm::EcP521][curve];
            let octets = curve_octets(key).unwrap();
            let mut raw = seed[..2 * octets].to_vec();
            // Leading zeros are what conversions get wrong; keep the last octet so that r is not zero.
            for octet in raw.iter_mut().take(zeros.min(octets - 1)) {
                *octet = 0;
            }
            raw[octets - 1] |= 1;
            raw[2 * octets - 1] |= 1;
            let der = ecdsa_der(key, &raw).unwrap();
            let value = EcdsaSigValue::from_der(&der).unwrap();
            let back = [left_pad(value.r.as_bytes(), octets), left_pad(value.s.as_bytes(), octets)].concat();
            prop_assert_eq!(back, raw);
        }
    }
}
