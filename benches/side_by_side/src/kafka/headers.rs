use std::time::Duration;

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};

use crate::{Outcome, first_record};

fn consumer(at: &str, topic: &str) -> Outcome<StreamConsumer> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", at)
        .set("group.id", format!("{topic}-readers"))
        .set("auto.offset.reset", "earliest")
        .create()?;
    consumer.subscribe(&[topic])?;
    Ok(consumer)
}

pub async fn run(at: &str, topic: &str) -> Outcome<Vec<String>> {
    let copies = format!("{topic}.copies");
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", at).create()?;
    let headers = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some("abc") })
        .insert(Header { key: "attempt", value: Some("1") })
        .insert(Header::<&[u8]> { key: "empty", value: None });
    let record = FutureRecord::<(), _>::to(topic).payload("42 EUR").headers(headers);
    producer.send(record, Duration::from_secs(10)).await.map_err(|(e, _)| e)?;

    // Forwarded with one header replaced.
    let messages = consumer(at, topic)?;
    let message = messages.recv().await?;
    first_record();
    let mut headers = OwnedHeaders::new();
    for header in message.headers().ok_or("no headers")?.iter() {
        let value = if header.key == "attempt" { Some(&b"2"[..]) } else { header.value };
        headers = headers.insert(Header { key: header.key, value });
    }
    let record =
        FutureRecord::<(), _>::to(&copies).payload(message.payload().unwrap_or_default()).headers(headers);
    producer.send(record, Duration::from_secs(10)).await.map_err(|(e, _)| e)?;

    let copies = consumer(at, &copies)?;
    let copy = copies.recv().await?;
    let mut lines = Vec::new();
    for header in copy.headers().ok_or("no headers")?.iter() {
        lines.push(format!("{}: {:?}", header.key, header.value.map(std::str::from_utf8).transpose()?));
    }
    lines.sort();
    Ok(lines)
}
