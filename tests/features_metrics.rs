//! The feature `metrics`: a recorder gets counters by the names of OpenTelemetry.

#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use quipu::testing::ManualClock;
use quipu::{BrokerConfig, Durability, Record, TopicConfig};

#[derive(Default)]
struct Recorded {
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
        Counter::from_arc(self.counters.lock().unwrap().entry(text(key)).or_default().clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.histograms.lock().unwrap().entry(text(key)).or_default().clone())
    }
}

#[test]
fn a_recorder_gets_what_was_sent_consumed_synced_and_rebalanced() {
    let recorded = Recorded::default();
    let count = |name: &str| {
        recorded.counters.lock().unwrap().get(name).map_or(0, |counter| counter.load(Ordering::Relaxed))
    };
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
