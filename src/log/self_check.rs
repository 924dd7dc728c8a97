//! In debug builds: after every operation that changes the segments of a log, the
//! [invariants](super::invariants) hold, and the list, the manifest and the writer agree. Release
//! builds do nothing here.
//!
//! It asserts what the operations ensure, and does not defend against bytes: those are checked
//! where they are read, in every build.

use super::Log;
use super::ends::Ends;
use super::invariants::{Broken, Held, of_bounds, of_manifest};
use super::list::View;
use super::transitions::id_of;
use super::writer::Tip;
use crate::format::manifest::{Manifest, SegmentState};

/// Checks a log whose segments have changed. The caller must hold the shape lock or, with `tip`,
/// the writer's lock: otherwise another thread may be between two steps.
pub(super) fn segments_changed(log: &Log, tip: Option<&Tip>) {
    if cfg!(debug_assertions) {
        let manifest = log.manifest.get();
        let view = log.list.view();
        let held = look(&manifest, &view, tip);
        debug_assert_eq!(held, Ok(()), "{}: {:?}", log.identity.topic_partition(), **manifest);
    }
}

/// As [`segments_changed`], after a roll: it changes the last two segments only, and a log may have
/// many.
pub(super) fn rolled(log: &Log, tip: &Tip) {
    if cfg!(debug_assertions) {
        let manifest = log.manifest.get();
        let view = log.list.view();
        let from = view.segments.len().saturating_sub(2);
        let held = agree(&manifest, &view, Some(tip), from).and_then(|()| end_of(&view, tip));
        debug_assert_eq!(held, Ok(()), "{}: {:?}", log.identity.topic_partition(), **manifest);
    }
}

fn look(manifest: &Manifest, view: &View, tip: Option<&Tip>) -> Held {
    of_manifest(manifest)?;
    let end = view.ends.log();
    of_bounds(manifest, end).next().map_or(Ok(()), Err)?;
    same(manifest.log_start == view.log_start, "the log starts where its manifest says")?;
    same(manifest.epoch() == view.epoch, "the epoch is that of the manifest")?;
    agree(manifest, view, tip, 0)?;
    tip.map_or(Ok(()), |tip| end_of(view, tip))
}

/// The segments from a number on are those of the manifest. Without the writer's lock a roll may
/// have changed the manifest, and not the list yet.
fn agree(manifest: &Manifest, view: &View, tip: Option<&Tip>, from: usize) -> Held {
    let (listed, segments) = (&manifest.segments, &view.segments);
    let is_rolling = tip.is_none() && listed.len() == segments.len() + 1;
    same(is_rolling || listed.len() == segments.len(), "the list has the segments of the manifest")?;
    for (at, (entry, segment)) in listed.iter().zip(segments.iter()).enumerate().skip(from) {
        same(segment.id() == id_of(entry), "a segment is that of the manifest")?;
        if entry.state == SegmentState::Active || (tip.is_none() && at + 1 == segments.len()) {
            continue;
        }
        let is_same = segment.end() == Some(entry.end_offset) && segment.size() == entry.size;
        same(is_same, "a sealed segment ends where the manifest says")?;
    }
    Ok(())
}

/// The writer is at the log's end, in the last segment, and no other end is after it.
fn end_of(view: &View, tip: &Tip) -> Held {
    let ends: &Ends = &view.ends;
    same(tip.point.end == ends.log(), "the writer is at the log's end")?;
    same(ends.visible() <= ends.log() && ends.durable() <= ends.log(), "the log's end is the last")?;
    let last = view.segments.last();
    same(last.is_none_or(|last| last.id() == tip.segment.id()), "the writer is in the last segment")
}

/// A part of 7: memory and manifest list the same segments.
fn same(holds: bool, what: &'static str) -> Held {
    if holds { Ok(()) } else { Err(Broken { number: 7, what }) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::format::batch::Secret;
    use crate::format::manifest::EpochStart;
    use crate::log::list::{SegmentSet, segments_of};
    use crate::log::transitions;
    use crate::segment::Point;
    use crate::segment::create::active_entry;
    use crate::sync::Arc;
    use crate::types::{Offset, PartitionId, TopicId};

    fn at(offset: u64) -> Offset {
        Offset::new(offset)
    }

    /// Three segments of ten offsets each; the last one is active and empty.
    fn manifest() -> Manifest {
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
        for base in [0, 10] {
            let start = Point::start_of(at(base), 0, 0, 0);
            let end = Point { end: at(base + 10), position: start.position + 300, ..start };
            transitions::roll(&mut manifest, &end, active_entry(end.end, 0, 0));
        }
        manifest
    }

    /// The state in memory that belongs to it.
    fn state(manifest: &Manifest) -> (View, Tip) {
        let segments = segments_of(Path::new("t/0"), manifest);
        let ends = Arc::new(Ends::new(at(20)));
        let last = segments.last().unwrap().clone();
        let tip = Tip::new(last, Point::start_of(at(20), 0, 0, 0), ends.clone());
        (View { epoch: 0, log_start: at(0), segments: Arc::new(SegmentSet::new(segments)), ends }, tip)
    }

    fn is_noticed(change: impl FnOnce(&mut Manifest, &mut View, &mut Tip)) -> bool {
        let mut manifest = manifest();
        let (mut view, mut tip) = state(&manifest);
        change(&mut manifest, &mut view, &mut tip);
        look(&manifest, &view, Some(&tip)).is_err()
    }

    #[test]
    fn memory_that_differs_from_the_manifest_is_noticed() {
        assert!(!is_noticed(|_, _, _| {}));
        assert!(is_noticed(|_, view, _| view.epoch = 1));
        assert!(is_noticed(|_, view, _| view.log_start = at(1)));
        assert!(is_noticed(
            |_, view, _| view.segments = Arc::new(SegmentSet::new(view.segments[1..].to_vec()))
        ));
        assert!(is_noticed(|manifest, _, _| manifest.segments[1].size += 1));
        assert!(is_noticed(|manifest, _, _| manifest.segments[1].generation = 1));
        assert!(is_noticed(|manifest, _, _| manifest.log_start = at(21)));
        assert!(is_noticed(|_, view, _| view.ends = Arc::new(Ends::new(at(19)))));
        assert!(is_noticed(|_, _, tip| tip.point.end = at(21)));
        assert!(is_noticed(|_, view, tip| tip.segment = view.segments[0].clone()));
    }

    /// Another thread may hold the writer's lock, between its change of the manifest and that of
    /// the list.
    #[test]
    fn a_roll_that_has_changed_the_manifest_only_is_no_contradiction() {
        let mut manifest = manifest();
        let (view, tip) = state(&manifest);
        let end = Point { end: at(25), position: 500, ..Point::start_of(at(20), 0, 0, 0) };
        transitions::roll(&mut manifest, &end, active_entry(at(25), 0, 0));
        assert_eq!(look(&manifest, &view, None), Ok(()));
        assert!(look(&manifest, &view, Some(&tip)).is_err());
    }
}
