use std::path::Path;

use quipu::{Broker, Record, Start, Timestamp, TopicConfig};

use crate::{Outcome, first_record};

pub fn run(dir: &Path, topic: &str) -> Outcome<Vec<String>> {
    let now = Timestamp::now().as_millis();
    let broker = Broker::open(dir)?;
    let partition = broker.ensure_topic(topic, TopicConfig::new())?.partition(0)?;
    for minute in 0..5 {
        let time = Timestamp::from_millis(now - (5 - minute) * 60_000);
        broker.producer().send(topic, Record::new(format!("minute {minute}")).timestamp(time))?.wait()?;
    }

    let time = Timestamp::from_millis(now - 150_000);
    let offset = partition.offset_for_time(time)?.map(|(offset, _)| offset.get() as i64);
    let mut lines = vec![format!("{offset:?}")];
    for records in broker.reader(topic, Start::Time(time))?.to_end() {
        first_record();
        lines.extend(records?.iter().filter_map(|record| record.value_str().map(str::to_string)));
    }
    Ok(lines)
}
