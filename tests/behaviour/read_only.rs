//! A directory that is only read, without an owner and beside one: it shows what the owner's
//! readers see, follows whatever the owner does, and changes nothing.

use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Error, Offset, ReadOnlyBroker, ReadOnlyPartition, Record, Records,
    SkipReason, Start, TopicConfig,
};

use crate::common::{at, fill, open, send, small};

/// A disk whose owners publish their ends.
fn shared() -> Disk {
    let disk = Disk::new();
    disk.share();
    disk
}

fn outside(disk: &Disk) -> ReadOnlyBroker {
    BrokerConfig::new().clock(ManualClock::new()).read_only_on_disk(disk).unwrap()
}

/// Reads from the beginning to the visible end.
fn read_all(mut read: impl FnMut(Start) -> quipu::Result<Records>) -> Vec<(u64, String)> {
    let (mut found, mut from) = (Vec::new(), Start::Beginning);
    loop {
        let records = read(from).unwrap();
        let Some(last) = records.last() else { return found };
        from = Start::At(last.offset().plus(1));
        let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap_or(b"<null>").to_vec()).unwrap();
        found.extend(records.iter().map(|r| (r.offset().get(), text(r.value()))));
    }
}

/// The values of a partition, from its log start to its visible end.
fn values(partition: &ReadOnlyPartition) -> Vec<(u64, String)> {
    read_all(|from| partition.read(from, 64 << 10))
}

/// Compares everything that both show: topics, settings, bounds, epochs, records, and groups.
pub fn assert_same(owner: &Broker, outside: &ReadOnlyBroker, what: &str) {
    let theirs: Vec<_> = outside.topics().iter().map(|topic| topic.name().clone()).collect();
    let mine: Vec<_> = owner.topics().iter().map(|topic| topic.name().clone()).collect();
    assert_eq!(theirs, mine, "{what}");
    for topic in owner.topics() {
        let seen = outside.topic(topic.name().as_str()).unwrap();
        assert_eq!((seen.id(), seen.config()), (topic.id(), topic.config()), "{what}: {}", topic.name());
        assert_eq!(seen.partition_count(), topic.partition_count(), "{what}");
        for partition in topic.partitions() {
            let name = format!("{what}: {}/{}", topic.name(), partition.id());
            let seen = seen.partition(partition.id()).unwrap();
            let (mine, its) = (partition.bounds().unwrap(), seen.bounds().unwrap());
            assert_eq!((its.log_start, its.visible_end), (mine.log_start, mine.visible_end), "{name}");
            assert_eq!(seen.epoch(), partition.epoch(), "{name}");
            assert_eq!(values(&seen), read_all(|from| partition.read(from, 64 << 10)), "{name}");
        }
    }
    let groups = owner.groups().unwrap();
    assert_eq!(outside.groups().unwrap(), groups, "{what}");
    for group in groups {
        let (mine, its) = (
            owner.group(group.as_str()).unwrap().describe().unwrap(),
            outside.group(group.as_str()).unwrap(),
        );
        let progress = |group: &quipu::GroupDescription| {
            let committed = group.partitions.iter().filter(|at| at.committed.is_some());
            committed
                .map(|at| (at.topic.to_string(), at.partition, at.committed.clone(), at.lag))
                .collect::<Vec<_>>()
        };
        assert_eq!(progress(&its), progress(&mine), "{what}: {group}");
    }
}

/// Has the owner publish, and the reader look.
pub fn follow(owner: &Broker, outside: &ReadOnlyBroker) {
    owner.maintain().unwrap();
    outside.refresh().unwrap();
}

#[test]
fn without_an_owner_it_shows_what_an_opening_would_find_and_changes_nothing() {
    for survive in [Survive::Everything, Survive::Synced] {
        let disk = shared();
        let broker = open(&disk).unwrap();
        for durability in [Durability::Os, Durability::Sync] {
            let name = format!("{durability:?}").to_lowercase();
            let topic = broker.create_topic(&name, small().partitions(2).durability(durability)).unwrap();
            topic.partitions().iter().for_each(|partition| fill(&broker, partition, 30));
        }
        disk.crash(survive);
        drop(broker);
        let before = disk.fingerprint();
        let seen = outside(&disk);
        assert_eq!(seen.owner(), None);
        assert_same(&open(&disk.duplicate()).unwrap(), &seen, "a crash");
        assert!(!seen.open_report().clean);
        seen.close();
        assert_eq!(disk.fingerprint(), before, "nothing is changed");
        open(&disk).unwrap().close().unwrap();
        let before = disk.fingerprint();
        let seen = outside(&disk);
        assert!(seen.open_report().clean);
        assert_same(&open(&disk.duplicate()).unwrap(), &seen, "a clean close");
        assert_eq!(disk.fingerprint(), before, "nothing is changed");
    }
}

#[test]
fn a_directory_without_a_broker_is_refused_and_nothing_is_made_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = Broker::open_read_only(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    assert!(Broker::open_read_only(dir.path().join("missing")).is_err());
    assert!(!dir.path().join("missing").exists());
}

#[test]
fn it_follows_appends_and_rolls_of_an_owner() {
    for durability in [Durability::Os, Durability::Sync] {
        let disk = shared();
        let owner = open(&disk).unwrap();
        let topic = owner.create_topic("t", small().durability(durability)).unwrap();
        let partition = topic.partition(0).unwrap();
        fill(&owner, &partition, 3);
        owner.maintain().unwrap();
        let seen = outside(&disk);
        assert_eq!(seen.owner().unwrap().process, 0, "a disk in memory has no process");
        assert_same(&owner, &seen, "opened");
        let mut reader = seen.reader(["t"], Start::Beginning).unwrap();
        let mut read = 0;
        for end in 4..60 {
            fill(&owner, &partition, end);
            follow(&owner, &seen);
            while let records = reader.poll(Duration::ZERO).unwrap()
                && !records.is_empty()
            {
                for record in &records {
                    assert_eq!(record.offset(), read);
                    read += 1;
                }
            }
            assert_eq!(read, end, "{durability:?}");
        }
        assert!(partition.segments().len() > 3);
        assert_same(&owner, &seen, "after rolls");
    }
}

#[test]
fn a_record_that_waits_for_its_sync_is_not_shown() {
    let disk = shared();
    let owner = open(&disk).unwrap();
    let topic = owner.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    let partition = topic.partition(0).unwrap();
    send(&owner, &partition, "first").unwrap();
    owner.maintain().unwrap();
    let seen = outside(&disk);
    let theirs = seen.topic("t").unwrap().partition(0).unwrap();
    let held = disk.hold(Op::Sync, 1);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(&owner, &partition, "second"));
        held.wait_until_reached();
        owner.maintain().unwrap();
        seen.refresh().unwrap();
        assert_eq!(values(&theirs), [(0, "first".to_string())]);
        // Nor is it in one that is opened now.
        assert_eq!(values(&outside(&disk).topic("t").unwrap().partition(0).unwrap()).len(), 1);
        held.release();
        sending.join().unwrap().unwrap();
    });
    follow(&owner, &seen);
    assert_eq!(values(&theirs).len(), 2);
}

#[test]
fn a_topic_that_comes_goes_and_comes_again_is_another_one() {
    let disk = shared();
    let owner = open(&disk).unwrap();
    let topic = owner.create_topic("t", small()).unwrap();
    fill(&owner, &topic.partition(0).unwrap(), 5);
    owner.maintain().unwrap();
    let seen = outside(&disk);
    let theirs = seen.topic("t").unwrap();
    owner.delete_topic("t").unwrap();
    follow(&owner, &seen);
    assert!(matches!(theirs.partition(0), Err(Error::TopicDeleted { .. })));
    assert!(matches!(seen.topic("t"), Err(Error::UnknownTopic { .. })));
    let again = owner.create_topic("t", small().partitions(2)).unwrap();
    follow(&owner, &seen);
    assert_same(&owner, &seen, "without files");
    fill(&owner, &again.partition(1).unwrap(), 3);
    follow(&owner, &seen);
    assert_same(&owner, &seen, "with files");
    owner.alter_topic("t", small().partitions(3)).unwrap();
    fill(&owner, &again.partition(2).unwrap(), 3);
    follow(&owner, &seen);
    assert_same(&owner, &seen, "grown");
}

#[test]
fn a_truncation_reaches_a_reader_as_one() {
    let disk = shared();
    let owner = open(&disk).unwrap();
    let partition = owner.create_topic("t", small()).unwrap().partition(0).unwrap();
    fill(&owner, &partition, 20);
    owner.maintain().unwrap();
    let seen = outside(&disk);
    let mut reader = seen.reader(["t"], Start::Beginning).unwrap();
    while !reader.poll(Duration::ZERO).unwrap().is_empty() {}
    assert_eq!(reader.position("t", 0).unwrap().offset, 20);
    partition.truncate_to(Offset::new(7)).unwrap();
    fill(&owner, &partition, 30);
    follow(&owner, &seen);
    assert_same(&owner, &seen, "truncated");
    let records = reader.poll(Duration::ZERO).unwrap();
    let at_seven = |reason| matches!(reason, SkipReason::Truncated { at, .. } if at == 7);
    assert!(records.skipped().iter().any(|skipped| at_seven(skipped.reason)), "{records:?}");
}

#[test]
fn an_owner_is_followed_through_closes_and_kills() {
    let disk = shared();
    let mut owner = open(&disk).unwrap();
    let topic = owner.create_topic("t", small()).unwrap();
    fill(&owner, &topic.partition(0).unwrap(), 5);
    owner.maintain().unwrap();
    let seen = outside(&disk);
    let mut end = 5;
    for round in 0..20 {
        if round % 2 == 0 {
            owner.close().unwrap();
        } else {
            disk.crash(Survive::Everything);
        }
        drop(owner);
        seen.refresh().unwrap();
        assert_eq!(values(&seen.topic("t").unwrap().partition(0).unwrap()).len() as u64, end, "{round}");
        assert_eq!(seen.owner(), None);
        owner = open(&disk).unwrap();
        seen.refresh().unwrap();
        end += 3;
        fill(&owner, &owner.topic("t").unwrap().partition(0).unwrap(), end);
        follow(&owner, &seen);
        assert!(seen.owner().is_some());
        assert_same(&owner, &seen, &format!("round {round}"));
        // A record that was not published is found after a kill.
        end += 1;
        fill(&owner, &owner.topic("t").unwrap().partition(0).unwrap(), end);
    }
}

#[test]
fn a_poll_under_a_manual_clock_follows_when_the_clock_is_moved() {
    let disk = shared();
    let owner = open(&disk).unwrap();
    let partition = owner.create_topic("t", small()).unwrap().partition(0).unwrap();
    fill(&owner, &partition, 1);
    owner.maintain().unwrap();
    let clock = ManualClock::new();
    let seen = BrokerConfig::new().clock(clock.clone()).read_only_on_disk(&disk).unwrap();
    let mut reader = seen.reader(["t"], at(1)).unwrap();
    fill(&owner, &partition, 2);
    owner.maintain().unwrap();
    clock.advance(Duration::from_millis(20));
    assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 1);
    seen.close();
    assert!(matches!(reader.poll(Duration::ZERO), Err(Error::Closed)));
    assert!(matches!(seen.refresh(), Err(Error::Closed)));
}

#[test]
fn streams_and_committed_offsets_are_followed() {
    let disk = shared();
    let owner = open(&disk).unwrap();
    let accounts = owner.create_topic("accounts", TopicConfig::streams()).unwrap();
    let mine = accounts.stream("a").unwrap();
    owner.maintain().unwrap();
    let seen = outside(&disk);
    let theirs = seen.topic("accounts").unwrap().stream("a").unwrap();
    assert!(theirs.load().unwrap().is_empty());
    let mut consumer = owner.consumer("g").subscribe(&["accounts"]).unwrap();
    for n in 1..=40_u64 {
        mine.append(quipu::ExpectedVersion::Any, [Record::new(format!("{n}"))]).unwrap();
        accounts.stream("b").unwrap().append(quipu::ExpectedVersion::Any, [Record::new("other")]).unwrap();
        let records = consumer.poll(Duration::ZERO).unwrap();
        consumer.commit(&records).unwrap();
        follow(&owner, &seen);
        assert_eq!(theirs.version().unwrap().get(), n);
        assert_eq!(theirs.last().unwrap().unwrap().value(), Some(n.to_string().as_bytes()));
        assert_eq!(theirs.load().unwrap().len() as u64, n);
        assert_same(&owner, &seen, &format!("commit {n}"));
    }
}
