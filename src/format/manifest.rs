//! Which segments are the log of a partition, and from where to where? What the manifest does not list is no record,
//! whatever lies in the directory.
//!
//! Not for what can be read off the segments: how far the active one reaches is known only when it is scanned.

use crate::types::{Offset, PartitionId, Timestamp, TopicId};

use super::envelope::{self, Writer};
use super::reader::{Malformed, Reader};
use super::segment::SEGMENT_HEADER_BYTES;

/// The commit point of everything that happens to a partition, appends excepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The topic's identity.
    pub(crate) topic_id: TopicId,
    /// The partition.
    pub(crate) partition: PartitionId,
    /// The oldest offset that may be read.
    pub(crate) log_start: Offset,
    /// Every log epoch and where it began; never empty, the last is the current one.
    pub(crate) epochs: Vec<EpochStart>,
    /// The segments, oldest first.
    pub(crate) segments: Vec<SegmentEntry>,
}

/// From which offset on a log epoch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochStart {
    /// The epoch.
    pub(crate) epoch: u32,
    /// Positions of earlier epochs are good up to here: the end of the log when it began, or where it was that began anew.
    pub(crate) start: Offset,
}

/// One segment of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    /// With the generation, the file's name.
    pub(crate) base_offset: Offset,
    /// With the base offset, the file's name.
    pub(crate) generation: u32,
    /// The log epoch in the segment's header.
    pub(crate) log_epoch: u32,
    /// How far one may rely on it.
    pub(crate) state: SegmentState,
    /// The logical end in bytes, header included; 0 while active.
    pub(crate) size: u64,
    /// The end offset; 0 while active.
    pub(crate) end_offset: Offset,
    /// The header CRC of the last batch, 0 without one; 0 while active.
    pub(crate) last_crc: u32,
    /// The greatest timestamp; `i64::MIN` without one, or while active.
    pub(crate) max_timestamp: i64,
}

/// How far one may rely on a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SegmentState {
    /// Appended to: its size is not known here.
    Active = 1,
    /// Complete, but not known to be on the medium.
    Sealed = 2,
    /// Complete and on the medium.
    Synced = 3,
    /// As `Synced`, and written anew. In a compacted log: no key in it has an older record in or before it.
    Cleaned = 4,
}

impl Manifest {
    /// The current log epoch.
    pub(crate) fn epoch(&self) -> u32 {
        self.epochs.last().map_or(0, |epoch| epoch.epoch)
    }

    /// Begins the next epoch: of what was, only the offsets up to `start` are what they were. An earlier cut that this one
    /// reaches behind is forgotten, since whoever is beyond that is beyond this; so are those before the log start, but
    /// for the last: they would all refuse the same positions.
    pub(crate) fn begin_epoch(&mut self, start: Offset) {
        let epoch = self.epoch() + 1;
        self.epochs.retain(|earlier| earlier.start < start);
        self.epochs.push(EpochStart { epoch, start });
        let before = self.epochs.iter().filter(|earlier| earlier.start < self.log_start).count();
        self.epochs.drain(..before.saturating_sub(1));
    }

    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert_eq!(self.check(), Ok(()));
        let entries = self.epochs.len() * EPOCH_BYTES + self.segments.len() * SEGMENT_BYTES;
        let mut writer = Writer::new(MAGIC, FIXED_BYTES + entries);
        writer.u32(self.partition.get());
        writer.bytes(&self.topic_id.0);
        writer.u64(self.log_start.get());
        writer.count(self.epochs.len());
        for epoch in &self.epochs {
            writer.u32(epoch.epoch);
            writer.u64(epoch.start.get());
        }
        writer.count(self.segments.len());
        for segment in &self.segments {
            segment.encode(&mut writer);
        }
        writer.finish()
    }

    /// Reads a whole file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = envelope::open(bytes, MAGIC)?;
        let partition = PartitionId::new(reader.u32("partition")?);
        let topic_id = TopicId(reader.array("topic id")?);
        let log_start = Offset::new(reader.u64("log start")?);
        let lists = reader;
        let count = reader.count(EPOCH_BYTES, "epoch count")?;
        let mut epochs = Vec::with_capacity(count);
        for _ in 0..count {
            epochs.push(EpochStart {
                epoch: reader.u32("epoch")?,
                start: Offset::new(reader.u64("start of an epoch")?),
            });
        }
        let count = reader.count(SEGMENT_BYTES, "segment count")?;
        let mut segments = Vec::with_capacity(count);
        for _ in 0..count {
            segments.push(SegmentEntry::decode(&mut reader)?);
        }
        reader.expect_end("bytes behind the last segment")?;
        let manifest = Manifest { topic_id, partition, log_start, epochs, segments };
        manifest.check().map_err(|what| lists.malformed(what))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.epochs.is_empty() {
            return Err("no log epoch");
        }
        if !self.epochs.is_sorted_by(|a, b| a.epoch < b.epoch) {
            return Err("order of the log epochs");
        }
        for segment in &self.segments {
            segment.check()?;
        }
        // An active segment in front of another would have the end offset 0: it has to be excluded by itself.
        let in_order = |a: &SegmentEntry, b: &SegmentEntry| {
            a.state != SegmentState::Active && a.base_offset < b.base_offset && a.end_offset <= b.base_offset
        };
        if self.segments.is_sorted_by(in_order) { Ok(()) } else { Err("order of the segments") }
    }
}

impl SegmentEntry {
    /// The greatest timestamp, where it is known.
    pub(crate) fn max_timestamp(&self) -> Option<Timestamp> {
        (self.max_timestamp != i64::MIN).then(|| Timestamp::from_millis(self.max_timestamp))
    }

    fn encode(&self, writer: &mut Writer) {
        writer.u64(self.base_offset.get());
        writer.u32(self.generation);
        writer.u32(self.log_epoch);
        writer.u8(self.state as u8);
        writer.u64(self.size);
        writer.u64(self.end_offset.get());
        writer.u32(self.last_crc);
        writer.i64(self.max_timestamp);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(SegmentEntry {
            base_offset: Offset::new(reader.u64("base offset")?),
            generation: reader.u32("generation")?,
            log_epoch: reader.u32("log epoch")?,
            state: SegmentState::decode(reader)?,
            size: reader.u64("size")?,
            end_offset: Offset::new(reader.u64("end offset")?),
            last_crc: reader.u32("last crc")?,
            max_timestamp: reader.i64("max timestamp")?,
        })
    }

    fn check(&self) -> Result<(), &'static str> {
        let known = match self.state {
            SegmentState::Active => self.size == 0 && self.end_offset == Offset::ZERO && self.last_crc == 0,
            SegmentState::Sealed | SegmentState::Synced | SegmentState::Cleaned => {
                self.size >= SEGMENT_HEADER_BYTES as u64 && self.end_offset >= self.base_offset
            }
        };
        if known { Ok(()) } else { Err("end of a segment") }
    }
}

impl SegmentState {
    /// Whether all of it is on the medium.
    pub(crate) fn is_synced(self) -> bool {
        matches!(self, SegmentState::Synced | SegmentState::Cleaned)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let start = *reader;
        match reader.u8("segment state")? {
            1 => Ok(SegmentState::Active),
            2 => Ok(SegmentState::Sealed),
            3 => Ok(SegmentState::Synced),
            4 => Ok(SegmentState::Cleaned),
            _ => Err(start.malformed("segment state")),
        }
    }
}

const MAGIC: [u8; 8] = *b"QUIPUMAN";
/// Bytes of a manifest without epochs and segments, CRC included.
const FIXED_BYTES: usize = 52;
const EPOCH_BYTES: usize = 12;
const SEGMENT_BYTES: usize = 45;

#[cfg(test)]
mod tests {
    use super::super::damage::{self, hex};
    use super::*;

    fn segment(base_offset: u64, state: SegmentState, end_offset: u64) -> SegmentEntry {
        let active = state == SegmentState::Active;
        SegmentEntry {
            base_offset: Offset::new(base_offset),
            generation: 1,
            log_epoch: 2,
            state,
            size: if active { 0 } else { 4_096 },
            end_offset: Offset::new(end_offset),
            last_crc: if active { 0 } else { 0xdead_beef },
            max_timestamp: if active { i64::MIN } else { 1_700_000_000_000 },
        }
    }

    #[test]
    fn of_the_epochs_those_are_kept_that_say_something() {
        let mut manifest = Manifest { log_start: Offset::ZERO, ..example() };
        let starts = |manifest: &Manifest| -> Vec<(u32, u64)> {
            manifest.epochs.iter().map(|epoch| (epoch.epoch, epoch.start.get())).collect()
        };
        manifest.begin_epoch(Offset::new(120));
        assert_eq!(starts(&manifest), [(0, 0), (2, 90), (3, 120)]);
        manifest.begin_epoch(Offset::new(90));
        assert_eq!(starts(&manifest), [(0, 0), (4, 90)]);
        manifest.log_start = Offset::new(95);
        manifest.begin_epoch(Offset::new(200));
        assert_eq!(starts(&manifest), [(4, 90), (5, 200)]);
        manifest.begin_epoch(Offset::ZERO);
        assert_eq!(starts(&manifest), [(6, 0)]);
    }

    fn example() -> Manifest {
        Manifest {
            topic_id: TopicId(*b"0123456789abcdef"),
            partition: PartitionId::new(3),
            log_start: Offset::new(15),
            epochs: vec![
                EpochStart { epoch: 0, start: Offset::ZERO },
                EpochStart { epoch: 2, start: Offset::new(90) },
            ],
            segments: vec![
                segment(10, SegmentState::Synced, 20),
                segment(30, SegmentState::Sealed, 100),
                segment(100, SegmentState::Active, 0),
            ],
        }
    }

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(
            hex(&example().encode()),
            "51554950554d414e0100000003000000303132333435363738396162636465660f00000000000000\
             02000000000000000000000000000000020000005a00000000000000030000000a00000000000000\
             01000000020000000300100000000000001400000000000000efbeadde0068e5cf8b0100001e0000\
             000000000001000000020000000200100000000000006400000000000000efbeadde0068e5cf8b01\
             00006400000000000000010000000200000001000000000000000000000000000000000000000000\
             000000000000805a117a5c"
        );
    }

    #[test]
    fn a_manifest_comes_back() {
        assert_eq!(Manifest::decode(&example().encode()), Ok(example()));
        assert_eq!(example().epoch(), 2);
        let bare = Manifest { segments: Vec::new(), ..example() };
        assert_eq!(Manifest::decode(&bare.encode()), Ok(bare.clone()));
        assert_eq!(bare.encode().len(), FIXED_BYTES + 2 * EPOCH_BYTES);
    }

    #[test]
    fn every_damage_is_noticed() {
        damage::is_always_noticed(&example().encode(), Manifest::decode);
    }

    #[test]
    fn what_cannot_be_a_log_is_refused() {
        let wrong = |change: fn(&mut Manifest)| {
            let mut manifest = example();
            change(&mut manifest);
            manifest.check().unwrap_err()
        };
        assert_eq!(wrong(|m| m.epochs.clear()), "no log epoch");
        assert_eq!(wrong(|m| m.epochs[1].epoch = 0), "order of the log epochs");
        assert_eq!(wrong(|m| m.segments.swap(1, 2)), "order of the segments");
        assert_eq!(wrong(|m| m.segments.swap(0, 1)), "order of the segments");
        assert_eq!(wrong(|m| m.segments[0].end_offset = Offset::new(31)), "order of the segments");
        assert_eq!(wrong(|m| m.segments[0] = m.segments[1]), "order of the segments");
        assert_eq!(
            wrong(|m| m.segments.push(segment(200, SegmentState::Active, 0))),
            "order of the segments"
        );
        assert_eq!(wrong(|m| m.segments[1].end_offset = Offset::new(29)), "end of a segment");
        assert_eq!(wrong(|m| m.segments[1].size = 95), "end of a segment");
        assert_eq!(wrong(|m| m.segments[2].size = 96), "end of a segment");
        assert_eq!(wrong(|m| m.segments[2].end_offset = Offset::new(100)), "end of a segment");
    }

    #[test]
    fn the_checks_stand_behind_the_crc_too() {
        let second_epoch = 44 + EPOCH_BYTES;
        let bytes = damage::resealed(&example().encode(), |bytes| bytes[second_epoch] = 0);
        assert_eq!(Manifest::decode(&bytes), Err(Malformed::new(40, "order of the log epochs")));
        let state = 44 + 2 * EPOCH_BYTES + 4 + 16;
        for value in [0, 5, 255] {
            let bytes = damage::resealed(&example().encode(), |bytes| bytes[state] = value);
            assert_eq!(Manifest::decode(&bytes), Err(Malformed::new(state as u64, "segment state")));
        }
        let bytes = damage::resealed(&example().encode(), |bytes| bytes[40..44].fill(0xff));
        assert_eq!(Manifest::decode(&bytes), Err(Malformed::new(40, "epoch count")));
    }
}
