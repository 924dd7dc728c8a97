use std::path::Path;
use std::time::Duration;

use quipu::{Broker, Record, Start, TopicConfig};

use crate::{Outcome, first_record};

/// Transforms ten records. If it dies, it does so before the commit.
fn transform(broker: &Broker, topic: &str, out: &str, dies: bool) -> Outcome<()> {
    let mut consumer = broker.consumer("doubler").max_records(10).subscribe(topic)?;
    let records = consumer.poll(Duration::from_secs(10))?;
    let mut transaction = broker.transaction();
    for record in &records {
        first_record();
        let number: u32 = record.value_str().unwrap_or_default().parse()?;
        transaction.send(out, Record::new((2 * number).to_string()));
    }
    transaction.offsets(&consumer, &records);
    if !dies {
        transaction.commit()?;
    }
    Ok(())
}

pub fn run(dir: &Path, topic: &str) -> Outcome<Vec<String>> {
    let out = format!("{topic}.out");
    let broker = Broker::open(dir)?;
    broker.ensure_topic(topic, TopicConfig::new())?;
    broker.ensure_topic(&out, TopicConfig::new())?;
    let producer = broker.producer();
    for n in 0..10 {
        producer.send(topic, Record::new(n.to_string()))?.wait()?;
    }
    transform(&broker, topic, &out, true)?;
    transform(&broker, topic, &out, false)?;

    let mut values = Vec::new();
    for records in broker.reader(&out, Start::Beginning)?.to_end() {
        values.extend(records?.iter().filter_map(|record| record.value_str().map(str::to_string)));
    }
    Ok(values)
}
