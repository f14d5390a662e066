//! TPM2_MakeCredential in software (Part 1, 24; Part 3, 12.6): a secret that only the TPM that holds both the
//! endorsement key and the named key gives out.

use super::{
    oaep,
    structures::{HashAlgorithm, Public, TpmError, Writer, coordinates, rsa_modulus},
};
use aes::{Aes128, Aes256, cipher::KeyIvInit};
use ca_core::key::KeyAlgorithm;
use cfb_mode::Encryptor;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

/// Fills a slice with random octets.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

/// The inputs of TPM2_ActivateCredential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialBlob {
    /// Contents of TPM2B_ID_OBJECT.
    pub id_object: Vec<u8>,
    /// Contents of TPM2B_ENCRYPTED_SECRET.
    pub encrypted_secret: Vec<u8>,
}

/// Wraps `secret` for the object named `name` in the TPM of the endorsement key `ek`.
///
/// The secret is at most as long as the digest of `ek`'s nameAlg. The same octets from `random` give the same blob.
///
/// # Errors
/// [`TpmError`] when `ek` is no storage key or the secret is too long.
pub fn make_credential(
    ek: &Public,
    name: &[u8],
    secret: &[u8],
    random: Random<'_>,
) -> Result<CredentialBlob, TpmError> {
    let hash = ek.name_alg();
    if secret.is_empty() || secret.len() > hash.digest_len() {
        return Err(TpmError::Invalid("the secret is empty or longer than a digest of the endorsement key"));
    }
    let key_bits = ek.symmetric_bits().ok_or(TpmError::Invalid("the endorsement key is no storage key"))?;
    let (seed, encrypted_secret) = seed_for(ek, b"IDENTITY\0", random)?;
    let storage = kdfa(hash, &seed, b"STORAGE\0", name, &[], u32::from(key_bits))?;
    let mut identity = Zeroizing::new(Writer::new().sized(secret).finish());
    cfb_encrypt(&storage, &mut identity)?;
    let integrity = kdfa(hash, &seed, b"INTEGRITY\0", &[], &[], bits(hash))?;
    let mac = hmac(hash, &integrity, &[&identity, name])?;
    Ok(CredentialBlob { id_object: Writer::new().sized(&mac).bytes(&identity).finish(), encrypted_secret })
}

fn bits(hash: HashAlgorithm) -> u32 {
    match hash {
        HashAlgorithm::Sha256 => 256,
        HashAlgorithm::Sha384 => 384,
        HashAlgorithm::Sha512 => 512,
    }
}

/// A fresh seed and the same seed encrypted to `ek` (Part 1, B.10.4 for RSA, C.6 for ECC).
fn seed_for(ek: &Public, label: &[u8], random: Random<'_>) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), TpmError> {
    let hash = ek.name_alg();
    if let Some(modulus) = rsa_modulus(ek.key()) {
        let mut seed = Zeroizing::new(vec![0; hash.digest_len()]);
        random(&mut seed);
        let mut oaep_seed = Zeroizing::new(vec![0; hash.digest_len()]);
        random(&mut oaep_seed);
        let encrypted = oaep::encrypt(hash, &modulus, label, &seed, &oaep_seed)?;
        return Ok((seed, encrypted));
    }
    let (ek_x, _) = coordinates(ek.key()).ok_or(TpmError::Invalid("the endorsement key is neither RSA nor ECC"))?;
    let (z, point) = match ek.key().algorithm() {
        KeyAlgorithm::EcP256 => ephemeral_p256(ek.key().key_bits(), random)?,
        _ => ephemeral_p384(ek.key().key_bits(), random)?,
    };
    let xy = point.get(1..).unwrap_or_default();
    let (x, y) = xy.split_at(xy.len() / 2);
    let seed = kdfe(hash, &z, label, x, ek_x, bits(hash));
    Ok((seed, Writer::new().sized(x).sized(y).finish()))
}

macro_rules! ephemeral {
    ($name:ident, $curve:ident, $octets:literal) => {
        /// ECDH with a fresh scalar: the shared x coordinate and the ephemeral point, uncompressed.
        fn $name(point: &[u8], random: Random<'_>) -> Result<(Zeroizing<Vec<u8>>, Box<[u8]>), TpmError> {
            let off_curve = TpmError::Invalid("the endorsement key is not on its curve");
            let peer = $curve::PublicKey::from_sec1_bytes(point).map_err(|_| off_curve)?;
            let mut octets = Zeroizing::new([0u8; $octets]);
            // A candidate is zero or beyond the order with a chance below 2^-30; 64 in a row mean a broken source.
            for _ in 0..64 {
                random(octets.as_mut_slice());
                if let Ok(scalar) = $curve::SecretKey::from_slice(octets.as_slice()) {
                    let shared = scalar.diffie_hellman(&peer);
                    let z = Zeroizing::new(shared.raw_secret_bytes().to_vec());
                    return Ok((z, scalar.public_key().to_sec1_bytes()));
                }
            }
            Err(TpmError::Invalid("the source of randomness gives no usable scalar"))
        }
    };
}
ephemeral!(ephemeral_p256, p256, 32);
ephemeral!(ephemeral_p384, p384, 48);

fn hmac(hash: HashAlgorithm, key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>, TpmError> {
    fn over<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>, TpmError> {
        let mut mac = <M as KeyInit>::new_from_slice(key).map_err(|_| TpmError::Invalid("HMAC key"))?;
        parts.iter().for_each(|p| mac.update(p));
        Ok(mac.finalize().into_bytes().to_vec())
    }
    match hash {
        HashAlgorithm::Sha256 => over::<Hmac<Sha256>>(key, parts),
        HashAlgorithm::Sha384 => over::<Hmac<Sha384>>(key, parts),
        HashAlgorithm::Sha512 => over::<Hmac<Sha512>>(key, parts),
    }
}

/// KDFa (Part 1, 11.4.10.2): SP 800-108 in counter mode. `label` ends in a zero octet.
fn kdfa(
    hash: HashAlgorithm,
    key: &[u8],
    label: &[u8],
    party_u: &[u8],
    party_v: &[u8],
    bits: u32,
) -> Result<Zeroizing<Vec<u8>>, TpmError> {
    let len = usize::try_from(bits / 8).unwrap_or_default();
    let mut out = Zeroizing::new(Vec::with_capacity(len + hash.digest_len()));
    let mut counter = 1u32;
    while out.len() < len {
        let parts: [&[u8]; 5] = [&counter.to_be_bytes(), label, party_u, party_v, &bits.to_be_bytes()];
        out.extend_from_slice(&Zeroizing::new(hmac(hash, key, &parts)?));
        counter += 1;
    }
    out.truncate(len);
    Ok(out)
}

/// KDFe (Part 1, 11.4.10.3): the concatenation KDF of SP 800-56A. `label` ends in a zero octet.
fn kdfe(hash: HashAlgorithm, z: &[u8], label: &[u8], party_u: &[u8], party_v: &[u8], bits: u32) -> Zeroizing<Vec<u8>> {
    let len = usize::try_from(bits / 8).unwrap_or_default();
    let mut out = Zeroizing::new(Vec::with_capacity(len + hash.digest_len()));
    let mut counter = 1u32;
    while out.len() < len {
        let block = hash.digest(&[&counter.to_be_bytes(), z, label, party_u, party_v]);
        out.extend_from_slice(&Zeroizing::new(block));
        counter += 1;
    }
    out.truncate(len);
    out
}

/// AES-CFB with a zero initialisation vector; the key is used once.
fn cfb_encrypt(key: &[u8], data: &mut [u8]) -> Result<(), TpmError> {
    let size = |_| TpmError::Invalid("AES key size");
    match key.len() {
        16 => Encryptor::<Aes128>::new_from_slices(key, &[0; 16]).map_err(size)?.encrypt(data),
        _ => Encryptor::<Aes256>::new_from_slices(key, &[0; 16]).map_err(size)?.encrypt(data),
    }
    Ok(())
}
