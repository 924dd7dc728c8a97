//! The records that a reader returns, their order, and its errors.

use std::time::Duration;

use quipu::testing::Disk;
use quipu::{Broker, BrokerConfig, Error, Offset, Position, Record, Records, Start, Topic, TopicConfig};

const NOW: Duration = Duration::ZERO;

fn broker(partitions: u32) -> (Broker, Topic) {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    (broker, topic)
}

/// Sends to one partition, a batch each.
fn send(broker: &Broker, topic: &Topic, partition: u32, values: std::ops::Range<u32>) {
    let producer = broker.producer();
    let partition = topic.partition(partition).unwrap();
    for value in values {
        producer.send(&partition, Record::new(value.to_string())).unwrap().wait().unwrap();
    }
}

fn offsets(records: &Records) -> Vec<u64> {
    records.iter().map(|record| record.offset().get()).collect()
}

fn values(records: &Records) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.value().unwrap().to_vec()).unwrap()).collect()
}

// Kafka's `UnifiedLogTest.testReadOutOfRange`.
#[test]
fn reading_at_the_visible_end_is_empty_and_beyond_it_is_out_of_range() {
    let (broker, topic) = broker(1);
    let partition = topic.partition(0).unwrap();
    let read = |offset| partition.read(Start::At(Offset::new(offset)), 1 << 20);
    assert!(read(0).unwrap().is_empty());
    assert!(matches!(read(1), Err(Error::OffsetOutOfRange { .. })));
    send(&broker, &topic, 0, 0..3);
    assert_eq!(offsets(&read(2).unwrap()), [2]);
    assert!(read(3).unwrap().is_empty());
    match read(4) {
        Err(Error::OffsetOutOfRange { requested, earliest, latest, .. }) => {
            assert_eq!((requested.get(), earliest.get(), latest.get()), (4, 0, 3));
        }
        other => panic!("{other:?}"),
    }
    assert!(partition.read(Start::End, 1 << 20).unwrap().is_empty());
}

// Kafka's `UnifiedLogTest.testReadWithTooSmallMaxLength` (KIP-74).
#[test]
fn a_read_with_too_small_a_limit_returns_one_batch() {
    let (broker, topic) = broker(1);
    send(&broker, &topic, 0, 0..3);
    for limit in [1, 2] {
        assert_eq!(topic.partition(0).unwrap().read(Start::Beginning, limit).unwrap().len(), 1);
        let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_bytes(limit);
        assert_eq!(offsets(&reader.poll(NOW).unwrap()), [0]);
        assert_eq!(offsets(&reader.poll(NOW).unwrap()), [1]);
    }
}

// Kafka's `CompletedFetch.nextFetchedRecord`.
#[test]
fn batch_boundaries_do_not_show() {
    let (broker, topic) = broker(1);
    let producer = broker.producer();
    let pending: Vec<_> =
        (0..100).map(|n: u32| producer.send(&topic, Record::new(n.to_string())).unwrap()).collect();
    producer.flush().unwrap();
    pending.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
    for from in [0, 1, 50, 99] {
        let mut reader = broker.reader(["t"], Start::At(Offset::new(from))).unwrap().max_records(7);
        let mut next = from;
        while let Some(first) = Some(reader.poll(NOW).unwrap()).filter(|records| !records.is_empty()) {
            assert!(first.len() <= 7);
            for record in &first {
                assert_eq!(record.offset(), next);
                assert_eq!(record.value().unwrap(), next.to_string().as_bytes());
                next += 1;
            }
            assert_eq!(reader.position("t", 0).unwrap().offset, next);
        }
        assert_eq!(next, 100);
    }
}

#[test]
fn every_partition_gets_its_turn() {
    let (broker, topic) = broker(3);
    for partition in 0..3 {
        send(&broker, &topic, partition, 0..20);
    }
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(5);
    let served: Vec<_> =
        (0..6).map(|_| reader.poll(NOW).unwrap().last().unwrap().partition().get()).collect();
    assert_eq!(served, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_reader_returns_to_stored_positions() {
    let (broker, topic) = broker(2);
    send(&broker, &topic, 0, 0..4);
    send(&broker, &topic, 1, 0..4);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(5);
    let first = reader.poll(NOW).unwrap();
    assert_eq!(first.len(), 5);
    let stored: Vec<String> = reader.positions().iter().map(ToString::to_string).collect();
    drop(reader);
    let positions: Vec<Position> = stored.iter().map(|text| text.parse().unwrap()).collect();
    let rest: Vec<_> =
        broker.reader_at(&positions).unwrap().to_end().flat_map(|r| values(&r.unwrap())).collect();
    assert_eq!(rest, ["1", "2", "3"]);
}

#[test]
fn a_reader_of_given_positions_reads_no_other_partition() {
    let (broker, topic) = broker(2);
    send(&broker, &topic, 0, 0..2);
    send(&broker, &topic, 1, 0..2);
    let at: Position = "t/1@1#0".parse().unwrap();
    let mut reader = broker.reader_at(std::slice::from_ref(&at)).unwrap();
    assert_eq!(reader.poll(NOW).unwrap().last().unwrap().position(), at);
    assert!(reader.position("t", 0).is_none());
    let elsewhere = "t/0@0#0".parse().unwrap();
    assert!(matches!(reader.seek(&elsewhere), Err(Error::NotAssigned { .. })));
    assert!(matches!(broker.reader_at(&[at.clone(), at]), Err(Error::InvalidConfig { .. })));
    assert!(matches!(
        broker.reader_at(&["t/2@0#0".parse().unwrap()]),
        Err(Error::UnknownPartition { count: 2, .. })
    ));
    assert!(matches!(broker.reader_at(&["u/0@0#0".parse().unwrap()]), Err(Error::UnknownTopic { .. })));
    assert!(matches!(broker.reader(["u"], Start::End), Err(Error::UnknownTopic { .. })));
}

#[test]
fn to_end_stops_at_the_end_found_when_it_was_called() {
    let (broker, topic) = broker(2);
    send(&broker, &topic, 0, 0..3);
    send(&broker, &topic, 1, 0..3);
    let mut to_end = broker.reader(["t"], Start::Beginning).unwrap().max_records(2).to_end();
    let mut seen = to_end.next().unwrap().unwrap().len();
    send(&broker, &topic, 0, 3..9);
    broker.alter_topic("t", TopicConfig::new().partitions(3)).unwrap();
    send(&broker, &topic, 2, 0..3);
    for records in to_end {
        seen += records.unwrap().len();
    }
    assert_eq!(seen, 6);
}

// KIP-1327.
#[test]
fn partitions_that_are_added_are_read_from_their_beginning() {
    let (broker, topic) = broker(1);
    send(&broker, &topic, 0, 0..3);
    let mut reader = broker.reader(["t"], Start::End).unwrap();
    broker.alter_topic("t", TopicConfig::new().partitions(2)).unwrap();
    send(&broker, &topic, 1, 0..2);
    let records = reader.poll(NOW).unwrap();
    assert_eq!(values(&records), ["0", "1"]);
    assert_eq!(records.last().unwrap().partition().get(), 1);
    assert_eq!(reader.positions().len(), 2);
}

#[test]
fn records_outlive_the_topic_and_the_reader_returns_an_error() {
    let (broker, topic) = broker(1);
    send(&broker, &topic, 0, 0..2);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let records = reader.poll(NOW).unwrap();
    broker.delete_topic("t").unwrap();
    for _ in 0..2 {
        assert!(matches!(reader.poll(NOW), Err(Error::TopicDeleted { .. })));
    }
    assert_eq!(values(&records), ["0", "1"]);
    drop(reader);

    let again = broker.create_topic("t", TopicConfig::new()).unwrap();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    broker.close().unwrap();
    assert!(matches!(reader.poll(NOW), Err(Error::Closed)));
    assert!(matches!(again.partition(0), Err(Error::Closed)));
}

#[test]
fn good_records_come_before_the_error_which_stays_until_a_seek() {
    let disk = Disk::new();
    let open = || BrokerConfig::new().on_disk(&disk).unwrap();
    let first = open();
    let topic = first.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    send(&first, &topic, 0, 0..1);
    let segment = |(path, _): &(std::path::PathBuf, u64)| {
        let path = path.to_string_lossy().replace('\\', "/");
        path.contains("topics/t/0/") && path.ends_with(".log")
    };
    let length = |disk: &Disk| disk.files().into_iter().find(segment).unwrap();
    let (path, before) = length(&disk);
    send(&first, &topic, 0, 1..2);
    let (_, behind) = length(&disk);
    send(&first, &topic, 0, 2..4);
    send(&first, &topic, 1, 0..1);
    first.close().unwrap();
    // The last byte of the second batch: after a clean close nothing is read again at opening.
    assert!(behind > before);
    disk.flip_bit(path, (behind - 1) * 8).unwrap();

    let broker = open();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let good = reader.poll(NOW).unwrap();
    assert_eq!(good.by_partition().iter().map(Records::len).collect::<Vec<_>>(), [1, 1]);
    let mut resume = None;
    for _ in 0..3 {
        match reader.poll(Duration::from_secs(3600)) {
            Err(Error::Corrupt(corruption)) => {
                assert_eq!(corruption.offset, Some(Offset::new(1)));
                resume = corruption.resume;
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(reader.position("t", 0).unwrap().offset, 1);
    }
    let to = Position::new(topic.name().clone(), 0, resume.unwrap(), 0);
    reader.seek(&to).unwrap();
    assert_eq!(offsets(&reader.poll(NOW).unwrap()), [2, 3]);

    // Reading to the end returns the error once and then ends.
    let results: Vec<_> = broker.reader(["t"], Start::Beginning).unwrap().to_end().collect();
    assert!(matches!(results[..], [Ok(_), Err(Error::Corrupt(_))]), "{results:?}");
}
