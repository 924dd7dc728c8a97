use proptest::prelude::*;

use super::super::damage::{Random, hex};
use super::*;

fn compressed(compression: Compression, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(compress(compression, input, &mut out).is_some());
    out
}

/// Every codec that compresses, with levels at the ends of their range.
fn all() -> Vec<(Codec, Compression)> {
    vec![
        (Codec::Lz4, Compression::Lz4),
        #[cfg(feature = "zstd")]
        (Codec::Zstd, Compression::Zstd { level: -7 }),
        #[cfg(feature = "zstd")]
        (Codec::Zstd, Compression::Zstd { level: 0 }),
        #[cfg(feature = "zstd")]
        (Codec::Zstd, Compression::Zstd { level: 19 }),
    ]
}

#[test]
fn a_pinned_block_is_read() {
    let block = [0x5f, b'q', b'u', b'i', b'p', b'u', 5, 0, 65, 0x50, b'q', b'u', b'i', b'p', b'u'];
    let mut out = Vec::new();
    decompress(Codec::Lz4, &block, 94, &mut out).unwrap();
    assert_eq!(out, [&b"quipu".repeat(18)[..89], b"quipu"].concat(), "{}", hex(&out));
}

#[test]
fn input_that_does_not_shrink_is_left_out() {
    for (codec, compression) in all() {
        let mut out = b"before".to_vec();
        assert_eq!(compress(compression, &Random(1).bytes(10_000), &mut out), None);
        assert_eq!(compress(compression, b"", &mut out), None);
        assert_eq!(compress(compression, b"x", &mut out), None);
        assert_eq!(out, b"before");
        assert_eq!(compress(compression, &[7; 1_000], &mut out), Some(codec));
        assert_eq!(&out[..6], b"before");
        let mut back = vec![1; 5_000];
        decompress(codec, &out[6..], 1_000, &mut back).unwrap();
        assert_eq!(back, [7; 1_000]);
    }
    assert_eq!(compress(Compression::None, &[7; 1_000], &mut Vec::new()), None);
}

#[test]
fn the_declared_size_must_be_met() {
    for (codec, compression) in all() {
        let block = compressed(compression, &[7; 1_000]);
        let mut out = Vec::new();
        for wrong in [0, 1, 999, 1_001, 2_000, usize::MAX] {
            assert!(decompress(codec, &block, wrong, &mut out).is_err(), "{wrong}");
            assert!(out.is_empty());
        }
        // Nothing is allocated for a size that these few bytes cannot reach.
        assert!(out.capacity() < 1_000_000);
    }
    let mut out = Vec::new();
    assert!(decompress(Codec::None, b"abc", 4, &mut out).is_err());
    assert_eq!(decompress(Codec::None, b"abc", 3, &mut out), Ok(()));
    assert_eq!(out, b"abc");
}

#[test]
fn large_bodies_come_back_and_their_memory_is_not_pooled() {
    let input = vec![0; 8 << 20];
    for (codec, compression) in all() {
        let block = compressed(compression, &input);
        let mut back = Vec::new();
        decompress(codec, &block, input.len(), &mut back).unwrap();
        assert!(back == input);
    }
    assert!(LZ4_ENCODERS.0.lock().iter().all(|encoder| encoder.room.capacity() <= POOLED_BYTES));
}

#[test]
fn a_pool_is_bounded_in_number_and_in_bytes() {
    let pool = Pool::new();
    (0..2 * POOLED).for_each(|context| pool.put(0, context));
    assert_eq!(pool.0.lock().len(), POOLED);
    assert_eq!(pool.take(), Some(POOLED - 1));
    pool.put(POOLED_BYTES + 1, 7);
    assert_eq!(pool.take(), Some(POOLED - 2));
}

#[test]
fn damaged_input_does_not_panic() {
    for (codec, compression) in all() {
        let mut random = Random(9);
        let text = b"the quick brown fox and the quick brown dog ".repeat(20);
        let good = compressed(compression, &text);
        let mut out = Vec::new();
        for round in 0..20_000 {
            let mut block = if round % 2 == 0 { good.clone() } else { random.bytes(round % 64) };
            if let Some(byte) = block.get_mut(random.next() as usize % good.len()) {
                *byte = random.next() as u8;
            }
            let len = if round % 4 == 0 { text.len() } else { (random.next() % 2_000) as usize };
            let done = decompress(codec, &block, len, &mut out);
            assert_eq!(out.len(), if done.is_ok() { len } else { 0 });
        }
    }
}

#[test]
fn codecs_have_their_numbers() {
    assert_eq!((Codec::None.number(), Codec::Lz4.number()), (0, 1));
    for number in 0..=255 {
        match Codec::from_number(number) {
            Ok(codec) => assert_eq!(codec.number(), number),
            Err(m) => {
                let feature = (number == 2).then_some("zstd");
                assert_eq!(m.unsupported, Some(Unsupported::Codec { number, feature }));
            }
        }
    }
    assert_eq!(Codec::from_number(2).is_ok(), cfg!(feature = "zstd"));
    let text = |number| missing(number).to_string();
    assert_eq!(text(2), "codec 2, zstd, which is the feature `zstd` of this crate");
    assert_eq!(text(3), "codec 3");
}

#[test]
fn a_batch_that_is_written_again_keeps_its_codec() {
    for (codec, compression) in all() {
        assert_eq!(codec.again(compression), compression);
        let other = codec.again(Compression::None);
        assert_eq!(compress(other, &[7; 1_000], &mut Vec::new()), Some(codec));
    }
    assert_eq!(Codec::None.again(Compression::Lz4), Compression::None);
}

proptest! {
    #[test]
    fn bodies_come_back(bytes in proptest::collection::vec(0u8..4, 100..3_000)) {
        for (codec, compression) in all() {
            let (mut out, mut back) = (Vec::new(), Vec::new());
            for _ in 0..2 {
                out.clear();
                if compress(compression, &bytes, &mut out).is_some() {
                    prop_assert!(out.len() < bytes.len());
                    prop_assert_eq!(decompress(codec, &out, bytes.len(), &mut back), Ok(()));
                    prop_assert_eq!(&back, &bytes);
                }
            }
        }
    }
}

#[cfg(feature = "zstd")]
mod zstd {
    use super::super::zstd::check_header;
    use super::*;

    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

    fn frame(input: &[u8]) -> Vec<u8> {
        compressed(Compression::Zstd { level: 3 }, input)
    }

    /// A frame with one raw block, after these bytes between magic and block.
    fn made(header: &[u8], content: &[u8]) -> Vec<u8> {
        let block = (1 | (content.len() as u32) << 3).to_le_bytes();
        [&MAGIC, header, &block[..3], content].concat()
    }

    fn refused(input: &[u8], len: usize) -> &'static str {
        let mut out = Vec::new();
        let what = decompress(Codec::Zstd, input, len, &mut out).unwrap_err().what;
        assert_eq!(out.capacity(), 0, "refused before memory is allocated");
        what
    }

    #[test]
    fn a_frame_of_another_encoder_is_read() {
        let mut out = Vec::new();
        // A single segment; a window of 1 KiB; a size of two, four and eight bytes.
        let long = [7; 300];
        let headers: [(&[u8], &[u8]); 5] = [
            (&[0x20, 5], b"quipu"),
            (&[0x60, 44, 0], &long),
            (&[0x40, 0, 44, 0], &long),
            (&[0xa0, 5, 0, 0, 0], b"quipu"),
            (&[0xe0, 5, 0, 0, 0, 0, 0, 0, 0], b"quipu"),
        ];
        for (header, content) in headers {
            decompress(Codec::Zstd, &made(header, content), content.len(), &mut out).unwrap();
            assert_eq!(out, content);
        }
    }

    #[test]
    fn a_window_larger_than_8_mib_is_refused_before_memory_is_allocated() {
        const WINDOW: &str = "a window of more than 8 MiB in the zstd frame";
        // 13 << 3 is a window of 2^23 bytes; the next eighth is too much.
        let with_window = |window| made(&[0x80, window, 5, 0, 0, 0], b"quipu");
        let mut out = Vec::new();
        decompress(Codec::Zstd, &with_window(13 << 3), 5, &mut out).unwrap();
        assert_eq!(refused(&with_window(13 << 3 | 1), 5), WINDOW);
        assert_eq!(refused(&with_window(0xff), 5), WINDOW);
        // A single segment has its content as window.
        let single = |len: u32| made(&[&[0xa0][..], &len.to_le_bytes()].concat(), b"quipu");
        assert_eq!(check_header(&single(8 << 20), 8 << 20), Ok(()));
        assert_eq!(refused(&single((8 << 20) + 1), (8 << 20) + 1), WINDOW);
    }

    #[test]
    fn what_encoders_write_has_a_window_of_at_most_8_mib() {
        let text = b"the quick brown fox and the quick brown dog ".repeat(400_000);
        for level in [-7, 3] {
            let frame = compressed(Compression::Zstd { level }, &text);
            assert_eq!(check_header(&frame, text.len()), Ok(()), "{level}");
        }
    }

    #[test]
    fn frames_that_declare_the_wrong_things_are_refused() {
        let size = "content size of the zstd frame";
        let good = frame(&[7; 1_000]);
        for wrong in [0, 999, 1_001, 1_256, 64 << 20] {
            assert_eq!(refused(&good, wrong), size);
        }
        // So few bytes cannot become so many.
        assert_eq!(refused(&made(&[0x80, 13 << 3, 0, 0, 0, 4], b""), 64 << 20), size);
        assert_eq!(refused(&made(&[0x00, 0], b"quipu"), 5), "a zstd frame without its content size");
        assert_eq!(refused(&made(&[0x28, 5], b"quipu"), 5), "reserved bit of the zstd frame");
        assert_eq!(refused(&made(&[0x21, 1, 5], b"quipu"), 5), "a zstd frame with a dictionary");
        assert_eq!(refused(b"\x50\x2a\x4d\x18\x00\x00\x00\x00", 0), "magic of the zstd frame");
        assert_eq!(refused(&[&good[..], b"x"].concat(), 1_000), "zstd frame");
        assert_eq!(refused(&[&good[..], &made(&[0x20, 0], b"")].concat(), 1_000), "zstd frame");
        for len in 0..good.len() {
            assert!(decompress(Codec::Zstd, &good[..len], 1_000, &mut Vec::new()).is_err(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_and_any_declared_size_are_harmless(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            is_frame: bool,
            len in prop_oneof![0usize..400, Just(usize::MAX)],
            at: proptest::sample::Index,
            value: u8,
        ) {
            let mut input = bytes.repeat(2);
            if is_frame {
                let mut out = Vec::new();
                if compress(Compression::Zstd { level: 1 }, &input, &mut out).is_some() {
                    input = out;
                    let at = at.index(input.len());
                    input[at] = value;
                } else {
                    input.splice(0..0, MAGIC);
                }
            }
            let declared = if is_frame && value % 2 == 0 { bytes.len() * 2 } else { len };
            let mut out = Vec::new();
            let done = decompress(Codec::Zstd, &input, declared, &mut out);
            prop_assert_eq!(out.len(), if done.is_ok() { declared } else { 0 });
        }
    }
}
