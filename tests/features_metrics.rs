//! The feature `metrics`: a recorder gets counters by the names of OpenTelemetry.

#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use quipu::testing::ManualClock;
use quipu::{BrokerConfig, Durability, Error, Record, TopicConfig};

#[derive(Default)]
struct Recorded {
    /// How often a counter was looked up.
    looked_up: AtomicU64,
    /// Whether each look-up of a counter of consumers panics.
    panics: bool,
    counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    histograms: Mutex<BTreeMap<String, Arc<Values>>>,
}

#[derive(Default)]
struct Values(Mutex<Vec<f64>>);

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

/// The name, and the values of the labels but for the system.
fn text(key: &Key) -> String {
    let values: Vec<&str> =
        key.labels().map(|label| label.value()).filter(|value| *value != "quipu").collect();
    format!("{} {}", key.name(), values.join(" "))
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.looked_up.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics || !key.name().contains("consume"), "a bug in a recorder");
        Counter::from_arc(self.counters.lock().unwrap().entry(text(key)).or_default().clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.histograms.lock().unwrap().entry(text(key)).or_default().clone())
    }
}

impl Recorded {
    fn count(&self, name: &str) -> u64 {
        self.counters.lock().unwrap().get(name).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

#[test]
fn a_recorder_gets_what_was_sent_consumed_synced_and_rebalanced() {
    let recorded = Recorded::default();
    let count = |name: &str| recorded.count(name);
    metrics::with_local_recorder(&recorded, || {
        let config = BrokerConfig::new().clock(ManualClock::new()).durability(Durability::Sync);
        let broker = config.in_memory().unwrap();
        let topic = broker.create_topic("orders", TopicConfig::new()).unwrap();
        let producer = broker.producer();
        let records = ["a", "b", "c"].map(Record::new);
        producer.send_all(&topic, records).unwrap().wait().unwrap();
        let mut consumer = broker.consumer("billing").subscribe("orders").unwrap();
        assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 3);
        assert_eq!(count("messaging.client.consumed.messages poll billing"), 3);
        assert_eq!(count("quipu.consumer.rebalances billing assigned"), 1);

        broker.maintain().unwrap();
        assert_eq!(count("messaging.client.sent.messages orders 0"), 3);
        assert_eq!(count("quipu.partition.syncs orders 0"), 1);
        assert!(count("quipu.partition.appended.bytes orders 0") > 3);
        let durations = recorded.histograms.lock().unwrap();
        assert_eq!(durations["quipu.partition.sync.duration orders 0"].0.lock().unwrap().len(), 1);
        drop(durations);
        // The growth since then only.
        producer.send(&topic, Record::new("d")).unwrap().wait().unwrap();
        broker.maintain().unwrap();
        assert_eq!(count("messaging.client.sent.messages orders 0"), 4);
    });
}

/// The result of a future that is ready at once.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

#[test]
fn records_that_are_returned_one_by_one_are_counted_in_pieces() {
    let recorded = Recorded::default();
    let consumed = "messaging.client.consumed.messages poll billing";
    metrics::with_local_recorder(&recorded, || {
        let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
        let topic = broker.create_topic("orders", TopicConfig::new()).unwrap();
        let records = (0..1_000).map(|n| Record::new(n.to_string()));
        broker.producer().send_all(&topic, records).unwrap().wait().unwrap();
        let mut consumer = broker.consumer("billing").subscribe("orders").unwrap();
        now(consumer.recv_one()).unwrap().unwrap().unwrap();
        let before = recorded.looked_up.load(Ordering::Relaxed);
        for _ in 1..900 {
            now(consumer.recv_one()).unwrap().unwrap().unwrap();
        }
        assert!((500..900).contains(&recorded.count(consumed)), "{}", recorded.count(consumed));
        assert!(recorded.looked_up.load(Ordering::Relaxed) - before < 10);
        // With those that a poll returns.
        assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 100);
        assert_eq!(recorded.count(consumed), 1_000);

        // Once there is none, and by the drop.
        for expected in [1_001, 1_002] {
            broker.producer().send(&topic, Record::new("v")).unwrap().wait().unwrap();
            now(consumer.recv_one()).unwrap().unwrap().unwrap();
            assert_eq!(recorded.count(consumed), expected - 1);
            if expected == 1_001 {
                assert!(now(consumer.recv_one()).is_none());
                assert_eq!(recorded.count(consumed), expected);
            }
        }
        drop(consumer);
        assert_eq!(recorded.count(consumed), 1_002);
    });
}

#[test]
fn a_recorder_that_panics_loses_no_record_of_a_poll_and_is_reported() {
    let recorded = Recorded { panics: true, ..Recorded::default() };
    metrics::with_local_recorder(&recorded, || {
        let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
        let topic = broker.create_topic("orders", TopicConfig::new()).unwrap();
        broker.producer().send_all(&topic, ["a", "b"].map(Record::new)).unwrap().wait().unwrap();
        let mut consumer = broker.consumer("billing").max_records(1).subscribe("orders").unwrap();
        assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
        assert_eq!(broker.stats().panics, 2, "of the rebalance, and of the record");
        assert!(now(consumer.recv_one()).unwrap().unwrap().is_some());
        drop(consumer);
        let closed = broker.close();
        let is_reported =
            |error: &Error| matches!(error, Error::Panicked { which, .. } if which.contains("recorder"));
        assert!(closed.as_ref().is_err_and(is_reported), "{closed:?}");
    });
}
