//! Senders that wait for room: how many wake-ups that takes.

use std::task::{Context, Wake, Waker};
use std::time::Duration;

use super::fakes::{FakeTopic, big, outbox};
use crate::config::TopicConfig;
use crate::error::{Error, Result};
use crate::producer::config::ProducerConfig;
use crate::producer::core::RoomWait;
use crate::producer::outbox::{Outbox, WhenFull};
use crate::producer::pending::Pending;
use crate::record::Record;
use crate::segment::builder::Measured;
use crate::sync::{Arc, AtomicUsize, Ordering, Weak, thread};

/// Counts the wake-ups of one sender.
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A sender of one record, as the future of `send_async`.
struct Sender {
    room: RoomWait,
    woken: Arc<Counter>,
    record: Record<'static>,
}

impl Sender {
    fn new(outbox: &Outbox<FakeTopic>, record: Record<'static>) -> Self {
        let woken = Arc::new(Counter(AtomicUsize::new(0)));
        Sender { room: RoomWait::new(outbox.core(), Measured::new(&record).len()), woken, record }
    }

    /// Whether the record was taken.
    fn poll(&mut self, outbox: &Outbox<FakeTopic>, topic: &Arc<FakeTopic>) -> bool {
        let waker = Waker::from(self.woken.clone());
        let send = || -> Result<()> { outbox.send(topic, Some(0), &self.record).map(Pending::detach) };
        self.room.poll(&Context::from_waker(&waker), send).map(Result::unwrap).is_ready()
    }

    fn wake_ups(&self) -> usize {
        self.woken.0.load(Ordering::SeqCst)
    }
}

/// Calls `run` while a thread stands at the gate with the first batch and the buffer is full, then
/// opens the gate and waits for the thread.
fn with_full_buffer<R>(
    topic: &Arc<FakeTopic>,
    outbox: &Outbox<FakeTopic>,
    run: impl FnOnce() -> R,
) -> (R, usize) {
    let log = &topic.logs[0];
    log.gate.shut();
    thread::scope(|scope| {
        let first = outbox.send(topic, Some(0), &Record::new("first")).unwrap();
        let writer = scope.spawn(move || first.wait());
        log.gate.wait_until_a_thread_stops_there();
        let mut accepted = 1;
        while let Ok(pending) = outbox.send(topic, Some(0), &big()) {
            pending.detach();
            accepted += 1;
        }
        assert!(matches!(outbox.send(topic, Some(0), &big()), Err(Error::BufferFull { .. })));
        let done = run();
        log.gate.open();
        writer.join().unwrap().unwrap();
        (done, accepted)
    })
}

fn small_buffer() -> ProducerConfig {
    ProducerConfig::new().batch_bytes(1 << 10).buffer_bytes(2 << 10)
}

/// Each sender is woken about once, however many wait.
#[test]
fn the_wake_ups_grow_with_the_senders_and_not_with_their_square() {
    for count in [10, 100, 1_000, 4_000] {
        let topic = FakeTopic::new(1, TopicConfig::new());
        let outbox = outbox(&topic, small_buffer());
        let (mut senders, accepted) = with_full_buffer(&topic, &outbox, || {
            let mut senders: Vec<_> =
                (0..count).map(|n: usize| Sender::new(&outbox, Record::new(n.to_string()))).collect();
            for sender in &mut senders {
                assert!(!sender.poll(&outbox, &topic));
                // Polled again without having been woken: it keeps one place.
                assert!(!sender.poll(&outbox, &topic));
            }
            senders
        });
        let mut polls = 0;
        let mut wake_ups = 0;
        // An executor: polls those that were woken, until all are done.
        while !senders.is_empty() {
            let before = polls;
            senders.retain_mut(|sender| {
                let woken = sender.woken.0.swap(0, Ordering::SeqCst);
                wake_ups += woken;
                if woken == 0 {
                    return true;
                }
                polls += 1;
                !sender.poll(&outbox, &topic)
            });
            if polls == before {
                // They wait for the batch that the last ones are in.
                outbox.flush();
            }
            assert!(polls <= 2 * count, "{count} senders were polled {polls} times");
        }
        assert!(wake_ups <= 2 * count, "{count} senders were woken {wake_ups} times");
        outbox.flush();
        assert_eq!(topic.logs[0].values().len(), accepted + count);
    }
}

#[test]
fn all_senders_that_fit_are_woken() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, small_buffer());
    let (senders, _) = with_full_buffer(&topic, &outbox, || {
        let mut senders: Vec<_> = (0..8).map(|_| Sender::new(&outbox, big())).collect();
        assert!(senders.iter_mut().all(|sender| !sender.poll(&outbox, &topic)));
        senders
    });
    // 3 KiB are room for four of them: the last one may exceed it.
    let woken: Vec<_> = senders.iter().map(Sender::wake_ups).collect();
    assert_eq!(woken[..4], [1; 4], "{woken:?}");
    assert!(woken.iter().all(|wake_ups| *wake_ups <= 1), "{woken:?}");
    let first: usize = woken.iter().sum();
    // Those that were woken are gone: their room is for the next.
    let mut senders = senders;
    senders.drain(..first);
    let woken: Vec<_> = senders.iter().map(Sender::wake_ups).collect();
    assert!(woken.iter().all(|wake_ups| *wake_ups == 1), "{woken:?}");
}

#[test]
fn a_sender_that_is_dropped_leaves_nothing() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, small_buffer());
    let ((dropped, mut kept), _) = with_full_buffer(&topic, &outbox, || {
        let mut dropped = Sender::new(&outbox, big());
        let mut kept = Sender::new(&outbox, big());
        assert!(!dropped.poll(&outbox, &topic) && !kept.poll(&outbox, &topic));
        let waker: Weak<Counter> = Arc::downgrade(&dropped.woken);
        drop(dropped);
        (waker, kept)
    });
    assert!(dropped.upgrade().is_none(), "the waker of a dropped sender is kept");
    assert_eq!(kept.wake_ups(), 1);
    assert!(kept.poll(&outbox, &topic));
}

/// A buffer with room for three batches, whose first one a thread is writing until the gate opens.
fn blocked(topic: &Arc<FakeTopic>, outbox: &Outbox<FakeTopic>, send: impl FnOnce() -> Result<()> + Send) {
    let log = &topic.logs[0];
    log.gate.shut();
    thread::scope(|scope| {
        let first = outbox.send(topic, Some(0), &Record::new("first")).unwrap();
        let writer = scope.spawn(move || first.wait());
        log.gate.wait_until_a_thread_stops_there();
        while let Ok(pending) = outbox.send(topic, Some(0), &big()) {
            pending.detach();
        }
        let sender = scope.spawn(send);
        while outbox.core().waiting() == 0 {
            thread::yield_now();
        }
        log.gate.open();
        sender.join().unwrap().unwrap();
        writer.join().unwrap().unwrap();
    });
    outbox.flush();
}

#[test]
fn a_sender_waits_for_the_thread_that_writes_all_batches() {
    let topic = FakeTopic::in_real_time(1, TopicConfig::new());
    let outbox = outbox(&topic, small_buffer());
    blocked(&topic, &outbox, || {
        outbox.take(&topic, Some(0), &Record::new("last"), WhenFull::Wait).map(Pending::detach)
    });
    assert_eq!(topic.logs[0].values().last().unwrap(), "last");
    blocked(&topic, &outbox, || {
        outbox.send_all(&topic, Some(0), [Record::new("all")].into_iter()).map(Pending::detach)
    });
    assert_eq!(topic.logs[0].values().last().unwrap(), "all");
    assert_eq!((outbox.core().waiting(), outbox.core().buffered()), (0, 0));
}

#[test]
fn a_sender_that_may_not_wait_is_refused_and_leaves_nothing() {
    // Under a manual clock no call waits; in real time this one may wait for no time.
    let manual = FakeTopic::new(1, TopicConfig::new());
    let real = FakeTopic::in_real_time(1, TopicConfig::new());
    for (topic, config) in [(manual, small_buffer()), (real, small_buffer().max_block(Duration::ZERO))] {
        let outbox = outbox(&topic, config);
        with_full_buffer(&topic, &outbox, || {
            let refused = outbox.take(&topic, Some(0), &big(), WhenFull::Wait).map(Pending::detach);
            assert!(
                matches!(refused, Err(Error::BufferFull { used: 2048.., limit: 2048, .. })),
                "{refused:?}"
            );
            let all = outbox.send_all(&topic, Some(0), [big()].into_iter()).map(Pending::detach);
            assert!(matches!(all, Err(Error::BufferFull { .. })), "{all:?}");
            assert_eq!(outbox.core().waiting(), 0);
        });
    }
}
