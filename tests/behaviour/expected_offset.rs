//! Appending on the condition that the partition ends at an expected offset (Kurrent's expected
//! version, NATS' expected last sequence). The condition is checked under the lock of the append,
//! and a conflict returns the actual end.

use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op};
use quipu::{Broker, BrokerConfig, Durability, Error, Offset, Record, Start, TopicConfig};

fn values(count: usize) -> Vec<Record<'static>> {
    (0..count).map(|n| Record::new(n.to_string())).collect()
}

#[test]
fn records_are_appended_together_where_the_caller_expects_the_end() {
    let broker = Broker::in_memory().unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    let first = partition.append_at(Offset::ZERO, values(3)).unwrap();
    assert_eq!(first.offset, 0);
    let second = partition.append_at(Offset::new(3), values(2)).unwrap();
    assert_eq!(second.offset, 3);
    let read = partition.read(Start::Beginning, 1 << 20).unwrap();
    let read: Vec<_> = read.iter().map(|r| String::from_utf8(r.value().unwrap().to_vec()).unwrap()).collect();
    assert_eq!(read, ["0", "1", "2", "0", "1"]);
}

#[test]
fn a_conflict_appends_nothing_and_returns_the_log_end() {
    let broker = Broker::in_memory().unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    partition.append_at(Offset::ZERO, values(3)).unwrap();
    for wrong in [0, 2, 4, u64::MAX] {
        match partition.append_at(Offset::new(wrong), values(1)) {
            Err(Error::OffsetConflict { end, .. }) => assert_eq!(end, 3),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(partition.bounds().unwrap().log_end, 3);
}

#[test]
fn the_conflicting_records_are_readable_when_the_conflict_is_returned() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().durability(Durability::Sync).on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    let partition = topic.partition(0).unwrap();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut won = 0;
                    while won < 50 {
                        let end = partition.bounds().unwrap().visible_end;
                        match partition.append_at(end, values(1)) {
                            Ok(_) => won += 1,
                            Err(Error::OffsetConflict { end, .. }) => {
                                assert!(partition.bounds().unwrap().visible_end >= end)
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
    });
    assert_eq!(partition.bounds().unwrap().visible_end, 200);
}

/// The medium fails while that which was in the way is being made visible: it will never be seen,
/// so it is no conflict.
#[test]
fn a_conflict_that_cannot_be_made_visible_returns_the_error_that_prevents_it() {
    let disk = Disk::new();
    let config = BrokerConfig::new().durability(Durability::Sync).clock(ManualClock::new());
    let broker = config.on_disk(&disk).unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    for in_transaction in [false, true] {
        let mut first = broker.transaction();
        first.send(&partition, Record::new("first"));
        let waiting = first.commit_async();
        disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
        let refused = if in_transaction {
            let mut second = broker.transaction();
            second.expect_end(&partition, Offset::ZERO).send(&partition, Record::new("second"));
            second.commit().map(|_| ())
        } else {
            partition.append_at(Offset::ZERO, values(1)).map(|_| ())
        };
        assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
        assert!(waiting.wait().is_err());
        partition.reopen().unwrap();
        assert_eq!(partition.bounds().unwrap().visible_end, 0);
    }
}

#[test]
fn records_that_could_not_be_sent_cannot_be_appended_either() {
    let broker = Broker::in_memory().unwrap();
    let config = TopicConfig::new().max_record_bytes(1000);
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    let large = [Record::new("small"), Record::new(vec![0u8; 1001])];
    let error = partition.append_at(Offset::ZERO, large).unwrap_err();
    assert!(matches!(error, Error::RecordTooLarge { limit: 1000, .. }), "{error}");
    let early = Record::new("v").timestamp(quipu::Timestamp::from_millis(-1));
    let error = partition.append_at(Offset::ZERO, [Record::new("v"), early]).unwrap_err();
    assert!(matches!(error, Error::InvalidTimestamp { index: 1, .. }), "{error}");
    let error = partition.append_at(Offset::ZERO, []).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { field: "records", .. }), "{error}");
    assert_eq!(partition.bounds().unwrap().log_end, 0);
    broker.delete_topic("t").unwrap();
    let error = partition.append_at(Offset::ZERO, values(1)).unwrap_err();
    assert!(matches!(error, Error::TopicDeleted { .. }), "{error}");
}

#[test]
fn conditional_appends_survive_a_power_loss() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().durability(Durability::Sync).on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    topic.partition(0).unwrap().append_at(Offset::ZERO, values(3)).unwrap();
    disk.crash(quipu::testing::Survive::Synced);
    drop((topic, broker));
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 3);
}
