//! What is due, and when? A heap of tasks by monotonic time; a thread, or a test that moves the clock, runs them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::clock::{Clock, wait_timeout};
use crate::sync::{Arc, Condvar, Mutex, Rank};

/// Something to be done at a time. A task that has nothing to do any more when it runs just returns.
pub(crate) trait Task: Send + Sync {
    /// Does what is due at `now` (monotonic).
    fn run(self: Arc<Self>, now: Duration);
}

/// The tasks of a broker by the time they are due.
///
/// The heap owns its tasks: what has been scheduled is done even if everybody else has forgotten it.
pub(crate) struct Timer {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    tasks: BinaryHeap<Reverse<Entry>>,
    scheduled: u64,
    stopped: bool,
}

struct Entry {
    at: Duration,
    /// Breaks ties by the order of scheduling.
    number: u64,
    task: Arc<dyn Task>,
}

impl Timer {
    pub(crate) fn new() -> Self {
        Timer {
            state: Mutex::new(Rank::Timer, State { tasks: BinaryHeap::new(), scheduled: 0, stopped: false }),
            changed: Condvar::new(),
        }
    }

    /// Runs `task` at the monotonic time `at`, or as soon as possible behind it.
    pub(crate) fn schedule(&self, at: Duration, task: Arc<dyn Task>) {
        let mut state = self.state.lock();
        let earliest = state.tasks.peek().is_none_or(|Reverse(first)| at < first.at);
        let number = state.scheduled;
        state.scheduled += 1;
        state.tasks.push(Reverse(Entry { at, number, task }));
        drop(state);
        if earliest {
            self.changed.notify_one();
        }
    }

    /// Runs everything due at `now`, in order. Tasks may schedule others.
    pub(crate) fn run_due(&self, now: Duration) {
        while let Some(task) = self.pop_due(now) {
            task.run(now);
        }
    }

    /// Runs everything there is, due or not: the end of the broker.
    pub(crate) fn drain(&self) -> Vec<Arc<dyn Task>> {
        std::mem::take(&mut self.state.lock().tasks).into_iter().map(|Reverse(entry)| entry.task).collect()
    }

    /// Waits until the next task is due and runs what is, until [`stop`](Timer::stop): a thread's whole life.
    pub(crate) fn run_until_stopped(&self, clock: &dyn Clock) {
        loop {
            let now = clock.monotonic();
            self.run_due(now);
            let mut state = self.state.lock();
            if state.stopped {
                return;
            }
            let now = clock.monotonic();
            match state.tasks.peek() {
                Some(Reverse(first)) if first.at <= now => {}
                Some(Reverse(first)) => {
                    let wait = first.at - now;
                    wait_timeout(clock, &self.changed, &mut state, wait);
                }
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Ends [`run_until_stopped`](Timer::run_until_stopped).
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    fn pop_due(&self, now: Duration) -> Option<Arc<dyn Task>> {
        let mut state = self.state.lock();
        match state.tasks.peek() {
            Some(Reverse(first)) if first.at <= now => state.tasks.pop().map(|Reverse(entry)| entry.task),
            _ => None,
        }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Note(u32, Arc<Mutex<Vec<u32>>>);

    impl Task for Note {
        fn run(self: Arc<Self>, _: Duration) {
            self.1.lock().push(self.0);
        }
    }

    #[test]
    fn tasks_run_in_the_order_they_are_due_and_not_before() {
        let (timer, ran) = (Timer::new(), Arc::new(Mutex::new(Rank::Test, Vec::new())));
        for (at, n) in [(30, 3), (10, 1), (20, 2), (10, 11)] {
            timer.schedule(Duration::from_millis(at), Arc::new(Note(n, ran.clone())));
        }
        timer.run_due(Duration::from_millis(9));
        assert!(ran.lock().is_empty());
        timer.run_due(Duration::from_millis(20));
        assert_eq!(*ran.lock(), [1, 11, 2]);
        assert_eq!(timer.drain().len(), 1);
    }
}
