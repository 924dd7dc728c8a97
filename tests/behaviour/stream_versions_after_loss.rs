//! A version of a stream holds the log epoch in which it was read. A snapshot, an expected version
//! or a reader of lost or truncated events is recognised, even when the stream has as many events
//! again.

use std::time::Duration;

use quipu::testing::{Disk, Survive};
use quipu::{Broker, Durability, Error, ExpectedVersion, Offset, Record, Stream, TopicConfig, Version};

use crate::common::open;

fn stream(broker: &Broker) -> Stream {
    broker.topic("t").unwrap().stream("k").unwrap()
}

fn events(what: &str, range: std::ops::Range<u64>) -> Vec<Record<'static>> {
    range.map(|n| Record::new(format!("{what} {n}"))).collect()
}

/// Five events that stay and five that a power loss takes, among events of another stream; the
/// version of ten, and the broker after it, with seven new events.
fn lost() -> (Disk, Broker, Version) {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let config =
        TopicConfig::streams().durability(Durability::Os).segment_bytes(1 << 10).max_record_bytes(700);
    let topic = broker.create_topic("t", config).unwrap();
    let other = topic.stream("other").unwrap();
    for n in 0..5 {
        stream(&broker).append(ExpectedVersion::Any, events("kept", n..n + 1)).unwrap();
        other.append(ExpectedVersion::Any, events("other", 0..2)).unwrap();
    }
    broker.sync().unwrap();
    for n in 5..10 {
        stream(&broker).append(Version::new(n), events("lost", n..n + 1)).unwrap();
        other.append(ExpectedVersion::Any, events("other", 0..1)).unwrap();
    }
    let snapshot = stream(&broker).version().unwrap();
    disk.crash(Survive::Synced);
    drop((broker, topic, other));
    let broker = open(&disk).unwrap();
    assert_eq!(stream(&broker).version().unwrap(), 5);
    stream(&broker).append(Version::new(5), events("new", 5..12)).unwrap();
    (disk, broker, snapshot)
}

fn assert_truncated<T: std::fmt::Debug>(answer: quipu::Result<T>, version: Version, case: &str) {
    let Err(Error::StreamTruncated { topic, key, version: found, to, .. }) = answer else {
        panic!("{case}: {answer:?}")
    };
    assert_eq!((topic.as_str(), &*key), ("t", &b"k"[..]), "{case}");
    assert_eq!((found, found.epoch(), to.get()), (version, version.epoch(), 5), "{case}");
}

#[test]
fn a_snapshot_of_events_that_a_power_loss_took_is_recognised() {
    let (_disk, broker, snapshot) = lost();
    assert_eq!(snapshot.to_string(), "10@e0");
    let stream = stream(&broker);
    // As it was stored, too.
    for snapshot in [snapshot, "10@e0".parse().unwrap(), "6@e0".parse().unwrap()] {
        assert_truncated(stream.load_from(snapshot), snapshot, "loaded");
        assert_truncated(stream.reader(snapshot).unwrap().poll(Duration::ZERO), snapshot, "read");
        assert_truncated(stream.append(snapshot, events("no", 0..1)), snapshot, "appended");
    }
    let mut transaction = broker.transaction();
    transaction.append(&stream, snapshot, events("no", 0..1));
    assert_truncated(transaction.commit(), snapshot, "in a transaction");
    assert_eq!(stream.version().unwrap(), 12, "nothing was appended");
    // More events than there are, of a past that is gone.
    let beyond: Version = "15@e0".parse().unwrap();
    assert_truncated(stream.load_from(beyond), beyond, "beyond");
    // Up to the common history nothing changes, and the version in `to` can be used.
    for common in 0..=5 {
        let version: Version = format!("{common}@e0").parse().unwrap();
        assert_eq!(stream.load_from(version).unwrap().len() as u64, 12 - common);
    }
    let Err(Error::StreamTruncated { to, .. }) = stream.load_from(snapshot) else { panic!() };
    assert_eq!(stream.load_from(to).unwrap().iter().next().unwrap().value().unwrap(), b"new 5");
    // One without an epoch means its number, as ever.
    assert_eq!(stream.load_from(Version::new(10)).unwrap().len(), 2);
    // Results from now on are of the new history.
    let version = stream.version().unwrap();
    let epoch = Some(stream.partition().epoch());
    assert!(epoch > snapshot.epoch());
    assert_eq!(version.epoch(), epoch);
    let receipt = stream.append(version, events("more", 0..1)).unwrap();
    assert_eq!((receipt.version, receipt.version.epoch()), (Version::new(13), epoch));
    let history = stream.load().unwrap();
    assert!(history.versions().all(|(version, _)| version.epoch() == epoch));
    assert!(stream.load_from(receipt.version).unwrap().is_empty());
}

#[test]
fn versions_stay_valid_over_rolls_restarts_and_later_truncations() {
    let (disk, broker, _) = lost();
    let before = stream(&broker).version().unwrap();
    // Clean, killed, and a power loss that takes nothing of it.
    broker.sync().unwrap();
    broker.close().unwrap();
    drop(broker);
    for survive in [Survive::Everything, Survive::Synced, Survive::Synced] {
        let broker = open(&disk).unwrap();
        let stream = stream(&broker);
        assert!(stream.load_from(before).unwrap().len() < 20);
        assert!(stream.append(stream.version().unwrap(), events("x", 0..8)).is_ok());
        broker.sync().unwrap();
        disk.crash(survive);
    }
    let broker = open(&disk).unwrap();
    let stream = stream(&broker);
    assert_eq!(stream.load_from(before).unwrap().len(), 24);
    assert!(stream.version().unwrap().epoch() > before.epoch());
    stream.append("12@e1".parse::<Version>().unwrap(), events("no", 0..1)).unwrap_err();
    // A truncation after it takes nothing from it either; one before it does.
    let log = stream.partition();
    let end = log.bounds().unwrap().log_end;
    log.truncate_to(Offset::new(end.get() - 1)).unwrap();
    assert_eq!(stream.load_from(before).unwrap().len(), 23);
    let mut follower = stream.reader(stream.version().unwrap()).unwrap();
    assert!(follower.poll(Duration::ZERO).unwrap().is_empty());
    log.truncate_to(Offset::new(1)).unwrap();
    stream.append(ExpectedVersion::Any, events("again", 1..60)).unwrap();
    for version in [before, "12".parse::<Version>().unwrap()] {
        let found = stream.load_from(version);
        match version.epoch() {
            Some(_) => {
                assert!(matches!(found, Err(Error::StreamTruncated { to, .. }) if to == 1), "{found:?}")
            }
            None => assert_eq!(found.unwrap().len(), 60 - 12),
        }
    }
    // A reader at the end has delivered nothing, and does not continue in a diverged log.
    let found = follower.poll(Duration::ZERO);
    assert!(matches!(found, Err(Error::StreamTruncated { to, .. }) if to == 1), "{found:?}");
}

#[test]
fn a_version_of_an_epoch_that_the_log_never_had_is_refused() {
    let (_disk, broker, _) = lost();
    let stream = stream(&broker);
    let version: Version = "3@e9".parse().unwrap();
    let found = stream.load_from(version);
    assert!(matches!(found, Err(Error::StreamTruncated { to, .. }) if to == 0), "{found:?}");
    assert_eq!(stream.load_from("0@e9".parse().unwrap()).unwrap().len(), 12);
}

/// A retry finds its events, also if a power loss and other appends came in between.
#[test]
fn a_repeated_append_returns_a_version_of_the_current_epoch() {
    let (_disk, broker, _) = lost();
    let stream = stream(&broker);
    let event = || [Record::new("once").event_id("e-1")];
    let expected: Version = "4@e0".parse().unwrap();
    let conflict = stream.append(expected, event());
    assert!(matches!(conflict, Err(Error::VersionConflict { current, .. }) if current == 12), "{conflict:?}");
    let now = stream.version().unwrap();
    let first = stream.append(now, event()).unwrap();
    let again = stream.append(now, event()).unwrap();
    assert_eq!((again.version, again.version.epoch()), (first.version, first.version.epoch()));
    // Two appends of one transaction count those before them.
    let mut transaction = broker.transaction();
    transaction.append(&stream, first.version, events("a", 0..2));
    transaction.append(&stream, first.version.plus(2), events("b", 0..1));
    transaction.commit().unwrap();
    assert_eq!(stream.version().unwrap(), 16);
}
