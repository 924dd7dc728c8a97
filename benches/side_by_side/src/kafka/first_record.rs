use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};

use crate::{Outcome, first_record};

pub async fn run(at: &str, topic: &str) -> Outcome<Vec<String>> {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", at).create()?;
    let record = FutureRecord::to(topic).key("customer-7").payload("42 EUR");
    let stored = producer.send(record, Duration::from_secs(10)).await.map_err(|(e, _)| e)?;

    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", at)
        .set("group.id", format!("{topic}-billing"))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()?;
    consumer.subscribe(&[topic])?;
    let message = consumer.recv().await?;
    first_record();
    let value = message.payload_view::<str>().transpose()?.unwrap_or_default();
    let result = format!("{}@{} {value}", stored.partition, stored.offset);
    consumer.commit_message(&message, CommitMode::Sync)?;
    Ok(vec![result])
}
