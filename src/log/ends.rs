//! The four ends of a log. Each of them only grows.
//!
//! A truncation does not move them back: it publishes a [`View`](super::list::View) with new ends,
//! and the old ones keep their last values. So the ends and the segments of one view belong
//! together.

use crate::sync::{AtomicU64, Ordering};
use crate::types::Offset;

/// The ends of a log since its last truncation.
pub(crate) struct Ends {
    /// Records before it may be read.
    visible: AtomicU64,
    /// All records before it are durable.
    durable: AtomicU64,
    /// All records before it are durable, in a segment or in the journal.
    covered: AtomicU64,
    /// The next offset to be assigned.
    log: AtomicU64,
    /// No segment that ends at or before it has bytes that are not durable, because a sync of the
    /// log has visited each. A truncation, which brings other segments, starts over at 0.
    visited: AtomicU64,
}

impl Ends {
    /// Returns ends that are all at `end`.
    pub(crate) fn new(end: Offset) -> Self {
        let at = || AtomicU64::new(end.get());
        Ends { visible: at(), durable: at(), covered: at(), log: at(), visited: AtomicU64::new(0) }
    }

    /// Returns ends that are at `end`, of a log that is durable up to an offset before.
    pub(crate) fn unsynced_after(durable: Offset, end: Offset) -> Self {
        debug_assert!(durable <= end, "no end is after the log end");
        let at = || AtomicU64::new(durable.get());
        Ends { durable: at(), covered: at(), ..Ends::new(end) }
    }

    #[inline]
    pub(crate) fn visible(&self) -> Offset {
        Offset::new(self.visible.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn durable(&self) -> Offset {
        Offset::new(self.durable.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn log(&self) -> Offset {
        Offset::new(self.log.load(Ordering::Acquire))
    }

    /// Returns the end before which a sync need not visit a segment.
    pub(crate) fn visited(&self) -> Offset {
        Offset::new(self.visited.load(Ordering::Acquire))
    }

    /// Returns whether some records are not visible yet.
    pub(crate) fn hides_records(&self) -> bool {
        self.visible() < self.log()
    }

    /// Returns whether all records before `offset` are durable, in a segment or in the journal.
    pub(crate) fn is_safe_before(&self, offset: Offset) -> bool {
        self.durable() >= offset || self.covered.load(Ordering::Acquire) >= offset.get()
    }

    /// Moves the log end, and also the visible end if it waits for no sync. Must be called after
    /// the write, under the writer's lock.
    #[inline]
    pub(crate) fn note_written(&self, end: Offset, is_visible: bool) {
        debug_assert!(end >= self.log(), "an end moves back only with a new view");
        self.log.store(end.get(), Ordering::Release);
        if is_visible {
            self.visible.fetch_max(end.get(), Ordering::AcqRel);
        }
    }

    /// Moves the durable end and the visible end. Must be called after a sync that has visited
    /// every segment with records before `end`. Returns whether records have become visible.
    pub(crate) fn note_synced(&self, end: Offset) -> bool {
        self.visited.fetch_max(end.get(), Ordering::AcqRel);
        self.durable.fetch_max(end.get(), Ordering::AcqRel);
        self.visible.fetch_max(end.get(), Ordering::AcqRel) < end.get()
    }

    /// Notes that all records before `end` are durable, in a segment or in the journal. Records of
    /// the journal are written again, in their order, if the segment loses them.
    pub(crate) fn note_covered(&self, end: Offset) {
        self.covered.fetch_max(end.get(), Ordering::AcqRel);
    }

    /// Returns ends of a log of another process: the visible one and the durable one as it has
    /// published them, and the end of the batches that were found.
    pub(crate) fn followed(visible: Offset, durable: Offset, log: Offset) -> Self {
        let ends = Ends::new(visible.max(log));
        ends.visible.store(visible.get(), Ordering::Release);
        ends.durable.store(durable.get(), Ordering::Release);
        ends
    }

    /// Moves the ends on to those that another process has published.
    pub(crate) fn follow(&self, visible: Offset, durable: Offset) {
        self.log.fetch_max(visible.get(), Ordering::AcqRel);
        self.visible.fetch_max(visible.get(), Ordering::AcqRel);
        self.durable.fetch_max(durable.get(), Ordering::AcqRel);
    }

    /// Moves the visible end to `end`, or to the log end if that is less.
    pub(crate) fn show(&self, end: Offset) {
        self.visible.fetch_max(end.min(self.log()).get(), Ordering::AcqRel);
    }
}
