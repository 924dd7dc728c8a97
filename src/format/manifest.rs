//! Which segments are the log of a partition, and from where to where? What the manifest does not list is no record,
//! whatever lies in the directory.
//!
//! Not for what can be read off the segments: how far the active one reaches is known only when it is scanned.

use crate::types::{Offset, PartitionId, Timestamp, TopicId};

use super::FORMAT_VERSION;
use super::batch::{BatchHeader, Secret};
use super::digest::Digest;
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
}

/// Offsets that were given out, and whose records have been given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LostRange {
    /// The first of them.
    pub(crate) from: Offset,
    /// The first offset after them.
    pub(crate) to: Offset,
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
    /// The digest of its batches; 0 while active.
    pub(crate) digest: Digest,
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

    /// Whether a batch with this header may be in a segment of this epoch: it is of the segment's epoch, or of a later one
    /// that began in the segment, at an opening that could not prove where the log ended.
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

    /// Takes over an epoch that began at an opening, and that only the catalog has. One that is not greater than those here is
    /// here already, or was replaced.
    pub(crate) fn adopt_epoch(&mut self, epoch: EpochStart) {
        if epoch.epoch > self.epoch() {
            self.epochs.retain(|earlier| earlier.start < epoch.start);
            self.epochs.push(epoch);
        }
    }

    /// Lets the current epoch, which began with a cut before this batch, begin after it instead: the
    /// batch is written again as it was. If it was the first of its own epoch, the cut has replaced
    /// that, which is put back: positions of earlier epochs are good only up to the batch.
    pub(crate) fn move_last_epoch_behind(&mut self, header: &BatchHeader) {
        let Some(last) = self.epochs.pop() else { return };
        if self.epochs.last().is_some_and(|before| before.epoch < header.log_epoch) {
            self.epochs.push(EpochStart { epoch: header.log_epoch, start: header.base_offset });
        }
        self.epochs.push(EpochStart { epoch: last.epoch, start: header.end_offset() });
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

    /// Notes that these offsets have been given up. Ranges that meet become one.
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

    /// Forgets what was given up outside of `start..end`: the log does not reach there any more.
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
        let mut writer = Writer::with_features(MAGIC, self.encoded_len(), features);
        writer.u32(self.partition.get());
        writer.bytes(&self.topic_id.0);
        writer.bytes(&self.secret.0);
        // What this build lists is of its own version, and no feature of that is optional yet.
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
        let mut reader = envelope::open(bytes, MAGIC)?;
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
        let manifest = Manifest { topic_id, partition, secret, log_start, epochs, segments, lost };
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
        if self.epoch() == u32::MAX {
            return Err("the last log epoch there is");
        }
        for segment in &self.segments {
            segment.check()?;
        }
        // An active segment in front of another would have the end offset 0: it has to be excluded by itself.
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
        writer.u64(self.digest.0);
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
            digest: Digest(reader.u64("digest")?),
        })
    }

    fn check(&self) -> Result<(), &'static str> {
        let known = match self.state {
            SegmentState::Active => {
                let end = (self.size, self.end_offset, self.last_crc, self.digest);
                end == (0, Offset::ZERO, 0, Digest::default())
            }
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
const FIXED_BYTES: usize = 92;
const EPOCH_BYTES: usize = 12;
const SEGMENT_BYTES: usize = 53;
const LOST_BYTES: usize = 16;
/// The compatible feature of a manifest that has a list of lost ranges.
const LOST_RANGES: u32 = 1;

#[cfg(test)]
mod tests {
    use super::super::damage::{self, hex};
    use super::super::reader::Unsupported;
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
            digest: Digest(if active { 0 } else { 0x0102_0304_0506_0708 }),
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
            secret: Secret(*b"a secret, random"),
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
            lost: Vec::new(),
        }
    }

    #[test]
    fn lost_ranges_come_back_and_cost_nothing_where_there_are_none() {
        let range = |from, to| LostRange { from: Offset::new(from), to: Offset::new(to) };
        let mut manifest = example();
        let bare = manifest.encode().len();
        for (from, to) in [(70, 80), (20, 25), (25, 30), (75, 85), (5, 5)] {
            manifest.add_lost(range(from, to));
        }
        assert_eq!(manifest.lost, [range(20, 30), range(70, 85)]);
        let bytes = manifest.encode();
        assert_eq!((bytes.len(), bytes[16]), (bare + 8 + 2 * LOST_BYTES, 1));
        assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        damage::is_always_noticed(&bytes, Manifest::decode);

        manifest.clip_lost(Offset::new(22), Offset::new(75));
        assert_eq!(manifest.lost, [range(22, 30), range(70, 75)]);
        manifest.clip_lost(Offset::new(30), Offset::new(70));
        assert_eq!(manifest, example());

        let wrong = |lost: Vec<LostRange>| Manifest { lost, ..example() }.check();
        assert_eq!(wrong(vec![range(5, 5)]), Err("order of the lost ranges"));
        assert_eq!(wrong(vec![range(5, 9), range(9, 10)]), Err("order of the lost ranges"));
    }

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(
            hex(&example().encode()),
            "51554950554d414e0200000000000000000000000300000030313233343536373839616263646566\
             61207365637265742c2072616e646f6d02000000000000000f00000000000000020000000c000000\
             000000000000000000000000020000005a0000000000000003000000350000000a00000000000000\
             01000000020000000300100000000000001400000000000000efbeadde0068e5cf8b010000080706\
             05040302011e0000000000000001000000020000000200100000000000006400000000000000efbe\
             adde0068e5cf8b010000080706050403020164000000000000000100000002000000010000000000\
             000000000000000000000000000000000000000000008000000000000000008b25466a"
        );
    }

    #[test]
    fn a_manifest_comes_back() {
        assert_eq!(Manifest::decode(&example().encode()), Ok(example()));
        assert_eq!(example().epoch(), 2);
        let bare = Manifest { segments: Vec::new(), ..example() };
        assert_eq!(Manifest::decode(&bare.encode()), Ok(bare.clone()));
        assert_eq!(bare.encode().len(), FIXED_BYTES + 2 * EPOCH_BYTES);
        assert_eq!(bare.encode().len(), bare.encoded_len());
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
        let epochs = FIXED_BYTES - 4 - 2 * 4 - 2 * 4;
        let at_lists = epochs as u64;
        let bytes = damage::resealed(&example().encode(), |bytes| bytes[epochs + 8 + EPOCH_BYTES] = 0);
        assert_eq!(Manifest::decode(&bytes), Err(Malformed::new(at_lists, "order of the log epochs")));
        let state = epochs + 8 + 2 * EPOCH_BYTES + 8 + 16;
        for value in [0, 5, 255] {
            let bytes = damage::resealed(&example().encode(), |bytes| bytes[state] = value);
            assert_eq!(Manifest::decode(&bytes), Err(Malformed::new(state as u64, "segment state")));
        }
        let bytes = damage::resealed(&example().encode(), |bytes| bytes[epochs..epochs + 4].fill(0xff));
        assert_eq!(Manifest::decode(&bytes), Err(Malformed::new(at_lists, "epoch count")));
    }

    #[test]
    fn a_manifest_that_leads_to_newer_files_says_what_they_need() {
        let listed = 20 + 4 + 16 + 16;
        let bytes = damage::resealed(&example().encode(), |bytes| bytes[listed] = 3);
        assert_eq!(Manifest::decode(&bytes).unwrap_err().unsupported, Some(Unsupported::Version(3)));
        let bytes = damage::resealed(&example().encode(), |bytes| bytes[listed + 5] = 1);
        assert_eq!(Manifest::decode(&bytes).unwrap_err().unsupported, Some(Unsupported::Features(0x100)));
    }

    #[test]
    fn fields_that_a_compatible_feature_adds_are_ignored() {
        let grow = |bytes: &mut Vec<u8>| {
            // A compatible feature; entries of two bytes more; four bytes after the last of them.
            bytes[16] = 2;
            let at = FIXED_BYTES - 4 - 2 * 4 - 2 * 4;
            let (head, lists) = bytes.split_at(at);
            let mut grown = head.to_vec();
            let mut rest = lists;
            for known in [EPOCH_BYTES, SEGMENT_BYTES] {
                let count = u32::from_le_bytes(rest[..4].try_into().unwrap());
                grown.extend(count.to_le_bytes());
                grown.extend((known as u32 + 2).to_le_bytes());
                for entry in rest[8..8 + count as usize * known].chunks(known) {
                    grown.extend_from_slice(entry);
                    grown.extend([7, 7]);
                }
                rest = &rest[8 + count as usize * known..];
            }
            grown.extend([9; 4]);
            *bytes = grown;
        };
        let bytes = damage::resealed(&example().encode(), grow);
        assert_eq!(Manifest::decode(&bytes), Ok(example()));
        // Without the feature they are damage.
        let bytes = damage::resealed(&bytes, |bytes| bytes[16] = 0);
        assert!(Manifest::decode(&bytes).is_err());
    }

    #[test]
    fn an_epoch_that_is_moved_behind_a_batch_leaves_the_batchs_own() {
        let list = |list: &[(u32, u64)]| {
            let start = |&(epoch, start): &(u32, u64)| EpochStart { epoch, start: Offset::new(start) };
            list.iter().map(start).collect::<Vec<_>>()
        };
        let header = BatchHeader {
            log_epoch: 1,
            base_offset: Offset::new(100),
            last_offset_delta: 9,
            ..BatchHeader::default()
        };
        let moved = |epochs| {
            let mut manifest = Manifest { epochs, ..example() };
            manifest.move_last_epoch_behind(&header);
            manifest.epochs
        };
        // Epoch 1 began at 100 with this batch, and the cut at 100 had replaced it.
        assert_eq!(moved(list(&[(0, 0), (2, 100)])), list(&[(0, 0), (1, 100), (2, 110)]));
        // It had begun before: it is still there.
        assert_eq!(moved(list(&[(0, 0), (1, 90), (2, 100)])), list(&[(0, 0), (1, 90), (2, 110)]));
    }

    #[test]
    fn a_batch_fits_the_epoch_that_its_offset_is_of() {
        let epochs = |list: &[(u32, u64)]| Manifest {
            epochs: list
                .iter()
                .map(|&(epoch, start)| EpochStart { epoch, start: Offset::new(start) })
                .collect(),
            ..example()
        };
        let fits = |manifest: &Manifest, segment: u32, base: u64, epoch: u32| {
            let header =
                BatchHeader { log_epoch: epoch, base_offset: Offset::new(base), ..BatchHeader::default() };
            manifest.fits_epoch(segment, &header)
        };
        let manifest = epochs(&[(0, 0), (3, 100), (4, 200)]);
        for (segment, base, epoch, expected) in [
            (0, 0, 0, true),
            (0, 99, 0, true),
            (0, 100, 0, false),
            (0, 100, 3, true),
            (0, 200, 3, false),
            (0, 200, 4, true),
            (0, 0, 3, false),
            // The first batch of a segment that a truncation began may lie before it: written again with fewer records.
            (4, 190, 4, true),
            (4, 190, 3, false),
        ] {
            assert_eq!(fits(&manifest, segment, base, epoch), expected, "{segment} {base} {epoch}");
        }
        // Before the oldest epoch that is remembered.
        let manifest = epochs(&[(3, 100)]);
        for (epoch, expected) in [(0, false), (1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(fits(&manifest, 1, 50, epoch), expected, "{epoch}");
        }
    }
}
