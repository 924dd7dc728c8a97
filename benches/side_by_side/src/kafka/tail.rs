use std::time::Duration;

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::{Outcome, first_record};

const PATIENCE: Duration = Duration::from_secs(10);

pub async fn run(at: &str, topic: &str) -> Outcome<Vec<String>> {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", at).create()?;
    let send = async |value: &str| {
        let record = FutureRecord::<(), _>::to(topic).payload(value);
        producer.send(record, PATIENCE).await.map_err(|(e, _)| e)
    };
    for line in ["old 1", "old 2"] {
        send(line).await?;
    }

    let consumer: StreamConsumer =
        ClientConfig::new().set("bootstrap.servers", at).set("group.id", format!("{topic}-tail")).create()?;
    // `Offset::End` is looked up later, and would miss what is sent meanwhile.
    let (_, end) = consumer.fetch_watermarks(topic, 0, PATIENCE)?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Offset(end))?;
    consumer.assign(&from)?;
    let mut lines = Vec::new();
    for line in ["new 1", "new 2", "new 3"] {
        send(line).await?;
        let message = consumer.recv().await?;
        first_record();
        lines.push(message.payload_view::<str>().transpose()?.unwrap_or_default().to_string());
    }
    Ok(lines)
}
