//! Results and state of a broker when its disk fails: syncs, writes, space, reads. (Every single
//! operation of whole runs in turn: `fault_matrix.rs`.)

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::stats::Event;
use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Durability, Error, IoAction, Outcome, Partition, Record, Start, TopicConfig,
};

use crate::common::{assert_filled, at, fill, make_files, open, read, send, small, value};

fn with_topic(disk: &Disk, config: TopicConfig) -> (Broker, Partition) {
    let broker = open(disk).unwrap();
    let partition = broker.ensure_topic("t", config).unwrap().partition(0).unwrap();
    make_files(disk, &broker, &partition);
    (broker, partition)
}

fn sync() -> TopicConfig {
    TopicConfig::new().durability(Durability::Sync)
}

// -- a failed sync or write poisons --

/// After a failed write or sync: nothing new is acknowledged or visible, visible records stay, and
/// reopening takes the partition back into service at the visible end.
fn assert_poisoned_and_reopened(
    disk: &Disk,
    broker: &Broker,
    partition: &Partition,
    visible: u64,
    case: &str,
) {
    for _ in 0..2 {
        let error = send(broker, partition, "refused").unwrap_err();
        assert!(matches!(&error, Error::Poisoned { topic, .. } if *topic == "t"), "{case}: {error}");
        assert_eq!(error.outcome(), Outcome::NotWritten, "{case}: this one was not even tried");
    }
    assert!(partition.stats().poisoned.is_some(), "{case}");
    assert_eq!(partition.bounds().unwrap().visible_end, visible, "{case}");
    assert_filled(partition, visible, &format!("{case}: reading continues"));

    // A restart may keep unacknowledged records, or not; acknowledged ones are there, and stay.
    for survive in [Survive::Everything, Survive::Synced, Survive::Random(9)] {
        let disk = disk.duplicate();
        disk.crash(survive);
        let broker = open(&disk).unwrap();
        let (values, error) = read(&broker.topic("t").unwrap().partition(0).unwrap());
        assert!(error.is_none() && broker.open_report().damaged.is_empty(), "{case}: {error:?}");
        assert_eq!(
            values[..visible as usize],
            (0..visible).map(value).collect::<Vec<_>>(),
            "{case}, {survive:?}"
        );
        disk.crash(Survive::Synced);
        let broker = open(&disk).unwrap();
        assert_eq!(
            read(&broker.topic("t").unwrap().partition(0).unwrap()).0,
            values,
            "{case}, {survive:?}: it stays"
        );
    }

    let epoch = partition.epoch();
    partition.reopen().unwrap();
    assert_eq!(partition.epoch(), epoch + 1, "{case}");
    assert!(partition.stats().poisoned.is_none(), "{case}");
    partition.reopen().unwrap();
    assert_eq!(partition.epoch(), epoch + 1, "{case}: nothing is wrong any more");
    fill(broker, partition, visible + 5);
    assert_filled(partition, visible + 5, case);
    disk.crash(Survive::Synced);
    let broker = open(disk).unwrap();
    assert!(
        broker.open_report().truncated_tails.is_empty(),
        "{case}: {:?}",
        broker.open_report().truncated_tails
    );
    assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), visible + 5, case);
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_the_partition_is_reopened() {
    for visible in [0, 1, 6, 30] {
        let disk = Disk::new();
        let (broker, partition) = with_topic(&disk, small().durability(Durability::Sync));
        fill(&broker, &partition, visible);
        while partition.segments().last().unwrap().bytes > 800 {
            fill(&broker, &partition, partition.bounds().unwrap().log_end.get() + 1);
        }
        let visible = partition.bounds().unwrap().log_end.get();
        disk.fail(Op::Sync, 1, ErrorKind::Other);
        let error = send(&broker, &partition, "x").unwrap_err();
        assert!(
            matches!(&error, Error::Io { action: IoAction::Sync, path, .. } if is_below(path)),
            "{error}"
        );
        assert_eq!(error.outcome(), Outcome::Unknown);
        assert_poisoned_and_reopened(&disk, &broker, &partition, visible, &format!("{visible} records"));
    }
}

#[test]
fn after_a_failed_or_torn_write_nothing_is_appended_until_the_partition_is_reopened() {
    for torn in [false, true] {
        for visible in [0, 1, 4] {
            let disk = Disk::new();
            let (broker, partition) = with_topic(&disk, sync());
            fill(&broker, &partition, visible);
            if torn {
                disk.tear(1)
            } else {
                disk.fail(Op::Write, 1, ErrorKind::Other)
            }
            let error = send(&broker, &partition, &"x".repeat(200)).unwrap_err();
            assert!(
                matches!(&error, Error::Io { action: IoAction::Write, path, .. } if is_below(path)),
                "{error}"
            );
            assert_eq!(error.outcome(), Outcome::Unknown);
            assert_poisoned_and_reopened(
                &disk,
                &broker,
                &partition,
                visible,
                &format!("torn: {torn}, {visible}"),
            );
        }
    }
}

/// A failed sync proves nothing about the range of a later one: the range of the failed one is
/// written again.
#[test]
fn a_sync_that_succeeds_after_a_failed_one_is_not_believed() {
    let disk = Disk::new();
    let (broker, partition) = with_topic(&disk, TopicConfig::new());
    fill(&broker, &partition, 10);
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    let error = broker.sync().unwrap_err();
    assert!(matches!(error, Error::Io { action: IoAction::Sync, .. }), "{error}");
    for _ in 0..2 {
        broker.sync().unwrap_err();
        assert_eq!(partition.bounds().unwrap().durable_end, 0, "it is not tried again");
    }
    partition.reopen().unwrap();
    assert_eq!(partition.bounds().unwrap().durable_end, 10);
    disk.crash(Survive::Synced);
    assert_filled(&open(&disk).unwrap().topic("t").unwrap().partition(0).unwrap(), 10, "written again");
}

/// The page cache shows what the disk lacks, also to the next process.
#[test]
fn records_accepted_by_a_restart_after_a_failed_sync_are_durable() {
    let disk = Disk::new();
    let (broker, partition) = with_topic(&disk, TopicConfig::new());
    fill(&broker, &partition, 10);
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    broker.sync().unwrap_err();
    disk.crash(Survive::Everything);
    let again = open(&disk).unwrap();
    assert_filled(&again.topic("t").unwrap().partition(0).unwrap(), 10, "as the page cache shows");
    again.sync().unwrap();
    disk.crash(Survive::Synced);
    assert_filled(&open(&disk).unwrap().topic("t").unwrap().partition(0).unwrap(), 10, "as on disk");
}

#[test]
fn a_reopening_that_fails_leaves_the_partition_poisoned() {
    for op in [Op::Sync, Op::Write, Op::OpenFile, Op::Rename, Op::SyncDir, Op::Read] {
        for nth in 1..4 {
            let disk = Disk::new();
            let (broker, partition) = with_topic(&disk, sync());
            fill(&broker, &partition, 5);
            disk.fail(Op::Sync, 1, ErrorKind::Other);
            send(&broker, &partition, "x").unwrap_err();
            disk.fail(op, nth, ErrorKind::Other);
            let case = format!("{op:?} {nth}");
            if partition.reopen().is_err() {
                assert!(matches!(send(&broker, &partition, "x"), Err(Error::Poisoned { .. })), "{case}");
                assert_eq!(partition.bounds().unwrap().visible_end, 5, "{case}");
            }
            disk.clear_faults();
            partition.reopen().unwrap();
            fill(&broker, &partition, 9);
            disk.crash(Survive::Synced);
            let broker = open(&disk).unwrap();
            assert!(broker.open_report().damaged.is_empty(), "{case}: {:?}", broker.open_report().damaged);
            assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 9, &case);
        }
    }
}

#[test]
fn a_poisoned_partition_is_reported_and_the_others_work() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = {
        let told = told.clone();
        move |event: &Event| {
            if let Event::Poisoned { topic, partition, cause, .. } = event {
                told.lock().unwrap().push((topic.to_string(), partition.get(), cause.outcome()));
            }
        }
    };
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_event(tell).on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", sync().partitions(3)).unwrap();
    make_files(&disk, &broker, &topic.partition(1).unwrap());
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    send(&broker, &topic.partition(1).unwrap(), "x").unwrap_err();
    send(&broker, &topic.partition(1).unwrap(), "x").unwrap_err();
    assert_eq!(*told.lock().unwrap(), [("t".to_string(), 1, Outcome::Unknown)], "once");
    for id in [0, 2] {
        fill(&broker, &topic.partition(id).unwrap(), 4);
    }
    // Closing returns the error, and keeps the durable records.
    broker.close().unwrap_err();
    let broker = open(&disk).unwrap();
    for id in [0, 2] {
        assert_filled(&broker.topic("t").unwrap().partition(id).unwrap(), 4, "the others");
    }
}

/// Os and Interval are synced by background threads.
#[test]
fn a_failed_background_sync_poisons_and_takes_nothing_back() {
    let clock = ManualClock::new();
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&disk).unwrap();
    let config = TopicConfig::new().durability(Durability::Interval(Duration::from_secs(1)));
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    fill(&broker, &partition, 4);
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    clock.advance(Duration::from_secs(1));
    assert!(matches!(send(&broker, &partition, "x"), Err(Error::Poisoned { .. })));
    assert_filled(&partition, 4, "acknowledged and visible");
    partition.reopen().unwrap();
    fill(&broker, &partition, 6);
    disk.crash(Survive::Synced);
    let (values, _) = read(&open(&disk).unwrap().topic("t").unwrap().partition(0).unwrap());
    assert!(values.len() >= 4, "the reopening synced what it kept");
}

// -- no space --

fn is_below(path: &Path) -> bool {
    path.starts_with("mem:/") && path != Path::new("mem:/")
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::DiskFull { path, .. } if is_below(path)) && error.outcome() == Outcome::NotWritten
}

const NO_SPACE: [ErrorKind; 3] = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];

#[test]
fn a_full_disk_refuses_a_record_and_takes_the_next_once_there_is_room() {
    for durability in [Durability::Sync, Durability::Os, Durability::Interval(Duration::from_secs(1))] {
        for kind in NO_SPACE {
            // Nothing is written, or a part.
            for partly in [false, true] {
                let disk = Disk::new();
                let (broker, partition) = with_topic(&disk, TopicConfig::new().durability(durability));
                fill(&broker, &partition, 3);
                let before = partition.bounds().unwrap();
                for _ in 0..3 {
                    if partly {
                        disk.short(Op::Write, 1);
                    }
                    disk.fail(Op::Write, if partly { 2 } else { 1 }, kind);
                    let error = send(&broker, &partition, &"x".repeat(300)).unwrap_err();
                    assert!(is_full(&error), "{error}");
                    assert_eq!(partition.bounds().unwrap(), before, "nothing of it is there");
                }
                assert_filled(&partition, 3, "the earlier records");
                fill(&broker, &partition, 6);
                assert_filled(&partition, 6, "without reopening");
                assert_eq!(partition.epoch(), 0);
                disk.crash(Survive::Everything);
                let broker = open(&disk).unwrap();
                assert!(
                    broker.open_report().truncated_tails.is_empty(),
                    "nothing looks torn: {:?}",
                    broker.open_report().truncated_tails
                );
                assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 6, "reopened");
            }
        }
    }
}

/// The part that was written is taken back; a crash before the next append shows nothing of it.
#[test]
fn a_part_that_was_written_before_the_disk_was_full_is_no_torn_tail() {
    let disk = Disk::new();
    let (broker, partition) = with_topic(&disk, TopicConfig::new());
    fill(&broker, &partition, 3);
    disk.short(Op::Write, 1);
    disk.fail(Op::Write, 2, ErrorKind::StorageFull);
    assert!(is_full(&send(&broker, &partition, &"x".repeat(300)).unwrap_err()));
    disk.crash(Survive::Everything);
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().truncated_tails.is_empty() && broker.open_report().damaged.is_empty());
    assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 3, "reopened");
}

#[test]
fn a_full_disk_at_a_roll_leaves_the_log_as_it_was() {
    for (op, nth) in
        [(Op::OpenFile, 1), (Op::Write, 1), (Op::OpenFile, 2), (Op::Write, 2), (Op::Sync, 1), (Op::Write, 3)]
    {
        let disk = Disk::new();
        let (broker, partition) = with_topic(&disk, small().durability(Durability::Sync));
        while partition.stats().bytes < 700 {
            fill(&broker, &partition, partition.bounds().unwrap().log_end.get() + 1);
        }
        let end = partition.bounds().unwrap().log_end.get();
        for _ in 0..3 {
            disk.fail(op, nth, ErrorKind::StorageFull);
            let result = send(&broker, &partition, &"x".repeat(400));
            if op == Op::Write && nth == 3 && result.is_ok() {
                // The roll was done by the round before.
                break;
            }
            let error = result.unwrap_err();
            assert!(is_full(&error), "{op:?} {nth}: {error}");
            assert_eq!(partition.bounds().unwrap().log_end, end, "{op:?} {nth}");
        }
        disk.clear_faults();
        fill(&broker, &partition, partition.bounds().unwrap().log_end.get() + 30);
        assert!(partition.stats().poisoned.is_none());
        disk.crash(Survive::Everything);
        let broker = open(&disk).unwrap();
        assert!(
            broker.open_report().truncated_tails.is_empty() && broker.open_report().damaged.is_empty(),
            "{op:?} {nth}"
        );
        let (values, error) = read(&broker.topic("t").unwrap().partition(0).unwrap());
        assert!(error.is_none() && values.len() as u64 >= end + 30, "{op:?} {nth}");
    }
}

#[test]
fn a_full_disk_at_the_creation_of_a_topic_leaves_no_topic() {
    // A failed sync is different: the content of the disk is unknown then.
    for op in [Op::CreateDir, Op::OpenFile, Op::Write] {
        for nth in 1..20 {
            let disk = Disk::new();
            let broker = open(&disk).unwrap();
            disk.fail(op, nth, ErrorKind::StorageFull);
            let Err(error) = broker.create_topic("t", small().partitions(2)) else { break };
            // A full disk does not mind a read; a fault that hits one is returned as that error.
            let is_read = matches!(error, Error::Io { action: IoAction::Read | IoAction::Open, .. });
            assert!(is_full(&error) || op == Op::OpenFile && is_read, "{op:?} {nth}: {error}");
            assert!(matches!(broker.topic("t"), Err(Error::UnknownTopic { .. })));
            disk.clear_faults();
            let topic = broker.create_topic("t", small().partitions(2)).unwrap();
            fill(&broker, &topic.partition(1).unwrap(), 30);
            broker.close().unwrap();
            assert_filled(
                &open(&disk).unwrap().topic("t").unwrap().partition(1).unwrap(),
                30,
                &format!("{op:?} {nth}"),
            );
        }
    }
}

#[test]
fn a_full_disk_at_opening_is_reported_and_nothing_is_lost() {
    for clean in [true, false] {
        let whole = Disk::new();
        let (broker, partition) = with_topic(&whole, small());
        fill(&broker, &partition, 30);
        if clean {
            broker.close().unwrap();
        } else {
            whole.crash(Survive::Everything);
        }
        for op in [Op::Lock, Op::OpenFile, Op::Write, Op::Sync] {
            for nth in 1..30 {
                let disk = whole.duplicate();
                let ops = disk.ops_of(op);
                disk.fail(op, nth, ErrorKind::StorageFull);
                let case = format!("{op:?} {nth}, clean: {clean}");
                match open(&disk) {
                    Err(error) => {
                        let named = matches!(&error, Error::DiskFull { .. } | Error::Io { .. });
                        assert!(named, "{case}: {error}");
                    }
                    // A partition that could not be opened returns the error itself.
                    Ok(broker) => {
                        for (_, error) in &broker.open_report().damaged {
                            assert!(
                                matches!(error, Error::DiskFull { .. } | Error::Io { .. }),
                                "{case}: {error}"
                            );
                        }
                    }
                }
                let met = disk.ops_of(op) - ops >= nth;
                disk.clear_faults();
                disk.crash(Survive::Everything);
                let broker = open(&disk).unwrap();
                assert!(
                    broker.open_report().damaged.is_empty()
                        && broker.open_report().truncated_tails.is_empty(),
                    "{case}"
                );
                assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 30, &case);
                if !met {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_full_disk_at_closing_is_reported_and_the_next_opening_recovers() {
    for op in [Op::OpenFile, Op::Write] {
        let disk = Disk::new();
        let (broker, partition) = with_topic(&disk, sync());
        fill(&broker, &partition, 10);
        disk.fail_always(op, 1, ErrorKind::StorageFull);
        let error = broker.close().unwrap_err();
        assert!(is_full(&error), "{op:?}: {error}");
        assert!(matches!(send(&broker, &partition, "x"), Err(Error::Closed)));
        broker.close().unwrap();
        disk.clear_faults();
        let broker = open(&disk).unwrap();
        assert!(!broker.open_report().clean);
        assert_filled(&broker.topic("t").unwrap().partition(0).unwrap(), 10, "not closed properly");
    }
}

// -- reading, and pending records --

/// A reader that met an I/O error continues at its position once the disk works.
#[test]
fn a_read_that_failed_can_be_tried_again() {
    let disk = Disk::new();
    let config = || BrokerConfig::new().clock(ManualClock::new()).tail_cache_bytes(0);
    let broker = config().on_disk(&disk).unwrap();
    let partition = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    fill(&broker, &partition, 30);
    broker.close().unwrap();
    for op in [Op::Read, Op::OpenFile, Op::Map, Op::Len] {
        for nth in 1..5 {
            let broker = config().on_disk(&disk).unwrap();
            let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(7);
            disk.fail(op, nth, ErrorKind::Other);
            let (mut found, mut failed) = (0, 0);
            while found < 30 {
                match reader.poll(Duration::ZERO) {
                    Ok(records) => {
                        for record in &records {
                            assert_eq!(record.value(), Some(value(found).as_bytes()));
                            found += 1;
                        }
                        assert!(!records.is_empty(), "{op:?} {nth}");
                    }
                    Err(error) => {
                        assert!(
                            matches!(&error, Error::Io { path, .. } if is_below(path)),
                            "{op:?} {nth}: {error}"
                        );
                        failed += 1;
                    }
                }
            }
            assert!(failed <= 1, "{op:?} {nth}");
            disk.clear_faults();
            let records = broker.topic("t").unwrap().partition(0).unwrap().read(at(3), 1).unwrap();
            assert_eq!(records.iter().next().unwrap().value(), Some(value(3).as_bytes()));
        }
    }
    let record = Record::new("and nothing is poisoned by reading");
    broker.producer().send("t", record).unwrap_err();
    let broker = config().on_disk(&disk).unwrap();
    assert_eq!(send(&broker, &broker.topic("t").unwrap().partition(0).unwrap(), "v").unwrap().offset, 30);
}

#[test]
fn a_pending_record_truncated_by_a_reopen_is_not_acknowledged_by_its_replacement() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = BrokerConfig::new().clock(clock).on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    let config = quipu::ProducerConfig::new().linger(std::time::Duration::ZERO);
    let producer = broker.producer_with(config).unwrap();
    let first = producer.send(&topic, Record::new("cut off")).unwrap();
    disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
    producer.send(&topic, Record::new("cut off too")).unwrap().wait().unwrap_err();
    topic.partition(0).unwrap().reopen().unwrap();
    for value in ["other", "records"] {
        producer.send(&topic, Record::new(value)).unwrap().wait().unwrap();
    }
    let error = first.wait().unwrap_err();
    assert!(matches!(error, Error::Truncated { to, .. } if to == 0), "{error}");
}
