//! What a reader does when its position is not in the log, and that it says so.

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

// P2, P4, P5
#[test]
fn out_of_range_follows_the_policy_and_is_reported() {
    let (broker, _topic) = with_five_records();
    for (policy, to, records) in
        [(OffsetReset::default(), 0, 5), (OffsetReset::Latest, 5, 0), (OffsetReset::Nearest, 5, 0)]
    {
        let mut reader = broker.reader(&["t"], Start::At(Offset::new(9))).unwrap().offset_reset(policy);
        // At once, although there may be no record: something has happened.
        let polled = reader.poll(Duration::from_secs(3600)).unwrap();
        assert_eq!(polled.len(), records, "{policy:?}");
        let [skipped] = polled.skipped() else { panic!("{:?}", polled.skipped()) };
        assert_eq!((skipped.from.get(), skipped.to.get()), (9, to), "{policy:?}");
        assert_eq!(skipped.reason, SkipReason::OutOfRange);
        assert_eq!(reader.position("t", 0).unwrap().offset, 5);
        let next = reader.poll(NOW).unwrap();
        assert!(next.is_empty() && next.skipped().is_empty(), "said once");
    }
}

// P2
#[test]
fn with_fail_the_error_stays_and_the_position_too() {
    let (broker, topic) = with_five_records();
    let mut reader =
        broker.reader(&["t"], Start::At(Offset::new(9))).unwrap().offset_reset(OffsetReset::Fail);
    for _ in 0..3 {
        match reader.poll(Duration::from_secs(3600)) {
            Err(Error::OffsetOutOfRange { requested, earliest, latest, .. }) => {
                assert_eq!((requested.get(), earliest.get(), latest.get()), (9, 0, 5));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(reader.position("t", 0).unwrap().offset, 9);
    }
    // It is looked at anew each time: once the log has grown there, reading goes on.
    send(&broker, &topic, 5);
    assert_eq!(reader.poll(NOW).unwrap().last().unwrap().offset(), 9);
}

// P3
#[test]
fn a_seek_makes_an_earlier_error_void() {
    let (broker, _topic) = with_five_records();
    let mut reader =
        broker.reader(&["t"], Start::At(Offset::new(9))).unwrap().offset_reset(OffsetReset::Fail);
    assert!(reader.poll(NOW).is_err());
    let to = Position { offset: Offset::new(3), ..reader.position("t", 0).unwrap() };
    reader.seek(&to).unwrap();
    let records = reader.poll(NOW).unwrap();
    assert_eq!(records.len(), 2);
    assert!(records.skipped().is_empty());
}

// P1: there is no committed offset without a group; where to start is always said.
#[test]
fn a_reader_starts_where_it_is_told_whatever_the_policy() {
    let (broker, _topic) = with_five_records();
    for policy in [OffsetReset::Earliest, OffsetReset::Latest, OffsetReset::Nearest, OffsetReset::Fail] {
        for (start, records) in [(Start::Beginning, 5), (Start::End, 0), (Start::At(Offset::new(2)), 3)] {
            let polled = broker.reader(&["t"], start).unwrap().offset_reset(policy).poll(NOW).unwrap();
            assert_eq!((polled.len(), polled.skipped()), (records, &[][..]));
        }
    }
}

/// A log whose end was cut at offset 5 and that has grown past 9 since.
fn cut_and_grown() -> (Broker, Position) {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    send(&broker, &topic, 5);
    let before = Position {
        offset: Offset::new(8),
        ..broker.reader(&["t"], Start::End).unwrap().positions().remove(0)
    };
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    assert!(broker.producer().send(&topic, Record::new("lost")).and_then(|pending| pending.wait()).is_err());
    topic.partition(0).unwrap().reopen().unwrap();
    send(&broker, &topic, 5);
    assert_eq!(topic.partition(0).unwrap().epoch(), before.epoch + 1);
    (broker, before)
}

#[test]
fn a_position_that_was_cut_off_is_never_taken_for_another_record() {
    for (policy, to) in [(OffsetReset::Earliest, 0), (OffsetReset::Nearest, 5), (OffsetReset::Latest, 10)] {
        let (broker, before) = cut_and_grown();
        let mut reader = broker.reader_at(&[before]).unwrap().offset_reset(policy);
        let polled = reader.poll(NOW).unwrap();
        assert_eq!(polled.len() as u64, 10 - to, "{policy:?}");
        let [skipped] = polled.skipped() else { panic!("{:?}", polled.skipped()) };
        assert_eq!((skipped.from.get(), skipped.to.get()), (8, to));
        assert_eq!(skipped.reason, SkipReason::Truncated { at: Offset::new(5) });
        assert_eq!(reader.position("t", 0).unwrap().epoch, 1);
    }
    let (broker, before) = cut_and_grown();
    let mut reader = broker.reader_at(std::slice::from_ref(&before)).unwrap().offset_reset(OffsetReset::Fail);
    for _ in 0..2 {
        assert!(matches!(reader.poll(NOW), Err(Error::Truncated { to, .. }) if to == 5));
        assert_eq!(reader.positions(), std::slice::from_ref(&before));
    }
}

#[test]
fn a_position_up_to_the_cut_still_holds() {
    let (broker, before) = cut_and_grown();
    for offset in [0, 4, 5] {
        let at = Position { offset: Offset::new(offset), ..before.clone() };
        let polled = broker.reader_at(&[at]).unwrap().offset_reset(OffsetReset::Fail).poll(NOW).unwrap();
        assert_eq!(polled.iter().next().unwrap().offset(), offset);
        assert!(polled.skipped().is_empty());
    }
}
