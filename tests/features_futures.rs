//! The feature `futures`: readers and consumers are streams, which end with a wake-up, and a producer
//! is a sink, which is ready when there is room.

#![cfg(feature = "futures")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_core::Stream;
use futures_sink::Sink;
use quipu::testing::{Disk, ManualClock, Op};
use quipu::{
    Broker, BrokerConfig, Durability, Error, ExpectedVersion, Offset, OffsetReset, ProducerConfig,
    ProducerSink, Record, Result, Start, TopicConfig, Version,
};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A task that is polled by hand.
struct Task {
    wakes: Arc<Count>,
    waker: Waker,
}

impl Task {
    fn new() -> Self {
        let wakes = Arc::new(Count::default());
        Task { waker: Waker::from(wakes.clone()), wakes }
    }

    fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }

    fn next<S: Stream + Unpin>(&self, stream: &mut S) -> Poll<Option<S::Item>> {
        Pin::new(stream).poll_next(&mut Context::from_waker(&self.waker))
    }

    fn ready<'r>(&self, sink: &mut (impl Sink<Record<'r>, Error = Error> + Unpin)) -> Poll<Result<()>> {
        Pin::new(sink).poll_ready(&mut Context::from_waker(&self.waker))
    }

    fn flush<'r>(&self, sink: &mut (impl Sink<Record<'r>, Error = Error> + Unpin)) -> Poll<Result<()>> {
        Pin::new(sink).poll_flush(&mut Context::from_waker(&self.waker))
    }
}

fn send<'r>(sink: &mut (impl Sink<Record<'r>, Error = Error> + Unpin), record: Record<'r>) -> Result<()> {
    Pin::new(sink).start_send(record)
}

fn broker() -> Broker {
    let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    broker
}

fn append(broker: &Broker, values: &[&str]) {
    broker.producer().send_all("t", values.iter().map(|v| Record::new(*v))).unwrap().wait().unwrap();
}

/// The number of records of the next item; `None` at the end.
fn count<T>(next: Poll<Option<Result<T>>>, len: impl Fn(&T) -> usize) -> Option<usize> {
    match next {
        Poll::Ready(item) => item.map(|item| len(&item.unwrap())),
        Poll::Pending => panic!("it is pending"),
    }
}

#[test]
fn a_reader_is_a_stream_of_its_polls_which_ends_with_a_wakeup_and_goes_on() {
    let (broker, task) = (broker(), Task::new());
    append(&broker, &["1", "2", "3"]);
    let mut reader = broker.reader("t", Start::Beginning).unwrap().max_records(2);
    let handle = reader.handle();
    let len = quipu::Records::len;
    // A borrowed one is a stream too.
    assert_eq!(count(task.next(&mut &mut reader), len), Some(2));
    assert_eq!(count(task.next(&mut reader), len), Some(1));
    assert!(task.next(&mut reader).is_pending());
    append(&broker, &["4"]);
    assert_eq!(task.wakes(), 1);
    assert_eq!(count(task.next(&mut reader), len), Some(1));

    handle.wakeup();
    append(&broker, &["5"]);
    assert_eq!(count(task.next(&mut reader), len), None);
    assert_eq!(count(task.next(&mut reader), len), Some(1));
    broker.close().unwrap();
    for _ in 0..2 {
        assert!(matches!(task.next(&mut reader), Poll::Ready(Some(Err(Error::Closed)))));
    }
}

#[test]
fn a_range_that_was_skipped_is_an_item_and_no_end() {
    let (broker, task) = (broker(), Task::new());
    append(&broker, &["1", "2"]);
    let mut reader = broker.reader("t", Start::Beginning).unwrap().offset_reset(OffsetReset::End);
    broker.topic("t").unwrap().partition(0).unwrap().delete_records(Offset::new(2)).unwrap();
    match task.next(&mut reader) {
        Poll::Ready(Some(Ok(records))) => assert_eq!((records.len(), records.skipped().len()), (0, 1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_consumer_is_a_stream_and_commits_between_two_items() {
    let (broker, task) = (broker(), Task::new());
    append(&broker, &["1", "2"]);
    let mut consumer = broker.consumer("g").max_records(1).subscribe("t").unwrap();
    for committed in [1, 2] {
        match task.next(&mut consumer) {
            Poll::Ready(Some(Ok(records))) => consumer.commit(&records).unwrap(),
            other => panic!("{other:?}"),
        }
        assert_eq!(consumer.committed("t", 0).unwrap().unwrap().offset, committed);
    }
    assert!(task.next(&mut consumer).is_pending());
    consumer.handle().wakeup();
    assert_eq!(task.wakes(), 1);
    assert!(matches!(task.next(&mut consumer), Poll::Ready(None)));
    append(&broker, &["3"]);
    assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1, "it is no stream only");
}

#[test]
fn a_reader_of_one_stream_is_a_stream_of_its_events() {
    let (broker, task) = (broker(), Task::new());
    let stream = broker.create_topic("s", TopicConfig::streams()).unwrap().stream("k").unwrap();
    stream.append(ExpectedVersion::Any, ["1", "2"].map(Record::new)).unwrap();
    let mut reader = stream.reader(Version::ZERO).unwrap();
    let len = quipu::History::len;
    assert_eq!(count(task.next(&mut reader), len), Some(2));
    assert!(task.next(&mut reader).is_pending());
    reader.handle().wakeup();
    assert_eq!(count(task.next(&mut reader), len), None);
    stream.append(ExpectedVersion::Any, Record::new("3")).unwrap();
    assert_eq!(count(task.next(&mut reader), len), Some(1));
}

#[test]
fn a_flushed_sink_has_everything_in_the_topic_as_durable_as_that_demands() {
    let (disk, task) = (Disk::new(), Task::new());
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    let mut sink = broker.producer().sink("t");
    assert!(matches!(task.flush(&mut sink), Poll::Ready(Ok(()))), "nothing to flush");
    let visible = || topic.partition(0).unwrap().bounds().unwrap().visible_end.get();
    for round in 1..=2 {
        for n in 0..10 {
            assert!(matches!(task.ready(&mut sink), Poll::Ready(Ok(()))));
            send(&mut sink, Record::new(n.to_string())).unwrap();
        }
        let mut flushed = task.flush(&mut sink);
        for _ in 0..1_000 {
            if flushed.is_pending() {
                // The sync is left to a maintenance, under a clock that stands still.
                broker.sync().unwrap();
                flushed = task.flush(&mut sink);
            }
        }
        assert!(matches!(flushed, Poll::Ready(Ok(()))), "{flushed:?}");
        assert_eq!(visible(), round * 10);
    }
    let closed = Pin::new(&mut sink).poll_close(&mut Context::from_waker(&task.waker));
    assert!(matches!(closed, Poll::Ready(Ok(()))));
}

/// Its only partition is written by another thread, which is held in a write until the test lets it go
/// on: so no room can be made here.
#[test]
fn a_sink_is_ready_again_when_there_is_room_and_keeps_the_order() {
    let (disk, task) = (Disk::new(), Task::new());
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    append(&broker, &["made"]);
    let config = ProducerConfig::new().buffer_bytes(16 << 10).batch_bytes(4 << 10);
    let producer = broker.producer_with(config.linger(Duration::from_secs(3600))).unwrap();
    let mut sink: ProducerSink<'_, _> = producer.sink(&topic);
    let gate = disk.hold(Op::Write, 1);
    let mut sent = 0_u64;
    std::thread::scope(|scope| {
        producer.send(&topic, Record::new("first")).unwrap().detach();
        let writer = scope.spawn(|| producer.flush());
        gate.wait_until_reached();
        while task.ready(&mut sink).is_ready() {
            send(&mut sink, Record::new(vec![7; 1_000]).key(sent.to_string())).unwrap();
            sent += 1;
            assert!(sent < 100, "it is always ready");
        }
        // One that is given all the same is refused, and no other.
        let refused = send(&mut sink, Record::new("refused"));
        assert!(matches!(refused, Err(Error::BufferFull { .. })), "{refused:?}");
        assert!(task.flush(&mut sink).is_pending());
        assert_eq!(task.wakes(), 0);
        gate.release();
        writer.join().unwrap().unwrap();
    });
    assert!(task.wakes() > 0);
    assert!(matches!(task.ready(&mut sink), Poll::Ready(Ok(()))));
    assert!(matches!(task.flush(&mut sink), Poll::Ready(Ok(()))));
    let records = topic.partition(0).unwrap().read(Start::At(Offset::new(2)), usize::MAX).unwrap();
    let keys: Vec<_> = records.iter().map(|record| record.key_str().unwrap().to_string()).collect();
    assert_eq!(keys, (0..sent).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_sink_returns_the_error_of_its_record_and_that_of_a_write_with_the_flush() {
    let (disk, task) = (Disk::new(), Task::new());
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
    broker.create_topic("t", TopicConfig::new().max_record_bytes(100)).unwrap();
    append(&broker, &["made"]);
    let mut sink = broker.producer().sink("t");
    assert!(matches!(send(&mut sink, Record::new(vec![1; 1_000])), Err(Error::RecordTooLarge { .. })));
    let mut nowhere = broker.producer().sink(String::from("none"));
    assert!(matches!(send(&mut nowhere, Record::new("v")), Err(Error::UnknownTopic { .. })));

    send(&mut sink, Record::new("v")).unwrap();
    disk.fail(Op::Write, 1, std::io::ErrorKind::StorageFull);
    assert!(matches!(task.flush(&mut sink), Poll::Ready(Err(Error::DiskFull { .. }))));
    assert!(matches!(task.flush(&mut sink), Poll::Ready(Ok(()))), "it is returned once");
    send(&mut sink, Record::new("w")).unwrap();
    assert!(matches!(task.flush(&mut sink), Poll::Ready(Ok(()))));
}
