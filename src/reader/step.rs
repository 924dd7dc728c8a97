//! A step from a poll to its result. Positions move with the poll, and must go back if the records
//! do not reach their goal: otherwise the next step skips them.
//!
//! One guard for all users: the projector, the feed, a transaction with a consumer's offsets, and
//! through that the automatic commit, which commits positions only after they have been put back.

use std::ops::{Deref, DerefMut};

/// Something with positions that can go back to where they are stored.
pub(crate) trait PutBack {
    /// Must not panic: it may run while a panic unwinds.
    fn put_back(&mut self);
}

/// Until [`done`](Step::done) is called, the end of a step puts the positions back, whether it ends
/// with an error, an early return or a panic of the user's code.
pub(crate) struct Step<P: PutBack> {
    of: P,
    is_done: bool,
}

impl<P: PutBack> Step<P> {
    pub(crate) fn new(of: P) -> Self {
        Step { of, is_done: false }
    }

    /// The records have reached their goal: the positions stay.
    pub(crate) fn done(mut self) {
        self.is_done = true;
    }
}

impl<P: PutBack> Deref for Step<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.of
    }
}

impl<P: PutBack> DerefMut for Step<P> {
    fn deref_mut(&mut self) -> &mut P {
        &mut self.of
    }
}

impl<P: PutBack> Drop for Step<P> {
    fn drop(&mut self) {
        if !self.is_done {
            self.of.put_back();
        }
    }
}
