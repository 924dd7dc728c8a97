//! Durable appends of one record each, by threads that each wait for their own.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::append::digest;
use super::{Outcome, Task};
use crate::contender::Contender;
use crate::digest::Digest;
use crate::latencies::Latencies;
use crate::process;
use crate::records::Records;

pub fn run<C: Contender>(task: &Task, threads: usize, seconds: f64, outcome: &mut Outcome) {
    let records = Records::of(task.kind);
    let values = records.values();
    let limit = Duration::from_secs_f64(seconds);
    let log = C::open(&task.dir, &task.settings);
    let begin = Barrier::new(threads);
    let (mut all, mut appended) = (Latencies::default(), Digest::whole());
    let cpu = process::cpu_time();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let work = |thread: usize| {
            let mut append = log.durable_writer(thread);
            let mut latencies = Latencies::default();
            begin.wait();
            let start = Instant::now();
            for value in values.iter().cycle() {
                let before = Instant::now();
                append(value);
                latencies.push(before.elapsed());
                if start.elapsed() >= limit {
                    break;
                }
            }
            latencies
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        for thread in running {
            let latencies = thread.join().unwrap();
            appended.add(&digest(&values, latencies.len() as u64));
            all.extend(latencies);
        }
    });
    let took = start.elapsed();
    let cpu = process::cpu_time() - cpu;
    log.close();
    outcome.put("durable", all.len() as f64 / took.as_secs_f64());
    outcome.put("durable_cpu", cpu.as_secs_f64() * 1e9 / all.len() as f64);
    all.put("durable", outcome);
    outcome.digest = Some(appended);
}
