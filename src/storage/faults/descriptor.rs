//! The descriptors of a process, and their limit.

use std::io;

use super::failure::Failure;
use crate::sync::{Arc, Mutex, Rank};

/// The number of a process that has no descriptor left (`EMFILE`).
const TOO_MANY: i32 = 24;

/// The descriptors of the process that acts. Cheap to clone; clones are the same.
#[derive(Clone)]
pub(super) struct Descriptors(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The run of the process.
    run: u64,
    open: usize,
    /// How many there may be.
    limit: Option<usize>,
}

/// One descriptor, until it is dropped.
pub(super) struct Descriptor {
    of: Descriptors,
    run: u64,
}

impl Default for Descriptors {
    fn default() -> Self {
        Descriptors(Arc::new(Mutex::new(Rank::Faults, State::default())))
    }
}

impl Descriptors {
    pub(super) fn set_limit(&self, limit: Option<usize>) {
        self.0.lock().limit = limit;
    }

    pub(super) fn open(&self) -> usize {
        self.0.lock().open
    }

    /// A new process has none.
    pub(super) fn start_run(&self, run: u64) {
        let mut state = self.0.lock();
        (state.run, state.open) = (run, 0);
    }

    /// Takes a descriptor for the process of a run. A process that has died fails with its next
    /// operation.
    ///
    /// # Errors
    /// `EMFILE` if there are as many as there may be.
    pub(super) fn take(&self, run: u64) -> io::Result<Descriptor> {
        let mut state = self.0.lock();
        if state.run == run {
            if state.limit.is_some_and(|limit| state.open >= limit) {
                return Err(Failure::Number(TOO_MANY).into());
            }
            state.open += 1;
        }
        Ok(Descriptor { of: self.clone(), run })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let mut state = self.of.0.lock();
        if state.run == self.run {
            state.open = state.open.saturating_sub(1);
        }
    }
}
