//! Records that are awaited one by one: the rest of a batch is neither committed nor skipped, and a reader's position is
//! after the record that it has returned last.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quipu::{
    Broker, Consumer, OffsetReset, OwnedRecord, Position, Reader, Record, Records, Recv, RecvOne, Result,
    Start, StreamReader, Topic, TopicConfig,
};

/// A topic with batches of three records in each of its partitions.
fn filled(partitions: u32) -> (Broker, Topic) {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    for partition in topic.partitions() {
        for batch in 0..2 {
            let records = (0..3).map(|n| Record::new(format!("{}", batch * 3 + n)));
            partition.append_at((batch * 3).into(), records).unwrap();
        }
    }
    (broker, topic)
}

fn polled<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn now<F: Future<Output = Result<Option<OwnedRecord>>>>(future: F) -> Option<u64> {
    match polled(future) {
        Poll::Ready(record) => record.unwrap().map(|record| record.offset().get()),
        Poll::Pending => panic!("nothing came"),
    }
}

fn at(offset: u64) -> Position {
    format!("t/0@{offset}#0").parse().unwrap()
}

#[test]
fn a_reader_returns_each_record_once_and_its_position_follows() {
    let (broker, _) = filled(1);
    let mut reader = broker.reader("t", Start::Beginning).unwrap();
    for offset in 0..2 {
        assert_eq!(now(reader.recv_one()), Some(offset));
        assert_eq!(reader.position("t", 0).unwrap().offset, offset + 1);
    }
    // The rest of the batch, and the limit of the reader's own.
    assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 4);
    assert!(polled(reader.recv_one()).is_pending());
    reader.seek(&at(4)).unwrap();
    assert_eq!(now(reader.recv_one()), Some(4));
    reader.seek(&at(1)).unwrap();
    assert_eq!(now(reader.recv_one()), Some(1));
    reader.handle().wakeup();
    assert_eq!(now(reader.recv_one()), None);
    assert_eq!(now(reader.recv_one()), Some(2));
}

#[test]
fn a_commit_or_a_rewind_of_a_consumer_counts_what_it_has_returned() {
    let (broker, _) = filled(1);
    let mut member = broker.consumer("g").auto_commit(Duration::from_secs(3600)).subscribe("t").unwrap();
    assert_eq!(now(member.recv_one()), Some(0));
    let Poll::Ready(Ok(Some(second))) = polled(member.recv_one()) else { panic!("there is another one") };
    member.commit(&second).unwrap();
    assert_eq!(member.committed("t", 0).unwrap().unwrap().offset, 2);
    assert_eq!(now(member.recv_one()), Some(2));
    member.rewind();
    assert_eq!(now(member.recv_one()), Some(2));
    assert_eq!(now(member.recv_one()), Some(3));
    // It commits what it has returned, and not the rest of the second batch.
    member.close().unwrap();
    let mut next = broker.consumer("g").subscribe("t").unwrap();
    assert_eq!(next.committed("t", 0).unwrap().unwrap().offset, 4);
    assert_eq!(now(next.recv_one()), Some(4));
}

#[test]
fn a_record_that_was_returned_before_a_rebalance_cannot_be_committed_after_it() {
    let (broker, _) = filled(1);
    let mut first = broker.consumer("g").subscribe("t").unwrap();
    let Poll::Ready(Ok(Some(record))) = polled(first.recv_one()) else { panic!("there is one") };
    let handle = first.handle();
    drop(first);
    let mut second = broker.consumer("g").subscribe("t").unwrap();
    assert_eq!(now(second.recv_one()), Some(0));
    assert!(handle.commit(&record).is_err());
}

#[test]
fn partitions_have_their_turns() {
    let (broker, _) = filled(3);
    let mut reader = broker.reader("t", Start::Beginning).unwrap();
    let mut seen = Vec::new();
    for _ in 0..6 {
        let Poll::Ready(Ok(Some(record))) = polled(reader.recv_one()) else { panic!("there are more") };
        seen.push((record.partition().get(), record.offset().get()));
    }
    assert_eq!(seen, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]);
}

#[test]
fn a_range_that_is_skipped_is_no_record() {
    let (broker, topic) = filled(1);
    let mut reader = broker.reader("t", Start::Beginning).unwrap().offset_reset(OffsetReset::End);
    assert_eq!(now(reader.recv_one()), Some(0));
    topic.partition(0).unwrap().delete_records(5.into()).unwrap();
    assert!(polled(reader.recv_one()).is_pending(), "it continues at the end");
    broker.producer().send(&topic, Record::new("6")).unwrap().wait().unwrap();
    assert_eq!(now(reader.recv_one()), Some(6));
}

/// What an adapter for streams of some library does.
#[test]
fn records_can_be_polled_without_a_future() {
    let (broker, topic) = filled(1);
    let mut reader = broker.reader("t", Start::Beginning).unwrap().max_records(4);
    let mut member = broker.consumer("g").max_records(4).subscribe("t").unwrap();
    let cx = &mut Context::from_waker(Waker::noop());
    for expected in [4, 2] {
        let read = |polled: Poll<Result<Records>>| match polled {
            Poll::Ready(records) => records.unwrap().len(),
            Poll::Pending => 0,
        };
        assert_eq!((read(reader.poll_records(cx)), read(member.poll_records(cx))), (expected, expected));
    }
    assert!(reader.poll_records(cx).is_pending() && member.poll_records(cx).is_pending());
    broker.producer().send(&topic, Record::new("6")).unwrap().wait().unwrap();
    assert!(reader.poll_records(cx).is_ready() && member.poll_records(cx).is_ready());
}

/// The futures have names, and can be sent to another thread.
#[test]
fn the_futures_can_be_fields() {
    struct Waiting<'a> {
        _records: Recv<'a, Reader>,
        _record: RecvOne<'a, Consumer>,
        _events: Recv<'a, StreamReader>,
    }
    fn is_send_and_moves<T: Send + Unpin>() {}
    is_send_and_moves::<Waiting<'_>>();
    is_send_and_moves::<RecvOne<'_, Reader>>();
    let (broker, _) = filled(1);
    let mut reader = broker.reader("t", Start::Beginning).unwrap();
    let mut stored: Recv<'_, Reader> = reader.recv();
    let read = Pin::new(&mut stored).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(read, Poll::Ready(Ok(records)) if records.len() == 6));
}
