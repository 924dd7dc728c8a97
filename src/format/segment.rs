//! The header of a segment: its topic, its partition and its place among the segments.
//!
//! Batches follow it: see [`batch`](super::batch).

use super::batch::Secret;
use super::envelope::{self, ByteWriter};
use super::reader::Malformed;
use crate::types::{Offset, PartitionId, Timestamp, TopicId};

/// Bytes of a segment before its first batch.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 128;

/// The header, written when the segment is created and never again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The topic's identity.
    pub(crate) topic_id: TopicId,
    /// The partition.
    pub(crate) partition: PartitionId,
    /// No record of the segment has a smaller offset.
    pub(crate) base_offset: Offset,
    /// The end offset of the segment before; `base_offset` where none is before.
    pub(crate) prev_end: Offset,
    /// The header CRC of the last batch of the segment before; 0 where there is none.
    pub(crate) prev_crc: u32,
    /// 0 as appended to; each rewrite by compaction has a greater one.
    pub(crate) generation: u32,
    /// The log epoch in which the segment was created.
    pub(crate) log_epoch: u32,
    /// When it was created, by the wall clock. Nothing depends on it.
    pub(crate) created_at: Timestamp,
    /// The secret of the partition, as in the manifest, so that the segment can be checked alone.
    pub(crate) secret: Secret,
}

impl SegmentHeader {
    /// The header's bytes.
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        debug_assert!(self.prev_end <= self.base_offset);
        let mut writer = ByteWriter::new(MAGIC, SEGMENT_HEADER_BYTES);
        writer.u32(self.partition.get());
        writer.bytes(&self.topic_id.0);
        writer.u64(self.base_offset.get());
        writer.u64(self.prev_end.get());
        writer.u32(self.prev_crc);
        writer.u32(self.generation);
        writer.u32(self.log_epoch);
        writer.bytes(&[0; 4]);
        writer.i64(self.created_at.as_millis());
        writer.bytes(&self.secret.0);
        writer.bytes(&[0; 28]);
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        for (to, from) in bytes.iter_mut().zip(writer.finish()) {
            *to = from;
        }
        bytes
    }

    /// Reads the header at the start of a segment; the bytes after it are not checked.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        // Of a shorter file the magic and the version are checked first: another version is not
        // damage.
        let header = bytes.first_chunk::<SEGMENT_HEADER_BYTES>().map_or(bytes, |header| header.as_slice());
        let mut reader = envelope::open(header, MAGIC)?;
        let partition = PartitionId::new(reader.u32("partition")?);
        let topic_id = TopicId(reader.array("topic id")?);
        let base_offset = Offset::new(reader.u64("base offset")?);
        let at_prev_end = reader;
        let prev_end = Offset::new(reader.u64("end offset of the segment before")?);
        if prev_end > base_offset {
            return Err(at_prev_end.malformed("end offset of the segment before"));
        }
        let prev_crc = reader.u32("crc of the segment before")?;
        let generation = reader.u32("generation")?;
        let log_epoch = reader.u32("log epoch")?;
        reader.zeros::<4>("reserved bytes")?;
        let created_at = Timestamp::from_millis(reader.i64("creation time")?);
        let secret = Secret(reader.array("secret")?);
        reader.zeros::<28>("reserved bytes")?;
        reader.expect_end("bytes after the segment header")?;
        Ok(SegmentHeader {
            topic_id,
            partition,
            base_offset,
            prev_end,
            prev_crc,
            generation,
            log_epoch,
            created_at,
            secret,
        })
    }
}

const MAGIC: [u8; 8] = *b"QUIPUSEG";

#[cfg(test)]
mod tests {
    use super::super::damage::{self, hex};
    use super::*;

    fn example() -> SegmentHeader {
        SegmentHeader {
            topic_id: TopicId(*b"0123456789abcdef"),
            partition: PartitionId::new(3),
            base_offset: Offset::new(1_000),
            prev_end: Offset::new(999),
            prev_crc: 0xdead_beef,
            generation: 4,
            log_epoch: 5,
            created_at: Timestamp::from_millis(1_700_000_000_000),
            secret: Secret(*b"a secret, random"),
        }
    }

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(
            hex(&example().encode()),
            "51554950555345470200000000000000000000000300000030313233343536373839616263646566\
             e803000000000000e703000000000000efbeadde0400000005000000000000000068e5cf8b010000\
             61207365637265742c2072616e646f6d000000000000000000000000000000000000000000000000\
             0000000049460163"
        );
    }

    #[test]
    fn a_header_comes_back_whatever_follows_it() {
        let mut bytes = example().encode().to_vec();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(example()));
        bytes.extend(b"QBAT");
        assert_eq!(SegmentHeader::decode(&bytes), Ok(example()));
    }

    #[test]
    fn every_damage_is_noticed() {
        damage::is_always_noticed(&example().encode(), SegmentHeader::decode);
    }

    #[test]
    fn reserved_bytes_and_the_chain_are_checked_behind_the_crc() {
        for (at, what) in [(68, "reserved bytes"), (96, "reserved bytes"), (123, "reserved bytes")] {
            let bytes = damage::resealed(&example().encode(), |bytes| bytes[at] = 1);
            assert_eq!(SegmentHeader::decode(&bytes).unwrap_err().what, what);
        }
        let bytes = damage::resealed(&example().encode(), |bytes| bytes[50] = 1);
        let error = SegmentHeader::decode(&bytes).unwrap_err();
        assert_eq!((error.position, error.what), (48, "end offset of the segment before"));
    }
}
