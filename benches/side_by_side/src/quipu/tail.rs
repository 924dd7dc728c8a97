use std::path::Path;
use std::time::Duration;

use quipu::{Broker, Record, Start, TopicConfig};

use crate::{Outcome, first_record};

pub fn run(dir: &Path, topic: &str) -> Outcome<Vec<String>> {
    let broker = Broker::open(dir)?;
    broker.ensure_topic(topic, TopicConfig::new())?;
    let producer = broker.producer();
    for line in ["old 1", "old 2"] {
        producer.send(topic, Record::new(line))?.wait()?;
    }

    let mut tail = broker.reader(topic, Start::End)?;
    let mut lines = Vec::new();
    for line in ["new 1", "new 2", "new 3"] {
        producer.send(topic, Record::new(line))?.wait()?;
        let records = tail.poll(Duration::from_secs(10))?;
        first_record();
        lines.extend(records.iter().filter_map(|record| record.value_str().map(str::to_string)));
    }
    Ok(lines)
}
