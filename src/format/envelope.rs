//! What do all files but the segments' batches have in common? Magic, version, content, CRC over all of it.
//!
//! [`Writer`] and [`open`] are the two ends: a codec of a file states its fields in order, once each way.

use super::FORMAT_VERSION;
use super::reader::{Malformed, Reader};

/// Writes one file: magic and version first, then what it is told to, a CRC over all of it last.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// Begins a file of `capacity` bytes, or a few more.
    pub(crate) fn new(magic: [u8; 8], capacity: usize) -> Self {
        let mut writer = Writer(Vec::with_capacity(capacity));
        writer.bytes(&magic);
        writer.u32(FORMAT_VERSION);
        writer
    }

    /// One byte.
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Two bytes, little-endian.
    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Four bytes, little-endian.
    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Eight bytes, little-endian.
    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Eight bytes, little-endian, two's complement.
    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes(&value.to_le_bytes());
    }

    /// These bytes, without their length.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A number of items, or of bytes: none of our files comes near `u32::MAX` of them.
    pub(crate) fn count(&mut self, count: usize) {
        debug_assert!(u32::try_from(count).is_ok());
        self.u32(count as u32);
    }

    /// Ends the file with the CRC.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.u32(crc32fast::hash(&self.0));
        self.0
    }
}

/// Checks magic, version and CRC of a whole file, in this order, and returns a reader of what lies between version
/// and CRC.
///
/// A newer version is reported as such before the CRC is looked at: that version may keep it elsewhere.
pub(crate) fn open<'a>(bytes: &'a [u8], magic: [u8; 8]) -> Result<Reader<'a>, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.array("magic")? != magic {
        return Err(Malformed::new(0, "magic"));
    }
    let at_version = reader;
    let version = reader.u32("version")?;
    if version != FORMAT_VERSION {
        let newer = (version > FORMAT_VERSION).then_some(version);
        return Err(Malformed { version: newer, ..at_version.malformed("version") });
    }
    let header_bytes = bytes.len() - reader.remaining();
    let Some((covered, crc)) = bytes.split_last_chunk() else { return Err(reader.malformed("crc")) };
    if covered.len() < header_bytes || crc32fast::hash(covered) != u32::from_le_bytes(*crc) {
        return Err(Malformed::new(covered.len() as u64, "crc"));
    }
    Ok(Reader::at(covered, header_bytes))
}

/// The CRC of a piece of a file that is read by itself: `salt` says of which file, `position` where in it the piece lies, so
/// that no piece passes for another.
pub(crate) fn piece_crc(salt: u32, position: u64, piece: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&position.to_le_bytes());
    hasher.update(piece);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"QUIPUXYZ";

    #[test]
    fn the_crc_is_the_ieee_one() {
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut writer = Writer::new(MAGIC, 0);
        writer.u8(1);
        writer.u16(2);
        writer.u32(3);
        writer.u64(4);
        writer.i64(-5);
        writer.count(6);
        let bytes = writer.finish();
        let mut reader = open(&bytes, MAGIC).unwrap();
        assert_eq!(reader.position(), 12);
        assert_eq!((reader.u8(""), reader.u16(""), reader.u32("")), (Ok(1), Ok(2), Ok(3)));
        assert_eq!((reader.u64(""), reader.i64(""), reader.u32("")), (Ok(4), Ok(-5), Ok(6)));
        assert_eq!(reader.expect_end("end"), Ok(()));
        assert!(open(&bytes, *b"QUIPUABC").is_err());
    }

    #[test]
    fn a_newer_version_is_told_even_with_a_crc_that_does_not_fit() {
        let mut bytes = Writer::new(MAGIC, 0).finish();
        bytes[8] = 7;
        assert_eq!(
            open(&bytes, MAGIC).unwrap_err(),
            Malformed { position: 8, what: "version", version: Some(7) }
        );
        bytes[8] = 0;
        assert_eq!(open(&bytes, MAGIC).unwrap_err().version, None);
    }

    #[test]
    fn a_file_shorter_than_its_own_frame_is_refused() {
        let bytes = Writer::new(MAGIC, 0).finish();
        assert_eq!(bytes.len(), 16);
        assert!(open(&bytes, MAGIC).is_ok());
        for len in 0..16 {
            assert!(open(&bytes[..len], MAGIC).is_err());
        }
    }
}
