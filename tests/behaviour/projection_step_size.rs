//! A step of a projector is one transaction. If that makes more than a segment holds, the step is
//! divided, down to one event.

use std::time::Duration;

use quipu::testing::ManualClock;
use quipu::{
    Broker, BrokerConfig, Cleanup, ConsumedRecord, Error, Position, ReadModel, Record, Records, Result,
    TopicConfig, Transaction,
};

const NOW: Duration = Duration::ZERO;

fn broker() -> Broker {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).in_memory().unwrap()
}

/// A topic with `count` events, and a table with small segments.
fn prepared(count: usize) -> Broker {
    let broker = broker();
    let events = broker.create_topic("events", TopicConfig::new()).unwrap();
    let table =
        TopicConfig::new().cleanup(Cleanup::Compact).segment_bytes(256 << 10).max_record_bytes(64 << 10);
    broker.create_topic("table", table).unwrap();
    if count > 0 {
        let records = (0..count).map(|_| Record::new([7u8; 1_000]));
        broker.producer().send_all(&events, records).unwrap().wait().unwrap();
    }
    broker
}

fn rows(broker: &Broker) -> u64 {
    broker.topic("table").unwrap().partition(0).unwrap().bounds().unwrap().log_end.get()
}

fn row(event: &ConsumedRecord<'_>, changes: &mut Transaction) -> Result<()> {
    changes.send("table", Record::new(event.value().unwrap()).key(event.offset().get().to_string()));
    Ok(())
}

#[test]
fn a_step_that_makes_more_than_a_segment_holds_is_divided() {
    let broker = prepared(1_000);
    let mut projector = broker.consumer("p").project(["events"], row).unwrap();
    let mut steps = Vec::new();
    assert_eq!(projector.catch_up(|progress| steps.push(progress.applied)).unwrap(), 1_000);
    assert_eq!(rows(&broker), 1_000, "each event was applied once");
    let most = steps.iter().max().unwrap();
    assert!((100..=250).contains(most), "half as many at a time, until it fits: {steps:?}");
    assert_eq!(broker.group("p").unwrap().lag().unwrap(), 0);
}

#[test]
fn a_divided_step_takes_more_events_again_after_some_steps() {
    let broker = prepared(1_000);
    let mut projector = broker
        .consumer("p")
        .project(["events"], |event: &ConsumedRecord<'_>, changes: &mut Transaction| {
            let copies = if event.offset().get() < 100 { 30 } else { 0 };
            (0..copies).for_each(|n| {
                let key = format!("{}-{n}", event.offset());
                changes.send("table", Record::new(event.value().unwrap()).key(key));
            });
            Ok::<(), Error>(())
        })
        .unwrap();
    let mut steps = Vec::new();
    assert_eq!(projector.catch_up(|progress| steps.push(progress.applied)).unwrap(), 1_000);
    let smallest = steps.iter().filter(|applied| **applied > 0).min().unwrap();
    assert!((1..=8).contains(smallest) && *steps.iter().max().unwrap() >= 16, "{steps:?}");
}

#[test]
fn a_single_event_that_makes_too_much_is_an_error_and_those_before_it_are_applied() {
    let broker = prepared(8);
    let mut projector = broker
        .consumer("p")
        .project(["events"], |event: &ConsumedRecord<'_>, changes: &mut Transaction| {
            let copies = if event.offset() == 5 { 300 } else { 1 };
            (0..copies).for_each(|n| {
                let key = format!("{}-{n}", event.offset());
                changes.send("table", Record::new(event.value().unwrap()).key(key));
            });
            Ok::<(), Error>(())
        })
        .unwrap();
    let mut failures = 0;
    for _ in 0..10 {
        match projector.step(NOW) {
            Ok(_) => {}
            Err(Error::TransactionTooLarge { .. }) => failures += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(failures > 1, "it fails again and again");
    assert_eq!(rows(&broker), 5);
    assert_eq!(broker.group("p").unwrap().committed("events", 0).unwrap().unwrap().offset, 5);
}

#[test]
fn a_bound_on_the_events_of_a_step_can_be_set() {
    let broker = prepared(10);
    for (bound, expected) in [(4, vec![4, 4, 2]), (1, vec![1; 10])] {
        let name = format!("p{bound}");
        let mut projector = broker.consumer(&name).max_records(bound).project(["events"], row).unwrap();
        let mut steps = Vec::new();
        projector.catch_up(|progress| steps.push(progress.applied)).unwrap();
        steps.retain(|applied| *applied > 0);
        assert_eq!(steps, expected);
    }
    let mut feed = broker.feed(["events"], Counts::default()).unwrap().max_records(4);
    feed.catch_up(|_| {}).unwrap();
    assert_eq!(feed.model().0, [4, 4, 2]);
}

#[derive(Default)]
struct Counts(Vec<usize>);

impl ReadModel for Counts {
    type Error = Error;

    fn positions(&mut self) -> Result<Vec<Position>> {
        Ok(Vec::new())
    }

    fn apply(&mut self, events: &Records, _: &[Position]) -> Result<()> {
        self.0.push(events.len());
        Ok(())
    }
}
