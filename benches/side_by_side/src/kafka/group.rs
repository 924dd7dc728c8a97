use std::time::Duration;

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaResult;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};

use crate::{Outcome, first_record};

fn member(at: &str, topic: &str) -> KafkaResult<StreamConsumer> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", at)
        .set("group.id", format!("{topic}-workers"))
        .set("auto.offset.reset", "earliest")
        .create()?;
    consumer.subscribe(&[topic])?;
    Ok(consumer)
}

pub async fn run(at: &str, topic: &str) -> Outcome<Vec<String>> {
    let (first, second) = (member(at, topic)?, member(at, topic)?);
    // The rebalances happen while both are polled.
    while (first.assignment()?.count(), second.assignment()?.count()) != (2, 2) {
        let both = async { tokio::join!(first.recv(), second.recv()) };
        let _ = tokio::time::timeout(Duration::from_millis(20), both).await;
    }
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", at).create()?;
    for n in 0..100 {
        let value = n.to_string();
        let record = FutureRecord::<(), _>::to(topic).partition(n % 4).payload(&value);
        producer.send(record, Duration::from_secs(10)).await.map_err(|(e, _)| e)?;
    }
    let mut values = [Vec::new(), Vec::new()];
    while values[0].len() + values[1].len() < 100 {
        let (message, values) = tokio::select! {
            message = first.recv() => (message?, &mut values[0]),
            message = second.recv() => (message?, &mut values[1]),
        };
        first_record();
        values.push(message.payload_view::<str>().transpose()?.unwrap_or_default().parse::<u32>()?);
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
