//! A partition that cannot be read keeps no other from being served, and its error names it. As with
//! Kafka's consumer, which returns the records of other partitions first.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quipu::testing::Disk;
use quipu::{
    Broker, Consumer, Corruption, Error, Offset, Reader, Record, Records, Result, Start, TopicConfig,
};

use crate::common::{files, fill, open, send};

const NOW: Duration = Duration::ZERO;

/// Topic `t` with three partitions of six batches each; of those in `damaged`, the batch of this
/// number is damaged.
fn damaged(damaged: &[(u32, usize)]) -> Broker {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let file = |partition: u32| files(&disk, &format!("topics/t/{partition}"), ".log").remove(0);
    let mut places = Vec::new();
    for partition in topic.partitions() {
        for batch in 0..6 {
            send(&broker, &partition, "v").unwrap();
            let path = file(partition.id().get());
            let len = disk.files().into_iter().find(|(other, _)| *other == path).unwrap().1;
            if damaged.contains(&(partition.id().get(), batch)) {
                places.push((path, len - 2));
            }
        }
    }
    broker.close().unwrap();
    places.iter().for_each(|(path, at)| disk.flip_bit(path, at * 8).unwrap());
    open(&disk).unwrap()
}

/// One call for the next records.
type Next = Box<dyn FnMut() -> Result<Vec<(u32, u64)>>>;

fn found(records: &Records) -> Vec<(u32, u64)> {
    records.iter().map(|record| (record.partition().get(), record.offset().get())).collect()
}

fn ready<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the error of the damaged partition is there"),
    }
}

fn reader(broker: &Broker) -> Reader {
    broker.reader(["t"], Start::Beginning).unwrap().max_records(2)
}

fn consumer(broker: &Broker, is_member: bool) -> Consumer {
    let builder = broker.consumer("g").max_records(2);
    match is_member {
        true => builder.subscribe(["t"]).unwrap(),
        false => builder.assign(&broker.topic("t").unwrap().partitions()).unwrap(),
    }
}

/// Every way to read several partitions.
fn ways(broker: &Broker) -> Vec<(&'static str, Next)> {
    let positions = reader(broker).positions();
    let mut placed = broker.reader_at(&positions).unwrap().max_records(2);
    let (mut polled, mut received, mut single) = (reader(broker), reader(broker), reader(broker));
    let (mut member, mut assigned) = (consumer(broker, true), consumer(broker, false));
    let mut one_by_one = consumer(broker, false);
    let mut awaited = consumer(broker, false);
    vec![
        ("poll", Box::new(move || polled.poll(NOW).map(|records| found(&records)))),
        ("reader_at", Box::new(move || placed.poll(NOW).map(|records| found(&records)))),
        ("recv", Box::new(move || ready(received.recv()).map(|records| found(&records)))),
        (
            "recv_one",
            Box::new(move || {
                let record = ready(single.recv_one())?.unwrap();
                Ok(vec![(record.partition().get(), record.offset().get())])
            }),
        ),
        ("a member", Box::new(move || member.poll(NOW).map(|records| found(&records)))),
        ("assigned", Box::new(move || assigned.poll(NOW).map(|records| found(&records)))),
        ("recv of a consumer", Box::new(move || ready(awaited.recv()).map(|records| found(&records)))),
        (
            "recv_one of a consumer",
            Box::new(move || {
                let record = ready(one_by_one.recv_one())?.unwrap();
                Ok(vec![(record.partition().get(), record.offset().get())])
            }),
        ),
    ]
}

fn corruption<T: std::fmt::Debug>(result: Result<T>) -> Corruption {
    match result {
        Err(Error::Corrupt(corruption)) => corruption,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_other_partitions_are_served_between_the_errors_of_a_damaged_one() {
    let broker = damaged(&[(1, 2)]);
    for (way, mut next) in ways(&broker) {
        let mut offsets: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        let (mut errors, mut in_a_row) = (0, 0);
        // Two errors in a row: nothing else is left.
        while in_a_row < 2 {
            match next() {
                Ok(records) => {
                    assert!(!records.is_empty(), "{way}");
                    in_a_row = 0;
                    records.into_iter().for_each(|(of, offset)| offsets.entry(of).or_default().push(offset));
                }
                error => {
                    let damage = corruption(error);
                    assert_eq!(damage.partition.as_ref().unwrap().to_string(), "t/1", "{way}");
                    assert_eq!((damage.offset.unwrap().get(), damage.resume.unwrap().get()), (2, 3), "{way}");
                    assert!(damage.to_string().starts_with("t/1: "), "{way}: {damage}");
                    (errors, in_a_row) = (errors + 1, in_a_row + 1);
                }
            }
        }
        assert!(errors > 2, "{way}: it is seen before the others are at their end: {errors}");
        let all: Vec<u64> = (0..6).collect();
        // The good records before the damage are delivered.
        let expected = BTreeMap::from([(0, all.clone()), (1, vec![0, 1]), (2, all)]);
        assert_eq!(offsets, expected, "{way}");
    }
}

#[test]
fn records_that_come_later_are_served_beside_the_damage_and_a_seek_ends_it() {
    let broker = damaged(&[(1, 0)]);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    assert_eq!(reader.poll(NOW).unwrap().len(), 12, "the others first");
    for _ in 0..3 {
        corruption(reader.poll(NOW));
    }
    let third = broker.topic("t").unwrap().partition(2).unwrap();
    for round in 0..3 {
        send(&broker, &third, "v").unwrap();
        assert_eq!(found(&reader.poll(NOW).unwrap()), [(2, 6 + round)]);
        corruption(reader.poll(NOW));
    }
    reader.pause("t", 1).unwrap();
    assert!(reader.poll(NOW).unwrap().is_empty());
    reader.resume("t", 1).unwrap();
    let mut position = reader.position("t", 1).unwrap();
    position.offset = corruption(reader.poll(NOW)).resume.unwrap();
    reader.seek(&position).unwrap();
    assert_eq!(reader.poll(NOW).unwrap().len(), 5);
    assert!(reader.poll(NOW).unwrap().is_empty());
}

#[test]
fn of_two_damaged_partitions_both_are_reported_and_the_third_is_served() {
    let broker = damaged(&[(0, 0), (2, 0)]);
    let mut reader = reader(&broker);
    let (mut reported, mut served) = (BTreeMap::new(), 0);
    for _ in 0..12 {
        match reader.poll(NOW) {
            Ok(records) => served += records.len(),
            error => {
                let of = corruption(error).partition.unwrap().partition.get();
                *reported.entry(of).or_insert(0) += 1;
            }
        }
    }
    assert_eq!(served, 6);
    assert!(reported[&0] >= 2 && reported[&2] >= 2, "{reported:?}");
}

#[test]
fn reads_of_one_partition_name_it_with_the_damage() {
    let broker = damaged(&[(1, 0), (1, 5)]);
    let partition = broker.topic("t").unwrap().partition(1).unwrap();
    let named = |damage: Corruption| assert_eq!(damage.partition.unwrap().to_string(), "t/1");
    named(corruption(partition.read(Start::Beginning, 1)));
    named(corruption(partition.last_n(1)));
    named(corruption(partition.read_raw(Offset::ZERO, 1)));
}

#[test]
fn damage_that_the_opening_finds_names_its_partition() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    topic.partitions().iter().for_each(|partition| fill(&broker, partition, 2));
    broker.close().unwrap();
    disk.flip_bit(files(&disk, "topics/t/1", "manifest").remove(0), 300).unwrap();
    let broker = open(&disk).unwrap();
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    assert_eq!(reader.poll(NOW).unwrap().len(), 4);
    for damage in [
        corruption(reader.poll(NOW)),
        corruption(broker.topic("t").unwrap().partition(1).unwrap().append([Record::new("v")])),
        corruption(Err::<(), _>(broker.open_report().damaged[0].1.clone())),
    ] {
        assert_eq!(damage.partition.unwrap().to_string(), "t/1");
    }
}

#[test]
fn a_record_that_is_too_large_is_refused_with_the_name_of_its_partition() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(3).max_record_bytes(1000)).unwrap();
    let partition = topic.partition(2).unwrap();
    let large = || Record::new(vec![0; 1001]);
    let mut transaction = broker.transaction();
    transaction.send(&partition, large());
    for refused in [
        broker.producer().send(&partition, large()).map(drop),
        partition.append([large()]).map(drop),
        transaction.commit().map(drop),
    ] {
        match refused {
            Err(error @ Error::RecordTooLarge { .. }) => {
                let text = error.to_string();
                assert!(text.starts_with("t/2: ") && text.ends_with("the limit of 1000 bytes"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}
