//! Small rules that no larger test holds: each of these was broken on purpose once, and no other
//! test failed.

use std::cell::Cell;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use quipu::stats::Event;
use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    BrokerConfig, Cleanup, Clock, Durability, Error, ExpectedVersion, Offset, OffsetReset, Partition,
    ProducerConfig, Record, Retention, Start, SystemClock, Timestamp, TopicConfig,
};

use crate::common::{assert_filled, files, fill, open, read, send, small, value};

const FIRST: &str = "topics/t/0/00000000000000000000-0.log";

fn topic(disk: &Disk, config: TopicConfig) -> (quipu::Broker, Partition) {
    let broker = open(disk).unwrap();
    let partition = broker.ensure_topic("t", config).unwrap().partition(0).unwrap();
    (broker, partition)
}

fn relative(path: &Path) -> std::path::PathBuf {
    path.strip_prefix("mem:/").unwrap().to_path_buf()
}

/// Bytes that are kept aside stay for inspection, after the next crash too.
#[test]
fn a_torn_tail_that_was_kept_aside_survives_a_power_loss() {
    let disk = Disk::new();
    let (_broker, partition) = topic(&disk, TopicConfig::new());
    fill(&_broker, &partition, 3);
    let end = partition.stats().bytes;
    disk.crash(Survive::Everything);
    disk.overwrite(FIRST, end, b"torn, and worth a look").unwrap();
    let broker = open(&disk).unwrap();
    let kept = relative(broker.open_report().truncated_tails[0].kept.as_ref().unwrap());
    for loss in disk.power_losses(1) {
        let disk = disk.duplicate();
        disk.crash(loss);
        assert_eq!(disk.read(&kept).unwrap(), b"torn, and worth a look", "{loss:?}");
    }
}

/// Two copies of a directory diverge and reach the same offset and the same next segment; then the
/// segment of one comes into the other, for example from a backup. Everything in it is valid but
/// its header's field for the segment before.
#[test]
fn a_segment_that_follows_another_history_is_no_part_of_the_log() {
    for is_closed in [true, false] {
        let begin = Disk::new();
        let (broker, partition) = topic(&begin, small());
        fill(&broker, &partition, 2);
        broker.close().unwrap();
        let write = |what: &str| {
            let disk = begin.duplicate();
            let (broker, partition) = topic(&disk, small());
            while partition.segments().len() < 2 {
                let value = format!("{what} {:>100}", partition.bounds().unwrap().log_end);
                send(&broker, &partition, &value).unwrap();
            }
            if is_closed {
                broker.close().unwrap();
            }
            let name = relative(&partition.segments()[1].file);
            let base = partition.segments()[1].base_offset;
            disk.crash(Survive::Everything);
            (disk, name, base)
        };
        let ((one, name, base), (other, its_name, _)) = (write("one"), write("two"));
        assert_eq!(name, its_name);
        let (ours, foreign) = (one.read(&name).unwrap(), other.read(&name).unwrap());
        assert!(ours.len() == foreign.len() && ours != foreign);
        one.overwrite(&name, 0, &foreign).unwrap();
        let (broker, partition) = topic(&one, small());
        let (values, error) = read(&partition);
        assert!(values.iter().all(|value| !value.starts_with("two")), "closed: {is_closed}: {values:?}");
        assert_eq!(values.len() as u64, base.get(), "what lies before it is there");
        let report = broker.open_report();
        let told = format!("{error:?} {:?} {:?}", report.damaged, report.truncated_tails);
        assert!(told.contains("does not follow the one before it"), "closed: {is_closed}: {told}");
    }
}

/// A batch of another epoch lies where a crash left garbage. Its durable end in that history proves
/// nothing of this one.
#[test]
fn a_batch_of_another_epoch_is_no_witness() {
    let disk = Disk::new();
    let (broker, partition) = topic(&disk, TopicConfig::new());
    fill(&broker, &partition, 5);
    broker.sync().unwrap();
    let end = partition.stats().bytes;
    disk.crash(Survive::Everything);
    // In a copy the log was truncated and continued: durable up to 8 there, in another epoch.
    let copy = disk.duplicate();
    let (broker, partition) = topic(&copy, TopicConfig::new());
    partition.truncate_to(4.into()).unwrap();
    fill(&broker, &partition, 8);
    broker.sync().unwrap();
    let before = partition.segments().last().unwrap().bytes as usize;
    fill(&broker, &partition, 9);
    let file = relative(&partition.segments().last().unwrap().file);
    let batch = copy.read(file).unwrap()[before..].to_vec();
    copy.crash(Survive::Everything);

    disk.overwrite(FIRST, end, &[&b"torn"[..], &batch].concat()).unwrap();
    let (broker, partition) = topic(&disk, TopicConfig::new());
    assert!(broker.open_report().damaged.is_empty(), "{:?}", broker.open_report().damaged);
    assert_eq!(broker.open_report().truncated_tails[0].position, end);
    assert_filled(&partition, 5, "the earlier records are there");
}

/// Names of new segments and the manifest that lists them lie in one directory: a power loss may
/// keep the second alone.
#[test]
fn a_manifest_lists_only_segments_whose_names_are_on_the_medium() {
    let config =
        || small().cleanup(Cleanup::Compact).min_cleanable_dirty_ratio(1.0).durability(Durability::Sync);
    let start = Disk::new();
    let (broker, partition) = topic(&start, config());
    for n in 0..20 {
        let record = Record::new(format!("{n:>100}")).key(format!("{}", n % 3));
        broker.producer().send(&partition, record).unwrap().wait().unwrap();
    }
    broker.close().unwrap();
    let run = |disk: &Disk| -> quipu::Result<()> {
        let broker = open(disk)?;
        while broker.topic("t")?.partition(0)?.compact()?.is_some() {}
        disk.crash_at(1);
        Ok(())
    };
    let whole = start.duplicate();
    run(&whole).unwrap();
    let mut states = 0;
    for cut in 1..=whole.ops() {
        let disk = start.duplicate();
        disk.crash_at(cut);
        let _ = run(&disk);
        for loss in disk.power_losses(cut) {
            let left = disk.duplicate();
            left.crash(loss);
            let broker = open(&left).unwrap();
            assert!(
                broker.open_report().damaged.is_empty(),
                "{cut}, {loss:?}: {:?}",
                broker.open_report().damaged
            );
            let partition = broker.topic("t").unwrap().partition(0).unwrap();
            let newest = crate::common::read_from(&partition, Start::Beginning);
            assert!([17, 18, 19].iter().all(|at| newest.contains_key(at)), "{cut}, {loss:?}");
            left.crash_at(1);
            states += 1;
        }
    }
    assert!(states > 300, "{states}");
}

/// Retention begins an empty segment, and a sync has nothing to sync in it: its header is not on
/// the disk when the first sync that concerns it fails.
#[test]
fn reopening_writes_the_header_of_a_segment_that_was_never_synced() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let open = || BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
    let broker = open();
    let config = TopicConfig::new().retention(Retention::for_age(Duration::from_secs(60)));
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    fill(&broker, &partition, 3);
    clock.advance(Duration::from_secs(3600));
    broker.maintain().unwrap();
    assert_eq!(partition.bounds().unwrap().log_start, 3, "all of it went");
    broker.sync().unwrap();
    fill(&broker, &partition, 6);
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    broker.sync().unwrap_err();
    assert!(partition.stats().poisoned.is_some());
    partition.reopen().unwrap();
    disk.crash(Survive::Synced);
    let broker = open();
    let report = broker.open_report();
    assert!(report.damaged.is_empty() && report.truncated_tails.is_empty(), "{report:?}");
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    let found = crate::common::read_from(&partition, Start::Beginning);
    assert_eq!(found, (3..6).map(|at| (at, value(at))).collect());
}

/// A reader reads ahead: also bytes of a batch that is being written, which then fails for lack of
/// space, and of which another one takes the place.
#[test]
fn a_reader_at_the_end_does_not_see_bytes_from_before_a_truncation() {
    let disk = Disk::new();
    // Its readers read files, not what producers have just sealed.
    let broker =
        BrokerConfig::new().clock(ManualClock::new()).seed(1).tail_cache_bytes(0).on_disk(&disk).unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    send(&broker, &partition, "first").unwrap();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    disk.short(Op::Write, 1);
    let gate = disk.hold(Op::Write, 2);
    disk.fail(Op::Write, 2, ErrorKind::StorageFull);
    let values = |records: &quipu::Records| -> Vec<String> {
        records.iter().map(|record| String::from_utf8(record.value().unwrap().to_vec()).unwrap()).collect()
    };
    thread::scope(|scope| {
        let failing = scope.spawn(|| send(&broker, &partition, &"large ".repeat(100)));
        gate.wait_until_reached();
        assert_eq!(values(&reader.poll(Duration::ZERO).unwrap()), ["first"]);
        gate.release();
        let error = failing.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    });
    send(&broker, &partition, "second").unwrap();
    assert_eq!(values(&reader.poll(Duration::ZERO).unwrap()), ["second"]);
    let (end, error) = (partition.bounds().unwrap().visible_end, read(&partition).1);
    assert!(end == 2 && error.is_none(), "{error:?}");
}

/// Three segments, closed cleanly. Returns the file of the second, its size, its base offset, and
/// that of the third.
fn three_segments(disk: &Disk) -> (std::path::PathBuf, u64, Offset, Offset) {
    let (broker, partition) = topic(disk, small());
    let mut end = 0;
    while partition.stats().segments < 3 {
        end += 1;
        fill(&broker, &partition, end);
    }
    let segments = partition.segments();
    let second = &segments[1];
    broker.close().unwrap();
    (relative(&second.file), second.bytes, second.base_offset, segments[2].base_offset)
}

/// Where the last batch of a segment is damaged, reading can continue with the next segment.
#[test]
fn damage_at_the_end_of_a_segment_names_the_next_segment() {
    let disk = Disk::new();
    let (file, bytes, _, next) = three_segments(&disk);
    let last = last_batch(&disk, &file, bytes);
    disk.flip_bit(&file, (last + 10) * 8).unwrap();
    let (_broker, partition) = topic(&disk, small());
    assert_resumes(&partition, next.get() - 1, next);
}

/// Where a whole segment cannot be read, reading can continue with the next one too.
#[test]
fn a_segment_with_a_damaged_header_names_the_next_segment() {
    let disk = Disk::new();
    let (file, _, base, next) = three_segments(&disk);
    disk.flip_bit(&file, 20 * 8).unwrap();
    let (_broker, partition) = topic(&disk, small());
    assert_resumes(&partition, base.get(), next);
}

fn assert_resumes(partition: &Partition, from: u64, next: Offset) {
    match partition.read(Start::At(Offset::new(from)), 1 << 20).unwrap_err() {
        Error::Corrupt(damage) => assert_eq!(damage.resume, Some(next), "{damage}"),
        other => panic!("{other}"),
    }
}

/// The position of the last batch of a file, which begins with the magic of a batch.
fn last_batch(disk: &Disk, file: &Path, bytes: u64) -> u64 {
    let content = disk.read(file).unwrap();
    content[..bytes as usize].windows(4).rposition(|window| window == b"QBAT").unwrap() as u64
}

/// The bytes of a torn tail are kept aside, and a segment that has none makes no file.
#[test]
fn a_segment_of_zeros_is_not_kept_aside() {
    let disk = Disk::new();
    let (broker, partition) = topic(&disk, small().durability(Durability::Os));
    while partition.stats().segments < 2 {
        fill(&broker, &partition, partition.bounds().unwrap().log_end.get() + 1);
    }
    let segments = partition.segments();
    disk.crash(Survive::Everything);
    let (first, second) = (relative(&segments[0].file), relative(&segments[1].file));
    let zeros = vec![0; disk.read(&second).unwrap().len() - SEGMENT_HEADER];
    disk.overwrite(&second, SEGMENT_HEADER as u64, &zeros).unwrap();
    let last = last_batch(&disk, &first, segments[0].bytes);
    disk.flip_bit(&first, (last + 10) * 8).unwrap();
    let broker = open(&disk).unwrap();
    assert_eq!(broker.open_report().truncated_tails.len(), 1, "{:?}", broker.open_report());
    let kept = files(&disk, "topics/t/0", ".torn");
    assert_eq!(kept.len(), 1, "{kept:?}");
}

const SEGMENT_HEADER: usize = 128;

/// A call that fails reports its events before it returns: there may be no later call.
#[test]
fn the_failure_of_an_append_to_a_stream_is_reported_with_it() {
    let disk = Disk::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let listen = move |event: &Event| {
        if matches!(event, Event::Poisoned { .. }) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    };
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1).on_event(listen);
    let broker = config.on_disk(&disk).unwrap();
    let stream = broker.create_topic("t", TopicConfig::streams()).unwrap().stream("s").unwrap();
    stream.append(ExpectedVersion::Any, [Record::new("first")]).unwrap();
    disk.fail(Op::Write, 1, ErrorKind::Other);
    let failed = stream.append(ExpectedVersion::Any, [Record::new("second")]);
    assert!(failed.is_err() && seen.load(Ordering::SeqCst) == 1, "{failed:?}");
}

/// FORMAT.md: the number of the handle of the producer's name.
#[test]
fn a_batch_with_sequences_carries_the_number_of_its_producers_handle() {
    let disk = Disk::new();
    let (broker, partition) = topic(&disk, TopicConfig::new());
    let producer = || broker.producer_with(ProducerConfig::new().name("import")).unwrap();
    let epochs = (1..=3u64).map(|sequence| {
        let before = disk.read(FIRST).map_or(SEGMENT_HEADER, |bytes| bytes.len());
        producer().send(&partition, Record::new("x").sequence(sequence)).unwrap().wait().unwrap();
        let bytes = disk.read(FIRST).unwrap();
        u16::from_le_bytes(bytes[before + 56..before + 58].try_into().unwrap())
    });
    let epochs: Vec<_> = epochs.collect();
    assert!(epochs[1] == epochs[0] + 1 && epochs[2] == epochs[1] + 1, "{epochs:?}");
}

/// A consumer whose policy chooses no place has no position in a partition without a commit.
#[test]
fn a_consumer_without_a_place_has_no_position() {
    let broker = open(&Disk::new()).unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let builder = broker.consumer("g").offset_reset(OffsetReset::Fail);
    let mut consumer = builder.subscribe(&["t"]).unwrap();
    let refused = consumer.poll(Duration::ZERO).unwrap_err();
    assert!(matches!(refused, Error::NoCommittedOffset { .. }), "{refused}");
    assert!(consumer.positions().is_empty() && consumer.position("t", 0).is_none());
    assert_eq!(consumer.assignment().len(), 1);
}

thread_local! {
    /// Counts the looks at the clock of this thread.
    static LOOKS: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The time of the system. Notes the looks of one thread.
struct Watched(SystemClock, Arc<AtomicUsize>);

impl Clock for Watched {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        if let Some(looks) = LOOKS.get() {
            LOOKS.set(Some(looks + 1));
            self.1.store(looks + 1, Ordering::SeqCst);
        }
        self.0.monotonic()
    }
}

/// A caller that waits for a lag looks again before its time is over.
#[test]
fn a_caller_that_waits_an_hour_for_a_lag_returns_after_the_commit() {
    let looks = Arc::new(AtomicUsize::new(0));
    let clock = Watched(SystemClock::new(), looks.clone());
    let broker = BrokerConfig::new().clock(clock).seed(1).in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    let mut consumer = broker.consumer("g").subscribe(&["t"]).unwrap();
    broker.producer().send(&topic, Record::new("v")).unwrap().wait().unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    let group = broker.group("g").unwrap();
    let caller = thread::spawn(move || {
        LOOKS.set(Some(0));
        group.wait_for_lag(0, Duration::from_secs(3_600))
    });
    // One look for the end of the wait, and one after it has found the lag.
    while looks.load(Ordering::SeqCst) < 2 {
        thread::yield_now();
    }
    consumer.commit(&records).unwrap();
    assert!(caller.join().unwrap().unwrap());
}

/// The gap of an accepted loss extends to the visible end, and the batch after it is not synced.
#[test]
fn a_shipment_from_a_gap_at_the_end_holds_no_batch_that_is_not_visible() {
    let disk = Disk::new();
    let (broker, partition) = topic(&disk, TopicConfig::new().durability(Durability::Sync));
    fill(&broker, &partition, 3);
    let bytes = partition.stats().bytes;
    broker.close().unwrap();
    disk.flip_bit(FIRST, (last_batch(&disk, Path::new(FIRST), bytes) + 110) * 8).unwrap();
    let (broker, partition) = topic(&disk, TopicConfig::new().durability(Durability::Sync));
    let damage = partition.damage().unwrap();
    assert_eq!(partition.accept_loss(&damage).unwrap(), [(Offset::new(2), Offset::new(3))]);
    let mut consumer = broker.consumer("g").assign(std::slice::from_ref(&partition)).unwrap();
    let polled = consumer.poll(Duration::ZERO).unwrap();
    consumer.commit(polled).unwrap();
    let lag = || broker.group("g").unwrap().lag().unwrap();
    assert_eq!(lag(), 0);
    let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
    let pending = producer.send(&partition, Record::new("next")).unwrap();
    let bounds = partition.bounds().unwrap();
    assert_eq!((bounds.visible_end.get(), bounds.log_end.get()), (3, 4));
    assert_eq!(lag(), 0, "nothing visible follows the gap");
    assert!(partition.read_raw(Offset::new(2), 1 << 20).unwrap().is_empty());
    pending.wait().unwrap();
    assert!(!partition.read_raw(Offset::new(2), 1 << 20).unwrap().is_empty());
}
