//! The meaning of an acknowledgement in each durability mode: when a record is visible, when it is
//! durable, and what a power loss leaves.

use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Partition, Pending, ProducerConfig, Record, Start, TopicConfig,
};

use crate::common::{assert_filled, assert_prefix, at, fill, make_files, open, read, send, value};

const SECOND: Duration = Duration::from_secs(1);
const EVERY: Durability = Durability::Interval(SECOND);
const TICK: Duration = Duration::from_millis(1);

fn broker(disk: &Disk, durability: Durability) -> (Broker, ManualClock, Partition) {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).on_disk(disk).unwrap();
    let topic = broker.ensure_topic("t", TopicConfig::new().durability(durability)).unwrap();
    (broker, clock, topic.partition(0).unwrap())
}

/// Visible end, durable end and log end.
fn ends(partition: &Partition) -> (u64, u64, u64) {
    let bounds = partition.bounds().unwrap();
    (bounds.visible_end.get(), bounds.durable_end.get(), bounds.log_end.get())
}

/// The number of records after each kind of end; they are always a prefix.
fn after(disk: &Disk, survive: Survive) -> u64 {
    let disk = disk.duplicate();
    disk.crash(survive);
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().damaged.is_empty());
    let (end, error) = assert_prefix(&broker.topic("t").unwrap().partition(0).unwrap(), "after the crash");
    assert!(error.is_none());
    end
}

/// Sends a record and does not wait: the batch is written by the time it would linger.
fn send_detached(broker: &Broker, partition: &Partition, offset: u64) {
    broker.producer().send(partition, Record::new(value(offset))).map(Pending::detach).unwrap();
}

// -- the promise of each mode --

#[test]
fn os_is_visible_at_once_durable_after_a_sync_and_survives_a_kill() {
    let disk = Disk::new();
    let (broker, clock, partition) = broker(&disk, Durability::Os);
    make_files(&disk, &broker, &partition);
    let syncs = disk.ops_of(Op::Sync);
    fill(&broker, &partition, 5);
    assert_eq!(ends(&partition), (5, 0, 5));
    clock.advance(SECOND * 3600);
    assert_eq!((ends(&partition), disk.ops_of(Op::Sync)), ((5, 0, 5), syncs), "nothing was synced");
    assert_eq!((after(&disk, Survive::Everything), after(&disk, Survive::Synced)), (5, 0));
    for seed in 0..50 {
        assert!(after(&disk, Survive::Random(seed)) <= 5, "a prefix");
    }
    broker.sync().unwrap();
    assert_eq!(ends(&partition), (5, 5, 5));
    fill(&broker, &partition, 8);
    assert_eq!(ends(&partition), (8, 5, 8));
    assert_eq!((after(&disk, Survive::Everything), after(&disk, Survive::Synced)), (8, 5));
}

#[test]
fn interval_is_visible_at_once_and_durable_within_the_interval() {
    let disk = Disk::new();
    let (broker, clock, partition) = broker(&disk, EVERY);
    fill(&broker, &partition, 3);
    assert_eq!(ends(&partition), (3, 0, 3));
    clock.advance(SECOND - TICK);
    fill(&broker, &partition, 5);
    assert_eq!((ends(&partition), after(&disk, Survive::Synced)), ((5, 0, 5), 0), "a moment too early");
    clock.advance(TICK);
    assert_eq!((ends(&partition), after(&disk, Survive::Synced)), ((5, 5, 5), 5));
    // The next interval begins with the next record, and an idle topic is left alone.
    let syncs = partition.stats().syncs;
    clock.advance(SECOND * 100);
    assert_eq!(partition.stats().syncs, syncs);
    fill(&broker, &partition, 6);
    clock.advance(SECOND - TICK);
    assert_eq!(after(&disk, Survive::Synced), 5, "all but the last interval");
    clock.advance(TICK);
    assert_eq!((ends(&partition), after(&disk, Survive::Synced)), ((6, 6, 6), 6));
}

#[test]
fn sync_is_durable_before_it_is_visible_and_acknowledged() {
    let disk = Disk::new();
    let (broker, _, partition) = broker(&disk, Durability::Sync);
    for end in 1..6 {
        fill(&broker, &partition, end);
        assert_eq!((ends(&partition), after(&disk, Survive::Synced)), ((end, end, end), end));
    }
}

/// Between the write and the end of the sync the record is in the log and not visible.
#[test]
fn a_record_is_not_visible_before_its_sync_is_done() {
    let disk = Disk::new();
    let (broker, _, partition) = broker(&disk, Durability::Sync);
    fill(&broker, &partition, 2);
    let gate = disk.hold(Op::Sync, 1);
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(&broker, &partition, &value(2)).unwrap());
        gate.wait_until_reached();
        assert_eq!(ends(&partition), (2, 2, 3));
        assert!(partition.read(at(2), 1 << 20).unwrap().is_empty());
        assert!(partition.read(at(3), 1 << 20).is_err(), "beyond the visible end");
        let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
        assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 2);
        assert!(reader.poll(Duration::ZERO).unwrap().is_empty());
        gate.release();
        assert_eq!(sender.join().unwrap().offset, 2);
        assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 1);
    });
    assert_eq!(ends(&partition), (3, 3, 3));
}

#[test]
fn the_brokers_default_holds_where_a_topic_has_none_of_its_own() {
    let disk = Disk::new();
    let broker =
        BrokerConfig::new().clock(ManualClock::new()).durability(Durability::Sync).on_disk(&disk).unwrap();
    let plain = broker.create_topic("plain", TopicConfig::new()).unwrap().partition(0).unwrap();
    let os = broker
        .create_topic("os", TopicConfig::new().durability(Durability::Os))
        .unwrap()
        .partition(0)
        .unwrap();
    fill(&broker, &plain, 3);
    fill(&broker, &os, 3);
    assert_eq!((ends(&plain), ends(&os)), ((3, 3, 3), (3, 0, 3)));
}

// -- sent and not waited for --

#[test]
fn detached_records_of_a_sync_topic_become_visible_when_the_clock_moves() {
    let disk = Disk::new();
    let (broker, clock, partition) = broker(&disk, Durability::Sync);
    let producer = broker.producer_with(ProducerConfig::new().linger(SECOND)).unwrap();
    for offset in 0..4 {
        producer.send(&partition, Record::new(value(offset))).unwrap().detach();
    }
    assert_eq!(ends(&partition), (0, 0, 0), "still in the producer's buffer");
    clock.advance(SECOND - TICK);
    assert_eq!(ends(&partition), (0, 0, 0));
    clock.advance(TICK);
    assert_eq!((ends(&partition), after(&disk, Survive::Synced)), ((4, 4, 4), 4));
    assert_eq!(partition.stats().batches_appended, 1);
}

#[test]
fn detached_records_of_a_sync_topic_become_visible_by_maintenance_polls_flushes_and_syncs() {
    type Deed = fn(&Broker, &ManualClock);
    let deeds: [(&str, Deed); 3] = [
        ("maintain", |broker, _| broker.maintain().unwrap()),
        ("advance", |_, clock| clock.advance(SECOND)),
        ("sync", |broker, _| broker.sync().unwrap()),
    ];
    for (name, deed) in deeds {
        let disk = Disk::new();
        let (broker, clock, partition) = broker(&disk, Durability::Sync);
        let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
        producer.send(&partition, Record::new(value(0))).unwrap().detach();
        assert_eq!(ends(&partition).2, 1, "{name}: written in the call that sent it");
        deed(&broker, &clock);
        assert_eq!((ends(&partition), after(&disk, Survive::Synced)), ((1, 1, 1), 1), "{name}");
    }

    let disk = Disk::new();
    let (broker, _, partition) = broker(&disk, Durability::Sync);
    let producer = broker.producer();
    producer.send(&partition, Record::new(value(0))).unwrap().detach();
    producer.flush().unwrap();
    assert_eq!((ends(&partition), after(&disk, Survive::Synced)), ((1, 1, 1), 1), "flush");
    producer.send(&partition, Record::new(value(1))).unwrap().detach();
    broker.close().unwrap();
    assert_eq!(after(&disk, Survive::Synced), 2, "close");
}

/// Without a manual clock no caller has to act: the broker's own threads do.
#[test]
fn detached_records_become_visible_by_themselves() {
    for durability in [Durability::Sync, Durability::Os, Durability::Interval(Duration::from_millis(5))] {
        let disk = Disk::new();
        let broker = BrokerConfig::new().on_disk(&disk).unwrap();
        let topic = broker.create_topic("t", TopicConfig::new().durability(durability)).unwrap();
        let partition = topic.partition(0).unwrap();
        let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
        for round in 0..3 {
            send_detached(&broker, &partition, round);
            // Returns as soon as there is something; the bound is for a broker that hangs.
            let records = reader.poll(Duration::from_secs(60)).unwrap();
            assert_eq!(
                records.iter().next().unwrap().value(),
                Some(value(round).as_bytes()),
                "{durability:?}"
            );
            if durability == Durability::Sync {
                assert!(after(&disk, Survive::Synced) > round, "durable before visible");
            }
        }
        while durability != Durability::Os && ends(&partition).1 < 3 {
            thread::yield_now();
        }
        drop(reader);
        broker.close().unwrap();
        assert_eq!(after(&disk, Survive::Synced), 3);
    }
}

// -- syncing by hand --

#[test]
fn sync_makes_everything_durable_in_every_mode() {
    let disk = Disk::new();
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&disk).unwrap();
    let modes = [("os", Durability::Os), ("interval", EVERY), ("sync", Durability::Sync)];
    let partitions: Vec<_> = modes
        .iter()
        .flat_map(|(name, durability)| {
            broker
                .create_topic(name, TopicConfig::new().partitions(2).durability(*durability))
                .unwrap()
                .partitions()
        })
        .collect();
    for partition in &partitions {
        fill(&broker, partition, 4);
    }
    broker.sync().unwrap();
    assert!(partitions.iter().all(|partition| ends(partition) == (4, 4, 4)));
    let syncs = disk.ops_of(Op::Sync);
    broker.sync().unwrap();
    assert_eq!(disk.ops_of(Op::Sync), syncs, "there is nothing more to sync");
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    for (name, _) in modes {
        for partition in broker.topic(name).unwrap().partitions() {
            assert_filled(&partition, 4, name);
        }
    }
}

#[test]
fn a_clean_close_makes_everything_durable() {
    for durability in [Durability::Os, EVERY, Durability::Sync] {
        let disk = Disk::new();
        let (broker, _, partition) = broker(&disk, durability);
        fill(&broker, &partition, 7);
        broker.close().unwrap();
        disk.crash(Survive::Synced);
        let broker = open(&disk).unwrap();
        assert!(broker.open_report().clean);
        let partition = broker.topic("t").unwrap().partition(0).unwrap();
        assert_eq!(ends(&partition), (7, 7, 7));
        assert_filled(&partition, 7, "closed");
    }
}

// -- from one mode to another --

#[test]
fn altering_the_mode_changes_only_later_promises() {
    let disk = Disk::new();
    let (broker, clock, partition) = broker(&disk, Durability::Os);
    let alter = |durability| broker.alter_topic("t", TopicConfig::new().durability(durability)).unwrap();
    fill(&broker, &partition, 2);

    // From Os to Sync: visible records stay visible, and the next acknowledgement covers all before
    // it.
    alter(Durability::Sync);
    assert_eq!(ends(&partition), (2, 0, 2));
    assert_filled(&partition, 2, "still visible");
    fill(&broker, &partition, 3);
    assert_eq!((ends(&partition), after(&disk, Survive::Synced)), ((3, 3, 3), 3));

    // From Sync to Os: records that wait for a sync become visible, because it is not required any
    // more.
    let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
    producer.send(&partition, Record::new(value(3))).unwrap().detach();
    assert_eq!(ends(&partition).2, 4);
    alter(Durability::Os);
    assert_eq!(ends(&partition).0, 4);
    fill(&broker, &partition, 5);

    // To Interval: within it all is durable, earlier records too.
    alter(EVERY);
    fill(&broker, &partition, 6);
    clock.advance(SECOND);
    assert_eq!((ends(&partition), after(&disk, Survive::Synced)), ((6, 6, 6), 6));
    alter(Durability::Sync);
    fill(&broker, &partition, 7);
    assert_eq!(after(&disk, Survive::Synced), 7);
}

/// An acknowledgement that is waited for while the mode is altered keeps the promise of one of the
/// two.
#[test]
fn a_waiting_caller_returns_when_the_mode_is_altered() {
    let disk = Disk::new();
    let (broker, _, partition) = broker(&disk, Durability::Sync);
    fill(&broker, &partition, 1);
    let gate = disk.hold(Op::Sync, 1);
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(&broker, &partition, &value(1)).unwrap());
        gate.wait_until_reached();
        // The catalog is synced as well, and passes: the gate holds one sync.
        broker.alter_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
        assert_eq!(ends(&partition).0, 2, "visible as Os asks");
        assert_eq!(send(&broker, &partition, &value(2)).unwrap().offset, 2);
        gate.release();
        assert_eq!(sender.join().unwrap().offset, 1);
    });
    assert_filled(&partition, 3, "all");
}

/// Whatever the mode and whatever is left of the unsynced rest: a prefix, and all that was
/// promised.
#[test]
fn a_power_loss_leaves_a_prefix_with_all_promised_records() {
    for durability in [Durability::Os, EVERY, Durability::Sync] {
        let disk = Disk::new();
        let clock = ManualClock::new();
        let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&disk).unwrap();
        let config = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(500).durability(durability);
        let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
        for end in 1..40 {
            fill(&broker, &partition, end);
            clock.advance(Duration::from_millis(150));
            if end % 13 == 0 {
                broker.maintain().unwrap();
            }
            let promised = ends(&partition).1;
            assert!(durability != Durability::Sync || promised == end);
            let ways =
                [Survive::Synced, Survive::Zeroed(end), Survive::Random(end), Survive::Random(end + 1000)];
            for survive in ways {
                let found = after(&disk, survive);
                assert!(
                    (promised..=end).contains(&found),
                    "{durability:?} at {end}, {survive:?}: {found}, {promised}"
                );
            }
            assert_eq!(after(&disk, Survive::Everything), end);
        }
        assert_eq!(read(&partition).0.len(), 39);
    }
}
