//! The hash of a key: 128 bits that key indexes store instead of the key.
//!
//! SipHash-2-4 with 128 bits (Aumasson and Bernstein, "SipHash: a fast short-input PRF"), keyed
//! with the partition's secret. Indexes compare these numbers and not the keys. Of a thousand
//! million keys two have the same hash with a probability of 2^-69. A writer that does not know the
//! secret cannot search for two such keys, nor for many keys in one bucket.

use super::batch::Secret;

/// The hash of a key in the indexes of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyHash(pub(crate) u128);

impl KeyHash {
    /// The upper half: it decides the position in an index.
    pub(crate) fn high(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The lower half: independent of the upper one.
    pub(crate) fn low(self) -> u64 {
        self.0 as u64
    }

    /// Which of `parts` equal parts of all hashes it belongs to: parts rise with hashes. 0 if there
    /// are none.
    pub(crate) fn part(self, parts: u32) -> u32 {
        ((u128::from(self.high()) * u128::from(parts)) >> 64) as u32
    }
}

/// Hashes the keys of one partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHasher {
    start: [u64; 4],
}

impl KeyHasher {
    /// For the keys of the partition that has this secret.
    pub(crate) fn new(secret: &Secret) -> Self {
        let key = u128::from_le_bytes(secret.0);
        let (k0, k1) = (key as u64, (key >> 64) as u64);
        KeyHasher {
            start: [
                k0 ^ 0x736f_6d65_7073_6575,
                // This bit selects the variant with 128 bits of output.
                k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
        }
    }

    /// The hash of a key.
    pub(crate) fn hash(&self, key: &[u8]) -> KeyHash {
        let mut state = self.start;
        let (words, rest) = key.as_chunks::<8>();
        for word in words {
            take(&mut state, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        let [.., length] = &mut last;
        *length = key.len() as u8;
        take(&mut state, u64::from_le_bytes(last));
        let [_, _, third, _] = &mut state;
        *third ^= 0xee;
        let first = finish(&mut state);
        let [_, second, _, _] = &mut state;
        *second ^= 0xdd;
        let second = finish(&mut state);
        KeyHash(u128::from(first) | u128::from(second) << 64)
    }
}

fn take(state: &mut [u64; 4], word: u64) {
    let [_, _, _, fourth] = state;
    *fourth ^= word;
    round(state);
    round(state);
    let [first, ..] = state;
    *first ^= word;
}

fn finish(state: &mut [u64; 4]) -> u64 {
    for _ in 0..4 {
        round(state);
    }
    let [a, b, c, d] = *state;
    a ^ b ^ c ^ d
}

fn round(state: &mut [u64; 4]) {
    let [mut a, mut b, mut c, mut d] = *state;
    a = a.wrapping_add(b);
    c = c.wrapping_add(d);
    b = b.rotate_left(13) ^ a;
    d = d.rotate_left(16) ^ c;
    a = a.rotate_left(32);
    c = c.wrapping_add(b);
    a = a.wrapping_add(d);
    b = b.rotate_left(17) ^ c;
    d = d.rotate_left(21) ^ a;
    c = c.rotate_left(32);
    *state = [a, b, c, d];
}

#[cfg(test)]
mod tests {
    use super::super::damage::hex;
    use super::*;

    /// The authors' own vectors: the key 00 01 .. 0f, the inputs empty, 00, 00 01, and so on.
    #[test]
    fn it_is_siphash() {
        let hasher = KeyHasher::new(&Secret(std::array::from_fn(|i| i as u8)));
        let input: Vec<u8> = (0..64).collect();
        for (len, expected) in [
            (0, "a3817f04ba25a8e66df67214c7550293"),
            (1, "da87c1d86b99af44347659119b22fc45"),
            (8, "3b62a9ba6258f5610f83e264f31497b4"),
            (15, "5493e99933b0a8117e08ec0f97cfc3d9"),
            (63, "5150d1772f50834a503e069a973fbd7c"),
        ] {
            assert_eq!(hex(&hasher.hash(&input[..len]).0.to_le_bytes()), expected, "{len}");
        }
    }

    #[test]
    fn parts_rise_with_hashes_and_cover_all() {
        let hashes = [0, 1, u128::MAX / 3, u128::MAX / 2, u128::MAX - 1, u128::MAX].map(KeyHash);
        for parts in [1, 2, 7, 1000, u32::MAX] {
            let found = hashes.map(|hash| hash.part(parts));
            assert!(found.is_sorted());
            assert_eq!((found[0], found[5]), (0, parts - 1));
        }
        assert_eq!(KeyHash(u128::MAX).part(0), 0);
    }
}
