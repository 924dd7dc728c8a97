//! Appends of one record each at a fixed rate of arrival, by one thread.

use std::time::Duration;

use super::append::digest;
use super::{Outcome, Task};
use crate::contender::Contender;
use crate::latencies::{Latencies, Pace};
use crate::records::Records;

/// A store that is too slow for the rate ends after so many times the planned time.
const PATIENCE: u32 = 3;

pub fn run<C: Contender>(task: &Task, per_second: f64, seconds: f64, outcome: &mut Outcome) {
    let records = Records::of(task.kind);
    let values = records.values();
    let mut log = C::open(&task.dir, &task.settings);
    let mut latencies = if task.settings.durable {
        let mut append = log.durable_writer(0);
        appends(&values, per_second, seconds, |value| append(value))
    } else {
        appends(&values, per_second, seconds, |value| log.append_through(value))
    };
    log.flush();
    log.close();
    outcome.digest = Some(digest(&values, latencies.len() as u64));
    latencies.put("paced", outcome);
}

fn appends(values: &[&[u8]], per_second: f64, seconds: f64, mut append: impl FnMut(&[u8])) -> Latencies {
    let planned = Duration::from_secs_f64(seconds);
    let mut latencies = Latencies::default();
    let pace = Pace::new(per_second);
    for (number, value) in (0..).zip(values.iter().cycle()) {
        let due = pace.due(number);
        if due >= planned || pace.elapsed() >= PATIENCE * planned {
            break;
        }
        pace.wait(due);
        append(value);
        latencies.push(pace.elapsed() - due);
    }
    latencies
}
