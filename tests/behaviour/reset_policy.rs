//! A reader whose position is not in the log follows its policy and reports it.

use std::io::ErrorKind;
use std::time::Duration;

use quipu::testing::{Disk, Op};
use quipu::{
    Broker, BrokerConfig, Durability, Error, Offset, OffsetReset, Position, Record, SkipReason, Start, Topic,
    TopicConfig,
};

const NOW: Duration = Duration::ZERO;

fn send(broker: &Broker, topic: &Topic, count: usize) {
    let producer = broker.producer();
    for _ in 0..count {
        producer.send(topic, Record::new("v")).unwrap().wait().unwrap();
    }
}

fn with_five_records() -> (Broker, Topic) {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    send(&broker, &topic, 5);
    (broker, topic)
}

// Kafka's `auto.offset.reset`, which does not report the skipped offsets.
/// The position at another offset.
fn at(offset: u64, of: &Position) -> Position {
    Position::new(of.topic.clone(), of.partition, offset, of.epoch)
}

#[test]
fn out_of_range_follows_the_policy_and_is_reported() {
    let (broker, _topic) = with_five_records();
    for (policy, to, records) in
        [(OffsetReset::default(), 0, 5), (OffsetReset::End, 5, 0), (OffsetReset::Nearest, 5, 0)]
    {
        let mut reader = broker.reader(["t"], Start::At(Offset::new(9))).unwrap().offset_reset(policy);
        // At once, although there may be no record: something has happened.
        let polled = reader.poll(Duration::from_secs(3600)).unwrap();
        assert_eq!(polled.len(), records, "{policy:?}");
        let [skipped] = polled.skipped() else { panic!("{:?}", polled.skipped()) };
        assert_eq!((skipped.from.get(), skipped.to.get()), (9, to), "{policy:?}");
        assert_eq!(skipped.reason, SkipReason::OutOfRange);
        assert_eq!(reader.position("t", 0).unwrap().offset, 5);
        let next = reader.poll(NOW).unwrap();
        assert!(next.is_empty() && next.skipped().is_empty(), "reported once");
    }
}

/// Before the log start, the nearest record is the first one; after the end it is the end.
#[test]
fn before_the_log_start_each_policy_goes_to_its_end_of_the_log() {
    for (policy, to, records) in
        [(OffsetReset::Beginning, 3, 2), (OffsetReset::End, 5, 0), (OffsetReset::Nearest, 3, 2)]
    {
        let (broker, topic) = with_five_records();
        let mut reader = broker.reader(["t"], Start::At(Offset::new(1))).unwrap().offset_reset(policy);
        topic.partition(0).unwrap().delete_records(Offset::new(3)).unwrap();
        let polled = reader.poll(NOW).unwrap();
        assert_eq!(polled.len(), records, "{policy:?}");
        let [skipped] = polled.skipped() else { panic!("{:?}", polled.skipped()) };
        assert_eq!((skipped.from.get(), skipped.to.get()), (1, to), "{policy:?}");
    }
    let (broker, topic) = with_five_records();
    topic.partition(0).unwrap().delete_records(Offset::new(3)).unwrap();
    let mut strict = broker.reader(["t"], Start::At(Offset::new(2))).unwrap().offset_reset(OffsetReset::Fail);
    match strict.poll(NOW) {
        Err(Error::OffsetOutOfRange { requested, earliest, latest, .. }) => {
            assert_eq!((requested.get(), earliest.get(), latest.get()), (2, 3, 5));
        }
        other => panic!("{other:?}"),
    }
}

// Kafka's `FetchCollector.handleInitializeErrors`.
#[test]
fn with_fail_the_error_stays_and_the_position_too() {
    let (broker, topic) = with_five_records();
    let mut reader = broker.reader(["t"], Start::At(Offset::new(9))).unwrap().offset_reset(OffsetReset::Fail);
    for _ in 0..3 {
        match reader.poll(Duration::from_secs(3600)) {
            Err(Error::OffsetOutOfRange { requested, earliest, latest, .. }) => {
                assert_eq!((requested.get(), earliest.get(), latest.get()), (9, 0, 5));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(reader.position("t", 0).unwrap().offset, 9);
    }
    // Each poll checks again: once the log has grown to the position, reading continues.
    send(&broker, &topic, 5);
    assert_eq!(reader.poll(NOW).unwrap().last().unwrap().offset(), 9);
}

// Kafka's `FetchCollector.handleInitializeErrors`: the position of the error is not the reader's
// any more.
#[test]
fn a_seek_discards_an_earlier_error() {
    let (broker, _topic) = with_five_records();
    let mut reader = broker.reader(["t"], Start::At(Offset::new(9))).unwrap().offset_reset(OffsetReset::Fail);
    assert!(reader.poll(NOW).is_err());
    let to = at(3, &reader.position("t", 0).unwrap());
    reader.seek(&to).unwrap();
    let records = reader.poll(NOW).unwrap();
    assert_eq!(records.len(), 2);
    assert!(records.skipped().is_empty());
}

// There is no committed offset without a group, so the start is always given.
#[test]
fn a_reader_starts_at_its_start_position_under_every_policy() {
    let (broker, _topic) = with_five_records();
    for policy in [OffsetReset::Beginning, OffsetReset::End, OffsetReset::Nearest, OffsetReset::Fail] {
        for (start, records) in [(Start::Beginning, 5), (Start::End, 0), (Start::At(Offset::new(2)), 3)] {
            let polled = broker.reader(["t"], start).unwrap().offset_reset(policy).poll(NOW).unwrap();
            assert_eq!((polled.len(), polled.skipped()), (records, &[][..]));
        }
    }
}

/// A log that was truncated at offset 5 and has grown past 9 since.
fn truncated_and_grown() -> (Broker, Position) {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    send(&broker, &topic, 5);
    let before = at(8, &broker.reader(["t"], Start::End).unwrap().positions()[0]);
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    assert!(broker.producer().send(&topic, Record::new("lost")).and_then(|pending| pending.wait()).is_err());
    topic.partition(0).unwrap().reopen().unwrap();
    send(&broker, &topic, 5);
    assert_eq!(topic.partition(0).unwrap().epoch(), before.epoch + 1);
    (broker, before)
}

#[test]
fn a_truncated_position_never_reads_another_record() {
    for (policy, to) in [(OffsetReset::Beginning, 0), (OffsetReset::Nearest, 5), (OffsetReset::End, 10)] {
        let (broker, before) = truncated_and_grown();
        let mut reader = broker.reader_at(&[before]).unwrap().offset_reset(policy);
        let polled = reader.poll(NOW).unwrap();
        assert_eq!(polled.len() as u64, 10 - to, "{policy:?}");
        let [skipped] = polled.skipped() else { panic!("{:?}", polled.skipped()) };
        assert_eq!((skipped.from.get(), skipped.to.get()), (8, to));
        assert!(matches!(skipped.reason, SkipReason::Truncated { at, .. } if at == 5), "{skipped}");
        assert_eq!(reader.position("t", 0).unwrap().epoch, 1);
    }
    let (broker, before) = truncated_and_grown();
    let mut reader = broker.reader_at(std::slice::from_ref(&before)).unwrap().offset_reset(OffsetReset::Fail);
    for _ in 0..2 {
        assert!(matches!(reader.poll(NOW), Err(Error::Truncated { to, .. }) if to == 5));
        assert_eq!(reader.positions(), std::slice::from_ref(&before));
    }
}

#[test]
fn a_position_up_to_the_truncation_stays_valid() {
    let (broker, before) = truncated_and_grown();
    for offset in [0, 4, 5] {
        let polled = broker
            .reader_at(&[at(offset, &before)])
            .unwrap()
            .offset_reset(OffsetReset::Fail)
            .poll(NOW)
            .unwrap();
        assert_eq!(polled.iter().next().unwrap().offset(), offset);
        assert!(polled.skipped().is_empty());
    }
}

#[test]
fn a_position_at_the_log_start_is_in_the_log_also_in_the_middle_of_a_batch() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    let records = (0..10).map(|n| Record::new(format!("{n}")));
    broker.producer().send_all(topic.partition(0).unwrap(), records).unwrap().wait().unwrap();
    let reader = broker.reader(["t"], Start::Beginning).unwrap();
    let mut reader = reader.offset_reset(OffsetReset::Fail).max_records(5);
    assert_eq!(reader.poll(NOW).unwrap().len(), 5);
    topic.partition(0).unwrap().delete_records(Offset::new(5)).unwrap();
    let records = reader.poll(NOW).unwrap();
    assert_eq!(records.iter().next().unwrap().offset(), 5);
    assert!(records.skipped().is_empty());
}
