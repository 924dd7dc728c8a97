//! Whatever ends a step after its poll (an error, a panic of the user's code, a deleted topic) puts
//! the positions back: the events come again, and none is passed over.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op};
use quipu::{
    Broker, BrokerConfig, ConsumedRecord, Error, ExpectedVersion, Position, Projection, ReadModel, Record,
    Records, Result, TopicConfig, Transaction,
};

const NOW: Duration = Duration::ZERO;

fn open(disk: &Disk) -> Broker {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).on_disk(disk).unwrap()
}

fn send(broker: &Broker, topic: &str, values: &[&str]) {
    for value in values {
        broker.producer().send(topic, Record::new(*value)).unwrap().wait().unwrap();
    }
}

fn text(event: &ConsumedRecord<'_>) -> String {
    String::from_utf8(event.value().unwrap().to_vec()).unwrap()
}

/// Sees events, and fails where a test wants it to.
#[derive(Default)]
struct Seen {
    seen: Vec<String>,
    refuses_reset: bool,
    panics_at: Option<&'static str>,
    deletes: Option<(Broker, &'static str)>,
}

impl Projection for Seen {
    type Error = Error;

    fn apply(&mut self, event: &ConsumedRecord<'_>, _: &mut Transaction) -> Result<()> {
        let value = text(event);
        if self.panics_at == Some(&*value) {
            self.panics_at = None;
            panic!("a panic on purpose");
        }
        if let Some((broker, topic)) = self.deletes.take() {
            broker.delete_topic(topic)?;
        }
        self.seen.push(value);
        Ok(())
    }

    fn reset(&mut self, _: &mut Transaction) -> Result<()> {
        if std::mem::take(&mut self.refuses_reset) {
            return Err(Error::listener("refused"));
        }
        self.seen.clear();
        Ok(())
    }
}

#[test]
fn a_rebuild_that_the_projection_refuses_passes_over_no_event() {
    let broker = open(&Disk::new());
    broker.create_topic("events", TopicConfig::new()).unwrap();
    let seen = Seen { refuses_reset: true, ..Seen::default() };
    let mut projector = broker.consumer("p").project(["events"], seen).unwrap();
    send(&broker, "events", &["1"]);
    projector.catch_up(|_| {}).unwrap();
    send(&broker, "events", &["2", "3", "4"]);
    assert!(matches!(projector.rebuild(), Err(Error::Listener { .. })));
    send(&broker, "events", &["5"]);
    projector.catch_up(|_| {}).unwrap();
    assert_eq!(projector.projection().seen, ["1", "2", "3", "4", "5"]);
    // The second one is not refused.
    projector.rebuild().unwrap();
    assert!(projector.projection().seen.is_empty());
    projector.catch_up(|_| {}).unwrap();
    assert_eq!(projector.projection().seen, ["1", "2", "3", "4", "5"]);
}

#[test]
fn a_rebuild_whose_commit_fails_starts_over_with_the_next_step() {
    let disk = Disk::new();
    let broker = open(&disk);
    broker.create_topic("events", TopicConfig::new()).unwrap();
    send(&broker, "events", &["1", "2", "3"]);
    let mut projector = broker.consumer("p").project(["events"], Seen::default()).unwrap();
    projector.catch_up(|_| {}).unwrap();
    disk.fail_always(Op::Write, 1, std::io::ErrorKind::StorageFull);
    assert!(matches!(projector.rebuild(), Err(Error::DiskFull { .. })));
    assert!(matches!(projector.step(NOW), Err(Error::DiskFull { .. })), "nothing is applied before");
    disk.clear_faults();
    assert_eq!(projector.catch_up(|_| {}).unwrap(), 3);
    assert_eq!(projector.projection().seen, ["1", "2", "3"]);
}

#[test]
fn events_come_again_after_a_projection_panicked() {
    let broker = open(&Disk::new());
    broker.create_topic("events", TopicConfig::new()).unwrap();
    broker.create_topic("copies", TopicConfig::new()).unwrap();
    send(&broker, "events", &["0", "1", "2"]);
    let calls = Cell::new(0);
    let copy = |event: &ConsumedRecord<'_>, changes: &mut Transaction| -> Result<()> {
        calls.set(calls.get() + 1);
        assert_ne!(calls.get(), 2, "a panic on purpose");
        changes.send("copies", Record::from(event));
        Ok(())
    };
    let mut projector = broker.consumer("p").project(["events"], copy).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(projector.step(NOW)))).is_err());
    assert_eq!(projector.step(NOW).unwrap().applied, 3);
    send(&broker, "events", &["3"]);
    assert_eq!(projector.step(NOW).unwrap().applied, 1);
    assert_eq!(broker.topic("copies").unwrap().partition(0).unwrap().bounds().unwrap().log_end, 4);
}

#[test]
fn events_come_again_after_a_panic_in_the_middle_of_a_poll() {
    let broker = open(&Disk::new());
    broker.create_topic("events", TopicConfig::new()).unwrap();
    send(&broker, "events", &["1", "2", "3"]);
    let seen = Seen { panics_at: Some("2"), ..Seen::default() };
    let mut projector = broker.consumer("p").project(["events"], seen).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(projector.step(NOW)))).is_err());
    projector.catch_up(|_| {}).unwrap();
    assert_eq!(projector.projection().seen, ["1", "1", "2", "3"]);
}

/// The step fails as a whole, because its offsets of the deleted topic cannot be committed.
#[test]
fn a_topic_of_a_glob_that_is_deleted_during_a_step_loses_no_event_of_the_others() {
    let broker = open(&Disk::new());
    for topic in ["events.a", "events.b"] {
        broker.create_topic(topic, TopicConfig::new()).unwrap();
        send(&broker, topic, &[topic]);
    }
    let seen = Seen { deletes: Some((broker.clone(), "events.a")), ..Seen::default() };
    let mut projector = broker.consumer("p").project(["events.*"], seen).unwrap();
    let failed = projector.step(NOW);
    assert!(matches!(failed, Err(Error::CommitRejected { .. })), "{failed:?}");
    assert_eq!(projector.step(NOW).unwrap().applied, 1);
    assert_eq!(projector.projection().seen.last().unwrap(), "events.b");
    assert_eq!(broker.group("p").unwrap().committed("events.b", 0).unwrap().unwrap().offset, 1);
}

/// A transaction with a consumer's offsets, and no other effect.
fn pass_on(broker: &Broker, consumer: &quipu::Consumer, records: &Records, to: &str) -> Result<()> {
    let mut transaction = broker.transaction();
    for record in records {
        transaction.send(to, Record::from(&record));
    }
    transaction.offsets(consumer, records);
    transaction.commit().map(drop)
}

#[test]
fn records_of_a_transaction_that_is_not_committed_are_polled_again() {
    let broker = open(&Disk::new());
    broker.create_topic("in", TopicConfig::new()).unwrap();
    broker.create_topic("out", TopicConfig::new()).unwrap();
    let accounts = broker.create_topic("accounts", TopicConfig::streams()).unwrap();
    send(&broker, "in", &["1", "2"]);
    let mut consumer = broker.consumer("g").max_records(1).subscribe(["in"]).unwrap();
    let next = |consumer: &mut quipu::Consumer| {
        let records = consumer.poll(NOW).unwrap();
        let value = records.iter().next().map(|record| text(&record));
        (records, value)
    };
    // One that fails.
    let (records, value) = next(&mut consumer);
    assert_eq!(value.as_deref(), Some("1"));
    assert!(matches!(pass_on(&broker, &consumer, &records, "nothing"), Err(Error::UnknownTopic { .. })));
    // One that is dropped.
    let (records, value) = next(&mut consumer);
    assert_eq!(value.as_deref(), Some("1"));
    broker.transaction().offsets(&consumer, &records);
    // One whose thread panics.
    let (records, value) = next(&mut consumer);
    assert_eq!(value.as_deref(), Some("1"));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut transaction = broker.transaction();
        transaction.offsets(&consumer, &records);
        panic!("a panic on purpose");
    }));
    assert!(panicked.is_err());
    // One that conflicts, and that no caller waits for.
    let (records, value) = next(&mut consumer);
    assert_eq!(value.as_deref(), Some("1"));
    let mut transaction = broker.transaction();
    let account = accounts.stream("a").unwrap();
    transaction.append(&account, ExpectedVersion::Exists, [Record::new("v")]).offsets(&consumer, &records);
    transaction.commit_async().detach();
    // Two that are committed.
    for expected in ["1", "2"] {
        let (records, value) = next(&mut consumer);
        assert_eq!(value.as_deref(), Some(expected));
        pass_on(&broker, &consumer, &records, "out").unwrap();
    }
    assert!(consumer.poll(NOW).unwrap().is_empty());
}

/// The positions go back before the automatic commit, which would count the records as processed.
#[test]
fn an_automatic_commit_does_not_cover_records_of_a_failed_transaction() {
    let broker = open(&Disk::new());
    broker.create_topic("in", TopicConfig::new()).unwrap();
    send(&broker, "in", &["1", "2"]);
    for closes in [false, true] {
        let group = format!("g-{closes}");
        let mut consumer = broker.consumer(&group).auto_commit(NOW).subscribe(["in"]).unwrap();
        let records = consumer.poll(NOW).unwrap();
        assert_eq!(records.len(), 2);
        assert!(pass_on(&broker, &consumer, &records, "nothing").is_err());
        if closes {
            consumer.close().unwrap();
        } else {
            assert_eq!(consumer.poll(NOW).unwrap().len(), 2);
        }
        let committed = broker.group(&group).unwrap().committed("in", 0).unwrap();
        assert!(committed.is_none_or(|committed| committed.offset == 0), "{closes}");
    }
}

#[test]
fn a_seek_after_a_failed_transaction_counts() {
    let broker = open(&Disk::new());
    broker.create_topic("in", TopicConfig::new()).unwrap();
    send(&broker, "in", &["1", "2", "3"]);
    let mut consumer = broker.consumer("g").subscribe(["in"]).unwrap();
    let records = consumer.poll(NOW).unwrap();
    assert!(pass_on(&broker, &consumer, &records, "nothing").is_err());
    consumer.seek(&"in/0@2#0".parse().unwrap()).unwrap();
    let records = consumer.poll(NOW).unwrap();
    assert_eq!(records.iter().map(|record| text(&record)).collect::<Vec<_>>(), ["3"]);
}

/// Keeps its positions beside its rows. Forgets no position of a topic that is gone.
#[derive(Default)]
struct Rows {
    rows: Vec<String>,
    positions: Vec<Position>,
    panics: bool,
}

impl ReadModel for Rows {
    type Error = Error;

    fn positions(&mut self) -> Result<Vec<Position>> {
        Ok(self.positions.clone())
    }

    fn apply(&mut self, events: &Records, next: &[Position]) -> Result<()> {
        assert!(!std::mem::take(&mut self.panics), "a panic on purpose");
        self.rows.extend(events.iter().map(|event| text(&event)));
        for position in next {
            self.positions.retain(|other| other.topic_partition() != position.topic_partition());
            self.positions.push(position.clone());
        }
        Ok(())
    }
}

#[test]
fn events_come_again_after_a_read_model_panicked() {
    let broker = open(&Disk::new());
    broker.create_topic("events", TopicConfig::new()).unwrap();
    send(&broker, "events", &["1", "2"]);
    let mut feed = broker.feed(["events"], Rows { panics: true, ..Rows::default() }).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(feed.step(NOW)))).is_err());
    assert_eq!(feed.step(NOW).unwrap().applied, 2);
    assert_eq!(feed.model().rows, ["1", "2"]);
}

/// A step of a feed is one poll, of at most 1 MiB.
#[test]
fn each_step_of_a_feed_returns_the_events_that_are_left() {
    let broker = open(&Disk::new());
    broker.create_topic("a", TopicConfig::new()).unwrap();
    let large = "x".repeat(300 << 10);
    for _ in 0..10 {
        send(&broker, "a", &[&large]);
    }
    let mut feed = broker.feed(["a"], Rows::default()).unwrap();
    let (mut left, mut steps) = (10, 0);
    while left > 0 {
        let progress = feed.step(NOW).unwrap();
        left -= progress.applied;
        steps += 1;
        assert_eq!(progress.lag, left);
    }
    assert!(steps > 1, "it was one step");
}

#[test]
fn a_feed_continues_without_a_topic_that_was_deleted() {
    let broker = open(&Disk::new());
    for topic in ["a", "b"] {
        broker.create_topic(topic, TopicConfig::new()).unwrap();
        send(&broker, topic, &[topic]);
    }
    let mut feed = broker.feed(["a", "b"], Rows::default()).unwrap();
    assert_eq!(feed.catch_up(|_| {}).unwrap(), 2);
    broker.delete_topic("a").unwrap();
    send(&broker, "b", &["b2"]);
    let progress = feed.step(NOW).unwrap();
    assert_eq!((progress.applied, progress.lag), (1, 0));
    // The model still has a position in the deleted topic when the reader is placed again.
    let mut model = feed.into_model();
    assert_eq!(model.positions.len(), 2);
    model.panics = true;
    let wrong = broker.feed(["b"], Rows { positions: model.positions.clone(), ..Rows::default() });
    assert!(matches!(wrong, Err(Error::NotAssigned { .. })), "a new feed has never read that topic");
    model.positions.retain(|position| position.topic == "b");
    let mut feed = broker.feed(["b"], model).unwrap();
    send(&broker, "b", &["b3"]);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(feed.step(NOW)))).is_err());
    assert_eq!(feed.step(NOW).unwrap().applied, 1);
    assert_eq!(feed.model().rows.last().unwrap(), "b3");
}

#[test]
fn a_feed_that_is_placed_again_ignores_positions_in_a_deleted_topic() {
    let broker = open(&Disk::new());
    for topic in ["a", "b"] {
        broker.create_topic(topic, TopicConfig::new()).unwrap();
        send(&broker, topic, &[topic]);
    }
    let mut feed = broker.feed(["a", "b"], Rows::default()).unwrap();
    assert_eq!(feed.catch_up(|_| {}).unwrap(), 2);
    broker.delete_topic("a").unwrap();
    let mut model = feed.into_model();
    model.panics = true;
    broker.create_topic("a", TopicConfig::new()).unwrap();
    let mut feed = broker.feed(["a", "b"], model).unwrap();
    broker.delete_topic("a").unwrap();
    send(&broker, "b", &["b2"]);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(feed.step(NOW)))).is_err());
    assert_eq!(feed.step(NOW).unwrap().applied, 1);
    assert_eq!(feed.model().rows, ["a", "b", "b2"]);
}
