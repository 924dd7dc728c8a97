use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::{Broker, RebalanceEvent, Record, TopicConfig};

use crate::{Outcome, first_record};

pub fn run(dir: &Path, topic: &str) -> Outcome<Vec<String>> {
    let broker = Broker::open(dir)?;
    broker.ensure_topic(topic, TopicConfig::new().partitions(4))?;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let member = |name: &'static str| {
        let calls = calls.clone();
        let builder = broker.consumer("workers").on_rebalance(move |rebalance| {
            let what = match rebalance.event() {
                RebalanceEvent::Assigned => "assigned",
                _ => "revoked",
            };
            if !rebalance.partitions().is_empty() {
                calls.lock().unwrap().push(format!("{name} {what} {}", rebalance.partitions().len()));
            }
            Ok(())
        });
        builder.subscribe(topic)
    };
    broker.producer().send(topic, Record::new("a job"))?.wait()?;
    let mut ada = member("ada")?;
    let records = ada.poll(Duration::from_secs(10))?;
    let job = records.iter().next().and_then(|record| record.value().map(<[u8]>::len));
    first_record();
    let mut ben = member("ben")?;
    while (ada.assignment().len(), ben.assignment().len()) != (2, 2) {
        ada.poll(Duration::ZERO)?;
        ben.poll(Duration::ZERO)?;
    }
    let mut lines = calls.lock().unwrap().clone();
    lines.push(format!("job of {job:?} bytes"));
    Ok(lines)
}
