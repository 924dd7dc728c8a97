//! Costs that must not grow with the number of topics, groups, partitions and segments: counted in
//! allocated bytes and in operations of the medium, at four sizes.
//!
//! A program of its own, because it counts allocations. The counters are those of one thread, and
//! under a manual clock a broker has no other.

#![allow(unsafe_code, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use common::open;
use quipu::testing::{Disk, ManualClock, Op};
use quipu::{
    Broker, BrokerConfig, ConsumedRecord, Consumer, Durability, ExpectedVersion, Offset, OffsetReset,
    Partition, Position, ProducerConfig, Progress, ReadMode, ReadModel, Record, Records, Retention, Start,
    Timestamp, TopicConfig, Transaction, Version,
};

struct Counting;

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: passes everything to the system's allocator, and allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size() as u64);
        HELD.set(HELD.get() + layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bytes that a call allocates: the least of several calls, because a table that doubles is paid
/// for by the calls before.
fn allocated(mut call: impl FnMut(usize)) -> u64 {
    let count = |at| {
        let before = ALLOCATED.get();
        call(at);
        ALLOCATED.get() - before
    };
    (0..9).map(count).min().unwrap()
}

/// The bytes that are held longer than before after a call.
fn held<T>(call: impl FnOnce() -> T) -> (T, i64) {
    let before = HELD.get();
    let kept = call();
    (kept, HELD.get() - before)
}

/// The costs at four sizes: between the least and the greatest lie at most 20%.
fn assert_flat(what: &str, costs: &[(usize, u64)]) {
    println!("{what}: {costs:?}");
    let (least, most) = (costs.iter().map(|c| c.1).min().unwrap(), costs.iter().map(|c| c.1).max().unwrap());
    assert!(most * 10 <= least * 12, "{what} grows: {costs:?}");
}

fn add_topics(broker: &Broker, count: usize) {
    let topics = (0..count).map(|at| (format!("t{at:06}"), TopicConfig::new()));
    assert_eq!(broker.create_topics(topics).unwrap().len(), count);
}

fn create(broker: &Broker, at: usize) {
    broker.create_topic(&format!("new-{at:06}"), TopicConfig::new()).unwrap();
}

const SIZES: [usize; 4] = [10, 50, 250, 1250];

#[test]
fn a_topic_among_many_costs_as_much_to_create_and_to_delete_as_one_among_few() {
    let (mut created, mut deleted, mut operations) = (Vec::new(), Vec::new(), Vec::new());
    for size in SIZES {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        add_topics(&broker, size);
        created.push((size, allocated(|at| create(&broker, at))));
        let before = disk.ops();
        create(&broker, 100);
        operations.push((size, disk.ops() - before));
        deleted.push((size, allocated(|at| broker.delete_topic(&format!("new-{at:06}")).unwrap())));
    }
    assert_flat("bytes allocated to create a topic", &created);
    assert_flat("operations to create a topic", &operations);
    assert_flat("bytes allocated to delete a topic", &deleted);
}

fn members(broker: &Broker, groups: usize, topic: &str) -> Vec<Consumer> {
    let subscribe = |at| broker.consumer(&format!("group-{at}")).subscribe([topic]).unwrap();
    (0..groups).map(subscribe).collect()
}

#[test]
fn groups_of_other_topics_cost_a_change_of_a_topic_nothing() {
    let (mut created, mut altered, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
    for size in SIZES {
        let broker = open(&Disk::new()).unwrap();
        create(&broker, 1_000);
        broker.create_topic("theirs", TopicConfig::new()).unwrap();
        let consumers = members(&broker, size, "theirs");
        created.push((size, allocated(|at| create(&broker, at))));
        let grown = |at: usize| TopicConfig::new().partitions(at as u32 + 2);
        altered.push((size, allocated(|at| broker.alter_topic("new-001000", grown(at)).unwrap())));
        deleted.push((size, allocated(|at| broker.delete_topic(&format!("new-{at:06}")).unwrap())));
        drop(consumers);
    }
    assert_flat("bytes allocated to create a topic beside groups", &created);
    assert_flat("bytes allocated to change a topic beside groups", &altered);
    assert_flat("bytes allocated to delete a topic beside groups", &deleted);
}

#[test]
fn a_topic_that_a_groups_pattern_matches_costs_the_same_beside_few_others_and_beside_many() {
    for reset in [OffsetReset::Beginning, OffsetReset::End] {
        let (mut created, mut grown, mut polled) = (Vec::new(), Vec::new(), Vec::new());
        let (mut operations, mut pairs) = (Vec::new(), Vec::new());
        for size in SIZES {
            let disk = Disk::new();
            let broker = open(&disk).unwrap();
            add_topics(&broker, size);
            let subscribe = || broker.consumer("g").offset_reset(reset).subscribe(["*"]).unwrap();
            let mut consumer = subscribe();
            let poll = |consumer: &mut Consumer| {
                assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
            };
            poll(&mut consumer);
            created.push((size, allocated(|at| create(&broker, at))));
            poll(&mut consumer);
            let partitions = |at: usize| TopicConfig::new().partitions(at as u32 + 2);
            let alter = |at: usize| broker.alter_topic("new-000003", partitions(at)).unwrap();
            grown.push((size, allocated(alter)));
            poll(&mut consumer);
            polled.push((
                size,
                // The poll and a little for the topic, of which the row above has the cost.
                allocated(|at| {
                    create(&broker, 100 + at);
                    poll(&mut consumer);
                }),
            ));
            let before = disk.ops();
            create(&broker, 200);
            poll(&mut consumer);
            operations.push((size, disk.ops() - before));
            let mut second = subscribe();
            for _ in 0..3 {
                poll(&mut consumer);
                poll(&mut second);
            }
            let share = |at| {
                create(&broker, 300 + at);
                poll(&mut consumer);
                poll(&mut second);
            };
            pairs.push((size, allocated(share)));
            let (one, two) = (consumer.assignment().len(), second.assignment().len());
            assert!(one.abs_diff(two) <= 1 && one + two >= size, "{one} and {two}");
        }
        println!("under {reset:?}:");
        assert_flat("bytes allocated to create a topic that a group's pattern matches", &created);
        assert_flat("bytes allocated to add a partition to such a topic", &grown);
        assert_flat("bytes allocated to create such a topic, and to poll", &polled);
        assert_flat("operations to create such a topic, and to poll", &operations);
        assert_flat("bytes allocated to create such a topic, and to poll, with two members", &pairs);
    }
}

/// Counts events, and keeps no position of its own.
#[derive(Default)]
struct Counts {
    events: usize,
    positions: usize,
}

impl ReadModel for Counts {
    type Error = quipu::Error;

    fn positions(&mut self) -> quipu::Result<Vec<Position>> {
        Ok(Vec::new())
    }

    fn apply(&mut self, events: &Records, next: &[Position]) -> quipu::Result<()> {
        self.events += events.len();
        self.positions = next.len();
        Ok(())
    }
}

#[test]
fn a_step_costs_the_same_beside_few_idle_partitions_and_beside_many() {
    let (mut fed, mut idle, mut projected) = (Vec::new(), Vec::new(), Vec::new());
    for size in SIZES {
        let broker = partitions_with_a_record(&Disk::new(), size);
        let mut feed = broker.feed(["t"], Counts::default()).unwrap();
        feed.catch_up(|_| {}).unwrap();
        assert_eq!((feed.model().events, feed.model().positions), (size, size));
        let nothing = |_: &ConsumedRecord<'_>, _: &mut Transaction| -> quipu::Result<()> { Ok(()) };
        let mut projector = broker.consumer("p").project(["t"], nothing).unwrap();
        // It has committed in each partition.
        assert_eq!(projector.catch_up(|_| {}).unwrap(), size as u64);
        let partition = broker.topic("t").unwrap().partition(3).unwrap();
        let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
        let (mut feeds, mut projects) = (Vec::new(), Vec::new());
        for _ in 0..9 {
            producer.send(&partition, Record::new("ten bytes.")).unwrap().wait().unwrap();
            let applied = |progress: Progress| assert_eq!((progress.applied, progress.lag), (1, 0));
            let before = ALLOCATED.get();
            applied(feed.step(Duration::ZERO).unwrap());
            feeds.push(ALLOCATED.get() - before);
            let before = ALLOCATED.get();
            applied(projector.step(Duration::ZERO).unwrap());
            projects.push(ALLOCATED.get() - before);
        }
        fed.push((size, feeds.into_iter().min().unwrap()));
        projected.push((size, projects.into_iter().min().unwrap()));
        let step = |_| assert_eq!(feed.step(Duration::ZERO).unwrap().applied, 0);
        idle.push((size, 1 + allocated(step)));
    }
    assert_flat("bytes allocated by a step of a feed with an event", &fed);
    assert_flat("bytes allocated by a step of a feed without events", &idle);
    assert_flat("bytes allocated by a step of a projector with an event", &projected);
}

#[test]
fn a_group_that_was_only_looked_up_leaves_nothing() {
    let broker = open(&Disk::new()).unwrap();
    let mut created = vec![(0, allocated(|at| create(&broker, at)))];
    let look_up = |names: std::ops::Range<usize>| {
        for at in names {
            drop(broker.group(&format!("who-is-{at}")).unwrap());
        }
    };
    look_up(0..1_000);
    let ((), kept) = held(|| look_up(1_000..11_000));
    assert!(kept < 10_000, "{kept} bytes of 10,000 groups are left");
    created.push((11_000, allocated(|at| create(&broker, 100 + at))));
    assert_flat("bytes allocated to create a topic after look-ups of groups", &created);
    assert!(broker.groups().unwrap().is_empty());
}

#[test]
fn joining_a_group_and_committing_cost_the_same_among_many_topics() {
    let (mut joined, mut committed) = (Vec::new(), Vec::new());
    for size in SIZES {
        let broker = open(&Disk::new()).unwrap();
        add_topics(&broker, size);
        let topic = broker.topic("t000003").unwrap();
        let join = |at| drop(broker.consumer(&format!("g{at}")).subscribe(["t000003"]).unwrap());
        joined.push((size, allocated(join)));
        let producer = broker.producer();
        producer.send_all(&topic, (0..20).map(|_| Record::new("x"))).unwrap().wait().unwrap();
        let mut consumer = broker.consumer("reader").max_records(1).subscribe(["t000003"]).unwrap();
        committed.push((
            size,
            allocated(|_| {
                let records = consumer.poll(Duration::ZERO).unwrap();
                assert_eq!(records.len(), 1);
                consumer.commit(&records).unwrap();
            }),
        ));
    }
    assert_flat("bytes allocated to join a group", &joined);
    assert_flat("bytes allocated to poll and commit", &committed);
}

/// Written, and closed since, so that readers take from the files.
fn partitions_with_a_record(disk: &Disk, partitions: usize) -> Broker {
    let broker = open(disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(partitions as u32)).unwrap();
    let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
    for partition in topic.partitions() {
        producer.send(&partition, Record::new("ten bytes.")).unwrap().wait().unwrap();
    }
    broker.close().unwrap();
    open(disk).unwrap()
}

#[test]
fn records_keep_about_as_much_memory_as_they_have_bytes() {
    let (mut kept, mut reads) = (Vec::new(), Vec::new());
    for size in SIZES {
        let disk = Disk::new();
        let broker = partitions_with_a_record(&disk, size);
        let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
        let before = disk.ops_of(Op::Read);
        let (records, bytes) = held(|| reader.poll(Duration::ZERO).unwrap());
        assert_eq!(records.len(), size);
        reads.push((size, (disk.ops_of(Op::Read) - before) * 1000 / size as u64));
        kept.push((size, u64::try_from(bytes).unwrap() / size as u64));
        // The next poll finds nothing, and reads nothing.
        let before = disk.ops_of(Op::Read);
        assert!(reader.poll(Duration::ZERO).unwrap().is_empty());
        assert_eq!(disk.ops_of(Op::Read), before);
    }
    println!("bytes kept by each small batch: {kept:?}");
    assert!(kept.iter().all(|(_, bytes)| *bytes < 2048), "{kept:?}");
    assert_flat("reads of a thousand batches", &reads);
    // The header of the segment, checked once, and the batch.
    assert!(reads[0].1 <= 2000, "{reads:?}");
}

#[test]
fn the_events_of_a_stream_keep_about_as_much_memory_as_they_have_bytes() {
    let mut kept = Vec::new();
    for size in [10, 30, 90, 270] {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
        for _ in 0..size {
            for key in ["wanted", "other"] {
                let stream = topic.stream(key).unwrap();
                stream.append(ExpectedVersion::Any, [Record::new("x".repeat(100))]).unwrap();
            }
        }
        broker.close().unwrap();
        let broker = open(&disk).unwrap();
        let stream = broker.topic("t").unwrap().stream("wanted").unwrap();
        assert_eq!(stream.load().unwrap().len(), size);
        let (history, bytes) = held(|| stream.load().unwrap());
        assert_eq!(history.len(), size);
        kept.push((size, u64::try_from(bytes).unwrap() / size as u64));
    }
    println!("bytes kept by each event: {kept:?}");
    assert!(kept.iter().all(|(_, bytes)| *bytes < 1500), "{kept:?}");
}

/// A record in each segment, ten milliseconds after the one before it.
fn partition_with_segments(broker: &Broker, segments: usize) -> Partition {
    let config = TopicConfig::new().segment_bytes(1024).max_record_bytes(700).durability(Durability::Os);
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
    for at in 0..segments {
        let record = Record::new(vec![1; 600]).timestamp(Timestamp::from_millis(at as i64 * 10));
        producer.send(&partition, record).unwrap().wait().unwrap();
    }
    assert_eq!((partition.segments().len(), partition.stats().segments), (segments, segments));
    partition
}

#[test]
fn looking_up_a_time_costs_the_same_in_few_segments_and_in_many() {
    let (mut sealed, mut active, mut latest) = (Vec::new(), Vec::new(), Vec::new());
    let (mut newest, mut reads) = (Vec::new(), Vec::new());
    for size in SIZES {
        let disk = Disk::new();
        let broker = without_cache(&ManualClock::new()).on_disk(&disk).unwrap();
        let partition = partition_with_segments(&broker, size);
        let find = |at: usize| {
            let found = partition.offset_for_time(Timestamp::from_millis(at as i64 * 10 - 5)).unwrap();
            assert_eq!(found.map(|(offset, _)| offset.get()), (at < size).then_some(at as u64));
        };
        for at in [1, size / 3, size / 2, size - 2] {
            sealed.push((size, allocated(|_| find(at))));
        }
        active.push((size, allocated(|_| find(size - 1))));
        assert_eq!(allocated(|_| find(size)), 0, "after the newest record nothing is read");
        latest.push((size, allocated(|_| assert!(partition.max_timestamp().unwrap().is_some()))));
        newest.push((size, allocated(|_| assert_eq!(partition.last_n(2).unwrap().len(), 2))));
        let before = disk.ops_of(Op::Read);
        (0..10).for_each(|part| find(size * part / 10 + 1));
        reads.push((size, disk.ops_of(Op::Read) - before));
    }
    assert_flat("bytes allocated to find a time in a sealed segment", &sealed);
    assert_flat("bytes allocated to find a time in the active segment", &active);
    assert_flat("bytes allocated to find the latest record", &latest);
    assert_flat("bytes allocated to read the newest records", &newest);
    assert!(reads.iter().all(|cost| cost.1 <= reads[0].1.max(20)), "{reads:?}");
}

/// A record each, so that a walk to the newest one would read nearly all of the file.
#[test]
fn reading_the_newest_record_of_a_segment_costs_the_same_in_a_short_one_and_in_a_long_one() {
    let (mut memory, mut reads) = (Vec::new(), Vec::new());
    for size in SIZES.map(|size| size * 4) {
        let disk = Disk::new();
        let broker = without_cache(&ManualClock::new()).on_disk(&disk).unwrap();
        let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
        let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
        (0..size).for_each(|_| drop(producer.send(&topic, Record::new(vec![1; 4000])).unwrap().wait()));
        let partition = topic.partition(0).unwrap();
        let newest = Start::At(Offset::new(size as u64 - 1));
        memory.push((size, allocated(|_| assert_eq!(partition.read(newest, 1).unwrap().len(), 1))));
        let before = disk.ops_of(Op::Read);
        (0..10).for_each(|_| drop(partition.read(newest, 1).unwrap()));
        reads.push((size, disk.ops_of(Op::Read) - before));
    }
    assert_flat("bytes allocated to read the newest record of a segment", &memory);
    assert_flat("reads of the newest record of a segment", &reads);
    assert_eq!(reads[0].1, 10, "the header of the segment is read once");
}

/// It has looked at the events of other streams before, and looks at newer ones only.
#[test]
fn a_reader_of_a_stream_that_waits_costs_the_same_however_much_came_in_other_streams() {
    let (mut memory, mut reads) = (Vec::new(), Vec::new());
    for size in [10, 30, 90, 270] {
        let (disk, clock) = (Disk::new(), ManualClock::new());
        let broker = without_cache(&clock).read_mode(ReadMode::Positional).on_disk(&disk).unwrap();
        let topic = broker.create_topic("t", TopicConfig::streams().segment_bytes(16 << 10)).unwrap();
        let mut reader = topic.stream("quiet").unwrap().reader(Version::ZERO).unwrap();
        let other = topic.stream("other").unwrap();
        let mut step = |len| {
            other.append(ExpectedVersion::Any, [Record::new(vec![1; len])]).unwrap();
            assert!(reader.poll(Duration::ZERO).unwrap().is_empty());
        };
        (0..size).for_each(|_| step(15_000));
        // Into the next segment.
        step(2_000);
        let before = disk.ops_of(Op::Read);
        memory.push((size, allocated(|_| step(10))));
        reads.push((size, 1 + disk.ops_of(Op::Read) - before));
    }
    assert_flat("bytes allocated by a reader of a stream without news", &memory);
    assert_flat("reads of a reader of a stream without news", &reads);
}

/// Each sync of the journal takes the transactions since the last one.
#[test]
fn a_durable_transaction_costs_the_same_after_few_others_and_after_many() {
    let (mut memory, mut operations) = (Vec::new(), Vec::new());
    for size in SIZES {
        let disk = Disk::new();
        let broker = without_cache(&ManualClock::new()).on_disk(&disk).unwrap();
        let config = TopicConfig::new().partitions(2).durability(Durability::Sync);
        let partitions = broker.create_topic("t", config).unwrap().partitions();
        let commit = || {
            let mut both = broker.transaction();
            for partition in &partitions {
                both.send(partition, Record::new("x"));
            }
            both.commit().unwrap();
        };
        (0..size).for_each(|_| commit());
        let before = disk.ops();
        commit();
        operations.push((size, disk.ops() - before));
        memory.push((size, allocated(|_| commit())));
    }
    assert_flat("bytes allocated by a durable transaction", &memory);
    assert_flat("operations of a durable transaction", &operations);
}

/// One timer for all batches of a partition within its linger.
#[test]
fn batches_that_are_full_before_their_linger_leave_no_timers() {
    let dir = tempfile::tempdir().unwrap();
    let broker = without_cache(&ManualClock::new()).open(dir.path()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
    let config = ProducerConfig::new().linger(Duration::from_secs(60)).batch_bytes(1 << 10);
    let producer = broker.producer_with(config).unwrap();
    let churn = |batches: usize| {
        for _ in 0..batches * 2 {
            producer.send(&topic, Record::new(vec![1; 600])).unwrap().detach();
        }
    };
    churn(100);
    let ((), kept) = held(|| churn(4_000));
    println!("{kept} bytes of 4,000 batches are left");
    assert!(kept < 4_000 * 8, "{kept} bytes of 4,000 batches are left");
}

/// The bound of open files closes those that were not used for longest.
#[test]
fn a_file_that_is_used_all_the_time_is_not_opened_again() {
    let (disk, partitions) = (Disk::new(), 40);
    let config = || without_cache(&ManualClock::new()).max_open_files(16);
    let broker = config().on_disk(&disk).unwrap();
    let topic = TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(700).partitions(partitions);
    let topic = broker.create_topic("t", topic).unwrap();
    let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
    for partition in topic.partitions() {
        // The first segment of each is sealed, and mapped when it is read.
        (0..2).for_each(|_| drop(producer.send(&partition, Record::new(vec![1; 600])).unwrap().wait()));
    }
    broker.close().unwrap();
    let broker = config().on_disk(&disk).unwrap();
    let topic = broker.topic("t").unwrap();
    let opened = |partition: u32, offset: u64| {
        let count = || disk.ops_of(Op::OpenFile) + disk.ops_of(Op::Map);
        let before = count();
        let read = topic.partition(partition).unwrap().read(Start::At(Offset::new(offset)), 1).unwrap();
        assert_eq!(read.len(), 1);
        count() - before
    };
    for offset in [0, 1] {
        opened(0, offset);
        for other in 1..partitions {
            opened(other, offset);
            assert_eq!(opened(0, offset), 0, "offset {offset}, after partition {other}");
        }
    }
}

#[test]
fn statistics_cost_the_same_with_few_segments_and_with_many() {
    let (mut of_partition, mut of_topic) = (Vec::new(), Vec::new());
    for size in SIZES {
        let broker = without_cache(&ManualClock::new()).on_disk(&Disk::new()).unwrap();
        let partition = partition_with_segments(&broker, size);
        of_partition.push((size, 1 + allocated(|_| drop(partition.stats()))));
        of_topic.push((size, allocated(|_| drop(broker.stats()))));
        let bytes: u64 = partition.segments().iter().map(|segment| segment.bytes).sum();
        assert_eq!(partition.stats().bytes, bytes);
        partition.delete_records(Offset::new(size as u64 / 2)).unwrap();
        let bytes: u64 = partition.segments().iter().map(|segment| segment.bytes).sum();
        assert_eq!(partition.stats().bytes, bytes);
    }
    assert_flat("bytes allocated by the statistics of a partition", &of_partition);
    assert_flat("bytes allocated by the statistics of a broker", &of_topic);
}

#[test]
fn describing_a_group_costs_the_same_among_few_topics_and_among_many() {
    let mut described = Vec::new();
    for size in SIZES {
        let broker = open(&Disk::new()).unwrap();
        add_topics(&broker, size);
        let topic = broker.topic("t000003").unwrap();
        broker.producer().send(&topic, Record::new("x")).unwrap().wait().unwrap();
        let mut consumer = broker.consumer("g").subscribe(["t000003"]).unwrap();
        let records = consumer.poll(Duration::ZERO).unwrap();
        consumer.commit(&records).unwrap();
        let group = broker.group("g").unwrap();
        described.push((size, allocated(|_| assert_eq!(group.describe().unwrap().partitions.len(), 1))));
    }
    assert_flat("bytes allocated to describe a group", &described);
}

#[test]
fn a_flush_costs_the_same_whatever_a_producer_has_written_before() {
    let (mut flushed, mut idle, mut operations) = (Vec::new(), Vec::new(), Vec::new());
    for size in SIZES {
        let disk = Disk::new();
        let broker = open(&disk).unwrap();
        let config = TopicConfig::new().partitions(size as u32).durability(Durability::Sync);
        let topic = broker.create_topic("t", config).unwrap();
        let producer = broker.producer();
        for partition in topic.partitions() {
            producer.send(&partition, Record::new("x")).unwrap().detach();
        }
        producer.flush().unwrap();
        let partition = topic.partition(3).unwrap();
        let flush = |_| {
            producer.send(&partition, Record::new("x")).unwrap().detach();
            producer.flush().unwrap();
        };
        flushed.push((size, allocated(flush)));
        idle.push((size, 1 + allocated(|_| producer.flush().unwrap())));
        let before = disk.ops();
        flush(0);
        operations.push((size, disk.ops() - before));
    }
    assert_flat("bytes allocated to flush a record", &flushed);
    assert_flat("bytes allocated to flush nothing", &idle);
    assert_flat("operations to flush a record", &operations);
}

#[test]
fn records_with_sequences_cost_the_same_whatever_number_of_partitions_a_topic_has_had() {
    let mut sent = Vec::new();
    for size in SIZES {
        let broker = open(&Disk::new()).unwrap();
        let config = |partitions: usize| TopicConfig::new().partitions(partitions as u32);
        let topic = broker.create_topic("t", config(size)).unwrap();
        broker.alter_topic("t", config(size + 1)).unwrap();
        let producer = broker.producer_with(ProducerConfig::new().name("outbox")).unwrap();
        // All in one of the partitions, which the sequences choose.
        let send = |call: usize| {
            let sequence = |at: usize| ((call * 200 + at) * (size + 1) + 3) as u64;
            let records = (1..=200).map(|at| Record::new("x").sequence(sequence(at)));
            producer.send_all(&topic, records).unwrap().wait().unwrap();
        };
        sent.push((size, allocated(send)));
    }
    assert_flat("bytes allocated to send records with sequences", &sent);
}

/// Without the cache of newest batches, which fills up to its bound.
fn without_cache(clock: &ManualClock) -> BrokerConfig {
    BrokerConfig::new().clock(clock.clone()).seed(1).tail_cache_bytes(0)
}

#[test]
fn topics_that_were_deleted_leave_no_memory() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let broker = without_cache(&clock).open(dir.path()).unwrap();
    let churn = |topics: usize| {
        for _ in 0..topics {
            let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
            broker.producer().send(&topic, Record::new("x")).unwrap().wait().unwrap();
            drop(broker.consumer("g").subscribe(["t"]).unwrap());
            drop(topic);
            broker.delete_topic("t").unwrap();
            // The timer keeps a producer for its linger, and a member for its time between polls.
            clock.advance(Duration::from_secs(400));
        }
        broker.maintain().unwrap();
    };
    churn(100);
    let ((), kept) = held(|| churn(400));
    println!("{kept} bytes of 400 topics are left");
    // The list of open files may have 64 entries of segments that are gone.
    assert!(kept < 400 * 100, "{kept} bytes of 400 topics are left");
}

#[test]
fn segments_that_retention_deleted_leave_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let broker = without_cache(&ManualClock::new()).open(dir.path()).unwrap();
    let config = TopicConfig::new().segment_bytes(1024).max_record_bytes(700);
    let config = config.durability(Durability::Os).retention(Retention::for_bytes(4000));
    let topic = broker.create_topic("t", config).unwrap();
    let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
    let churn = |segments: usize| {
        for at in 0..segments {
            producer.send(&topic, Record::new(vec![1; 600])).unwrap().wait().unwrap();
            if at % 20 == 0 {
                broker.maintain().unwrap();
            }
        }
    };
    churn(100);
    let ((), kept) = held(|| churn(400));
    println!("{kept} bytes of 400 segments are left");
    assert!(kept < 400 * 100, "{kept} bytes of 400 segments are left");
}
