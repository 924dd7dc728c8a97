use std::collections::BTreeMap;

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};

use crate::{Outcome, first_record};

pub async fn run(at: &str, topic: &str) -> Outcome<Vec<String>> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", at)
        .set("compression.type", "lz4")
        .set("partitioner", "murmur2_random")
        .create()?;
    let mut sent = Vec::new();
    for n in 0..1000 {
        let (key, value) = (format!("sensor-{}", n % 10), n.to_string());
        sent.push(
            producer.send_result(FutureRecord::to(topic).key(&key).payload(&value)).map_err(|(e, _)| e)?,
        );
    }
    for delivery in sent {
        delivery.await?.map_err(|(e, _)| e)?;
    }

    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", at)
        .set("group.id", format!("{topic}-readers"))
        .set("auto.offset.reset", "earliest")
        .create()?;
    consumer.subscribe(&[topic])?;
    let mut by_key = BTreeMap::<String, (i32, Vec<u32>)>::new();
    for _ in 0..1000 {
        let message = consumer.recv().await?;
        first_record();
        let key = message.key_view::<str>().transpose()?.unwrap_or_default();
        let value = message.payload_view::<str>().transpose()?.unwrap_or_default();
        let (partition, values) = by_key.entry(key.to_string()).or_default();
        *partition = message.partition();
        values.push(value.parse()?);
    }
    let lines = by_key.into_iter().map(|(key, (partition, values))| {
        format!("{key}: {} in partition {partition}, sorted: {}", values.len(), values.is_sorted())
    });
    Ok(lines.collect())
}
