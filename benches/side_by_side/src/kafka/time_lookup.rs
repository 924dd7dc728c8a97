use std::time::{Duration, SystemTime};

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::{Outcome, first_record};

const PATIENCE: Duration = Duration::from_secs(10);

pub async fn run(at: &str, topic: &str) -> Outcome<Vec<String>> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as i64;
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", at).create()?;
    for minute in 0..5 {
        let value = format!("minute {minute}");
        let record = FutureRecord::<(), _>::to(topic).payload(&value).timestamp(now - (5 - minute) * 60_000);
        producer.send(record, PATIENCE).await.map_err(|(e, _)| e)?;
    }

    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", at)
        .set("group.id", format!("{topic}-readers"))
        .create()?;
    let mut times = TopicPartitionList::new();
    times.add_partition_offset(topic, 0, Offset::Offset(now - 150_000))?;
    let found = consumer.offsets_for_times(times, PATIENCE)?;
    let offset = found.find_partition(topic, 0).ok_or("no such partition")?.offset();
    consumer.assign(&found)?;
    let mut lines = vec![format!("{:?}", offset.to_raw())];
    for _ in 0..2 {
        let message = consumer.recv().await?;
        first_record();
        lines.push(message.payload_view::<str>().transpose()?.unwrap_or_default().to_string());
    }
    Ok(lines)
}
