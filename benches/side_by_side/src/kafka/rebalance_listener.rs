use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};

use crate::{Outcome, first_record};

struct Listener {
    name: &'static str,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    fn note(&self, what: &str, partitions: usize) {
        if partitions > 0 {
            self.calls.lock().unwrap().push(format!("{} {what} {partitions}", self.name));
        }
    }
}

impl ClientContext for Listener {}

impl ConsumerContext for Listener {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(partitions) = rebalance {
            self.note("revoked", partitions.count());
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.note("assigned", partitions.count());
        }
    }
}

pub async fn run(at: &str, topic: &str) -> Outcome<Vec<String>> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let member = |name| -> Outcome<StreamConsumer<Listener>> {
        let config = ClientConfig::new()
            .set("bootstrap.servers", at)
            .set("group.id", format!("{topic}-workers"))
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .clone();
        let listener = Listener { name, calls: calls.clone() };
        let consumer = StreamConsumer::from_config_and_context(&config, listener)?;
        consumer.subscribe(&[topic])?;
        Ok(consumer)
    };
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", at).create()?;
    let record = FutureRecord::<(), _>::to(topic).payload("a job");
    producer.send(record, Duration::from_secs(10)).await.map_err(|(e, _)| e)?;
    let ada = member("ada")?;
    let job = ada.recv().await?.payload().map(<[u8]>::len);
    first_record();
    let ben = member("ben")?;
    while (ada.assignment()?.count(), ben.assignment()?.count()) != (2, 2) {
        let both = async { tokio::join!(ada.recv(), ben.recv()) };
        let _ = tokio::time::timeout(Duration::from_millis(20), both).await;
    }
    let mut lines = calls.lock().unwrap().clone();
    lines.push(format!("job of {job:?} bytes"));
    Ok(lines)
}
