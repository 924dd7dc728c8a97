//! A topic gets other settings while a producer and a consumer use it: compression, retention and
//! more partitions. Neither of them stops, and no record is lost.
//!
//!     cargo run --release --example settings_online
//!
//! `Broker::alter_topic` takes all settings, so start from the present ones. They apply from the
//! next batch on; stored batches are not rewritten. With more partitions a key may belong to
//! another partition than before. Its earlier records stay where they are, so the order of one key
//! holds before the change and after it, and not across it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use quipu::{Broker, Compression, Error, Record, Result, Retention, TopicConfig};

/// Sends until it is stopped. Returns the number of records.
fn produce(broker: &Broker, stop: &AtomicBool) -> Result<u64> {
    let producer = broker.producer();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let record = Record::new(format!("reading {sent}")).key(format!("sensor-{}", sent % 50));
        producer.send("readings", record)?.detach();
        sent += 1;
        if sent % 100 == 0 {
            producer.flush()?;
            thread::sleep(Duration::from_micros(500));
        }
    }
    producer.flush()?;
    Ok(sent)
}

fn main() -> Result<()> {
    let broker = Broker::in_memory()?;
    let readings = broker.ensure_topic("readings", TopicConfig::new().partitions(2))?;
    let stop = AtomicBool::new(false);
    let mut consumer = broker.consumer("averages").subscribe("readings")?;
    let mut seen = BTreeMap::<u32, u64>::new();

    let sent = thread::scope(|scope| {
        let producer = scope.spawn(|| produce(&broker, &stop));
        let mut consume = |polls: u32| -> Result<()> {
            for _ in 0..polls {
                let records = consumer.poll(Duration::from_millis(20))?;
                for record in &records {
                    *seen.entry(record.partition().get()).or_default() += 1;
                }
                consumer.commit(&records)?;
            }
            Ok(())
        };
        let changed = (|| {
            consume(20)?;
            broker.alter_topic("readings", readings.config().compression(Compression::Lz4))?;
            consume(20)?;
            let week = Retention::for_age(Duration::from_secs(7 * 24 * 3600));
            broker.alter_topic("readings", readings.config().retention(week).partitions(4))?;
            consume(20)
        })();
        stop.store(true, Ordering::Relaxed);
        let sent = producer.join().expect("no panic")?;
        changed?;
        // What is left: the group was given the new partitions as well.
        while broker.group("averages")?.lag()? > 0 {
            consume(1)?;
        }
        Ok::<_, Error>(sent)
    })?;

    let config = readings.config();
    assert_eq!((config.get_partitions(), config.get_compression()), (4, Compression::Lz4));
    assert_eq!(seen.values().sum::<u64>(), sent, "every record once");
    assert_eq!(seen.len(), 4, "the new partitions are used and consumed");
    // Fewer partitions would lose records, so that is refused.
    let fewer = broker.alter_topic("readings", readings.config().partitions(1));
    assert!(matches!(fewer, Err(Error::ConfigMismatch { .. })));
    println!("ok: {sent} records through three settings, by partition: {seen:?}");
    Ok(())
}
