//! The manifest: the segments of a partition's log. Records in a file that the manifest does not
//! list are not part of the log.
//!
//! It has nothing that a scan of the segments finds: the end of the active segment is known only
//! after it was scanned.

use super::FORMAT_VERSION;
use super::batch::{BatchHeader, Secret};
use super::digest::Digest;
use super::envelope::{self, ByteWriter};
use super::reader::{ByteReader, Malformed};
use super::segment::SEGMENT_HEADER_BYTES;
use crate::types::{Offset, PartitionId, Timestamp, TopicId};

/// The commit point of every change of a partition but appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The topic's identity.
    pub(crate) topic_id: TopicId,
    /// The partition.
    pub(crate) partition: PartitionId,
    /// The partition's own random bytes.
    pub(crate) secret: Secret,
    /// The oldest offset that may be read.
    pub(crate) log_start: Offset,
    /// Every log epoch and where it began; never empty, the last is the current one.
    pub(crate) epochs: Vec<EpochStart>,
    /// The segments, oldest first.
    pub(crate) segments: Vec<SegmentEntry>,
    /// Offsets whose records were damaged and have been given up, oldest first.
    pub(crate) lost: Vec<LostRange>,
    /// Segments that the file does not list may follow the last one: successors, which an opening
    /// finds by their chain.
    pub(crate) has_successors: bool,
}

/// A range of offsets whose records were damaged and have been given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LostRange {
    /// The first of them.
    pub(crate) from: Offset,
    /// The first offset after them.
    pub(crate) to: Offset,
}

/// A log epoch and its first offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochStart {
    /// The epoch.
    pub(crate) epoch: u32,
    /// Positions of earlier epochs are valid up to here: the end of the log when this epoch began,
    /// or the offset that the log was truncated or reset to.
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
    /// Whether its bytes are complete and on the medium.
    pub(crate) state: SegmentState,
    /// The logical end in bytes, header included; 0 while active.
    pub(crate) size: u64,
    /// The end offset; 0 while active.
    pub(crate) end_offset: Offset,
    /// The header CRC of the last batch, 0 without one; 0 while active.
    pub(crate) last_crc: u32,
    /// The greatest timestamp; `i64::MIN` without one, or while active.
    pub(crate) max_timestamp: i64,
    /// The digest of its batches; 0 while active.
    pub(crate) digest: Digest,
}

/// Whether the bytes of a segment are complete and on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SegmentState {
    /// Appended to: its size is not known here.
    Active = 1,
    /// Complete, but not known to be on the medium.
    Sealed = 2,
    /// Complete and on the medium.
    Synced = 3,
    /// As `Synced`, and written by a compaction. In a compacted log no key in it has an older
    /// record in or before it.
    Compacted = 4,
}

impl Manifest {
    /// Returns the current log epoch: 0 in the placeholder of a log whose manifest cannot be read,
    /// which has none.
    pub(crate) fn epoch(&self) -> u32 {
        self.epochs.last().map_or(0, |epoch| epoch.epoch)
    }

    /// Whether a batch with this header may be in a segment of this epoch: it is of the segment's
    /// epoch, or of a later one that began in the segment, at an opening that could not prove where
    /// the log ended.
    pub(crate) fn fits_epoch(&self, segment: u32, header: &BatchHeader) -> bool {
        let began = self.epochs.partition_point(|epoch| epoch.start <= header.base_offset);
        match began.checked_sub(1).and_then(|last| self.epochs.get(last)) {
            Some(last) => header.log_epoch == last.epoch.max(segment),
            // Before the log start earlier epochs are forgotten.
            None => {
                let first = self.epochs.first().map_or(segment, |first| first.epoch.max(segment));
                (segment..=first).contains(&header.log_epoch)
            }
        }
    }

    /// Adds an epoch that began at an opening, and that only the catalog has. An epoch that is not
    /// greater than those here is here already, or was replaced.
    pub(crate) fn adopt_epoch(&mut self, epoch: EpochStart) {
        if epoch.epoch > self.epoch() {
            self.epochs.retain(|earlier| earlier.start < epoch.start);
            self.epochs.push(epoch);
        }
    }

    /// Moves the start of the current epoch, which began with a truncation before this batch, to
    /// its end, because the batch is written again unchanged. If the batch was the first of its own
    /// epoch, the truncation has replaced that epoch, and it is restored: positions of earlier
    /// epochs are valid only up to the batch.
    pub(crate) fn move_last_epoch_behind(&mut self, header: &BatchHeader) {
        let Some(last) = self.epochs.pop() else { return };
        if self.epochs.last().is_some_and(|before| before.epoch < header.log_epoch) {
            self.epochs.push(EpochStart { epoch: header.log_epoch, start: header.base_offset });
        }
        self.epochs.push(EpochStart { epoch: last.epoch, start: header.end_offset() });
    }

    /// Begins the next epoch: of the positions of earlier epochs only those up to `start` stay
    /// valid. Earlier epochs that began at or after `start` are removed, because a position that
    /// they refuse is refused by the new one too. Of the epochs before the log start only the last
    /// is kept, because all of them refuse the same positions.
    pub(crate) fn begin_epoch(&mut self, start: Offset) {
        let epoch = self.epoch() + 1;
        self.epochs.retain(|earlier| earlier.start < start);
        self.epochs.push(EpochStart { epoch, start });
        let before = self.epochs.iter().filter(|earlier| earlier.start < self.log_start).count();
        self.epochs.drain(..before.saturating_sub(1));
    }

    /// Adds a range of lost offsets. Ranges that touch are joined.
    pub(crate) fn add_lost(&mut self, range: LostRange) {
        if range.from >= range.to {
            return;
        }
        self.lost.push(range);
        self.lost.sort_by_key(|range| range.from);
        let ranges = std::mem::take(&mut self.lost);
        for range in ranges {
            match self.lost.last_mut().filter(|last| range.from <= last.to) {
                Some(last) => last.to = last.to.max(range.to),
                None => self.lost.push(range),
            }
        }
    }

    /// Removes lost ranges outside of `start..end`, because the log has no such offsets any more.
    pub(crate) fn clip_lost(&mut self, start: Offset, end: Offset) {
        for range in &mut self.lost {
            range.from = range.from.max(start);
            range.to = range.to.min(end);
        }
        self.lost.retain(|range| range.from < range.to);
    }

    /// How many bytes its file has.
    pub(crate) fn encoded_len(&self) -> usize {
        let lists = self.epochs.len() * EPOCH_BYTES + self.segments.len() * SEGMENT_BYTES;
        FIXED_BYTES + lists + if self.lost.is_empty() { 0 } else { 8 + self.lost.len() * LOST_BYTES }
    }

    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert_eq!(self.check(), Ok(()));
        let has_lost = !self.lost.is_empty();
        let features = if has_lost { LOST_RANGES } else { 0 };
        let incompatible = if self.has_successors { SUCCESSORS } else { 0 };
        let mut writer = ByteWriter::with_features(MAGIC, self.encoded_len(), incompatible, features);
        writer.u32(self.partition.get());
        writer.bytes(&self.topic_id.0);
        writer.bytes(&self.secret.0);
        // The files that this build lists are of its own version, which has no optional features.
        writer.u32(FORMAT_VERSION);
        writer.u32(0);
        writer.u64(self.log_start.get());
        writer.count(self.epochs.len());
        writer.count(EPOCH_BYTES);
        for epoch in &self.epochs {
            writer.u32(epoch.epoch);
            writer.u64(epoch.start.get());
        }
        writer.count(self.segments.len());
        writer.count(SEGMENT_BYTES);
        for segment in &self.segments {
            segment.encode(&mut writer);
        }
        if has_lost {
            writer.count(self.lost.len());
            writer.count(LOST_BYTES);
            for range in &self.lost {
                writer.u64(range.from.get());
                writer.u64(range.to.get());
            }
        }
        writer.finish()
    }

    /// Reads a whole file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut reader, incompatible) = envelope::open_knowing(bytes, MAGIC, SUCCESSORS)?;
        let partition = PartitionId::new(reader.u32("partition")?);
        let topic_id = TopicId(reader.array("topic id")?);
        let secret = Secret(reader.array("secret")?);
        envelope::check_listed(&mut reader)?;
        let log_start = Offset::new(reader.u64("log start")?);
        let lists = reader;
        let features = envelope::compatible_features(bytes);
        let grown = features & !LOST_RANGES != 0;
        let epochs = reader.list(EPOCH_BYTES, grown, "epoch count", |entry| {
            let epoch = entry.u32("epoch")?;
            Ok(EpochStart { epoch, start: Offset::new(entry.u64("start of an epoch")?) })
        })?;
        let segments = reader.list(SEGMENT_BYTES, grown, "segment count", SegmentEntry::decode)?;
        let lost = if features & LOST_RANGES == 0 {
            Vec::new()
        } else {
            reader.list(LOST_BYTES, grown, "count of lost ranges", |entry| {
                let from = Offset::new(entry.u64("start of a lost range")?);
                Ok(LostRange { from, to: Offset::new(entry.u64("end of a lost range")?) })
            })?
        };
        if !grown {
            reader.expect_end("bytes after the last list")?;
        }
        let has_successors = incompatible & SUCCESSORS != 0;
        let manifest =
            Manifest { topic_id, partition, secret, log_start, epochs, segments, lost, has_successors };
        manifest.check().map_err(|what| lists.malformed(what))?;
        Ok(manifest)
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.epochs.is_empty() {
            return Err("no log epoch");
        }
        if !self.epochs.is_sorted_by(|a, b| a.epoch < b.epoch) {
            return Err("order of the log epochs");
        }
        if self.epoch() == u32::MAX {
            return Err("the last log epoch there is");
        }
        for segment in &self.segments {
            segment.check()?;
        }
        // An active segment in front of another would have the end offset 0: it has to be excluded
        // by itself.
        let in_order = |a: &SegmentEntry, b: &SegmentEntry| {
            a.state != SegmentState::Active && a.base_offset < b.base_offset && a.end_offset <= b.base_offset
        };
        if !self.segments.is_sorted_by(in_order) {
            return Err("order of the segments");
        }
        let is_range = |range: &LostRange| range.from < range.to;
        if self.lost.iter().all(is_range) && self.lost.is_sorted_by(|a, b| a.to < b.from) {
            Ok(())
        } else {
            Err("order of the lost ranges")
        }
    }
}

impl SegmentEntry {
    /// Returns the greatest timestamp, if it is known.
    pub(crate) fn max_timestamp(&self) -> Option<Timestamp> {
        (self.max_timestamp != i64::MIN).then(|| Timestamp::from_millis(self.max_timestamp))
    }

    fn encode(&self, writer: &mut ByteWriter) {
        writer.u64(self.base_offset.get());
        writer.u32(self.generation);
        writer.u32(self.log_epoch);
        writer.u8(self.state as u8);
        writer.u64(self.size);
        writer.u64(self.end_offset.get());
        writer.u32(self.last_crc);
        writer.i64(self.max_timestamp);
        writer.u64(self.digest.0);
    }

    fn decode(reader: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        Ok(SegmentEntry {
            base_offset: Offset::new(reader.u64("base offset")?),
            generation: reader.u32("generation")?,
            log_epoch: reader.u32("log epoch")?,
            state: SegmentState::decode(reader)?,
            size: reader.u64("size")?,
            end_offset: Offset::new(reader.u64("end offset")?),
            last_crc: reader.u32("last crc")?,
            max_timestamp: reader.i64("max timestamp")?,
            digest: Digest(reader.u64("digest")?),
        })
    }

    fn check(&self) -> Result<(), &'static str> {
        let known = match self.state {
            SegmentState::Active => {
                let end = (self.size, self.end_offset, self.last_crc, self.digest);
                end == (0, Offset::ZERO, 0, Digest::default())
            }
            SegmentState::Sealed | SegmentState::Synced | SegmentState::Compacted => {
                self.size >= SEGMENT_HEADER_BYTES as u64 && self.end_offset >= self.base_offset
            }
        };
        if known { Ok(()) } else { Err("end of a segment") }
    }
}

impl SegmentState {
    /// Whether all of it is on the medium.
    pub(crate) fn is_synced(self) -> bool {
        matches!(self, SegmentState::Synced | SegmentState::Compacted)
    }

    fn decode(reader: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        let start = *reader;
        match reader.u8("segment state")? {
            1 => Ok(SegmentState::Active),
            2 => Ok(SegmentState::Sealed),
            3 => Ok(SegmentState::Synced),
            4 => Ok(SegmentState::Compacted),
            _ => Err(start.malformed("segment state")),
        }
    }
}

const MAGIC: [u8; 8] = *b"QUIPUMAN";
/// Bytes of a manifest without epochs and segments, CRC included.
const FIXED_BYTES: usize = 92;
const EPOCH_BYTES: usize = 12;
const SEGMENT_BYTES: usize = 53;
const LOST_BYTES: usize = 16;
/// The compatible feature of a manifest that has a list of lost ranges.
const LOST_RANGES: u32 = 1;
/// The incompatible feature of a manifest that successors may follow.
const SUCCESSORS: u32 = 1;

#[cfg(test)]
mod tests;
