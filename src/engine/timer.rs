//! The timed tasks of a broker: a heap ordered by monotonic time. A thread, or a test that moves
//! the clock, runs them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::events::{AFTER_A_PANIC, Events, KeptCalls};
use crate::clock::{Clock, wait_timeout};
use crate::sync::{Arc, Condvar, Mutex, Rank};

/// A task to run at a given time. A task that is no longer needed returns at once.
pub(crate) trait Task: Send + Sync {
    /// Runs the task. `now` is monotonic.
    fn run(self: Arc<Self>, now: Duration);
}

/// The tasks of a broker, ordered by the time they are due.
///
/// The heap owns its tasks: a scheduled task runs even if no other reference to it is left.
pub(crate) struct Timer {
    tasks: Mutex<Tasks>,
    changed: Condvar,
}

/// The heap, and how it was used.
struct Tasks {
    heap: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    stopped: bool,
}

struct Scheduled {
    at: Duration,
    /// Breaks ties by the order of scheduling.
    number: u64,
    task: Arc<dyn Task>,
}

impl Timer {
    pub(crate) fn new() -> Self {
        Timer {
            tasks: Mutex::new(Rank::Timer, Tasks { heap: BinaryHeap::new(), scheduled: 0, stopped: false }),
            changed: Condvar::new(),
        }
    }

    /// Runs `task` at the monotonic time `at`, or as soon as possible after it.
    pub(crate) fn schedule(&self, at: Duration, task: Arc<dyn Task>) {
        let mut tasks = self.tasks.lock();
        let earliest = tasks.heap.peek().is_none_or(|Reverse(first)| at < first.at);
        let number = tasks.scheduled;
        tasks.scheduled += 1;
        tasks.heap.push(Reverse(Scheduled { at, number, task }));
        drop(tasks);
        if earliest {
            self.changed.notify_one();
        }
    }

    /// Runs all tasks due at `now`, in order. Tasks may schedule others.
    pub(crate) fn run_due(&self, now: Duration) {
        while let Some(task) = self.pop_due(now) {
            task.run(now);
        }
    }

    /// Removes and returns all tasks, due or not. Used when the broker closes.
    pub(crate) fn drain(&self) -> Vec<Arc<dyn Task>> {
        std::mem::take(&mut self.tasks.lock().heap)
            .into_iter()
            .map(|Reverse(scheduled)| scheduled.task)
            .collect()
    }

    /// Runs tasks when they are due, until [`stop`](Timer::stop): the body of the timer thread. A
    /// task that panics ends neither the thread nor the other tasks.
    pub(crate) fn run_until_stopped(&self, clock: &dyn Clock, events: &Arc<Events>) {
        while events.catch("a task of the timer, or the clock", || self.run_tasks(clock, events)).is_none() {
            let mut tasks = self.tasks.lock();
            if !tasks.stopped {
                // In real time, because the clock may be what panics.
                self.changed.wait_for(&mut tasks, AFTER_A_PANIC, &[]);
            }
        }
    }

    fn run_tasks(&self, clock: &dyn Clock, events: &Arc<Events>) {
        loop {
            events.deliver();
            let now = clock.monotonic();
            self.run_due(now);
            let mut tasks = self.tasks.lock();
            if tasks.stopped {
                return;
            }
            let now = clock.monotonic();
            match tasks.heap.peek() {
                Some(Reverse(first)) if first.at <= now => {}
                Some(Reverse(first)) => {
                    let wait = first.at - now;
                    wait_timeout(clock, &self.changed, &mut tasks, wait);
                }
                None => self.changed.wait(&mut tasks),
            }
        }
    }

    /// Lets this timer's thread make the calls that the calling thread has [kept](super::Later) so
    /// far, because that will hold its lock for long.
    pub(super) fn hand_over_calls(&self, clock: &dyn Clock) {
        if let Some(calls) = KeptCalls::take() {
            self.schedule(clock.monotonic(), Arc::new(calls));
        }
    }

    /// Ends [`run_until_stopped`](Timer::run_until_stopped).
    pub(crate) fn stop(&self) {
        self.tasks.lock().stopped = true;
        self.changed.notify_all();
    }

    fn pop_due(&self, now: Duration) -> Option<Arc<dyn Task>> {
        let mut tasks = self.tasks.lock();
        match tasks.heap.peek() {
            Some(Reverse(first)) if first.at <= now => {
                tasks.heap.pop().map(|Reverse(scheduled)| scheduled.task)
            }
            _ => None,
        }
    }
}

impl Task for KeptCalls {
    fn run(self: Arc<Self>, _: Duration) {
        // The heap had the only reference.
        if let Some(calls) = Arc::into_inner(self) {
            calls.make();
        }
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbered(u32, Arc<Mutex<Vec<u32>>>);

    impl Task for Numbered {
        fn run(self: Arc<Self>, _: Duration) {
            self.1.lock().push(self.0);
        }
    }

    #[test]
    fn tasks_run_in_the_order_they_are_due_and_not_before() {
        let (timer, ran) = (Timer::new(), Arc::new(Mutex::new(Rank::Test, Vec::new())));
        for (at, n) in [(30, 3), (10, 1), (20, 2), (10, 11)] {
            timer.schedule(Duration::from_millis(at), Arc::new(Numbered(n, ran.clone())));
        }
        timer.run_due(Duration::from_millis(9));
        assert!(ran.lock().is_empty());
        timer.run_due(Duration::from_millis(20));
        assert_eq!(*ran.lock(), [1, 11, 2]);
        assert_eq!(timer.drain().len(), 1);
    }
}
