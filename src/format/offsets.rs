//! The records of groups' offsets: the key has the group and the partition, the value has the
//! offset. A null value removes it. The log of these records is compacted like any changelog.

use super::reader::{ByteReader, Malformed};
use super::varint::put_varint;
use crate::types::{Offset, PartitionId, Timestamp, TopicId};

/// The key of a record of the offsets log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key<'a> {
    /// The committed offset of a group in a partition.
    Commit { group: &'a str, topic: TopicId, partition: PartitionId },
    /// How many partitions a topic had when the group first subscribed to it.
    Joined { group: &'a str, topic: TopicId },
    /// The group has subscribed to all topics whose names match; the value is empty.
    Glob { group: &'a str, glob: &'a str },
    /// Where the group has started in a partition.
    Began { group: &'a str, topic: TopicId, partition: PartitionId },
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommitValue<'a> {
    /// The next offset to read.
    pub(crate) offset: Offset,
    /// The log epoch in which the group read up to there.
    pub(crate) epoch: u32,
    /// When it was committed.
    pub(crate) at: Timestamp,
    /// Free text of the committer.
    pub(crate) metadata: &'a str,
}

/// Where a group has started in a partition, before its first commit there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BeganValue {
    /// The first offset that it read.
    pub(crate) offset: Offset,
    /// The log epoch in which that was true.
    pub(crate) epoch: u32,
    /// When it started.
    pub(crate) at: Timestamp,
}

impl<'a> Key<'a> {
    /// The record's key.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, group) = match self {
            Key::Commit { group, .. } => (COMMIT, group),
            Key::Joined { group, .. } => (JOINED, group),
            Key::Glob { group, .. } => (GLOB, group),
            Key::Began { group, .. } => (BEGAN, group),
        };
        let mut out = Vec::with_capacity(24 + group.len());
        out.extend([VERSION, kind]);
        put_str(&mut out, group);
        match self {
            Key::Commit { topic, partition, .. } | Key::Began { topic, partition, .. } => {
                out.extend(topic.0);
                out.extend(partition.get().to_le_bytes());
            }
            Key::Joined { topic, .. } => out.extend(topic.0),
            Key::Glob { glob, .. } => put_str(&mut out, glob),
        }
        out
    }

    /// Reads a record's key. Returns `None` for a kind that a later version writes.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let mut reader = ByteReader::new(bytes);
        let (version, kind) = (reader.u8("version")?, reader.u8("kind")?);
        if version != VERSION || !matches!(kind, COMMIT | JOINED | GLOB | BEGAN) {
            return Ok(None);
        }
        let group = take_str(&mut reader, "group")?;
        let key = match kind {
            COMMIT | BEGAN => {
                let topic = TopicId(reader.array("topic id")?);
                let partition = PartitionId::new(reader.u32("partition")?);
                match kind {
                    COMMIT => Key::Commit { group, topic, partition },
                    _ => Key::Began { group, topic, partition },
                }
            }
            JOINED => Key::Joined { group, topic: TopicId(reader.array("topic id")?) },
            _ => Key::Glob { group, glob: take_str(&mut reader, "glob")? },
        };
        reader.expect_end("bytes after the key")?;
        Ok(Some(key))
    }
}

impl<'a> CommitValue<'a> {
    /// The record's value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24 + self.metadata.len());
        out.extend(self.offset.get().to_le_bytes());
        out.extend(self.epoch.to_le_bytes());
        out.extend(self.at.as_millis().to_le_bytes());
        put_str(&mut out, self.metadata);
        out
    }

    /// Reads a record's value.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = ByteReader::new(bytes);
        let value = CommitValue {
            offset: Offset::new(reader.u64("offset")?),
            epoch: reader.u32("epoch")?,
            at: Timestamp::from_millis(reader.i64("commit time")?),
            metadata: take_str(&mut reader, "metadata")?,
        };
        reader.expect_end("bytes after the value")?;
        Ok(value)
    }
}

impl BeganValue {
    /// The record's value.
    pub(crate) fn encode(&self) -> [u8; 20] {
        let mut out = [0; 20];
        let (offset, rest) = out.split_at_mut(8);
        let (epoch, at) = rest.split_at_mut(4);
        offset.copy_from_slice(&self.offset.get().to_le_bytes());
        epoch.copy_from_slice(&self.epoch.to_le_bytes());
        at.copy_from_slice(&self.at.as_millis().to_le_bytes());
        out
    }

    /// Reads a record's value.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = ByteReader::new(bytes);
        let value = BeganValue {
            offset: Offset::new(reader.u64("offset")?),
            epoch: reader.u32("epoch")?,
            at: Timestamp::from_millis(reader.i64("time")?),
        };
        reader.expect_end("bytes after the value")?;
        Ok(value)
    }
}

/// The value of a [`Key::Joined`].
pub(crate) fn encode_partitions(partitions: u32) -> [u8; 4] {
    partitions.to_le_bytes()
}

/// Reads what [`encode_partitions`] wrote.
pub(crate) fn decode_partitions(bytes: &[u8]) -> Result<u32, Malformed> {
    let mut reader = ByteReader::new(bytes);
    let partitions = reader.u32("partitions")?;
    reader.expect_end("bytes after the value")?;
    Ok(partitions)
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn take_str<'a>(reader: &mut ByteReader<'a>, what: &'static str) -> Result<&'a str, Malformed> {
    let start = *reader;
    let bytes = reader.prefixed(what)?;
    std::str::from_utf8(bytes).map_err(|_| start.malformed(what))
}

const VERSION: u8 = 1;
const COMMIT: u8 = 1;
const JOINED: u8 = 2;
const GLOB: u8 = 3;
const BEGAN: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId([7; 16]);

    #[test]
    fn what_is_written_is_read() {
        for key in [
            Key::Commit { group: "billing", topic: TOPIC, partition: PartitionId::new(3) },
            Key::Commit { group: "é", topic: TOPIC, partition: PartitionId::new(u32::MAX) },
            Key::Joined { group: "billing", topic: TOPIC },
            Key::Glob { group: "billing", glob: "orders.*" },
            Key::Began { group: "billing", topic: TOPIC, partition: PartitionId::new(3) },
        ] {
            assert_eq!(Key::decode(&key.encode()).unwrap(), Some(key));
        }
        let value = CommitValue {
            offset: Offset::new(u64::MAX),
            epoch: 3,
            at: Timestamp::from_millis(1_600_000_000_000),
            metadata: "row 17",
        };
        assert_eq!(CommitValue::decode(&value.encode()).unwrap(), value);
        assert_eq!(decode_partitions(&encode_partitions(12)).unwrap(), 12);
    }

    #[test]
    fn every_cut_and_every_surplus_is_refused() {
        let key = Key::Commit { group: "billing", topic: TOPIC, partition: PartitionId::new(3) }.encode();
        let value = CommitValue { offset: Offset::new(5), epoch: 0, at: Timestamp::default(), metadata: "m" }
            .encode();
        for len in 0..key.len() {
            assert!(Key::decode(&key[..len]).is_err(), "{len}");
        }
        for len in 0..value.len() {
            assert!(CommitValue::decode(&value[..len]).is_err(), "{len}");
        }
        assert!(Key::decode(&[&key[..], &[0]].concat()).is_err());
        assert!(CommitValue::decode(&[&value[..], &[0]].concat()).is_err());
    }

    #[test]
    fn the_bytes_of_a_beginning_are_those_of_the_format() {
        let key = Key::Began { group: "g1", topic: TOPIC, partition: PartitionId::new(0x0102) };
        let mut bytes = vec![1, 4, 2, b'g', b'1'];
        bytes.extend([7; 16]);
        bytes.extend([0x02, 0x01, 0, 0]);
        assert_eq!(key.encode(), bytes);
        let value = BeganValue { offset: Offset::new(0x0304), epoch: 5, at: Timestamp::from_millis(-2) };
        let bytes = [&[4, 3, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0xfe][..], &[0xff; 7]].concat();
        assert_eq!(value.encode(), bytes[..]);
        assert_eq!(BeganValue::decode(&bytes).unwrap(), value);
        for len in 0..bytes.len() {
            assert!(BeganValue::decode(&bytes[..len]).is_err(), "{len}");
        }
        assert!(BeganValue::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_later_versions_records_are_told_from_broken_ones() {
        let mut key = Key::Joined { group: "g", topic: TOPIC }.encode();
        key[1] = 99;
        assert_eq!(Key::decode(&key).unwrap(), None);
        key[0] = 2;
        assert_eq!(Key::decode(&key).unwrap(), None);
    }
}
