//! The sparse index of a segment in a side file: positions of batches by offset and by time.
//!
//! For seeks into a segment that was opened and not scanned. It is derived: if it cannot be read,
//! it is rebuilt from the segment. It does not cover batches after its `covers_bytes`.

use super::envelope::{self, ByteWriter};
use super::reader::Malformed;
use crate::types::{Offset, PartitionId, TopicId};

/// The index of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexFile {
    /// The segment's topic.
    pub(crate) topic_id: TopicId,
    /// The segment's partition.
    pub(crate) partition: PartitionId,
    /// The segment's base offset.
    pub(crate) base_offset: Offset,
    /// The segment's generation.
    pub(crate) generation: u32,
    /// The epoch in the segment's header: after a truncation another segment may have its
    /// name.
    pub(crate) log_epoch: u32,
    /// It covers the batches before this position of the segment.
    pub(crate) covers_bytes: u64,
    /// The end offset of the last of those batches; the base offset if there is none.
    pub(crate) end_offset: Offset,
    /// Some of those batches, in order.
    pub(crate) entries: Vec<IndexEntry>,
}

/// One batch of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// The batch's base offset minus that of the segment.
    pub(crate) offset_delta: u32,
    /// Where the batch begins in the segment file.
    pub(crate) position: u32,
    /// The greatest `max_timestamp` of all batches of the segment *before* this position, indexed
    /// or not; `i64::MIN` where none is. So a record at or after time `t` is not before the last
    /// entry with `max_before < t`.
    pub(crate) max_before: i64,
}

impl IndexFile {
    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert_eq!(self.check(), Ok(()));
        let mut writer = ByteWriter::new(MAGIC, HEADER_BYTES + self.entries.len() * ENTRY_BYTES + 4);
        writer.u32(self.partition.get());
        writer.bytes(&self.topic_id.0);
        writer.u64(self.base_offset.get());
        writer.u32(self.generation);
        writer.u32(self.log_epoch);
        writer.count(self.entries.len());
        writer.u64(self.covers_bytes);
        writer.u64(self.end_offset.get());
        for entry in &self.entries {
            writer.u32(entry.offset_delta);
            writer.u32(entry.position);
            writer.i64(entry.max_before);
        }
        writer.finish()
    }

    /// Reads a whole file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = envelope::open(bytes, MAGIC)?;
        let partition = PartitionId::new(reader.u32("partition")?);
        let topic_id = TopicId(reader.array("topic id")?);
        let base_offset = Offset::new(reader.u64("base offset")?);
        let generation = reader.u32("generation")?;
        let log_epoch = reader.u32("log epoch")?;
        let count = reader.count(ENTRY_BYTES, "entry count")?;
        let covers_bytes = reader.u64("covered bytes")?;
        let end_offset = Offset::new(reader.u64("end offset")?);
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(IndexEntry {
                offset_delta: reader.u32("offset delta")?,
                position: reader.u32("position")?,
                max_before: reader.i64("timestamp")?,
            });
        }
        reader.expect_end("bytes after the last entry")?;
        let file = IndexFile {
            topic_id,
            partition,
            base_offset,
            generation,
            log_epoch,
            covers_bytes,
            end_offset,
            entries,
        };
        file.check().map_err(|(position, what)| Malformed::new(position, what))?;
        Ok(file)
    }

    /// Returns the byte of the file and the name of the first value that is wrong.
    pub(crate) fn check(&self) -> Result<(), (u64, &'static str)> {
        if self.end_offset < self.base_offset {
            return Err((68, "end offset"));
        }
        let mut before: Option<IndexEntry> = None;
        for (index, entry) in self.entries.iter().enumerate() {
            let at = (HEADER_BYTES + index * ENTRY_BYTES) as u64;
            if before.is_some_and(|before| entry.offset_delta <= before.offset_delta)
                || u64::from(entry.offset_delta) >= self.end_offset.since(self.base_offset)
            {
                return Err((at, "offset of an index entry"));
            }
            if before.is_some_and(|before| entry.position <= before.position)
                || u64::from(entry.position) >= self.covers_bytes
            {
                return Err((at + 4, "position of an index entry"));
            }
            if before.is_some_and(|before| entry.max_before < before.max_before) {
                return Err((at + 8, "timestamp of an index entry"));
            }
            before = Some(*entry);
        }
        Ok(())
    }
}

const MAGIC: [u8; 8] = *b"QUIPUIDX";
/// Bytes before the first entry.
const HEADER_BYTES: usize = 76;
const ENTRY_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::damage::{self, hex};
    use super::*;

    fn entry(offset_delta: u32, position: u32, max_before: i64) -> IndexEntry {
        IndexEntry { offset_delta, position, max_before }
    }

    fn example() -> IndexFile {
        IndexFile {
            topic_id: TopicId(*b"0123456789abcdef"),
            partition: PartitionId::new(3),
            base_offset: Offset::new(1_000),
            generation: 4,
            log_epoch: 5,
            covers_bytes: 9_000,
            end_offset: Offset::new(1_100),
            entries: vec![
                entry(0, 96, i64::MIN),
                entry(10, 4_200, 1_700_000_000_000),
                entry(99, 8_999, 1_700_000_000_000),
            ],
        }
    }

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(
            hex(&example().encode()),
            "51554950554944580200000000000000000000000300000030313233343536373839616263646566\
             e80300000000000004000000050000000300000028230000000000004c0400000000000000000000\
             6000000000000000000000800a000000681000000068e5cf8b01000063000000272300000068e5cf\
             8b010000cfe66b8e"
        );
    }

    #[test]
    fn an_index_comes_back() {
        assert_eq!(IndexFile::decode(&example().encode()), Ok(example()));
        let empty = IndexFile { entries: Vec::new(), end_offset: Offset::new(1_000), ..example() };
        assert_eq!(IndexFile::decode(&empty.encode()), Ok(empty));
    }

    #[test]
    fn every_damage_is_noticed() {
        damage::is_always_noticed(&example().encode(), IndexFile::decode);
    }

    #[test]
    fn entries_out_of_order_or_out_of_the_covered_part_are_refused() {
        let cases = [
            (1, entry(0, 4_200, 0), 92, "offset of an index entry"),
            (2, entry(100, 8_999, i64::MAX), 108, "offset of an index entry"),
            (1, entry(10, 96, 0), 96, "position of an index entry"),
            (2, entry(99, 9_000, i64::MAX), 112, "position of an index entry"),
            (2, entry(99, 8_999, 1_699_999_999_999), 116, "timestamp of an index entry"),
        ];
        for (index, entry, position, what) in cases {
            let mut file = example();
            file.entries[index] = entry;
            assert_eq!(file.check(), Err((position, what)));
            let bytes = damage::resealed(&example().encode(), |bytes| {
                let at = HEADER_BYTES + index * ENTRY_BYTES;
                bytes[at..at + 4].copy_from_slice(&entry.offset_delta.to_le_bytes());
                bytes[at + 4..at + 8].copy_from_slice(&entry.position.to_le_bytes());
                bytes[at + 8..at + 16].copy_from_slice(&entry.max_before.to_le_bytes());
            });
            assert_eq!(IndexFile::decode(&bytes), Err(Malformed::new(position, what)));
        }
    }

    #[test]
    fn a_count_that_does_not_fit_is_refused_before_anything_is_allocated() {
        for count in [2u32, 4, u32::MAX] {
            let bytes = damage::resealed(&example().encode(), |bytes| {
                bytes[56..60].copy_from_slice(&count.to_le_bytes())
            });
            assert!(IndexFile::decode(&bytes).is_err(), "{count}");
        }
    }
}
