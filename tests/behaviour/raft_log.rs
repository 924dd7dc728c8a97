//! A log used by a replicated state machine: append, truncate a suffix without agreement, purge a
//! prefix, start at a later offset after a snapshot, reopen between any two of them. After every
//! step the log equals a vector.

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{Broker, BrokerConfig, Compression, Durability, Partition, Record, Start, TopicConfig};

use crate::common::{Random, at, small};

/// The expected log: the value of each offset from `start` on.
#[derive(Default)]
struct Model {
    start: u64,
    values: Vec<String>,
    epoch: u32,
    written: u64,
}

impl Model {
    fn end(&self) -> u64 {
        self.start + self.values.len() as u64
    }
}

fn config() -> TopicConfig {
    small().durability(Durability::Sync).compression(Compression::Lz4)
}

fn open(disk: &Disk, clock: &ManualClock) -> (Broker, Partition) {
    let broker = BrokerConfig::new().clock(clock.clone()).seed(3).max_open_files(8).on_disk(disk).unwrap();
    assert!(broker.open_report().damaged.is_empty(), "{:?}", broker.open_report().damaged);
    let partition = broker.ensure_topic("log", config()).unwrap().partition(0).unwrap();
    (broker, partition)
}

fn assert_is(partition: &Partition, model: &Model, step: u64) {
    let bounds = partition.bounds().unwrap();
    let found = [bounds.log_start, bounds.visible_end, bounds.durable_end, bounds.log_end].map(|o| o.get());
    assert_eq!(found, [model.start, model.end(), model.end(), model.end()], "step {step}");
    assert_eq!(partition.epoch(), model.epoch, "step {step}");
    let mut next = model.start;
    while next < model.end() {
        for record in &partition.read(at(next), 1 << 20).unwrap_or_else(|e| panic!("step {step}: {e}")) {
            assert_eq!(record.offset(), next, "step {step}");
            let value = &model.values[(next - model.start) as usize];
            assert_eq!(record.value().unwrap(), value.as_bytes(), "step {step}");
            next += 1;
        }
    }
}

fn append(broker: &Broker, partition: &Partition, model: &mut Model, random: &mut Random) {
    let producer = broker.producer();
    let sent: Vec<_> = (0..1 + random.below(6))
        .map(|_| {
            model.written += 1;
            let value = format!("entry {} {}", model.written, "x".repeat(random.below(80) as usize));
            model.values.push(value.clone());
            producer.send(partition, Record::new(value)).unwrap()
        })
        .collect();
    for (pending, offset) in sent.into_iter().rev().zip((0..model.end()).rev()) {
        assert_eq!(pending.wait().unwrap().offset, offset);
    }
}

fn run(seed: u64, steps: u64) {
    let (disk, clock, mut random) = (Disk::new(), ManualClock::new(), Random(seed));
    let mut model = Model::default();
    let (mut broker, mut partition) = open(&disk, &clock);
    for step in 0..steps {
        let within = model.start + random.below(model.values.len() as u64 + 1);
        match random.below(20) {
            0..=8 => append(&broker, &partition, &mut model, &mut random),
            // Mostly the newest few, sometimes any number.
            9..=12 => {
                let to = if random.below(4) > 0 { within.max(model.end().saturating_sub(4)) } else { within };
                partition.truncate_to(to.into()).unwrap();
                model.epoch += u32::from(to < model.end());
                model.values.truncate((to - model.start) as usize);
            }
            13..=15 => {
                let before =
                    if random.below(3) > 0 { model.start + (within - model.start) / 4 } else { within };
                assert_eq!(partition.delete_records(before.into()).unwrap(), before);
                model.values.drain(..(before - model.start) as usize);
                model.start = before;
            }
            16 if random.below(4) == 0 => {
                let offset = if random.below(4) > 0 { model.end() + random.below(50) } else { within / 2 };
                partition.reset_to(offset.into()).unwrap();
                model.values.clear();
                model.start = offset;
                model.epoch += 1;
            }
            16 => broker.maintain().unwrap(),
            17 => {
                broker.close().unwrap();
                (broker, partition) = open(&disk, &clock);
            }
            18 => {
                let survive =
                    [Survive::Synced, Survive::Everything, Survive::Random(step)][step as usize % 3];
                disk.crash(survive);
                // After a power loss nothing proves where a log that has files ended, unless
                // nothing was changed since a clean close.
                let has_files = !partition.segments().is_empty();
                let is_changed = disk.read("checkpoint").is_ok_and(|bytes| bytes[20] == 0);
                model.epoch += u32::from(survive != Survive::Everything && has_files && is_changed);
                (broker, partition) = open(&disk, &clock);
            }
            _ => {
                let newest = partition.last_n(3).unwrap();
                let model = model.values.iter().rev().take(3).rev();
                assert!(newest.iter().map(|r| r.value().unwrap()).eq(model.map(|value| value.as_bytes())));
            }
        }
        assert_is(&partition, &model, step);
        assert!(partition.read(Start::End, 1).unwrap().is_empty());
    }
    assert!(model.epoch > 100 || steps < 2_000, "{}", model.epoch);
}

#[test]
fn ten_thousand_steps_against_a_vector() {
    run(1, 10_000);
}

#[test]
fn a_few_hundred_steps_from_many_seeds() {
    for seed in 2..12 {
        run(seed, 300);
    }
}
