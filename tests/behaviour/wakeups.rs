//! A waiting reader is woken by records, by the end of its topic or broker, and by hand, and never
//! sleeps while records are there.

use std::future::Future;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use quipu::testing::{Disk, ManualClock, Op};
use quipu::{Broker, BrokerConfig, Error, Record, Start, TopicConfig};

/// Longer than any test: a call that returns earlier was woken.
const LONG: Duration = Duration::from_secs(600);

fn broker(partitions: u32) -> Broker {
    let broker = Broker::in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    broker
}

fn send(broker: &Broker, value: &str) {
    let topic = broker.topic("t").unwrap();
    broker.producer().send(&topic, Record::new(value)).unwrap().wait().unwrap();
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_waiting_poll_is_woken_by_a_record() {
    let broker = broker(1);
    let mut reader = broker.reader(["t"], Start::End).unwrap();
    thread::scope(|scope| {
        let polled = scope.spawn(|| reader.poll(LONG).unwrap().len());
        thread::sleep(Duration::from_millis(20));
        send(&broker, "v");
        assert_eq!(polled.join().unwrap(), 1);
    });
}

#[test]
fn a_poll_never_misses_the_wakeup_of_a_record() {
    let broker = broker(1);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| (0..2_000).for_each(|_| send(&broker, "v")));
        let mut seen = 0;
        while seen < 2_000 {
            let records = reader.poll(LONG).unwrap();
            assert!(!records.is_empty());
            seen += records.len();
        }
    });
}

#[test]
fn a_future_never_misses_the_wakeup_of_a_record() {
    let broker = broker(1);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| (0..2_000).for_each(|_| send(&broker, "v")));
        let mut seen = 0;
        while seen < 2_000 {
            seen += block_on(reader.recv()).unwrap().len();
        }
    });
}

#[test]
fn a_poll_without_records_lasts_as_long_as_asked() {
    let broker = broker(1);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let started = Instant::now();
    assert!(reader.poll(Duration::from_millis(30)).unwrap().is_empty());
    assert!(started.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_wakeup_ends_the_current_poll_or_else_the_next_and_loses_nothing() {
    let broker = broker(1);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let handle = reader.handle();
    handle.wakeup();
    handle.wakeup();
    send(&broker, "v");
    assert!(reader.poll(LONG).unwrap().is_empty(), "the wake-up comes first");
    assert_eq!(reader.poll(LONG).unwrap().len(), 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            handle.wakeup();
        });
        assert!(reader.poll(LONG).unwrap().is_empty());
    });
    handle.wakeup();
    assert!(block_on(reader.recv()).unwrap().is_empty());
}

#[test]
fn closing_and_deleting_wake_waiting_callers() {
    for delete in [false, true] {
        let broker = broker(1);
        let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
        thread::scope(|scope| {
            let polled = scope.spawn(|| reader.poll(LONG));
            thread::sleep(Duration::from_millis(20));
            if delete {
                broker.delete_topic("t").unwrap();
            } else {
                broker.close().unwrap();
            }
            let answer = polled.join().unwrap();
            match delete {
                true => assert!(matches!(answer, Err(Error::TopicDeleted { .. })), "{answer:?}"),
                false => assert!(matches!(answer, Err(Error::Closed)), "{answer:?}"),
            }
        });
    }
}

#[test]
fn an_added_partition_wakes_waiting_callers_once_it_has_a_record() {
    let broker = broker(1);
    let mut reader = broker.reader(["t"], Start::End).unwrap();
    thread::scope(|scope| {
        let polled = scope.spawn(|| reader.poll(LONG).unwrap().last().unwrap().partition().get());
        thread::sleep(Duration::from_millis(20));
        broker.alter_topic("t", TopicConfig::new().partitions(2)).unwrap();
        let added = broker.topic("t").unwrap().partition(1).unwrap();
        broker.producer().send(&added, Record::new("v")).unwrap().wait().unwrap();
        assert_eq!(polled.join().unwrap(), 1);
    });
}

#[test]
fn under_a_manual_clock_a_poll_never_waits() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    assert!(reader.poll(LONG).unwrap().is_empty());
    send(&broker, "v");
    assert_eq!(reader.poll(LONG).unwrap().len(), 1);
    assert_eq!(quipu::Clock::monotonic(&clock), Duration::ZERO);
}

#[test]
fn under_a_manual_clock_moving_it_wakes_a_future_that_waits() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    let producer = broker.producer();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let wakes = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    let mut recv = pin!(reader.recv());
    assert!(recv.as_mut().poll(&mut cx).is_pending());
    // It lingers, until the time has come.
    producer.send(&topic, Record::new("v")).unwrap().detach();
    clock.advance(Duration::from_secs(1));
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    match recv.as_mut().poll(&mut cx) {
        Poll::Ready(records) => assert_eq!(records.unwrap().len(), 1),
        Poll::Pending => panic!("it was woken for nothing"),
    }
}

#[test]
fn a_dropped_future_loses_no_record() {
    let broker = broker(1);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    for _ in 0..3 {
        let mut recv = pin!(reader.recv());
        assert!(recv.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    send(&broker, "v");
    drop(reader.recv());
    assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 1);
}

/// The records may have been truncated, and others may come in their place.
#[test]
fn taking_a_failed_partition_back_into_service_wakes_a_future_that_waits() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    send(&broker, "v");
    let mut reader = broker.reader(["t"], Start::End).unwrap();
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    broker.sync().unwrap_err();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut recv = pin!(reader.recv());
    assert!(recv.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let before = count.0.load(Ordering::SeqCst);
    topic.partition(0).unwrap().reopen().unwrap();
    assert!(count.0.load(Ordering::SeqCst) > before);
}
