//! The journal of transactions. A record holds every batch of a transaction, with the bytes that
//! the segments will have. Once the record is whole, the transaction is committed, even if the
//! segments lack its batches.

use super::envelope;
use super::reader::{ByteReader, Malformed};
use crate::types::{Offset, PartitionId, TopicId};

/// The bytes of a file before its first record.
pub(crate) const JOURNAL_HEADER_BYTES: usize = 32;

/// One committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Committed<'a> {
    pub(crate) id: u64,
    /// The bytes of the file that were on the medium when it was written.
    pub(crate) synced_upto: u64,
    pub(crate) parts: Vec<CommittedPart<'a>>,
}

/// The batch of a transaction in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommittedPart<'a> {
    pub(crate) topic: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) base_offset: Offset,
    /// The batch, header and body, with the bytes that the segment has.
    pub(crate) batch: &'a [u8],
}

/// Encodes the header of a file. Every transaction with an id below `floor` is whole in its
/// segments, and on the medium.
pub(crate) fn encode_header(floor: u64) -> Vec<u8> {
    let mut writer = envelope::ByteWriter::new(FILE_MAGIC, JOURNAL_HEADER_BYTES);
    writer.u64(floor);
    writer.finish()
}

/// Reads the header of a file, and returns its floor.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<u64, Malformed> {
    let header = bytes.get(..JOURNAL_HEADER_BYTES).unwrap_or(bytes);
    let mut reader = envelope::open(header, FILE_MAGIC)?;
    let floor = reader.u64("floor")?;
    reader.expect_end("bytes after the floor")?;
    Ok(floor)
}

impl<'a> Committed<'a> {
    /// Encodes the record for `position` of the file with this floor. It is valid nowhere else.
    pub(crate) fn encode(&self, floor: u64, position: u64) -> Vec<u8> {
        let batches: usize = self.parts.iter().map(|part| part.batch.len()).sum();
        debug_assert!(u32::try_from(batches).is_ok(), "the caller bounds a record: {batches} bytes");
        let mut out = Vec::with_capacity(FIXED_BYTES + self.parts.len() * PART_BYTES + batches);
        out.extend(RECORD_MAGIC);
        out.extend([0; 8]);
        out.extend(self.id.to_le_bytes());
        out.extend(self.synced_upto.to_le_bytes());
        out.extend((self.parts.len() as u32).to_le_bytes());
        for part in &self.parts {
            out.extend(part.topic.0);
            out.extend(part.partition.get().to_le_bytes());
            out.extend(part.base_offset.get().to_le_bytes());
            out.extend((part.batch.len() as u32).to_le_bytes());
            out.extend_from_slice(part.batch);
        }
        let len = ((out.len() - PREFIX_BYTES) as u32).to_le_bytes();
        if let Some(place) = out.get_mut(4..8) {
            place.copy_from_slice(&len);
        }
        let crc = crc(
            floor,
            position,
            out.get(4..8).unwrap_or_default(),
            out.get(PREFIX_BYTES..).unwrap_or_default(),
        );
        if let Some(place) = out.get_mut(8..PREFIX_BYTES) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        out
    }

    /// Reads the record at `position` of a file, and returns its end too.
    pub(crate) fn decode(file: &'a [u8], floor: u64, position: usize) -> Result<(Self, usize), Malformed> {
        let mut reader = ByteReader::at(file, position);
        let start = reader;
        if reader.array("record magic")? != RECORD_MAGIC {
            return Err(start.malformed("record magic"));
        }
        let len_bytes = reader.array::<4>("record length")?;
        let stored_crc = reader.u32("record crc")?;
        let body_at = reader.position() as usize;
        let body = reader.take(u32::from_le_bytes(len_bytes) as usize, "record")?;
        if crc(floor, position as u64, &len_bytes, body) != stored_crc {
            return Err(start.malformed("crc of the record"));
        }
        let end = reader.position() as usize;
        // Limited to the record, whose end was just read, with positions of the file.
        let mut reader = ByteReader::at(file.get(..end).unwrap_or_default(), body_at);
        let (id, synced_upto) = (reader.u64("transaction id")?, reader.u64("synced position")?);
        let count = reader.count(PART_BYTES, "part count")?;
        let mut parts = Vec::with_capacity(count);
        for _ in 0..count {
            let topic = TopicId(reader.array("topic id")?);
            let partition = PartitionId::new(reader.u32("partition")?);
            let base_offset = Offset::new(reader.u64("base offset")?);
            let len = reader.u32("batch length")? as usize;
            parts.push(CommittedPart { topic, partition, base_offset, batch: reader.take(len, "batch")? });
        }
        reader.expect_end("bytes after the last part")?;
        Ok((Committed { id, synced_upto, parts }, end))
    }
}

/// Returns the largest `synced_upto` of the records after a position that has no valid record.
pub(crate) fn synced_upto_behind(file: &[u8], floor: u64, from: usize) -> Option<u64> {
    let magic = |at: &usize| file.get(*at..).is_some_and(|rest| rest.starts_with(&RECORD_MAGIC));
    let records = (from..file.len()).filter(magic).filter_map(|at| Committed::decode(file, floor, at).ok());
    records.map(|(record, _)| record.synced_upto).max()
}

/// IMPORTANT: the seed has the position, so that a record within a payload, or one of an earlier
/// file, is not valid here.
fn crc(floor: u64, position: u64, len: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&floor.to_le_bytes());
    hasher.update(&position.to_le_bytes());
    hasher.update(len);
    hasher.update(body);
    hasher.finalize()
}

const FILE_MAGIC: [u8; 8] = *b"QUIPUJNL";
const RECORD_MAGIC: [u8; 4] = *b"QTXN";
/// Magic, length, CRC.
const PREFIX_BYTES: usize = 12;
const FIXED_BYTES: usize = PREFIX_BYTES + 20;
const PART_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(batches: &[Vec<u8>]) -> Committed<'_> {
        let mut parts = Vec::new();
        for (number, batch) in (0..).zip(batches) {
            let (topic, partition) = (TopicId([7; 16]), PartitionId::new(number));
            parts.push(CommittedPart { topic, partition, base_offset: Offset::new(100), batch });
        }
        Committed { id: 7, synced_upto: 24, parts }
    }

    #[test]
    fn what_is_written_is_read_at_its_place_and_nowhere_else() {
        let batches = [vec![1; 100], Vec::new(), vec![3; 7]];
        let mut file = encode_header(5);
        assert_eq!((file.len(), decode_header(&file).unwrap()), (JOURNAL_HEADER_BYTES, 5));
        let first = record(&batches);
        file.extend(first.encode(5, JOURNAL_HEADER_BYTES as u64));
        let at = file.len();
        let second = Committed { id: 8, ..record(&batches[..1]) };
        file.extend(second.encode(5, at as u64));
        assert_eq!(Committed::decode(&file, 5, JOURNAL_HEADER_BYTES).unwrap(), (first.clone(), at));
        assert_eq!(Committed::decode(&file, 5, at).unwrap(), (second, file.len()));
        assert!(Committed::decode(&file, 6, at).is_err(), "of another file");
        let moved = [&file[..at], &first.encode(5, 0)].concat();
        assert!(Committed::decode(&moved, 5, at).is_err(), "from elsewhere");
        assert_eq!(synced_upto_behind(&file, 5, JOURNAL_HEADER_BYTES + 1), Some(24));
        assert_eq!(synced_upto_behind(&file, 5, at + 1), None);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let batches = [vec![1; 30], vec![3; 7]];
        let mut file = encode_header(5);
        file.extend(record(&batches).encode(5, JOURNAL_HEADER_BYTES as u64));
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let header = decode_header(&flipped);
            let record = Committed::decode(&flipped, 5, JOURNAL_HEADER_BYTES);
            assert!(header.is_err() || record.is_err(), "bit {bit}");
        }
        for len in 0..file.len() {
            let header = decode_header(&file[..len]);
            assert!(header.is_err() || Committed::decode(&file[..len], 5, JOURNAL_HEADER_BYTES).is_err());
        }
    }
}
