//! Loads of one stream among very many, and appends to it at an expected version.
//!
//! The limit of loading knows the position of each batch: positional reads of exactly those, and
//! their checksums. The limit of appending is the same append at an expected offset, which needs no
//! stream's version. The files are in the page cache.

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use quipu::{Broker, ExpectedVersion, Offset, Record, Topic, TopicConfig, Version};

use super::limit::unpack;
use super::random::{Places, measure};
use super::records::Random;
use super::scratch::{Scratch, files_below};
use super::suite::{Latencies, Metric, RATE_AND_LATENCY, Suite, way};

const EVENTS_EACH: u64 = 10;
const VALUE: [u8; 100] = [7; 100];

pub(crate) fn run(suite: &mut Suite<'_>) {
    let streams = suite.sizes().streams;
    let load = format!("streams/load {EVENTS_EACH} of {} events", streams * EVENTS_EACH);
    let absent = format!("streams/version of an absent key beside {streams}");
    let cold = format!("streams/append at a version, {streams} streams");
    let open = format!("streams/open and load one of {streams}");
    if [&load, &absent, &cold, &open].map(|name| suite.wants(name)).contains(&true) {
        let scratch = Scratch::new();
        let started = Instant::now();
        let broker = Broker::open(scratch.path()).unwrap();
        let topic = broker.create_topic("accounts", TopicConfig::streams()).unwrap();
        fill(&topic, streams, EVENTS_EACH);
        broker.maintain().unwrap();
        note(scratch.path(), &format!("{streams} streams of {EVENTS_EACH} events"), started);
        loads(suite, &load, &absent, &topic, scratch.path(), streams);
        appends(suite, &cold, &topic, streams);
        drop(topic);
        broker.close().unwrap();
        opens(suite, &open, scratch.path());
    }
    let name = "streams/append at a version, 1000 streams";
    if suite.wants(name) {
        let scratch = Scratch::new();
        let broker = Broker::open(scratch.path()).unwrap();
        let topic = broker.create_topic("accounts", TopicConfig::streams()).unwrap();
        fill(&topic, 1_000, EVENTS_EACH);
        appends(suite, name, &topic, 1_000);
    }
    let many = 10 * streams;
    let name = format!("streams/memory with {many}");
    if suite.wants(&name) {
        memory(suite, &name, many);
    }
}

fn key(stream: u64) -> String {
    format!("account-{stream:08}")
}

/// The n-th events of all streams, then the next: so that those of each stream are as far apart as
/// possible.
fn fill(topic: &Topic, streams: u64, events: u64) {
    for version in 0..events {
        for n in 0..streams {
            let stream = topic.stream(key(n)).unwrap();
            stream.append(Version::new(version), [Record::new(&VALUE[..])]).unwrap();
        }
    }
}

fn note(dir: &Path, what: &str, started: Instant) {
    let size =
        |suffix| files_below(dir, suffix).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    println!(
        "{what}: {} MB in {} segments, {} MB of key indexes, filled in {:.0} s, {} MB of memory",
        size(".log") / 1_000_000,
        files_below(dir, ".log").len(),
        size(".keys") / 1_000_000,
        started.elapsed().as_secs_f64(),
        anonymous() / 1_000_000,
    );
}

/// The anonymous memory of this process, in bytes.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn loads(suite: &mut Suite<'_>, load: &str, absent: &str, topic: &Topic, dir: &Path, streams: u64) {
    let reads = suite.sizes().random_reads / 5;
    let places = Places::below(dir);
    let ours = || {
        measure(streams as usize, reads, |n| {
            let history = topic.stream(key(n)).unwrap().load().unwrap();
            assert_eq!(history.version(), EVENTS_EACH);
            history.iter().for_each(|event| assert!(black_box(event.value()).is_some()));
        })
    };
    let limit = || {
        let (mut bytes, mut room) = (Vec::new(), Vec::new());
        measure(streams as usize, reads, |n| {
            for version in 0..EVENTS_EACH {
                let place = &places.batches[(version * streams + n) as usize];
                bytes.resize(place.len, 0);
                places.files[place.file].read_exact_at(&mut bytes, place.position).unwrap();
                black_box(unpack(&bytes, &mut room).len());
            }
        })
    };
    if suite.is_wanted(load) {
        suite.compare(load, RATE_AND_LATENCY, vec![way("load", ours)], vec![way("preads, crc", limit)]);
    }
    if suite.is_wanted(absent) {
        let ours = || {
            measure(streams as usize, reads, |n| {
                let stream = topic.stream(format!("stranger-{n}")).unwrap();
                assert_eq!(stream.version().unwrap(), 0);
            })
        };
        suite.compare(absent, RATE_AND_LATENCY, vec![way("version", ours)], vec![way("preads, crc", limit)]);
    }
}

fn appends(suite: &mut Suite<'_>, name: &str, topic: &Topic, streams: u64) {
    if !suite.is_wanted(name) {
        return;
    }
    let count = suite.sizes().random_reads;
    let partition = topic.partition(0).unwrap();
    let mut versions = vec![EVENTS_EACH; streams as usize];
    let mut random = Random(3);
    // To streams that are not loaded below, because it changes their versions.
    let others: Vec<_> = (0..1_000).map(|n| format!("other-{n}")).collect();
    suite.compare(
        name,
        RATE_AND_LATENCY,
        vec![way("append", || {
            let (mut latencies, started) = (Latencies::default(), Instant::now());
            for _ in 0..count {
                let n = random.below(streams);
                let stream = topic.stream(key(n)).unwrap();
                let version = &mut versions[n as usize];
                let before = Instant::now();
                let receipt = stream.append(Version::new(*version), [Record::new(&VALUE[..])]).unwrap();
                latencies.push(before.elapsed());
                *version = receipt.version.get();
            }
            latencies.rate_and_quantiles(started.elapsed())
        })],
        vec![way("append_at an offset", || {
            let (mut latencies, started) = (Latencies::default(), Instant::now());
            let mut end = partition.bounds().unwrap().log_end;
            for n in 0..count {
                let record = Record::new(&VALUE[..]).key(&others[n % others.len()]);
                let before = Instant::now();
                let receipt = partition.append_at(end, [record]).unwrap();
                latencies.push(before.elapsed());
                end = Offset::new(receipt.offset.get() + 1);
            }
            latencies.rate_and_quantiles(started.elapsed())
        })],
    );
}

/// The effect of the indexes: with them, and when all of them must be built.
fn opens(suite: &mut Suite<'_>, name: &str, dir: &Path) {
    if !suite.is_wanted(name) {
        return;
    }
    let opened = || {
        let started = Instant::now();
        let broker = Broker::open(dir).unwrap();
        let history = broker.topic("accounts").unwrap().stream(key(1)).unwrap().load().unwrap();
        assert!(history.version() >= Version::new(EVENTS_EACH));
        let took = started.elapsed();
        broker.close().unwrap();
        vec![took.as_secs_f64() * 1e3]
    };
    suite.compare(
        name,
        &[Metric::time("", "ms")],
        vec![way("open, load", opened)],
        vec![way("the same without key indexes", || {
            files_below(dir, ".keys").iter().for_each(|path| std::fs::remove_file(path).unwrap());
            opened()
        })],
    );
}

/// Many streams of one event each: the memory is that of the active segment, for any number of
/// them.
fn memory(suite: &mut Suite<'_>, name: &str, streams: u64) {
    let scratch = Scratch::new();
    let started = Instant::now();
    let before = anonymous();
    let broker = Broker::open(scratch.path()).unwrap();
    let topic = broker.create_topic("accounts", TopicConfig::streams()).unwrap();
    for n in 0..streams {
        topic.stream(key(n)).unwrap().append(ExpectedVersion::Empty, [Record::new(&VALUE[..])]).unwrap();
    }
    broker.maintain().unwrap();
    note(scratch.path(), &format!("{streams} streams of one event"), started);
    let mut random = Random(1);
    suite.compare(
        name,
        &[Metric::time("", "MB")],
        vec![way("after loads at random", || {
            for _ in 0..10_000 {
                assert_eq!(topic.stream(key(random.below(streams))).unwrap().load().unwrap().len(), 1);
            }
            vec![anonymous().saturating_sub(before) as f64 / 1e6]
        })],
        vec![way("16 bytes a key in memory", || vec![streams as f64 * 16.0 / 1e6])],
    );
}
