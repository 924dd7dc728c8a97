//! A call of `send_all` with sequences, over several partitions, is repeated until all of it is
//! there: after a failed write and after a kill, and each record is stored once.

use std::io::ErrorKind;

use quipu::testing::{Disk, ManualClock, Op, Survive, produced};
use quipu::{
    Broker, BrokerConfig, Durability, Error, Producer, ProducerConfig, Record, Topic, TopicConfig,
    partition_for_key,
};

const ROWS: u64 = 7;

fn key(partition: u32) -> String {
    (0..).map(|n| format!("k{n}")).find(|key| partition_for_key(key.as_bytes(), 3) == partition).unwrap()
}

/// Partition 0 has rows 1, 4, 7; partition 1 has 2 and 5; partition 2 has 3 and 6.
fn row(id: u64) -> Record<'static> {
    Record::new(format!("row {id}")).key(key(((id - 1) % 3) as u32)).sequence(id)
}

fn rows() -> impl Iterator<Item = Record<'static>> {
    (1..=ROWS).map(row)
}

fn config(clock: &ManualClock) -> BrokerConfig {
    BrokerConfig::new().clock(clock.clone()).durability(Durability::Sync)
}

fn named(broker: &Broker) -> Producer {
    broker.producer_with(ProducerConfig::new().name("outbox")).unwrap()
}

fn send_all(producer: &Producer, topic: &Topic) -> quipu::Result<Vec<(u32, u64)>> {
    let receipts = producer.send_all(topic, rows())?.wait()?;
    Ok(receipts.iter().map(|receipt| (receipt.partition.get(), receipt.offset.get())).collect())
}

/// Each row once, in the order of its partition.
fn assert_all_stored(broker: &Broker, receipts: &[(u32, u64)], context: &str) {
    let places: Vec<_> = (0..ROWS).map(|at| ((at % 3) as u32, at / 3)).collect();
    assert_eq!(receipts, places, "{context}");
    let mut stored: Vec<_> =
        produced(broker, "t").unwrap().iter().map(|r| r.value().unwrap().to_vec()).collect();
    stored.sort();
    let all: Vec<_> = (1..=ROWS).map(|id| format!("row {id}").into_bytes()).collect();
    assert_eq!(stored, all, "{context}");
}

/// The disk fails, or the process is killed, at each operation of the first call.
fn fails_at_each_operation(fault: impl Fn(&Disk, u64), is_kill: bool) {
    let mut failed = 0;
    // More operations than a call has: a failed write of a derived file fails no call.
    for nth in 1..=30 {
        let (disk, clock) = (Disk::new(), ManualClock::new());
        let mut broker = config(&clock).on_disk(&disk).unwrap();
        let mut topic = broker.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
        let mut producer = named(&broker);
        fault(&disk, nth);
        let first = send_all(&producer, &topic);
        disk.clear_faults();
        if first.is_err() && is_kill {
            broker = disk.crash_and_reopen(Survive::Everything, config(&clock)).unwrap();
            topic = broker.topic("t").unwrap();
            producer = named(&broker);
        }
        let context = format!("operation {nth}, {:?}", first.as_ref().err().map(ToString::to_string));
        let again = send_all(&producer, &topic).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_all_stored(&broker, &again, &context);
        assert_eq!(send_all(&producer, &topic).unwrap(), again, "{context}");
        failed += u32::from(first.is_err());
    }
    assert!(failed >= 3, "only {failed} operations failed");
}

#[test]
fn after_a_write_that_failed() {
    fails_at_each_operation(|disk, nth| disk.fail(Op::Write, nth, ErrorKind::StorageFull), false);
}

#[test]
fn after_a_kill() {
    fails_at_each_operation(|disk, nth| disk.crash_at(nth), true);
}

/// The partitions after the one that fails are written by the same call.
#[test]
fn an_error_of_one_partition_keeps_no_other_from_being_written() {
    let disk = Disk::new();
    let broker = config(&ManualClock::new()).on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let producer = named(&broker);
    producer.send_all(&topic, [row(1), row(4), row(7)]).unwrap().wait().unwrap();
    // Parts of a batch with gaps cannot be told from records that were left out.
    let part = producer.send_all(&topic, [4, 5, 6].map(row)).map(drop);
    assert!(matches!(part, Err(Error::DuplicateSequence { sequence: 4, .. })), "{part:?}");
    let ends = || topic.partitions().iter().map(|p| p.bounds().unwrap().log_end.get()).collect::<Vec<_>>();
    assert_eq!(ends(), [3, 1, 1]);
    // An error that keeps records out of the log comes before it.
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
    let both = producer.send_all(&topic, [4, 8, 9].map(row)).map(drop);
    assert!(matches!(both, Err(Error::DiskFull { .. })), "{both:?}");
    assert_eq!(ends(), [3, 1, 2]);
}

/// Records that were never sent are not taken for those of a batch with gaps.
#[test]
fn other_records_with_fitting_sequences_are_no_duplicates() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    let producer = named(&broker);
    let send = |rows: [(u64, &str); 3]| {
        let records = rows.map(|(id, value)| Record::new(value.to_string()).sequence(id));
        let receipts = producer.send_all(&topic, records).and_then(|sent| sent.wait());
        receipts.map(|receipts| receipts.iter().map(|r| r.offset.get()).collect::<Vec<_>>())
    };
    assert_eq!(send([(1, "a"), (3, "b"), (5, "c")]).unwrap(), [0, 1, 2]);
    assert_eq!(send([(1, "a"), (3, "b"), (5, "c")]).unwrap(), [0, 1, 2]);
    for other in [[(1, "a"), (2, "x"), (5, "c")], [(2, "a"), (3, "b"), (5, "c")]] {
        let refused = send(other);
        assert!(matches!(refused, Err(Error::DuplicateSequence { .. })), "{refused:?}");
    }
    assert_eq!(topic.partition(0).unwrap().bounds().unwrap().log_end, 3);
}
