use std::path::Path;
use std::time::Duration;

use quipu::{Broker, Record, TopicConfig};

use crate::{Outcome, first_record};

pub fn run(dir: &Path, topic: &str) -> Outcome<Vec<String>> {
    let copies = format!("{topic}.copies");
    let broker = Broker::open(dir)?;
    broker.ensure_topic(topic, TopicConfig::new())?;
    broker.ensure_topic(&copies, TopicConfig::new())?;
    let producer = broker.producer();
    let record = Record::new("42 EUR").header("trace", "abc").header("attempt", "1").null_header("empty");
    producer.send(topic, record)?.wait()?;

    // Forwarded with one header replaced.
    let records = broker.consumer("readers").subscribe(topic)?.poll(Duration::from_secs(10))?;
    first_record();
    for record in &records {
        producer.send(&copies, Record::from(record).replace_header("attempt", "2"))?.wait()?;
    }

    let mut lines = Vec::new();
    for copy in &broker.consumer("readers").subscribe(&copies)?.poll(Duration::from_secs(10))? {
        for (name, value) in copy.headers() {
            lines.push(format!("{name}: {:?}", value.map(std::str::from_utf8).transpose()?));
        }
    }
    lines.sort();
    Ok(lines)
}
