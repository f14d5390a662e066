//! A strict reader and writer for TPM 2.0 structures: big-endian, every length checked, nothing left over.

use super::attributes::Attributes;
use ca_core::key::{KeyAlgorithm, KeyError, PublicKey};
use const_oid::{ObjectIdentifier, db::rfc5912};
use der::{Any, Decode, Encode, Sequence, asn1::BitString, asn1::UintRef};
use sha2::{Digest, Sha256, Sha384, Sha512};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

/// The longest structure that is read, in octets: TPMT_PUBLIC, TPMS_ATTEST and TPMT_SIGNATURE each.
pub const MAX_STRUCTURE: usize = 1024;

pub(crate) const ALG_RSA: u16 = 0x0001;
pub(crate) const ALG_AES: u16 = 0x0006;
pub(crate) const ALG_NULL: u16 = 0x0010;
pub(crate) const ALG_RSASSA: u16 = 0x0014;
pub(crate) const ALG_RSAPSS: u16 = 0x0016;
pub(crate) const ALG_ECDSA: u16 = 0x0018;
pub(crate) const ALG_ECC: u16 = 0x0023;
pub(crate) const ALG_CFB: u16 = 0x0043;
pub(crate) const CURVE_P256: u16 = 0x0003;
pub(crate) const CURVE_P384: u16 = 0x0004;

/// Why a TPM structure was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TpmError {
    /// The octets end inside a field.
    #[error("the structure ends too early")]
    Short,
    /// Octets follow the last field.
    #[error("octets follow the end of the structure")]
    Trailing,
    /// More octets than the limit.
    #[error("the structure is longer than {0} octets")]
    TooLong(usize),
    /// An algorithm that is not accepted, for example SHA-1.
    #[error("algorithm {0:#06x} is not accepted here")]
    Algorithm(u16),
    /// A field with a value that is not accepted.
    #[error("{0}")]
    Invalid(&'static str),
    /// The public key itself is not acceptable.
    #[error("the public key is refused: {0}")]
    Key(#[from] KeyError),
}

/// Reads fields from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Over all of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `n` octets.
    ///
    /// # Errors
    /// [`TpmError::Short`].
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], TpmError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(TpmError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TpmError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(TpmError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    /// One octet.
    ///
    /// # Errors
    /// [`TpmError::Short`].
    pub fn u8(&mut self) -> Result<u8, TpmError> {
        self.array().map(u8::from_be_bytes)
    }

    /// A UINT16.
    ///
    /// # Errors
    /// [`TpmError::Short`].
    pub fn u16(&mut self) -> Result<u16, TpmError> {
        self.array().map(u16::from_be_bytes)
    }

    /// A UINT32.
    ///
    /// # Errors
    /// [`TpmError::Short`].
    pub fn u32(&mut self) -> Result<u32, TpmError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A UINT64.
    ///
    /// # Errors
    /// [`TpmError::Short`].
    pub fn u64(&mut self) -> Result<u64, TpmError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A TPM2B: the contents, without the size.
    ///
    /// # Errors
    /// [`TpmError::Short`].
    pub fn sized(&mut self) -> Result<&'a [u8], TpmError> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// States that everything has been read.
    ///
    /// # Errors
    /// [`TpmError::Trailing`].
    pub fn end(&self) -> Result<(), TpmError> {
        if self.0.is_empty() { Ok(()) } else { Err(TpmError::Trailing) }
    }
}

/// Appends fields.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }
    /// Octets as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    /// One octet.
    #[must_use]
    pub fn u8(self, value: u8) -> Self {
        self.bytes(&[value])
    }
    /// A UINT16.
    #[must_use]
    pub fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }
    /// A UINT32.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }
    /// A TPM2B: size and contents. Contents beyond 65,535 octets, which no TPM structure has, are cut off.
    #[must_use]
    pub fn sized(self, contents: &[u8]) -> Self {
        let size = u16::try_from(contents.len()).unwrap_or(u16::MAX);
        self.u16(size).bytes(contents.get(..usize::from(size)).unwrap_or_default())
    }
    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A hash algorithm (TPMI_ALG_HASH). SHA-1 does not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashAlgorithm {
    /// SHA-256, 0x000B.
    Sha256,
    /// SHA-384, 0x000C.
    Sha384,
    /// SHA-512, 0x000D.
    Sha512,
}

impl HashAlgorithm {
    /// From a TPM_ALG_ID.
    ///
    /// # Errors
    /// [`TpmError::Algorithm`] for SHA-1 and everything else that is not listed.
    pub fn from_id(id: u16) -> Result<Self, TpmError> {
        match id {
            0x000b => Ok(Self::Sha256),
            0x000c => Ok(Self::Sha384),
            0x000d => Ok(Self::Sha512),
            other => Err(TpmError::Algorithm(other)),
        }
    }

    /// The TPM_ALG_ID.
    pub fn id(self) -> u16 {
        match self {
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// Octets of a digest.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of the parts, one after the other.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        fn over<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
            let mut digest = D::new();
            parts.iter().for_each(|p| digest.update(p));
            digest.finalize().to_vec()
        }
        match self {
            Self::Sha256 => over::<Sha256>(parts),
            Self::Sha384 => over::<Sha384>(parts),
            Self::Sha512 => over::<Sha512>(parts),
        }
    }
}

/// A signing scheme (TPMT_SIG_SCHEME) with its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5.
    RsaSsa(HashAlgorithm),
    /// RSASSA-PSS; parsed, but nothing is verified with it.
    RsaPss(HashAlgorithm),
    /// ECDSA.
    Ecdsa(HashAlgorithm),
}

impl Scheme {
    pub(crate) fn write(scheme: Option<Self>, to: Writer) -> Writer {
        match scheme {
            None => to.u16(ALG_NULL),
            Some(Self::RsaSsa(h)) => to.u16(ALG_RSASSA).u16(h.id()),
            Some(Self::RsaPss(h)) => to.u16(ALG_RSAPSS).u16(h.id()),
            Some(Self::Ecdsa(h)) => to.u16(ALG_ECDSA).u16(h.id()),
        }
    }
}

/// A TPMT_PUBLIC (Part 2, 12.2.4) of an RSA or ECC key whose public key is acceptable: on its curve, RSA of 2048 to
/// 4096 bits with exponent 65537.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    raw: Vec<u8>,
    name_alg: HashAlgorithm,
    attributes: Attributes,
    auth_policy: Vec<u8>,
    symmetric: Option<u16>,
    scheme: Option<Scheme>,
    key: PublicKey,
}

impl Public {
    /// Reads a TPMT_PUBLIC without its TPM2B size, at most [`MAX_STRUCTURE`] octets.
    ///
    /// # Errors
    /// [`TpmError`], also for octets that follow, reserved attributes and points off their curve.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmError> {
        if bytes.len() > MAX_STRUCTURE {
            return Err(TpmError::TooLong(MAX_STRUCTURE));
        }
        let mut r = Reader::new(bytes);
        let kind = r.u16()?;
        let name_alg = HashAlgorithm::from_id(r.u16()?)?;
        let attributes = Attributes::from_bits(r.u32()?).ok_or(TpmError::Invalid("a reserved attribute is set"))?;
        let auth_policy = r.sized()?.to_vec();
        if !auth_policy.is_empty() && auth_policy.len() != name_alg.digest_len() {
            return Err(TpmError::Invalid("authPolicy is not a digest of nameAlg's size"));
        }
        if kind != ALG_RSA && kind != ALG_ECC {
            return Err(TpmError::Algorithm(kind));
        }
        let symmetric = match r.u16()? {
            ALG_NULL => None,
            ALG_AES => {
                let bits = r.u16()?;
                if !matches!(bits, 128 | 256) || r.u16()? != ALG_CFB {
                    return Err(TpmError::Invalid("the symmetric algorithm is not AES-CFB with 128 or 256 bits"));
                }
                Some(bits)
            }
            other => return Err(TpmError::Algorithm(other)),
        };
        let scheme = match (r.u16()?, kind) {
            (ALG_NULL, _) => None,
            (ALG_RSASSA, ALG_RSA) => Some(Scheme::RsaSsa(HashAlgorithm::from_id(r.u16()?)?)),
            (ALG_RSAPSS, ALG_RSA) => Some(Scheme::RsaPss(HashAlgorithm::from_id(r.u16()?)?)),
            (ALG_ECDSA, ALG_ECC) => Some(Scheme::Ecdsa(HashAlgorithm::from_id(r.u16()?)?)),
            (other, _) => return Err(TpmError::Algorithm(other)),
        };
        let key = if kind == ALG_RSA { read_rsa(&mut r)? } else { read_ecc(&mut r)? };
        r.end()?;
        Ok(Self { raw: bytes.to_vec(), name_alg, attributes, auth_policy, symmetric, scheme, key })
    }

    /// The octets as they were read.
    pub fn as_bytes(&self) -> &[u8] {
        &self.raw
    }
    /// The hash of the object's name.
    pub fn name_alg(&self) -> HashAlgorithm {
        self.name_alg
    }
    /// The attributes.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }
    /// The policy digest; empty when there is none.
    pub fn auth_policy(&self) -> &[u8] {
        &self.auth_policy
    }
    /// The AES-CFB key size in bits of a storage key; `None` for TPM_ALG_NULL.
    pub fn symmetric_bits(&self) -> Option<u16> {
        self.symmetric
    }
    /// The fixed scheme; `None` for TPM_ALG_NULL.
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }
    /// The public key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
    /// The object's Name: nameAlg and the digest of the TPMT_PUBLIC (Part 1, 16).
    pub fn name(&self) -> Vec<u8> {
        Writer::new().u16(self.name_alg.id()).bytes(&self.name_alg.digest(&[&self.raw])).finish()
    }
}

/// The key of a TPMT_PUBLIC as an X.509 public key.
///
/// # Errors
/// As [`Public::parse`].
pub fn spki_from_public(public: &[u8]) -> Result<PublicKey, TpmError> {
    Public::parse(public).map(|p| p.key)
}

#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

const MALFORMED: TpmError = TpmError::Key(KeyError::Malformed);

fn read_rsa(r: &mut Reader<'_>) -> Result<PublicKey, TpmError> {
    let bits = r.u16()?;
    // 0 stands for 65537 (Part 2, 12.2.3.5).
    if !matches!(r.u32()?, 0 | 65537) {
        return Err(TpmError::Key(KeyError::RsaExponent));
    }
    let modulus = r.sized()?;
    if modulus.len() * 8 != usize::from(bits) || modulus.first().is_none_or(|b| b & 0x80 == 0) {
        return Err(TpmError::Invalid("the RSA modulus has not the stated size"));
    }
    let pkcs1 = UintRef::new(modulus)
        .and_then(|modulus| RsaPublicKey { modulus, exponent: UintRef::new(&[1, 0, 1])? }.to_der())
        .map_err(|_| MALFORMED)?;
    public_key(rfc5912::RSA_ENCRYPTION, Some(Any::null()), &pkcs1)
}

fn read_ecc(r: &mut Reader<'_>) -> Result<PublicKey, TpmError> {
    let (oid, octets) = match r.u16()? {
        CURVE_P256 => (rfc5912::SECP_256_R_1, 32),
        CURVE_P384 => (rfc5912::SECP_384_R_1, 48),
        other => return Err(TpmError::Algorithm(other)),
    };
    if r.u16()? != ALG_NULL {
        return Err(TpmError::Invalid("the key derivation scheme is not TPM_ALG_NULL"));
    }
    // Some TPMs strip leading zeros of a coordinate.
    let x = left_padded(r.sized()?, octets)?;
    let y = left_padded(r.sized()?, octets)?;
    let curve = Any::encode_from(&oid).map_err(|_| MALFORMED)?;
    public_key(rfc5912::ID_EC_PUBLIC_KEY, Some(curve), &[&[4], x.as_slice(), &y].concat())
}

fn public_key(oid: ObjectIdentifier, parameters: Option<Any>, bits: &[u8]) -> Result<PublicKey, TpmError> {
    let spki = BitString::from_bytes(bits)
        .and_then(|subject_public_key| {
            let algorithm = AlgorithmIdentifierOwned { oid, parameters };
            SubjectPublicKeyInfoOwned { algorithm, subject_public_key }.to_der()
        })
        .map_err(|_| MALFORMED)?;
    Ok(PublicKey::from_spki_der(&spki)?)
}

pub(crate) fn left_padded(value: &[u8], octets: usize) -> Result<Vec<u8>, TpmError> {
    let missing = octets.checked_sub(value.len()).ok_or(TpmError::Invalid("a number is longer than its curve"))?;
    let mut out = vec![0; missing];
    out.extend_from_slice(value);
    Ok(out)
}

/// The modulus of an RSA key, minimal big-endian.
pub(crate) fn rsa_modulus(key: &PublicKey) -> Option<Vec<u8>> {
    matches!(key.algorithm(), KeyAlgorithm::Rsa(_))
        .then(|| RsaPublicKey::from_der(key.key_bits()).ok().map(|k| k.modulus.as_bytes().to_vec()))
        .flatten()
}

/// The coordinates of a P-256 or P-384 key, at full size.
pub(crate) fn coordinates(key: &PublicKey) -> Option<(&[u8], &[u8])> {
    matches!(key.algorithm(), KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384)
        .then(|| key.key_bits().get(1..).map(|xy| xy.split_at(xy.len() / 2)))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_checked() {
        assert_eq!(Reader::new(&[0, 2, 1]).sized(), Err(TpmError::Short));
        assert_eq!(Reader::new(&[0]).u16(), Err(TpmError::Short));
        assert_eq!(Public::parse(&[0; MAX_STRUCTURE + 1]), Err(TpmError::TooLong(MAX_STRUCTURE)));
        assert_eq!(HashAlgorithm::from_id(4), Err(TpmError::Algorithm(4)));
    }

    proptest! {
        #[test]
        fn fields_come_back(a: u16, b: u32, c in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Writer::new().u16(a).sized(&c).u32(b).u8(7).finish();
            let mut r = Reader::new(&bytes);
            prop_assert_eq!(r.u16(), Ok(a));
            prop_assert_eq!(r.sized(), Ok(&c[..]));
            prop_assert_eq!(r.u32(), Ok(b));
            prop_assert_eq!(r.end(), Err(TpmError::Trailing));
            prop_assert_eq!(r.u8(), Ok(7));
            prop_assert_eq!(r.end(), Ok(()));
        }

        #[test]
        fn any_octets_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            // Random octets never hold a point of the curve or a proper modulus.
            prop_assert!(Public::parse(&bytes).is_err());
        }
    }
}
