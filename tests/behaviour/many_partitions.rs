//! Where many partitions are to be synced, several threads sync at once; the outcome of each
//! partition stays its own.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, Gate, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Clock, Durability, Error, Offset, Producer, ProducerConfig, Record, SystemClock,
    Timestamp, Topic, TopicConfig,
};

use crate::common::make_files;

const PARTITIONS: u32 = 32;

fn open(disk: &Disk, config: BrokerConfig, durability: Durability) -> (Broker, Topic) {
    let broker = config.on_disk(disk).unwrap();
    let config = TopicConfig::new().partitions(PARTITIONS).durability(durability);
    let topic = broker.ensure_topic("t", config).unwrap();
    // Their files are made: each later sync is that of records.
    send_to_all(&broker, &topic, "first").flush().unwrap();
    broker.sync().unwrap();
    (broker, topic)
}

/// The timer writes nothing of it, so the test decides when records are synced.
fn lingering(broker: &Broker) -> Producer {
    broker.producer_with(ProducerConfig::new().linger(Duration::from_secs(3600))).unwrap()
}

/// Writes a record to each partition, and waits for none.
fn send_to_all(broker: &Broker, topic: &Topic, value: &str) -> Producer {
    let producer = lingering(broker);
    for id in 0..PARTITIONS {
        producer.send(topic.partition(id).unwrap(), Record::new(value)).unwrap().detach();
    }
    producer
}

fn ends(topic: &Topic) -> Vec<(u64, u64)> {
    let ends = |id| topic.partition(id).unwrap().bounds().unwrap();
    (0..PARTITIONS).map(|id| (ends(id).visible_end.get(), ends(id).durable_end.get())).collect()
}

/// Calls `sync` in a thread of its own, and waits until three syncs are under way at the same time.
/// The calling thread and the worker, which may have been asked for a sync too, are two.
fn at_once(disk: &Disk, sync: impl FnOnce() + Send) {
    let gates = [1, 2, 3].map(|nth| disk.hold(Op::Sync, nth));
    thread::scope(|scope| {
        let syncing = scope.spawn(sync);
        gates.iter().for_each(Gate::wait_until_reached);
        gates.iter().for_each(Gate::release);
        syncing.join().unwrap();
    });
}

#[test]
fn a_flush_syncs_many_partitions_at_once() {
    let disk = Disk::new();
    let (broker, topic) = open(&disk, BrokerConfig::new(), Durability::Sync);
    let producer = send_to_all(&broker, &topic, "second");
    at_once(&disk, || producer.flush().unwrap());
    assert_eq!(ends(&topic), [(2, 2); PARTITIONS as usize]);
}

#[test]
fn records_sent_together_are_synced_at_once() {
    let disk = Disk::new();
    let (broker, topic) = open(&disk, BrokerConfig::new(), Durability::Sync);
    let records = (0..1000).map(|n| Record::new("v").key(format!("key {n}")));
    let producer = lingering(&broker);
    let sent = producer.send_all(&topic, records).unwrap();
    at_once(&disk, || assert_eq!(sent.wait().unwrap().len(), 1000));
    assert!(ends(&topic).iter().all(|(visible, durable)| *visible > 1 && visible == durable));
}

#[test]
fn a_sync_of_the_broker_and_a_close_sync_many_partitions_at_once() {
    for close in [false, true] {
        let disk = Disk::new();
        let (broker, topic) = open(&disk, BrokerConfig::new(), Durability::Os);
        send_to_all(&broker, &topic, "second").flush().unwrap();
        assert_eq!(ends(&topic), [(2, 1); PARTITIONS as usize]);
        at_once(&disk, || if close { broker.close().unwrap() } else { broker.sync().unwrap() });
        drop((broker, topic));
        let broker = disk.crash_and_reopen(Survive::Synced, BrokerConfig::new()).unwrap();
        let topic = broker.topic("t").unwrap();
        assert_eq!(ends(&topic), [(2, 2); PARTITIONS as usize]);
    }
}

/// The system's clock, moved forward by the test.
#[derive(Clone)]
struct ShiftedClock {
    system: SystemClock,
    by_seconds: Arc<AtomicU64>,
}

impl ShiftedClock {
    fn shift(&self) -> Duration {
        Duration::from_secs(self.by_seconds.load(Ordering::Relaxed))
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        self.system.now().plus(self.shift())
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic() + self.shift()
    }
}

/// The worker's part. It may take a few partitions before the others are due; it is held at the
/// first until all are.
#[test]
fn an_interval_that_ends_for_many_partitions_syncs_them_at_once() {
    let (disk, hour) = (Disk::new(), Duration::from_secs(3600));
    let clock = ShiftedClock { system: SystemClock::new(), by_seconds: Arc::default() };
    let config = BrokerConfig::new().clock(clock.clone());
    let (broker, topic) = open(&disk, config, Durability::Interval(hour));
    let marker = broker.create_topic("marker", TopicConfig::new()).unwrap().partition(0).unwrap();
    make_files(&disk, &broker, &marker);
    send_to_all(&broker, &topic, "second").flush().unwrap();
    // A task of the timer that comes after those of the partitions.
    let late = broker.producer_with(ProducerConfig::new().linger(2 * hour)).unwrap();
    late.send(&marker, Record::new("late")).unwrap().detach();
    let gates = [1, 8, 9].map(|nth| disk.hold(Op::Sync, nth));
    clock.by_seconds.store(3 * 3600, Ordering::Relaxed);
    // This wakes the timer, which looks at the clock.
    let soon = broker.producer_with(ProducerConfig::new().linger(Duration::from_millis(1))).unwrap();
    soon.send(&marker, Record::new("soon")).unwrap().detach();
    while marker.bounds().unwrap().log_end < Offset::new(2) {
        thread::yield_now();
    }
    let [first, eighth, ninth] = gates;
    first.release();
    eighth.wait_until_reached();
    ninth.wait_until_reached();
    eighth.release();
    ninth.release();
    while ends(&topic).iter().any(|(_, durable)| *durable < 2) {
        thread::yield_now();
    }
}

#[test]
fn a_partition_that_cannot_be_synced_fails_the_flush_and_no_other_partition() {
    let disk = Disk::new();
    let (broker, topic) = open(&disk, BrokerConfig::new(), Durability::Sync);
    let producer = send_to_all(&broker, &topic, "second");
    disk.fail(Op::Sync, 7, ErrorKind::Other);
    let error = producer.flush().unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let failed: Vec<_> = ends(&topic).into_iter().filter(|ends| *ends != (2, 2)).collect();
    assert_eq!(failed, [(1, 1)]);
    let again = send_to_all(&broker, &topic, "third").flush().unwrap_err();
    assert!(matches!(again, Error::Poisoned { .. }), "{again}");
    let whole = ends(&topic).into_iter().filter(|ends| *ends == (3, 3)).count();
    assert_eq!(whole, PARTITIONS as usize - 1);
}

#[test]
fn the_number_of_threads_has_bounds() {
    for threads in [0, 65] {
        let error = BrokerConfig::new().sync_threads(threads).in_memory().unwrap_err();
        assert!(error.to_string().contains("it must be from 1 to 64"), "{error}");
    }
}
