//! The frame that all files share: magic, version and feature masks first, a CRC over everything
//! last.
//!
//! [`ByteWriter`] and [`open`] are the two ends: a codec of a file states its fields in order, once
//! each way.

use super::FORMAT_VERSION;
use super::reader::{ByteReader, Malformed, Unsupported};

/// Bytes of a file before its own fields: magic, version, incompatible and compatible features.
pub(crate) const PREFIX_BYTES: usize = 20;

/// Writes one file: magic, version and feature masks, then the fields of the caller, then a CRC
/// over all of it.
pub(crate) struct ByteWriter(Vec<u8>);

impl ByteWriter {
    /// Begins a file of `capacity` bytes, or a few more.
    pub(crate) fn new(magic: [u8; 8], capacity: usize) -> Self {
        ByteWriter::with_features(magic, capacity, 0, 0)
    }

    /// As [`new`](ByteWriter::new), of a file that has these features.
    pub(crate) fn with_features(magic: [u8; 8], capacity: usize, incompatible: u32, compatible: u32) -> Self {
        let mut writer = ByteWriter(Vec::with_capacity(capacity));
        writer.bytes(&magic);
        writer.u32(FORMAT_VERSION);
        writer.u32(incompatible);
        writer.u32(compatible);
        writer
    }

    /// Begins bytes that are part of a file: without magic, and without a CRC of their own.
    pub(crate) fn bare() -> Self {
        ByteWriter(Vec::new())
    }

    /// The bytes so far, without a CRC.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
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
        debug_assert!(u32::try_from(count).is_ok(), "{count} items");
        self.u32(count as u32);
    }

    /// Ends the file with the CRC.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.u32(crc32fast::hash(&self.0));
        self.0
    }
}

/// Checks magic, version, CRC and features of a whole file, in this order, and returns a reader of
/// the bytes between features and CRC.
///
/// Another version is reported before the CRC is looked at: that version may keep it elsewhere.
/// Features are looked at after the CRC: a flipped bit there is damage, not a feature. A compatible
/// feature that this build does not know is ignored; whether bytes of it follow the known ones is
/// the caller's question: see [`compatible_features`].
pub(crate) fn open<'a>(bytes: &'a [u8], magic: [u8; 8]) -> Result<ByteReader<'a>, Malformed> {
    open_knowing(bytes, magic, 0).map(|(reader, _)| reader)
}

/// As [`open`], for a file that may have the incompatible features `known`. Returns also those that
/// it has.
pub(crate) fn open_knowing<'a>(
    bytes: &'a [u8],
    magic: [u8; 8],
    known: u32,
) -> Result<(ByteReader<'a>, u32), Malformed> {
    let mut reader = ByteReader::new(bytes);
    if reader.array("magic")? != magic {
        return Err(Malformed::new(0, "magic"));
    }
    let at_version = reader.position();
    let version = reader.u32("version")?;
    if version != FORMAT_VERSION {
        // Versions begin at 1: zero is not a version, but damage.
        return Err(match version {
            0 => Malformed::new(at_version, "version"),
            _ => Malformed::unsupported(at_version, "version", Unsupported::Version(version)),
        });
    }
    let at_features = reader.position();
    let incompatible = reader.u32("incompatible features")?;
    reader.u32("compatible features")?;
    let Some((covered, crc)) = bytes.split_last_chunk() else { return Err(reader.malformed("crc")) };
    if covered.len() < PREFIX_BYTES || crc32fast::hash(covered) != u32::from_le_bytes(*crc) {
        return Err(Malformed::new(covered.len() as u64, "crc"));
    }
    if incompatible & !known != 0 {
        let needs = Unsupported::Features(incompatible & !known);
        return Err(Malformed::unsupported(at_features, "incompatible features", needs));
    }
    Ok((ByteReader::at(covered, PREFIX_BYTES), incompatible))
}

/// The compatible features of a file that [`open`] has passed. If one of them is not known to this
/// build, bytes may follow those that it knows, and are ignored.
pub(crate) fn compatible_features(bytes: &[u8]) -> u32 {
    debug_assert!(bytes.len() >= PREFIX_BYTES, "the file has been opened");
    ByteReader::at(bytes, PREFIX_BYTES - 4).u32("compatible features").unwrap_or(0)
}

/// Reads the highest version and the incompatible features of the files that this one leads to: a
/// reader that does not know them must change nothing.
pub(crate) fn check_listed(reader: &mut ByteReader<'_>) -> Result<(), Malformed> {
    let at_version = reader.position();
    let version = reader.u32("highest version of the files listed")?;
    let at_features = reader.position();
    let features = reader.u32("features of the files listed")?;
    if version > FORMAT_VERSION {
        let needs = Unsupported::Version(version);
        return Err(Malformed::unsupported(at_version, "highest version of the files listed", needs));
    }
    if features != 0 {
        let needs = Unsupported::Features(features);
        return Err(Malformed::unsupported(at_features, "features of the files listed", needs));
    }
    Ok(())
}

/// Returns the CRC of a piece of a file that is read by itself. It covers `salt`, which identifies
/// the file, and the piece's position, so that no piece is valid in the place of another.
pub(crate) fn piece_crc(salt: u32, position: u64, piece: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&position.to_le_bytes());
    hasher.update(piece);
    hasher.finalize()
}

/// The CRC over all of these bytes, one part after the other.
pub(crate) fn crc_of(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::super::damage::resealed;
    use super::*;

    const MAGIC: [u8; 8] = *b"QUIPUXYZ";

    #[test]
    fn the_crc_is_the_ieee_one() {
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut writer = ByteWriter::new(MAGIC, 0);
        writer.u8(1);
        writer.u16(2);
        writer.u32(3);
        writer.u64(4);
        writer.i64(-5);
        writer.count(6);
        let bytes = writer.finish();
        let mut reader = open(&bytes, MAGIC).unwrap();
        assert_eq!(reader.position(), 20);
        assert_eq!((reader.u8(""), reader.u16(""), reader.u32("")), (Ok(1), Ok(2), Ok(3)));
        assert_eq!((reader.u64(""), reader.i64(""), reader.u32("")), (Ok(4), Ok(-5), Ok(6)));
        assert_eq!(reader.expect_end("end"), Ok(()));
        assert!(open(&bytes, *b"QUIPUABC").is_err());
    }

    #[test]
    fn another_version_is_told_even_with_a_crc_that_does_not_fit() {
        for version in [1, 3, 7] {
            let mut bytes = ByteWriter::new(MAGIC, 0).finish();
            bytes[8] = version;
            let needs = Unsupported::Version(u32::from(version));
            assert_eq!(open(&bytes, MAGIC).unwrap_err(), Malformed::unsupported(8, "version", needs));
        }
        let mut bytes = ByteWriter::new(MAGIC, 0).finish();
        bytes[8] = 0;
        assert_eq!(open(&bytes, MAGIC).unwrap_err().unsupported, None);
    }

    #[test]
    fn an_incompatible_feature_is_told_and_a_compatible_one_ignored() {
        let bytes = resealed(&ByteWriter::new(MAGIC, 0).finish(), |bytes| bytes[13] = 2);
        let needs = Unsupported::Features(0x200);
        assert_eq!(
            open(&bytes, MAGIC).unwrap_err(),
            Malformed::unsupported(12, "incompatible features", needs)
        );
        let bytes = resealed(&ByteWriter::new(MAGIC, 0).finish(), |bytes| bytes[17] = 2);
        assert!(open(&bytes, MAGIC).is_ok() && compatible_features(&bytes) != 0);
        // Without a checksum that fits it is damage.
        let mut bytes = ByteWriter::new(MAGIC, 0).finish();
        assert!(compatible_features(&bytes) == 0);
        bytes[13] = 2;
        assert_eq!(open(&bytes, MAGIC).unwrap_err().unsupported, None);
    }

    #[test]
    fn a_file_shorter_than_its_own_frame_is_refused() {
        let bytes = ByteWriter::new(MAGIC, 0).finish();
        assert_eq!(bytes.len(), PREFIX_BYTES + 4);
        assert!(open(&bytes, MAGIC).is_ok());
        for len in 0..bytes.len() {
            assert!(open(&bytes[..len], MAGIC).is_err());
        }
    }
}
