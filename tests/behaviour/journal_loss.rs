//! A transaction journal that has lost durable records: a later batch of a partition proves that
//! they were durable. That is damage, and nothing is truncated because of it.

use std::io::ErrorKind;
use std::path::PathBuf;

use quipu::testing::{Disk, Op, Survive};
use quipu::{Broker, Durability, Error, Partition, Record, TopicConfig};

use crate::common::{dump, open, send};

fn partitions(broker: &Broker) -> [Partition; 2] {
    ["x", "y"].map(|name| broker.topic(name).unwrap().partition(0).unwrap())
}

fn together(broker: &Broker, parts: &[Partition; 2], value: &str) {
    let mut transaction = broker.transaction();
    for part in parts {
        transaction.send(part, Record::new(value.to_string()));
    }
    transaction.commit().unwrap();
}

/// Six transactions over `x` and `y`, and after the fourth a record in `x` that is synced, and one
/// that knows of it. Where the journal's records end after each of them.
fn six() -> (Disk, Vec<u64>) {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    for name in ["x", "y"] {
        broker.create_topic(name, TopicConfig::new().durability(Durability::Sync)).unwrap();
    }
    let parts = partitions(&broker);
    let mut ends = Vec::new();
    for n in 0..6 {
        together(&broker, &parts, &format!("t{n}"));
        ends.push(disk.read("journal").unwrap().len() as u64);
        if n == 3 {
            send(&broker, &parts[0], "synced").unwrap();
            send(&broker, &parts[0], "a witness").unwrap();
        }
    }
    disk.crash(Survive::Everything);
    (disk, ends)
}

/// The segments, manifests, copies of torn tails, and the journal.
fn kept(disk: &Disk) -> Vec<(PathBuf, Vec<u8>)> {
    let files = disk.files().into_iter().map(|(path, _)| path);
    let files = files.filter(|path| path.starts_with("topics") || path.ends_with("journal"));
    files.map(|path| (path.clone(), disk.read(&path).unwrap())).collect()
}

#[test]
fn a_missing_record_that_a_later_batch_proves_is_damage_of_the_journal() {
    let (whole, ends) = six();
    let len = *ends.last().unwrap();
    let all = dump(&open(&whole.duplicate()).unwrap()).unwrap();
    for left in 0..=5 {
        let end = if left == 0 { 32 } else { ends[left - 1] };
        for (case, zeroed, torn) in [("cut", false, 0), ("zeroed", true, 0), ("torn", false, 5)] {
            let disk = whole.duplicate();
            disk.truncate("journal", end + torn).unwrap();
            if zeroed {
                disk.truncate("journal", len).unwrap();
            }
            let case = format!("{left} records left, {case}");
            if left >= 4 {
                // Nothing proves that the rest was durable: it is taken for a tail that a crash has
                // left.
                let broker = open(&disk).unwrap();
                let cuts: Vec<_> =
                    broker.open_report().truncated_tails.iter().map(|cut| cut.from.get()).collect();
                let from = left as u64;
                assert_eq!(cuts, [from + 2, from], "{case}");
                continue;
            }
            let before = kept(&disk);
            for attempt in 0..2 {
                let Err(Error::Corrupt(corruption)) = open(&disk) else { panic!("{case}: it opens") };
                assert!(corruption.file.ends_with("journal"), "{case}: {corruption:?}");
                assert_eq!(corruption.position, end, "{case}: {corruption:?}");
                // The first that is missing is at offset `left`, the witness is the batch after the
                // synced one.
                let named = [
                    format!("transaction {} ", left + 1),
                    format!("x/0 has its batch at {left}.."),
                    "batch at 5 ".into(),
                ];
                for named in named {
                    assert!(corruption.what.contains(&named), "{case}: {named} in {corruption:?}");
                }
                assert_eq!(kept(&disk), before, "{case}, attempt {attempt}");
                disk.crash(if attempt == 0 { Survive::Everything } else { Survive::Synced });
            }
            // Once the file is back everything is.
            disk.truncate("journal", 0).unwrap();
            disk.overwrite("journal", 0, &whole.read("journal").unwrap()).unwrap();
            assert_eq!(dump(&open(&disk).unwrap()).unwrap(), all, "{case}");
        }
    }
}

/// The batch that proves it may be after a torn tail, and a truncation would remove it: the
/// partition is left unchanged.
#[test]
fn a_batch_that_proves_a_lost_journal_record_is_not_truncated() {
    let (disk, ends) = six();
    disk.truncate("journal", ends[0]).unwrap();
    let x = "topics/x/0/00000000000000000000-0.log";
    let bytes = disk.read(x).unwrap();
    let witness = bytes.windows(9).position(|bytes| bytes == b"a witness").unwrap();
    // The body of the batch before it, which was never known to be on disk there.
    let synced = bytes.windows(6).position(|bytes| bytes == b"synced").unwrap();
    assert!(synced < witness);
    disk.overwrite(x, synced as u64, b"SYNCED").unwrap();
    let before = kept(&disk);
    for _ in 0..2 {
        let Err(Error::Corrupt(corruption)) = open(&disk) else { panic!("it opens") };
        assert!(corruption.file.ends_with("journal"), "{corruption:?}");
        assert_eq!(kept(&disk), before);
        disk.crash(Survive::Everything);
    }
}

/// Records that were deleted need no record of their transaction.
#[test]
fn a_batch_before_the_log_start_needs_no_record() {
    let (disk, ends) = six();
    let broker = open(&disk).unwrap();
    let [x, y] = partitions(&broker);
    // The opening starts a new file; these are in it.
    together(&broker, &[x.clone(), y.clone()], "more");
    send(&broker, &x, "synced").unwrap();
    send(&broker, &x, "a witness").unwrap();
    x.delete_records(x.bounds().unwrap().log_end).unwrap();
    y.delete_records(y.bounds().unwrap().log_end).unwrap();
    let end = x.bounds().unwrap().log_end;
    disk.crash(Survive::Everything);
    assert!(ends[0] > 32);
    disk.truncate("journal", 32).unwrap();
    let broker = open(&disk).unwrap();
    assert_eq!(partitions(&broker)[0].bounds().unwrap().log_end, end);
}

/// Without the journal each batch counts by itself. Later transactions take other ids, so that an
/// opening that scans the old batches again does not miss their records.
#[test]
fn batches_still_count_after_the_journal_was_deleted_and_started_over() {
    let (disk, _) = six();
    disk.remove("journal").unwrap();
    let broker = open(&disk).unwrap();
    let warnings = &broker.open_report().warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("each batch of a transaction counts")),
        "{warnings:?}"
    );
    let parts = partitions(&broker);
    assert_eq!(parts.each_ref().map(|part| part.bounds().unwrap().log_end.get()), [8, 6]);
    together(&broker, &parts, "later");
    let all = dump(&broker).unwrap();
    disk.crash(Survive::Everything);
    disk.remove("checkpoint").unwrap();
    let broker = open(&disk).unwrap();
    assert_eq!(dump(&broker).unwrap(), all, "{:?}", broker.open_report());
}

/// The journal is read before anything is written, because it may prove that a torn batch was
/// durable.
#[test]
fn an_opening_that_cannot_read_the_journal_changes_nothing() {
    let (whole, _) = six();
    let x = "topics/x/0/00000000000000000000-0.log";
    let len = whole.read(x).unwrap().len() as u64;
    whole.truncate(x, len - 3).unwrap();
    let before = kept(&whole);
    let mut refused = 0;
    for nth in 1..60 {
        let disk = whole.duplicate();
        disk.fail(Op::OpenFile, nth, ErrorKind::PermissionDenied);
        let Err(Error::Io { path, .. }) = open(&disk) else { continue };
        if path.ends_with("journal") && refused == 0 {
            refused = nth;
            assert_eq!(kept(&disk), before, "operation {nth}");
        }
    }
    assert!(refused > 0, "the journal is opened");
}
