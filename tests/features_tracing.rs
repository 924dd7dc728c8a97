//! The feature `tracing`: a subscriber gets spans and events, and none for a record.

#![cfg(feature = "tracing")]
#![allow(clippy::unwrap_used)]

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{BrokerConfig, Cleanup, Durability, Error, Record, TopicConfig};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Metadata, Subscriber};

/// Notes each call as a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Lines {
    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    /// How many lines have all of these parts.
    fn count(&self, parts: &[&str]) -> usize {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "quipu"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Line(format!("span {}", span.metadata().name()));
        span.record(&mut line);
        self.push(line.0);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.push(line.0);
    }

    fn enter(&self, _: &Id) {
        self.push("enter".to_string());
    }

    fn exit(&self, _: &Id) {
        self.push("exit".to_string());
    }
}

#[test]
fn a_subscriber_gets_openings_rolls_compactions_rebalances_and_failures() {
    let (lines, disk) = (Lines::default(), Disk::new());
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1);
    tracing::subscriber::with_default(lines.clone(), || {
        let broker = config.clone().on_disk(&disk).unwrap();
        assert_eq!((lines.count(&["span open"]), lines.count(&["INFO", "opened", "clean=true"])), (1, 1));

        let compacted = TopicConfig::new().segment_bytes(4096).cleanup(Cleanup::Compact);
        let topic = broker.create_topic("t", compacted.min_cleanable_dirty_ratio(0.0)).unwrap();
        let producer = broker.producer();
        for _ in 0..8 {
            producer.send(&topic, Record::new(vec![7; 1000]).key("k")).unwrap().wait().unwrap();
        }
        assert!(lines.count(&["DEBUG", "rolled", "topic=t", "partition=0"]) > 0);
        topic.partition(0).unwrap().compact().unwrap().unwrap();
        assert_eq!(lines.count(&["span compact topic=t partition=0"]), 1);
        assert_eq!(lines.count(&["INFO", "compacted", "records_after="]), 1);

        let mut consumer = broker.consumer("billing").subscribe("t").unwrap();
        assert!(!consumer.poll(Duration::ZERO).unwrap().is_empty());
        assert_eq!(lines.count(&["INFO", "rebalanced", "group=billing", "assigned", "count=1"]), 1);
        // A record, a batch and a poll are no event.
        let before = lines.0.lock().unwrap().len();
        producer.send(&topic, Record::new("v").key("k")).unwrap().wait().unwrap();
        consumer.poll(Duration::ZERO).unwrap();
        assert_eq!(lines.0.lock().unwrap().len(), before);

        let synced = TopicConfig::new().durability(Durability::Sync);
        let synced = broker.create_topic("synced", synced).unwrap();
        producer.send(&synced, Record::new("v")).unwrap().wait().unwrap();
        disk.fail(Op::Sync, 0, std::io::ErrorKind::Other);
        producer.send(&synced, Record::new("v")).unwrap().wait().unwrap_err();
        assert_eq!(lines.count(&["ERROR", "poisoned", "topic=synced"]), 1);
        disk.crash(Survive::Everything);
        drop((consumer, producer, topic, synced, broker));

        config.on_disk(&disk).unwrap();
        assert!(lines.count(&["INFO", "recovered", "topic=t"]) == 1);
        assert_eq!(lines.count(&["opened", "clean=false"]), 1);
    });
    assert_eq!(lines.count(&["enter"]), lines.count(&["exit"]));
}

/// Panics at each event of a rebalance.
struct Panics;

impl Subscriber for Panics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "quipu"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        assert!(!line.0.contains("rebalanced"), "a bug in a subscriber");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_subscriber_that_panics_loses_no_record_of_a_poll_and_is_reported() {
    tracing::subscriber::with_default(Panics, || {
        let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
        broker.create_topic("orders", TopicConfig::new()).unwrap();
        broker.producer().send("orders", Record::new("v")).unwrap().wait().unwrap();
        let mut consumer = broker.consumer("billing").subscribe("orders").unwrap();
        assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
        assert_eq!(broker.stats().panics, 1);
        consumer.close().unwrap();
        assert!(matches!(broker.close(), Err(Error::Panicked { times: 2, .. })));
    });
}
