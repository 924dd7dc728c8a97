//! The senders that wait for room in a producer's buffer, in the order in which they came.

use std::collections::BTreeMap;
use std::task::Waker;

/// Each sender has a number, and its waker at most once.
#[derive(Default)]
pub(super) struct RoomQueue {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    waker: Waker,
    /// How long its record is.
    len: usize,
}

impl RoomQueue {
    /// Adds a sender, or one that was woken for nothing to its old place. Returns its number, and
    /// the waker that it left before, which the caller drops under no lock.
    pub(super) fn wait(&mut self, number: Option<u64>, len: usize, waker: Waker) -> (u64, Option<Waker>) {
        let number = number.unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        let before = self.waiting.insert(number, Waiting { waker, len });
        (number, before.map(|waiting| waiting.waker))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a sender out that waits no longer. Returns its waker, which the caller drops under no
    /// lock, or `None` if it has been woken.
    pub(super) fn leave(&mut self, number: u64) -> Option<Waker> {
        self.waiting.remove(&number).map(|waiting| waiting.waker)
    }

    /// Takes the first senders whose records fit `room` bytes together, at least one if there is
    /// any room. The caller wakes them, under no lock.
    pub(super) fn take(&mut self, room: usize) -> Vec<Waker> {
        let mut taken = 0usize;
        let mut woken = Vec::new();
        while taken < room
            && let Some((_, Waiting { waker, len })) = self.waiting.pop_first()
        {
            taken = taken.saturating_add(len.max(1));
            woken.push(waker);
        }
        woken
    }
}
