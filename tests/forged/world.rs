//! A small directory that has every kind of file.

use quipu::testing::{Disk, Survive};
use quipu::{Cleanup, Compression, ExpectedVersion, ProducerConfig, Record, TopicConfig};

use crate::common::{open, small};

/// How its last owner left it.
#[derive(Clone, Copy, Debug)]
pub enum State {
    Closed,
    Killed,
}

pub fn world(state: State) -> Disk {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let plain = broker.create_topic("t", small().partitions(2)).unwrap();
    let packed = TopicConfig::new().compression(Compression::Lz4);
    broker.create_topic("packed", packed).unwrap();
    let streams = TopicConfig::streams().segment_bytes(1 << 10).max_record_bytes(700);
    let streams = broker.create_topic("s", streams).unwrap();
    let compacted = small().cleanup(Cleanup::Compact);
    let table = broker.create_topic("c", compacted).unwrap();

    let producer = broker.producer();
    for number in 0..40 {
        let record =
            Record::new(format!("value {number} {}", "x".repeat(60))).key(format!("k{}", number % 5));
        producer.send("t", record.clone().header("h", "v")).unwrap().wait().unwrap();
        producer.send("c", record).unwrap().wait().unwrap();
        let event = Record::new(format!("event {number} {}", "y".repeat(40))).event_type("moved");
        let stream = streams.stream(format!("stream-{}", number % 4)).unwrap();
        stream.append(ExpectedVersion::Any, [event]).unwrap();
    }
    let lines = (0..200).map(|number| Record::new(format!("a line that repeats itself, {number}")));
    producer.send_all("packed", lines).unwrap().wait().unwrap();
    let outbox = broker.producer_with(ProducerConfig::new().name("outbox")).unwrap();
    for sequence in 1..5 {
        let to = plain.partition(1).unwrap();
        outbox.send(&to, Record::new("row").sequence(sequence * 2)).unwrap().wait().unwrap();
    }
    table.partition(0).unwrap().compact().unwrap();
    let mut consumer = broker.consumer("g").subscribe(["t", "c"]).unwrap();
    let records = consumer.poll(std::time::Duration::ZERO).unwrap();
    consumer.commit(&records).unwrap();
    let mut transaction = broker.transaction();
    transaction.send("t", Record::new("together").key("a"));
    transaction.send("c", Record::new("together").key("a"));
    transaction.commit().unwrap();
    drop(records);
    consumer.close().unwrap();
    match state {
        State::Closed => broker.close().unwrap(),
        State::Killed => disk.crash(Survive::Everything),
    }
    disk
}
