//! Shared by all test programs: reading all of a broker, and comparing files.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{Broker, BrokerConfig, Error, Offset, Partition, Receipt, Record, Start, TopicConfig};

/// Every readable record of a broker: by topic and partition, offset and value, in the order of
/// reading.
pub type Dump = BTreeMap<(String, u32), Vec<(u64, Vec<u8>)>>;

/// Reads everything, from the log start of each partition to its visible end.
pub fn dump(broker: &Broker) -> quipu::Result<Dump> {
    let mut dump = Dump::new();
    for topic in broker.topics() {
        for partition in topic.partitions() {
            let mut records = Vec::new();
            let mut from = partition.bounds()?.log_start;
            loop {
                let some = partition.read(Start::At(from), 64 << 10)?;
                let Some(last) = some.last() else { break };
                from = last.offset().plus(1);
                records
                    .extend(some.iter().map(|r| (r.offset().get(), r.value().unwrap_or(b"<null>").to_vec())));
            }
            assert_eq!(from, partition.bounds()?.visible_end, "reading ends at the visible end");
            dump.insert((topic.name().to_string(), partition.id().get()), records);
        }
    }
    Ok(dump)
}

/// Offsets follow each other from 0 on.
pub fn assert_gapless(dump: &Dump) {
    for (partition, records) in dump {
        for (at, (offset, _)) in records.iter().enumerate() {
            assert_eq!(*offset, at as u64, "{partition:?}");
        }
    }
}

/// An offset, briefly.
pub fn at(offset: u64) -> Start {
    Start::At(Offset::new(offset))
}

/// A broker on a simulated disk, under a clock of its own that stands still.
pub fn open(disk: &Disk) -> quipu::Result<Broker> {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).on_disk(disk)
}

/// A broker in a directory, under a clock of its own that stands still: no thread of it touches
/// anything.
pub fn open_dir(dir: &Path) -> quipu::Result<Broker> {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).open(dir)
}

/// Small segments, so that a few records fill several.
pub fn small() -> TopicConfig {
    TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(700).index_interval_bytes(200)
}

/// Sends one record as a batch of its own and waits for its acknowledgement.
pub fn send(broker: &Broker, to: &Partition, value: &str) -> quipu::Result<Receipt> {
    broker.producer().send(to, Record::new(value))?.wait()
}

/// Has the files of a partition made that was never written to, and nothing in them: its first
/// batch finds no room.
pub fn make_files(disk: &Disk, broker: &Broker, partition: &Partition) {
    if partition.segments().is_empty() {
        // After the header of the segment, the manifest, and the note in the catalog.
        disk.fail(Op::Write, 4, ErrorKind::StorageFull);
        let error = send(broker, partition, "no room").unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        assert_eq!((partition.segments().len(), partition.bounds().unwrap().log_end.get()), (1, 0));
    }
}

/// The warnings of an opening, without that of a torn, unacknowledged change of the catalog.
pub fn warnings(broker: &Broker) -> Vec<String> {
    let is_torn = |warning: &str| {
        warning.contains("/catalog: ") && warning.contains("were left of a change that was never completed")
    };
    broker.open_report().warnings.iter().filter(|warning| !is_torn(warning)).cloned().collect()
}

/// The value of the record at `offset` in partitions that [`fill`] filled.
pub fn value(offset: u64) -> String {
    format!("value {offset} {}", "x".repeat((offset % 7) as usize * 10))
}

/// Appends records until the log ends at `end`, each acknowledged by itself.
pub fn fill(broker: &Broker, to: &Partition, end: u64) {
    for offset in to.bounds().unwrap().log_end.get()..end {
        assert_eq!(send(broker, to, &value(offset)).unwrap().offset, offset);
    }
}

/// Everything readable of one partition: the values by offset, and the error that reading ended
/// with, if one did.
pub fn read(partition: &Partition) -> (Vec<String>, Option<Error>) {
    let mut values = Vec::new();
    loop {
        match partition.read(at(values.len() as u64), 1 << 20) {
            Ok(records) if records.is_empty() => return (values, None),
            Ok(records) => {
                for record in &records {
                    assert_eq!(record.offset().get(), values.len() as u64, "offsets follow each other");
                    values.push(String::from_utf8(record.value().unwrap().to_vec()).unwrap());
                }
            }
            Err(error) => return (values, Some(error)),
        }
    }
}

/// A partition holds the records of [`fill`], up to `end`, all of them readable.
pub fn assert_filled(partition: &Partition, end: u64, case: &str) {
    let (values, error) = read(partition);
    assert!(error.is_none(), "{case}: {error:?}");
    assert_eq!(values, (0..end).map(value).collect::<Vec<_>>(), "{case}");
}

/// The readable records are the first ones of [`fill`], and no others.
pub fn assert_prefix(partition: &Partition, case: &str) -> (u64, Option<Error>) {
    let (values, error) = read(partition);
    let end = values.len() as u64;
    assert_eq!(values, (0..end).map(value).collect::<Vec<_>>(), "{case}");
    (end, error)
}

/// Every file of a disk with its content.
pub fn snapshot(disk: &Disk) -> BTreeMap<PathBuf, Vec<u8>> {
    disk.files().into_iter().map(|(path, _)| (path.clone(), disk.read(&path).unwrap())).collect()
}

/// Everything below a directory: files with their content, directories with none.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
            found.insert(path, None);
        } else {
            found.insert(path.clone(), Some(fs::read(&path).unwrap()));
        }
    }
    found
}

/// The files below `dir` whose name ends in `suffix`, oldest segment first.
pub fn files(disk: &Disk, dir: &str, suffix: &str) -> Vec<PathBuf> {
    let ours = |path: &PathBuf| path.starts_with(dir) && path.to_string_lossy().ends_with(suffix);
    disk.files().into_iter().map(|(path, _)| path).filter(ours).collect()
}

/// Small numbers from a seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Whether the tests that try many cases are to try many more: `QUIPU_THOROUGH=1 cargo test`.
pub fn thorough() -> bool {
    std::env::var_os("QUIPU_THOROUGH").is_some()
}

/// All records from a place on, by offset.
pub fn read_from(partition: &Partition, from: Start) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let mut from = from;
    loop {
        let records = partition.read(from, 64 << 10).unwrap();
        let Some(last) = records.last() else { return found };
        from = Start::At(last.offset().plus(1));
        let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        found.extend(records.iter().map(|record| (record.offset().get(), text(record.value()))));
    }
}

/// Crashes copies of a disk in each of these ways, and shows each. A crash that leaves the same
/// names and bytes as one in `seen` is left out, so the one with the most to promise comes first.
pub fn after_each_crash(
    disk: &Disk,
    ways: impl IntoIterator<Item = Survive>,
    seen: &mut BTreeSet<u64>,
    mut show: impl FnMut(&Disk, Survive),
) {
    for survive in ways {
        let left = disk.duplicate();
        left.crash(survive);
        if seen.insert(left.fingerprint()) {
            show(&left, survive);
        }
    }
}

/// Opens copies of a disk, each of which crashes at another operation of the opening, and shows
/// each of them.
pub fn crash_at_each_operation(
    disk: &Disk,
    open: impl Fn(&Disk) -> quipu::Result<Broker>,
    mut show: impl FnMut(&Disk, u64),
) {
    for nth in 1.. {
        let disk = disk.duplicate();
        disk.crash_at(nth);
        let finished = open(&disk).is_ok();
        show(&disk, nth);
        if finished {
            break;
        }
    }
}

/// Of `t/0`: number of segments, log start, log end. Every record between is there and holds its
/// offset, and there is no file of another segment.
pub fn look(disk: &Disk, partition: &Partition) -> (usize, u64, u64) {
    let bounds = partition.bounds().unwrap();
    let mut next = bounds.log_start;
    while next < bounds.visible_end {
        for record in &partition.read(Start::At(next), 1 << 20).unwrap() {
            assert_eq!(record.offset(), next);
            assert_eq!(record.value().unwrap(), format!("{next:>60}").as_bytes());
            next = next.plus(1);
        }
    }
    let listed = partition.segments();
    assert_eq!(files(disk, "topics/t/0", ".log").len(), listed.len(), "{listed:?}");
    (listed.len(), bounds.log_start.get(), bounds.log_end.get())
}
