//! Where does chance come from? From a seed, so that every run can be repeated.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// A small, fast generator of numbers that look random (splitmix64): the same seed gives the same
/// numbers forever. Not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// A generator that starts from `seed`; any number is a good one.
    pub(crate) const fn new(seed: u64) -> Self {
        SplitMix64 { state: seed }
    }

    /// The next number.
    pub(crate) const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`; 0 if `n` is 0. The bias is below `n / 2^64`.
    pub(crate) const fn below(&mut self, n: u64) -> u64 {
        ((self.next_u64() as u128 * n as u128) >> 64) as u64
    }
}

/// 16 bytes that cannot be guessed; with a seed, those that follow from it and from `salt`.
///
/// Without a seed they come from the operating system's randomness by way of the standard library:
/// a keyed hash, whose key of 128 bits each thread takes from the system once and which differs
/// with each call.
pub(crate) fn random_bytes(seed: Option<u64>, salt: u64) -> [u8; 16] {
    let halves = match seed {
        Some(seed) => {
            let mut random = SplitMix64::new(seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            [random.next_u64(), random.next_u64()]
        }
        None => [RandomState::new().hash_one(salt), RandomState::new().hash_one(!salt)],
    };
    let [low, high] = halves.map(u128::from);
    (low | high << 64).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_splitmix64s() {
        // The first outputs of the reference implementation (Vigna, splitmix64.c) for the seed
        // 1234567.
        let mut rng = SplitMix64::new(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn below_stays_below_and_reaches_everything() {
        let mut rng = SplitMix64::new(7);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[rng.below(5) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
    }
}
