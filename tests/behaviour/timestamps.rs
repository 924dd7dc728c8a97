//! The timestamp of a record, and which timestamps are refused.

use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Clock, Compression, Durability, Error, Outcome, Partition, Record, Records, Start,
    Timestamp, TimestampType, TopicConfig,
};

const HOUR: Duration = Duration::from_secs(3600);
const TICK: Duration = Duration::from_millis(1);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn append_time() -> TopicConfig {
    TopicConfig::new().timestamps(TimestampType::Append)
}

fn timestamps(records: &Records) -> Vec<Timestamp> {
    records.iter().map(|record| record.timestamp()).collect()
}

fn all(partition: &Partition) -> Vec<Timestamp> {
    timestamps(&partition.read(Start::Beginning, usize::MAX).unwrap())
}

// -- create time --

/// 15: a record without a timestamp gets the time of sending, not that of its batch or of the
/// append.
#[test]
fn a_record_has_its_given_time_or_the_time_of_sending() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    assert_eq!(topic.config(), TopicConfig::new().timestamps(TimestampType::Create));
    let producer = broker.producer();
    let start = clock.now();
    let pending = [Some(at(0)), None, Some(start.plus(TICK)), None].map(|given| {
        let record = given.map_or(Record::new("v"), |given| Record::new("v").timestamp(given));
        let pending = producer.send(&topic, record).unwrap();
        clock.advance(TICK);
        pending
    });
    let expected = [at(0), start.plus(TICK), start.plus(TICK), start.plus(3 * TICK)];
    assert_eq!(pending.map(|pending| pending.wait().unwrap().timestamp), expected);
    assert_eq!(all(&topic.partition(0).unwrap()), expected);
}

/// Kafka's `LogValidator`.
#[test]
fn a_time_out_of_the_bounds_is_refused_with_its_index_and_all_that_was_sent_with_it() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).in_memory().unwrap();
    let config = TopicConfig::new().timestamp_bounds(Some(2 * HOUR), Some(HOUR));
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    let producer = broker.producer();
    let now = clock.now();
    let (earliest, latest) = (now.minus(2 * HOUR), now.plus(HOUR));
    let good = [earliest, now, latest];
    for bad in [earliest.minus(TICK), latest.plus(TICK), at(0), at(1 << 62), at(i64::MAX), at(-1)] {
        let refused = |error: Error, expected: usize| {
            assert_eq!(error.outcome(), Outcome::NotWritten);
            match error {
                Error::InvalidTimestamp { timestamp, index, earliest: from, latest: to, .. } => {
                    assert_eq!((timestamp, index, from, to), (bad, expected, earliest, latest));
                }
                other => panic!("{other}"),
            }
        };
        let record = |time: Timestamp| Record::new("v").timestamp(time);
        refused(producer.send(&partition, record(bad)).unwrap_err(), 0);
        let mixed = good.iter().copied().chain([bad]).map(record);
        refused(producer.send_all(&partition, mixed).unwrap_err(), 3);
        refused(producer.send_all(&partition, [Record::new("v"), record(bad)]).unwrap_err(), 1);
    }
    producer.flush().unwrap();
    assert_eq!(partition.bounds().unwrap().log_end, 0);
    let sent = good.iter().map(|time| Record::new("v").timestamp(*time));
    producer.send_all(&partition, sent).unwrap().wait().unwrap();
    assert_eq!(all(&partition), good, "the bounds themselves are within");
}

#[test]
fn a_record_without_a_time_of_its_own_is_always_fine() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).in_memory().unwrap();
    let config = TopicConfig::new().timestamp_bounds(Some(Duration::ZERO), Some(Duration::ZERO));
    let topic = broker.create_topic("t", config).unwrap();
    let producer = broker.producer();
    let pending = producer.send(&topic, Record::new("v")).unwrap();
    // A time that was accepted when it was sent stays so, however late it is written.
    clock.set_wall(at(5));
    assert_eq!(pending.wait().unwrap().timestamp, at(1_600_000_000_000));
    producer.send(&topic, Record::new("v")).unwrap().wait().unwrap();
    assert!(producer.send(&topic, Record::new("v").timestamp(at(4))).is_err());
    assert!(producer.send(&topic, Record::new("v").timestamp(at(6))).is_err());
    assert_eq!(all(&topic.partition(0).unwrap()), [at(1_600_000_000_000), at(5)]);
}

/// KIP-1030.
#[test]
fn by_default_a_time_may_be_an_hour_ahead_and_any_time_in_the_past() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    let free = broker.create_topic("free", TopicConfig::new().timestamp_bounds(None, None)).unwrap();
    let producer = broker.producer();
    let hour_ahead = clock.now().plus(HOUR);
    for (time, fine) in [(at(0), true), (hour_ahead, true), (hour_ahead.plus(TICK), false)] {
        let sent = producer.send(&topic, Record::new("v").timestamp(time));
        assert_eq!(sent.and_then(|pending| pending.wait()).is_ok(), fine, "{time}");
        producer.send(&free, Record::new("v").timestamp(time)).unwrap().wait().unwrap();
    }
    producer.send(&free, Record::new("v").timestamp(at(1 << 62))).unwrap().wait().unwrap();
    let beyond = producer.send(&free, Record::new("v").timestamp(at((1 << 62) + 1)));
    assert!(matches!(beyond, Err(Error::InvalidTimestamp { .. })));
}

// -- append time --

/// Kafka's `LogValidator`.
#[test]
fn append_time_replaces_the_times_of_all_records_of_the_batch() {
    for compression in [Compression::None, Compression::Lz4] {
        let disk = Disk::new();
        let clock = ManualClock::new();
        let config = || BrokerConfig::new().clock(clock.clone());
        let broker = config().on_disk(&disk).unwrap();
        let topic = broker.create_topic("t", append_time().compression(compression)).unwrap();
        let partition = topic.partition(0).unwrap();
        let producer = broker.producer();
        let given = [Some(at(7)), None, Some(at(i64::MAX)), Some(at(-1))];
        let text = "text ".repeat(40);
        let pending = given.map(|given| {
            let record = given.map_or(Record::new(&text), |given| Record::new(&text).timestamp(given));
            producer.send(&partition, record).unwrap()
        });
        // The linger's end is the append.
        clock.advance(Duration::from_millis(5));
        let first = clock.now();
        clock.advance(HOUR);
        for pending in pending {
            assert_eq!(pending.wait().unwrap().timestamp, first, "a receipt holds the stored time");
        }
        let second = clock.now();
        let records =
            given.map(|given| given.map_or(Record::new(&text), |t| Record::new(&text).timestamp(t)));
        for receipt in producer.send_all(&partition, records).unwrap().wait().unwrap() {
            assert_eq!(receipt.timestamp, second);
        }
        let expected = [[first; 4], [second; 4]].concat();
        assert_eq!(partition.stats().batches_appended, 2);
        assert_eq!(all(&partition), expected, "as producers share it");
        let look = |partition: &Partition, case: &str| {
            assert_eq!(all(partition), expected, "{case}");
            let offset = |time| partition.offset_for_time(time).unwrap().map(|(offset, _)| offset.get());
            assert_eq!(
                [first, first.plus(TICK), second, second.plus(TICK)].map(offset),
                [Some(0), Some(4), Some(4), None]
            );
            assert_eq!(partition.max_timestamp().unwrap().map(|(o, t)| (o.get(), t)), Some((4, second)));
        };
        look(&partition, "shared");
        disk.crash(Survive::Everything);
        let broker = config().on_disk(&disk).unwrap();
        look(&broker.topic("t").unwrap().partition(0).unwrap(), "recovered");
        broker.close().unwrap();
        let broker = config().on_disk(&disk).unwrap();
        look(&broker.topic("t").unwrap().partition(0).unwrap(), "from the files");
    }
}

#[test]
fn append_time_rolls_and_goes_back_with_the_clock() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).in_memory().unwrap();
    let topic = broker.create_topic("t", append_time().segment_age(HOUR)).unwrap();
    let partition = topic.partition(0).unwrap();
    let send = |given: Timestamp| {
        let record = Record::new("v").timestamp(given);
        assert_eq!(
            broker.producer().send(&partition, record).unwrap().wait().unwrap().timestamp,
            clock.now()
        );
        partition.segments().len()
    };
    assert_eq!(send(at(0)), 1);
    assert_eq!(send(clock.now().plus(2 * HOUR)), 1, "its own time does not count");
    clock.advance(HOUR + TICK);
    assert_eq!(send(at(0)), 2);
    clock.set_wall(at(3));
    assert_eq!(send(clock.now().plus(2 * HOUR)), 2);
    assert_eq!(*all(&partition).last().unwrap(), at(3));
}

// -- settings --

#[test]
fn both_settings_are_kept_and_can_be_altered() {
    let disk = Disk::new();
    let clock = ManualClock::new();
    let open = || BrokerConfig::new().clock(clock.clone()).on_disk(&disk).unwrap();
    let config = append_time().timestamp_bounds(Some(HOUR), None).durability(Durability::Sync);
    let broker = open();
    broker.create_topic("t", config.clone()).unwrap();
    broker.close().unwrap();

    let broker = open();
    let topic = broker.topic("t").unwrap();
    assert_eq!(topic.config(), config);
    let send = |broker: &Broker, millis: i64| {
        let record = Record::new("v").timestamp(at(millis));
        Ok::<_, Error>(broker.producer().send("t", record)?.wait()?.timestamp)
    };
    assert_eq!(send(&broker, 1).unwrap(), clock.now());
    broker.alter_topic("t", config.clone().timestamps(TimestampType::Create)).unwrap();
    assert!(matches!(send(&broker, 1), Err(Error::InvalidTimestamp { .. })));
    broker
        .alter_topic("t", config.clone().timestamps(TimestampType::Create).timestamp_bounds(None, None))
        .unwrap();
    assert_eq!(send(&broker, 1).unwrap(), at(1));
    broker.close().unwrap();

    let broker = open();
    assert_eq!(send(&broker, 2).unwrap(), at(2));
    assert_eq!(all(&broker.topic("t").unwrap().partition(0).unwrap()), [clock.now(), at(1), at(2)]);
}
