//! Changes of a manifest. Each is a pure function of the manifest before it, so it can be tested
//! without storage.

use crate::format::manifest::{LostRange, Manifest, SegmentEntry, SegmentState};
use crate::segment::Point;
use crate::types::Offset;

/// The identity of an entry's segment: base offset, generation and log epoch.
pub(crate) type SegmentId = (Offset, u32, u32);

pub(crate) fn id_of(entry: &SegmentEntry) -> SegmentId {
    (entry.base_offset, entry.generation, entry.log_epoch)
}

/// The result of a truncation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truncation {
    /// The number of segments that are kept, from the oldest on.
    pub(crate) kept: usize,
    /// The new end of the last kept segment, if it changes.
    pub(crate) last: Option<Point>,
    /// The new start and end of the log.
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    /// Positions of earlier epochs stay valid up to here.
    pub(crate) common: Offset,
}

/// Ends the active segment at `old`, and adds `next` after it.
pub(crate) fn roll(manifest: &mut Manifest, old: &Point, next: SegmentEntry) {
    if let Some(last) = manifest.segments.last_mut() {
        debug_assert_eq!(last.state, SegmentState::Active, "the last segment of a list is active");
        last.state = SegmentState::Sealed;
        old.end_entry(last);
    }
    manifest.segments.push(next);
}

/// Truncates the log, starts an epoch, and adds `next`. All kept records must be durable. Returns
/// the base offsets of the segments that become synced.
pub(crate) fn truncate(manifest: &mut Manifest, to: &Truncation, next: SegmentEntry) -> Vec<Offset> {
    let mut synced = Vec::new();
    manifest.log_start = to.start;
    manifest.segments.truncate(to.kept);
    for entry in manifest.segments.iter_mut().filter(|entry| !entry.state.is_synced()) {
        entry.state = SegmentState::Synced;
        synced.push(entry.base_offset);
    }
    if let (Some(last), Some(entry)) = (&to.last, manifest.segments.last_mut()) {
        last.end_entry(entry);
        synced.push(entry.base_offset);
    }
    manifest.begin_epoch(to.common);
    manifest.clip_lost(to.start, to.end);
    manifest.segments.push(next);
    synced
}

/// Starts the log at `start`. Removes the sealed segments that are completely before it, and
/// returns them.
pub(crate) fn begin_at(manifest: &mut Manifest, start: Offset) -> Vec<SegmentId> {
    let mut gone = Vec::new();
    manifest.log_start = start;
    manifest.segments.retain(|entry| {
        let stays = entry.state == SegmentState::Active || entry.end_offset > start;
        if !stays {
            gone.push(id_of(entry));
        }
        stays
    });
    gone
}

/// Marks these segments as synced, if they are sealed. The next opening does not read them.
pub(crate) fn note_synced(manifest: &mut Manifest, finished: &[SegmentId]) {
    for entry in &mut manifest.segments {
        if entry.state == SegmentState::Sealed && finished.contains(&id_of(entry)) {
            entry.state = SegmentState::Synced;
        }
    }
}

/// Accepts the loss of records: `entries` are the whole batches left of a damaged log. Adds `next`
/// at `end`, and starts an epoch.
pub(crate) fn give_up(
    manifest: &mut Manifest,
    entries: impl Iterator<Item = SegmentEntry>,
    next: SegmentEntry,
    end: Offset,
    lost: &[LostRange],
) {
    manifest.segments = entries.collect();
    manifest.segments.push(next);
    manifest.begin_epoch(end);
    lost.iter().for_each(|range| manifest.add_lost(*range));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::batch::Secret;
    use crate::format::manifest::EpochStart;
    use crate::segment::create::active_entry;
    use crate::types::{PartitionId, TopicId};

    fn at(offset: u64) -> Offset {
        Offset::new(offset)
    }

    /// A point at which the segment of `base` ends.
    fn end_of(base: u64, end: u64) -> Point {
        Point { end: at(end), position: 64 + end - base, last_crc: 7, ..Point::start_of(at(base), 0, 0, 0) }
    }

    /// Segments of ten offsets each. The last one is active.
    fn manifest(segments: u64) -> Manifest {
        let mut manifest = Manifest {
            topic_id: TopicId([1; 16]),
            partition: PartitionId::new(0),
            secret: Secret::default(),
            log_start: at(0),
            epochs: vec![EpochStart { epoch: 0, start: at(0) }],
            segments: vec![active_entry(at(0), 0, 0)],
            lost: Vec::new(),
            has_successors: false,
        };
        for n in 1..segments {
            roll(&mut manifest, &end_of(10 * (n - 1), 10 * n), active_entry(at(10 * n), 0, 0));
        }
        manifest
    }

    fn states(manifest: &Manifest) -> Vec<(u64, SegmentState, u64)> {
        let of = |entry: &SegmentEntry| (entry.base_offset.get(), entry.state, entry.end_offset.get());
        manifest.segments.iter().map(of).collect()
    }

    #[test]
    fn a_roll_seals_the_active_segment_where_it_ends() {
        use SegmentState::{Active, Sealed};
        assert_eq!(states(&manifest(3)), [(0, Sealed, 10), (10, Sealed, 20), (20, Active, 0)]);
    }

    #[test]
    fn a_truncation_marks_kept_segments_as_synced_and_starts_an_epoch() {
        use SegmentState::{Active, Synced};
        let mut manifest = manifest(4);
        let cut =
            Truncation { kept: 2, last: Some(end_of(10, 15)), start: at(3), end: at(15), common: at(15) };
        let synced = truncate(&mut manifest, &cut, active_entry(at(15), 0, 1));
        assert_eq!(states(&manifest), [(0, Synced, 10), (10, Synced, 15), (15, Active, 0)]);
        assert_eq!(synced, [at(0), at(10), at(10)]);
        assert_eq!((manifest.epoch(), manifest.log_start), (1, at(3)));
        assert_eq!(manifest.epochs.last().unwrap().start, at(15));
    }

    #[test]
    fn a_later_start_drops_the_sealed_segments_before_it_and_never_the_active_one() {
        let mut manifest = manifest(3);
        assert_eq!(begin_at(&mut manifest, at(9)), []);
        assert_eq!(begin_at(&mut manifest, at(10)), [(at(0), 0, 0)]);
        assert_eq!(begin_at(&mut manifest, at(99)), [(at(10), 0, 0)]);
        assert_eq!(manifest.segments.len(), 1);
    }

    #[test]
    fn only_sealed_segments_that_were_finished_become_synced() {
        use SegmentState::{Active, Sealed, Synced};
        let mut manifest = manifest(3);
        note_synced(&mut manifest, &[(at(0), 0, 0), (at(10), 0, 9), (at(20), 0, 0)]);
        assert_eq!(states(&manifest), [(0, Synced, 10), (10, Sealed, 20), (20, Active, 0)]);
    }
}
