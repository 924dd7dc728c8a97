//! A program for external checkers: it prints the library's promises to standard output until it is
//! killed.
//!
//!     torture write DIR SEED N            N records, one thread, each waited for (Sync)
//!     torture gwrite DIR SEED N THREADS   N records by several threads that share syncs
//!     torture maint DIR SEED N            N records into small segments, with all the maintenance there is: rolls,
//!                                         retention by size, deleted records, truncation of records that were never
//!                                         acknowledged, resets, topics that are created and deleted, and a group
//!                                         that commits its position, alone or with records in one transaction
//!     torture dump DIR                    opens, recovers, and prints everything that is readable
//!
//! Lines, unbuffered, printed after the library made the promise, unless stated otherwise:
//!     A topic partition offset hash       this record was acknowledged as durable
//!     T topic partition log_start         printed before: records below this offset may be deleted from now on
//!     C group topic partition offset      this offset was acknowledged as committed: a dump finds it or a later one
//!     E text                              an error was returned to the caller
//! and by `dump`:
//!     R topic partition offset hash       a readable record, in the order of offsets
//!     G group topic partition offset      a committed offset
//!     W text                              a warning or a report
//! The hash is FNV-1a (64 bits) over key and value, each with its length in front. Exit codes: 0
//! fine, 2 wrong arguments, 10 corruption reported, 11 already open, 12 an I/O error was returned.
//! In an existing directory each command continues.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quipu::{
    Broker, BrokerConfig, Compression, Durability, Error, Offset, Partition, Producer, Receipt, Record,
    Retention, Start, Topic, TopicConfig,
};

const TOPICS: [(&str, Compression); 2] = [("plain", Compression::None), ("packed", Compression::Lz4)];
const PARTITIONS: u32 = 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).and_then(|text| text.parse::<u64>().ok());
    let result =
        match (args.first().map(String::as_str), args.get(1), number(2), number(3), number(4), args.len()) {
            (Some("write"), Some(dir), Some(seed), Some(n), _, 4) => write(dir, seed, n, 1, SEGMENT_BYTES),
            (Some("gwrite"), Some(dir), Some(seed), Some(n), Some(threads @ 1..=256), 5) => {
                write(dir, seed, n, threads, SEGMENT_BYTES)
            }
            (Some("maint"), Some(dir), Some(seed), Some(n), _, 4) => maintain(dir, seed, n),
            (Some("dump"), Some(dir), _, _, _, 2) => dump(dir),
            _ => {
                eprintln!("usage: torture write|maint DIR SEED N | gwrite DIR SEED N THREADS | dump DIR");
                return ExitCode::from(2);
            }
        };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("E {error}"));
            ExitCode::from(match error {
                Error::Corrupt(_) => 10,
                Error::AlreadyOpen { .. } => 11,
                Error::Poisoned { ref cause, .. } if matches!(**cause, Error::Corrupt(_)) => 10,
                _ => 12,
            })
        }
    }
}

/// So small that a kill often hits a roll.
const SEGMENT_BYTES: u32 = 1 << 20;
const SMALL_SEGMENT_BYTES: u32 = 16 << 10;

/// The bytes of a partition that `maint` retains.
const STEP_BYTES: u64 = 3 * SMALL_SEGMENT_BYTES as u64;
const KEPT_BYTES: u64 = 6 * SMALL_SEGMENT_BYTES as u64;

/// Postpones the broker's own rounds of maintenance, so that nothing is deleted that was not
/// announced.
fn broker(dir: &str) -> Result<Broker, Error> {
    let unannounced = Duration::from_secs(24 * 3600);
    let broker =
        BrokerConfig::new().durability(Durability::Sync).checkpoint_interval(unannounced).open(dir)?;
    report(&broker);
    Ok(broker)
}

fn open(dir: &str, segment_bytes: u32, retention: Retention) -> Result<(Broker, Vec<Topic>), Error> {
    let broker = broker(dir)?;
    let topics = TOPICS.map(|(name, compression)| {
        let config = TopicConfig::new()
            .partitions(PARTITIONS)
            .compression(compression)
            .segment_bytes(segment_bytes)
            .retention(retention)
            .max_record_bytes(segment_bytes / 4);
        broker.ensure_topic(name, config)
    });
    let topics = topics.into_iter().collect::<Result<_, _>>()?;
    Ok((broker, topics))
}

fn write(dir: &str, seed: u64, n: u64, threads: u64, segment_bytes: u32) -> Result<(), Error> {
    let (broker, topics) = open(dir, segment_bytes, Retention::forever())?;
    let failed = AtomicBool::new(false);
    let share = |thread: u64| n / threads + u64::from(thread < n % threads);
    let work = |thread: u64| -> Result<(), Error> {
        let producer = broker.producer();
        let mut random = Random(seed ^ thread.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for i in 0..share(thread) {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            let (key, value) = (format!("{seed}-{thread}-{}", random.below(1000)), random.value(i));
            let topic = &topics[random.below(topics.len() as u64) as usize];
            let record = Record::new(value.as_slice()).key(key.as_str());
            acknowledged(&producer.send(topic, record)?.wait()?, key.as_bytes(), &value);
        }
        Ok(())
    };
    let results: Vec<Result<(), Error>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (work, failed) = (&work, &failed);
                scope.spawn(move || work(thread).inspect_err(|_| failed.store(true, Ordering::Relaxed)))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker panicked")).collect()
    });
    results.into_iter().collect::<Result<Vec<_>, _>>()?;
    broker.close()
}

fn maintain(dir: &str, seed: u64, n: u64) -> Result<(), Error> {
    let (broker, topics) = open(dir, SMALL_SEGMENT_BYTES, Retention::for_bytes(KEPT_BYTES))?;
    let producer = broker.producer();
    let mut random = Random(seed);
    for i in 0..n {
        // Appends keep the bound on the size by themselves.
        for partition in topics.iter().flat_map(Topic::partitions) {
            let before = kept_by_size(&partition)?;
            if before > partition.bounds()?.log_start {
                may_go(&partition, before);
            }
        }
        let (key, value) = (format!("{seed}-{}", random.below(50)), random.value(i));
        let topic = &topics[random.below(topics.len() as u64) as usize];
        let record = Record::new(value.as_slice()).key(key.as_str());
        acknowledged(&producer.send(topic, record)?.wait()?, key.as_bytes(), &value);
        match random.below(200) {
            0 => {
                broker.maintain()?;
            }
            1 => broker.sync()?,
            2 => {
                // A topic that is created and deleted: nothing of it is promised, and it must not
                // disturb the others.
                let passing = broker.ensure_topic("passing", TopicConfig::new())?;
                producer.send(&passing, Record::new("soon gone"))?.wait()?;
                broker.delete_topic("passing")?;
            }
            3 => {
                let topic = &topics[random.below(topics.len() as u64) as usize];
                let partition = topic.partition(random.below(u64::from(PARTITIONS)) as u32)?;
                let bounds = partition.bounds()?;
                let some = random.below(bounds.visible_end.since(bounds.log_start) / 4 + 2);
                let before = bounds.log_start.plus(some).min(bounds.visible_end);
                may_go(&partition, before);
                partition.delete_records(before)?;
            }
            4 => {
                // As a copy does whose next record was retained away: no record is kept, and no
                // offset is assigned twice.
                let topic = &topics[random.below(topics.len() as u64) as usize];
                let partition = topic.partition(random.below(u64::from(PARTITIONS)) as u32)?;
                let end = partition.bounds()?.log_end;
                may_go(&partition, end);
                partition.reset_to(end)?;
            }
            5..=8 => {
                let topic = &topics[random.below(topics.len() as u64) as usize];
                let partition = topic.partition(random.below(u64::from(PARTITIONS)) as u32)?;
                truncate(&producer, &partition, &mut random, i)?;
            }
            9..=30 => {
                let topic = &topics[random.below(topics.len() as u64) as usize];
                let partition = topic.partition(random.below(u64::from(PARTITIONS)) as u32)?;
                commit(&broker, &partition, &mut random, i)?;
            }
            _ => {}
        }
    }
    broker.close()
}

const GROUP: &str = "followers";

/// Commits that the group has come to the end of a partition: alone, or with a record in each other
/// one. Records that are truncated later were never announced as acknowledged, so no commit ever
/// has to go back.
fn commit(broker: &Broker, partition: &Partition, random: &mut Random, i: u64) -> Result<(), Error> {
    let consumer = broker.consumer(GROUP).assign(std::slice::from_ref(partition))?;
    let bounds = partition.bounds()?;
    let mut next = consumer.position(partition.topic().as_str(), partition.id()).expect("it is assigned");
    // A truncated record is not counted.
    (next.offset, next.epoch) = (bounds.visible_end, partition.epoch());
    let done = consumer.offsets_at([&next]);
    if random.below(2) == 0 {
        consumer.commit(done)?;
    } else {
        let values: Vec<_> = TOPICS.iter().map(|_| random.value(i)).collect();
        let mut transaction = broker.transaction();
        for ((topic, _), value) in TOPICS.iter().zip(&values) {
            transaction.send(*topic, Record::new(value.as_slice()).key("together"));
        }
        transaction.offsets(&consumer, done);
        for (receipt, value) in transaction.commit()?.iter().zip(&values) {
            acknowledged(receipt, b"together", value);
        }
    }
    say(&format!("C {GROUP} {} {} {}", partition.topic(), partition.id(), next.offset));
    Ok(())
}

/// Sends a batch and more after it, announces only the first few records as acknowledged, and
/// truncates the others: within that batch, before it or after it, maybe some segments back. No
/// acknowledged record may be lost, and no truncated record may come back in place of the one that
/// has its offset since.
fn truncate(producer: &Producer, partition: &Partition, random: &mut Random, i: u64) -> Result<(), Error> {
    let values: Vec<_> = (0..1 + random.below(8)).map(|_| random.value(i)).collect();
    let batch = values.iter().map(|value| Record::new(value.as_slice()));
    let receipts = producer.send_all(partition, batch)?.wait()?;
    for _ in 0..random.below(40) {
        producer.send(partition, Record::new(random.value(i)))?.detach();
    }
    producer.flush()?;
    let kept = random.below(values.len() as u64 + 1) as usize;
    let Some(first) = receipts.first() else { return Ok(()) };
    for (receipt, value) in receipts.iter().zip(&values).take(kept) {
        acknowledged(receipt, &[], value);
    }
    partition.truncate_to(first.offset.plus(kept as u64))
}

/// The log start after retention by size has removed as much as it may, after one more step:
/// Kafka's rule, computed from outside.
fn kept_by_size(partition: &Partition) -> Result<Offset, Error> {
    let segments = partition.segments();
    let mut left: u64 = segments.iter().map(|segment| segment.bytes).sum();
    // No step appends more to one partition.
    left += STEP_BYTES;
    let mut start = partition.bounds()?.log_start;
    for pair in segments.windows(2) {
        left -= pair[0].bytes;
        if left < KEPT_BYTES {
            break;
        }
        start = start.max(pair[1].base_offset);
    }
    Ok(start)
}

/// Announces that the log may start here from now on.
fn may_go(partition: &Partition, before: Offset) {
    say(&format!("T {} {} {before}", partition.topic(), partition.id()));
}

fn dump(dir: &str) -> Result<(), Error> {
    let broker = broker(dir)?;
    let mut damage = None;
    for topic in broker.topics() {
        for partition in topic.partitions() {
            let mut from = match partition.bounds() {
                Ok(bounds) => bounds.log_start,
                Err(error) => {
                    say(&format!("W {error}"));
                    damage.get_or_insert(error);
                    continue;
                }
            };
            loop {
                let records = match partition.read(Start::At(from), 1 << 20) {
                    Ok(records) => records,
                    Err(error) => {
                        say(&format!("W {error}"));
                        let resume = if let Error::Corrupt(c) = &error { c.resume } else { None };
                        damage.get_or_insert(error);
                        // Continue after the damage, while there are records.
                        match resume {
                            Some(resume) => from = resume,
                            None => break,
                        }
                        continue;
                    }
                };
                let mut next: Option<Offset> = None;
                for record in &records {
                    let hash = hash(record.key().unwrap_or_default(), record.value().unwrap_or_default());
                    say(&format!(
                        "R {} {} {} {hash:016x}",
                        record.topic(),
                        record.partition(),
                        record.offset()
                    ));
                    next = Some(record.offset().plus(1));
                }
                match next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
    }
    for group in broker.groups()? {
        for at in broker.group(group.as_str())?.describe()?.partitions {
            if let Some(committed) = at.committed {
                say(&format!("G {group} {} {} {}", at.topic, at.partition, committed.offset));
            }
        }
    }
    let damaged = broker.open_report().damaged.first().map(|(_, error)| error.clone());
    broker.close()?;
    match damage.or(damaged) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Prints the findings of the opening.
fn report(broker: &Broker) {
    let report = broker.open_report();
    for cut in &report.truncated_tails {
        let to = cut.to.map_or("?".to_string(), |to| to.to_string());
        say(&format!(
            "W cut {}/{} from offset {} to {to}, possibly acknowledged: {} bytes at {} of {}: {}",
            cut.topic,
            cut.partition,
            cut.from,
            cut.bytes,
            cut.position,
            cut.file.display(),
            cut.reason
        ));
    }
    for (of, error) in &report.damaged {
        say(&format!("W damaged {of}: {error}"));
    }
    for warning in &report.warnings {
        say(&format!("W {warning}"));
    }
}

fn acknowledged(receipt: &Receipt, key: &[u8], value: &[u8]) {
    say(&format!("A {} {} {} {:016x}", receipt.topic, receipt.partition, receipt.offset, hash(key, value)));
}

/// One line, in one write, so that the process which kills this one sees whole lines, and every
/// promise so far.
fn say(line: &str) {
    let line = format!("{line}\n");
    let mut out = std::io::stdout().lock();
    // The reader of the output is gone.
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// FNV-1a over both, each with its length in front, so that bytes cannot move from one to the other
/// unseen.
fn hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for part in [key, value] {
        for byte in (part.len() as u64).to_le_bytes().iter().chain(part) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

/// A small generator (splitmix64), so that a seed names a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Mostly short, sometimes of several kilobytes; half of it compressible.
    fn value(&mut self, i: u64) -> Vec<u8> {
        let len = if self.below(20) == 0 { self.below(3000) } else { self.below(200) } as usize;
        let mut value = format!("record {i} ").into_bytes();
        let repeat = self.below(2) == 0;
        let byte = self.next() as u8;
        value.extend((0..len).map(|_| if repeat { byte } else { self.next() as u8 }));
        value
    }
}
