//! Stopping an operation at an exact place, until it is released.

use std::fmt;

use crate::sync::{Arc, Condvar, Mutex, Rank};

/// Holds one operation until it is released: see [`Disk::hold`](crate::testing::Disk::hold) and
/// [`Disk::hold_after`](crate::testing::Disk::hold_after).
///
/// Dropping it releases the operation too.
///
/// ```
/// use quipu::testing::{Disk, Op};
///
/// let disk = Disk::new();
/// let gate = disk.hold(Op::Sync, 1);
/// assert!(!gate.is_reached());
/// gate.release();
/// ```
pub struct Gate {
    door: Arc<Door>,
}

impl Gate {
    pub(super) fn of(door: Arc<Door>) -> Self {
        Gate { door }
    }

    /// Waits until the operation has reached the gate. If it never does, this does not return.
    pub fn wait_until_reached(&self) {
        let mut state = self.door.state.lock();
        while !state.is_reached {
            self.door.changed.wait(&mut state);
        }
    }

    /// Whether the operation has reached the gate, released since or not.
    pub fn is_reached(&self) -> bool {
        self.door.state.lock().is_reached
    }

    /// Lets the operation continue, also if it has not reached the gate yet.
    pub fn release(&self) {
        self.door.state.lock().is_open = true;
        self.door.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("is_reached", &self.is_reached()).finish()
    }
}

/// The place where an operation is held.
pub(super) struct Door {
    state: Mutex<DoorState>,
    changed: Condvar,
}

impl Default for Door {
    fn default() -> Self {
        Door { state: Mutex::new(Rank::Door, DoorState::default()), changed: Condvar::new() }
    }
}

#[derive(Default)]
struct DoorState {
    is_reached: bool,
    is_open: bool,
}

impl Door {
    /// Waits until the gate is released.
    pub(super) fn pass(&self) {
        let mut state = self.state.lock();
        state.is_reached = true;
        self.changed.notify_all();
        while !state.is_open {
            self.changed.wait_like_a_medium(&mut state);
        }
    }
}
