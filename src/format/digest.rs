//! The digest of a segment: a number of 64 bits over its batches. The manifest has one for each
//! sealed segment.

/// A digest of the batches of a segment up to some position: two halves of 32 bits, each an FNV-1a
/// hash (from 0, over words of 32 bits instead of bytes) of one checksum a batch.
///
/// The lower half is over the batches' header CRCs, which cover everything and depend on the
/// partition's secret; the upper one over their body CRCs, which are the same in a copy of the
/// partition elsewhere. Each step is a bijection, so a single checksum that differs always shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) u64);

impl Digest {
    /// Adds the next batch.
    #[inline]
    pub(crate) fn add(&mut self, header_crc: u32, body_crc: u32) {
        const PRIME: u32 = 16_777_619;
        // The two halves, so the casts truncate.
        let (headers, bodies) = (self.0 as u32, (self.0 >> 32) as u32);
        let next = |state: u32, crc: u32| u64::from((state ^ crc).wrapping_mul(PRIME));
        self.0 = next(headers, header_crc) | next(bodies, body_crc) << 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_are_hashes_of_the_checksums() {
        let mut digest = Digest::default();
        for (header, body) in [(1, 2), (3, u32::MAX)] {
            digest.add(header, body);
        }
        let headers = u64::from((16_777_619_u32 ^ 3).wrapping_mul(16_777_619));
        let bodies = u64::from((33_555_238_u32 ^ u32::MAX).wrapping_mul(16_777_619));
        assert_eq!(digest, Digest(headers | bodies << 32));
    }

    #[test]
    fn order_and_each_checksum_count() {
        let of = |batches: &[(u32, u32)]| {
            let mut digest = Digest::default();
            batches.iter().for_each(|(header, body)| digest.add(*header, *body));
            digest
        };
        let all =
            [of(&[(1, 1), (2, 2)]), of(&[(2, 2), (1, 1)]), of(&[(1, 1)]), of(&[(1, 1), (2, 3)]), of(&[])];
        for (at, digest) in all.iter().enumerate() {
            assert!(!all[..at].contains(digest), "{at}");
        }
    }
}
