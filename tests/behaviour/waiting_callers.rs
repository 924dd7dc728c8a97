//! Whatever a caller waits for, it is woken with an error when its broker is closed or its topic is
//! deleted.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, Op};
use quipu::{
    Broker, BrokerConfig, Consumer, Durability, Error, ProducerConfig, Record, Result, Start, TopicConfig,
    Version,
};

/// Longer than any test: a call that returns was woken.
const LONG: Duration = Duration::from_secs(3600);
const NOW: Duration = Duration::ZERO;

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
type Blocked = Box<dyn FnOnce() -> Result<()> + Send>;

/// A future that waits, and what has been woken of it.
struct Waiter {
    waiting: Waiting,
    wakes: Arc<Count>,
}

impl Waiter {
    fn new(waiting: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        Waiter { waiting: Box::pin(waiting), wakes: Arc::new(Count(AtomicUsize::new(0))) }
    }

    fn poll(&mut self) -> Poll<Result<()>> {
        let waker = Waker::from(self.wakes.clone());
        self.waiting.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

/// A broker with the topic `t`, which has one partition and no record.
fn broker() -> Broker {
    let broker = Broker::in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    broker.create_topic("s", TopicConfig::streams()).unwrap();
    broker
}

fn member(broker: &Broker, pattern: &str) -> Consumer {
    let mut member = broker.consumer("g").subscribe([pattern]).unwrap();
    member.poll(NOW).unwrap();
    member
}

/// A member that has all partitions, and one that has none.
fn surplus(broker: &Broker) -> (Consumer, Consumer) {
    (member(broker, "t"), member(broker, "t"))
}

/// A member that had a partition, until its topic was deleted.
fn loser(broker: &Broker) -> Consumer {
    broker.create_topic("u", TopicConfig::new()).unwrap();
    let mut member = member(broker, "u");
    assert_eq!(member.assignment().len(), 1);
    broker.delete_topic("u").unwrap();
    while !member.assignment().is_empty() {
        let _ = member.poll(NOW);
    }
    member
}

const KINDS: [&str; 9] = [
    "a reader",
    "a reader of no topic",
    "a member",
    "a member without a partition",
    "a member that has lost its partition",
    "a glob without a match",
    "an assigned partition",
    "an empty assignment",
    "a reader of a stream",
];

/// A future of each kind, and the handles that must live as long.
fn future(broker: &Broker, kind: &str) -> (Waiter, Option<Consumer>) {
    let of_consumer = |mut consumer: Consumer| Waiter::new(async move { consumer.recv().await.map(drop) });
    let of_reader = |topics: &[&str]| {
        let mut reader = broker.reader(topics, Start::Beginning).unwrap();
        Waiter::new(async move { reader.recv().await.map(drop) })
    };
    match kind {
        "a reader" => (of_reader(&["t"]), None),
        "a reader of no topic" => (of_reader(&[]), None),
        "a member" => (of_consumer(member(broker, "t")), None),
        "a member without a partition" => {
            let (owner, surplus) = surplus(broker);
            (of_consumer(surplus), Some(owner))
        }
        "a member that has lost its partition" => (of_consumer(loser(broker)), None),
        "a glob without a match" => (of_consumer(member(broker, "none-*")), None),
        "an assigned partition" => {
            let partition = broker.topic("t").unwrap().partition(0).unwrap();
            (of_consumer(broker.consumer("g").assign(&[partition]).unwrap()), None)
        }
        "an empty assignment" => (of_consumer(broker.consumer("g").assign(&[]).unwrap()), None),
        _ => {
            let stream = broker.topic("s").unwrap().stream("k").unwrap();
            let mut reader = stream.reader(Version::ZERO).unwrap();
            (Waiter::new(async move { reader.recv().await.map(drop) }), None)
        }
    }
}

/// A call of each kind that blocks.
fn blocked(broker: &Broker, kind: &str) -> (Blocked, Option<Consumer>) {
    let of_consumer = |mut consumer: Consumer| -> Blocked { Box::new(move || consumer.poll(LONG).map(drop)) };
    let of_reader = |topics: &[&str]| -> Blocked {
        let mut reader = broker.reader(topics, Start::Beginning).unwrap();
        Box::new(move || reader.poll(LONG).map(drop))
    };
    match kind {
        "a reader" => (of_reader(&["t"]), None),
        "a reader of no topic" => (of_reader(&[]), None),
        "a member" => (of_consumer(member(broker, "t")), None),
        "a member without a partition" => {
            let (owner, surplus) = surplus(broker);
            (of_consumer(surplus), Some(owner))
        }
        "a member that has lost its partition" => (of_consumer(loser(broker)), None),
        "a glob without a match" => (of_consumer(member(broker, "none-*")), None),
        "an assigned partition" => {
            let partition = broker.topic("t").unwrap().partition(0).unwrap();
            (of_consumer(broker.consumer("g").assign(&[partition]).unwrap()), None)
        }
        "an empty assignment" => (of_consumer(broker.consumer("g").assign(&[]).unwrap()), None),
        _ => {
            let stream = broker.topic("s").unwrap().stream("k").unwrap();
            let mut reader = stream.reader(Version::ZERO).unwrap();
            (Box::new(move || reader.poll(LONG).map(drop)), None)
        }
    }
}

#[test]
fn closing_wakes_every_future_that_waits() {
    for kind in KINDS {
        let broker = broker();
        let (mut waiting, _owner) = future(&broker, kind);
        assert!(waiting.poll().is_pending(), "{kind}");
        broker.close().unwrap();
        assert!(waiting.wakes.0.load(Ordering::SeqCst) > 0, "{kind} is woken");
        let polled = waiting.poll();
        assert!(matches!(polled, Poll::Ready(Err(Error::Closed))), "{kind}: {polled:?}");
    }
}

#[test]
fn closing_wakes_every_caller_that_blocks() {
    for kind in KINDS {
        // Not every round closes while the caller is asleep.
        for _ in 0..10 {
            let broker = broker();
            let (blocked, _owner) = blocked(&broker, kind);
            let caller = thread::spawn(blocked);
            (0..100).for_each(|_| thread::yield_now());
            broker.close().unwrap();
            let returned = caller.join().unwrap();
            assert!(matches!(returned, Err(Error::Closed)), "{kind}: {returned:?}");
        }
    }
}

#[test]
fn closing_wakes_callers_that_wait_for_a_lag() {
    let broker = broker();
    let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
    for is_committed in [true, false] {
        broker.producer().send("t", Record::new("v")).unwrap().wait().unwrap();
        if is_committed {
            let records = consumer.poll(NOW).unwrap();
            consumer.commit(&records).unwrap();
        }
    }
    let group = broker.group("g").unwrap();
    let caller = thread::spawn(move || group.wait_for_lag(0, LONG));
    (0..100).for_each(|_| thread::yield_now());
    broker.close().unwrap();
    let returned = caller.join().unwrap();
    assert!(matches!(returned, Err(Error::Closed)), "{returned:?}");
}

#[test]
fn deleting_a_topic_wakes_those_that_wait_for_it() {
    for (kind, topic) in [("a reader", "t"), ("an assigned partition", "t"), ("a reader of a stream", "s")] {
        let broker = broker();
        let (mut waiting, _) = future(&broker, kind);
        assert!(waiting.poll().is_pending(), "{kind}");
        let (blocked, _) = blocked(&broker, kind);
        let caller = thread::spawn(blocked);
        (0..100).for_each(|_| thread::yield_now());
        broker.delete_topic(topic).unwrap();
        assert!(waiting.wakes.0.load(Ordering::SeqCst) > 0, "{kind} is woken");
        let polled = waiting.poll();
        assert!(matches!(polled, Poll::Ready(Err(Error::TopicDeleted { .. }))), "{kind}: {polled:?}");
        let returned = caller.join().unwrap();
        assert!(matches!(returned, Err(Error::TopicDeleted { .. })), "{kind}: {returned:?}");
    }
}

#[test]
fn closing_and_deleting_wake_senders_that_wait_for_a_sync_or_for_room() {
    for delete in [false, true] {
        let disk = Disk::new();
        let broker = BrokerConfig::new().on_disk(&disk).unwrap();
        broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
        let config = ProducerConfig::new().buffer_bytes(2048).batch_bytes(1024).linger(NOW).max_block(NOW);
        let producer = broker.producer_with(config).unwrap();
        producer.send("t", Record::new("first")).unwrap().wait().unwrap();
        let sync = disk.hold(Op::Sync, 1);
        let sender = producer.clone();
        let mut synced = Waiter::new(async move { sender.send_async("t", Record::new("v")).await.map(drop) });
        assert!(synced.poll().is_pending());
        sync.wait_until_reached();
        let write = disk.hold(Op::Write, 1);
        let sender = producer.clone();
        let writer = thread::spawn(move || sender.send("t", Record::new("w")).map(drop));
        write.wait_until_reached();
        while producer.send("t", Record::new(vec![1; 700])).is_ok() {}
        let sender = producer.clone();
        let mut more =
            Waiter::new(async move { sender.send_async("t", Record::new(vec![1; 700])).await.map(drop) });
        assert!(more.poll().is_pending());
        let ending = broker.clone();
        let ended = thread::spawn(move || if delete { ending.delete_topic("t") } else { ending.close() });
        (0..100).for_each(|_| thread::yield_now());
        write.release();
        sync.release();
        ended.join().unwrap().unwrap();
        writer.join().unwrap().unwrap();
        for (waiting, what) in [(&mut synced, "sync"), (&mut more, "room")] {
            assert!(waiting.wakes.0.load(Ordering::SeqCst) > 0, "{what}");
            // It may have come in time.
            assert!(waiting.poll().is_ready(), "{what}");
        }
        let refused = producer.send("t", Record::new("late")).map(drop).unwrap_err();
        let is_told = matches!(refused, Error::Closed | Error::UnknownTopic { .. });
        assert!(is_told, "{refused:?}");
    }
}
