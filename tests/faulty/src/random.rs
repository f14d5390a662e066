//! Randomness for faults: neither secret nor good, only different.

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A xorshift generator that threads share.
pub(crate) struct Random(AtomicU64);

impl Random {
    /// Seeded by the time and the process.
    pub(crate) fn new() -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        // Never zero: xorshift would stay there.
        Self(AtomicU64::new((time ^ (u64::from(process::id()) << 32)) | 1))
    }

    /// The next number.
    pub(crate) fn next(&self) -> u64 {
        let step = |mut x: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^ (x << 17)
        };
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |x| Some(step(x)));
        step(before.unwrap_or_else(|unchanged| unchanged)).wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, from the better upper half.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        (self.next() >> 32) % bound
    }

    /// Random octets, none of them what it was.
    pub(crate) fn garble(&self, octets: &mut [u8]) {
        octets.iter_mut().for_each(|octet| *octet ^= (self.below(255) + 1) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_new_in_every_octet() {
        let random = Random::new();
        let mut octets = [7; 4096];
        random.garble(&mut octets);
        assert!(octets.iter().all(|octet| *octet != 7));
        assert!((0..=255).filter(|value| octets.contains(value)).count() > 200);
    }
}
