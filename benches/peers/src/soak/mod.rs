//! A soak: appends at a fixed rate for minutes, while compaction and retention work, and with
//! a reader that is too slow in every second phase.
//!
//! One topic is compacted, the other keeps its newest bytes. A reader follows the second and must
//! see every record in order. At the end the log is opened again, and the newest record of every key
//! must be the last one that was written.

mod check;
mod report;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quipu::{
    Broker, BrokerConfig, Cleanup, OffsetReset, Partition, Producer, Record, Retention, Start, Topic,
    TopicConfig,
};

use self::check::{Keys, follow};
use crate::args::Args;
use crate::latencies::{Latencies, Pace};
use crate::process;
use crate::records::Random;
use crate::runs::Scratch;

/// Records a second, half to each topic.
const PACE: f64 = 10_000.0;
const VALUE_BYTES: usize = 1024;
const PHASES: u32 = 10;
/// The pause of the slow reader after each poll.
const PAUSE: Duration = Duration::from_millis(50);

struct Sizes {
    minutes: f64,
    keys: u64,
    retained: u64,
    segment: u32,
    /// How often the broker looks for periodic work.
    interval: Duration,
}

fn sizes(args: &Args) -> Sizes {
    let whole = Sizes {
        minutes: args.minutes.unwrap_or(10) as f64,
        keys: 50_000,
        retained: 512 << 20,
        segment: 32 << 20,
        interval: Duration::from_secs(5),
    };
    if !args.quick {
        return whole;
    }
    let minutes = args.minutes.map_or(20.0 / 60.0, |minutes| minutes as f64);
    Sizes { minutes, keys: 2_000, retained: 32 << 20, segment: 1 << 20, interval: Duration::from_millis(500) }
}

/// What one phase measured.
pub struct Phase {
    with_slow_reader: bool,
    /// Microseconds from the time at which an append was due.
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
    per_second: f64,
    /// The most at its end: blocks on the disk, and memory without the pages of files.
    disk: f64,
    memory: f64,
    compactions: u64,
    /// The first records of the log that retention has deleted.
    deleted: u64,
    /// How far the slow reader was from the end, in records.
    lag: u64,
}

/// Runs the soak and writes its report.
pub fn run(args: &Args) {
    let sizes = sizes(args);
    eprintln!("{:.1} min, {PHASES} phases", sizes.minutes);
    let scratch = Scratch::new(&args.dir);
    let dir = scratch.0.join("log");
    let broker = BrokerConfig::new().checkpoint_interval(sizes.interval).open(&dir).unwrap();
    let small = TopicConfig::new().segment_bytes(sizes.segment);
    let latest = broker.create_topic("latest", small.clone().cleanup(Cleanup::Compact)).unwrap();
    let events =
        broker.create_topic("events", small.retention(Retention::for_bytes(sizes.retained))).unwrap();
    let mut load = Load {
        producer: broker.producer(),
        latest,
        events,
        keys: Keys::new(sizes.keys),
        sent: 0,
        random: Random(1),
    };
    let (stop, followed) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut phases = Vec::new();
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| follow(&broker, &stop, &followed));
        for number in 0..PHASES {
            phases.push(load.phase(&broker, &dir, number % 2 == 1, 60.0 * sizes.minutes / f64::from(PHASES)));
            eprintln!("phase {} of {PHASES}: p99.9 {:.0} µs", number + 1, phases[number as usize].p999);
            report::save(args, &phases);
        }
        stop.store(true, Ordering::Release);
        follower.join().unwrap();
    });
    assert_eq!(followed.into_inner(), load.sent.div_ceil(2), "records that the follower saw");
    let Load { keys, .. } = load;
    broker.close().unwrap();
    drop(broker);
    keys.check(&dir);
    report::print(args, &phases);
}

/// The appends.
struct Load {
    producer: Producer,
    latest: Topic,
    events: Topic,
    keys: Keys,
    sent: u64,
    random: Random,
}

impl Load {
    /// Appends at the pace for so many seconds, each into the page cache before the next.
    fn phase(&mut self, broker: &Broker, dir: &Path, with_slow_reader: bool, seconds: f64) -> Phase {
        let (stop, lag) = (AtomicBool::new(false), AtomicU64::new(0));
        let events = self.events.partition(0).unwrap();
        let planned = Duration::from_secs_f64(seconds);
        let compactions = self.compactions();
        let mut latencies = Latencies::default();
        let start = Instant::now();
        std::thread::scope(|scope| {
            if with_slow_reader {
                scope.spawn(|| read_slowly(broker, &events, &stop, &lag));
            }
            let pace = Pace::new(PACE);
            for number in 0.. {
                let due = pace.due(number);
                if due >= planned {
                    break;
                }
                pace.wait(due);
                self.send();
                latencies.push(pace.elapsed() - due);
            }
            stop.store(true, Ordering::Release);
        });
        let count = latencies.len() as f64;
        Phase {
            with_slow_reader,
            p50: latencies.quantile(0.5),
            p99: latencies.quantile(0.99),
            p999: latencies.quantile(0.999),
            max: latencies.quantile(1.0),
            per_second: count / start.elapsed().as_secs_f64(),
            disk: process::bytes_on_disk(dir) as f64,
            memory: process::anonymous_memory().unwrap_or(f64::NAN),
            compactions: self.compactions() - compactions,
            deleted: events.bounds().unwrap().log_start.get(),
            lag: lag.into_inner(),
        }
    }

    /// One record: a new value for a key, or the next event.
    fn send(&mut self) {
        let mut value = [b'v'; VALUE_BYTES];
        let number = self.sent;
        value[..8].copy_from_slice(&number.to_le_bytes());
        let sent = if number % 2 == 0 {
            self.producer.send(&self.events, Record::new(&value[..]))
        } else {
            let key = self.random.below(self.keys.count());
            self.keys.wrote(key, number);
            self.producer.send(&self.latest, Record::new(&value[..]).key(&key.to_le_bytes()[..]))
        };
        sent.unwrap().wait().unwrap();
        self.sent += 1;
    }

    fn compactions(&self) -> u64 {
        self.latest.partition(0).unwrap().stats().compaction.compactions
    }
}

/// Reads from the first record on, and sleeps after each poll. Retention does not wait for it: it
/// loses what is deleted before it comes there, and continues at the first record that is left.
fn read_slowly(broker: &Broker, events: &Partition, stop: &AtomicBool, lag: &AtomicU64) {
    let reader = broker.reader(&["events"], Start::Beginning).unwrap();
    let mut reader = reader.offset_reset(OffsetReset::Beginning).max_bytes(64 << 10);
    while !stop.load(Ordering::Acquire) {
        let records = reader.poll(Duration::from_millis(100)).unwrap();
        std::thread::sleep(PAUSE);
        if let Some(record) = records.iter().last() {
            let end = events.bounds().unwrap().log_end.get();
            lag.store(end - record.offset().get(), Ordering::Relaxed);
        }
    }
}
