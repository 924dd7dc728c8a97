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
//! LZ4 is decompressed by the decoder of `lz4_flex` that copies through pointers. It compares every
//! length and every distance with the ends of its input and of its output before it copies, so no
//! input makes it read or write outside of them. That holds for bytes that do not change meanwhile:
//! it may read a byte twice, and a body that lies in a map can be changed by another process.
//! Therefore it gets a copy of the body, which takes a twentieth of the time that it saves.
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
            _ => Err(Malformed::unsupported(0, "codec", missing(number))),
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

/// Returns the part of the format that a build without the codec of this number lacks.
fn missing(number: u8) -> Unsupported {
    let feature = (number == 2).then_some("zstd");
    Unsupported::Codec { number, feature }
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
            // IMPORTANT: the decoder must read a copy: see the head of this file.
            let mut copy = LZ4_INPUTS.take().unwrap_or_default();
            copy.clear();
            copy.extend_from_slice(input);
            let written = decompress_into(&copy, out);
            LZ4_INPUTS.put(copy.capacity(), copy);
            match written {
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
static LZ4_INPUTS: Pool<Vec<u8>> = Pool::new();

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

    use super::Pool;
    use crate::format::reader::ByteReader;

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
        const SHORT: &str = "header of the zstd frame";
        let mut reader = ByteReader::new(input);
        if reader.u32(SHORT).map_err(|m| m.what)? != MAGIC {
            return Err("magic of the zstd frame");
        }
        let descriptor = reader.u8(SHORT).map_err(|m| m.what)?;
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
                let window = reader.u8(SHORT).map_err(|m| m.what)?;
                let base = 1_u64 << (10 + (window >> 3));
                Some(base + base / 8 * u64::from(window & 7))
            }
        };
        let content = match descriptor >> 6 {
            0 if is_single_segment => reader.u8(SHORT).map(u64::from),
            0 => return Err("a zstd frame without its content size"),
            1 => reader.u16(SHORT).map(|size| u64::from(size) + 256),
            2 => reader.u32(SHORT).map(u64::from),
            _ => reader.u64(SHORT),
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
mod tests;
