//! Where does a log end? At four offsets, each of which only grows.
//!
//! A truncation does not move them back: it publishes a [`View`](super::list::View) with ends of its own, and these stay as
//! they were last. So a caller that holds a view can put its ends and its segments together.

use crate::sync::{AtomicU64, Ordering};
use crate::types::Offset;

/// The ends of a log since its last truncation.
pub(crate) struct Ends {
    /// Records before it may be read.
    visible: AtomicU64,
    /// Everything before it is on the medium.
    durable: AtomicU64,
    /// Everything before it is on the medium, here or in the journal.
    covered: AtomicU64,
    /// The next offset to be given out.
    log: AtomicU64,
}

impl Ends {
    /// All of them at `end`.
    pub(crate) fn new(end: Offset) -> Self {
        let at = || AtomicU64::new(end.get());
        Ends { visible: at(), durable: at(), covered: at(), log: at() }
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

    /// Whether some records are not visible yet.
    pub(crate) fn hides_records(&self) -> bool {
        self.visible() < self.log()
    }

    /// Whether everything before `offset` is on the medium, here or in the journal.
    pub(crate) fn is_safe_before(&self, offset: Offset) -> bool {
        self.durable() >= offset || self.covered.load(Ordering::Acquire) >= offset.get()
    }

    /// Moves the log end, and the visible end too if no sync is waited for. After the write; under the writer's lock.
    #[inline]
    pub(crate) fn note_written(&self, end: Offset, is_visible: bool) {
        debug_assert!(end >= self.log(), "an end moves back only with a new view");
        self.log.store(end.get(), Ordering::Release);
        if is_visible {
            self.visible.fetch_max(end.get(), Ordering::AcqRel);
        }
    }

    /// Moves the durable end and the visible end. After the sync.
    pub(crate) fn note_synced(&self, end: Offset) {
        self.durable.fetch_max(end.get(), Ordering::AcqRel);
        self.visible.fetch_max(end.get(), Ordering::AcqRel);
    }

    /// Notes that everything before `end` is on the medium, here or as records of the journal, which are written again in
    /// their order if the medium loses them here.
    pub(crate) fn note_covered(&self, end: Offset) {
        self.covered.fetch_max(end.get(), Ordering::AcqRel);
    }

    /// Moves the visible end to `end`, or to the log end if that is less.
    pub(crate) fn show(&self, end: Offset) {
        self.visible.fetch_max(end.min(self.log()).get(), Ordering::AcqRel);
    }
}
