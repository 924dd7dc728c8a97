use std::path::Path;
use std::time::Duration;

use quipu::{Broker, Record, TopicConfig};

use crate::{Outcome, first_record};

/// Reads so many records, commits them, and ends.
fn consume(broker: &Broker, topic: &str, count: usize) -> Outcome<String> {
    let mut consumer = broker.consumer("billing").max_records(1).subscribe(topic)?;
    let mut values = Vec::new();
    for _ in 0..count {
        let records = consumer.poll(Duration::from_secs(10))?;
        first_record();
        values.extend(records.iter().filter_map(|record| record.value_str().map(str::to_string)));
        consumer.commit(&records)?;
    }
    Ok(values.join(" "))
}

pub fn run(dir: &Path, topic: &str) -> Outcome<Vec<String>> {
    let broker = Broker::open(dir)?;
    broker.ensure_topic(topic, TopicConfig::new())?;
    let producer = broker.producer();
    for n in 0..10 {
        producer.send(topic, Record::new(n.to_string()))?.wait()?;
    }
    Ok(vec![consume(&broker, topic, 4)?, consume(&broker, topic, 6)?])
}
