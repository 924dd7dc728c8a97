//! Which positions of a reader may have moved? A caller that keeps a copy of them, or checks each
//! partition once, looks at those only, so that its cost does not depend on how many partitions are
//! idle.

use std::vec::Drain;

/// So many places are noted one by one; if there are more, all positions count as moved.
const PLACES_MAX: usize = 1024;

/// The places whose positions may have moved since they were [taken](Moved::take) last.
#[derive(Default)]
pub(super) struct Moved {
    places: Vec<usize>,
    all: bool,
}

impl Moved {
    /// The position at a place may move.
    #[inline]
    pub(super) fn note(&mut self, place: usize) {
        if self.all {
            return;
        }
        if self.places.len() < PLACES_MAX {
            self.places.push(place);
        } else {
            self.note_all();
        }
    }

    /// All positions may move, or their places change.
    pub(super) fn note_all(&mut self) {
        self.places.clear();
        self.all = true;
    }

    /// Returns the places that were noted since the last call; `None` if all were.
    pub(super) fn take(&mut self) -> Option<Drain<'_, usize>> {
        if std::mem::take(&mut self.all) { None } else { Some(self.places.drain(..)) }
    }
}

/// The partitions that a caller has seen: those with the first places, unless places have changed.
#[derive(Default)]
pub(crate) struct Seen {
    pub(super) shifts: u64,
    pub(super) count: usize,
}
