use std::collections::BTreeMap;
use std::path::Path;

use quipu::{Broker, Compression, Record, Start, TopicConfig};

use crate::{Outcome, first_record};

pub fn run(dir: &Path, topic: &str) -> Outcome<Vec<String>> {
    let broker = Broker::open(dir)?;
    broker.ensure_topic(topic, TopicConfig::new().partitions(4).compression(Compression::Lz4))?;
    let producer = broker.producer();
    for n in 0..1000 {
        let (key, value) = (format!("sensor-{}", n % 10), n.to_string());
        producer.send(topic, Record::new(value).key(key))?.detach();
    }
    producer.flush()?;

    let mut by_key = BTreeMap::<String, (u32, Vec<u32>)>::new();
    for records in broker.reader(topic, Start::Beginning)?.to_end() {
        for record in &records? {
            first_record();
            let key = record.key_str().unwrap_or_default();
            let value = record.value_str().unwrap_or_default();
            let (partition, values) = by_key.entry(key.to_string()).or_default();
            *partition = record.partition().get();
            values.push(value.parse()?);
        }
    }
    let lines = by_key.into_iter().map(|(key, (partition, values))| {
        format!("{key}: {} in partition {partition}, sorted: {}", values.len(), values.is_sorted())
    });
    Ok(lines.collect())
}
