//! Rows of Quipu alone: threads and transactions, beside the same without them.

use std::time::{Duration, Instant};

use quipu::{Partition, Pending, Record};

use super::append::digest;
use super::{Outcome, Task, Work};
use crate::contender::Contender;
use crate::contenders::quipu::Quipu;
use crate::digest::Digest;
use crate::process;
use crate::records::Records;

/// How many records between two looks at the time.
const ROUND: usize = 1024;

pub fn run(task: &Task, work: Work, seconds: f64, outcome: &mut Outcome) {
    let records = Records::of(task.kind);
    let values = records.values();
    let limit = Duration::from_secs_f64(seconds);
    let mut log = Quipu::open(&task.dir, &task.settings);
    let partitions = log.partitions();
    let one = |thread: usize| match work {
        Work::Send { .. } => send(&log, &partitions, &values, thread, limit),
        Work::Together { .. } => together(&log, &partitions, &values, limit),
        Work::Apart => apart(&log, &partitions, &values, limit),
    };
    let threads = match work {
        Work::Send { threads } | Work::Together { threads } => threads,
        Work::Apart => 1,
    };
    let (cpu, start) = (process::cpu_time(), Instant::now());
    let mut appended = Digest::whole();
    let counts: Vec<u64> = std::thread::scope(|scope| {
        let one = &one;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    log.flush();
    let (took, cpu) = (start.elapsed(), process::cpu_time() - cpu);
    counts.iter().for_each(|count| appended.add(&digest(&values, *count)));
    log.close();
    outcome.put("append", appended.count as f64 / took.as_secs_f64());
    outcome.put("append_cpu", cpu.as_secs_f64() * 1e9 / appended.count as f64);
    outcome.put("disk", process::bytes_on_disk(&task.dir) as f64 / appended.count as f64);
    if let Some(bytes) = process::peak_memory() {
        outcome.put("memory", bytes);
    }
    outcome.digest = Some(appended);
}

/// Returns how many records were sent: the first ones.
fn send(log: &Quipu, partitions: &[Partition], values: &[&[u8]], thread: usize, limit: Duration) -> u64 {
    let start = Instant::now();
    let mut to = partitions.iter().cycle().skip(thread * partitions.len() / 2);
    let mut sent = 0;
    for round in std::iter::repeat_with(|| values.chunks(ROUND)).flatten() {
        for (value, partition) in round.iter().zip(&mut to) {
            log.producer.send(partition, Record::new(*value)).unwrap().detach();
        }
        sent += round.len() as u64;
        if start.elapsed() >= limit {
            break;
        }
    }
    sent
}

fn together(log: &Quipu, partitions: &[Partition], values: &[&[u8]], limit: Duration) -> u64 {
    in_groups(partitions, values, limit, |group| {
        let mut transaction = log.broker.transaction();
        for (partition, value) in partitions.iter().zip(group) {
            transaction.send(partition, Record::new(*value));
        }
        transaction.commit().unwrap();
    })
}

fn apart(log: &Quipu, partitions: &[Partition], values: &[&[u8]], limit: Duration) -> u64 {
    in_groups(partitions, values, limit, |group| {
        let send = |(partition, value): (&Partition, &&[u8])| {
            log.producer.send(partition, Record::new(*value)).unwrap()
        };
        let sent: Vec<Pending> = partitions.iter().zip(group).map(send).collect();
        for pending in sent {
            pending.wait().unwrap();
        }
    })
}

fn in_groups(
    partitions: &[Partition],
    values: &[&[u8]],
    limit: Duration,
    mut append: impl FnMut(&[&[u8]]),
) -> u64 {
    let start = Instant::now();
    let mut done = 0;
    for group in std::iter::repeat_with(|| values.chunks(partitions.len())).flatten() {
        append(group);
        done += group.len() as u64;
        if start.elapsed() >= limit {
            break;
        }
    }
    done
}
