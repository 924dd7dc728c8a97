//! How records are compressed and decompressed: one codec at a time, with working memory that is
//! pooled.
//!
//! Everything that depends on a codec is in this file: its number, its bounds, its working memory.
//! The other places are the setting of a topic ([`Compression`]) and the setting's bytes
//! ([`settings`](super::settings)).
//!
//! The input of a compressor is ours. The input of a decompressor may be any bytes: the size that
//! it declares is bounded before memory is allocated, and must be met exactly.
//!
//! The pools are shared by all brokers of the process. At most [`POOLED`] contexts of a kind are
//! kept, and none that is larger than [`POOLED_BYTES`].

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use super::reader::{Malformed, Unsupported};
use crate::config::Compression;
use crate::sync::{Mutex, Rank};

/// How a body is stored. The number is that of the batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    /// Unchanged.
    None = 0,
    /// One LZ4 block, without frame or size.
    Lz4 = 1,
    /// One zstd frame that states its content size.
    #[cfg(feature = "zstd")]
    Zstd = 2,
}

impl Codec {
    /// Returns the codec of this number.
    ///
    /// # Errors
    /// This build does not have it. The batch is whole: it can be checked, skipped and replicated.
    pub(crate) fn from_number(number: u8) -> Result<Codec, Malformed> {
        match number {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Lz4),
            #[cfg(feature = "zstd")]
            2 => Ok(Codec::Zstd),
            _ => Err(Malformed::unsupported(0, "codec", Unsupported::Codec(number))),
        }
    }

    /// Returns the number to store.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// Returns how to compress records again that this codec had compressed, in a topic that
    /// compresses with `topic`: the level is the topic's if the codec is.
    pub(crate) fn again(self, topic: Compression) -> Compression {
        match (self, topic) {
            (Codec::None, _) => Compression::None,
            (Codec::Lz4, _) => Compression::Lz4,
            #[cfg(feature = "zstd")]
            (Codec::Zstd, Compression::Zstd { .. }) => topic,
            #[cfg(feature = "zstd")]
            (Codec::Zstd, _) => Compression::Zstd { level: Compression::ZSTD_LEVEL },
        }
    }
}

/// Returns the name of an optional codec, which is the name of its feature too.
pub(super) fn optional_codec(number: u8) -> Option<&'static str> {
    (number == 2).then_some("zstd")
}

/// Appends the compressed `input` to `out` if it is smaller, and returns its codec. Otherwise `out`
/// does not change.
pub(crate) fn compress(compression: Compression, input: &[u8], out: &mut Vec<u8>) -> Option<Codec> {
    match compression {
        Compression::None => None,
        Compression::Lz4 => {
            let mut encoder = LZ4_ENCODERS.take().unwrap_or_default();
            let is_smaller = encoder.compress(input, out);
            LZ4_ENCODERS.put(encoder.room.capacity(), encoder);
            is_smaller.then_some(Codec::Lz4)
        }
        #[cfg(feature = "zstd")]
        Compression::Zstd { level } => zstd::compress(level, input, out).then_some(Codec::Zstd),
    }
}

/// Replaces `out` by the decompressed `input`, which must have exactly `len` bytes. After an error
/// `out` is empty.
///
/// A buffer that is used again is not cleared first: only its growth is filled before it is
/// written to.
pub(crate) fn decompress(codec: Codec, input: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let done = match codec {
        Codec::None if input.len() == len => {
            out.clear();
            out.extend_from_slice(input);
            Ok(())
        }
        Codec::None => Err("length of the body"),
        Codec::Lz4 if len <= input.len().saturating_mul(LZ4_MAX_RATIO) => {
            out.resize(len, 0);
            match decompress_into(input, out) {
                Ok(written) if written == len => Ok(()),
                _ => Err("compressed body"),
            }
        }
        Codec::Lz4 => Err("compressed body"),
        #[cfg(feature = "zstd")]
        Codec::Zstd => zstd::decompress(input, len, out),
    };
    done.map_err(|what| {
        out.clear();
        Malformed::new(0, what)
    })
}

/// Working memory of a codec that no thread uses at the moment.
///
/// Its lock is taken last and for a push or a pop: no other lock is taken, and nothing is
/// compressed, while it is held.
struct Pool<T>(Mutex<Vec<T>>);

impl<T> Pool<T> {
    const fn new() -> Self {
        Pool(Mutex::new(Rank::Compressors, Vec::new()))
    }

    fn take(&self) -> Option<T> {
        self.0.lock().pop()
    }

    /// Keeps `context`, which holds so many bytes, for the next caller.
    fn put(&self, bytes: usize, context: T) {
        // One large body must not hold its memory for the life of the process.
        if bytes > POOLED_BYTES {
            return;
        }
        let mut free = self.0.lock();
        if free.len() < POOLED {
            free.push(context);
        }
    }
}

/// As many threads compress at the same time before one of them has to allocate.
const POOLED: usize = 16;
/// The most memory that a context keeps between two bodies.
const POOLED_BYTES: usize = 4 << 20;

static LZ4_ENCODERS: Pool<Lz4Encoder> = Pool::new();

#[derive(Default)]
struct Lz4Encoder {
    table: CompressTable,
    /// Kept at its length, so that only growth is filled with zeros: the encoder needs initialized
    /// room for the worst case, and to copy its output costs less than to clear that room for each
    /// body.
    room: Vec<u8>,
}

impl Lz4Encoder {
    /// Appends `input` as an LZ4 block to `out`, if that is smaller than the input.
    fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
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
        smaller.is_some()
    }
}

/// No byte of an LZ4 block stands for more than this many: the longest are the length bytes of a
/// match.
const LZ4_MAX_RATIO: usize = 255;

/// Frames of zstd: <https://datatracker.ietf.org/doc/html/rfc8878>.
#[cfg(feature = "zstd")]
mod zstd {
    use ::zstd::zstd_safe::{CCtx, CParameter, DCtx, find_frame_compressed_size};

    use super::super::reader::Reader;
    use super::Pool;

    static ENCODERS: Pool<CCtx<'static>> = Pool::new();
    static DECODERS: Pool<DCtx<'static>> = Pool::new();

    /// Appends `input` as a frame to `out`, if that is smaller than the input.
    pub(super) fn compress(level: i32, input: &[u8], out: &mut Vec<u8>) -> bool {
        let encoder = ENCODERS.take().or_else(CCtx::try_create);
        let mut encoder = encoder.unwrap_or_else(no_memory);
        let start = out.len();
        // A frame that does not fit into less than the input is of no use: zstd gives up on it.
        out.resize(start + input.len().saturating_sub(1), 0);
        let room = out.get_mut(start..).unwrap_or_default();
        let written = encoder
            .set_parameter(CParameter::CompressionLevel(level))
            .and_then(|_| encoder.compress2(room, input));
        out.truncate(start + written.unwrap_or(0));
        // After an error, which is "no room" in nearly all cases, the session has been reset.
        ENCODERS.put(encoder.sizeof(), encoder);
        written.is_ok()
    }

    /// Decompresses one frame of `len` bytes.
    ///
    /// The frame is decompressed in one call into `out`, so zstd allocates nothing for its window.
    pub(super) fn decompress(input: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
        check_header(input, len)?;
        if len > input.len().saturating_mul(MAX_RATIO) {
            return Err("content size of the zstd frame");
        }
        // One frame, with nothing after it.
        if find_frame_compressed_size(input) != Ok(input.len()) {
            return Err("zstd frame");
        }
        let decoder = DECODERS.take().or_else(DCtx::try_create);
        let mut decoder = decoder.unwrap_or_else(no_memory);
        out.resize(len, 0);
        match decoder.decompress(out.as_mut_slice(), input) {
            Ok(written) if written == len => {
                DECODERS.put(decoder.sizeof(), decoder);
                Ok(())
            }
            _ => Err("zstd frame"),
        }
    }

    /// Checks what a frame declares, before memory is allocated for it: a content of `len` bytes,
    /// a window that is not larger than [`WINDOW_MAX`], no dictionary.
    pub(super) fn check_header(input: &[u8], len: usize) -> Result<(), &'static str> {
        const CUT: &str = "header of the zstd frame";
        let mut reader = Reader::new(input);
        if reader.u32(CUT).map_err(|m| m.what)? != MAGIC {
            return Err("magic of the zstd frame");
        }
        let descriptor = reader.u8(CUT).map_err(|m| m.what)?;
        let is_single_segment = descriptor & 0b0010_0000 != 0;
        if descriptor & 0b0000_1000 != 0 {
            return Err("reserved bit of the zstd frame");
        }
        if descriptor & 0b0000_0011 != 0 {
            return Err("a zstd frame with a dictionary");
        }
        let window = match is_single_segment {
            true => None,
            false => {
                let window = reader.u8(CUT).map_err(|m| m.what)?;
                let base = 1_u64 << (10 + (window >> 3));
                Some(base + base / 8 * u64::from(window & 7))
            }
        };
        let content = match descriptor >> 6 {
            0 if is_single_segment => reader.u8(CUT).map(u64::from),
            0 => return Err("a zstd frame without its content size"),
            1 => reader.u16(CUT).map(|size| u64::from(size) + 256),
            2 => reader.u32(CUT).map(u64::from),
            _ => reader.u64(CUT),
        }
        .map_err(|m| m.what)?;
        if content != len as u64 {
            return Err("content size of the zstd frame");
        }
        // A frame of a single segment has no window but its content.
        match window.unwrap_or(content) > WINDOW_MAX {
            true => Err("a window of more than 8 MiB in the zstd frame"),
            false => Ok(()),
        }
    }

    /// A context cannot be made only if memory is exhausted: the process ends, as it does where a
    /// vector finds no memory.
    #[cold]
    fn no_memory<T>() -> T {
        std::alloc::handle_alloc_error(std::alloc::Layout::new::<T>())
    }

    const MAGIC: u32 = 0xfd2f_b528;
    /// The largest window. Levels up to 19 do not use a larger one.
    pub(super) const WINDOW_MAX: u64 = 8 << 20;
    /// A block of at most 128 KiB takes at least four bytes: its header and a byte that repeats.
    const MAX_RATIO: usize = (128 << 10) / 4;
}

#[cfg(test)]
mod tests {
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
                Err(m) => assert_eq!(m.unsupported, Some(Unsupported::Codec(number))),
            }
        }
        assert_eq!(Codec::from_number(2).is_ok(), cfg!(feature = "zstd"));
        let text = |number| Unsupported::Codec(number).to_string();
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
}
