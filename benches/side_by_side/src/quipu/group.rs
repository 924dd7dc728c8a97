use std::path::Path;
use std::time::Duration;

use quipu::{Broker, Record, TopicConfig};

use crate::{Outcome, first_record};

pub fn run(dir: &Path, topic: &str) -> Outcome<Vec<String>> {
    let broker = Broker::open(dir)?;
    let partitions = broker.ensure_topic(topic, TopicConfig::new().partitions(4))?.partitions();
    let member = || broker.consumer("workers").subscribe(topic);
    let (mut first, mut second) = (member()?, member()?);
    // The rebalances happen in the polls of both.
    while (first.assignment().len(), second.assignment().len()) != (2, 2) {
        first.poll(Duration::ZERO)?;
        second.poll(Duration::ZERO)?;
    }
    let producer = broker.producer();
    for n in 0..100 {
        producer.send(&partitions[n % 4], Record::new(n.to_string()))?.wait()?;
    }
    let mut values = [Vec::new(), Vec::new()];
    while values[0].len() + values[1].len() < 100 {
        for (member, values) in [&mut first, &mut second].into_iter().zip(&mut values) {
            for record in &member.poll(Duration::from_millis(20))? {
                first_record();
                values.push(record.value_str().unwrap_or_default().parse::<u32>()?);
            }
        }
    }
    let mut all = values.concat();
    all.sort();
    Ok(vec![format!(
        "{} and {}, each once: {}",
        values[0].len(),
        values[1].len(),
        all.into_iter().eq(0..100)
    )])
}
