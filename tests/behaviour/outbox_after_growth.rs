//! Rows of an outbox that are sent again after their topic was given more partitions: a row is
//! found where its key belonged before, or refused, and never stored a second time.

use std::io::ErrorKind;

use quipu::testing::{Disk, Op, Survive, produced};
use quipu::{
    Broker, BrokerConfig, Cleanup, Durability, Error, Offset, Partitioner, Producer, ProducerConfig, Receipt,
    Record, Topic, TopicConfig, TopicName, partition_for_key,
};

fn config() -> TopicConfig {
    TopicConfig::new().durability(Durability::Sync)
}

fn named(broker: &Broker) -> Producer {
    broker.producer_with(ProducerConfig::new().name("outbox")).unwrap()
}

fn row(id: u64) -> Record<'static> {
    Record::new(format!("row {id}")).key(format!("k{}", id % 11)).sequence(id)
}

fn send(producer: &Producer, topic: &Topic, id: u64) -> quipu::Result<Receipt> {
    producer.send(topic, row(id)).and_then(|sent| sent.wait())
}

fn stored(topic: &Topic) -> u64 {
    topic.partitions().iter().map(|partition| partition.bounds().unwrap().log_end.get()).sum()
}

fn grow(broker: &Broker, partitions: u32) {
    broker.alter_topic("t", config().partitions(partitions)).unwrap();
}

#[test]
fn a_row_that_is_sent_again_has_its_first_receipt() {
    for restarts in [false, true] {
        let disk = Disk::new();
        let mut broker = BrokerConfig::new().on_disk(&disk).unwrap();
        let mut topic = broker.create_topic("t", config()).unwrap();
        let mut outbox = named(&broker);
        let mut receipts = Vec::new();
        // Rows 1 to 20 with one partition, to 40 with three, to 60 with eight.
        for (partitions, upto) in [(1, 20), (3, 40), (8, 60)] {
            grow(&broker, partitions);
            for id in receipts.len() as u64 + 1..=upto {
                receipts.push(send(&outbox, &topic, id).unwrap());
            }
            if restarts {
                broker = disk.crash_and_reopen(Survive::Synced, BrokerConfig::new()).unwrap();
                topic = broker.topic("t").unwrap();
                outbox = named(&broker);
            }
            // The last five of each partition are remembered. The others are found by reading,
            // unless it is the same partition today.
            for (id, first) in (1..).zip(&receipts) {
                match send(&outbox, &topic, id) {
                    Ok(again) => assert_eq!(&again, first, "row {id} of {partitions} partitions"),
                    Err(Error::DuplicateSequence { partition, .. }) => assert_eq!(partition, first.partition),
                    Err(other) => panic!("row {id} of {partitions} partitions: {other}"),
                }
            }
            assert_eq!(stored(&topic), upto);
        }
        let all = outbox.send_all(&topic, (58..=64).map(row)).unwrap().wait().unwrap();
        assert_eq!(all[..3], receipts[57..]);
        assert_eq!(stored(&topic), 64);
        outbox.flush().unwrap();
    }
}

/// A batch of one partition, with gaps between its sequences, some of whose rows belong elsewhere
/// now; and rows that were never written, between those that were.
#[test]
fn rows_of_batches_with_gaps_are_found_and_others_are_new() {
    for restarts in [false, true] {
        let disk = Disk::new();
        let mut broker = BrokerConfig::new().on_disk(&disk).unwrap();
        let mut topic = broker.create_topic("t", config().partitions(2)).unwrap();
        let mut outbox = named(&broker);
        // One of the two partitions fails.
        disk.fail(Op::Write, 2, ErrorKind::StorageFull);
        assert!(outbox.send_all(&topic, (1..=12).map(row)).is_err());
        disk.clear_faults();
        let before = stored(&topic);
        assert!((1..12).contains(&before), "{before}");
        let id_of = |value: &[u8]| std::str::from_utf8(&value[4..]).unwrap().parse::<u64>().unwrap();
        let rows = produced(&broker, "t").unwrap();
        let written: Vec<u64> = rows.iter().map(|row| id_of(row.value().unwrap())).collect();
        grow(&broker, 7);
        if restarts {
            broker = disk.crash_and_reopen(Survive::Everything, BrokerConfig::new()).unwrap();
            topic = broker.topic("t").unwrap();
            outbox = named(&broker);
        }
        let mut receipts = Vec::new();
        for id in 1..=12 {
            match send(&outbox, &topic, id) {
                Ok(receipt) => receipts.push(receipt),
                // The row belongs to a partition now that has later rows of this producer, and
                // sequences rise in each partition.
                Err(Error::DuplicateSequence { last, .. }) => assert!(!written.contains(&id) && last > id),
                Err(other) => panic!("row {id}: {other}"),
            }
        }
        assert!(receipts.len() as u64 > before, "some rows are new");
        assert_eq!(stored(&topic), receipts.len() as u64, "each row once");
        receipts.sort_by_key(|receipt| (receipt.partition, receipt.offset));
        let count = receipts.len();
        receipts.dedup_by_key(|receipt| (receipt.partition, receipt.offset));
        assert_eq!(receipts.len(), count);
    }
}

/// What cannot be decided is refused, with the reason, and not appended.
#[test]
fn a_row_without_a_key_or_with_a_partitioner_is_refused_and_not_stored_again() {
    struct ByLength;
    impl Partitioner for ByLength {
        fn partition(&self, _: &TopicName, _: Option<&[u8]>, value: Option<&[u8]>, n: u32) -> Option<u32> {
            Some(value.map_or(0, |value| value.len() as u32) % n)
        }
    }
    let plain = ProducerConfig::new().name("outbox");
    let cases = [(plain.clone(), false, "without a key"), (plain.partitioner(ByLength), true, "partitioner")];
    for (producer, has_key, reason) in cases {
        let broker = Broker::in_memory().unwrap();
        let topic = broker.create_topic("t", config()).unwrap();
        let outbox = broker.producer_with(producer).unwrap();
        let send = |id: u64| {
            let record = Record::new(format!("row {id}")).sequence(id);
            let record = if has_key { record.key("k") } else { record };
            outbox.send(&topic, record).and_then(|sent| sent.wait())
        };
        for id in 1..=9 {
            send(id).unwrap();
        }
        grow(&broker, 4);
        for id in 1..=9 {
            match send(id) {
                Err(Error::PossibleDuplicate { partition, sequence, reason: why, .. }) => {
                    assert_eq!((partition.get(), sequence), (0, id));
                    assert!(why.contains(reason), "{why}");
                }
                // Its partition is the same as before.
                Err(Error::DuplicateSequence { partition, .. }) => assert_eq!(partition.get(), 0),
                Ok(receipt) => assert_eq!((receipt.partition.get(), receipt.offset.get()), (0, id - 1)),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(stored(&topic), 9);
        // New rows are taken, and so is one whose partition the caller names.
        for id in 10..=20 {
            send(id).unwrap();
        }
        assert_eq!(stored(&topic), 20);
    }
}

/// A row that was never written, whose sequence lies between two of a batch that the log no longer
/// remembers: another row of that batch has its value, and another key.
#[test]
fn a_row_with_the_value_of_another_key_is_new() {
    for compacted in [false, true] {
        let disk = Disk::new();
        let broker = BrokerConfig::new().on_disk(&disk).unwrap();
        let cleanup = if compacted { Cleanup::Compact } else { Cleanup::Delete };
        let topic = broker.create_topic("t", config().cleanup(cleanup)).unwrap();
        let outbox = named(&broker);
        let row = |key: &str, id: u64| Record::new("paid").key(key.to_owned()).sequence(id);
        outbox.send_all(&topic, [row("a", 1), row("a", 3)]).unwrap().wait().unwrap();
        for id in 10..30 {
            send(&outbox, &topic, id).unwrap();
        }
        broker.close().unwrap();
        let broker = BrokerConfig::new().on_disk(&disk).unwrap();
        broker.alter_topic("t", config().cleanup(cleanup).partitions(5)).unwrap();
        let (topic, outbox) = (broker.topic("t").unwrap(), named(&broker));
        let moves = |key: &String| partition_for_key(key.as_bytes(), 5) == 4;
        let key = (0..).map(|n| format!("other {n}")).find(moves).unwrap();
        match outbox.send(&topic, row(&key, 2)).and_then(|sent| sent.wait()) {
            Ok(receipt) if !compacted => {
                assert_eq!((receipt.partition.get(), receipt.offset.get()), (4, 0));
                assert_eq!(stored(&topic), 23);
            }
            // A compaction may have removed it.
            Err(Error::PossibleDuplicate { partition, sequence, .. }) if compacted => {
                assert_eq!((partition.get(), sequence), (0, 2));
                assert_eq!(stored(&topic), 22);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_row_whose_place_is_deleted_is_refused() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", config()).unwrap();
    let outbox = named(&broker);
    for id in 1..=20 {
        send(&outbox, &topic, id).unwrap();
    }
    topic.partition(0).unwrap().delete_records(Offset::new(10)).unwrap();
    grow(&broker, 5);
    for id in 1..=20 {
        let moved = partition_for_key(format!("k{}", id % 11).as_bytes(), 5) != 0;
        match send(&outbox, &topic, id) {
            Ok(receipt) => assert_eq!((receipt.partition.get(), receipt.offset.get()), (0, id - 1)),
            Err(Error::PossibleDuplicate { sequence, .. }) => assert!(moved && sequence <= 10, "{sequence}"),
            Err(Error::DuplicateSequence { .. }) => assert!(!moved, "{id}"),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(stored(&topic), 20);
}

/// A sequence is one of its partition: another record may have the same one in another partition.
#[test]
fn another_record_with_the_same_sequence_is_no_duplicate() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", config()).unwrap();
    let outbox = named(&broker);
    let one = topic.partition(0).unwrap();
    outbox.send(&one, Record::new("a").key("of partition 0").sequence(5)).unwrap().wait().unwrap();
    grow(&broker, 4);
    let key = (0..).map(|n| format!("k{n}")).find(|key| partition_for_key(key.as_bytes(), 4) == 2).unwrap();
    let receipt = outbox.send(&topic, Record::new("b").key(key).sequence(5)).unwrap().wait().unwrap();
    assert_eq!((receipt.partition.get(), receipt.offset.get()), (2, 0));
    // Where the caller names the partition, nothing is searched for.
    let named = topic.partition(3).unwrap();
    let record = Record::new("a").key("of partition 0").sequence(5);
    assert_eq!(outbox.send(&named, record).unwrap().wait().unwrap().partition.get(), 3);
    assert_eq!(stored(&topic), 3);
}

/// A topic that was created with many partitions never had fewer.
#[test]
fn a_topic_that_was_not_altered_is_not_searched() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", config().partitions(8)).unwrap();
    let outbox = named(&broker);
    outbox.send(topic.partition(0).unwrap(), row(5)).unwrap().wait().unwrap();
    let keyless = outbox.send(&topic, Record::new("v").sequence(5)).unwrap().wait().unwrap();
    assert_eq!(keyless.partition.get(), 5);
}
