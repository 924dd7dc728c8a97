use std::path::Path;
use std::time::Duration;

use quipu::{Broker, Record, TopicConfig};

use crate::{Outcome, first_record};

pub fn run(dir: &Path, topic: &str) -> Outcome<Vec<String>> {
    let dead = format!("{topic}.dead");
    let broker = Broker::open(dir)?;
    broker.ensure_topic(topic, TopicConfig::new())?;
    broker.ensure_topic(&dead, TopicConfig::new())?;
    let producer = broker.producer();
    for job in ["1", "two", "3", "four", "5"] {
        producer.send(topic, Record::new(job).key(job))?.wait()?;
    }

    let (mut jobs, mut sum) = (broker.consumer("workers").subscribe(topic)?, 0);
    while broker.group("workers")?.lag()? > 0 {
        let records = jobs.poll(Duration::from_secs(10))?;
        let mut transaction = broker.transaction();
        for record in &records {
            first_record();
            match record.value_str().unwrap_or_default().parse::<u32>() {
                Ok(number) => sum += number,
                Err(e) => drop(transaction.send(&dead, Record::from(record).header("error", e.to_string()))),
            }
        }
        // The letters and the position, or neither.
        transaction.offsets(&jobs, &records);
        transaction.commit()?;
    }

    let mut lines = vec![format!("sum {sum}")];
    for letter in &broker.consumer("letters").subscribe(&dead)?.poll(Duration::from_secs(10))? {
        let error =
            letter.header("error").flatten().map(std::str::from_utf8).transpose()?.unwrap_or_default();
        lines.push(format!("{}: {error}", letter.value_str().unwrap_or_default()));
    }
    Ok(lines)
}
