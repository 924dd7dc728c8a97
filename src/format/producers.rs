//! The producer state of a partition: the last batches of each idempotent producer up to an offset,
//! so that an opening need not read the whole log for them.

use super::envelope::{self, ByteWriter};
use super::reader::{ByteReader, Malformed};
use crate::types::{Offset, PartitionId, TopicId};

/// How many batches are remembered per producer.
pub(crate) const REMEMBERED: usize = 5;

/// How many batches a file may have of each producer: those, and one before them that is not in the
/// log any more.
const LISTED: usize = REMEMBERED + 1;

/// The producer-state file of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProducersFile {
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
    /// The epoch in which the log had that end.
    pub(crate) log_epoch: u32,
    /// All batches below are accounted for, and were on the medium.
    pub(crate) end_offset: Offset,
    /// By producer id, which rises: the last batches, oldest first; of six the first need not be
    /// next to the others.
    pub(crate) producers: Vec<(u64, Vec<Remembered>)>,
}

/// A batch of an idempotent producer that is in the log, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// The sequence of its first record; that of its last one if the batch has gaps and was not
    /// sent by this process.
    pub(crate) first: u64,
    /// The sequence of its last record.
    pub(crate) last: u64,
    pub(crate) base_offset: Offset,
    pub(crate) last_offset: Offset,
}

impl ProducersFile {
    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let batches: usize = self.producers.iter().map(|(_, batches)| batches.len()).sum();
        let entries = self.producers.len() * PRODUCER_BYTES + batches * BATCH_BYTES;
        let mut writer = ByteWriter::new(MAGIC, FIXED_BYTES + entries);
        writer.bytes(&self.topic_id.0);
        writer.u32(self.partition.get());
        writer.u32(self.log_epoch);
        writer.u64(self.end_offset.get());
        writer.count(self.producers.len());
        for (id, batches) in &self.producers {
            debug_assert!((1..=LISTED).contains(&batches.len()));
            writer.u64(*id);
            writer.u8(batches.len() as u8);
            for batch in batches {
                writer.u64(batch.first);
                writer.u64(batch.last);
                writer.u64(batch.base_offset.get());
                writer.u64(batch.last_offset.get());
            }
        }
        writer.finish()
    }

    /// Reads a whole file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = envelope::open(bytes, MAGIC)?;
        let topic_id = TopicId(reader.array("topic id")?);
        let partition = PartitionId::new(reader.u32("partition")?);
        let log_epoch = reader.u32("log epoch")?;
        let end_offset = Offset::new(reader.u64("end offset")?);
        let count = reader.count(PRODUCER_BYTES + BATCH_BYTES, "producer count")?;
        let mut producers = Vec::with_capacity(count);
        let mut last_id = 0;
        for _ in 0..count {
            let start = reader;
            let id = reader.u64("producer id")?;
            if id <= last_id {
                return Err(start.malformed("producer ids that do not rise"));
            }
            last_id = id;
            producers.push((id, decode_batches(&mut reader, end_offset)?));
        }
        reader.expect_end("bytes after the last producer")?;
        Ok(ProducersFile { topic_id, partition, log_epoch, end_offset, producers })
    }
}

fn decode_batches(reader: &mut ByteReader<'_>, end: Offset) -> Result<Vec<Remembered>, Malformed> {
    let start = *reader;
    let count = usize::from(reader.u8("batch count")?);
    if !(1..=LISTED).contains(&count) {
        return Err(start.malformed("batch count"));
    }
    let mut batches: Vec<Remembered> = Vec::with_capacity(count);
    for _ in 0..count {
        let start = *reader;
        let batch = Remembered {
            first: reader.u64("first sequence")?,
            last: reader.u64("last sequence")?,
            base_offset: Offset::new(reader.u64("base offset")?),
            last_offset: Offset::new(reader.u64("last offset")?),
        };
        let follows = batches
            .last()
            .is_none_or(|before| before.last < batch.first && before.last_offset < batch.base_offset);
        let is_sound = batch.first <= batch.last && batch.base_offset <= batch.last_offset;
        if !follows || !is_sound || batch.last_offset >= end {
            return Err(start.malformed("a batch out of order"));
        }
        batches.push(batch);
    }
    Ok(batches)
}

const MAGIC: [u8; 8] = *b"QUIPUPRD";
/// Bytes of a file without producers, CRC included.
const FIXED_BYTES: usize = 60;
/// Bytes of a producer without batches.
const PRODUCER_BYTES: usize = 9;
const BATCH_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::damage::{self, hex};
    use super::*;

    fn batch(first: u64, last: u64, base: u64, last_offset: u64) -> Remembered {
        Remembered { first, last, base_offset: Offset::new(base), last_offset: Offset::new(last_offset) }
    }

    fn example() -> ProducersFile {
        ProducersFile {
            topic_id: TopicId(*b"0123456789abcdef"),
            partition: PartitionId::new(3),
            log_epoch: 5,
            end_offset: Offset::new(1_100),
            producers: vec![
                (7, vec![batch(10, 12, 1_000, 1_002), batch(20, 40, 1_003, 1_005)]),
                (9, vec![batch(u64::MAX, u64::MAX, 1_099, 1_099)]),
            ],
        }
    }

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(
            hex(&example().encode()),
            "51554950555052440200000000000000000000003031323334353637383961626364656603000000\
             050000004c04000000000000020000000700000000000000020a000000000000000c000000000000\
             00e803000000000000ea0300000000000014000000000000002800000000000000eb030000000000\
             00ed03000000000000090000000000000001ffffffffffffffffffffffffffffffff4b0400000000\
             00004b0400000000000048b816fd"
        );
    }

    #[test]
    fn a_file_comes_back() {
        let bytes = example().encode();
        assert_eq!(bytes.len(), FIXED_BYTES + 2 * PRODUCER_BYTES + 3 * BATCH_BYTES);
        assert_eq!(ProducersFile::decode(&bytes), Ok(example()));
        let empty = ProducersFile { producers: Vec::new(), ..example() };
        assert_eq!(ProducersFile::decode(&empty.encode()), Ok(empty));
    }

    #[test]
    fn every_damage_is_noticed() {
        damage::is_always_noticed(&example().encode(), ProducersFile::decode);
    }

    #[test]
    fn the_checks_stand_behind_the_crc_too() {
        let refused = |change: &dyn Fn(&mut ProducersFile)| {
            let mut file = example();
            change(&mut file);
            ProducersFile::decode(&file.encode()).unwrap_err().what
        };
        assert_eq!(refused(&|f| f.producers[0].0 = 0), "producer ids that do not rise");
        assert_eq!(refused(&|f| f.producers[1].0 = 7), "producer ids that do not rise");
        let changes: [&dyn Fn(&mut ProducersFile); 5] = [
            &|f| f.producers[0].1[0].first = 13,
            &|f| f.producers[0].1[1].first = 12,
            &|f| f.producers[0].1[0].base_offset = Offset::new(1_003),
            &|f| f.producers[0].1[1].base_offset = Offset::new(1_002),
            &|f| f.end_offset = Offset::new(1_099),
        ];
        for change in changes {
            assert_eq!(refused(change), "a batch out of order");
        }
        let counted = |count: u8| {
            let bytes = damage::resealed(&example().encode(), |bytes| bytes[56 + 8] = count);
            ProducersFile::decode(&bytes).unwrap_err().what
        };
        assert_eq!([counted(0), counted(7)], ["batch count"; 2]);
        let bytes = damage::resealed(&example().encode(), |bytes| bytes[52] = 200);
        assert_eq!(ProducersFile::decode(&bytes).unwrap_err().what, "producer count");
    }
}
