//! A batch is checked by its first read through a map, and again through another map or before its
//! records are written again. On real files, because a map in memory has its own copy of the bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quipu::testing::ManualClock;
use quipu::{
    Broker, BrokerConfig, Cleanup, Compression, Error, Offset, Partition, ReadMode, Record, Start,
    TopicConfig,
};

/// Records of a batch.
const RECORDS: u64 = 20;
/// Batches of the log. A segment has a few of them.
const BATCHES: u64 = 80;

fn config(mode: ReadMode) -> BrokerConfig {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).read_mode(mode).tail_cache_bytes(0)
}

fn open(dir: &Path, mode: ReadMode) -> (Broker, Partition) {
    let broker = config(mode).open(dir).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    (broker, partition)
}

/// A closed directory with a topic whose batches are all alike but for a number.
fn fill(dir: &Path, topic: TopicConfig) {
    let broker = config(ReadMode::Map).open(dir).unwrap();
    let topic = broker.create_topic("t", topic.segment_bytes(8 << 10).max_record_bytes(200)).unwrap();
    let producer = broker.producer();
    for batch in 0..BATCHES {
        let records = (0..RECORDS).map(|n| {
            let value = format!("{batch:02}-{n:02} {}", marker(batch).repeat(8));
            Record::new(value).key(format!("key {batch} {n}"))
        });
        producer.send_all(&topic, records).unwrap().wait().unwrap();
    }
    drop(producer);
    broker.close().unwrap();
}

/// Bytes that only the records of one batch have.
fn marker(batch: u64) -> String {
    format!("<{batch:02}>")
}

/// Flips a bit of the last occurrence of a batch's marker in a file.
fn damage(file: &Path, batch: u64) {
    let mut bytes = fs::read(file).unwrap();
    let marker = marker(batch);
    let at = bytes.windows(marker.len()).rposition(|window| window == marker.as_bytes());
    let at = at.expect("the batch is in the file and not compressed");
    bytes[at + 1] ^= 1;
    // Into the same file, and not another of the same name: a map must show it.
    let file = fs::File::options().write(true).open(file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes[at + 1..at + 2], at as u64 + 1).unwrap();
}

/// Flips a bit of the last byte of a file, which belongs to a body.
fn damage_last_byte(file: &Path) {
    let bytes = fs::read(file).unwrap();
    let last = bytes.len() - 1;
    let file = fs::File::options().write(true).open(file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[bytes[last] ^ 0x40], last as u64).unwrap();
}

/// The segment file of a batch.
fn file_of(dir: &Path, partition: &Partition, batch: u64) -> PathBuf {
    let segments = partition.segments();
    let of = segments.iter().rfind(|segment| segment.base_offset.get() <= batch * RECORDS).unwrap();
    assert!(of.sealed, "batch {batch} is in the active segment");
    if of.file.is_absolute() { of.file.clone() } else { dir.join(&of.file) }
}

/// The file of the active segment, which is the only one.
fn only_file(dir: &Path, partition: &Partition) -> PathBuf {
    let segments = partition.segments();
    assert!(segments.len() == 1 && !segments[0].sealed);
    dir.join(&segments[0].file)
}

/// Reads a record in the middle of a batch.
fn read(partition: &Partition, batch: u64) -> Result<Vec<u8>, Error> {
    let records = partition.read(Start::At(Offset::new(batch * RECORDS + 7)), 1)?;
    let record = records.iter().next().unwrap();
    assert_eq!(record.offset().get(), batch * RECORDS + 7);
    Ok(record.value().unwrap().to_vec())
}

fn assert_damaged(read: Result<Vec<u8>, Error>) {
    assert!(matches!(read, Err(Error::Corrupt(_))), "{read:?}");
}

#[test]
fn damage_before_the_first_read_is_found_by_every_read() {
    for mode in [ReadMode::Map, ReadMode::Positional, ReadMode::Checked] {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), TopicConfig::new());
        let (broker, partition) = open(dir.path(), mode);
        damage(&file_of(dir.path(), &partition, 3), 3);
        read(&partition, 2).unwrap();
        assert_damaged(read(&partition, 3));
        assert_damaged(read(&partition, 3));
        read(&partition, 4).unwrap();
        broker.close().unwrap();
    }
}

#[test]
fn a_batch_is_checked_once_through_a_map_and_again_through_the_next() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), TopicConfig::new());
    let (broker, partition) = open(dir.path(), ReadMode::Map);
    let before = read(&partition, 3).unwrap();
    damage(&file_of(dir.path(), &partition, 3), 3);
    // Bytes that change after the check are not noticed: this is documented at `ReadMode::Map`.
    assert_eq!(read(&partition, 3).unwrap(), before, "the damage is in another record");
    broker.close().unwrap();
    let (broker, partition) = open(dir.path(), ReadMode::Map);
    assert_damaged(read(&partition, 3));
    broker.close().unwrap();
}

#[test]
fn each_read_checks_where_it_was_asked_for() {
    for mode in [ReadMode::Checked, ReadMode::Positional] {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), TopicConfig::new());
        let (broker, partition) = open(dir.path(), mode);
        read(&partition, 3).unwrap();
        damage(&file_of(dir.path(), &partition, 3), 3);
        assert_damaged(read(&partition, 3));
        read(&partition, 4).unwrap();
        broker.close().unwrap();
    }
}

/// As [`fill`], with all batches in the active segment.
fn fill_one_segment(dir: &Path, compression: Compression) -> (Broker, Partition) {
    let broker = config(ReadMode::Map).open(dir).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().compression(compression)).unwrap();
    let partition = topic.partition(0).unwrap();
    (0..BATCHES).for_each(|batch| append(&broker, &partition, batch));
    (broker, partition)
}

/// Appends the batch with a number.
fn append(broker: &Broker, partition: &Partition, batch: u64) {
    let records = (0..RECORDS).map(|n| {
        let value = format!("{batch:02}-{n:02} {}", marker(batch).repeat(8));
        Record::new(value).key(format!("key {batch} {n}"))
    });
    broker.producer().send_all(partition, records).unwrap().wait().unwrap();
}

/// Reads so often that the active segment is mapped.
fn read_often(partition: &Partition, batch: u64) {
    for _ in 0..40 {
        assert!(read(partition, batch).unwrap().starts_with(format!("{batch:02}-07").as_bytes()));
    }
}

#[test]
fn a_batch_of_the_active_segment_is_checked_once_through_a_map_that_grows_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, partition) = fill_one_segment(dir.path(), Compression::None);
    read_often(&partition, 3);
    damage(&only_file(dir.path(), &partition), 3);
    // Bytes that change after the check are not noticed: this is documented at `ReadMode::Map`.
    read_often(&partition, 3);
    append(&broker, &partition, BATCHES);
    read_often(&partition, BATCHES);
    read_often(&partition, 3);
    broker.close().unwrap();
    let (broker, partition) = open(dir.path(), ReadMode::Map);
    assert_damaged(read(&partition, 3));
    broker.close().unwrap();
}

#[test]
fn damage_in_the_active_segment_before_the_first_read_is_found_and_the_next_batch_too() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, partition) = fill_one_segment(dir.path(), Compression::None);
    read_often(&partition, 5);
    append(&broker, &partition, BATCHES);
    let file = only_file(dir.path(), &partition);
    for batch in [7, BATCHES - 1] {
        damage(&file, batch);
        let Err(Error::Corrupt(corruption)) = read(&partition, batch) else { panic!("batch {batch}") };
        assert_eq!(corruption.resume, Some(Offset::new((batch + 1) * RECORDS)), "batch {batch}");
        assert_damaged(read(&partition, batch));
    }
    read_often(&partition, BATCHES);
    broker.close().unwrap();
}

#[test]
fn records_of_a_segment_that_grows_are_found_by_place_and_in_order_before_and_after_a_roll() {
    for (compression, bytes) in [(Compression::None, 40 << 10), (Compression::Lz4, 10 << 10)] {
        let dir = tempfile::tempdir().unwrap();
        let broker = config(ReadMode::Map).open(dir.path()).unwrap();
        let topic = TopicConfig::new().compression(compression).segment_bytes(bytes).max_record_bytes(200);
        let partition = broker.create_topic("t", topic).unwrap().partition(0).unwrap();
        let mut place = 1_u64;
        let mut readers = Vec::new();
        for batch in 0..BATCHES {
            append(&broker, &partition, batch);
            for _ in 0..10 {
                place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let batch = (place >> 33) % (batch + 1);
                assert!(read(&partition, batch).unwrap().starts_with(format!("{batch:02}-07").as_bytes()));
            }
            if batch % 10 == 7 {
                // It begins inside what is mapped and passes its end.
                let from = Start::At(Offset::new(batch / 2 * RECORDS));
                readers.push((batch / 2, broker.reader(["t"], from).unwrap()));
            }
            for (next, reader) in &mut readers {
                let records = reader.poll(Duration::ZERO).unwrap();
                let batches: Vec<_> = records.iter().step_by(RECORDS as usize).collect();
                for record in &batches {
                    assert!(record.value().unwrap().starts_with(format!("{next:02}-00").as_bytes()));
                    *next += 1;
                }
            }
        }
        assert!(partition.segments().len() > 1 && readers.iter().all(|(next, _)| *next == BATCHES));
        broker.close().unwrap();
    }
}

#[test]
fn a_segment_that_the_budget_of_open_files_has_closed_is_checked_again() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), TopicConfig::new());
    let broker = config(ReadMode::Map).max_open_files(8).open(dir.path()).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    assert!(partition.segments().len() > 8);
    read(&partition, 3).unwrap();
    damage(&file_of(dir.path(), &partition, 3), 3);
    read(&partition, 3).unwrap();
    for batch in 6..BATCHES {
        read(&partition, batch).unwrap();
    }
    assert_damaged(read(&partition, 3));
    broker.close().unwrap();
}

#[test]
fn a_truncated_segment_is_checked_again() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), TopicConfig::new());
    let (broker, partition) = open(dir.path(), ReadMode::Map);
    let first = partition.segments().iter().rfind(|s| s.base_offset.get() <= 3 * RECORDS).cloned().unwrap();
    let batch = first.base_offset.get() / RECORDS;
    for batch in batch..BATCHES {
        read(&partition, batch).unwrap();
    }
    // Once more: a small batch is checked again if its neighbour was checked after it.
    read(&partition, batch).unwrap();
    damage(&file_of(dir.path(), &partition, batch), batch);
    read(&partition, batch).unwrap();
    partition.truncate_to(Offset::new((batch + 1) * RECORDS)).unwrap();
    assert_damaged(read(&partition, batch));
    broker.close().unwrap();
}

#[test]
fn a_truncation_inside_a_batch_checks_the_records_that_it_writes_again() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), TopicConfig::new());
    let (broker, partition) = open(dir.path(), ReadMode::Map);
    read(&partition, 3).unwrap();
    damage(&file_of(dir.path(), &partition, 3), 3);
    read(&partition, 3).unwrap();
    let end = partition.bounds().unwrap().log_end;
    let truncated = partition.truncate_to(Offset::new(4 * RECORDS - 1));
    assert!(matches!(truncated, Err(Error::Corrupt(_))), "{truncated:?}");
    assert_eq!(partition.bounds().unwrap().log_end, end);
    broker.close().unwrap();
}

#[test]
fn a_compaction_checks_what_it_writes_again_and_its_output_is_checked_by_the_first_read() {
    let compacted = || TopicConfig::new().cleanup(Cleanup::Compact);
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), compacted());
    let (broker, partition) = open(dir.path(), ReadMode::Map);
    read(&partition, 3).unwrap();
    damage(&file_of(dir.path(), &partition, 3), 3);
    read(&partition, 3).unwrap();
    let done = partition.compact();
    assert!(matches!(done, Err(Error::Corrupt(_))), "{done:?}");
    broker.close().unwrap();

    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), compacted());
    let (broker, partition) = open(dir.path(), ReadMode::Map);
    for batch in 0..BATCHES {
        read(&partition, batch).unwrap();
    }
    partition.compact().unwrap().expect("there is something to compact");
    damage(&file_of(dir.path(), &partition, 3), 3);
    assert_damaged(read(&partition, 3));
    broker.close().unwrap();
}

#[test]
fn compressed_batches_are_checked_once_too() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), TopicConfig::new().compression(Compression::Lz4));
    let (broker, partition) = open(dir.path(), ReadMode::Map);
    let values =
        |partition: &Partition| (0..BATCHES - 5).map(|batch| read(partition, batch)).collect::<Vec<_>>();
    let first: Vec<_> = values(&partition).into_iter().map(Result::unwrap).collect();
    let again: Vec<_> = values(&partition).into_iter().map(Result::unwrap).collect();
    assert_eq!(first, again);
    let file = file_of(dir.path(), &partition, 3);
    broker.close().unwrap();
    damage_last_byte(&file);
    let is_found = |partition: &Partition| values(partition).iter().any(Result::is_err);
    let (broker, partition) = open(dir.path(), ReadMode::Map);
    assert!(is_found(&partition) && is_found(&partition), "each read finds it");
    broker.close().unwrap();
}

#[test]
fn decompressed_batches_are_not_kept_where_each_read_checks() {
    for (mode, finds) in [(ReadMode::Map, false), (ReadMode::Checked, true), (ReadMode::Positional, true)] {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), TopicConfig::new().compression(Compression::Lz4));
        let (broker, partition) = open(dir.path(), mode);
        // The last batch of its segment.
        let next = partition.segments().iter().map(|s| s.base_offset.get()).find(|base| *base > 3 * RECORDS);
        let batch = next.unwrap() / RECORDS - 1;
        let before = read(&partition, batch).unwrap();
        damage_last_byte(&file_of(dir.path(), &partition, batch));
        match finds {
            false => assert_eq!(read(&partition, batch).unwrap(), before),
            true => assert_damaged(read(&partition, batch)),
        }
        if !finds {
            let inside = Offset::new(batch * RECORDS + 1);
            partition.truncate_to(inside).expect_err("its records are checked before they are written again");
        }
        broker.close().unwrap();
    }
}

#[test]
fn a_scan_that_meets_checked_batches_returns_the_same_records() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), TopicConfig::new());
    let (broker, _) = open(dir.path(), ReadMode::Map);
    let scan = || {
        let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
        let mut all = Vec::new();
        while (all.len() as u64) < BATCHES * RECORDS {
            let records = reader.poll(Duration::ZERO).unwrap();
            all.extend(records.iter().map(|record| (record.offset(), record.value().map(<[u8]>::to_vec))));
        }
        all
    };
    assert_eq!(scan(), scan());
    broker.close().unwrap();
}
