use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};

use crate::{Outcome, first_record};

const PATIENCE: Duration = Duration::from_secs(10);

/// The code to test: adds the orders of each customer up.
async fn add_up(orders: &StreamConsumer, totals: &FutureProducer, count: usize) -> Outcome<()> {
    let mut sums = BTreeMap::<String, u32>::new();
    for _ in 0..count {
        let order = orders.recv().await?;
        first_record();
        let customer = order.key_view::<str>().transpose()?.unwrap_or_default();
        let sum = sums.entry(customer.to_string()).or_default();
        *sum += order.payload_view::<str>().transpose()?.unwrap_or_default().parse::<u32>()?;
        let value = sum.to_string();
        let record = FutureRecord::to("totals").key(customer).payload(&value);
        totals.send(record, PATIENCE).await.map_err(|(e, _)| e)?;
        orders.commit_message(&order, CommitMode::Sync)?;
    }
    Ok(())
}

fn consumer(at: &str, topic: &str) -> Outcome<StreamConsumer> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", at)
        .set("group.id", format!("readers-of-{topic}"))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()?;
    consumer.subscribe(&[topic])?;
    Ok(consumer)
}

pub async fn run(_: &str, _: &str) -> Outcome<Vec<String>> {
    // librdkafka's mock of a cluster, in the process.
    let cluster = MockCluster::new(1)?;
    let at = cluster.bootstrap_servers();
    for topic in ["orders", "totals"] {
        cluster.create_topic(topic, 1, 1)?;
    }
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &at).create()?;
    for (customer, cents) in [("ada", "3"), ("ben", "5"), ("ada", "4")] {
        let record = FutureRecord::to("orders").key(customer).payload(cents);
        producer.send(record, PATIENCE).await.map_err(|(e, _)| e)?;
    }
    add_up(&consumer(&at, "orders")?, &producer, 3).await?;

    let (totals, mut lines) = (consumer(&at, "totals")?, Vec::new());
    for _ in 0..3 {
        let total = totals.recv().await?;
        let customer = total.key_view::<str>().transpose()?.unwrap_or_default();
        lines.push(format!("{customer} {}", total.payload_view::<str>().transpose()?.unwrap_or_default()));
    }
    Ok(lines)
}
