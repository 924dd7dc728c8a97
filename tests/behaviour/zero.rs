//! One rule for zero: it means what it says, none or at once; or it is refused by an error with the
//! setting, the value and the least value. The table has a row for every setting and every bound that
//! the public API takes.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock};
use quipu::{
    Broker, BrokerConfig, Cleanup, ConsumerBuilder, Durability, Error, ExpectedVersion, Offset, Position,
    ProducerConfig, ReadOnlyTopic, Record, Records, Result, Retention, Start, Timestamp, TopicConfig,
    Version,
};

use crate::common::small;

const ZERO: Duration = Duration::ZERO;

/// What a zero does.
enum Zero {
    /// Refused under the name of the setting, with this least value.
    Refused(&'static str),
    /// It means what it says, which the row has looked at.
    Meant,
}
use Zero::{Meant, Refused};

type Row = (&'static str, Zero, fn() -> Result<()>);

fn broker() -> (Broker, ManualClock) {
    let clock = ManualClock::new();
    (BrokerConfig::new().clock(clock.clone()).seed(1).in_memory().unwrap(), clock)
}

/// A broker with topic `t` of these settings.
fn created(config: TopicConfig) -> Result<(Broker, ManualClock)> {
    let (broker, clock) = broker();
    broker.create_topic("t", config)?;
    Ok((broker, clock))
}

fn opened(config: BrokerConfig) -> Result<Broker> {
    config.clock(ManualClock::new()).in_memory()
}

/// A broker with three records in topic `t`.
fn filled() -> Broker {
    let (broker, _) = created(TopicConfig::new()).unwrap();
    broker.topic("t").unwrap().partition(0).unwrap().append(["a", "b", "c"].map(Record::new)).unwrap();
    broker
}

fn consumer(set: fn(ConsumerBuilder) -> ConsumerBuilder) -> Result<()> {
    let broker = filled();
    let assigned = set(broker.consumer("h")).assign(&broker.topic("t")?.partitions()).map(drop);
    let subscribed = set(broker.consumer("g")).subscribe("t").map(drop);
    let nothing = |_: &quipu::ConsumedRecord<'_>, _: &mut quipu::Transaction| -> Result<()> { Ok(()) };
    let projected = set(broker.consumer("p")).project("t", nothing).map(drop);
    assert_eq!((assigned.is_err(), projected.is_err()), (subscribed.is_err(), subscribed.is_err()));
    subscribed
}

/// How many segments are left of records with 30 keys, after maintenance a second later.
fn segments_left(config: TopicConfig) -> Result<usize> {
    let (broker, clock) = created(config)?;
    let partition = broker.topic("t")?.partition(0)?;
    for n in 0..60 {
        partition.append([Record::new(vec![7; 200]).key(format!("{}", n % 30))])?;
    }
    clock.advance(Duration::from_secs(1));
    broker.maintain()?;
    Ok(partition.stats().segments)
}

fn compacted() -> TopicConfig {
    small().cleanup(Cleanup::Compact)
}

/// A compacted topic in which at most the newest records of the keys are left beside the active
/// segment.
fn is_compacted(config: TopicConfig) -> Result<()> {
    let (all, left) = (segments_left(small())?, segments_left(config)?);
    assert!(left < all, "{left} of {all}");
    Ok(())
}

const SETTINGS: &[Row] = &[
    ("BrokerConfig::checkpoint_interval", Refused("1 ms"), || {
        opened(BrokerConfig::new().checkpoint_interval(ZERO)).map(drop)
    }),
    ("BrokerConfig::compaction_bytes_per_second", Refused("1 byte"), || {
        opened(BrokerConfig::new().compaction_bytes_per_second(0)).map(drop)
    }),
    ("BrokerConfig::compaction_memory", Refused("1 byte"), || {
        opened(BrokerConfig::new().compaction_memory(0)).map(drop)
    }),
    ("BrokerConfig::disk_budget", Refused("256 KiB"), || {
        opened(BrokerConfig::new().disk_budget(0)).map(drop)
    }),
    ("BrokerConfig::durability", Refused("1 ms"), || {
        opened(BrokerConfig::new().durability(Durability::Interval(ZERO))).map(drop)
    }),
    ("BrokerConfig::max_open_files", Refused("8"), || {
        opened(BrokerConfig::new().max_open_files(0)).map(drop)
    }),
    ("BrokerConfig::producer_expiration", Refused("1 s"), || {
        opened(BrokerConfig::new().producer_expiration(ZERO)).map(drop)
    }),
    // A number like any other.
    ("BrokerConfig::seed", Meant, || {
        let id = |seed| Ok(opened(BrokerConfig::new().seed(seed))?.create_topic("t", small())?.id());
        assert_eq!(id(0)?, id(0)?);
        assert_ne!(id(0)?, id(1)?);
        Ok(())
    }),
    ("BrokerConfig::sync_threads", Refused("1 to 64"), || {
        opened(BrokerConfig::new().sync_threads(0)).map(drop)
    }),
    // Nothing is kept: a reader at the end reads the file.
    ("BrokerConfig::tail_cache_bytes", Meant, || {
        let broker = opened(BrokerConfig::new().tail_cache_bytes(0))?;
        let partition = broker.create_topic("t", small())?.partition(0)?;
        let mut reader = broker.reader("t", Start::End)?;
        partition.append([Record::new("v")])?;
        assert_eq!(reader.poll(ZERO)?.len(), 1);
        Ok(())
    }),
    // Tombstones may go at once.
    ("TopicConfig::delete_retention", Meant, || {
        let (broker, clock) = created(compacted().delete_retention(ZERO))?;
        let partition = broker.topic("t")?.partition(0)?;
        for _ in 0..20 {
            partition.append([Record::new(vec![7; 200]).key("k"), Record::tombstone("k")])?;
        }
        partition.append([Record::new(vec![7; 600]).key("other")])?;
        for _ in 0..4 {
            clock.advance(Duration::from_secs(1));
            broker.maintain()?;
            partition.compact()?;
        }
        let tombstones =
            partition.read(Start::Beginning, 1 << 20)?.iter().filter(|r| r.value().is_none()).count();
        assert!(tombstones < 4, "{tombstones}");
        Ok(())
    }),
    ("TopicConfig::durability", Refused("1 ms"), || {
        created(TopicConfig::new().durability(Durability::Interval(ZERO))).map(drop)
    }),
    ("TopicConfig::index_interval_bytes", Refused("1 byte"), || {
        created(TopicConfig::new().index_interval_bytes(0)).map(drop)
    }),
    // A segment is compacted as soon as it has something to compact.
    ("TopicConfig::max_compaction_lag", Meant, || {
        is_compacted(compacted().min_cleanable_dirty_ratio(1.0).max_compaction_lag(ZERO))
    }),
    ("TopicConfig::max_record_bytes", Refused("1 byte"), || {
        created(TopicConfig::new().max_record_bytes(0)).map(drop)
    }),
    ("TopicConfig::min_cleanable_dirty_ratio", Meant, || {
        is_compacted(compacted().min_cleanable_dirty_ratio(0.0))
    }),
    ("TopicConfig::min_compaction_lag", Meant, || is_compacted(compacted().min_compaction_lag(ZERO))),
    ("TopicConfig::partitions", Refused("1 to 100,000"), || {
        created(TopicConfig::new().partitions(0)).map(drop)
    }),
    ("TopicConfig::segment_age", Refused("1 ms"), || created(TopicConfig::new().segment_age(ZERO)).map(drop)),
    ("TopicConfig::segment_bytes", Refused("1 KiB"), || {
        created(TopicConfig::new().segment_bytes(0)).map(drop)
    }),
    // Only the present.
    ("TopicConfig::timestamp_bounds", Meant, || {
        let (broker, _) = created(TopicConfig::new().timestamp_bounds(Some(ZERO), Some(ZERO)))?;
        let partition = broker.topic("t")?.partition(0)?;
        partition.append([Record::new("v")])?;
        let early = partition.append([Record::new("v").timestamp(Timestamp::default())]);
        assert!(matches!(early, Err(Error::InvalidTimestamp { .. })));
        Ok(())
    }),
    // No sealed segment stays.
    ("Retention::for_age", Meant, || {
        assert_eq!(segments_left(small().retention(Retention::for_age(ZERO)))?, 1);
        Ok(())
    }),
    ("Retention::and_age", Meant, || {
        assert_eq!(segments_left(small().retention(Retention::for_bytes(u64::MAX).and_age(ZERO)))?, 1);
        Ok(())
    }),
    ("Retention::for_bytes", Meant, || {
        assert_eq!(segments_left(small().retention(Retention::for_bytes(0)))?, 1);
        Ok(())
    }),
    ("Retention::and_bytes", Meant, || {
        assert_eq!(segments_left(small().retention(Retention::for_age(Duration::MAX).and_bytes(0)))?, 1);
        Ok(())
    }),
    ("ProducerConfig::batch_bytes", Refused("1 KiB"), || {
        broker().0.producer_with(ProducerConfig::new().batch_bytes(0)).map(drop)
    }),
    ("ProducerConfig::buffer_bytes", Refused("65536 bytes, one batch"), || {
        broker().0.producer_with(ProducerConfig::new().buffer_bytes(0)).map(drop)
    }),
    // Each record is written by the call that sends it.
    ("ProducerConfig::linger", Meant, || {
        let broker = filled();
        let producer = broker.producer_with(ProducerConfig::new().linger(ZERO))?;
        let sent = producer.send("t", Record::new("v"))?;
        assert_eq!(broker.topic("t")?.partition(0)?.bounds()?.log_end, 4);
        sent.wait().map(drop)
    }),
    // No call waits for another thread; what it can write itself, it writes.
    ("ProducerConfig::max_block", Meant, || {
        let broker = filled();
        let config = ProducerConfig::new().max_block(ZERO).batch_bytes(1024).buffer_bytes(1024);
        let producer = broker.producer_with(config)?;
        (0..20).try_for_each(|_| producer.send("t", Record::new(vec![7; 500])).map(|sent| sent.detach()))
    }),
    // Each poll commits the records of the one before.
    ("ConsumerBuilder::auto_commit", Meant, || {
        let broker = filled();
        let mut consumer = broker.consumer("g").auto_commit(ZERO).max_records(1).subscribe("t")?;
        for committed in [Some(0), Some(1), Some(2)] {
            consumer.poll(ZERO)?;
            assert_eq!(consumer.committed("t", 0)?.map(|committed| committed.offset.get()), committed);
        }
        Ok(())
    }),
    ("ConsumerBuilder::max_bytes", Refused("1 byte"), || consumer(|builder| builder.max_bytes(0))),
    ("ConsumerBuilder::max_poll_interval", Refused("1 ms"), || {
        consumer(|builder| builder.max_poll_interval(ZERO))
    }),
    ("ConsumerBuilder::max_records", Refused("1"), || consumer(|builder| builder.max_records(0))),
    ("Reader::max_bytes", Refused("1 byte"), || {
        filled().reader("t", Start::Beginning)?.max_bytes(0).poll(ZERO).map(drop)
    }),
    ("Reader::max_records", Refused("1"), || {
        let mut one_by_one = filled().reader("t", Start::Beginning)?.max_records(0);
        let next = std::pin::pin!(one_by_one.recv_one());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(matches!(next.poll(&mut context), std::task::Poll::Ready(Err(Error::InvalidConfig { .. }))));
        let mut to_end = filled().reader("t", Start::Beginning)?.max_records(0).to_end();
        assert!(matches!(to_end.next(), Some(Err(Error::InvalidConfig { .. }))));
        filled().reader("t", Start::Beginning)?.max_records(0).poll(ZERO).map(drop)
    }),
    ("Feed::max_bytes", Refused("1 byte"), || filled().feed("t", Nothing)?.max_bytes(0).step(ZERO).map(drop)),
    ("Feed::max_records", Refused("1"), || filled().feed("t", Nothing)?.max_records(0).step(ZERO).map(drop)),
];

/// A read model that keeps nothing.
struct Nothing;

impl quipu::ReadModel for Nothing {
    type Error = Error;

    fn positions(&mut self) -> Result<Vec<Position>> {
        Ok(Vec::new())
    }

    fn apply(&mut self, _: &Records, _: &[Position]) -> Result<()> {
        Ok(())
    }
}

const BOUNDS: &[Row] = &[
    ("Partition::read", Refused("1 byte"), || partition()?.read(Start::Beginning, 0).map(drop)),
    ("Partition::read_raw", Refused("1 byte"), || partition()?.read_raw(Offset::ZERO, 0).map(drop)),
    ("Partition::read_raw_in", Refused("1 byte"), || partition()?.read_raw_in(Offset::ZERO, 0, 0).map(drop)),
    // None.
    ("Partition::last_n", Meant, || {
        assert!(partition()?.last_n(0)?.is_empty());
        Ok(())
    }),
    ("Stream::last_n", Meant, || {
        let (broker, _) = created(TopicConfig::streams())?;
        let stream = broker.topic("t")?.stream("s")?;
        stream.append(ExpectedVersion::Empty, [Record::new("v")])?;
        assert_eq!(stream.last_n(0)?.len(), 0);
        Ok(())
    }),
    ("ReadOnlyPartition::read", Refused("1 byte"), || {
        read_only(TopicConfig::new())?.partition(0)?.read(Start::Beginning, 0).map(drop)
    }),
    ("ReadOnlyPartition::last_n", Meant, || {
        assert!(read_only(TopicConfig::new())?.partition(0)?.last_n(0)?.is_empty());
        Ok(())
    }),
    ("ReadOnlyStream::last_n", Meant, || {
        assert_eq!(read_only(TopicConfig::streams())?.stream("s")?.last_n(0)?.len(), 0);
        Ok(())
    }),
    // At once, with what is there.
    ("Partition::wait_for", Meant, || {
        assert!(
            partition()?.wait_for(Offset::new(2), ZERO)? && !partition()?.wait_for(Offset::new(3), ZERO)?
        );
        Ok(())
    }),
    ("Reader::poll", Meant, || {
        let mut reader = in_real_time().reader("t", Start::Beginning)?;
        assert_eq!((reader.poll(ZERO)?.len(), reader.poll(ZERO)?.len()), (1, 0));
        Ok(())
    }),
    ("Consumer::poll", Meant, || {
        let mut consumer = in_real_time().consumer("g").subscribe("t")?;
        assert_eq!((consumer.poll(ZERO)?.len(), consumer.poll(ZERO)?.len()), (1, 0));
        Ok(())
    }),
    ("StreamReader::poll", Meant, || {
        let broker = Broker::in_memory()?;
        let stream = broker.create_topic("t", TopicConfig::streams())?.stream("s")?;
        stream.append(ExpectedVersion::Empty, [Record::new("v")])?;
        let mut reader = stream.reader(Version::ZERO)?;
        assert_eq!((reader.poll(ZERO)?.len(), reader.poll(ZERO)?.len()), (1, 0));
        Ok(())
    }),
    ("Projector::step", Meant, || {
        let nothing = |_: &quipu::ConsumedRecord<'_>, _: &mut quipu::Transaction| -> Result<()> { Ok(()) };
        let mut projector = in_real_time().consumer("p").project("t", nothing)?;
        assert_eq!((projector.step(ZERO)?.applied, projector.step(ZERO)?.applied), (1, 0));
        Ok(())
    }),
    ("Feed::step", Meant, || {
        let mut feed = in_real_time().feed("t", Nothing)?;
        assert_eq!((feed.step(ZERO)?.applied, feed.step(ZERO)?.applied), (1, 0));
        Ok(())
    }),
    ("Group::wait_for_lag", Meant, || {
        let broker = in_real_time();
        let _member = broker.consumer("g").subscribe("t")?;
        let group = broker.group("g")?;
        assert!(!group.wait_for_lag(0, ZERO)? && group.wait_for_lag(1, ZERO)?);
        Ok(())
    }),
    ("Pending::wait_timeout", Meant, || {
        let pending = in_real_time().producer().send("t", Record::new("v"))?;
        // It writes the record itself, and waits for no other thread.
        pending.wait_timeout(ZERO).unwrap_or_else(|_| panic!("no other thread has it")).map(drop)
    }),
];

fn partition() -> Result<quipu::Partition> {
    filled().topic("t")?.partition(0)
}

/// A broker whose calls can wait, with a record in topic `t`.
fn in_real_time() -> Broker {
    let broker = Broker::in_memory().unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    partition.append([Record::new("v")]).unwrap();
    broker
}

#[test]
fn zero_means_what_it_says_or_is_refused_with_the_least_value() {
    for (name, zero, apply) in SETTINGS.iter().chain(BOUNDS) {
        match (zero, apply()) {
            (Meant, outcome) => outcome.unwrap_or_else(|error| panic!("{name}: {error}")),
            (Refused(least), Err(error @ Error::InvalidConfig { field, .. })) => {
                let text = error.to_string();
                let expected =
                    if name.contains("::read") { "max_bytes" } else { name.split("::").last().unwrap() };
                assert_eq!(field, expected, "{name}: {text}");
                assert!(text.contains(&format!("{field}: ")) && text.contains('0'), "{name}: {text}");
                assert!(
                    text.ends_with(least) || text.contains(&format!("must be {least}")),
                    "{name}: {text}"
                );
            }
            (Refused(_), other) => panic!("{name}: {other:?}"),
        }
    }
}

/// A topic of a directory that is only read.
fn read_only(config: TopicConfig) -> quipu::Result<ReadOnlyTopic> {
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(ManualClock::new()).on_disk(&disk)?;
    broker.create_topic("t", config)?;
    broker.close()?;
    BrokerConfig::new().clock(ManualClock::new()).read_only_on_disk(&disk)?.topic("t")
}

/// The settings and bounds of the public API: every builder that takes a number or a time, and every
/// call with a timeout, a number of bytes or a number of records.
fn in_the_api() -> BTreeSet<String> {
    let (mut owner, mut found) = (String::new(), BTreeSet::new());
    for line in include_str!("../public_api.txt").lines() {
        if !line.starts_with(' ') && line.contains("quipu::") {
            let name = line.split("quipu::").nth(1).unwrap();
            owner = name
                .split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
                .next()
                .unwrap()
                .to_string();
        }
        let Some(signature) = line.split("fn ").nth(1).filter(|_| line.contains("pub ")) else { continue };
        let Some((name, rest)) = signature.split_once('(') else { continue };
        let name = name.split('<').next().unwrap();
        let (arguments, returned) = rest.rsplit_once(") -> ").unwrap_or((rest, ""));
        let argument = arguments.split_once(", ").map_or(arguments, |(_, rest)| rest);
        let of_settings =
            ["BrokerConfig", "TopicConfig", "ProducerConfig", "ConsumerBuilder", "Reader", "Feed"];
        let is_number = ["usize", "u32", "u64", "f64", "Duration", "Option<Duration>", "Durability"]
            .iter()
            .any(|kind| argument.contains(&format!(": {kind}")));
        let is_setter = returned == "Self" && arguments.contains("self") && of_settings.contains(&&*owner);
        let is_retention = owner == "Retention" && returned == "Self";
        let is_bound = arguments.starts_with('&')
            && ["timeout: Duration", "max_bytes: usize", " n: usize"]
                .iter()
                .any(|bound| arguments.contains(bound));
        let is_wait = name == "wait_timeout";
        if is_number && (is_setter || is_bound || is_wait) || is_retention && arguments.contains(": ") {
            found.insert(format!("{owner}::{name}"));
        }
    }
    found
}

#[test]
fn the_table_has_every_setting_and_bound_of_the_public_api() {
    let rows: BTreeSet<String> =
        SETTINGS.iter().chain(BOUNDS).map(|(name, ..)| (*name).to_string()).collect();
    let api = in_the_api();
    assert!(api.len() > 40, "{api:?}");
    assert_eq!(api.difference(&rows).collect::<Vec<_>>(), [""; 0], "they have no row");
    assert_eq!(rows.difference(&api).collect::<Vec<_>>(), [""; 0], "they are not in the API");
}
