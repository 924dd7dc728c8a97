//! The time from the call that sends a record until a receiver at the end of the log has it.

use std::time::{Duration, Instant};

use super::{Outcome, Task};
use crate::contender::Contender;
use crate::latencies::Latencies;

/// Records a second, each with the time of its sending.
const PACE: f64 = 10_000.0;
const BYTES: usize = 100;

pub fn run<C: Contender>(task: &Task, sleeping: bool, count: u64, outcome: &mut Outcome) {
    let mut log = C::open(&task.dir, &task.settings);
    let start = Instant::now();
    let (mut send, mut receive) = log.pair(sleeping);
    let mut latencies = std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let mut latencies = Latencies::default();
            while (latencies.len() as u64) < count {
                receive(&mut |value| {
                    let now = start.elapsed();
                    let sent = u64::from_le_bytes(*value.first_chunk().unwrap());
                    assert_eq!(value.len(), BYTES);
                    latencies.push(now - Duration::from_nanos(sent));
                });
            }
            latencies
        });
        let begin = start.elapsed();
        let mut value = [b'.'; BYTES];
        for number in 0..count {
            let due = begin + Duration::from_secs_f64(number as f64 / PACE);
            while start.elapsed() < due {
                std::hint::spin_loop();
            }
            value[..8].copy_from_slice(&(start.elapsed().as_nanos() as u64).to_le_bytes());
            send(&value);
        }
        receiver.join().unwrap()
    });
    drop(send);
    log.close();
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
        outcome.put(&format!("tail_{name}"), latencies.quantile(share));
    }
}
