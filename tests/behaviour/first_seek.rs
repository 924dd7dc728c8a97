//! Seeks and pauses before a consumer has its partitions, seeks to offsets that are not in the log,
//! and handles of consumers that are gone.

use std::time::Duration;

use quipu::testing::ManualClock;
use quipu::{
    Broker, BrokerConfig, Consumer, Error, Offset, OffsetReset, Position, RejectReason, SkipReason, Start,
    Timestamp, TopicConfig,
};

use crate::common::send;

const NOW: Duration = Duration::ZERO;

fn broker(partitions: u32, records: usize) -> Broker {
    let broker = BrokerConfig::new().clock(ManualClock::new()).seed(1).in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    for partition in topic.partitions() {
        (0..records)
            .for_each(|n| drop(send(&broker, &partition, &format!("{}-{n}", partition.id())).unwrap()));
    }
    broker
}

fn polled(consumer: &mut Consumer) -> Vec<String> {
    let records = consumer.poll(NOW).unwrap();
    records.iter().map(|record| String::from_utf8(record.value().unwrap().to_vec()).unwrap()).collect()
}

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

#[test]
fn seeks_before_the_first_poll_are_applied_when_the_partitions_are_assigned() {
    let broker = broker(2, 3);
    let subscribe = |group: &str| broker.consumer(group).subscribe(["t"]).unwrap();
    let mut a = subscribe("one");
    a.seek(&at("t/0@1#0")).unwrap();
    a.seek(&at("t/0@2#0")).unwrap();
    assert_eq!(polled(&mut a), ["0-2", "1-0", "1-1", "1-2"], "the last one counts");
    assert!(matches!(a.seek(&at("t/2@0#0")), Err(Error::NotAssigned { .. })));

    let mut a = subscribe("all");
    a.seek(&at("t/0@1#0")).unwrap();
    a.seek_all(Start::At(Offset::new(2))).unwrap();
    a.seek(&at("t/1@1#0")).unwrap();
    assert_eq!(polled(&mut a), ["0-2", "1-1", "1-2"], "later seeks count more than earlier ones");

    let mut a = subscribe("end");
    a.seek_all(Start::End).unwrap();
    assert!(polled(&mut a).is_empty());
    send(&broker, &broker.topic("t").unwrap().partition(1).unwrap(), "new").unwrap();
    assert_eq!(polled(&mut a), ["new"]);

    let mut a = subscribe("time");
    a.seek_all(Start::Time(Timestamp::from_millis(1 << 50))).unwrap();
    assert!(polled(&mut a).is_empty());
}

#[test]
fn under_fail_a_seek_before_the_first_poll_is_enough() {
    let broker = broker(2, 3);
    let mut a = broker.consumer("g").offset_reset(OffsetReset::Fail).subscribe(["t"]).unwrap();
    a.seek(&at("t/0@2#0")).unwrap();
    match a.poll(NOW) {
        Err(Error::NoCommittedOffset { partitions, .. }) => {
            assert_eq!(partitions.iter().map(ToString::to_string).collect::<Vec<_>>(), ["t/1"]);
        }
        other => panic!("{other:?}"),
    }
    a.seek(&at("t/1@2#0")).unwrap();
    assert_eq!(polled(&mut a), ["0-2", "1-2"]);
}

#[test]
fn a_pause_before_the_first_poll_holds_until_the_partition_is_resumed() {
    let broker = broker(2, 1);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    a.pause("t", 0).unwrap();
    a.pause("t", 1).unwrap();
    a.resume("t", 1).unwrap();
    assert_eq!(a.paused().iter().map(ToString::to_string).collect::<Vec<_>>(), ["t/0"]);
    assert_eq!(polled(&mut a), ["1-0"]);
    assert_eq!(a.paused().iter().map(ToString::to_string).collect::<Vec<_>>(), ["t/0"]);
    a.resume("t", 0).unwrap();
    assert_eq!(polled(&mut a), ["0-0"]);
}

#[test]
fn a_seek_of_a_partition_that_the_consumer_cannot_get_is_refused() {
    let broker = broker(1, 1);
    broker.create_topic("other", TopicConfig::new()).unwrap();
    let mut a = broker.consumer("g").subscribe(["t*"]).unwrap();
    for to in ["other/0@0#0", "t/1@0#0", "tx/0@0#0"] {
        assert!(matches!(a.seek(&at(to)), Err(Error::NotAssigned { .. })), "{to}");
    }
    assert!(matches!(a.pause("other", 0), Err(Error::NotAssigned { .. })));
    let mut by_hand = broker.consumer("h").assign(&[]).unwrap();
    assert!(matches!(by_hand.seek(&at("t/0@0#0")), Err(Error::NotAssigned { .. })));
}

/// The first assignment comes in parts, if others give their partitions up one after the other. A
/// partition that comes with a later assignment continues at its commit.
#[test]
fn a_seek_waits_for_the_first_assignment_and_for_no_later_one() {
    let broker = broker(2, 3);
    let mut a = broker.consumer("g").subscribe(["t"]).unwrap();
    polled(&mut a);
    let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
    b.seek_all(Start::End).unwrap();
    assert!(polled(&mut b).is_empty());
    a.seek_all(Start::At(Offset::new(2))).unwrap();
    polled(&mut a);
    assert!(polled(&mut b).is_empty());
    assert_eq!(b.positions().iter().map(|p| p.offset.get()).collect::<Vec<_>>(), [3]);
    drop(a);
    assert_eq!(polled(&mut b).len(), 3, "the partition that came later is read from its start");
}

#[test]
fn any_offset_after_the_end_is_out_of_range() {
    let broker = broker(1, 3);
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    for offset in [4, 1 << 40, u64::MAX - 1, u64::MAX] {
        let start = Start::At(Offset::new(offset));
        let is_out = |error: &Error| matches!(error, Error::OffsetOutOfRange { requested, .. } if *requested == offset);
        let read = partition.read(start, 1 << 20);
        assert!(read.as_ref().is_err_and(is_out), "{offset}: {read:?}");
        let mut reader = broker.reader(["t"], start).unwrap().offset_reset(OffsetReset::Fail);
        let read = reader.poll(NOW);
        assert!(read.as_ref().is_err_and(is_out), "{offset}: {read:?}");
        let group = format!("g{offset}");
        let mut a = broker.consumer(&group).subscribe(["t"]).unwrap();
        a.seek_all(start).unwrap();
        let records = a.poll(NOW).unwrap();
        let [skipped] = records.skipped() else { panic!("{offset}: {:?}", records.skipped()) };
        assert_eq!(
            (skipped.from.get(), skipped.to.get(), skipped.reason),
            (offset, 0, SkipReason::OutOfRange)
        );
        assert_eq!(records.len(), 3);
        // A reader to the end still ends.
        let left: usize = broker
            .reader(["t"], Start::Beginning)
            .unwrap()
            .to_end()
            .map(|records| records.unwrap().len())
            .sum();
        assert_eq!(left, 3);
    }
}

#[test]
fn an_automatic_commit_never_stores_a_position_that_is_not_in_the_log() {
    let broker = broker(2, 3);
    for to in [4, u64::MAX] {
        let group = format!("g{to}");
        let mut a = broker.consumer(&group).auto_commit(NOW).subscribe(["t"]).unwrap();
        assert_eq!(a.poll(NOW).unwrap().len(), 6);
        a.seek(&at(&format!("t/0@{to}#0"))).unwrap();
        // The commit of this poll leaves it out, and commits the other partition.
        let records = a.poll(NOW).unwrap();
        assert_eq!((records.len(), records.skipped().len()), (3, 1));
        assert_eq!(a.committed("t", 1).unwrap().unwrap().offset, 3);
        assert_eq!(a.committed("t", 0).unwrap().unwrap().offset, 0, "where it has started");
        a.seek(&at(&format!("t/0@{to}#0"))).unwrap();
        a.close().unwrap();
        assert_eq!(broker.group(&group).unwrap().committed("t", 0).unwrap().unwrap().offset, 0);
    }
}

#[test]
fn a_handle_of_a_consumer_that_is_gone_commits_nothing() {
    let broker = broker(1, 3);
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    let next = at("t/0@1#0");
    let refused = |result: quipu::Result<()>| match result {
        Err(Error::CommitRejected { offenders, .. }) => {
            assert_eq!(offenders[0].reason, RejectReason::NotAMember);
        }
        other => panic!("{other:?}"),
    };
    for is_closed in [false, true] {
        let mut a = broker.consumer("g").assign(std::slice::from_ref(&partition)).unwrap();
        let (records, handle) = (a.poll(NOW).unwrap(), a.handle());
        let done = a.offsets_at([&next]);
        if is_closed {
            a.close().unwrap()
        } else {
            drop(a)
        }
        refused(handle.commit(&records));
        refused(handle.commit(done));
        // Nor what another member has polled, nor with a transaction.
        let mut b = broker.consumer("g").subscribe(["t"]).unwrap();
        let polled = b.poll(NOW).unwrap();
        refused(handle.commit(&polled));
        let mut transaction = broker.transaction();
        transaction.offsets_of(&handle, &polled);
        refused(transaction.commit().map(drop));
        assert_eq!(broker.group("g").unwrap().committed("t", 0).unwrap(), None);
    }
}
