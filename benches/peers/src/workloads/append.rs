//! Appends by one thread, without a sync.

use std::time::{Duration, Instant};

use super::{Call, Outcome, Task};
use crate::contender::Contender;
use crate::digest::Digest;
use crate::process;
use crate::records::Records;

/// How many records one by one between two looks at the time.
const ROUND: usize = 1000;

pub fn run<C: Contender>(task: &Task, call: Call, bytes: u64, seconds: f64, outcome: &mut Outcome) {
    let records = Records::of(task.kind);
    let values = records.values();
    let count = records.count_for(bytes);
    let mut log = C::open(&task.dir, &task.settings);
    let (cpu, start) = (process::cpu_time(), Instant::now());
    let done = match call {
        Call::Batch => {
            let batch = task.kind.batch().min(C::BATCH);
            rounds(&values, batch, count, seconds, |batch| log.append_batch(batch))
        }
        Call::One => rounds(&values, ROUND, count, seconds, |round| {
            for value in round {
                log.append_one(value);
            }
        }),
        Call::Through => rounds(&values, ROUND, count, seconds, |round| {
            for value in round {
                log.append_through(value);
            }
        }),
    };
    log.flush();
    let (took, cpu) = (start.elapsed(), process::cpu_time() - cpu);
    log.close();
    outcome.put("append", done as f64 / took.as_secs_f64());
    outcome.put("append_cpu", cpu.as_secs_f64() * 1e9 / done as f64);
    outcome.put("disk", process::bytes_on_disk(&task.dir) as f64 / done as f64);
    if let Some(bytes) = process::peak_memory() {
        outcome.put("memory", bytes);
    }
    outcome.digest = Some(digest(&values, done));
}

/// Passes on the values in groups, until there were so many or the time is over. Returns how many
/// there were.
fn rounds(values: &[&[u8]], group: usize, count: u64, seconds: f64, mut append: impl FnMut(&[&[u8]])) -> u64 {
    let (start, limit) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut done = 0;
    for group in std::iter::repeat_with(|| values.chunks(group)).flatten() {
        append(group);
        done += group.len() as u64;
        if done >= count || start.elapsed() >= limit {
            break;
        }
    }
    done
}

/// Of the first `count` values, repeated.
pub fn digest(values: &[&[u8]], count: u64) -> Digest {
    let mut digest = Digest::whole();
    for value in values.iter().cycle().take(count as usize) {
        digest.push(value);
    }
    digest
}
