//! Creating, altering and deleting topics: names, settings, deletion, and each of these all or
//! nothing when the process dies in between.

use std::io::ErrorKind;
use std::time::Duration;

use quipu::testing::{Disk, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Compression, Durability, Error, Outcome, ProducerConfig, Record, Start, TopicConfig,
};

use crate::common::{assert_filled, at, files, fill, open, read, send, small};

const SURVIVALS: [Survive; 6] = [
    Survive::Everything,
    Survive::Synced,
    Survive::Zeroed(1),
    Survive::Random(1),
    Survive::Random(2),
    Survive::Random(3),
];

// -- names (2.11) --

#[test]
fn names_that_kafka_allows_are_allowed() {
    let broker = open(&Disk::new()).unwrap();
    let longest = "x".repeat(249);
    for name in ["a", "0", "...", "a.b_c-9", "-", "__internal", "CON", "Ünicode".get(2..).unwrap(), &longest]
    {
        let topic = broker.create_topic(name, TopicConfig::new()).unwrap_or_else(|e| panic!("{name:?}: {e}"));
        assert_eq!(*topic.name(), name);
        send(&broker, &topic.partition(0).unwrap(), "v").unwrap();
    }
}

#[test]
fn names_that_kafka_refuses_are_refused_with_a_reason_and_nothing_is_made() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let before = disk.files();
    let too_long = "x".repeat(250);
    for name in [
        "", ".", "..", &too_long, "a b", "a/b", "/a", "../a", "a\\b", "ä", "a\0", "a:b", "a*", "a\n", "日本",
        " a", "a,b",
    ] {
        let is_told = |error: &Error| match error {
            Error::InvalidTopicName { name: told, reason, .. } => told == name && !reason.is_empty(),
            _ => false,
        };
        let error = broker.create_topic(name, TopicConfig::new()).unwrap_err();
        assert!(is_told(&error), "{name:?}: {error}");
        let error = broker.ensure_topic(name, TopicConfig::new()).unwrap_err();
        assert!(is_told(&error), "{name:?}: {error}");
        assert!(matches!(broker.topic(name), Err(Error::UnknownTopic { topic, .. }) if topic == name));
        assert!(matches!(broker.delete_topic(name), Err(Error::UnknownTopic { .. })));
    }
    assert_eq!(disk.files(), before);
    assert!(broker.topics().is_empty());
}

#[test]
fn names_that_differ_only_in_case_are_different_topics() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let names = ["Orders", "orders", "ORDERS", "nul", "NUL", "a."];
    for (n, name) in names.into_iter().enumerate() {
        let topic = broker.create_topic(name, TopicConfig::new()).unwrap();
        fill(&broker, &topic.partition(0).unwrap(), n as u64);
    }
    let error = broker.create_topic("Orders", TopicConfig::new()).unwrap_err();
    assert!(matches!(&error, Error::TopicExists { topic, .. } if *topic == "Orders"), "{error}");
    broker.close().unwrap();
    // Where case counts for nothing, these are different too.
    let dirs: std::collections::BTreeSet<String> = files(&disk, "topics", "manifest")
        .iter()
        .map(|path| path.iter().nth(1).unwrap().to_string_lossy().to_lowercase())
        .collect();
    let expected = ["%-%n%u%l", "%-nul", "%o%r%d%e%r%s", "a.%-", "orders"];
    assert_eq!(dirs.iter().map(String::as_str).collect::<Vec<_>>(), expected, "the first is empty");
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().clean && broker.open_report().warnings.is_empty());
    for (n, name) in names.into_iter().enumerate() {
        assert_filled(&broker.topic(name).unwrap().partition(0).unwrap(), n as u64, name);
    }
    broker.delete_topic("Orders").unwrap();
    assert!(matches!(broker.topic("Orders"), Err(Error::UnknownTopic { .. })), "names are not folded");
    assert_filled(&broker.topic("orders").unwrap().partition(0).unwrap(), 1, "another topic");
    for name in ["__consumer_offsets", "__Consumer_Offsets"] {
        let error = broker.create_topic(name, TopicConfig::new()).unwrap_err();
        assert!(matches!(&error, Error::InvalidTopicName { .. }), "{error}");
    }
}

// -- creating, finding, altering --

#[test]
fn topics_are_created_once_ensured_often_and_listed_by_name() {
    let broker = open(&Disk::new()).unwrap();
    for name in ["c", "a", "b"] {
        broker.create_topic(name, TopicConfig::new().partitions(2)).unwrap();
    }
    assert!(matches!(broker.create_topic("a", TopicConfig::new()), Err(Error::TopicExists { .. })));
    let again = broker.ensure_topic("a", TopicConfig::new().partitions(2)).unwrap();
    assert_eq!((again.partition_count(), again.partitions().len()), (2, 2));
    let names: Vec<_> = broker.topics().iter().map(|topic| topic.name().to_string()).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn unknown_topics_and_partitions_are_named_in_the_error() {
    let broker = open(&Disk::new()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let error = topic.partition(3).unwrap_err();
    assert!(
        matches!(&error, Error::UnknownPartition { topic, partition, count: 3, .. } if *topic == "t" && *partition == 3),
        "{error}"
    );
    let unknown = |error: Error| matches!(&error, Error::UnknownTopic { topic, .. } if topic == "nowhere");
    assert!(unknown(broker.topic("nowhere").unwrap_err()));
    assert!(unknown(broker.delete_topic("nowhere").unwrap_err()));
    assert!(unknown(broker.alter_topic("nowhere", TopicConfig::new()).unwrap_err()));
    assert!(unknown(broker.producer().send("nowhere", Record::new("v")).unwrap_err()));
    assert!(unknown(broker.reader(["t", "nowhere"], Start::Beginning).unwrap_err()));
}

#[test]
fn settings_that_are_out_of_bounds_are_refused_by_field_and_nothing_is_made() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("there", TopicConfig::new()).unwrap();
    let before = disk.files();
    let config = TopicConfig::new;
    let invalid = [
        ("partitions", config().partitions(0)),
        ("partitions", config().partitions(TopicConfig::MAX_PARTITIONS + 1)),
        ("segment_bytes", config().segment_bytes(1023)),
        ("segment_bytes", config().segment_bytes((1 << 30) + 1)),
        ("segment_age", config().segment_age(Duration::ZERO)),
        ("segment_age", config().segment_age(Duration::from_micros(999))),
        ("max_record_bytes", config().max_record_bytes(0)),
        ("max_record_bytes", config().max_record_bytes((32 << 20) + 1)),
        ("max_record_bytes", config().segment_bytes(1 << 20).max_record_bytes(1 << 20)),
        ("index_interval_bytes", config().index_interval_bytes(0)),
        ("durability", config().durability(Durability::Interval(Duration::ZERO))),
    ];
    for (wanted, config) in invalid {
        let is_told = |error: &Error| matches!(error, Error::InvalidConfig { field, reason, .. } if *field == wanted && !reason.is_empty());
        for error in [
            broker.create_topic("t", config.clone()).unwrap_err(),
            broker.ensure_topic("there", config.clone()).unwrap_err(),
            broker.alter_topic("there", config.clone()).unwrap_err(),
        ] {
            assert!(is_told(&error), "{wanted}: {error}");
        }
    }
    assert_eq!(disk.files(), before);
    assert_eq!(broker.topic("there").unwrap().config(), TopicConfig::new());

    let brokers = [
        ("max_open_files", BrokerConfig::new().max_open_files(7)),
        ("checkpoint_interval", BrokerConfig::new().checkpoint_interval(Duration::ZERO)),
        ("durability", BrokerConfig::new().durability(Durability::Interval(Duration::from_nanos(1)))),
    ];
    for (wanted, config) in brokers {
        let untouched = Disk::new();
        let error = config.clone().on_disk(&untouched).unwrap_err();
        assert!(
            matches!(&error, Error::InvalidConfig { field, .. } if *field == wanted),
            "{wanted}: {error}"
        );
        assert_eq!(untouched.ops(), 0);
        assert!(matches!(config.in_memory(), Err(Error::InvalidConfig { field, .. }) if field == wanted));
    }
    for (wanted, config) in [
        ("batch_bytes", ProducerConfig::new().batch_bytes(1023)),
        ("batch_bytes", ProducerConfig::new().batch_bytes((16 << 20) + 1)),
        ("buffer_bytes", ProducerConfig::new().buffer_bytes(1024)),
    ] {
        let error = broker.producer_with(config).unwrap_err();
        assert!(
            matches!(&error, Error::InvalidConfig { field, .. } if *field == wanted),
            "{wanted}: {error}"
        );
    }
}

#[test]
fn altered_settings_take_effect_from_the_next_batch_on() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic =
        broker.create_topic("t", TopicConfig::new().segment_bytes(1 << 20).max_record_bytes(2000)).unwrap();
    let partition = topic.partition(0).unwrap();
    let long = "x".repeat(500);
    let appended = |config: &TopicConfig| {
        broker.alter_topic("t", config.clone()).unwrap();
        assert_eq!(topic.config(), *config, "a handle sees it at once");
        let before = partition.stats();
        send(&broker, &partition, &long).unwrap();
        let after = partition.stats();
        (after.bytes_appended - before.bytes_appended, after.segments - before.segments)
    };
    let mut config = topic.config();
    assert!(appended(&config).0 > 500);
    config = config.compression(Compression::Lz4);
    assert!(appended(&config).0 < 300, "compressed");
    config = config.compression(Compression::None);
    assert!(appended(&config).0 > 500);
    config = config.segment_bytes(1024).max_record_bytes(700);
    assert_eq!(appended(&config).1, 1, "what there is fills a segment by now");
    config = config.segment_bytes(1 << 20);
    assert_eq!(appended(&config).1, 0);
    config = config.max_record_bytes(100);
    broker.alter_topic("t", config.clone()).unwrap();
    let error = send(&broker, &partition, &long).unwrap_err();
    assert!(matches!(error, Error::RecordTooLarge { limit: 100, .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::NotWritten);

    // A record that is acknowledged under Sync survives the power loss, whatever was before.
    config = config.durability(Durability::Sync);
    broker.alter_topic("t", config.clone()).unwrap();
    send(&broker, &partition, "synced").unwrap();
    disk.crash(Survive::Synced);
    let reopened = open(&disk).unwrap();
    let topic = reopened.topic("t").unwrap();
    assert_eq!(topic.config(), config);
    let (values, error) = read(&topic.partition(0).unwrap());
    assert!(error.is_none());
    assert_eq!(values.len(), 6);
    assert_eq!(values[5], "synced");
}

#[test]
fn a_topic_is_taken_as_it_is_or_created() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let made = broker.create_topic("t", TopicConfig::new().partitions(7).segment_bytes(2 << 20)).unwrap();
    let before = (disk.fingerprint(), made.config());
    for config in [TopicConfig::new(), TopicConfig::new().partitions(9), TopicConfig::streams()] {
        let topic = broker.topic_or_create("t", config).unwrap();
        assert_eq!((topic.id(), topic.partition_count()), (made.id(), 7));
        assert_eq!((disk.fingerprint(), topic.config()), before, "nothing is altered");
    }
    let created = broker.topic_or_create("u", TopicConfig::new().partitions(3)).unwrap();
    assert_eq!(created.partition_count(), 3);
    // Of several threads one creates it, and all have the same one.
    let ids: Vec<_> = std::thread::scope(|scope| {
        let create = || broker.topic_or_create("v", TopicConfig::new()).unwrap().id();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert!(matches!(broker.topic_or_create("a b", TopicConfig::new()), Err(Error::InvalidTopicName { .. })));
    assert!(matches!(
        broker.topic_or_create("T", TopicConfig::new().partitions(0)),
        Err(Error::InvalidConfig { .. })
    ));
    broker.close().unwrap();
    assert!(matches!(broker.topic_or_create("t", TopicConfig::new()), Err(Error::Closed)));
}

#[test]
fn partitions_grow_and_never_shrink() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    fill(&broker, &topic.partition(1).unwrap(), 5);
    for growth in [3, 3, 7] {
        broker.alter_topic("t", TopicConfig::new().partitions(growth)).unwrap();
        assert_eq!(topic.partition_count(), growth);
        fill(&broker, &topic.partition(growth - 1).unwrap(), 4);
    }
    for error in [
        broker.alter_topic("t", TopicConfig::new().partitions(6)).unwrap_err(),
        broker.ensure_topic("t", TopicConfig::new()).unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::ConfigMismatch { topic, field: "partitions", found, .. } if *topic == "t" && found == "7"),
            "{error}"
        );
        let asked = if error.to_string().ends_with("6") { "6" } else { "1" };
        assert_eq!(error.to_string(), format!("topic t exists with partitions 7, asked for was {asked}"));
    }
    assert_eq!(topic.partition_count(), 7);
    broker.close().unwrap();
    let reopened = open(&disk).unwrap();
    let topic = reopened.topic("t").unwrap();
    for (partition, end) in [(0, 0), (1, 5), (2, 4), (3, 0), (6, 4)] {
        assert_filled(&topic.partition(partition).unwrap(), end, "after reopening");
    }
}

#[test]
fn settings_are_there_after_reopening() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let full = TopicConfig::new()
        .partitions(3)
        .compression(Compression::Lz4)
        .durability(Durability::Interval(Duration::from_millis(70)))
        .segment_bytes(1 << 16)
        .segment_age(Duration::from_secs(77))
        .max_record_bytes(777)
        .index_interval_bytes(99);
    let created = broker.create_topic("full", full.clone()).unwrap().created_at();
    broker.create_topic("plain", TopicConfig::new()).unwrap();
    disk.crash(Survive::Synced);
    for _ in 0..2 {
        let broker = open(&disk).unwrap();
        assert_eq!(broker.topic("full").unwrap().config(), full);
        assert_eq!(broker.topic("full").unwrap().created_at(), created);
        assert_eq!(broker.topic("plain").unwrap().config(), TopicConfig::new());
        broker.close().unwrap();
    }
}

// -- deletion --

#[test]
fn every_handle_of_a_deleted_topic_returns_topic_deleted() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let partition = topic.partition(0).unwrap();
    fill(&broker, &partition, 5);
    let producer = broker.producer();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let pending = producer.send(&partition, Record::new("still in the buffer")).unwrap();
    broker.delete_topic("t").unwrap();

    let deleted = |error: Error| match &error {
        Error::TopicDeleted { topic, .. } if *topic == "t" => {
            assert_eq!(error.outcome(), Outcome::NotWritten);
        }
        _ => panic!("{error}"),
    };
    deleted(pending.wait().unwrap_err());
    deleted(topic.partition(0).unwrap_err());
    deleted(partition.read(at(0), 1 << 20).unwrap_err());
    deleted(partition.bounds().unwrap_err());
    deleted(partition.reopen().unwrap_err());
    deleted(producer.send(&topic, Record::new("v")).and_then(|pending| pending.wait()).unwrap_err());
    deleted(producer.send(&partition, Record::new("v")).and_then(|pending| pending.wait()).unwrap_err());
    deleted(reader.poll(Duration::ZERO).unwrap_err());
    assert!(matches!(broker.topic("t"), Err(Error::UnknownTopic { .. })));
    assert!(matches!(producer.send("t", Record::new("v")), Err(Error::UnknownTopic { .. })));
    assert!(broker.topics().is_empty());
    assert!(
        files(&disk, "topics", "").is_empty() && files(&disk, "trash", "").is_empty(),
        "its files are gone"
    );
}

#[test]
fn a_name_is_free_at_once_and_means_another_topic() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let old = broker.create_topic("t", TopicConfig::new()).unwrap();
    fill(&broker, &old.partition(0).unwrap(), 9);
    let position = send(&broker, &old.partition(0).unwrap(), "v").unwrap();
    for _ in 0..3 {
        broker.delete_topic("t").unwrap();
        let new = broker.create_topic("t", TopicConfig::new()).unwrap();
        assert_eq!(new.partition(0).unwrap().bounds().unwrap().log_end, 0, "it is empty");
        assert_eq!(send(&broker, &new.partition(0).unwrap(), "new").unwrap().offset, 0);
        assert!(
            matches!(old.partition(0), Err(Error::TopicDeleted { .. })),
            "old handles are of the old topic"
        );
        assert!(matches!(
            broker.producer().send(&old, Record::new("v")).and_then(|pending| pending.wait()),
            Err(Error::TopicDeleted { .. })
        ));
    }
    assert_eq!(position.offset, 9);
    broker.close().unwrap();
    let (values, _) = read(&open(&disk).unwrap().topic("t").unwrap().partition(0).unwrap());
    assert_eq!(values, ["new"]);
}

#[test]
fn records_that_were_read_outlive_their_topic() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", small()).unwrap();
    let partition = topic.partition(0).unwrap();
    fill(&broker, &partition, 20);
    broker.maintain().unwrap();
    let records = broker.reader(["t"], Start::Beginning).unwrap().poll(Duration::ZERO).unwrap();
    let owned = records.last().unwrap().into_owned();
    broker.delete_topic("t").unwrap();
    broker.close().unwrap();
    for (offset, record) in records.iter().enumerate() {
        assert_eq!(record.value(), Some(crate::common::value(offset as u64).as_bytes()));
    }
    assert_eq!((records.len(), owned.value()), (20, Some(crate::common::value(19).as_bytes())));
}

/// A deletion that failed halfway is finished by the next opening, and takes nothing else with it.
#[test]
fn an_unfinished_deletion_does_not_remove_a_later_topic_of_the_same_name() {
    for op in [Op::Rename, Op::SyncDir, Op::Remove, Op::List] {
        for (nth, name) in (1..6).flat_map(|nth| [(nth, "t"), (nth, "T")]) {
            let disk = Disk::new();
            let broker = open(&disk).unwrap();
            let old = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
            fill(&broker, &old.partition(0).unwrap(), 3);
            disk.fail(op, nth, ErrorKind::Other);
            let failed = broker.delete_topic("t").is_err();
            disk.clear_faults();
            let again = broker.create_topic(name, TopicConfig::new().partitions(2));
            let new = match again {
                Ok(topic) => topic,
                // Which topics a restart will find may be open: then nothing is promised, and
                // nothing is lost.
                Err(_) => {
                    assert!(failed, "{op:?} {nth} {name}");
                    continue;
                }
            };
            fill(&broker, &new.partition(1).unwrap(), 4);
            broker.close().unwrap();
            let reopened = open(&disk).unwrap();
            let names: Vec<_> = reopened.topics().iter().map(|topic| topic.name().to_string()).collect();
            assert_eq!(names, [name], "{op:?} {nth} {name}");
            assert_filled(
                &reopened.topic(name).unwrap().partition(1).unwrap(),
                4,
                &format!("{op:?} {nth} {name}"),
            );
            assert!(reopened.open_report().damaged.is_empty() && reopened.open_report().warnings.is_empty());
        }
    }
}

#[test]
fn a_creation_that_failed_can_be_tried_again_and_leaves_nothing() {
    for op in [Op::CreateDir, Op::OpenFile, Op::Write, Op::Sync, Op::SyncDir, Op::Rename] {
        for nth in 1..12 {
            let disk = Disk::new();
            let broker = open(&disk).unwrap();
            disk.fail(op, nth, ErrorKind::Other);
            let case = format!("{op:?} {nth}");
            let failed = broker.create_topic("t", TopicConfig::new().partitions(2)).is_err();
            disk.clear_faults();
            if let Ok(topic) = broker.topic("t") {
                fill(&broker, &topic.partition(0).unwrap(), 4);
            }
            assert_eq!(broker.topic("t").is_err(), failed, "{case}");
            if let Ok(topic) = broker.ensure_topic("t", TopicConfig::new().partitions(2)) {
                fill(&broker, &topic.partition(1).unwrap(), 4);
                drop(topic);
                broker.close().unwrap();
                assert_filled(&open(&disk).unwrap().topic("t").unwrap().partition(1).unwrap(), 4, &case);
            } else {
                assert!(failed, "{case}");
                drop(broker);
                let reopened = open(&disk).unwrap();
                let topic = reopened.ensure_topic("t", TopicConfig::new().partitions(2)).unwrap();
                fill(&reopened, &topic.partition(1).unwrap(), 4);
            }
        }
    }
}

// -- all or nothing --

/// Runs `change` on copies of `disk`, dying at each of its operations, and looks at what each kind
/// of death leaves. Returns how many operations there were.
fn at_every_crash(
    disk: &Disk,
    change: impl Fn(&Broker) -> quipu::Result<()>,
    check: impl Fn(&Broker, bool, &str),
) -> u64 {
    for nth in 1.. {
        let disk = disk.duplicate();
        disk.crash(Survive::Everything);
        let broker = open(&disk).unwrap();
        // The first change of an opening takes back the mark of the clean close.
        broker.producer_with(ProducerConfig::new().name("first change")).unwrap();
        disk.crash_at(nth);
        let finished = change(&broker).is_ok();
        for survive in SURVIVALS {
            let disk = disk.duplicate();
            disk.crash(survive);
            let case = format!("died at operation {nth}, {survive:?}");
            let found = open(&disk).unwrap_or_else(|e| panic!("{case}: {e}"));
            let report = found.open_report();
            assert!(report.damaged.is_empty(), "{case}: {:?}", report.damaged);
            assert!(crate::common::warnings(&found).is_empty(), "{case}: {:?}", report.warnings);
            assert!(survive != Survive::Everything || report.warnings.is_empty(), "{case}");
            assert!(files(&disk, "trash", "").is_empty(), "{case}: nothing is left in the trash");
            check(&found, finished, &case);
            found.close().unwrap();
            let again = open(&disk).unwrap();
            assert!(again.open_report().clean, "{case}");
            check(&again, finished, &case);
        }
        if finished {
            return nth;
        }
    }
    0
}

fn three_partitions_filled() -> Disk {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", small().partitions(3).durability(Durability::Sync)).unwrap();
    for partition in topic.partitions() {
        fill(&broker, &partition, 10);
    }
    broker.close().unwrap();
    disk
}

fn assert_whole(broker: &Broker, case: &str) {
    let topic = broker.topic("t").unwrap();
    for partition in topic.partitions().iter().take(3) {
        assert_filled(partition, 10, case);
    }
}

#[test]
fn a_crash_at_any_operation_of_a_creation_leaves_all_or_nothing() {
    let operations = at_every_crash(
        &three_partitions_filled(),
        |broker| broker.create_topic("new", small().partitions(2)).map(drop),
        |broker, finished, case| {
            assert_whole(broker, case);
            match broker.topic("new") {
                Ok(topic) => {
                    assert_eq!(topic.partition_count(), 2, "{case}");
                    for partition in topic.partitions() {
                        assert_filled(&partition, 0, case);
                    }
                }
                Err(_) => assert!(!finished, "{case}"),
            }
            let topic = broker.ensure_topic("again", small()).unwrap();
            assert!(topic.partition(0).unwrap().bounds().is_ok());
        },
    );
    assert_eq!(operations, 1 + 4, "two looks, a write, a sync");
}

#[test]
fn a_crash_at_any_operation_of_a_growth_leaves_all_or_nothing() {
    let operations = at_every_crash(
        &three_partitions_filled(),
        |broker| broker.alter_topic("t", small().partitions(5).segment_age(Duration::from_secs(3))),
        |broker, finished, case| {
            assert_whole(broker, case);
            let topic = broker.topic("t").unwrap();
            let grown = topic.partition_count() == 5;
            assert!(
                grown || topic.partition_count() == 3 && !finished,
                "{case}: {}",
                topic.partition_count()
            );
            assert_eq!(
                topic.config().partitions(3) == small().partitions(3).segment_age(Duration::from_secs(3)),
                grown
            );
            for partition in topic.partitions().iter().skip(3) {
                assert_filled(partition, 0, case);
            }
        },
    );
    assert_eq!(operations, 1 + 4, "two looks, a write, a sync");
}

#[test]
fn a_crash_at_any_operation_of_a_deletion_leaves_all_or_nothing() {
    let operations = at_every_crash(
        &three_partitions_filled(),
        |broker| broker.delete_topic("t"),
        |broker, finished, case| match broker.topic("t") {
            Ok(_) => {
                assert!(!finished, "{case}");
                assert_whole(broker, case);
            }
            Err(error) => assert!(matches!(error, Error::UnknownTopic { .. }), "{case}: {error}"),
        },
    );
    assert!(operations > 15, "{operations}");
}

#[test]
fn a_crash_at_any_operation_of_a_first_append_leaves_all_or_nothing() {
    let disk = three_partitions_filled();
    let broker = open(&disk).unwrap();
    for name in ["lazy", "Lazy"] {
        broker.create_topic(name, small().partitions(3).durability(Durability::Sync)).unwrap();
    }
    broker.close().unwrap();
    let is_made = |disk: &Disk| files(disk, "topics/lazy", "").len() + files(disk, "topics/%lazy", "").len();
    assert_eq!(is_made(&disk), 0, "a creation makes no file");
    let operations = at_every_crash(
        &disk,
        |broker| {
            for name in ["lazy", "Lazy"] {
                send(broker, &broker.topic(name)?.partition(1)?, &crate::common::value(0))?;
            }
            Ok(())
        },
        |broker, finished, case| {
            assert_whole(broker, case);
            for name in ["lazy", "Lazy"] {
                let topic = broker.topic(name).unwrap();
                for empty in [0, 2] {
                    assert_filled(&topic.partition(empty).unwrap(), 0, case);
                }
                let written = topic.partition(1).unwrap();
                let end = written.bounds().unwrap().log_end.get();
                assert!(end == 1 || (end == 0 && !finished), "{case}: {end}");
                assert_filled(&written, end, case);
            }
        },
    );
    assert!(operations > 30, "{operations}");
}

/// A seed makes runs repeatable; it does not make two topics one (KIP-516).
#[test]
fn every_topic_has_an_identity_of_its_own_under_every_seed() {
    let disk = Disk::new();
    for run in 0..4 {
        let broker = open(&disk).unwrap();
        for name in ["kept", "passing"] {
            let topic = broker.create_topic(&format!("{name}-{run}"), small()).unwrap();
            fill(&broker, &topic.partition(0).unwrap(), 10);
        }
        broker.delete_topic(&format!("passing-{run}")).unwrap();
        broker.close().unwrap();
    }
    // The identity of a topic is in its manifest, at byte 24.
    let manifests = files(&disk, "topics", "manifest");
    let identities: std::collections::BTreeSet<_> =
        manifests.iter().map(|path| disk.read(path).unwrap()[24..40].to_vec()).collect();
    assert_eq!((manifests.len(), identities.len()), (4, 4));
    let broker = open(&disk).unwrap();
    for run in 0..4 {
        assert_filled(&broker.topic(&format!("kept-{run}")).unwrap().partition(0).unwrap(), 10, "reopened");
    }
}

// -- many at once --

#[test]
fn topics_that_are_created_together_cost_one_sync() {
    let mut operations = Vec::new();
    for count in [1, 10, 100, 1000] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let before = (disk.ops_of(Op::Write), disk.ops_of(Op::Sync));
        let topics = (0..count).map(|at| (format!("t{at}"), TopicConfig::new().partitions(2)));
        let created = broker.create_topics(topics).unwrap();
        operations.push((disk.ops_of(Op::Write) - before.0, disk.ops_of(Op::Sync) - before.1));
        let names: Vec<_> = created.iter().map(|topic| topic.name().to_string()).collect();
        assert_eq!(names, (0..count).map(|at| format!("t{at}")).collect::<Vec<_>>());
        send(&broker, &created.last().unwrap().partition(1).unwrap(), "v").unwrap();
        broker.close().unwrap();
        let broker = open(&disk).unwrap();
        assert_eq!(broker.topics().len(), count);
    }
    // The bytes of a thousand have the catalog's file replaced too, and the old one kept aside.
    assert_eq!(operations, [(1, 1), (1, 1), (1, 1), (3, 3)]);
}

#[test]
fn topics_that_are_created_together_are_all_there_or_none() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    broker.create_topic("old", TopicConfig::new()).unwrap();
    let create = |names: &[&str]| {
        broker.create_topics(names.iter().map(|name| (*name, TopicConfig::new()))).map(|made| made.len())
    };
    let is_taken =
        |error: &Error, name: &str| matches!(error, Error::TopicExists { topic, .. } if *topic == name);
    assert!(is_taken(&create(&["a", "old", "b"]).unwrap_err(), "old"));
    assert!(is_taken(&create(&["a", "b", "a"]).unwrap_err(), "a"));
    assert!(matches!(create(&["a", "b c"]), Err(Error::InvalidTopicName { .. })));
    assert!(matches!(create(&["a", "__consumer_offsets"]), Err(Error::InvalidTopicName { .. })));
    assert_eq!(create(&[]).unwrap(), 0);
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
    assert!(matches!(create(&["c", "d"]), Err(Error::DiskFull { .. })));
    assert_eq!(broker.topics().len(), 1);
    assert_eq!(create(&["c", "d"]).unwrap(), 2);
    broker.close().unwrap();
    assert!(matches!(create(&["e"]), Err(Error::Closed)));
}

#[test]
fn a_crash_while_topics_are_created_together_leaves_the_first_of_them() {
    let operations = at_every_crash(
        &three_partitions_filled(),
        |broker| broker.create_topics((0..8).map(|at| (format!("new-{at}"), small()))).map(drop),
        |broker, finished, case| {
            assert_whole(broker, case);
            let topics = broker.topics();
            let new = topics.iter().map(|topic| topic.name().to_string());
            let new: Vec<_> = new.filter(|name| name.starts_with("new-")).collect();
            assert_eq!(new, (0..new.len()).map(|at| format!("new-{at}")).collect::<Vec<_>>(), "{case}");
            assert!(new.len() == 8 || !finished, "{case}");
        },
    );
    assert_eq!(operations, 1 + 8 * 2 + 2, "two looks a topic, a write, a sync");
}
