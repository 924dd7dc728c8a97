use std::time::Duration;

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{ClientConfig, Message};

use crate::{Outcome, first_record};

const PATIENCE: Duration = Duration::from_secs(10);

fn consumer(at: &str, group: String, topic: &str) -> Outcome<StreamConsumer> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", at)
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()?;
    consumer.subscribe(&[topic])?;
    Ok(consumer)
}

/// Transforms ten records. If it dies, it does so before the commit.
async fn transform(at: &str, topic: &str, out: &str, dies: bool) -> Outcome<()> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", at)
        .set("transactional.id", format!("{topic}-doubler"))
        .create()?;
    producer.init_transactions(PATIENCE)?; // ends the transaction of an earlier run
    let consumer = consumer(at, format!("{topic}-doubler"), topic)?;
    producer.begin_transaction()?;
    for _ in 0..10 {
        let message = consumer.recv().await?;
        first_record();
        let number: u32 = message.payload_view::<str>().transpose()?.unwrap_or_default().parse()?;
        let value = (2 * number).to_string();
        let record = FutureRecord::<(), _>::to(out).payload(&value);
        producer.send(record, PATIENCE).await.map_err(|(e, _)| e)?;
    }
    let group = consumer.group_metadata().ok_or("no group")?;
    producer.send_offsets_to_transaction(&consumer.position()?, &group, PATIENCE)?;
    if !dies {
        producer.commit_transaction(PATIENCE)?;
    }
    Ok(())
}

pub async fn run(at: &str, topic: &str) -> Outcome<Vec<String>> {
    let out = format!("{topic}.out");
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", at).create()?;
    for n in 0..10 {
        let value = n.to_string();
        let record = FutureRecord::<(), _>::to(topic).payload(&value);
        producer.send(record, PATIENCE).await.map_err(|(e, _)| e)?;
    }
    transform(at, topic, &out, true).await?;
    transform(at, topic, &out, false).await?;

    let consumer = consumer(at, format!("{topic}-check"), &out)?;
    let mut values = Vec::new();
    while let Ok(message) = tokio::time::timeout(Duration::from_secs(1), consumer.recv()).await {
        values.push(message?.payload_view::<str>().transpose()?.unwrap_or_default().to_string());
        if values.len() == 10 {
            break;
        }
    }
    Ok(values)
}
