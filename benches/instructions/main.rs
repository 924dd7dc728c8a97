//! How many instructions does a record cost? One workload, so many times, to be counted from outside.
//!
//! `.ci/instructions` runs this program under callgrind with two counts and divides the difference by the difference of
//! the counts, so that opening, filling, warming up and closing cancel. Therefore everything here is the same in each
//! run: one thread, a clock that stands still, a fixed seed, and the same records.
//!
//! ```text
//! instructions append 20000      one `append_at` of one record, to the operating system
//! instructions send 20000        `Producer::send`, written in batches of 64 KiB
//! instructions read 20000        `Reader::poll` from sealed and active segments, each record looked at
//! instructions through 20000     `Producer::send` and `wait`, each to the operating system before the next
//! instructions durable 20000     `Producer::send` and `wait`, with a sync each, in memory
//! instructions commit 20000      `Consumer::commit` of one partition
//! ```

use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use quipu::testing::ManualClock;
use quipu::{Broker, BrokerConfig, Durability, ProducerConfig, Record, Start, Topic, TopicConfig};

/// Operations before those that are counted: by then pools are filled and files exist.
const WARM_UP: u64 = 2_000;
/// Distinct records; longer runs use them again.
const RECORDS: u64 = 1_024;
const VALUE_BYTES: usize = 100;
/// Records in the log that `read` reads from. The counts must not be larger.
const READABLE: u64 = 200_000;
/// So small that the workloads roll a few times.
const SEGMENT_BYTES: u32 = 4 << 20;

type Workload = fn(u64) -> quipu::Result<()>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let asked = match args.as_slice() {
        [name, count] => workload(name).zip(count.parse().ok()),
        _ => None,
    };
    let Some((workload, count)) = asked else {
        eprintln!("usage: instructions append|send|read|through|durable|commit <count up to {READABLE}>");
        return ExitCode::FAILURE;
    };
    match workload(count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn workload(name: &str) -> Option<Workload> {
    match name {
        "append" => Some(append),
        "send" => Some(send),
        "read" => Some(read),
        "through" => Some(through),
        "durable" => Some(durable),
        "commit" => Some(commit),
        _ => None,
    }
}

fn append(count: u64) -> quipu::Result<()> {
    let records = records();
    on_files(|broker| {
        let partition = topic(broker, Durability::Os)?.partition(0)?;
        let mut end = partition.bounds()?.log_end;
        for (key, value) in records.iter().cycle().take(operations(count)) {
            let receipt = partition.append_at(end, [record(key, value)])?;
            end = receipt.offset.plus(1);
        }
        Ok(())
    })
}

fn send(count: u64) -> quipu::Result<()> {
    on_files(|broker| fill(broker, &topic(broker, Durability::Os)?, operations(count)))
}

fn read(count: u64) -> quipu::Result<()> {
    on_files(|broker| {
        fill(broker, &topic(broker, Durability::Os)?, operations(READABLE))?;
        let mut reader = broker.reader(&["t"], Start::Beginning)?;
        let mut missing = operations(count);
        while missing > 0 {
            let records = reader.poll(Duration::ZERO)?;
            for record in &records {
                black_box((record.offset(), record.timestamp(), record.key(), record.value()));
                missing = missing.saturating_sub(1);
            }
        }
        Ok(())
    })
}

fn through(count: u64) -> quipu::Result<()> {
    on_files(|broker| one_by_one(broker, Durability::Os, count))
}

/// In memory, where a sync has no device to wait for: so each is counted alike.
fn durable(count: u64) -> quipu::Result<()> {
    let broker = config().in_memory()?;
    one_by_one(&broker, Durability::Sync, count)?;
    broker.close()
}

fn one_by_one(broker: &Broker, durability: Durability, count: u64) -> quipu::Result<()> {
    let records = records();
    let topic = topic(broker, durability)?;
    let producer = broker.producer();
    for (key, value) in records.iter().cycle().take(operations(count)) {
        black_box(producer.send(&topic, record(key, value))?.wait()?);
    }
    Ok(())
}

fn commit(count: u64) -> quipu::Result<()> {
    on_files(|broker| {
        let topic = topic(broker, Durability::Os)?;
        fill(broker, &topic, 10)?;
        let mut consumer = broker.consumer("g").assign(&topic.partitions())?;
        let records = consumer.poll(Duration::ZERO)?;
        for _ in 0..operations(count) {
            consumer.commit(&records)?;
        }
        Ok(())
    })
}

fn fill(broker: &Broker, topic: &Topic, count: usize) -> quipu::Result<()> {
    let records = records();
    let producer = broker.producer_with(ProducerConfig::new().batch_bytes(64 << 10))?;
    for (key, value) in records.iter().cycle().take(count) {
        drop(producer.send(topic, record(key, value))?);
    }
    producer.flush()
}

/// Runs a workload on a directory of its own, which is removed afterwards.
fn on_files(work: impl FnOnce(&Broker) -> quipu::Result<()>) -> quipu::Result<()> {
    let dir = std::env::temp_dir().join(format!("quipu-instructions-{}", std::process::id()));
    let broker = config().open(&dir)?;
    let done = work(&broker).and_then(|()| broker.close());
    remove(&dir);
    done
}

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        eprintln!("{} stays: {error}", dir.display());
    }
}

fn config() -> BrokerConfig {
    BrokerConfig::new().clock(ManualClock::new()).seed(1)
}

fn topic(broker: &Broker, durability: Durability) -> quipu::Result<Topic> {
    broker.create_topic("t", TopicConfig::new().durability(durability).segment_bytes(SEGMENT_BYTES))
}

fn operations(count: u64) -> usize {
    (WARM_UP + count.min(READABLE)) as usize
}

fn record<'a>(key: &'a [u8], value: &'a [u8]) -> Record<'a> {
    Record::new(value).key(key)
}

/// Keys of 8 bytes and values of [`VALUE_BYTES`], from one linear congruential generator.
fn records() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let record = |_| ((0..8).map(|_| next()).collect(), (0..VALUE_BYTES).map(|_| next()).collect());
    (0..RECORDS).map(record).collect()
}
