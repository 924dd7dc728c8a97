//! Which of a reader's partitions may have something for it? Only those are looked at by a poll, so
//! that its cost does not depend on how many idle partitions there are.
//!
//! A partition is named by its place among the reader's. The argument that none is forgotten is at
//! the head of `engine/notify.rs`.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::engine::{Interest, Waiter};
use crate::log::Log;
use crate::sync::Arc;

/// The ready list of a reader, and its interests in the logs that it reads.
#[derive(Default)]
pub(super) struct Ready {
    /// Sorted, so that partitions have their turns in the order of their places.
    places: BTreeSet<usize>,
    /// The places that were taken off the list although their partitions may have records: those of
    /// paused ones.
    aside: BTreeSet<usize>,
    /// One for each place.
    interests: Vec<Arc<Interest>>,
}

impl Ready {
    /// Takes in a log at the next place. It is on the list.
    pub(super) fn add(&mut self, log: &Log, waiter: &Arc<Waiter>) {
        let place = self.interests.len();
        let interest = Arc::new(Interest::new(waiter, place));
        log.waiters().add(interest.clone());
        self.interests.push(interest);
        self.places.insert(place);
    }

    /// Lets go of a log at a place that the caller drops.
    pub(super) fn release(&self, place: usize, log: &Log) {
        if let Some(interest) = self.interests.get(place) {
            log.waiters().remove(interest);
        }
    }

    /// Drops the places for which `stays` returns false. The others move up, and are all on the
    /// list.
    pub(super) fn retain(&mut self, stays: impl Fn(usize) -> bool) {
        let mut place = 0..;
        self.interests.retain(|_| place.next().is_some_and(&stays));
        for (place, interest) in self.interests.iter().enumerate() {
            interest.set_place(place);
        }
        self.add_all();
    }

    /// Puts a place on the list, because the reader's own state of it has changed.
    pub(super) fn insert(&mut self, place: usize) {
        self.places.insert(place);
    }

    /// Puts all places on the list.
    pub(super) fn add_all(&mut self) {
        self.aside.clear();
        self.places = (0..self.interests.len()).collect();
    }

    /// Returns the first place on the list in a range.
    pub(super) fn first_in(&self, places: Range<usize>) -> Option<usize> {
        if places.is_empty() { None } else { self.places.range(places).next().copied() }
    }

    /// Arms the interest in the log at a place. The caller must look at the log once more, and take
    /// the place off the list only if there is still nothing.
    pub(super) fn arm(&self, place: usize, log: &Log) {
        if let Some(interest) = self.interests.get(place) {
            log.waiters().arm(interest);
        }
    }

    /// Takes a place off the list. A partition that is paused may have records all the same.
    pub(super) fn remove(&mut self, place: usize, is_paused: bool) {
        self.places.remove(&place);
        if is_paused {
            self.aside.insert(place);
        } else {
            self.aside.remove(&place);
        }
    }

    /// Returns the places whose partitions may have records, with those that the waiter has noted.
    pub(super) fn with_records(&self, noted: Vec<usize>) -> BTreeSet<usize> {
        let mut places = self.places.clone();
        places.extend(self.aside.iter().copied().chain(noted));
        places
    }
}

/// Takes the places that a [`Waiter`] has noted.
impl Extend<usize> for Ready {
    fn extend<T: IntoIterator<Item = usize>>(&mut self, places: T) {
        self.places.extend(places);
    }
}
