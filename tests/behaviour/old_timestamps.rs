//! Records with timestamps far before the wall clock: a mirror, an import, a replay. The records'
//! times decide where a segment ends (Kafka's `LogSegment.shouldRoll`); maintenance adds no end
//! because of them.

use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{Broker, BrokerConfig, Clock, Partition, Record, Retention, Start, Timestamp, TopicConfig};

const DAY: Duration = Duration::from_secs(24 * 3600);
const AGE: Duration = Duration::from_secs(7 * 24 * 3600);
const TICK: Duration = Duration::from_millis(1);

fn broker(disk: &Disk, clock: &ManualClock) -> Broker {
    BrokerConfig::new().clock(clock.clone()).on_disk(disk).unwrap()
}

fn clock() -> ManualClock {
    ManualClock::starting_at(Timestamp::from_millis(1_800_000_000_000))
}

/// A record of 2020, `number` seconds after the first.
fn old(number: i64) -> Record<'static> {
    Record::new("x").timestamp(Timestamp::from_millis(1_600_000_000_000 + number * 1000))
}

fn append(broker: &Broker, to: &Partition, record: Record<'_>) {
    broker.producer().send(to, record).unwrap().wait().unwrap();
}

fn segments(partition: &Partition) -> usize {
    partition.segments().len()
}

/// Seen on Kafka 4.1.2.
#[test]
fn records_of_2020_stay_in_one_segment_whatever_the_wall_clock_says() {
    let (disk, clock) = (Disk::new(), clock());
    let broker = broker(&disk, &clock);
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    for number in 0..200 {
        append(&broker, &partition, old(number));
        clock.advance(Duration::from_secs(60));
        broker.maintain().unwrap();
    }
    assert_eq!(segments(&partition), 1);
    append(&broker, &partition, old(AGE.as_secs() as i64 + 1));
    assert_eq!(segments(&partition), 2, "a record that is younger by more than the age");
}

#[test]
fn a_segment_of_old_records_is_sealed_once_its_file_is_old_by_the_wall_clock() {
    for clean in [true, false] {
        let (disk, clock) = (Disk::new(), clock());
        let mut broker = broker(&disk, &clock);
        broker.create_topic("t", TopicConfig::new()).unwrap();
        // Restarts on the way do not start the count over.
        for day in 0..7 {
            let partition = broker.topic("t").unwrap().partition(0).unwrap();
            append(&broker, &partition, old(day));
            broker.maintain().unwrap();
            assert_eq!(segments(&partition), 1, "day {day}");
            if clean {
                broker.close().unwrap();
            } else {
                disk.crash(Survive::Everything);
            }
            clock.advance(DAY);
            broker = self::broker(&disk, &clock);
        }
        let partition = broker.topic("t").unwrap().partition(0).unwrap();
        broker.maintain().unwrap();
        assert_eq!(segments(&partition), 1, "exactly the age");
        clock.advance(TICK);
        broker.maintain().unwrap();
        assert_eq!(segments(&partition), 2);
        // The next segment counts from its own creation.
        append(&broker, &partition, old(8));
        for _ in 0..6 {
            clock.advance(DAY);
            broker.maintain().unwrap();
        }
        assert_eq!(segments(&partition), 2);
        assert_eq!(partition.read(Start::Beginning, 1 << 20).unwrap().len(), 8);
    }
}

/// The file is old because it waited for its first record, which is new.
#[test]
fn an_old_file_with_a_new_first_record_is_not_sealed() {
    let (disk, clock) = (Disk::new(), clock());
    let broker = broker(&disk, &clock);
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&broker, &partition, Record::new("first"));
    clock.advance(AGE + TICK);
    broker.maintain().unwrap();
    assert_eq!(segments(&partition), 2);
    clock.advance(2 * AGE);
    append(&broker, &partition, Record::new("second"));
    broker.maintain().unwrap();
    clock.advance(AGE);
    broker.maintain().unwrap();
    assert_eq!(segments(&partition), 2);
    clock.advance(TICK);
    broker.maintain().unwrap();
    assert_eq!(segments(&partition), 3);
}

/// As on Kafka, where retention rolls the active segment if all of it is older than
/// `retention.ms`.
#[test]
fn retention_by_age_deletes_old_records_of_the_active_segment_too() {
    let (disk, clock) = (Disk::new(), clock());
    let broker = broker(&disk, &clock);
    let config = TopicConfig::new().retention(Retention::for_age(DAY));
    let partition = broker.create_topic("t", config).unwrap().partition(0).unwrap();
    append(&broker, &partition, old(0));
    append(&broker, &partition, old(1));
    broker.maintain().unwrap();
    let bounds = partition.bounds().unwrap();
    assert_eq!((bounds.log_start.get(), bounds.log_end.get(), segments(&partition)), (2, 2, 1));
    append(&broker, &partition, old(2));
    append(&broker, &partition, Record::new("new").timestamp(clock.now()));
    broker.maintain().unwrap();
    assert_eq!(partition.bounds().unwrap().log_start, 3, "the one of 2020 had a segment of its own");
}
