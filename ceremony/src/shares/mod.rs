//! A PIN in shares: any `threshold` of them give the PIN, fewer say nothing about it (Shamir, over GF(2⁸)).
//!
//! What is shared is not the PIN alone but a block: its length, the PIN, zeros, and a check of all that. The zeros hide
//! how long the PIN is, the check tells whether the shares that were brought together give what was split.

mod error;
mod text;

pub use error::ShareError;

use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;
use vsss_rs::Gf256;
use zeroize::{Zeroize, Zeroizing};

/// Fewer than two would be the PIN itself in one hand.
pub const THRESHOLD_LEAST: u8 = 2;
/// More custodians than sit at one table are a list that nobody keeps.
pub const SHARES_MOST: u8 = 16;
/// The longest PIN that the PKCS#11 side takes, in octets.
pub const PIN_MOST: usize = 255;

/// The block's unit, in octets: PINs of up to 15 octets look alike.
const UNIT: usize = 16;
/// Octets of the check: nobody can try it without `threshold` shares, so it only has to catch damage.
const CHECK: usize = 8;
/// Octets of the name of a set, enough that two splits never have the same.
const SET: usize = 8;

const CHECK_DOMAIN: &[u8] = b"sealwright pin block v1\0";

/// One custodian's share. Wiped when dropped; `Debug` shows nothing of the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    threshold: u8,
    index: u8,
    set: [u8; SET],
    data: Zeroizing<Vec<u8>>,
}

impl Share {
    /// How many shares of its set give the PIN.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// Which share of its set it is, from 1.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The name of its set: all shares of one split have the same.
    pub fn set(&self) -> String {
        hex::encode(self.set)
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({} of set {}, any {})", self.index, self.set(), self.threshold)
    }
}

/// Splits a PIN into `count` shares, any `threshold` of which give it again.
///
/// # Errors
/// [`ShareError::Threshold`], [`ShareError::Count`] or [`ShareError::Pin`] for what cannot be split.
pub fn split(pin: &str, threshold: u8, count: u8, rng: &mut impl CryptoRng) -> Result<Vec<Share>, ShareError> {
    if !(THRESHOLD_LEAST..=SHARES_MOST).contains(&threshold) {
        return Err(ShareError::Threshold { given: threshold });
    }
    if !(threshold..=SHARES_MOST).contains(&count) {
        return Err(ShareError::Count { given: count, threshold });
    }
    let mut set = [0; SET];
    rng.fill_bytes(&mut set);
    let block = block(pin, &set)?;
    let split = Gf256::split_bytes(threshold.into(), count.into(), block.as_slice(), rng);
    // The library frees its last polynomial unwiped; that one belongs to the block's last octet, which is of the check.
    let points = Zeroizing::new(split.map_err(|error| ShareError::Library(error.to_string()))?);
    let share = |point: &Vec<u8>| {
        let (index, data) = point.split_first()?;
        Some(Share { threshold, index: *index, set, data: Zeroizing::new(data.to_vec()) })
    };
    points.iter().map(|point| share(point).ok_or(ShareError::Library("an empty share".to_owned()))).collect()
}

/// The PIN from shares of one set. All that are given must agree, those above the threshold too.
///
/// # Errors
/// [`ShareError`] says which share does not belong there, or how many are missing.
pub fn combine(shares: &[Share]) -> Result<Zeroizing<String>, ShareError> {
    let first = shares.first().ok_or(ShareError::TooFew { needed: THRESHOLD_LEAST, given: 0 })?;
    for (at, share) in shares.iter().enumerate() {
        let other_set = share.set != first.set || share.threshold != first.threshold;
        if other_set || share.data.len() != first.data.len() {
            return Err(ShareError::OtherSet { index: share.index, set: share.set(), wanted: first.set() });
        }
        if shares.iter().take(at).any(|before| before.index == share.index) {
            return Err(ShareError::Twice { index: share.index });
        }
    }
    // At most 16, since the indices differ.
    let given = shares.len() as u8;
    if given < first.threshold {
        return Err(ShareError::TooFew { needed: first.threshold, given });
    }
    let point = |share: &Share| {
        let mut point = Vec::with_capacity(share.data.len() + 1);
        point.push(share.index);
        point.extend_from_slice(&share.data);
        point
    };
    let points: Zeroizing<Vec<Vec<u8>>> = Zeroizing::new(shares.iter().map(point).collect());
    let block = Gf256::combine_bytes(points.as_slice()).map_err(|error| ShareError::Library(error.to_string()))?;
    pin(&Zeroizing::new(block), &first.set)
}

fn block(pin: &str, set: &[u8; SET]) -> Result<Zeroizing<Vec<u8>>, ShareError> {
    let length = u8::try_from(pin.len()).map_err(|_| ShareError::Pin("is longer than 255 octets"))?;
    if length == 0 {
        return Err(ShareError::Pin("is empty"));
    }
    let padded = (1 + pin.len()).next_multiple_of(UNIT);
    // Sized at once: growing would leave an unwiped copy behind.
    let mut block = Zeroizing::new(Vec::with_capacity(padded + CHECK));
    block.push(length);
    block.extend_from_slice(pin.as_bytes());
    block.resize(padded, 0);
    let check = Zeroizing::new(check(&block, set));
    block.extend_from_slice(&*check);
    Ok(block)
}

fn pin(block: &[u8], set: &[u8; SET]) -> Result<Zeroizing<String>, ShareError> {
    let (padded, given) = block.split_last_chunk::<CHECK>().ok_or(ShareError::Disagree)?;
    let right = Zeroizing::new(check(padded, set));
    if !bool::from(right.ct_eq(given)) {
        return Err(ShareError::Disagree);
    }
    let (length, rest) = padded.split_first().ok_or(ShareError::Disagree)?;
    let octets = rest.get(..usize::from(*length)).ok_or(ShareError::Disagree)?;
    String::from_utf8(octets.to_vec()).map(Zeroizing::new).map_err(|error| {
        error.into_bytes().zeroize();
        ShareError::Disagree
    })
}

/// The check: the set's name is in it, so that it also catches shares whose name was changed.
fn check(padded: &[u8], set: &[u8; SET]) -> [u8; CHECK] {
    let digest: [u8; 32] =
        Sha256::new().chain_update(CHECK_DOMAIN).chain_update(set).chain_update(padded).finalize().into();
    let mut check = [0; CHECK];
    check.copy_from_slice(&digest[..CHECK]);
    check
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
