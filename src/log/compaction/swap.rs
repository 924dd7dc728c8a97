//! Replaces segments of a log by rewritten ones, for a compaction and for erasing.

use super::output::Outputs;
use super::pace::Pace;
use crate::log::list::{SegmentSet, View};
use crate::log::manifest::ManifestError;
use crate::log::{Log, idempotence, self_check, successors};
use crate::segment::Segment;
use crate::sync::Arc;

/// Replaces the segments of the pace by the new ones. The manifest is the commit point.
///
/// # Errors
/// `CompactionAborted` if the list has changed since the pace was started; the partition takes no
/// appends; an I/O error. The log is poisoned if it is unknown which manifest a restart finds.
pub(in crate::log) fn swap(
    log: &Arc<Log>,
    outputs: &Outputs<'_>,
    pace: &Pace<'_>,
) -> Result<(), ManifestError> {
    let inputs = pace.inputs;
    let shape = log.list.lock_shape();
    log.check_writable().map_err(ManifestError::unchanged)?;
    let first = position_of(&log.segments(), inputs).filter(|_| log.revision() == pace.revision);
    let Some(first) = first else {
        return Err(ManifestError::unchanged(log.identity.compaction_aborted()));
    };
    let after = first + inputs.len();
    // The last batch of each producer stays, if necessary without records. An earlier one may
    // become the last by a truncation, so the side file must have it.
    if let Some(upto) = inputs.last().and_then(|last| last.end()) {
        idempotence::keep_producers(log, upto, false).map_err(ManifestError::unchanged)?;
    }
    // A manifest lists its last segment as one that was appended to, so those after the new ones
    // must be listed too.
    successors::name_all(log).map_err(ManifestError::unchanged)?;
    // The list and the manifest have the same segments, one by one. Both only grow at their ends
    // while the shape is locked.
    let committed = log.manifest.commit(&log.ctx, |manifest| {
        manifest.segments.splice(first..after, outputs.written.iter().map(|written| written.entry));
    });
    committed
        .map_err(|failed| ManifestError { unknown: failed.unknown, error: log.manifest_failed(failed) })?;
    let segments: Vec<_> =
        outputs.written.iter().map(|written| Arc::new(written.to_segment(log.manifest.dir()))).collect();
    // As in a truncation: a reader that has looked something up in the old list looks again.
    log.list.replace(|view| {
        log.tail.clear(&log.ctx);
        let mut list = view.segments.to_vec();
        list.splice(first..after, segments.iter().cloned());
        View { segments: Arc::new(SegmentSet::new(list)), ..view.clone() }
    });
    self_check::segments_changed(log, None);
    log.publish();
    // Unlink under the shape lock, while no other thread removes segments, or makes one that may
    // have the name of an old one.
    for segment in inputs {
        segment.unlink(&log.ctx);
    }
    drop(shape);
    for segment in inputs {
        segment.release();
        (pace.tick)();
    }
    for segment in &segments {
        if let Some(end) = segment.end() {
            segment.save_index(&log.ctx, &log.identity, segment.size(), end);
        }
    }
    Ok(())
}

/// Returns the index of the first of some consecutive segments of a list, if all are still in it.
fn position_of(list: &[Arc<Segment>], segments: &[Arc<Segment>]) -> Option<usize> {
    let first = segments.first()?;
    let at = list.iter().position(|segment| Arc::ptr_eq(segment, first))?;
    let listed = list.get(at..at + segments.len())?;
    listed.iter().zip(segments).all(|(a, b)| Arc::ptr_eq(a, b)).then_some(at)
}
