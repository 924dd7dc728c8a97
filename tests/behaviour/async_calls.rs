//! Every call that returns a future: pending while its record is not safe, woken when it is, and with the result of the
//! call that blocks.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, Op};
use quipu::{
    Broker, BrokerConfig, Durability, Error, ExpectedVersion, OffsetReset, ProducerConfig, Record, Start,
    Topic, TopicConfig, Version,
};

/// Wakes a thread and counts how often.
struct Woken(thread::Thread, AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// Polls a future, which must be pending first, until it is ready. Returns its output after at least one wake-up.
fn awaited<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let woken = Arc::new(Woken(thread::current(), AtomicUsize::new(0)));
    let waker = Waker::from(woken.clone());
    let mut polls = 0;
    loop {
        polls += 1;
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => {
                assert!(polls == 1 || woken.1.load(Ordering::SeqCst) > 0, "it was woken");
                return output;
            }
            // Each poll but the first follows a wake-up.
            Poll::Pending => {
                while woken.1.load(Ordering::SeqCst) < polls {
                    thread::park();
                }
            }
        }
    }
}

/// A topic whose records are visible after a sync.
fn synced() -> (Disk, Broker, Topic) {
    let disk = Disk::new();
    let broker = BrokerConfig::new().durability(Durability::Sync).on_disk(&disk).unwrap();
    let config = TopicConfig::new().durability(Durability::Sync).max_record_bytes(1 << 10);
    let topic = broker.create_topic("t", config).unwrap();
    (disk, broker, topic)
}

#[test]
fn a_sent_record_is_awaited_with_its_receipt() {
    let (_, broker, topic) = synced();
    let producer = broker.producer();
    for offset in 0..3 {
        let receipt = awaited(producer.send_async(&topic, Record::new("v"))).unwrap();
        assert_eq!(receipt.offset, offset);
        let pending = producer.send(&topic, Record::new("w")).unwrap();
        drop(pending);
        producer.flush().unwrap();
        let end = topic.partition(0).unwrap().bounds().unwrap().visible_end;
        assert_eq!(end, offset + 2);
        topic.partition(0).unwrap().truncate_to((offset + 1).into()).unwrap();
    }
    let receipts = awaited(producer.send_all(&topic, ["a", "b"].map(Record::new)).unwrap()).unwrap();
    assert_eq!(receipts.iter().map(|receipt| receipt.offset.get()).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(awaited(producer.send(&topic, Record::new("c")).unwrap()).unwrap().offset, 5);
}

#[test]
fn an_awaited_flush_covers_everything_that_was_sent_before_it() {
    let (_, broker, topic) = synced();
    let producer = broker.producer_with(ProducerConfig::new().linger(Duration::from_secs(3600))).unwrap();
    for _ in 0..3 {
        producer.send(&topic, Record::new("v")).unwrap().detach();
    }
    awaited(producer.flush_async()).unwrap();
    assert_eq!(topic.partition(0).unwrap().bounds().unwrap().visible_end, 3);
}

#[test]
fn an_awaited_record_fails_as_one_that_is_waited_for() {
    let (disk, broker, topic) = synced();
    let producer = broker.producer();
    awaited(producer.send_async(&topic, Record::new("v"))).unwrap();
    disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
    let error = awaited(producer.send_async(&topic, Record::new("w"))).unwrap_err();
    assert_eq!(error.outcome(), quipu::Outcome::Unknown, "{error}");
    topic.partition(0).unwrap().reopen().unwrap();
    assert_eq!(awaited(producer.send_async(&topic, Record::new("x"))).unwrap().offset, 1);
    let too_large = awaited(producer.send_async(&topic, Record::new(vec![0; 2 << 10])));
    assert!(matches!(too_large, Err(Error::RecordTooLarge { .. })), "{too_large:?}");
    let unknown = awaited(producer.send_async("no such topic", Record::new("v")));
    assert!(matches!(unknown, Err(Error::UnknownTopic { .. })), "{unknown:?}");
}

#[test]
fn an_awaited_commit_is_stored_and_a_rejected_one_is_an_error() {
    let (disk, broker, topic) = synced();
    broker.producer().send_all(&topic, ["a", "b", "c"].map(Record::new)).unwrap().wait().unwrap();
    let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = awaited(consumer.recv()).unwrap();
    assert_eq!(records.len(), 3);
    awaited(consumer.commit_async(records.iter().next().unwrap())).unwrap();
    assert_eq!(consumer.committed("t", 0).unwrap().unwrap().offset, 1);
    let handle = consumer.handle();
    awaited(handle.commit_async(&records)).unwrap();
    assert_eq!(consumer.committed("t", 0).unwrap().unwrap().offset, 3);
    disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
    assert!(awaited(handle.commit_async(&records)).is_err());
    drop(consumer);
    let rejected = awaited(handle.commit_async(&records));
    assert!(matches!(rejected, Err(Error::CommitRejected { .. })), "{rejected:?}");
}

/// The future of an empty topic is woken by the next record, whichever kind of reader waits.
#[test]
fn a_waiting_reader_of_each_kind_is_woken_by_the_next_record() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
    let stream = topic.stream("k").unwrap();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let mut member = broker.consumer("g").subscribe(["t"]).unwrap();
    let latest = broker.consumer("h").offset_reset(OffsetReset::End);
    let mut assigned = latest.assign(&topic.partitions()).unwrap();
    let mut events = stream.reader(Version::ZERO).unwrap();
    let woken = Arc::new(Woken(thread::current(), AtomicUsize::new(0)));
    let waker = Waker::from(woken.clone());
    let (mut a, mut b, mut c, mut d) =
        (pin!(reader.recv()), pin!(member.recv()), pin!(assigned.recv()), pin!(events.recv()));
    let context = &mut Context::from_waker(&waker);
    assert!(a.as_mut().poll(context).is_pending() && b.as_mut().poll(context).is_pending());
    assert!(c.as_mut().poll(context).is_pending() && d.as_mut().poll(context).is_pending());
    stream.append(ExpectedVersion::Empty, [Record::new("v")]).unwrap();
    while woken.1.load(Ordering::SeqCst) < 4 {
        thread::park();
    }
    for polled in [a.as_mut().poll(context), b.as_mut().poll(context), c.as_mut().poll(context)] {
        match polled {
            Poll::Ready(Ok(records)) => assert_eq!(records.len(), 1),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(d.as_mut().poll(context), Poll::Ready(Ok(history)) if history.len() == 1));
}

/// A future that is dropped leaves no waker with the library.
#[test]
fn a_dropped_future_drops_its_waker() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
    let mut events = topic.stream("k").unwrap().reader(Version::ZERO).unwrap();
    let woken = Arc::new(Woken(thread::current(), AtomicUsize::new(0)));
    let kept_after_a_poll_of = |future: &mut dyn FnMut(&mut Context<'_>) -> bool| {
        let waker = Waker::from(woken.clone());
        assert!(future(&mut Context::from_waker(&waker)), "it waits");
        drop(waker);
        Arc::strong_count(&woken) - 1
    };
    let kept = [
        kept_after_a_poll_of(&mut |context| pin!(reader.recv()).poll(context).is_pending()),
        kept_after_a_poll_of(&mut |context| pin!(consumer.recv()).poll(context).is_pending()),
        kept_after_a_poll_of(&mut |context| pin!(events.recv()).poll(context).is_pending()),
    ];
    assert_eq!(kept, [0; 3]);
}

#[test]
fn records_with_sequences_are_awaited_too() {
    let (_, broker, topic) = synced();
    let producer = broker.producer_with(ProducerConfig::new().name("rows")).unwrap();
    let row = |sequence: u64| Record::new("v").sequence(sequence);
    assert_eq!(awaited(producer.send(&topic, row(1)).unwrap()).unwrap().offset, 0);
    assert_eq!(awaited(producer.send_async(&topic, row(2))).unwrap().offset, 1);
    let receipts = awaited(producer.send_all(&topic, [row(3), row(4)]).unwrap()).unwrap();
    assert_eq!(receipts.iter().map(|receipt| receipt.offset.get()).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(awaited(producer.send_async(&topic, row(2))).unwrap().offset, 1, "the first receipt again");
}
