//! The checkpoint: how far each segment was checked and synced, and whether the broker was closed
//! properly. It bounds how much an opening reads.
//!
//! It is derived: without it an opening reads everything that no manifest lists as synced.

use super::digest::Digest;
use super::envelope::{self, ByteWriter};
use super::reader::{ByteReader, Malformed};
use crate::types::{Offset, PartitionId, TopicId};

/// The content of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// It was written when the broker was closed properly, and nothing was appended since.
    pub(crate) clean: bool,
    /// The number of the catalog's file when it was written.
    pub(crate) catalog_number: u64,
    /// How long that file was.
    pub(crate) catalog_bytes: u64,
    /// One entry for each segment that is known.
    pub(crate) entries: Vec<CheckpointEntry>,
}

/// How far one segment was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointEntry {
    /// The segment's topic.
    pub(crate) topic_id: TopicId,
    /// The segment's partition.
    pub(crate) partition: PartitionId,
    /// The segment's base offset.
    pub(crate) base_offset: Offset,
    /// The segment's generation.
    pub(crate) generation: u32,
    /// The bytes before this position were checked and are on the medium.
    pub(crate) position: u64,
    /// The end offset of the last batch before that position.
    pub(crate) end_offset: Offset,
    /// The `max_timestamp` of the segment's first batch; `i64::MIN` without one.
    pub(crate) first_timestamp: i64,
    /// The greatest `max_timestamp` before that position; `i64::MIN` without one.
    pub(crate) max_timestamp: i64,
    /// The header CRC of the last batch before that position; 0 without one.
    pub(crate) last_crc: u32,
    /// The epoch of the segment: after a truncation another file may have its name.
    pub(crate) log_epoch: u32,
    /// The digest of the segment's batches before that position.
    pub(crate) digest: Digest,
}

impl Checkpoint {
    /// How many bytes the file of a checkpoint with so many entries has.
    pub(crate) fn encoded_len(entries: usize) -> usize {
        FIXED_BYTES + entries * ENTRY_BYTES
    }

    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert!(self.entries.iter().all(|entry| entry.end_offset >= entry.base_offset));
        let mut writer = ByteWriter::new(MAGIC, FIXED_BYTES + self.entries.len() * ENTRY_BYTES);
        writer.u8(u8::from(self.clean));
        writer.u64(self.catalog_number);
        writer.u64(self.catalog_bytes);
        writer.count(self.entries.len());
        for entry in &self.entries {
            entry.encode(&mut writer);
        }
        writer.finish()
    }

    /// Reads a whole file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = envelope::open(bytes, MAGIC)?;
        let start = reader;
        let clean = match reader.u8("clean mark")? {
            0 => false,
            1 => true,
            _ => return Err(start.malformed("clean mark")),
        };
        let catalog_number = reader.u64("catalog number")?;
        let catalog_bytes = reader.u64("catalog bytes")?;
        let count = reader.count(ENTRY_BYTES, "entry count")?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(CheckpointEntry::decode(&mut reader)?);
        }
        reader.expect_end("bytes after the last entry")?;
        Ok(Checkpoint { clean, catalog_number, catalog_bytes, entries })
    }
}

impl CheckpointEntry {
    fn encode(&self, writer: &mut ByteWriter) {
        writer.bytes(&self.topic_id.0);
        writer.u32(self.partition.get());
        writer.u64(self.base_offset.get());
        writer.u32(self.generation);
        writer.u64(self.position);
        writer.u64(self.end_offset.get());
        writer.i64(self.first_timestamp);
        writer.i64(self.max_timestamp);
        writer.u32(self.last_crc);
        writer.u32(self.log_epoch);
        writer.u64(self.digest.0);
    }

    fn decode(reader: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        let start = *reader;
        let entry = CheckpointEntry {
            topic_id: TopicId(reader.array("topic id")?),
            partition: PartitionId::new(reader.u32("partition")?),
            base_offset: Offset::new(reader.u64("base offset")?),
            generation: reader.u32("generation")?,
            position: reader.u64("position")?,
            end_offset: Offset::new(reader.u64("end offset")?),
            first_timestamp: reader.i64("first timestamp")?,
            max_timestamp: reader.i64("max timestamp")?,
            last_crc: reader.u32("last crc")?,
            log_epoch: reader.u32("log epoch")?,
            digest: Digest(reader.u64("digest")?),
        };
        if entry.end_offset < entry.base_offset {
            return Err(start.malformed("end offset before the base offset"));
        }
        Ok(entry)
    }
}

const MAGIC: [u8; 8] = *b"QUIPUCHK";
/// Bytes of a checkpoint without entries, CRC included.
const FIXED_BYTES: usize = 45;
const ENTRY_BYTES: usize = 80;

#[cfg(test)]
mod tests {
    use super::super::damage::{self, hex};
    use super::*;

    fn example() -> Checkpoint {
        let entry = CheckpointEntry {
            topic_id: TopicId(*b"0123456789abcdef"),
            partition: PartitionId::new(3),
            base_offset: Offset::new(1_000),
            generation: 4,
            position: 9_000,
            end_offset: Offset::new(1_100),
            first_timestamp: 1_700_000_000_000,
            max_timestamp: 1_700_000_000_001,
            last_crc: 0xdead_beef,
            log_epoch: 5,
            digest: Digest(0x0102_0304_0506_0708),
        };
        let empty = CheckpointEntry {
            base_offset: Offset::new(1_100),
            position: 96,
            first_timestamp: i64::MIN,
            max_timestamp: i64::MIN,
            last_crc: 0,
            log_epoch: 6,
            ..entry
        };
        Checkpoint { clean: true, catalog_number: 7, catalog_bytes: 4_711, entries: vec![entry, empty] }
    }

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(
            hex(&example().encode()),
            "515549505543484b0200000000000000000000000107000000000000006712000000000000020000\
             003031323334353637383961626364656603000000e8030000000000000400000028230000000000\
             004c040000000000000068e5cf8b0100000168e5cf8b010000efbeadde0500000008070605040302\
             0130313233343536373839616263646566030000004c040000000000000400000060000000000000\
             004c0400000000000000000000000000800000000000000080000000000600000008070605040302\
             01881b9082"
        );
    }

    #[test]
    fn a_checkpoint_comes_back() {
        let bytes = example().encode();
        assert_eq!(bytes.len(), Checkpoint::encoded_len(2));
        assert_eq!(Checkpoint::decode(&bytes), Ok(example()));
        let empty = Checkpoint { clean: false, entries: Vec::new(), ..example() };
        assert_eq!(Checkpoint::decode(&empty.encode()), Ok(empty));
    }

    #[test]
    fn every_damage_is_noticed() {
        damage::is_always_noticed(&example().encode(), Checkpoint::decode);
    }

    #[test]
    fn the_checks_stand_behind_the_crc_too() {
        let refused = |at: usize, value: u8| {
            let bytes = damage::resealed(&example().encode(), |bytes| bytes[at] = value);
            let error = Checkpoint::decode(&bytes).unwrap_err();
            (error.position, error.what)
        };
        assert_eq!(refused(20, 2), (20, "clean mark"));
        assert_eq!(refused(37, 3), (37, "entry count"));
        assert_eq!(refused(41 + 27, 1), (41, "end offset before the base offset"));
    }
}
