//! Streams: all events of one key, with versions that count them, over many segments, after every
//! kind of restart.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Cleanup, Compression, ConsumedRecord, Durability, Error, ExpectedVersion, History,
    Offset, ProducerConfig, ReadMode, Record, Start, Stream, Topic, TopicConfig, Version,
};

use crate::common::{Random, files, small};

const ANY: ExpectedVersion = ExpectedVersion::Any;

fn config() -> TopicConfig {
    TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700).index_interval_bytes(200)
}

fn open(disk: &Disk) -> Broker {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).on_disk(disk).unwrap()
}

fn topic(broker: &Broker) -> Topic {
    broker.ensure_topic("accounts", config()).unwrap()
}

fn values(history: &History) -> Vec<String> {
    history.iter().map(|event| text(&event)).collect()
}

fn text(event: &ConsumedRecord<'_>) -> String {
    String::from_utf8_lossy(event.value().unwrap_or(b"<null>")).into_owned()
}

fn append(stream: &Stream, expected: impl Into<ExpectedVersion>, value: &str) -> quipu::Result<u64> {
    stream.append(expected, [Record::new(value)]).map(|receipt| receipt.version.get())
}

fn conflict<T: std::fmt::Debug>(done: quipu::Result<T>) -> u64 {
    match done {
        Err(Error::VersionConflict { current, .. }) => current.get(),
        other => panic!("no conflict: {other:?}"),
    }
}

/// The events of each stream of [`many`], by key.
type Model = BTreeMap<String, Vec<String>>;

/// Appends batches of one to four events to some streams, so that each is spread over many
/// segments.
fn many(topic: &Topic, model: &mut Model, appends: u64, seed: u64) {
    let mut random = Random(seed);
    for _ in 0..appends {
        let key = format!("account-{}", random.below(9));
        let stream = topic.stream(&key).unwrap();
        let had = model.entry(key.clone()).or_default();
        let events: Vec<String> =
            (0..1 + random.below(4)).map(|n| format!("{key} event {}", had.len() as u64 + n)).collect();
        let records = events.iter().map(Record::new);
        let receipt = stream.append(Version::new(had.len() as u64), records).unwrap();
        had.extend(events);
        assert_eq!(receipt.version.get(), had.len() as u64);
    }
}

fn assert_model(topic: &Topic, model: &Model) {
    for (key, events) in model {
        let stream = topic.stream(key).unwrap();
        let history = stream.load().unwrap();
        assert_eq!(values(&history), *events, "{key}");
        assert_eq!((history.version().get(), history.len()), (events.len() as u64, events.len()));
        assert_eq!(stream.version().unwrap().get(), events.len() as u64);
        for from in 0..=events.len() {
            let since = stream.load_from(Version::new(from as u64)).unwrap();
            assert_eq!(values(&since), events[from..], "{key} from {from}");
            let newest = stream.last_n(from).unwrap();
            assert_eq!(values(&newest), events[events.len() - from..], "the newest {from} of {key}");
        }
        assert_eq!(
            conflict(append(&stream, Version::new(events.len() as u64 + 1), "no")),
            events.len() as u64
        );
    }
    assert!(topic.stream("absent").unwrap().load().unwrap().is_empty());
    assert_eq!(conflict(append(&topic.stream("absent").unwrap(), ExpectedVersion::Exists, "no")), 0);
}

#[test]
fn a_stream_is_the_records_of_its_key_in_order() {
    let broker = Broker::in_memory().unwrap();
    let accounts = broker.create_topic("accounts", TopicConfig::streams().partitions(3)).unwrap();
    let (a, b) = (accounts.stream("a").unwrap(), accounts.stream("b").unwrap());
    assert_eq!(append(&a, ExpectedVersion::Empty, "opened").unwrap(), 1);
    assert_eq!(append(&b, ANY, "b opened").unwrap(), 1);
    let receipt = a.append(Version::new(1), ["paid in", "paid out"].map(Record::from)).unwrap();
    assert_eq!(receipt.version, 3);
    let history = a.load().unwrap();
    assert_eq!(values(&history), ["opened", "paid in", "paid out"]);
    assert_eq!(
        (history.from_version().get(), history.version().get(), history.to_version().get()),
        (0, 3, 3)
    );
    let newest_first: Vec<_> = history.iter().rev().map(|event| text(&event)).collect();
    assert_eq!(newest_first, ["paid out", "paid in", "opened"]);
    let versions: Vec<_> = a.load_from(Version::new(1)).unwrap().versions().map(|(v, _)| v.get()).collect();
    assert_eq!(versions, [2, 3]);
    let last = a.last().unwrap().unwrap();
    assert_eq!(last.value(), Some(&b"paid out"[..]));
    assert_eq!(last.key(), Some(&b"a"[..]));
    assert_eq!(last.offset(), receipt.first.offset.plus(1));
    assert_eq!(values(&b.load().unwrap()), ["b opened"]);
    assert_eq!(a.partition().id().get(), quipu::partition_for_key(b"a", 3));
}

#[test]
fn each_expected_version_is_checked_and_a_conflict_returns_the_current_version() {
    let broker = Broker::in_memory().unwrap();
    let stream = broker.create_topic("t", TopicConfig::streams()).unwrap().stream("k").unwrap();
    assert_eq!(conflict(append(&stream, ExpectedVersion::Exists, "v")), 0);
    assert_eq!(conflict(append(&stream, Version::new(1), "v")), 0);
    assert_eq!(append(&stream, Version::ZERO, "v").unwrap(), 1);
    assert_eq!(conflict(append(&stream, ExpectedVersion::Empty, "v")), 1);
    assert_eq!(conflict(append(&stream, Version::ZERO, "v")), 1);
    assert_eq!(conflict(append(&stream, Version::new(2), "v")), 1);
    assert_eq!(append(&stream, ExpectedVersion::Exists, "v").unwrap(), 2);
    assert_eq!(append(&stream, Version::new(2), "v").unwrap(), 3);
    assert_eq!(append(&stream, ANY, "v").unwrap(), 4);
    let error = append(&stream, Version::new(9), "v").unwrap_err();
    assert_eq!(error.to_string(), "stream \"k\" of t is at version 4@e0, expected was version 9");
    assert_eq!(error.outcome(), quipu::Outcome::NotWritten);
    assert_eq!(conflict(stream.load_from(Version::new(5))), 4);
    assert_eq!(stream.load_from(Version::new(4)).unwrap().len(), 0);
}

#[test]
fn streams_over_many_segments_are_whole_while_open_after_a_close_and_after_a_crash() {
    let (disk, mut model) = (Disk::new(), Model::new());
    let broker = open(&disk);
    many(&topic(&broker), &mut model, 60, 1);
    assert_model(&topic(&broker), &model);
    broker.maintain().unwrap();
    assert_model(&topic(&broker), &model);
    assert!(files(&disk, "topics/accounts/0", ".keys").len() > 5);
    broker.close().unwrap();
    assert_eq!(
        files(&disk, "topics/accounts/0", ".keys").len(),
        files(&disk, "topics/accounts/0", ".log").len(),
        "the active segment's too"
    );

    let broker = open(&disk);
    assert_model(&topic(&broker), &model);
    many(&topic(&broker), &mut model, 60, 2);
    assert_model(&topic(&broker), &model);
    disk.crash(Survive::Everything);
    drop(broker);

    let broker = open(&disk);
    many(&topic(&broker), &mut model, 20, 3);
    assert_model(&topic(&broker), &model);
    broker.close().unwrap();
}

#[test]
fn key_indexes_are_derived_they_may_be_missing_short_or_damaged() {
    let (disk, mut model) = (Disk::new(), Model::new());
    let broker = open(&disk);
    many(&topic(&broker), &mut model, 60, 1);
    broker.maintain().unwrap();
    broker.close().unwrap();
    let indexes = files(&disk, "topics/accounts/0", ".keys");
    let mut random = Random(5);
    for case in 0..40 {
        let disk = disk.duplicate();
        for path in &indexes {
            let len = disk.read(path).unwrap().len() as u64;
            match (case + random.below(3)) % 5 {
                0 => disk.remove(path).unwrap(),
                1 => disk.truncate(path, random.below(len)).unwrap(),
                2 => disk.overwrite(path, 0, &vec![0; len as usize]).unwrap(),
                3 => disk.overwrite(path, len / 2, &vec![0; (len / 2) as usize]).unwrap(),
                _ => (0..20).for_each(|_| disk.flip_bit(path, random.below(len * 8)).unwrap()),
            }
        }
        let broker = open(&disk);
        assert_model(&topic(&broker), &model);
        broker.close().unwrap();
        // They have been built again.
        let broker = open(&disk);
        assert_model(&topic(&broker), &model);
    }
    // Another partition's, or of another time.
    let broker = open(&disk);
    for pair in indexes.windows(2) {
        let other = disk.read(&pair[0]).unwrap();
        disk.remove(&pair[1]).unwrap();
        disk.write_new(&pair[1], &other).unwrap();
    }
    assert_model(&topic(&broker), &model);
}

/// A broker whose key indexes have been damaged while it has them open.
fn with_damaged_indexes(mode: ReadMode) -> (Disk, Broker, Model) {
    let (disk, mut model) = (Disk::new(), Model::new());
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1).read_mode(mode);
    let broker = config.on_disk(&disk).unwrap();
    many(&topic(&broker), &mut model, 60, 1);
    broker.maintain().unwrap();
    assert_model(&topic(&broker), &model);
    for path in files(&disk, "topics/accounts/0", ".keys") {
        let len = disk.read(&path).unwrap().len() as u64;
        (88..len).step_by(7).for_each(|byte| disk.flip_bit(&path, byte * 8).unwrap());
    }
    (disk, broker, model)
}

#[test]
fn an_index_that_goes_bad_while_it_is_open_is_built_again() {
    for mode in [ReadMode::Map, ReadMode::Positional] {
        let (_disk, broker, mut model) = with_damaged_indexes(mode);
        assert_model(&topic(&broker), &model);
        many(&topic(&broker), &mut model, 30, 2);
        assert_model(&topic(&broker), &model);
    }
}

/// Damaged, and neither removed nor written: the disk takes no changes any more, and what the log
/// says can still be read.
#[test]
fn an_index_that_goes_bad_where_nothing_can_be_written_is_done_without() {
    for mode in [ReadMode::Map, ReadMode::Positional] {
        let (disk, broker, model) = with_damaged_indexes(mode);
        for op in [Op::Remove, Op::Write] {
            disk.fail_always(op, 1, std::io::ErrorKind::ReadOnlyFilesystem);
        }
        assert_model(&topic(&broker), &model);
        disk.clear_faults();
        broker.maintain().unwrap();
        assert_model(&topic(&broker), &model);
    }
}

#[test]
fn indexes_of_truncated_and_only_sent_events_are_written() {
    let (disk, mut model) = (Disk::new(), Model::new());
    let broker = open(&disk);
    many(&topic(&broker), &mut model, 60, 1);
    let partition = topic(&broker).partition(0).unwrap();
    let end = partition.bounds().unwrap().log_end.get();
    // Sealed and synced by the truncation: the worker has nothing to sync.
    partition.truncate_to(Offset::new(end - 1)).unwrap();
    topic(&broker).stream("absent").unwrap().version().unwrap();
    broker.maintain().unwrap();
    let indexes = || files(&disk, "topics/accounts/0", ".keys").len();
    assert_eq!(indexes(), partition.segments().iter().filter(|segment| segment.sealed).count());
    broker.close().unwrap();

    // A run in which no stream is read.
    let broker = open(&disk);
    for n in 0..20 {
        let record = Record::new(format!("sent {n}")).key("account-1");
        broker.producer().send(topic(&broker), record).unwrap().wait().unwrap();
    }
    let segments = topic(&broker).partition(0).unwrap().segments().len();
    broker.close().unwrap();
    assert_eq!(indexes(), segments, "the active one's too");
    let broker = open(&disk);
    let before = disk.ops_of(Op::Read);
    topic(&broker).stream("absent").unwrap().version().unwrap();
    let reads = disk.ops_of(Op::Read) - before;
    assert!(reads < 4 * segments as u64, "{reads} reads: segments were looked through");
}

#[test]
fn a_damaged_event_is_an_error_for_its_stream_and_for_no_other() {
    let (disk, mut model) = (Disk::new(), Model::new());
    let broker = open(&disk);
    many(&topic(&broker), &mut model, 60, 1);
    broker.maintain().unwrap();
    broker.close().unwrap();
    let segment = files(&disk, "topics/accounts/0", ".log")[2].clone();
    // In a body.
    let bytes = disk.read(&segment).unwrap();
    let victim = (0..9)
        .map(|n| format!("account-{n}"))
        .find(|key| {
            let key = key.as_bytes();
            bytes.windows(key.len()).position(|bytes| bytes == key).is_some_and(|at| {
                disk.flip_bit(&segment, (at as u64 + 2) * 8).unwrap();
                true
            })
        })
        .unwrap();
    let broker = open(&disk);
    let topic = topic(&broker);
    for (key, events) in &model {
        let loaded = topic.stream(key).unwrap().load();
        match loaded {
            Ok(history) if *key != victim => assert_eq!(values(&history), *events),
            Err(Error::Corrupt(corruption)) if *key == victim => {
                assert!(corruption.file.ends_with(segment.file_name().unwrap()), "{corruption}");
            }
            other => panic!("{key}: {other:?}"),
        }
        // The other streams are found, and can be appended to.
        let version = events.len() as u64;
        assert_eq!(topic.stream(key).unwrap().version().unwrap().get(), version);
        assert_eq!(append(&topic.stream(key).unwrap(), Version::new(version), "more").unwrap(), version + 1);
    }
}

/// The same where the damage is met at opening, in a segment that was sealed and not finished yet:
/// what it holds of the stream is not known, so no result treats it as empty,
/// neither now nor after maintenance and a restart.
#[test]
fn damage_met_at_opening_never_makes_a_stream_shorter() {
    let disk = Disk::new();
    let broker = open(&disk);
    let topic = broker.create_topic("accounts", config().durability(Durability::Sync)).unwrap();
    let stream = topic.stream("k").unwrap();
    for n in 0..30 {
        append(&stream, Version::new(n), &"v".repeat(60)).unwrap();
    }
    disk.crash(Survive::Synced);
    drop((stream, topic, broker));
    let logs = files(&disk, "topics/accounts/0", ".log");
    assert!(logs.len() > 3);
    for damaged in &logs[..logs.len() - 1] {
        // In the segment's header, a batch's, and a body.
        for position in [40, 96 + 20, 96 + 150, 96 + 400] {
            let disk = disk.duplicate();
            disk.flip_bit(damaged, position * 8).unwrap();
            for run in 0..3 {
                let broker = open(&disk);
                let case = format!("{} at {position}, run {run}", damaged.display());
                assert_eq!(broker.open_report().damaged.len(), 1, "{case}");
                let stream = broker.topic("accounts").unwrap().stream("k").unwrap();
                for _ in 0..2 {
                    let loaded = stream.load();
                    assert!(matches!(loaded, Err(Error::Corrupt(_))), "{case}: {loaded:?}");
                    let version = stream.version();
                    assert!(matches!(version, Err(Error::Corrupt(_))), "{case}: {version:?}");
                    let refused = append(&stream, ANY, "no");
                    assert!(matches!(refused, Err(Error::Corrupt(_))), "{case}: {refused:?}");
                    broker.maintain().unwrap();
                }
                broker.close().unwrap();
            }
        }
    }
}

/// A written event may not be visible yet: a stream that seems empty may hold the event that is
/// appended again, and its id be found nowhere.
#[test]
fn an_event_with_an_id_is_appended_once_while_nothing_of_its_stream_is_visible() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams().durability(Durability::Sync)).unwrap();
    let stream = topic.stream("k").unwrap();
    let log_end = || stream.partition().bounds().unwrap().log_end.get();
    // The partition's files are made: the next sync is that of an event.
    append(&topic.stream("other").unwrap(), ANY, "before").unwrap();
    let gate = disk.hold(Op::Sync, 1);
    thread::scope(|scope| {
        let first = scope.spawn(|| append(&stream, ANY, "opened").unwrap());
        gate.wait_until_reached();
        let again = || stream.append(ExpectedVersion::Exists, [Record::new("paid").event_id("e-1")]).unwrap();
        let tries = [scope.spawn(again), scope.spawn(again)];
        // Where they are appended without a check, both are there.
        for _ in 0..20_000 {
            if log_end() > 3 {
                break;
            }
            thread::yield_now();
        }
        gate.release();
        assert_eq!(first.join().unwrap(), 1);
        let receipts = tries.map(|tried| tried.join().unwrap());
        assert_eq!(receipts[0], receipts[1]);
    });
    assert_eq!(values(&stream.load().unwrap()), ["opened", "paid"]);
    let absent = topic.stream("absent").unwrap();
    let refused = absent.append(ExpectedVersion::Exists, [Record::new("paid").event_id("e-1")]);
    match refused {
        Err(Error::VersionConflict { expected: ExpectedVersion::Exists, current, .. }) => {
            assert_eq!(current, 0)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn events_sent_by_a_producer_count_in_the_version() {
    for compression in [Compression::None, Compression::Lz4] {
        let disk = Disk::new();
        let broker = open(&disk);
        let topic = broker.create_topic("t", config().compression(compression)).unwrap();
        let producer = broker.producer_with(ProducerConfig::new().linger(Duration::from_secs(1))).unwrap();
        for n in 0..200 {
            let record = Record::new(format!("{n} {}", "-".repeat(40))).key(format!("k{}", n % 3));
            producer.send(&topic, record).unwrap().detach();
        }
        producer.flush().unwrap();
        for (key, n) in [("k0", 67), ("k1", 67), ("k2", 66)] {
            let stream = topic.stream(key).unwrap();
            assert_eq!(stream.version().unwrap(), n);
            assert_eq!(append(&stream, Version::new(n), "more").unwrap(), n + 1);
            let history = stream.load().unwrap();
            assert!(history.iter().all(|event| event.key() == Some(key.as_bytes())));
            let offsets: Vec<_> = history.iter().map(|event| event.offset()).collect();
            assert!(offsets.is_sorted() && offsets.len() as u64 == n + 1);
            assert_eq!(values(&stream.load_from(Version::new(n)).unwrap()), ["more"]);
            assert_eq!(stream.load_from(Version::new(n / 2)).unwrap().len() as u64, n + 1 - n / 2);
        }
        let sent = broker.producer().send_all(&topic, ["k0", "k0"].map(|key| Record::new("v").key(key)));
        sent.unwrap().wait().unwrap();
        assert_eq!(topic.stream("k0").unwrap().version().unwrap(), 70);
    }
}

#[test]
fn every_append_goes_to_the_partition_of_its_key() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams().partitions(4)).unwrap();
    let right = topic.stream("k").unwrap().partition().clone();
    let wrong = topic.partitions().into_iter().find(|p| p.id() != right.id()).unwrap();
    let record = || Record::new("v").key("k");
    let refused = |done: quipu::Result<()>| assert!(matches!(done, Err(Error::Streams { .. })), "{done:?}");
    refused(broker.producer().send(&wrong, record()).map(|_| ()));
    refused(broker.producer().send_all(&wrong, [record()]).map(|_| ()));
    refused(wrong.append_at(Offset::ZERO, [record()]).map(|_| ()));
    let mut transaction = broker.transaction();
    transaction.send(&wrong, record());
    refused(transaction.commit().map(|_| ()));
    struct Zero(u32);
    impl quipu::Partitioner for Zero {
        fn partition(&self, _: &quipu::TopicName, _: Option<&[u8]>, _: Option<&[u8]>, _: u32) -> Option<u32> {
            Some(self.0)
        }
    }
    let stubborn = ProducerConfig::new().partitioner(Zero(wrong.id().get()));
    refused(broker.producer_with(stubborn).unwrap().send(&topic, record()).map(|_| ()));
    // No key is no stream's.
    let keyless =
        |done: quipu::Result<()>| assert!(matches!(done, Err(Error::MissingKey { .. })), "{done:?}");
    keyless(broker.producer().send(&topic, Record::new("v")).map(|_| ()));
    keyless(right.append_at(Offset::ZERO, [Record::new("v")]).map(|_| ()));
    let mut transaction = broker.transaction();
    transaction.send(&topic, Record::new("v"));
    keyless(transaction.commit().map(|_| ()));
    assert_eq!(topic.stream("k").unwrap().version().unwrap(), 0);
    broker.producer().send(&right, record()).unwrap().wait().unwrap();
    assert_eq!(topic.stream("k").unwrap().version().unwrap(), 1);
}

#[test]
fn events_of_another_stream_and_none_at_all_are_refused() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
    let stream = topic.stream("a").unwrap();
    let refused =
        |done: quipu::Result<_>| assert!(matches!(done, Err(Error::InvalidConfig { .. })), "{done:?}");
    refused(stream.append(ANY, [Record::new("v").key("b")]).map(|_| ()));
    refused(stream.append(ANY, []).map(|_| ()));
    stream.append(ANY, [Record::new("v").key("a")]).unwrap();
    let other = Broker::in_memory().unwrap();
    let mut transaction = other.transaction();
    transaction.append(&stream, ANY, [Record::new("v")]);
    assert!(matches!(transaction.commit(), Err(Error::ForeignBroker { .. })));
    assert_eq!(stream.version().unwrap(), 1);
}

#[test]
fn stream_topics_refuse_deletion_compaction_and_a_change_of_kind() {
    let broker = Broker::in_memory().unwrap();
    let plain = broker.create_topic("plain", TopicConfig::new()).unwrap();
    assert!(matches!(plain.stream("k"), Err(Error::Streams { .. })));
    let topic = broker.create_topic("t", TopicConfig::streams().partitions(2)).unwrap();
    assert!(topic.config().has_streams());
    append(&topic.stream("k").unwrap(), ANY, "v").unwrap();
    let partition = topic.stream("k").unwrap().partition().clone();
    assert!(matches!(partition.delete_records(Offset::new(1)), Err(Error::Streams { .. })));
    assert!(matches!(partition.compact(), Err(Error::NotCompacted { .. })));
    for (config, differs) in [
        (TopicConfig::new().partitions(2), ("streams", "true", "false")),
        (TopicConfig::streams().partitions(3), ("partitions", "2", "3")),
        (TopicConfig::streams(), ("partitions", "2", "1")),
    ] {
        match broker.alter_topic("t", config) {
            Err(Error::ConfigMismatch { field, found, asked, .. }) => {
                assert_eq!((field, &*found, &*asked), differs)
            }
            other => panic!("{other:?}"),
        }
    }
    let made = broker.alter_topic("plain", TopicConfig::streams());
    assert!(matches!(made, Err(Error::ConfigMismatch { field: "streams", .. })), "{made:?}");
    for cleanup in [Cleanup::Delete, Cleanup::Compact, Cleanup::CompactAndDelete] {
        let created = broker.create_topic("u", TopicConfig::streams().cleanup(cleanup));
        assert!(matches!(created, Err(Error::InvalidConfig { field: "cleanup", .. })), "{created:?}");
    }
    broker.alter_topic("t", TopicConfig::streams().partitions(2).compression(Compression::Lz4)).unwrap();
    assert_eq!(append(&topic.stream("k").unwrap(), Version::new(1), "v").unwrap(), 2);
}

#[test]
fn retention_leaves_streams_alone() {
    let clock = ManualClock::new();
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
    let retention = quipu::Retention::for_age(Duration::from_secs(1));
    let topic = broker.create_topic("t", config().retention(retention)).unwrap();
    let mut model = Model::new();
    many(&topic, &mut model, 30, 4);
    clock.advance(Duration::from_secs(30 * 24 * 3600));
    broker.maintain().unwrap();
    assert_model(&topic, &model);
}

#[test]
fn several_streams_are_appended_to_as_one() {
    let disk = Disk::new();
    let broker = open(&disk);
    let topic = broker.create_topic("t", config().partitions(3)).unwrap();
    let plain = broker.create_topic("plain", small()).unwrap();
    let streams: Vec<_> = (0..6).map(|n| topic.stream(format!("k{n}")).unwrap()).collect();
    append(&streams[0], ANY, "first").unwrap();

    let mut transaction = broker.transaction();
    for stream in &streams {
        transaction.append(stream, stream.version().unwrap(), [Record::new("x"), Record::new("y")]);
    }
    transaction.send(&plain, Record::new("and this"));
    // After its own appends.
    transaction.append(&streams[0], Version::new(3), [Record::new("z")]);
    let receipts = transaction.commit().unwrap();
    assert_eq!(receipts.len(), 14);
    assert_eq!(values(&streams[0].load().unwrap()), ["first", "x", "y", "z"]);
    assert!(streams[1..].iter().all(|stream| stream.version().unwrap() == 2));

    // One that is not as expected, and nothing happens to any.
    for (at, expected, current) in
        [(0, ExpectedVersion::Empty, 4), (3, Version::new(3).into(), 2), (5, ExpectedVersion::Empty, 2)]
    {
        let mut transaction = broker.transaction();
        for (n, stream) in streams.iter().enumerate() {
            let expected = if n == at { expected } else { ANY };
            transaction.append(stream, expected, [Record::new("no")]);
        }
        transaction.send(&plain, Record::new("no"));
        assert_eq!(conflict(transaction.commit()), current);
    }
    let mut own = broker.transaction();
    own.append(&streams[1], ANY, [Record::new("no")]).append(
        &streams[1],
        Version::new(2),
        [Record::new("no")],
    );
    assert_eq!(conflict(own.commit()), 2);
    assert_eq!(plain.partition(0).unwrap().bounds().unwrap().log_end, 1);
    assert!(streams[1..].iter().all(|stream| stream.version().unwrap() == 2));

    // An expectation alone is a condition.
    let mut transaction = broker.transaction();
    transaction.append(&streams[1], Version::new(2), []).send(&plain, Record::new("if so"));
    transaction.commit().unwrap();
    let mut transaction = broker.transaction();
    transaction.append(&streams[1], Version::new(1), []).send(&plain, Record::new("if so"));
    assert_eq!(conflict(transaction.commit()), 2);
    disk.crash(Survive::Everything);
    drop(broker);
    let broker = open(&disk);
    let topic = broker.topic("t").unwrap();
    assert_eq!(values(&topic.stream("k0").unwrap().load().unwrap()), ["first", "x", "y", "z"]);
    assert_eq!(broker.topic("plain").unwrap().partition(0).unwrap().bounds().unwrap().log_end, 2);
}

fn with_id(id: &str) -> Record<'static> {
    Record::new(format!("event {id}")).event_id(id.to_string())
}

#[test]
fn a_repeated_append_returns_its_first_result() {
    let disk = Disk::new();
    let broker = open(&disk);
    let stream = topic(&broker).stream("k").unwrap();
    let first = stream.append(ExpectedVersion::Empty, ["a", "b"].map(with_id)).unwrap();
    let second = stream.append(Version::new(2), ["c"].map(with_id)).unwrap();
    for n in 0..100 {
        append(&topic(&broker).stream("other").unwrap(), ANY, &format!("{n} {}", "-".repeat(50))).unwrap();
    }
    append(&stream, ANY, "without").unwrap();
    let check = |stream: &Stream| {
        assert_eq!(stream.append(ExpectedVersion::Empty, ["a", "b"].map(with_id)).unwrap(), first);
        assert_eq!(stream.append(Version::ZERO, ["a", "b"].map(with_id)).unwrap(), first);
        assert_eq!(stream.append(Version::new(2), ["c"].map(with_id)).unwrap(), second);
        assert_eq!(stream.append(ANY, ["c"].map(with_id)).unwrap(), second);
        assert_eq!(stream.append(ExpectedVersion::Exists, ["a", "b"].map(with_id)).unwrap(), first);
        assert_eq!(stream.version().unwrap(), 4);
        // Other events, fewer, more, in another order, or at another version: these are no
        // repetitions.
        for (version, ids) in [
            (0, &["a"][..]),
            (0, &["b", "a"]),
            (0, &["a", "x"]),
            (1, &["a", "b"]),
            (0, &["a", "b", "c", "d"]),
        ] {
            let again = stream.append(Version::new(version), ids.iter().map(|id| with_id(id)));
            match (version, ids) {
                // The first of those events is there, at that version.
                (0, ["a"]) => assert_eq!(again.unwrap().version, 1),
                _ => assert_eq!(conflict(again), 4),
            }
        }
        assert_eq!(conflict(stream.append(ExpectedVersion::Empty, ["a"].map(Record::from))), 4);
        assert_eq!(conflict(stream.append(Version::new(3), ["without"].map(Record::from))), 4);
    };
    check(&stream);
    disk.crash(Survive::Everything);
    drop(broker);
    let broker = open(&disk);
    check(&topic(&broker).stream("k").unwrap());
    let stream = topic(&broker).stream("k").unwrap();
    assert_eq!(stream.append(ANY, ["new"].map(with_id)).unwrap().version, 5);
    assert_eq!(stream.append(ANY, ["new"].map(with_id)).unwrap().version, 5);
    let empty = topic(&broker).stream("empty").unwrap();
    assert_eq!(conflict(empty.append(ExpectedVersion::Exists, ["a"].map(with_id))), 0);
}

#[test]
fn a_retry_after_an_unknown_outcome_appends_once() {
    for (op, kept) in [(Op::Sync, false), (Op::Write, false), (Op::Sync, true)] {
        let disk = Disk::new();
        let broker = open(&disk);
        let topic = broker.create_topic("t", config().durability(Durability::Sync)).unwrap();
        let stream = topic.stream("k").unwrap();
        stream.append(ExpectedVersion::Empty, ["a"].map(with_id)).unwrap();
        disk.fail(op, 1, std::io::ErrorKind::Other);
        let failed = stream.append(Version::new(1), ["b", "c"].map(with_id)).unwrap_err();
        assert_eq!(failed.outcome(), quipu::Outcome::Unknown);
        let (broker, stream) = if kept {
            // The process dies, and its writes are there.
            disk.crash(Survive::Everything);
            drop(broker);
            let broker = open(&disk);
            let stream = broker.topic("t").unwrap().stream("k").unwrap();
            (broker, stream)
        } else {
            stream.partition().reopen().unwrap();
            (broker, stream)
        };
        let was_there = stream.version().unwrap() == 3;
        assert_eq!(was_there, kept);
        let receipt = stream.append(Version::new(1), ["b", "c"].map(with_id)).unwrap();
        assert_eq!((receipt.version.get(), receipt.first.offset.get()), (3, 1));
        assert_eq!(stream.append(Version::new(1), ["b", "c"].map(with_id)).unwrap(), receipt);
        assert_eq!(values(&stream.load().unwrap()), ["event a", "event b", "event c"]);
        broker.close().unwrap();
    }
}

#[test]
fn a_transaction_of_events_with_ids_can_be_repeated() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams().partitions(2)).unwrap();
    let (a, b) = (topic.stream("a").unwrap(), topic.stream("b").unwrap());
    let transfer = |ids: [&'static str; 3]| {
        let [first, second, third] = ids.map(with_id);
        let mut transaction = broker.transaction();
        transaction.append(&a, ExpectedVersion::Empty, [first]);
        transaction.append(&b, ExpectedVersion::Empty, [second]);
        transaction.append(&a, Version::new(1), [third]);
        transaction
    };
    let receipts = transfer(["1", "2", "3"]).commit().unwrap();
    assert_eq!(transfer(["1", "2", "3"]).commit().unwrap(), receipts);
    assert_eq!(transfer(["1", "2", "3"]).commit_async().wait().unwrap(), receipts);
    append(&a, ANY, "later").unwrap();
    assert_eq!(transfer(["1", "2", "3"]).commit().unwrap(), receipts);
    assert_eq!(conflict(transfer(["1", "2", "4"]).commit()), 3);
    // A record without an id cannot be recognised.
    let mut more = transfer(["1", "2", "3"]);
    more.send(&topic, Record::new("v").key("c"));
    assert_eq!(conflict(more.commit()), 3);
    assert_eq!((a.version().unwrap().get(), b.version().unwrap().get()), (3, 1));
}

/// It is not known whether the rest of it was done: it is a conflict.
#[test]
fn a_transaction_of_more_than_events_with_ids_is_no_repetition() {
    let broker = Broker::in_memory().unwrap();
    let stream = topic(&broker).stream("k").unwrap();
    let plain = broker.create_topic("plain", TopicConfig::new()).unwrap().partition(0).unwrap();
    let consumer = broker.consumer("g").assign(std::slice::from_ref(&plain)).unwrap();
    let offsets = consumer.offsets_at(consumer.positions());
    stream.append(ExpectedVersion::Empty, ["a"].map(with_id)).unwrap();
    for more in ["nothing", "a record", "a condition", "offsets"] {
        let mut transaction = broker.transaction();
        transaction.append(&stream, ExpectedVersion::Empty, ["a"].map(with_id));
        match more {
            "a record" => _ = transaction.send(&plain, Record::new("v")),
            "a condition" => _ = transaction.expect_end(&plain, Offset::ZERO),
            "offsets" => _ = transaction.offsets(&consumer, offsets.clone()),
            _ => {}
        }
        let done = transaction.commit();
        match more {
            "nothing" => assert_eq!(done.unwrap().len(), 1),
            _ => assert_eq!(conflict(done), 1, "{more}"),
        }
    }
    assert_eq!(consumer.committed("plain", 0).unwrap(), None);
    assert_eq!(plain.bounds().unwrap().log_end, 0);
}

#[test]
fn a_conflict_is_returned_once_its_events_can_be_loaded() {
    let disk = Disk::new();
    let broker = open(&disk);
    let topic = broker.create_topic("t", config().durability(Durability::Sync)).unwrap();
    let stream = topic.stream("k").unwrap();
    // Written, and not synced yet: it is not visible.
    let mut transaction = broker.transaction();
    transaction.append(&stream, ExpectedVersion::Empty, [Record::new("first")]);
    let pending = transaction.commit_async();
    assert_eq!(stream.load().unwrap().version(), 0);
    assert!(stream.load().unwrap().is_empty() && stream.last().unwrap().is_none());
    assert_eq!(conflict(append(&stream, ExpectedVersion::Empty, "second")), 1);
    assert_eq!(values(&stream.load().unwrap()), ["first"]);
    pending.wait().unwrap();

    let mut transaction = broker.transaction();
    transaction.append(&stream, Version::new(1), [Record::new("second")]);
    let pending = transaction.commit_async();
    let mut late = broker.transaction();
    late.append(&stream, Version::new(1), [Record::new("no")]);
    assert_eq!(conflict(late.commit()), 2);
    assert_eq!(values(&stream.load_from(Version::new(1)).unwrap()), ["second"]);
    pending.wait().unwrap();
}

/// Found by the model: the disk failed while a conflict was being made visible, and the conflict
/// was returned nevertheless.
#[test]
fn a_conflict_that_cannot_be_made_visible_returns_the_error_that_prevents_it() {
    let disk = Disk::new();
    let broker = open(&disk);
    let topic = broker.create_topic("t", config().durability(Durability::Sync)).unwrap();
    let stream = topic.stream("k").unwrap();
    let pending = || {
        let mut transaction = broker.transaction();
        transaction.append(&stream, ExpectedVersion::Empty, [Record::new("first")]);
        let pending = transaction.commit_async();
        disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
        pending
    };
    let poisoned = |done: quipu::Result<()>| assert!(matches!(done, Err(Error::Poisoned { .. })), "{done:?}");
    let partition = topic.partition(0).unwrap();
    for way in 0..4 {
        let waiting = pending();
        match way {
            0 => poisoned(append(&stream, ExpectedVersion::Empty, "second").map(|_| ())),
            1 => poisoned(partition.append_at(Offset::ZERO, [Record::new("v").key("k")]).map(|_| ())),
            _ => {
                let mut transaction = broker.transaction();
                match way {
                    2 => transaction.append(&stream, ExpectedVersion::Empty, [Record::new("second")]),
                    _ => transaction.expect_end(&partition, Offset::ZERO),
                };
                poisoned(transaction.commit().map(|_| ()));
            }
        }
        assert!(waiting.wait().is_err());
        partition.reopen().unwrap();
        assert_eq!(stream.version().unwrap(), 0);
    }
}

#[test]
fn an_append_that_is_not_synced_yet_is_counted_and_not_loaded() {
    let disk = Disk::new();
    let broker = open(&disk);
    let topic = broker.create_topic("t", config().durability(Durability::Sync)).unwrap();
    let stream = topic.stream("k").unwrap();
    append(&stream, ANY, "visible").unwrap();
    // Over several segments, none of which is synced.
    let pending: Vec<_> = (0..40)
        .map(|n| {
            let mut transaction = broker.transaction();
            transaction.append(&stream, Version::new(1 + n), [Record::new("x".repeat(90))]);
            transaction.commit_async()
        })
        .collect();
    assert!(topic.partition(0).unwrap().segments().len() > 3);
    assert_eq!(values(&stream.load().unwrap()), ["visible"]);
    assert_eq!(values(&stream.last_n(3).unwrap()), ["visible"]);
    assert_eq!(stream.version().unwrap(), 1);
    pending.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
    assert_eq!(stream.version().unwrap(), 41);
}

#[test]
fn a_copy_by_raw_batches_has_the_same_streams() {
    let (disk, mut model) = (Disk::new(), Model::new());
    let broker = open(&disk);
    let source = broker.create_topic("source", config().compression(Compression::Lz4)).unwrap();
    let copy = broker.create_topic("copy", config()).unwrap();
    for round in 0..4 {
        many(&source, &mut model, 15, round);
        let (from, to) = (source.partition(0).unwrap(), copy.partition(0).unwrap());
        loop {
            let batches = from.read_raw(to.bounds().unwrap().log_end, 3_000).unwrap();
            if batches.is_empty() {
                break;
            }
            to.append_raw(&batches).unwrap();
        }
        assert_model(&copy, &model);
    }
}

#[test]
fn a_truncation_removes_events_and_their_versions() {
    let (disk, mut model) = (Disk::new(), Model::new());
    let broker = open(&disk);
    many(&topic(&broker), &mut model, 60, 1);
    broker.maintain().unwrap();
    let partition = topic(&broker).partition(0).unwrap();
    let end = partition.bounds().unwrap().log_end.get();
    let mut reader = topic(&broker).stream("account-0").unwrap().reader(Version::ZERO).unwrap();
    while !reader.poll(Duration::ZERO).unwrap().is_empty() {}
    for to in [end - 1, end - 7, end / 2, end / 2 - 1, 5, 0] {
        partition.truncate_to(Offset::new(to)).unwrap();
        let mut left = Model::new();
        model.keys().for_each(|key| drop(left.insert(key.clone(), Vec::new())));
        for record in &partition.read(Start::Beginning, 1 << 20).unwrap() {
            let key = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
            left.get_mut(&key).unwrap().push(text(&record));
        }
        assert_model(&topic(&broker), &left);
        model = left;
    }
    let cut = reader.poll(Duration::ZERO);
    assert!(matches!(cut, Err(Error::Truncated { to, .. }) if to == 0), "{cut:?}");
    many(&topic(&broker), &mut model, 30, 2);
    assert_model(&topic(&broker), &model);
}

#[test]
fn a_reader_of_a_stream_gets_every_event_once_and_waits_for_more() {
    let (disk, mut model) = (Disk::new(), Model::new());
    let broker = open(&disk);
    many(&topic(&broker), &mut model, 60, 1);
    let stream = topic(&broker).stream("account-3").unwrap();
    let mut reader = stream.reader(Version::new(2)).unwrap();
    let mut read = Vec::new();
    let mut drain = |reader: &mut quipu::StreamReader| loop {
        let history = reader.poll(Duration::ZERO).unwrap();
        if history.is_empty() {
            assert_eq!(history.version(), reader.version());
            break read.clone();
        }
        read.extend(values(&history));
    };
    assert_eq!(drain(&mut reader), model["account-3"][2..]);
    many(&topic(&broker), &mut model, 60, 2);
    assert_eq!(drain(&mut reader), model["account-3"][2..]);
    assert_eq!(reader.stream().key(), b"account-3");

    struct Count(std::sync::atomic::AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let count = Arc::new(Count(0.into()));
    let waker = count.clone().into();
    let mut recv = pin!(reader.recv());
    assert!(recv.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    append(&topic(&broker).stream("account-4").unwrap(), ANY, "other").unwrap();
    assert!(recv.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    append(&stream, ANY, "more").unwrap();
    assert_eq!(count.0.load(std::sync::atomic::Ordering::SeqCst), 2);
    match recv.as_mut().poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(Ok(history)) => assert_eq!(values(&history), ["more"]),
        other => panic!("{other:?}"),
    }
}

/// The reader has come to version 5 of a past of which only 3 events are left; three others have
/// come in their place.
#[test]
fn a_stream_reader_does_not_continue_in_a_diverged_log() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
    let (stream, other) = (topic.stream("k").unwrap(), topic.stream("other").unwrap());
    let mut reader = stream.reader(Version::ZERO).unwrap();
    for n in 0..5 {
        append(&stream, Version::new(n), &n.to_string()).unwrap();
    }
    append(&other, ANY, "of another stream").unwrap();
    assert_eq!(reader.poll(Duration::ZERO).unwrap().version(), 5);
    let partition = topic.partition(0).unwrap();

    // The truncated record was none of its events; and the log ends again at the same offset, with
    // one that is.
    partition.truncate_to(Offset::new(5)).unwrap();
    append(&stream, ANY, "5").unwrap();
    assert_eq!(values(&reader.poll(Duration::ZERO).unwrap()), ["5"]);

    partition.truncate_to(Offset::new(3)).unwrap();
    for n in 0..4 {
        append(&stream, ANY, &format!("other {n}")).unwrap();
    }
    for _ in 0..2 {
        let cut = reader.poll(Duration::ZERO);
        assert!(matches!(cut, Err(Error::Truncated { to, .. }) if to == 3), "{cut:?}");
        assert_eq!(reader.version(), 6, "it stays where it is");
    }
    let mut fresh = stream.reader(Version::ZERO).unwrap();
    assert_eq!(fresh.poll(Duration::ZERO).unwrap().version(), 7);

    let mut early = stream.reader(Version::new(9)).unwrap();
    assert_eq!(conflict(early.poll(Duration::ZERO)), 7);
}

#[test]
fn an_empty_poll_reports_the_readers_position() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
    let stream = topic.stream("k").unwrap();
    append(&stream, ANY, "first").unwrap();
    let mut reader = stream.reader(Version::ZERO).unwrap();
    reader.poll(Duration::ZERO).unwrap();
    append(&topic.stream("other").unwrap(), ANY, "noise").unwrap();
    let nothing = reader.poll(Duration::ZERO).unwrap();
    assert_eq!((nothing.len(), nothing.from_version().get(), nothing.to_version().get()), (0, 1, 1));
    assert_eq!(nothing.version(), 1);
}

#[test]
fn a_reader_that_waits_is_woken_by_an_append() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
    let (stream, other) = (topic.stream("k").unwrap(), topic.stream("other").unwrap());
    let mut reader = stream.reader(Version::ZERO).unwrap();
    let waiting = thread::spawn(move || {
        let mut read = Vec::new();
        while read.len() < 100 {
            read.extend(values(&reader.poll(Duration::from_secs(60)).unwrap()));
        }
        read
    });
    for n in 0..100 {
        append(&stream, Version::new(n), &n.to_string()).unwrap();
        append(&other, ANY, "noise").unwrap();
    }
    assert_eq!(waiting.join().unwrap(), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_stream_of_very_many_events_is_read_in_pieces() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams().segment_bytes(2 << 20)).unwrap();
    let stream = topic.stream("k").unwrap();
    for n in 0..500u64 {
        let events = (0..20).map(|_| Record::new(vec![7; 400]));
        stream.append(Version::new(20 * n), events).unwrap();
    }
    let mut reader = stream.reader(Version::ZERO).unwrap();
    let (mut pieces, mut events) = (0, 0);
    while events < 10_000 {
        let history = reader.poll(Duration::ZERO).unwrap();
        assert_eq!(history.from_version(), events);
        assert!(!history.is_empty() && history.len() < 4_000);
        (pieces, events) = (pieces + 1, events + history.len() as u64);
    }
    assert!(pieces >= 4);
    assert_eq!(stream.load().unwrap().len(), 10_000);
    assert_eq!(stream.last_n(30).unwrap().len(), 30);
}

#[test]
fn the_topic_read_as_a_whole_has_the_events_in_the_order_of_appending() {
    let (disk, mut model) = (Disk::new(), Model::new());
    let broker = open(&disk);
    let mut reader = {
        topic(&broker);
        broker.reader(["accounts"], Start::Beginning).unwrap()
    };
    let mut seen = Model::new();
    for round in 0..3 {
        many(&topic(&broker), &mut model, 30, round);
        loop {
            let records = reader.poll(Duration::ZERO).unwrap();
            if records.is_empty() {
                break;
            }
            for record in &records {
                let key = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
                seen.entry(key).or_default().push(text(&record));
            }
        }
        assert_eq!(seen, model);
    }
}

/// A stream is in the partition of its key, however it gets there.
#[test]
fn replicated_records_go_to_the_partition_of_their_stream_or_are_refused() {
    let source = Broker::in_memory().unwrap();
    let plain = source.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let copy = Broker::in_memory().unwrap();
    let streams = copy.create_topic("t", TopicConfig::streams().partitions(2)).unwrap();
    let of = |key: &str| streams.stream(key).unwrap().partition().id().get();
    let (first, second) = ("a", (0..).map(|n| n.to_string()).find(|key| of(key) != of("a")).unwrap());
    let (here, there) = (plain.partition(of(first)).unwrap(), streams.partition(of(first)).unwrap());
    let send = |record: Record<'_>| source.producer().send(&here, record).unwrap().wait().unwrap();
    send(Record::new("v").key(first));
    let end = send(Record::new("v").key(second.as_str())).offset;
    let all = here.read_raw(Offset::new(0), 1 << 20).unwrap();
    assert!(matches!(there.append_raw(&all), Err(Error::Streams { .. })));
    assert_eq!(there.bounds().unwrap().log_end, 0, "nothing was written");
    here.truncate_to(end).unwrap();
    send(Record::new("v"));
    let all = here.read_raw(Offset::new(0), 1 << 20).unwrap();
    assert!(matches!(there.append_raw(&all), Err(Error::MissingKey { index: 1, .. })));
    here.truncate_to(end).unwrap();
    let all = here.read_raw(Offset::new(0), 1 << 20).unwrap();
    assert_eq!(there.append_raw(&all).unwrap(), 1);
    assert_eq!(streams.stream(first).unwrap().version().unwrap(), 1);
}
