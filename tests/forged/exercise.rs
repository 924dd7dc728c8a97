//! Every call that reads what a directory holds, and every one that changes it.

use std::ops::ControlFlow;
use std::time::Duration;

use quipu::testing::Disk;
use quipu::{Broker, Offset, Partition, ProducerConfig, Record, Start, Timestamp, Topic};

use crate::common::open;

/// Opens a directory, makes every call, and opens it again. Errors are results too.
pub fn exercise(disk: &Disk) {
    let _ = disk.duplicate().verify(|_| ControlFlow::Continue(()));
    let _ = disk.duplicate().salvage(&Disk::new());
    if let Ok(broker) = open(disk) {
        topics(&broker).iter().for_each(|topic| look(&broker, topic));
        groups(&broker);
        topics(&broker).iter().for_each(|topic| change(&broker, topic));
        let _ = broker.maintain();
        let _ = broker.close();
    }
    if let Ok(broker) = open(disk) {
        topics(&broker).iter().for_each(|topic| look(&broker, topic));
        let _ = broker.close();
    }
}

fn topics(broker: &Broker) -> Vec<Topic> {
    let _ = (broker.stats(), broker.open_report(), broker.producers(), broker.damaged());
    broker.topics()
}

fn look(broker: &Broker, topic: &Topic) {
    for partition in topic.partitions().into_iter().take(8) {
        read(&partition);
    }
    if let Ok(mut reader) = broker.reader([topic.name()], Start::Beginning) {
        while reader.poll(Duration::ZERO).is_ok_and(|records| !records.is_empty()) {}
    }
    for number in 0..4 {
        if let Ok(stream) = topic.stream(format!("stream-{number}")) {
            let _ = (stream.version(), stream.load().map(|events| events.len()), stream.last());
            let _ = stream.last_n(3);
        }
    }
}

fn read(partition: &Partition) {
    let Ok(bounds) = partition.bounds() else { return };
    let mut from = bounds.log_start;
    // A gap may be skipped at once, so this ends after as many reads as there are batches.
    while let Ok(records) = partition.read(Start::At(from), 500) {
        let Some(last) = records.last() else { break };
        assert!(last.offset() >= from, "reading goes forward");
        from = last.offset().plus(1);
    }
    for offset in [0, 1, 7, 39, 40, u64::from(u32::MAX), u64::MAX] {
        let _ = partition.read(Start::At(Offset::new(offset)), 1 << 20).map(|records| records.len());
    }
    let _ = partition.last_n(1).map(|records| records.len());
    let _ = partition.last_n(1_000).map(|records| records.len());
    for time in [0, 1, 1 << 40, (1 << 62) - 1] {
        let _ = partition.offset_for_time(Timestamp::from_millis(time));
    }
    let _ = (partition.max_timestamp(), partition.stats(), partition.segments(), partition.damage());
    let _ = partition.read_raw(bounds.log_start, 1 << 20).map(|batches| batches.len());
}

fn groups(broker: &Broker) {
    if let Ok(group) = broker.group("g") {
        let _ = (group.describe(), group.lag());
    }
    if let Ok(mut consumer) = broker.consumer("g").subscribe(["t", "c"]) {
        for _ in 0..20 {
            match consumer.poll(Duration::ZERO) {
                Ok(records) if records.is_empty() => break,
                Ok(records) => drop(consumer.commit(&records)),
                Err(_) => break,
            }
        }
        let _ = consumer.close();
    }
}

fn change(broker: &Broker, topic: &Topic) {
    let producer = broker.producer();
    let _ = producer.send(topic, Record::new("after").key("stream-1")).and_then(|sent| sent.wait());
    if let Ok(outbox) = broker.producer_with(ProducerConfig::new().name("outbox")) {
        let _ = outbox.send(topic, Record::new("row").key("k").sequence(1_000)).and_then(|sent| sent.wait());
    }
    let _ = topic.erase_stream("stream-2");
    for partition in topic.partitions().into_iter().take(8) {
        let _ = outbox_of(broker, &partition);
        let _ = partition.compact();
        let Ok(bounds) = partition.bounds() else { continue };
        let _ = partition.delete_records(bounds.log_start.plus(1));
        let _ = partition.truncate_to(Offset::new(bounds.log_end.get().saturating_sub(1)));
        let _ = partition.reopen();
        read(&partition);
    }
}

fn outbox_of(broker: &Broker, partition: &Partition) -> quipu::Result<Option<u64>> {
    broker.producer_with(ProducerConfig::new().name("outbox"))?.last_sequence(partition)
}
