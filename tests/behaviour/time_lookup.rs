//! The offset of a time, compared with a list of timestamps that is searched from its beginning.

use std::io::ErrorKind;
use std::time::Duration;

use proptest::prelude::*;
use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Compression, Durability, Error, Partition, ReadMode, Record, Start, Timestamp,
    TopicConfig,
};

use crate::common::{at, files};

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// Sends one batch.
fn send(broker: &Broker, to: &Partition, times: &[i64]) -> quipu::Result<()> {
    let records = times.iter().map(|millis| Record::new(format!("at {millis}")).timestamp(time(*millis)));
    broker.producer().send_all(to, records)?.wait().map(drop)
}

/// A partition whose records have these timestamps, each a batch of its own.
fn partition_of(config: TopicConfig, times: &[i64]) -> (Broker, Partition) {
    let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    for one in times {
        send(&broker, &partition, &[*one]).unwrap();
    }
    (broker, partition)
}

fn lookup(partition: &Partition, millis: i64) -> Option<u64> {
    found(partition, millis).map(|(offset, _)| offset)
}

fn found(partition: &Partition, millis: i64) -> Option<(u64, i64)> {
    let found = partition.offset_for_time(time(millis)).unwrap();
    found.map(|(offset, time)| (offset.get(), time.as_millis()))
}

/// Every lookup has the result that the list gives.
fn assert_like(partition: &Partition, times: &[i64], case: &str) {
    let mut probes: Vec<i64> = times.iter().flat_map(|t| [t - 1, *t, t + 1]).chain([0, i64::MAX]).collect();
    probes.sort_unstable();
    probes.dedup();
    for probe in probes.into_iter().filter(|probe| *probe >= 0) {
        let expected = times.iter().position(|t| *t >= probe).map(|at| at as u64);
        let with_time = expected.map(|at| (at, times[at as usize]));
        assert_eq!(found(partition, probe), with_time, "{case}: {probe} in {times:?}");
        let read = partition.read(Start::Time(time(probe)), 1).unwrap();
        assert_eq!(read.iter().next().map(|record| record.offset().get()), expected, "{case}");
    }
    let max = times.iter().max();
    let expected = max.map(|max| (times.iter().position(|t| t == max).unwrap() as u64, *max));
    let latest = partition.max_timestamp().unwrap();
    assert_eq!(latest.map(|(offset, t)| (offset.get(), t.as_millis())), expected, "{case}: {times:?}");
    let tail: Vec<_> = partition.last_n(5).unwrap().iter().map(|r| r.timestamp().as_millis()).collect();
    assert_eq!(tail, times[times.len().saturating_sub(5)..], "{case}");
}

// -- the rules --

/// Kafka's `KafkaConsumer.offsetsForTimes`.
#[test]
fn a_time_after_all_records_has_no_offset_and_one_before_1970_is_an_error() {
    let (broker, partition) = partition_of(TopicConfig::new(), &[]);
    assert_like(&partition, &[], "empty");
    send(&broker, &partition, &[100]).unwrap();
    assert_eq!(
        [0, 99, 100, 101, i64::MAX].map(|t| lookup(&partition, t)),
        [Some(0), Some(0), Some(0), None, None]
    );
    for bad in [-1, i64::MIN] {
        let refused = |error: Error| matches!(error, Error::InvalidTimestamp { timestamp, .. } if timestamp == time(bad));
        assert!(refused(partition.offset_for_time(time(bad)).unwrap_err()));
        assert!(refused(partition.read(Start::Time(time(bad)), 1).unwrap_err()));
        assert!(refused(broker.reader(["t"], Start::Time(time(bad))).unwrap_err()));
        let mut reader = broker.reader(["t"], Start::End).unwrap();
        assert!(refused(reader.seek_all(Start::Time(time(bad))).unwrap_err()));
        assert_eq!(reader.position("t", 0).unwrap().offset, 1, "the position has not moved");
    }
}

#[test]
fn timestamps_may_be_out_of_order() {
    let times = [100, 300, 200, 400, 350];
    let answers = [(200, Some(1)), (250, Some(1)), (350, Some(3)), (400, Some(3)), (401, None)];
    let (broker, single) = partition_of(TopicConfig::new(), &times);
    let batch = broker.create_topic("batch", TopicConfig::new()).unwrap().partition(0).unwrap();
    send(&broker, &batch, &times).unwrap();
    for partition in [single, batch] {
        for (t, expected) in answers {
            assert_eq!(lookup(&partition, t), expected, "{t}");
        }
        assert_like(&partition, &times, "in one batch or many");
    }
}

/// Kafka's `LogSegmentTest.testFindOffsetByTimestamp`, with an index entry for about every second
/// batch.
#[test]
fn kafkas_vector_of_a_segment_with_a_sparse_index() {
    let config = TopicConfig::new().index_interval_bytes(150);
    let times: Vec<i64> = (0..40).map(|_| 0).chain((40..50).map(|offset| 10 * offset)).collect();
    let (_broker, partition) = partition_of(config, &times);
    let answers = [
        (420, Some(42)),
        (421, Some(43)),
        (430, Some(43)),
        (431, Some(44)),
        (491, None),
        (401, Some(41)),
        (399, Some(40)),
    ];
    for (t, expected) in answers {
        assert_eq!(lookup(&partition, t), expected, "{t}");
    }
}

/// An index entry holds the greatest timestamp of all records before it (Kafka's `TimeIndex`), and
/// a roll loses none of it.
#[test]
fn a_late_record_is_found_across_index_entries_and_segments() {
    let mut times: Vec<i64> = (0..60).map(|n| 1_000 + n).collect();
    times[7] = 5_000;
    times[31] = 9_000;
    times[32] = 8_999;
    let config = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(700).index_interval_bytes(1);
    let (_broker, partition) = partition_of(config, &times);
    assert!(partition.segments().len() > 5);
    assert_like(&partition, &times, "");
    assert_eq!([2_000, 5_001, 9_000].map(|t| lookup(&partition, t)), [Some(7), Some(31), Some(31)]);
}

/// Kafka's `ListOffsets` with `MAX_TIMESTAMP`.
#[test]
fn the_greatest_time_is_that_of_the_first_record_that_has_it() {
    for times in [&[5, 9, 9, 3, 9][..], &[9, 1], &[1, 9], &[0]] {
        let config = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(700);
        let (_broker, partition) = partition_of(config, times);
        assert_like(&partition, times, "small");
    }
    let mut times: Vec<i64> = (0..50).collect();
    times[11] = 77;
    times[40] = 77;
    let config = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(700);
    let (_broker, partition) = partition_of(config, &times);
    let latest = partition.max_timestamp().unwrap().unwrap();
    assert_eq!((latest.0.get(), latest.1.as_millis()), (11, 77), "of equal ones in two segments, the first");
}

#[test]
fn only_visible_records_count() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
    let config = TopicConfig::new().durability(Durability::Sync);
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    send(&broker, &partition, &[10, 30, 20]).unwrap();
    send(&broker, &partition, &[25]).unwrap();
    let producer = broker.producer();
    let record = Record::new("v").timestamp(time(99));
    let pending = producer.send(&partition, record).unwrap();
    let flush = producer.flush_async();
    let bounds = partition.bounds().unwrap();
    assert_eq!((bounds.visible_end.get(), bounds.log_end.get()), (4, 5), "written, and not synced");
    assert_like(&partition, &[10, 30, 20, 25], "before the sync");
    let mut reader = broker.reader(["t"], Start::Time(time(50))).unwrap();
    assert_eq!(
        reader.position("t", 0).unwrap().offset,
        4,
        "where there is none it begins at the visible end"
    );
    flush.wait().unwrap();
    pending.wait().unwrap();
    assert_like(&partition, &[10, 30, 20, 25, 99], "after it");
    assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 1);
}

#[test]
fn a_reader_begins_in_each_partition_at_its_own_offset() {
    let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    send(&broker, &topic.partition(0).unwrap(), &[10, 20, 30]).unwrap();
    send(&broker, &topic.partition(1).unwrap(), &[30, 10, 20]).unwrap();
    send(&broker, &topic.partition(2).unwrap(), &[10, 11]).unwrap();
    let mut reader = broker.reader(["t"], Start::Time(time(20))).unwrap();
    let places =
        |reader: &quipu::Reader| reader.positions().iter().map(|p| p.offset.get()).collect::<Vec<_>>();
    assert_eq!(places(&reader), [1, 0, 2]);
    reader.seek_all(Start::Time(time(11))).unwrap();
    assert_eq!(places(&reader), [1, 0, 1]);
    let mut seen = 0;
    while let Some(records) = Some(reader.poll(Duration::ZERO).unwrap()).filter(|records| !records.is_empty())
    {
        seen += records.len();
    }
    assert_eq!(seen, 6);
}

// -- costs, failures and restarts --

#[test]
fn segments_that_are_too_old_are_not_even_opened() {
    let disk = Disk::new();
    let config =
        || BrokerConfig::new().clock(ManualClock::new()).read_mode(ReadMode::Positional).tail_cache_bytes(0);
    let broker = config().on_disk(&disk).unwrap();
    let topic = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(700);
    let partition = broker.create_topic("t", topic).unwrap().partition(0).unwrap();
    for n in 0..200 {
        send(&broker, &partition, &[n]).unwrap();
    }
    broker.close().unwrap();
    let broker = config().on_disk(&disk).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    assert!(partition.segments().len() > 20);
    let opened = || disk.ops_of(Op::OpenFile);
    for (t, expected) in [(150, Some(150)), (300, None)] {
        let before = opened();
        assert_eq!(lookup(&partition, t), expected);
        // The segment and its index.
        assert!(opened() - before <= if expected.is_some() { 2 } else { 0 });
    }
    let before = opened();
    assert_eq!(partition.max_timestamp().unwrap().unwrap().0, 199);
    assert!(opened() - before <= 2);
}

/// Batches before the result are not read, so their damage does not matter; damage in a batch that
/// must be read is an error.
#[test]
fn damage_is_an_error_only_where_it_has_to_be_looked_at() {
    let disk = Disk::new();
    let open = || BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
    let broker = open();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    send(&broker, &partition, &[10]).unwrap();
    let first_end = partition.stats().bytes;
    send(&broker, &partition, &[20]).unwrap();
    broker.close().unwrap();
    disk.flip_bit(&files(&disk, "topics/t/0", ".log")[0], (first_end - 1) * 8).unwrap();
    let broker = open();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(lookup(&partition, 20), Some(1));
    assert_eq!(partition.max_timestamp().unwrap().unwrap().0, 1);
    assert!(matches!(partition.offset_for_time(time(5)), Err(Error::Corrupt(c)) if c.offset.unwrap() == 0));
    assert!(matches!(partition.read(Start::Time(time(5)), 1), Err(Error::Corrupt(_))));
}

/// Records with an unknown outcome after a failed sync are truncated, and their times with them, at
/// each place in a segment.
#[test]
fn times_are_right_after_a_failure_and_a_reopen() {
    for kept in 1..25i64 {
        let disk = Disk::new();
        let open = || BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
        let broker = open();
        let config =
            TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(700).durability(Durability::Sync);
        let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
        let mut times: Vec<i64> = (0..kept).map(|n| 100 + n * 7 % 13).collect();
        for one in &times {
            send(&broker, &partition, &[*one]).unwrap();
        }
        disk.fail(Op::Sync, 1, ErrorKind::Other);
        // The first failure may be that of a roll; then nothing was written.
        while send(&broker, &partition, &[9_999]).is_ok() {
            times.push(9_999);
        }
        if partition.stats().poisoned.is_some() {
            partition.reopen().unwrap();
        }
        assert_like(&partition, &times, &format!("reopened after {kept}"));
        for one in [50, 200] {
            send(&broker, &partition, &[one]).unwrap();
            times.push(one);
        }
        assert_like(&partition, &times, &format!("and appended to after {kept}"));
        broker.close().unwrap();
        let broker = open();
        let partition = broker.topic("t").unwrap().partition(0).unwrap();
        assert_like(&partition, &times, &format!("and closed after {kept}"));
    }
}

#[derive(Clone, Copy, Debug)]
enum Between {
    Nothing,
    Close,
    CloseWithoutIndexes,
    CloseWithBadIndexes,
    Kill,
    PowerLoss(u64),
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        Just(Between::Nothing),
        Just(Between::Close),
        Just(Between::CloseWithoutIndexes),
        Just(Between::CloseWithBadIndexes),
        Just(Between::Kill),
        any::<u64>().prop_map(Between::PowerLoss),
    ]
}

fn open(disk: &Disk, mode: ReadMode, tail: usize) -> (Broker, Partition) {
    let config = BrokerConfig::new().clock(ManualClock::new()).read_mode(mode).tail_cache_bytes(tail);
    let broker = config.on_disk(disk).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    (broker, partition)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Batches of any size, out of order, over several segments, however they are stored
    /// and whatever happened in between.
    #[test]
    fn every_answer_is_that_of_the_list(
        rounds in prop::collection::vec(
            (prop::collection::vec(prop::collection::vec(0i64..300, 1..12), 1..25), between()),
            1..4,
        ),
        lz4 in any::<bool>(),
        positional in any::<bool>(),
        index_interval in prop_oneof![Just(1u32), Just(300), Just(4096)],
        tail in prop_oneof![Just(0usize), Just(1 << 20)],
    ) {
        let disk = Disk::new();
        let mode = if positional { ReadMode::Positional } else { ReadMode::Map };
        let compression = if lz4 { Compression::Lz4 } else { Compression::None };
        let config = TopicConfig::new()
            .segment_bytes(1 << 10)
            .max_record_bytes(700)
            .index_interval_bytes(index_interval)
            .compression(compression);
        {
            let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk).unwrap();
            broker.create_topic("t", config).unwrap();
            broker.close().unwrap();
        }
        let (mut broker, mut partition) = open(&disk, mode, tail);
        let mut times = Vec::new();
        for (batches, between) in rounds {
            for batch in batches {
                send(&broker, &partition, &batch).unwrap();
                times.extend(batch);
            }
            assert_like(&partition, &times, "before");
            match between {
                Between::Nothing => continue,
                Between::Close => broker.close().unwrap(),
                Between::CloseWithoutIndexes => {
                    broker.close().unwrap();
                    for index in files(&disk, "topics/t/0", ".index") {
                        disk.remove(index).unwrap();
                    }
                }
                Between::CloseWithBadIndexes => {
                    broker.close().unwrap();
                    for (n, index) in files(&disk, "topics/t/0", ".index").into_iter().enumerate() {
                        // An earlier power loss may have left nothing of one.
                        let bits = disk.read(&index).unwrap().len() as u64 * 8;
                        if bits > 0 {
                            disk.flip_bit(index, n as u64 * 7_919 % bits).unwrap();
                        }
                    }
                }
                Between::Kill => disk.crash(Survive::Everything),
                Between::PowerLoss(seed) => disk.crash(Survive::Random(seed)),
            }
            drop((broker, partition));
            (broker, partition) = open(&disk, mode, tail);
            times.truncate(partition.bounds().unwrap().visible_end.get() as usize);
            assert_like(&partition, &times, &format!("{between:?}"));
        }
        prop_assert!(partition.read(at(times.len() as u64), 1).unwrap().is_empty());
    }
}
