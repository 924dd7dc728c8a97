use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};

use crate::{Outcome, first_record};

/// Reads so many records, commits them, and ends.
async fn consume(at: &str, topic: &str, count: usize) -> Outcome<String> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", at)
        .set("group.id", format!("{topic}-billing"))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()?;
    consumer.subscribe(&[topic])?;
    let mut values = Vec::new();
    for _ in 0..count {
        let message = consumer.recv().await?;
        first_record();
        values.push(message.payload_view::<str>().transpose()?.unwrap_or_default().to_string());
        consumer.commit_message(&message, CommitMode::Async)?;
    }
    consumer.commit_consumer_state(CommitMode::Sync)?;
    Ok(values.join(" "))
}

pub async fn run(at: &str, topic: &str) -> Outcome<Vec<String>> {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", at).create()?;
    for n in 0..10 {
        let value = n.to_string();
        let record = FutureRecord::<(), _>::to(topic).payload(&value);
        producer.send(record, Duration::from_secs(10)).await.map_err(|(e, _)| e)?;
    }
    Ok(vec![consume(at, topic, 4).await?, consume(at, topic, 6).await?])
}
