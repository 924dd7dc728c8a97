//! Projections: every event is applied exactly once, whatever fails in between, and a rebuild
//! starts from the beginning.

use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, ConsumedRecord, Durability, Error, ExpectedVersion, Offset, Position,
    Projection, ReadModel, Record, Records, Result, Start, Topic, TopicConfig, Transaction,
};

use crate::common::small;

const NOW: Duration = Duration::ZERO;

fn open(disk: &Disk) -> Result<Broker> {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).durability(Durability::Sync).on_disk(disk)
}

fn events(broker: &Broker) -> Result<Topic> {
    let config = TopicConfig::streams().partitions(2).segment_bytes(1 << 10).max_record_bytes(700);
    broker.ensure_topic("events", config)
}

fn append(broker: &Broker, from: u64, to: u64) -> Result<()> {
    for n in from..to {
        let stream = events(broker)?.stream(format!("k{}", n % 5))?;
        stream.append(ExpectedVersion::Any, [Record::new(n.to_string())])?;
    }
    Ok(())
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8(bytes.unwrap().to_vec()).unwrap()
}

/// The values of a topic, by partition.
fn values(broker: &Broker, topic: &str) -> Vec<Vec<String>> {
    let of = |partition: quipu::Partition| {
        let records = partition.read(Start::Beginning, usize::MAX).unwrap();
        records.iter().map(|record| text(record.value())).collect()
    };
    broker.topic(topic).unwrap().partitions().into_iter().map(of).collect()
}

/// Sends its events on, into the same partition, with a number of its own.
struct Copy {
    applied: u64,
    fails_at: Option<u64>,
}

impl Projection for Copy {
    type Error = Box<dyn std::error::Error>;

    fn apply(
        &mut self,
        event: &ConsumedRecord<'_>,
        changes: &mut Transaction,
    ) -> std::result::Result<(), Self::Error> {
        if self.fails_at == Some(self.applied) {
            return Err("no".into());
        }
        self.applied += 1;
        // The same key goes to the same partition.
        changes.send("copies", Record::from(event));
        Ok(())
    }

    fn reset(&mut self, _: &mut Transaction) -> std::result::Result<(), Self::Error> {
        self.applied = 0;
        Ok(())
    }
}

fn copy() -> Copy {
    Copy { applied: 0, fails_at: None }
}

fn prepared(broker: &Broker) -> Result<()> {
    events(broker)?;
    broker.ensure_topic("copies", TopicConfig::new().partitions(2)).map(|_| ())
}

#[test]
fn every_event_is_projected_once_after_a_crash_at_any_operation() {
    let workload = |disk: &Disk| -> std::result::Result<(), Box<dyn std::error::Error>> {
        let broker = open(disk)?;
        prepared(&broker)?;
        append(&broker, 0, 12)?;
        let mut projector = broker.consumer("copy").project(["events"], copy())?;
        for n in 0..3 {
            projector.step(NOW)?;
            append(&broker, 12 + 4 * n, 16 + 4 * n)?;
        }
        drop(projector);
        broker.close()?;
        Ok(())
    };
    let whole = Disk::new();
    workload(&whole).unwrap();
    let mut unfinished = 0;
    for nth in 1..=whole.ops() {
        let disk = Disk::new();
        disk.crash_at(nth);
        assert!(workload(&disk).is_err());
        disk.crash(if nth % 2 == 0 { Survive::Synced } else { Survive::Random(nth) });
        let broker = open(&disk).unwrap();
        prepared(&broker).unwrap();
        let before = values(&broker, "copies");
        let mut projector = broker.consumer("copy").project(["events"], copy()).unwrap();
        let applied = projector.catch_up(|_| {}).unwrap();
        let (copies, all) = (values(&broker, "copies"), values(&broker, "events"));
        assert_eq!(copies, all, "crash at {nth}");
        let count = |values: &[Vec<String>]| values.iter().map(Vec::len).sum::<usize>() as u64;
        assert_eq!(count(&before) + applied, count(&all), "crash at {nth}: none was applied twice");
        unfinished += u64::from(applied > 0 && !before.concat().is_empty());
    }
    assert!(unfinished > 20, "{unfinished}");
}

#[test]
fn a_projection_that_fails_commits_nothing_and_sees_the_events_again() {
    let broker = open(&Disk::new()).unwrap();
    prepared(&broker).unwrap();
    append(&broker, 0, 10).unwrap();
    let failing = Copy { applied: 0, fails_at: Some(7) };
    let mut projector = broker.consumer("copy").project(["events"], failing).unwrap();
    let failed = projector.catch_up(|_| {});
    assert_eq!(failed.unwrap_err().to_string(), "no");
    assert_eq!(values(&broker, "copies").concat(), Vec::<String>::new());
    assert_eq!(projector.projection().applied, 7);
    assert!(projector.step(NOW).is_err());
    drop(projector);
    let mut projector = broker.consumer("copy").project(["events"], copy()).unwrap();
    let mut lags = Vec::new();
    assert_eq!(projector.catch_up(|progress| lags.push(progress.lag)).unwrap(), 10);
    assert_eq!(lags.last(), Some(&0));
    assert_eq!(values(&broker, "copies"), values(&broker, "events"));
    assert_eq!(projector.step(NOW).unwrap().applied, 0);
}

#[test]
fn progress_reports_the_remaining_events() {
    let broker = open(&Disk::new()).unwrap();
    let events = broker.create_topic("events", TopicConfig::streams().partitions(2)).unwrap();
    broker.create_topic("copies", TopicConfig::new().partitions(2)).unwrap();
    let padding = "x".repeat(500);
    for n in 0..6_000 {
        let stream = events.stream(format!("k{}", n % 5)).unwrap();
        stream.append(ExpectedVersion::Any, [Record::new(&padding)]).unwrap();
    }
    let mut projector = broker.consumer("copy").project(["events"], copy()).unwrap();
    let mut seen = Vec::new();
    projector.catch_up(|progress| seen.push((progress.applied, progress.lag))).unwrap();
    let mut left = 6_000;
    for (applied, lag) in seen.iter().copied() {
        left -= applied;
        assert_eq!(lag, left);
    }
    assert!(left == 0 && seen.len() > 2, "{seen:?}");
}

#[test]
fn a_rebuild_starts_over_after_a_restart() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    prepared(&broker).unwrap();
    append(&broker, 0, 20).unwrap();
    let mut projector = broker.consumer("copy").project(["events"], copy()).unwrap();
    assert_eq!(projector.catch_up(|_| {}).unwrap(), 20);
    projector.rebuild().unwrap();
    assert_eq!(projector.projection().applied, 0);
    append(&broker, 20, 25).unwrap();
    assert_eq!(projector.catch_up(|_| {}).unwrap(), 25);
    assert_eq!(projector.projection().applied, 25);
    assert_eq!(values(&broker, "copies").concat().len(), 45);

    projector.rebuild().unwrap();
    drop(projector);
    disk.crash(Survive::Synced);
    drop(broker);
    let broker = open(&disk).unwrap();
    let mut projector = broker.consumer("copy").project(["events"], copy()).unwrap();
    assert_eq!(projector.catch_up(|_| {}).unwrap(), 25);
    drop(projector);

    // One that has just joined has nothing yet, and is rebuilt nevertheless.
    let mut projector = broker.consumer("copy").project(["events"], copy()).unwrap();
    projector.rebuild().unwrap();
    assert_eq!(projector.catch_up(|_| {}).unwrap(), 25);

    // Others have everything: there is nothing that it could build.
    let mut second = broker.consumer("copy").project(["events"], copy()).unwrap();
    let mut third = broker.consumer("copy").project(["events"], copy()).unwrap();
    for _ in 0..3 {
        projector.step(NOW).unwrap();
        second.step(NOW).unwrap();
        third.step(NOW).unwrap();
    }
    assert!(third.consumer().assignment().is_empty());
    assert!(third.rebuild().is_err());
}

/// Its applied events are gone, or those that it should apply: continuing elsewhere would apply
/// events twice, or never.
#[test]
fn a_projection_of_a_diverged_log_stops_until_it_is_rebuilt() {
    let broker = open(&Disk::new()).unwrap();
    let source = broker.create_topic("source", TopicConfig::new()).unwrap().partition(0).unwrap();
    broker.create_topic("copies", TopicConfig::new()).unwrap();
    let send = |from: u64, to: u64| {
        (from..to).for_each(|n| {
            let record = Record::new(n.to_string());
            drop(broker.producer().send(&source, record).unwrap().wait().unwrap());
        });
    };
    let copies = |event: &ConsumedRecord<'_>, changes: &mut Transaction| -> Result<()> {
        changes.send("copies", Record::from(event));
        Ok(())
    };
    let copied = || values(&broker, "copies").concat();
    send(0, 10);
    let mut projector = broker.consumer("copy").project(["source"], copies).unwrap();
    assert_eq!(projector.catch_up(|_| {}).unwrap(), 10);

    source.truncate_to(Offset::new(4)).unwrap();
    send(4, 6);
    for _ in 0..3 {
        let refused = projector.step(NOW);
        assert!(matches!(refused, Err(Error::Truncated { to, .. }) if to == 4), "{refused:?}");
    }
    assert_eq!(copied().len(), 10);
    projector.rebuild().unwrap();
    assert_eq!(projector.catch_up(|_| {}).unwrap(), 6);
    assert_eq!(copied().len(), 16);

    send(6, 12);
    source.delete_records(Offset::new(8)).unwrap();
    for _ in 0..3 {
        let refused = projector.step(NOW);
        let lost = |error: &Error| matches!(error, Error::OffsetOutOfRange { requested, earliest, .. } if *requested == 6 && *earliest == 8);
        assert!(refused.as_ref().is_err_and(lost), "{refused:?}");
    }
    projector.rebuild().unwrap();
    assert_eq!(projector.catch_up(|_| {}).unwrap(), 4);
}

/// What a power loss took of the events had been projected, and what came of it is still there.
#[test]
fn a_projection_of_events_lost_in_a_power_loss_stops_until_it_is_rebuilt() {
    for (kept, expected) in [(3, true), (8, false)] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        broker.create_topic("source", TopicConfig::new().durability(Durability::Os)).unwrap();
        broker.create_topic("copies", TopicConfig::new()).unwrap();
        let send = |broker: &Broker, from: u64, to: u64| {
            (from..to).for_each(|n| {
                drop(broker.producer().send("source", Record::new(n.to_string())).unwrap().wait().unwrap());
            });
        };
        send(&broker, 0, kept);
        broker.sync().unwrap();
        send(&broker, kept, 8);
        let mut projector = broker.consumer("copy").project(["source"], copy()).unwrap();
        assert_eq!(projector.catch_up(|_| {}).unwrap(), 8);
        std::mem::forget((projector, broker));
        disk.crash(Survive::Synced);

        for run in 0..3 {
            let broker = open(&disk).unwrap();
            assert_eq!(!broker.open_report().clamped.is_empty(), expected && run == 0);
            send(&broker, kept + run, kept + run + 1);
            broker.sync().unwrap();
            let mut projector = broker.consumer("copy").project(["source"], copy()).unwrap();
            let steps = [projector.step(NOW), projector.step(NOW)];
            for step in steps {
                let refused = step.as_ref().err().and_then(|error| error.downcast_ref::<Error>());
                let is_told = matches!(refused, Some(Error::Truncated { to, .. }) if *to == kept);
                assert_eq!(is_told, expected, "kept {kept}, run {run}: {step:?}");
            }
            let copied = values(&broker, "copies").concat().len() as u64;
            assert_eq!(copied, if expected { 8 } else { 8 + run + 1 });
            drop(projector);
            broker.close().unwrap();
        }
        let broker = open(&disk).unwrap();
        let mut projector = broker.consumer("copy").project(["source"], copy()).unwrap();
        projector.rebuild().unwrap();
        assert_eq!(projector.catch_up(|_| {}).unwrap(), kept + 3);
        assert_eq!(projector.step(NOW).unwrap().applied, 0);
    }
}

#[test]
fn a_table_topic_is_kept_small_by_compaction() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).in_memory().unwrap();
    events(&broker).unwrap();
    let config = small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(0.01).segment_bytes(64 << 10);
    let table = broker.create_topic("newest", config).unwrap();
    append(&broker, 0, 300).unwrap();
    let newest = |event: &ConsumedRecord<'_>, changes: &mut Transaction| -> Result<()> {
        changes.send("newest", Record::from(event));
        Ok(())
    };
    let mut projector = broker.consumer("newest").project(["events"], newest).unwrap();
    projector.catch_up(|_| {}).unwrap();
    clock.advance(Duration::from_secs(8 * 24 * 3600));
    broker.maintain().unwrap();
    let rows = table.partition(0).unwrap().read(Start::Beginning, usize::MAX).unwrap();
    let mut rows: Vec<_> = rows.iter().map(|row| (text(row.key()), text(row.value()))).collect();
    rows.sort();
    let expected: Vec<_> = (0..5).map(|n| (format!("k{n}"), (295 + n).to_string())).collect();
    assert_eq!(rows, expected);
}

/// Keeps its positions beside its rows, as a database would.
#[derive(Clone, Default)]
struct Rows {
    rows: Vec<String>,
    positions: Vec<Position>,
    fails: bool,
}

impl ReadModel for Rows {
    type Error = Error;

    fn positions(&mut self) -> Result<Vec<Position>> {
        Ok(self.positions.clone())
    }

    fn apply(&mut self, events: &Records, next: &[Position]) -> Result<()> {
        if self.fails {
            self.fails = false;
            return Err(Error::listener("refused"));
        }
        self.rows.extend(events.iter().map(|event| text(event.value())));
        self.positions = next.to_vec();
        Ok(())
    }
}

#[test]
fn an_external_model_continues_at_its_own_position() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    append(&broker, 0, 30).unwrap();
    let mut feed = broker.feed(["events"], Rows { fails: true, ..Rows::default() }).unwrap();
    assert!(matches!(feed.step(NOW), Err(Error::Listener { .. })));
    assert!(feed.model().rows.is_empty());
    let mut feed = feed.max_records(10);
    let mut seen = Vec::new();
    assert_eq!(feed.catch_up(|progress| seen.push((progress.applied, progress.lag))).unwrap(), 30);
    assert_eq!(seen[..3], [(10, 20), (10, 10), (10, 0)]);
    let stored = feed.into_model();
    append(&broker, 30, 40).unwrap();
    disk.crash(Survive::Synced);
    drop(broker);
    let broker = open(&disk).unwrap();
    let mut feed = broker.feed(["events"], stored.clone()).unwrap();
    assert_eq!(feed.catch_up(|_| {}).unwrap(), 10);
    let mut rows = feed.into_model().rows;
    rows.sort_by_key(|row| row.parse::<u64>().unwrap());
    assert_eq!(rows, (0..40).map(|n| n.to_string()).collect::<Vec<_>>());

    // Its applied events are gone: it must not continue.
    let partition = broker.topic("events").unwrap().partition(0).unwrap();
    partition.truncate_to(Offset::new(1)).unwrap();
    let mut feed = broker.feed(["events"], stored).unwrap();
    let missed = feed.catch_up(|_| {});
    assert!(matches!(missed, Err(Error::Truncated { .. })), "{missed:?}");
    let mut rebuilt = broker.feed(["events"], Rows::default()).unwrap();
    let left = values(&broker, "events").concat().len() as u64;
    assert_eq!(rebuilt.catch_up(|_| {}).unwrap(), left);

    let mut stranger = partition_end(&broker);
    stranger.topic = quipu::TopicName::new("copies").unwrap();
    let wrong = broker.feed(["events"], Rows { positions: vec![stranger], ..Rows::default() });
    assert!(matches!(wrong, Err(Error::NotAssigned { .. })), "{wrong:?}");
}

/// Stores its events, and returns one error: the reply of its database was lost.
#[derive(Default)]
struct Doubtful {
    stored: Rows,
    fails: bool,
}

impl ReadModel for Doubtful {
    type Error = Error;

    fn positions(&mut self) -> Result<Vec<Position>> {
        self.stored.positions()
    }

    fn apply(&mut self, events: &Records, next: &[Position]) -> Result<()> {
        self.stored.apply(events, next)?;
        if std::mem::take(&mut self.fails) { Err(Error::listener("refused")) } else { Ok(()) }
    }
}

#[test]
fn an_external_model_that_stored_more_than_it_reported_does_not_get_it_again() {
    let broker = open(&Disk::new()).unwrap();
    append(&broker, 0, 30).unwrap();
    let mut feed = broker.feed(["events"], Doubtful { fails: true, ..Doubtful::default() }).unwrap();
    assert!(matches!(feed.step(NOW), Err(Error::Listener { .. })));
    append(&broker, 30, 40).unwrap();
    feed.catch_up(|_| {}).unwrap();
    let mut rows = feed.into_model().stored.rows;
    rows.sort_by_key(|row| row.parse::<u64>().unwrap());
    assert_eq!(rows, (0..40).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// The poll that finds the new partition is the one whose records cannot be applied.
#[test]
fn a_model_that_fails_as_its_topic_grows_misses_nothing_of_the_new_partition() {
    let broker = open(&Disk::new()).unwrap();
    let topic = broker.create_topic("plain", TopicConfig::new()).unwrap();
    let mut feed = broker.feed(["plain"], Rows { fails: true, ..Rows::default() }).unwrap();
    assert_eq!(feed.step(NOW).unwrap().applied, 0);
    broker.alter_topic("plain", topic.config().clone().partitions(2)).unwrap();
    let added = broker.topic("plain").unwrap().partition(1).unwrap();
    broker.producer().send_all(&added, ["a", "b"].map(Record::new)).unwrap().wait().unwrap();
    assert!(matches!(feed.step(NOW), Err(Error::Listener { .. })));
    assert_eq!(feed.catch_up(|_| {}).unwrap(), 2);
    assert_eq!(feed.into_model().rows, ["a", "b"]);
}

fn partition_end(broker: &Broker) -> Position {
    broker.reader(["events"], Start::End).unwrap().positions()[0].clone()
}

#[test]
fn a_feed_continues_without_a_topic_that_is_deleted_while_it_reads() {
    let broker = open(&Disk::new()).unwrap();
    ["a", "b"].iter().for_each(|name| drop(broker.create_topic(name, TopicConfig::new()).unwrap()));
    let mut feed = broker.feed(&["a", "b"], Rows::default()).unwrap();
    assert_eq!(feed.step(NOW).unwrap().applied, 0);
    broker.delete_topic("a").unwrap();
    broker.producer().send("b", Record::new("event")).unwrap().wait().unwrap();
    assert_eq!(feed.catch_up(|_| {}).unwrap(), 1);
    assert_eq!(feed.into_model().rows, ["event"]);
}
