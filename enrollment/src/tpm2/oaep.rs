//! RSAES-OAEP encryption (RFC 8017, 7.1.1) with its randomness as an argument, for the credential blob alone.

use super::structures::{HashAlgorithm, TpmError};
use crypto_bigint::{
    BoxedUint, Odd,
    modular::{BoxedMontyForm, BoxedMontyParams},
};
use zeroize::Zeroizing;

/// Encrypts `message` for the key `modulus`, 65537; `oaep_seed` has the hash's length.
pub(super) fn encrypt(
    hash: HashAlgorithm,
    modulus: &[u8],
    label: &[u8],
    message: &[u8],
    oaep_seed: &[u8],
) -> Result<Vec<u8>, TpmError> {
    let refused = TpmError::Invalid("the message does not fit the RSA key");
    let zeros = modulus.len().checked_sub(message.len() + 2 * hash.digest_len() + 2).ok_or(refused.clone())?;
    // DB = lHash || PS || 0x01 || M
    let mut db = Zeroizing::new(hash.digest(&[label]));
    db.resize(hash.digest_len() + zeros, 0);
    db.push(1);
    db.extend_from_slice(message);
    let mut seed = Zeroizing::new(oaep_seed.to_vec());
    xor(&mut db, &mgf1(hash, oaep_seed, modulus.len()));
    xor(&mut seed, &mgf1(hash, &db, hash.digest_len()));
    // EM = 0x00 || maskedSeed || maskedDB: below the modulus, whose first octet is not zero.
    let encoded = Zeroizing::new([&[0], seed.as_slice(), &db].concat());
    let bits = u32::try_from(modulus.len() * 8).map_err(|_| refused.clone())?;
    let n = BoxedUint::from_be_slice(modulus, bits).map_err(|_| refused.clone())?;
    let m = BoxedUint::from_be_slice(&encoded, bits).map_err(|_| refused.clone())?;
    let params = BoxedMontyParams::new_vartime(Odd::new(n).into_option().ok_or(refused)?);
    let c = BoxedMontyForm::new(m, &params).pow(&BoxedUint::from(65537u32)).retrieve();
    Ok(c.to_be_bytes().to_vec())
}

/// MGF1 (RFC 8017, B.2.1), `len` octets or a little more.
fn mgf1(hash: HashAlgorithm, seed: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let mut mask = Zeroizing::new(Vec::with_capacity(len + hash.digest_len()));
    let mut counter = 0u32;
    while mask.len() < len {
        mask.extend_from_slice(&Zeroizing::new(hash.digest(&[seed, &counter.to_be_bytes()])));
        counter += 1;
    }
    mask
}

fn xor(data: &mut [u8], mask: &[u8]) {
    data.iter_mut().zip(mask).for_each(|(d, m)| *d ^= m);
}
