//! A member that does not poll loses its partitions: also one with a future that is not polled, and
//! one with a listener that panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use quipu::testing::ManualClock;
use quipu::{Broker, BrokerConfig, Consumer, ConsumerBuilder, Record, TopicConfig};

const NOW: Duration = Duration::ZERO;
const INTERVAL: Duration = Duration::from_secs(60);

fn broker() -> (Broker, ManualClock) {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    (broker, clock)
}

fn builder(broker: &Broker) -> ConsumerBuilder {
    broker.consumer("g").max_poll_interval(INTERVAL)
}

fn member(broker: &Broker) -> Consumer {
    let mut member = builder(broker).subscribe(["t"]).unwrap();
    member.poll(NOW).unwrap();
    member
}

fn members(broker: &Broker) -> usize {
    broker.group("g").unwrap().describe().unwrap().members.len()
}

fn send(broker: &Broker) {
    broker.producer().send("t", Record::new("v")).unwrap().wait().unwrap();
}

/// Kafka's default of `max.poll.interval.ms`.
#[test]
fn by_default_a_member_may_be_silent_for_five_minutes() {
    let (broker, clock) = broker();
    let mut member = broker.consumer("g").subscribe(["t"]).unwrap();
    member.poll(NOW).unwrap();
    clock.advance(Duration::from_secs(300) - Duration::from_nanos(1));
    assert_eq!(members(&broker), 1);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(members(&broker), 0);
}

#[test]
fn a_future_that_was_never_polled_is_no_poll() {
    let (broker, clock) = broker();
    let mut member = member(&broker);
    let unpolled = member.recv();
    clock.advance(INTERVAL - Duration::from_nanos(1));
    assert_eq!(members(&broker), 1);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(members(&broker), 0, "it was expelled");
    drop(unpolled);
}

#[test]
fn a_future_that_waits_counts_as_polling_until_it_is_woken() {
    let (broker, clock) = broker();
    let mut first = member(&broker);
    let mut recv = pin!(first.recv());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(recv.as_mut().poll(&mut cx).is_pending());
    for _ in 0..10 {
        clock.advance(INTERVAL);
    }
    assert_eq!(members(&broker), 1, "nothing has woken it");
    send(&broker);
    clock.advance(INTERVAL);
    assert_eq!(members(&broker), 1, "it was woken less than an interval ago, as far as is known");
    clock.advance(INTERVAL);
    assert_eq!(members(&broker), 0);
    let second = member(&broker);
    assert_eq!(second.assignment().len(), 1);
    // It finds out when it is polled again, and is a member again.
    assert!(recv.as_mut().poll(&mut cx).is_pending());
    assert_eq!(members(&broker), 2);
}

#[test]
fn a_future_that_is_polled_after_each_wake_stays() {
    let (broker, clock) = broker();
    let mut member = member(&broker);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..5 {
        let mut recv = pin!(member.recv());
        assert!(recv.as_mut().poll(&mut cx).is_pending());
        clock.advance(INTERVAL);
        send(&broker);
        // The look at the end of the interval notes that it was woken, and the poll takes that back.
        clock.advance(INTERVAL);
        assert!(recv.as_mut().poll(&mut cx).is_ready());
        assert_eq!(members(&broker), 1);
    }
    clock.advance(INTERVAL);
    assert_eq!(members(&broker), 0, "the last one was ready: the next poll was due");
}

#[test]
fn a_future_that_is_dropped_ends_the_poll() {
    let (broker, clock) = broker();
    let mut member = member(&broker);
    {
        let mut recv = pin!(member.recv());
        assert!(recv.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        clock.advance(10 * INTERVAL);
    }
    clock.advance(INTERVAL - Duration::from_nanos(1));
    assert_eq!(members(&broker), 1);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(members(&broker), 0);
}

#[test]
fn a_member_with_a_listener_that_panics_loses_its_partitions() {
    let (broker, clock) = broker();
    let mut first = builder(&broker).on_rebalance(|_| panic!("a bug")).subscribe(["t"]).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| first.poll(NOW))).is_err(), "its own caller gets the panic");
    let mut second = builder(&broker).subscribe(["t"]).unwrap();
    second.poll(NOW).unwrap();
    assert_eq!(second.assignment().len(), 0);
    clock.advance(INTERVAL / 2);
    second.poll(NOW).unwrap();
    clock.advance(INTERVAL / 2);
    second.poll(NOW).unwrap();
    assert_eq!((second.assignment().len(), members(&broker)), (1, 1));
    send(&broker);
    assert_eq!(second.poll(NOW).unwrap().len(), 1);
    // The panic has left the consumer whole: it tells its listener that the partition is lost.
    assert!(catch_unwind(AssertUnwindSafe(|| first.poll(NOW))).is_err());
}

/// A look at the group during the poll still sees the wake-up that the poll is about to take back.
#[test]
fn a_future_that_waits_counts_as_polling_also_if_time_passes_during_its_poll() {
    let (broker, clock) = broker();
    let passing = clock.clone();
    let builder = builder(&broker).on_rebalance(move |_| {
        passing.advance(INTERVAL);
        Ok(())
    });
    let mut member = builder.subscribe(["*"]).unwrap();
    let mut recv = pin!(member.recv());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(recv.as_mut().poll(&mut cx).is_pending());
    for topic in ["u", "v"] {
        // It wakes the future, and its next poll calls the listener.
        broker.create_topic(topic, TopicConfig::new()).unwrap();
        assert!(recv.as_mut().poll(&mut cx).is_pending());
        for _ in 0..4 {
            clock.advance(INTERVAL);
            assert_eq!(members(&broker), 1);
        }
    }
}
