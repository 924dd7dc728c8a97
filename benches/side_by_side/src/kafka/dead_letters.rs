use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{Header, Headers};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};

use crate::{Outcome, first_record};

const PATIENCE: Duration = Duration::from_secs(10);

fn consumer(at: &str, topic: &str) -> Outcome<StreamConsumer> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", at)
        .set("group.id", format!("{topic}-workers"))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()?;
    consumer.subscribe(&[topic])?;
    Ok(consumer)
}

pub async fn run(at: &str, topic: &str) -> Outcome<Vec<String>> {
    let dead = format!("{topic}.dead");
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", at).create()?;
    for job in ["1", "two", "3", "four", "5"] {
        let record = FutureRecord::to(topic).key(job).payload(job);
        producer.send(record, PATIENCE).await.map_err(|(e, _)| e)?;
    }

    let (jobs, mut sum) = (consumer(at, topic)?, 0);
    for _ in 0..5 {
        let message = jobs.recv().await?;
        first_record();
        let job = message.payload_view::<str>().transpose()?.unwrap_or_default();
        match job.parse::<u32>() {
            Ok(number) => sum += number,
            Err(e) => {
                let why = e.to_string();
                let mut headers = message.headers().map(|all| all.detach()).unwrap_or_default();
                headers = headers.insert(Header { key: "error", value: Some(&why) });
                let key = message.key().unwrap_or_default();
                let record = FutureRecord::to(&dead).key(key).payload(job).headers(headers);
                producer.send(record, PATIENCE).await.map_err(|(e, _)| e)?;
            }
        }
        // After a crash before this line the letter is sent twice.
        jobs.commit_message(&message, CommitMode::Sync)?;
    }

    let (letters, mut lines) = (consumer(at, &dead)?, vec![format!("sum {sum}")]);
    for _ in 0..2 {
        let letter = letters.recv().await?;
        let error = letter.headers().and_then(|all| all.iter().find(|one| one.key == "error")?.value);
        let error = error.map(std::str::from_utf8).transpose()?.unwrap_or_default();
        lines.push(format!("{}: {error}", letter.payload_view::<str>().transpose()?.unwrap_or_default()));
    }
    Ok(lines)
}
