//! The file `owner`: who has the directory open, and how far readers of other processes may read.
//! See FORMAT.md, "Owner".
//!
//! It is derived. A reader that finds a CRC wrong reads again, because a write may be under way.

use super::envelope::{self, ByteWriter, crc_of};
use super::reader::{ByteReader, Malformed};
use crate::types::{Offset, PartitionId, Timestamp, TopicId};

/// Bytes of the header. The slots follow it.
pub(crate) const OWNER_HEADER_BYTES: usize = 128;
/// Bytes of a slot.
pub(crate) const SLOT_BYTES: usize = 64;

/// Whether a broker has the directory open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerState {
    /// A broker has it open, and the slots are valid.
    Open = 1,
    /// It was closed. The slots have the ends at that time.
    Closed = 2,
    /// A broker is opening it, and the slots are not valid yet.
    Opening = 3,
}

/// The header of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnerHeader {
    pub(crate) state: OwnerState,
    /// The process that has it open; 0 if it is not known.
    pub(crate) process: u32,
    /// When it was opened, by the wall clock.
    pub(crate) since: Timestamp,
    /// Rises with every owner that writes the file.
    pub(crate) run: u64,
    /// The name of the machine, at most 64 bytes; empty if it is not known.
    pub(crate) host: String,
    /// Rises with every write of slots or of this header in a run.
    pub(crate) changes: u64,
    /// Rises with every change of the catalog in a run.
    pub(crate) catalog_changes: u64,
}

/// The ends of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) epoch: u32,
    pub(crate) log_start: Offset,
    pub(crate) visible_end: Offset,
    pub(crate) durable_end: Offset,
    /// Differs after segments were replaced by others: truncation, compaction, accepted loss.
    pub(crate) revision: u64,
}

impl OwnerHeader {
    /// The bytes of the header.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = ByteWriter::new(MAGIC, OWNER_HEADER_BYTES);
        writer.u32(self.state as u32);
        writer.u32(self.process);
        writer.i64(self.since.as_millis());
        writer.u64(self.run);
        let mut host = [0; HOST_BYTES];
        for (to, from) in host.iter_mut().zip(shortened(&self.host).bytes()) {
            *to = from;
        }
        writer.bytes(&host);
        writer.u64(self.changes);
        writer.u64(self.catalog_changes);
        writer.finish()
    }

    /// Reads a header.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes = bytes.get(..OWNER_HEADER_BYTES).ok_or_else(|| Malformed::new(0, "length"))?;
        let mut reader = envelope::open(bytes, MAGIC)?;
        let start = reader;
        let state = match reader.u32("owner state")? {
            1 => OwnerState::Open,
            2 => OwnerState::Closed,
            3 => OwnerState::Opening,
            _ => return Err(start.malformed("owner state")),
        };
        let process = reader.u32("process")?;
        let since = Timestamp::from_millis(reader.i64("start")?);
        let run = reader.u64("run")?;
        let host: [u8; HOST_BYTES] = reader.array("host name")?;
        let named = host.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(OwnerHeader {
            state,
            process,
            since,
            run,
            host: String::from_utf8_lossy(named).into_owned(),
            changes: reader.u64("changes")?,
            catalog_changes: reader.u64("changes of the catalog")?,
        })
    }
}

impl Slot {
    /// The bytes of the slot, as the one with this number in this run.
    pub(crate) fn encode(&self, run: u64, number: u32) -> Vec<u8> {
        let mut writer = ByteWriter::bare();
        writer.bytes(&self.topic_id.0);
        writer.u32(self.partition.get());
        writer.u32(self.epoch);
        writer.u64(self.log_start.get());
        writer.u64(self.visible_end.get());
        writer.u64(self.durable_end.get());
        writer.u64(self.revision);
        writer.u32(0);
        let mut bytes = writer.into_bytes();
        bytes.extend_from_slice(&crc(run, number, &bytes).to_le_bytes());
        bytes
    }

    /// Reads a slot. Returns `None` if it is none of this run, or is being written.
    pub(crate) fn decode(bytes: &[u8], run: u64, number: u32) -> Option<Self> {
        let (covered, stored) = bytes.split_last_chunk()?;
        if bytes.len() != SLOT_BYTES || crc(run, number, covered) != u32::from_le_bytes(*stored) {
            return None;
        }
        let mut reader = ByteReader::new(covered);
        let mut read = || -> Result<Self, Malformed> {
            Ok(Slot {
                topic_id: TopicId(reader.array("topic id")?),
                partition: PartitionId::new(reader.u32("partition")?),
                epoch: reader.u32("log epoch")?,
                log_start: Offset::new(reader.u64("log start")?),
                visible_end: Offset::new(reader.u64("visible end")?),
                durable_end: Offset::new(reader.u64("durable end")?),
                revision: reader.u64("revision")?,
            })
        };
        read().ok()
    }
}

/// The CRC of a slot is seeded, so that slots of earlier runs are not valid.
fn crc(run: u64, number: u32, bytes: &[u8]) -> u32 {
    crc_of(&[&run.to_le_bytes(), &number.to_le_bytes(), bytes])
}

/// As much of a name as there is room for.
fn shortened(name: &str) -> &str {
    let fits = (0..=name.len().min(HOST_BYTES)).rev().find(|end| name.is_char_boundary(*end));
    name.get(..fits.unwrap_or(0)).unwrap_or_default()
}

const MAGIC: [u8; 8] = *b"QUIPUOWN";
const HOST_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> OwnerHeader {
        OwnerHeader {
            state: OwnerState::Open,
            process: 17,
            since: Timestamp::from_millis(5),
            run: 3,
            host: "host".to_string(),
            changes: 8,
            catalog_changes: 9,
        }
    }

    fn slot() -> Slot {
        Slot {
            topic_id: TopicId([7; 16]),
            partition: PartitionId::new(2),
            epoch: 4,
            log_start: Offset::new(10),
            visible_end: Offset::new(30),
            durable_end: Offset::new(20),
            revision: 6,
        }
    }

    #[test]
    fn a_header_has_its_bytes_and_comes_back() {
        let bytes = header().encode();
        assert_eq!(bytes.len(), OWNER_HEADER_BYTES);
        assert_eq!(OwnerHeader::decode(&bytes), Ok(header()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(OwnerHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        assert!(OwnerHeader::decode(&bytes[..127]).is_err());
    }

    #[test]
    fn a_long_host_name_is_shortened_between_characters() {
        let host = format!("{}äö", "h".repeat(63));
        let read = OwnerHeader::decode(&OwnerHeader { host, ..header() }.encode()).unwrap();
        assert_eq!(read.host, "h".repeat(63));
    }

    #[test]
    fn a_slot_is_valid_under_its_number_and_in_its_run_only() {
        let bytes = slot().encode(3, 1);
        assert_eq!(bytes.len(), SLOT_BYTES);
        assert_eq!(Slot::decode(&bytes, 3, 1), Some(slot()));
        assert_eq!((Slot::decode(&bytes, 4, 1), Slot::decode(&bytes, 3, 2)), (None, None));
        assert_eq!(Slot::decode(&[0; SLOT_BYTES], 0, 0), None);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Slot::decode(&flipped, 3, 1), None, "bit {bit}");
        }
    }
}
