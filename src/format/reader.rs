//! The cursor through which all untrusted bytes are read. It never panics, and its errors have the
//! position and the name of the value.
//!
//! Every decoder of this module uses it. The caller of the decoder decides what a damaged file
//! means.

use super::{FORMAT_VERSION, varint};

/// Bytes that do not follow the format, or need more of it than this build has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// The position within the bytes that were given to the decoder.
    pub(crate) position: u64,
    /// The value that is wrong there.
    pub(crate) what: &'static str,
    /// Set if nothing is damaged: the bytes need something that this build does not have.
    pub(crate) unsupported: Option<Unsupported>,
}

/// The part of the format that whole bytes need and this build does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsupported {
    /// Another version of the format.
    Version(u32),
    /// Incompatible features: the bits that this build does not know.
    Features(u32),
    /// A change of the catalog of a kind that must be understood.
    Change(u8),
    /// A setting that must be understood, or a value of it.
    Setting(u16),
    /// A codec: the records of a batch cannot be read. `feature` is the name of an optional codec,
    /// and of the feature of this crate that has it.
    Codec { number: u8, feature: Option<&'static str> },
}

impl Unsupported {
    /// The version of the format that the bytes are of.
    pub(crate) fn version(self) -> u32 {
        match self {
            Unsupported::Version(version) => version,
            Unsupported::Features(_)
            | Unsupported::Change(_)
            | Unsupported::Setting(_)
            | Unsupported::Codec { .. } => FORMAT_VERSION,
        }
    }
}

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unsupported::Version(version) => write!(f, "format version {version}"),
            Unsupported::Features(bits) => write!(f, "features {bits:#x} of format version {FORMAT_VERSION}"),
            Unsupported::Change(kind) => write!(f, "catalog changes of kind {kind}"),
            Unsupported::Setting(tag) => write!(f, "setting {tag}, or its value,"),
            Unsupported::Codec { number, feature: Some(name) } => {
                write!(f, "codec {number}, {name}, which is the feature `{name}` of this crate")
            }
            Unsupported::Codec { number, feature: None } => write!(f, "codec {number}"),
        }
    }
}

impl Malformed {
    pub(crate) fn new(position: u64, what: &'static str) -> Self {
        Malformed { position, what, unsupported: None }
    }

    /// Bytes that are whole, and need a part of the format that this build does not have.
    pub(crate) fn unsupported(position: u64, what: &'static str, needs: Unsupported) -> Self {
        Malformed { position, what, unsupported: Some(needs) }
    }

    /// Returns the same finding with its position within bytes in which those of the decoder begin
    /// at `start`.
    #[must_use]
    pub(crate) fn shifted(self, start: u64) -> Self {
        Malformed { position: self.position.saturating_add(start), ..self }
    }
}

/// A cursor over bytes that may be anything.
///
/// `what` names the value that is read, for the error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByteReader<'a> {
    rest: &'a [u8],
    /// The position at which `rest` ends. Kept instead of the position itself, so that a read
    /// changes one field only.
    end: u64,
}

impl<'a> ByteReader<'a> {
    /// Reads from the first byte.
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        ByteReader { rest: bytes, end: bytes.len() as u64 }
    }

    /// Reads from `position` on. After the last byte there is nothing to read.
    #[inline]
    pub(crate) fn at(bytes: &'a [u8], position: usize) -> Self {
        ByteReader { rest: bytes.get(position..).unwrap_or_default(), end: bytes.len() as u64 }
    }

    /// The position of the next byte in the bytes given.
    #[inline(always)]
    pub(crate) fn position(&self) -> u64 {
        self.end.saturating_sub(self.rest.len() as u64)
    }

    /// How many bytes are left.
    #[inline]
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next byte.
    #[inline(always)]
    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array(what).map(u8::from_le_bytes)
    }

    /// The next two bytes, little-endian.
    #[inline]
    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// The next four bytes, little-endian.
    #[inline]
    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// The next eight bytes, little-endian.
    #[inline]
    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The next eight bytes, little-endian, two's complement.
    #[inline]
    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        self.array(what).map(i64::from_le_bytes)
    }

    /// The next `N` bytes.
    #[inline(always)]
    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        match self.rest.split_first_chunk() {
            Some((array, rest)) => {
                self.rest = rest;
                Ok(*array)
            }
            None => Err(self.malformed(what)),
        }
    }

    /// The next `len` bytes.
    #[inline(always)]
    pub(crate) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.malformed(what)),
        }
    }

    /// A varint of at most 10 bytes and 64 bits.
    #[inline(always)]
    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u64, Malformed> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(what),
        }
    }

    /// A varint of one or two bytes, as nearly all lengths are. `None` for any other, and for none
    /// at all.
    #[inline(always)]
    pub(crate) fn short_varint(&mut self) -> Option<usize> {
        match self.rest {
            [first, rest @ ..] if *first < 0x80 => {
                self.rest = rest;
                Some(usize::from(*first))
            }
            [first, second, rest @ ..] if *second < 0x80 => {
                self.rest = rest;
                Some(usize::from(*first & 0x7f) | usize::from(*second) << 7)
            }
            _ => None,
        }
    }

    /// A reader of the next `len` bytes, if there are as many.
    #[inline(always)]
    pub(crate) fn short_take(&mut self, len: usize) -> Option<ByteReader<'a>> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(ByteReader { rest: taken, end: self.position() })
    }

    /// The next byte, if there is one.
    #[inline(always)]
    pub(crate) fn short_u8(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    /// A varint that is a zigzag number.
    #[inline(always)]
    pub(crate) fn zigzag(&mut self, what: &'static str) -> Result<i64, Malformed> {
        self.varint(what).map(varint::unzigzag)
    }

    /// A varint length and that many bytes. A length that a 32-bit target cannot count becomes one
    /// that no bytes have.
    #[inline(always)]
    pub(crate) fn prefixed(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let len = self.varint(what)?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX), what)
    }

    /// A varint length and a reader of that many bytes, whose positions continue from here.
    #[inline(always)]
    pub(crate) fn prefixed_reader(&mut self, what: &'static str) -> Result<ByteReader<'a>, Malformed> {
        let bytes = self.prefixed(what)?;
        Ok(ByteReader { rest: bytes, end: self.position() })
    }

    /// A `u32` that counts items of at least `item_bytes` each: at most as many as the bytes left
    /// can hold, so that it is safe to allocate for them.
    pub(crate) fn count(&mut self, item_bytes: usize, what: &'static str) -> Result<usize, Malformed> {
        let start = *self;
        let count = usize::try_from(self.u32(what)?).unwrap_or(usize::MAX);
        if count.checked_mul(item_bytes).is_none_or(|bytes| bytes > self.remaining()) {
            return Err(start.malformed(what));
        }
        Ok(count)
    }

    /// A list: a `u32` of how many entries, a `u32` of how many bytes each of them has, the
    /// entries. They have `entry_bytes`, or more if the file is one that has `grown`: additions to
    /// an entry are ignored.
    pub(crate) fn list<T>(
        &mut self,
        entry_bytes: usize,
        grown: bool,
        what: &'static str,
        mut read: impl FnMut(&mut ByteReader<'a>) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let start = *self;
        let (count, bytes) = (self.u32(what)? as usize, self.u32(what)? as usize);
        let fits = bytes == entry_bytes || (grown && bytes > entry_bytes);
        if !fits || count.checked_mul(bytes).is_none_or(|all| all > self.remaining()) {
            return Err(start.malformed(what));
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = self.take(bytes, what)?;
            let mut entry = ByteReader { rest: entry, end: self.position() };
            entries.push(read(&mut entry)?);
        }
        Ok(entries)
    }

    /// `N` bytes that must be zero.
    pub(crate) fn zeros<const N: usize>(&mut self, what: &'static str) -> Result<(), Malformed> {
        let start = *self;
        if self.array::<N>(what)? == [0; N] { Ok(()) } else { Err(start.malformed(what)) }
    }

    /// Everything that is left.
    #[inline(always)]
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Refuses bytes that were not read.
    #[inline(always)]
    pub(crate) fn expect_end(&self, what: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed(what)) }
    }

    /// Returns the error that the value at the next byte is wrong.
    #[cold]
    pub(crate) fn malformed(&self, what: &'static str) -> Malformed {
        Malformed::new(self.position(), what)
    }

    fn long_varint(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let mut value = 0u64;
        let mut rest = self.rest;
        for shift in (0..64).step_by(7) {
            let [byte, tail @ ..] = rest else { break };
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            rest = tail;
            if *byte < 0x80 {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(self.malformed(what))
    }
}

#[cfg(test)]
mod tests {
    use super::super::varint::put_varint;
    use super::*;

    #[test]
    fn reads_what_is_there_and_nothing_more() {
        let bytes = [1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 9];
        let mut reader = ByteReader::new(&bytes);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16("b"), Ok(2));
        assert_eq!(reader.u32("c"), Ok(3));
        assert_eq!(reader.u64("d"), Ok(4));
        assert_eq!(reader.i64("e"), Ok(-1));
        assert_eq!((reader.position(), reader.remaining()), (23, 1));
        assert_eq!(reader.expect_end("end"), Err(Malformed::new(23, "end")));
        assert_eq!(reader.u16("f"), Err(Malformed::new(23, "f")));
        assert_eq!(reader.take(2, "g"), Err(Malformed::new(23, "g")));
        assert_eq!(reader.take(1, "h"), Ok(&[9][..]));
        assert_eq!(reader.expect_end("end"), Ok(()));
        assert_eq!(ByteReader::at(&bytes, 23).u8("i"), Ok(9));
        assert_eq!(ByteReader::at(&bytes, 99).u8("j"), Err(Malformed::new(24, "j")));
    }

    #[test]
    fn varints_reach_their_extremes_and_no_further() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut reader = ByteReader::new(&bytes);
            assert_eq!(reader.varint("v"), Ok(value));
            assert_eq!(reader.expect_end("end"), Ok(()));
            for len in 0..bytes.len() {
                assert_eq!(
                    ByteReader::new(&bytes[..len]).varint("v"),
                    Err(Malformed::new(0, "v")),
                    "{value}"
                );
            }
        }
        let mut too_large = [0xff; 10];
        too_large[9] = 2;
        assert!(ByteReader::new(&too_large).varint("65 bits").is_err());
        assert!(ByteReader::new(&[0xff; 11]).varint("11 bytes").is_err());
        // Longer than needed, but within the bounds, is read.
        assert_eq!(ByteReader::new(&[0x81, 0x80, 0x00]).varint("padded"), Ok(1));
    }

    #[test]
    fn counts_are_bounded_by_what_is_left() {
        let mut bytes = vec![2, 0, 0, 0];
        bytes.extend([0; 16]);
        assert_eq!(ByteReader::new(&bytes).count(8, "items"), Ok(2));
        assert_eq!(ByteReader::new(&bytes).count(9, "items"), Err(Malformed::new(0, "items")));
        assert!(ByteReader::new(&[0xff; 20]).count(usize::MAX, "items").is_err());
    }

    #[test]
    fn a_nested_reader_tells_positions_of_the_whole() {
        let bytes = [7, 3, 1, 2, 3, 9];
        let mut reader = ByteReader::at(&bytes, 1);
        let mut nested = reader.prefixed_reader("nested").unwrap();
        assert_eq!((nested.position(), nested.remaining()), (2, 3));
        assert_eq!(nested.take(4, "past"), Err(Malformed::new(2, "past")));
        assert_eq!(reader.u8("after"), Ok(9));
        assert_eq!(
            ByteReader::new(&[0xff; 10]).prefixed("huge").map(<[u8]>::len),
            Err(Malformed::new(0, "huge"))
        );
    }
}
