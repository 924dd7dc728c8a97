use std::path::Path;
use std::time::Duration;

use quipu::{Broker, Record, TopicConfig};

use crate::{Outcome, first_record};

pub fn run(dir: &Path, topic: &str) -> Outcome<Vec<String>> {
    let broker = Broker::open(dir)?;
    broker.ensure_topic(topic, TopicConfig::new())?;
    let record = Record::new("42 EUR").key("customer-7");
    let stored = broker.producer().send(topic, record)?.wait()?;

    let mut consumer = broker.consumer("billing").subscribe(topic)?;
    let records = consumer.poll(Duration::from_secs(10))?;
    first_record();
    let value = records.last().ok_or("no record")?.value_str().unwrap_or_default().to_string();
    consumer.commit(&records)?;
    Ok(vec![format!("{}@{} {value}", stored.partition, stored.offset)])
}
