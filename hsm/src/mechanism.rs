//! From our algorithms to the token's mechanisms, and from its signatures to X.509's encoding.

use crate::HsmError;
use ca_core::key::{KeyAlgorithm, SignatureAlgorithm};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::{Mechanism, MechanismType};
use der::asn1::UintRef;
use der::{Encode, Sequence};
use sha2::{Digest, Sha256, Sha384, Sha512};

pub(crate) const ALL: [SignatureAlgorithm; 7] = [
    SignatureAlgorithm::EcdsaSha256,
    SignatureAlgorithm::EcdsaSha384,
    SignatureAlgorithm::EcdsaSha512,
    SignatureAlgorithm::RsaPkcs1Sha256,
    SignatureAlgorithm::RsaPkcs1Sha384,
    SignatureAlgorithm::RsaPkcs1Sha512,
    SignatureAlgorithm::Ed25519,
];

/// What the token can do, read once at open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    mechanisms: Vec<MechanismType>,
}

/// Input for one C_Sign, made by the caller's thread so that hashing never holds up the token.
pub(crate) struct Prepared {
    algorithm: SignatureAlgorithm,
    raw: bool,
    data: Vec<u8>,
}

impl Capabilities {
    pub fn new(mechanisms: Vec<MechanismType>) -> Self {
        Self { mechanisms }
    }

    /// From CK_MECHANISM_TYPE values; unknown ones are left out.
    pub fn from_numbers(numbers: &[u64]) -> Self {
        Self::new(numbers.iter().filter_map(|n| MechanismType::try_from(*n).ok()).collect())
    }

    fn has(&self, mechanism: MechanismType) -> bool {
        self.mechanisms.contains(&mechanism)
    }

    pub fn signs(&self, algorithm: SignatureAlgorithm) -> bool {
        (is_ecdsa(algorithm) && self.has(MechanismType::ECDSA)) || self.has(hashing(algorithm).mechanism_type())
    }

    pub fn signature_algorithms(&self) -> Vec<SignatureAlgorithm> {
        ALL.into_iter().filter(|a| self.signs(*a)).collect()
    }

    pub fn generates(&self, algorithm: KeyAlgorithm) -> bool {
        self.has(match algorithm {
            KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::EcP521 => MechanismType::ECC_KEY_PAIR_GEN,
            KeyAlgorithm::Ed25519 => MechanismType::ECC_EDWARDS_KEY_PAIR_GEN,
            KeyAlgorithm::Rsa(_) => MechanismType::RSA_PKCS_KEY_PAIR_GEN,
        })
    }

    /// Chooses raw CKM_ECDSA over a digest made here where the token has it (all do but a few), else the mechanism
    /// that hashes on the token.
    pub fn prepare(&self, algorithm: SignatureAlgorithm, message: Vec<u8>) -> Result<Prepared, HsmError> {
        if !self.signs(algorithm) {
            return Err(HsmError::Unsupported { what: format!("{algorithm:?} signatures") });
        }
        let raw = is_ecdsa(algorithm) && self.has(MechanismType::ECDSA);
        let data = match algorithm {
            SignatureAlgorithm::EcdsaSha256 if raw => Sha256::digest(&message).to_vec(),
            SignatureAlgorithm::EcdsaSha384 if raw => Sha384::digest(&message).to_vec(),
            SignatureAlgorithm::EcdsaSha512 if raw => Sha512::digest(&message).to_vec(),
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
        if self.raw { Mechanism::Ecdsa } else { hashing(self.algorithm) }
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

fn is_ecdsa(algorithm: SignatureAlgorithm) -> bool {
    use SignatureAlgorithm as S;
    matches!(algorithm, S::EcdsaSha256 | S::EcdsaSha384 | S::EcdsaSha512)
}

fn hashing(algorithm: SignatureAlgorithm) -> Mechanism<'static> {
    match algorithm {
        SignatureAlgorithm::EcdsaSha256 => Mechanism::EcdsaSha256,
        SignatureAlgorithm::EcdsaSha384 => Mechanism::EcdsaSha384,
        SignatureAlgorithm::EcdsaSha512 => Mechanism::EcdsaSha512,
        SignatureAlgorithm::RsaPkcs1Sha256 => Mechanism::Sha256RsaPkcs,
        SignatureAlgorithm::RsaPkcs1Sha384 => Mechanism::Sha384RsaPkcs,
        SignatureAlgorithm::RsaPkcs1Sha512 => Mechanism::Sha512RsaPkcs,
        SignatureAlgorithm::Ed25519 => Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)),
    }
}

/// True when keys of `key` make signatures of `algorithm`.
pub(crate) fn fits(key: KeyAlgorithm, algorithm: SignatureAlgorithm) -> bool {
    match key {
        KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::EcP521 => is_ecdsa(algorithm),
        KeyAlgorithm::Ed25519 => algorithm == SignatureAlgorithm::Ed25519,
        KeyAlgorithm::Rsa(_) => !is_ecdsa(algorithm) && algorithm != SignatureAlgorithm::Ed25519,
    }
}

/// Octets of a field element and of r and s; `None` for keys without a prime curve.
pub(crate) fn curve_octets(key: KeyAlgorithm) -> Option<usize> {
    match key {
        KeyAlgorithm::EcP256 => Some(32),
        KeyAlgorithm::EcP384 => Some(48),
        KeyAlgorithm::EcP521 => Some(66),
        KeyAlgorithm::Ed25519 | KeyAlgorithm::Rsa(_) => None,
    }
}

/// The token's signature as X.509 wants it, after a check of its length.
pub(crate) fn encode(key: KeyAlgorithm, raw: Vec<u8>) -> Result<Vec<u8>, HsmError> {
    match key {
        KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::EcP521 => ecdsa_der(key, &raw),
        KeyAlgorithm::Ed25519 if raw.len() == 64 => Ok(raw),
        KeyAlgorithm::Rsa(bits) if raw.len() == usize::from(bits).div_ceil(8) => Ok(raw),
        KeyAlgorithm::Ed25519 | KeyAlgorithm::Rsa(_) => {
            Err(HsmError::MalformedSignature { reason: "its length is not that of the key".into() })
        }
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
