//! Reads by one thread of a process that has written nothing: in order, and one record by its
//! number. Files are in the page cache.

use std::time::{Duration, Instant};

use super::{Outcome, Read, Task};
use crate::contender::Contender;
use crate::digest::Digest;
use crate::latencies::Latencies;
use crate::process;
use crate::records::{Random, Records};

const GETS: u64 = 200_000;

pub fn run<C: Contender>(task: &Task, read: &Read, outcome: &mut Outcome) {
    let Read { expected, in_order, gets, seconds, .. } = *read;
    let mut log = C::open(&task.dir, &task.settings);
    for (name, _) in [("scan", read.scan), ("again", read.again)].into_iter().filter(|(_, wanted)| *wanted) {
        scan(&mut log, &expected, name, outcome);
        log.rewind();
    }
    let mut found = Digest::whole();
    log.verify(&mut found);
    assert!(found.is_that_of(&expected, in_order), "appended {expected:?}, found {found:?}");
    if gets {
        log.prepare_gets();
        let records = Records::of(task.kind);
        let values = records.values();
        let mut random = Random(1);
        let numbers = (0..GETS).map(|_| random.below(expected.count));
        let (start, limit) = (Instant::now(), Duration::from_secs_f64(seconds));
        let mut latencies = get_all(&mut log, numbers.take_while(|_| start.elapsed() < limit), &values);
        outcome.put("get_p50", latencies.quantile(0.5));
        outcome.put("get_p99", latencies.quantile(0.99));
    }
    if let Some(bytes) = process::peak_memory() {
        outcome.put("read_memory", bytes);
    }
    log.close();
}

fn scan<C: Contender>(log: &mut C, expected: &Digest, name: &str, outcome: &mut Outcome) {
    let mut digest = Digest::quick();
    let (cpu, start) = (process::cpu_time(), Instant::now());
    log.scan(&mut digest);
    let (took, cpu) = (start.elapsed(), process::cpu_time() - cpu);
    assert_eq!((digest.count, digest.bytes), (expected.count, expected.bytes), "records and bytes of a scan");
    outcome.put(name, digest.count as f64 / took.as_secs_f64());
    outcome.put(&format!("{name}_cpu"), cpu.as_secs_f64() * 1e9 / digest.count as f64);
}

pub fn first_gets<C: Contender>(task: &Task, count: u64, outcome: &mut Outcome) {
    const FIRST: u64 = 1000;
    let records = Records::of(task.kind);
    let mut log = C::open(&task.dir, &task.settings);
    log.prepare_gets();
    // As far apart as possible, in an order that is none: 389 is a prime.
    let numbers = (0..FIRST).map(|at| (at * 389 % FIRST) * (count / FIRST));
    let mut latencies = get_all(&mut log, numbers, &records.values());
    outcome.put("first_p50", latencies.quantile(0.5));
    outcome.put("first_p99", latencies.quantile(0.99));
    log.close();
}

fn get_all<C: Contender>(log: &mut C, numbers: impl Iterator<Item = u64>, values: &[&[u8]]) -> Latencies {
    let mut latencies = Latencies::default();
    for number in numbers {
        let start = Instant::now();
        log.get(number, |value| {
            latencies.push(start.elapsed());
            assert!(value == values[number as usize % values.len()], "record {number} is another one");
        });
    }
    latencies
}
