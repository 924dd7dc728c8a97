//! The mark of a backup: whether it is finished, and the catalog that it ended with.

use super::envelope::{self, ByteWriter};
use super::reader::{ByteReader, Malformed};
use crate::types::Timestamp;

const MAGIC: [u8; 8] = *b"QUIPUBAK";

/// The content of the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackupMark {
    /// Everything is there, and on the medium.
    pub(crate) finished: bool,
    /// When the backup was begun, by the wall clock.
    pub(crate) at: Timestamp,
    /// The number of the backup's catalog; 0 if it is not finished.
    pub(crate) catalog_number: u64,
    /// How long that file is; 0 if it is not finished.
    pub(crate) catalog_bytes: u64,
}

impl BackupMark {
    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = ByteWriter::new(MAGIC, 64);
        writer.u8(u8::from(self.finished));
        writer.i64(self.at.as_millis());
        writer.u64(self.catalog_number);
        writer.u64(self.catalog_bytes);
        writer.finish()
    }

    /// Reads a whole file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader: ByteReader<'_> = envelope::open(bytes, MAGIC)?;
        let start = reader;
        let finished = match reader.u8("finished")? {
            0 => false,
            1 => true,
            _ => return Err(start.malformed("finished")),
        };
        let at = Timestamp::from_millis(reader.i64("time of the backup")?);
        let mark = BackupMark {
            finished,
            at,
            catalog_number: reader.u64("catalog number")?,
            catalog_bytes: reader.u64("catalog bytes")?,
        };
        reader.expect_end("bytes after the mark")?;
        Ok(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_no_bit_of_it_may_change() {
        for finished in [false, true] {
            let mark = BackupMark {
                finished,
                at: Timestamp::from_millis(1_600_000_000_000),
                catalog_number: 7,
                catalog_bytes: 300,
            };
            let bytes = mark.encode();
            assert_eq!(BackupMark::decode(&bytes), Ok(mark));
            for bit in 0..bytes.len() * 8 {
                let mut wrong = bytes.clone();
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(BackupMark::decode(&wrong).is_err(), "bit {bit}");
            }
        }
    }
}
