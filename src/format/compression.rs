//! How does a body become smaller, and itself again? LZ4 blocks, through buffers that are kept.
//!
//! The two sides trust differently: what is compressed is ours, what is decompressed may be anything, so its size is
//! bounded before anything is allocated and must be met exactly.

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use super::reader::Malformed;

/// How a body is stored. The number is what the batch's header says; 2 is zstd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    /// As it is.
    None = 0,
    /// One LZ4 block, without frame or size.
    Lz4 = 1,
}

impl Codec {
    /// The codec of this number, if this build knows it.
    pub(crate) fn from_number(number: u8) -> Option<Codec> {
        match number {
            0 => Some(Codec::None),
            1 => Some(Codec::Lz4),
            _ => None,
        }
    }

    /// The number to store.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }
}

/// Compresses one body after another with the same working memory.
#[derive(Default)]
pub(crate) struct Compressor {
    table: CompressTable,
    /// Kept at its length, so that only growth is ever filled with zeros: the encoder wants initialized room for the
    /// worst case, and copying what came out costs less than clearing that room for each body.
    room: Vec<u8>,
}

impl Compressor {
    /// Appends `input` as an LZ4 block to `out`, if that is smaller than the input. If not, `out` is left as it was.
    pub(crate) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        let worst = get_maximum_output_size(input.len());
        if self.room.len() < worst {
            self.room.resize(worst, 0);
        }
        let smaller = match compress_into_with_table(input, &mut self.room, &mut self.table) {
            Ok(len) if len < input.len() => self.room.get(..len),
            _ => None,
        };
        if let Some(block) = smaller {
            out.extend_from_slice(block);
        }
        let done = smaller.is_some();
        // One large body should not hold its room for the life of the producer.
        if worst > KEPT_ROOM {
            self.room = Vec::new();
        }
        done
    }
}

/// Replaces `out` by the decompressed `input`, which must come out at exactly `uncompressed_len` bytes. After an error
/// `out` is empty.
///
/// A buffer that is used again is not cleared first: only its growth is filled before it is written to.
pub(crate) fn decompress(
    codec: Codec,
    input: &[u8],
    uncompressed_len: usize,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let done = match codec {
        Codec::None if input.len() == uncompressed_len => {
            out.clear();
            out.extend_from_slice(input);
            true
        }
        Codec::Lz4 if uncompressed_len <= input.len().saturating_mul(LZ4_MAX_RATIO) => {
            out.resize(uncompressed_len, 0);
            decompress_into(input, out).is_ok_and(|len| len == uncompressed_len)
        }
        Codec::None | Codec::Lz4 => false,
    };
    if done {
        return Ok(());
    }
    out.clear();
    Err(Malformed::new(0, "compressed body"))
}

/// No byte of an LZ4 block stands for more than this many: the longest are the length bytes of a match.
const LZ4_MAX_RATIO: usize = 255;
/// The most memory that a compressor keeps between two bodies.
const KEPT_ROOM: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::damage::{Random, hex};
    use super::*;

    fn compressed(input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(Compressor::default().compress(input, &mut out));
        out
    }

    #[test]
    fn a_pinned_block_is_read() {
        let block = [0x5f, b'q', b'u', b'i', b'p', b'u', 5, 0, 65, 0x50, b'q', b'u', b'i', b'p', b'u'];
        let mut out = Vec::new();
        decompress(Codec::Lz4, &block, 94, &mut out).unwrap();
        assert_eq!(out, [&b"quipu".repeat(18)[..89], b"quipu"].concat(), "{}", hex(&out));
    }

    #[test]
    fn what_does_not_shrink_is_left_out() {
        let mut out = b"before".to_vec();
        let mut compressor = Compressor::default();
        assert!(!compressor.compress(&Random(1).bytes(10_000), &mut out));
        assert!(!compressor.compress(b"", &mut out));
        assert!(!compressor.compress(b"x", &mut out));
        assert_eq!(out, b"before");
        assert!(compressor.compress(&[7; 1_000], &mut out));
        assert_eq!(&out[..6], b"before");
        let mut back = vec![1; 5_000];
        decompress(Codec::Lz4, &out[6..], 1_000, &mut back).unwrap();
        assert_eq!(back, [7; 1_000]);
    }

    #[test]
    fn the_declared_size_must_be_met() {
        let block = compressed(&[7; 1_000]);
        let mut out = Vec::new();
        for wrong in [0, 1, 999, 1_001, 2_000, usize::MAX] {
            assert!(decompress(Codec::Lz4, &block, wrong, &mut out).is_err(), "{wrong}");
            assert!(out.is_empty());
        }
        // Nothing is allocated for a size that these few bytes cannot reach.
        assert!(out.capacity() < 1_000_000);
        assert!(decompress(Codec::None, b"abc", 4, &mut out).is_err());
        assert_eq!(decompress(Codec::None, b"abc", 3, &mut out), Ok(()));
        assert_eq!(out, b"abc");
    }

    #[test]
    fn large_bodies_reach_the_best_ratio_within_the_bound_and_keep_no_room() {
        let input = vec![0; 8 << 20];
        let (mut compressor, mut out) = (Compressor::default(), Vec::new());
        assert!(compressor.compress(&input, &mut out));
        assert_eq!(compressor.room.capacity(), 0);
        let mut back = Vec::new();
        decompress(Codec::Lz4, &out, input.len(), &mut back).unwrap();
        assert!(back == input);
    }

    #[test]
    fn damaged_blocks_do_not_panic() {
        let mut random = Random(9);
        let good = compressed(&b"the quick brown fox and the quick brown dog ".repeat(20));
        let mut out = Vec::new();
        for round in 0..20_000 {
            let mut block = if round % 2 == 0 { good.clone() } else { random.bytes(round % 64) };
            if let Some(byte) = block.get_mut(random.next() as usize % good.len()) {
                *byte = random.next() as u8;
            }
            let _ = decompress(Codec::Lz4, &block, (random.next() % 2_000) as usize, &mut out);
        }
    }

    #[test]
    fn codecs_have_their_numbers() {
        assert_eq!((Codec::None.number(), Codec::Lz4.number()), (0, 1));
        for bits in 0..=255 {
            assert!(Codec::from_number(bits).is_none_or(|codec| codec.number() == bits));
        }
        assert_eq!(Codec::from_number(2), None);
    }

    proptest! {
        #[test]
        fn bodies_come_back(bytes in proptest::collection::vec(0u8..4, 100..3_000)) {
            let mut compressor = Compressor::default();
            let mut out = Vec::new();
            let mut back = Vec::new();
            for _ in 0..2 {
                out.clear();
                if compressor.compress(&bytes, &mut out) {
                    prop_assert!(out.len() < bytes.len());
                    prop_assert_eq!(decompress(Codec::Lz4, &out, bytes.len(), &mut back), Ok(()));
                    prop_assert_eq!(&back, &bytes);
                }
            }
        }
    }
}
