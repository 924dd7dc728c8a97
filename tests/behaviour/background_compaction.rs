//! A compaction in the background does not delay other work, closing ends it, and one that fails
//! repeatedly is retried less and less often.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use quipu::testing::{Disk, ManualClock, Op};
use quipu::{
    Broker, BrokerConfig, Cleanup, Clock, Durability, Error, Offset, Partition, ReadMode, Record, Retention,
    Start, Timestamp, TopicConfig,
};

use crate::common::{files, small};

/// A time limit: a thread that has not arrived by then never arrives.
const NEVER: Duration = Duration::from_secs(60);

fn compacted(ratio: f64) -> TopicConfig {
    small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(ratio)
}

fn put(broker: &Broker, to: &Partition, key: &str, value: &str) -> u64 {
    broker.producer().send(to, Record::new(value).key(key)).unwrap().wait().unwrap().offset.get()
}

/// Several segments, all of them sealed but the last.
fn fill(broker: &Broker, to: &Partition) {
    for n in 0..40 {
        put(broker, to, &format!("{}", n % 7), &"x".repeat(60));
    }
    assert!(to.segments().len() > 3);
}

fn offsets(partition: &Partition) -> Vec<u64> {
    let (mut offsets, mut from) = (Vec::new(), Start::Beginning);
    loop {
        let some = partition.read(from, 1 << 20).unwrap();
        let Some(last) = some.last() else { return offsets };
        from = Start::At(last.offset().plus(1));
        offsets.extend(some.iter().map(|record| record.offset().get()));
    }
}

/// Waits until something has come to pass.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < NEVER, "never: {what}");
        thread::yield_now();
    }
}

/// Runs `f` in a thread of its own; its result comes over a channel, if it ever does.
fn start<'s, T: Send + 's>(scope: &'s Scope<'s, '_>, f: impl FnOnce() -> T + Send + 's) -> mpsc::Receiver<T> {
    let (done, answer) = mpsc::channel();
    scope.spawn(move || done.send(f()));
    answer
}

#[test]
fn maintenance_skips_a_log_that_another_thread_compacts() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
    let partition = broker.create_topic("t", compacted(1.0)).unwrap().partition(0).unwrap();
    fill(&broker, &partition);
    broker.maintain().unwrap();
    // From now on maintenance wants to compact it.
    broker.alter_topic("t", compacted(0.0)).unwrap();
    let gate = disk.hold(Op::SyncDir, 1);
    thread::scope(|scope| {
        let compacting = start(scope, || partition.compact());
        gate.wait_until_reached();
        let maintenance = start(scope, || broker.maintain());
        let ended = maintenance.recv_timeout(Duration::from_secs(10));
        drop(gate);
        ended.expect("it waits for the compaction").unwrap();
        compacting.recv().unwrap().unwrap();
    });
}

/// The broker's own threads, at their shortest interval.
fn in_real_time() -> BrokerConfig {
    BrokerConfig::new().seed(1).checkpoint_interval(Duration::from_millis(1))
}

#[test]
fn sync_intervals_are_kept_during_a_compaction() {
    let disk = Disk::new();
    let broker = in_real_time().on_disk(&disk).unwrap();
    let partition = broker.create_topic("t", compacted(1.0)).unwrap().partition(0).unwrap();
    let every = Duration::from_millis(1);
    let config = TopicConfig::new().durability(Durability::Interval(every));
    let other = broker.create_topic("other", config).unwrap().partition(0).unwrap();
    fill(&broker, &partition);
    until("all is sealed for good", || partition.stats().compaction.dirty_bytes > 2 << 10);
    thread::scope(|scope| {
        // Its output, held: no other thread makes segments.
        let compacting = {
            let gate = disk.hold(Op::Map, 1);
            let compacting = start(scope, || partition.compact());
            gate.wait_until_reached();
            // Now the worker wants to compact it too.
            broker.alter_topic("t", compacted(0.0)).unwrap();
            for n in 1..=100 {
                put(&broker, &other, "k", "v");
                until("it is synced", || other.bounds().unwrap().durable_end == n);
            }
            compacting
        };
        compacting.recv().unwrap().unwrap();
    });
}

#[test]
fn other_work_continues_during_a_background_compaction_and_closing_ends_it() {
    let disk = Disk::new();
    // One byte a second: it will never come to its end.
    let config = in_real_time().compaction_bytes_per_second(1);
    let broker = config.on_disk(&disk).unwrap();
    let partition = broker.create_topic("t", compacted(0.0)).unwrap().partition(0).unwrap();
    let short = small().segment_age(Duration::from_millis(1)).retention(Retention::for_bytes(0));
    let retained = broker.create_topic("retained", short).unwrap().partition(0).unwrap();
    let every = Duration::from_millis(1);
    let config = TopicConfig::new().durability(Durability::Interval(every));
    let synced = broker.create_topic("synced", config).unwrap().partition(0).unwrap();
    fill(&broker, &partition);
    until("it compacts", || partition.stats().compaction.running.is_some());
    for n in 1..=3 {
        put(&broker, &synced, "k", "v");
        until("it is synced", || synced.bounds().unwrap().durable_end == n);
        put(&broker, &retained, "k", "v");
        until("it is rolled and let go", || retained.bounds().unwrap().log_start == n);
    }
    let checkpoint = disk.read("checkpoint").unwrap();
    put(&broker, &synced, "k", "v");
    until("a checkpoint is written", || disk.read("checkpoint").unwrap() != checkpoint);
    assert!(partition.stats().compaction.running.is_some(), "and it still compacts");
    assert_eq!(offsets(&partition).len(), 40);
    let begun = Instant::now();
    broker.close().unwrap();
    assert!(begun.elapsed() < NEVER);
    assert_eq!(partition.stats().compaction.running, None);
    let report = BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
    assert!(report.open_report().clean);
}

/// After the return another broker may use the directory.
#[test]
fn closing_and_deleting_wait_for_a_requested_compaction() {
    for delete in [false, true] {
        for (op, nth) in [(Op::OpenFile, 1), (Op::SyncDir, 1)] {
            let case = format!("delete: {delete}, held at {op:?}");
            let (disk, clock) = (Disk::new(), ManualClock::new());
            let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
            let partition = broker.create_topic("t", compacted(1.0)).unwrap().partition(0).unwrap();
            fill(&broker, &partition);
            broker.maintain().unwrap();
            let gate = disk.hold(op, nth);
            let (released, returned) = (AtomicBool::new(false), AtomicBool::new(false));
            let mut left = 40;
            thread::scope(|scope| {
                let compacting = start(scope, || partition.compact());
                gate.wait_until_reached();
                let closing = start(scope, || {
                    let done = if delete { broker.delete_topic("t") } else { broker.close() };
                    returned.store(true, Ordering::SeqCst);
                    assert!(released.load(Ordering::SeqCst), "{case}: it did not wait");
                    (done, disk.ops())
                });
                // As long as it would take to return.
                for _ in 0..20_000 {
                    if returned.load(Ordering::SeqCst) {
                        break;
                    }
                    thread::yield_now();
                }
                released.store(true, Ordering::SeqCst);
                drop(gate);
                let (done, ops) = closing.recv().expect("it waited");
                done.unwrap_or_else(|e| panic!("{case}: {e}"));
                match compacting.recv().unwrap() {
                    Err(Error::Closed | Error::TopicDeleted { .. }) => {}
                    // It was faster.
                    Ok(Some(_)) => left = 7,
                    other => panic!("{case}: {other:?}"),
                }
                assert_eq!(disk.ops(), ops, "{case}: nothing is done after it");
            });
            if delete {
                assert_eq!(files(&disk, "topics/t", "").len() + files(&disk, "trash", "").len(), 0, "{case}");
                broker.close().unwrap();
            }
            drop((partition, broker));
            let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&disk).unwrap();
            assert!(broker.open_report().warnings.is_empty() && broker.open_report().clean, "{case}");
            if !delete {
                let partition = broker.topic("t").unwrap().partition(0).unwrap();
                assert_eq!(offsets(&partition).len(), left, "{case}");
                assert_eq!(files(&disk, "topics/t", ".log").len(), partition.segments().len(), "{case}");
            }
        }
    }
}

#[test]
fn a_compaction_that_fails_repeatedly_is_retried_less_often() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let config = BrokerConfig::new().clock(clock.clone()).seed(1).read_mode(ReadMode::Positional);
    let broker = config.on_disk(&disk).unwrap();
    let partition = broker.create_topic("t", compacted(1.0)).unwrap().partition(0).unwrap();
    fill(&broker, &partition);
    broker.maintain().unwrap();
    broker.alter_topic("t", compacted(0.0)).unwrap();
    // In the last of the bodies that it reads.
    let sealed = partition.segments().iter().filter(|segment| segment.sealed).count();
    let path = files(&disk, "topics/t", ".log").remove(sealed - 1);
    let last_bit = disk.read(&path).unwrap().len() as u64 * 8 - 1;
    disk.flip_bit(&path, last_bit).unwrap();
    let tried = || {
        let before = disk.ops_of(Op::Read);
        broker.maintain().unwrap();
        let tried = disk.ops_of(Op::Read) > before;
        assert!(matches!(partition.stats().compaction.failed, Some(Error::Corrupt(_))));
        tried
    };
    assert!(tried() && tried(), "at once, and at the next pass");
    let mut delay = Duration::from_secs(10);
    for _ in 0..9 {
        assert!(!tried());
        clock.advance(delay - Duration::from_millis(1));
        assert!(!tried(), "not before {delay:?}");
        clock.advance(Duration::from_millis(1));
        assert!(tried(), "after {delay:?}");
        delay = (delay * 2).min(Duration::from_secs(600));
    }
    // A requested compaction runs, and the delay starts over.
    assert!(partition.compact().is_err());
    assert!(tried() && !tried());
    disk.flip_bit(&path, last_bit).unwrap();
    partition.compact().unwrap().unwrap();
    assert!(partition.stats().compaction.failed.is_none());
    assert_eq!(partition.bounds().unwrap().log_end, Offset::new(40));
}

/// Only due work is done: a few tombstones are no reason to rewrite everything.
#[test]
fn due_tombstones_are_removed_from_their_segments() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
    let config =
        compacted(0.5).segment_age(Duration::from_secs(1)).delete_retention(Duration::from_secs(100));
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    let next = || {
        clock.advance(Duration::from_secs(2));
        broker.maintain().unwrap();
    };
    put(&broker, &partition, "gone", "v");
    broker.producer().send(&partition, Record::tombstone("gone")).unwrap().wait().unwrap();
    for n in 0..40 {
        put(&broker, &partition, &format!("{n}"), &"x".repeat(60));
    }
    next();
    assert_eq!(offsets(&partition).first(), Some(&1));
    let before = partition.stats().compaction;
    assert_eq!((before.compactions, before.dirty_bytes), (1, 0));
    // Too few bytes for a compaction.
    put(&broker, &partition, "0", "newer");
    next();
    let dirty = partition.stats().compaction.dirty_bytes;
    assert!(dirty > 0 && partition.stats().compaction.compactions == 1);
    clock.advance(Duration::from_secs(100));
    broker.maintain().unwrap();
    let after = partition.stats().compaction;
    assert_eq!(offsets(&partition).first(), Some(&2), "its time was over");
    assert_eq!((after.compactions, after.dirty_bytes), (2, dirty), "the rest was left unchanged");
    let read = after.bytes_read - before.bytes_read;
    assert!(read <= 1 << 10, "only the segment that has it: {read} of {}", before.compacted_bytes);
    assert!(offsets(&partition).contains(&2), "newer records were not searched");
    next();
    assert_eq!(partition.stats().compaction.compactions, 2, "once");
    // By hand all of it.
    partition.compact().unwrap().unwrap();
    assert!(!offsets(&partition).contains(&2));
    assert_eq!(partition.stats().compaction.dirty_bytes, 0);
}

/// A second takes a millisecond.
struct Fast(Instant);

impl Fast {
    fn since(&self) -> Duration {
        self.0.elapsed() * 1000
    }
}

impl Clock for Fast {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_600_000_000_000 + self.since().as_millis() as i64)
    }

    fn monotonic(&self) -> Duration {
        self.since()
    }
}

#[test]
fn a_compaction_takes_at_least_its_bytes_divided_by_the_rate() {
    const RATE: u64 = 500;
    let (disk, clock) = (Disk::new(), Arc::new(Fast(Instant::now())));
    let config = BrokerConfig::new().clock(clock.clone()).seed(1).compaction_bytes_per_second(RATE);
    let broker = config.on_disk(&disk).unwrap();
    // By hand: the worker has no part in it.
    let partition = broker.create_topic("t", compacted(1.0)).unwrap().partition(0).unwrap();
    fill(&broker, &partition);
    let begun = clock.monotonic();
    let done = thread::scope(|scope| {
        let compacting = start(scope, || partition.compact());
        until("it is reported while it runs", || partition.stats().compaction.running.is_some());
        compacting.recv().unwrap().unwrap().unwrap()
    });
    let taken = clock.monotonic() - begun;
    // Bytes that were never compacted are read twice; headers of segments are not counted.
    let bytes = 2 * (done.bytes_before - 96 * done.segments_before as u64);
    assert!(bytes > 5 * RATE && taken >= Duration::from_secs(bytes / RATE), "{bytes} bytes in {taken:?}");
    assert_eq!(partition.stats().compaction.running, None);
    assert_eq!(offsets(&partition).len(), 40 - done.records_before as usize + done.records_after as usize);
}
