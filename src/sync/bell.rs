//! A signal that wakes all threads that wait for it at once.
//!
//! A condition variable of `parking_lot` moves its waiters to the lock that they wait with, and
//! each of them wakes the next when it releases that lock: 64 threads that wait for one sync come
//! back one after the other. Here one call to the system wakes them all, and the lock that each
//! passes through protects two numbers only.

use std::sync::PoisonError;

use super::rank::Rank;
use super::ranked::MutexGuard;

#[derive(Default)]
pub(crate) struct Bell {
    state: std::sync::Mutex<State>,
    rung: std::sync::Condvar,
}

#[derive(Default)]
struct State {
    /// How often it has rung.
    rings: u64,
    /// How many threads wait.
    waiting: usize,
}

impl Bell {
    /// Releases a lock and waits until it rings, while the thread holds locks of the ranks `also`:
    /// the caller argues why the thread that rings needs none of them. A ring after the release is
    /// never missed.
    pub(crate) fn wait<T>(&self, guard: MutexGuard<'_, T>, also: &[Rank]) {
        guard.check_alone(also);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(guard);
        let seen = state.rings;
        state.waiting += 1;
        while state.rings == seen {
            state = self.rung.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }

    pub(crate) fn ring(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rings = state.rings.wrapping_add(1);
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.rung.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Arc, Mutex, thread};
    use super::*;

    #[test]
    fn one_ring_wakes_every_thread_that_waits() {
        let shared = Arc::new((Mutex::new(Rank::Test, false), Bell::default()));
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (done, bell) = &*shared;
                    loop {
                        let guard = done.lock();
                        if *guard {
                            break;
                        }
                        bell.wait(guard, &[]);
                    }
                })
            })
            .collect();
        let waiting = || shared.1.state.lock().unwrap().waiting;
        while waiting() < 8 {
            thread::yield_now();
        }
        *shared.0.lock() = true;
        shared.1.ring();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_eq!(waiting(), 0);
    }
}
