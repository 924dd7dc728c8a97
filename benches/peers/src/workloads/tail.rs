//! The time from the call that sends a record until a receiver at the end of the log has it.
//!
//! It counts from the time at which the record was due, so a send that takes long also counts for
//! the records that had to wait for it.

use std::time::Duration;

use super::{Outcome, Task};
use crate::contender::{Contender, Receive, Send};
use crate::latencies::{Latencies, Pace};

/// Records a second, each with the time at which it is due.
const PACE: f64 = 10_000.0;
pub const BYTES: usize = 100;

pub fn run<C: Contender>(task: &Task, sleeping: bool, count: u64, outcome: &mut Outcome) {
    let mut log = C::open(&task.dir, &task.settings);
    let mut latencies = measure(log.pair(sleeping), count);
    log.close();
    latencies.put("tail", outcome);
}

/// Sends so many records, and returns the latencies of their receiver.
pub fn measure((mut send, mut receive): (Send<'_>, Receive<'_>), count: u64) -> Latencies {
    let pace = Pace::new(PACE);
    let pace = &pace;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let mut latencies = Latencies::default();
            while (latencies.len() as u64) < count {
                receive(&mut |value| {
                    let now = pace.elapsed();
                    let due = u64::from_le_bytes(*value.first_chunk().unwrap());
                    assert_eq!(value.len(), BYTES);
                    latencies.push(now - Duration::from_nanos(due));
                });
            }
            latencies
        });
        let mut value = [b'.'; BYTES];
        for number in 0..count {
            let due = pace.due(number);
            pace.wait(due);
            value[..8].copy_from_slice(&(due.as_nanos() as u64).to_le_bytes());
            send(&value);
        }
        receiver.join().unwrap()
    })
}
