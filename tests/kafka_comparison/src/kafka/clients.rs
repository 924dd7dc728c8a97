//! The clients that a worker keeps for all its histories, and the settings of all clients.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::types::RDKafkaRespErr;

/// How long any call to the broker may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What became of a record: its partition and offset, or why it was refused.
pub type Delivery = Result<(i32, i64), KafkaError>;

/// The records of the current call that were delivered or refused, with their numbers.
#[derive(Default)]
pub struct Deliveries(Mutex<Vec<(usize, Delivery)>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let delivery = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((number, delivery));
    }
}

impl Deliveries {
    pub fn take(&self) -> Vec<(usize, Delivery)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub struct Clients {
    bootstrap: String,
    /// How long a member may be silent. At least the broker's `group.min.session.timeout.ms`.
    session: Duration,
    pub admin: AdminClient<DefaultClientContext>,
    /// For watermarks, times and metadata.
    pub lookup: BaseConsumer,
    pub idempotent: BaseProducer<Deliveries>,
    pub plain: BaseProducer<Deliveries>,
}

impl Clients {
    pub fn new(bootstrap: &str, session: Duration) -> Result<Self> {
        let base = base(bootstrap);
        let clients = Clients {
            bootstrap: bootstrap.to_string(),
            session,
            admin: AdminClient::from_config(&base).context("an admin client")?,
            lookup: base.create().context("a consumer")?,
            idempotent: producer(bootstrap)
                .set("enable.idempotence", "true")
                .create_with_context(Deliveries::default())?,
            plain: producer(bootstrap).create_with_context(Deliveries::default())?,
        };
        clients
            .lookup
            .fetch_metadata(None, PATIENCE)
            .with_context(|| format!("no Kafka answers at {bootstrap}"))?;
        Ok(clients)
    }

    pub fn options(&self) -> AdminOptions {
        AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
    }

    /// Settings of a consumer. It reads committed records only and commits when it is told to.
    pub fn consumer(&self, group: &str, client: &str, reset: &str) -> ClientConfig {
        let mut config = base(&self.bootstrap);
        let session = self.session.as_millis();
        config
            .set("group.id", group)
            .set("client.id", client)
            .set("auto.offset.reset", reset)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("session.timeout.ms", session.to_string())
            .set("heartbeat.interval.ms", (session / 8).to_string())
            // A member that stops polling leaves after this time.
            .set("max.poll.interval.ms", (session * 4).to_string())
            .set("topic.metadata.refresh.interval.ms", "300")
            .set("fetch.wait.max.ms", "20")
            .set("fetch.error.backoff.ms", "20");
        config
    }

    pub fn transactional(&self, id: &str) -> Result<BaseProducer<Deliveries>> {
        let mut config = producer(&self.bootstrap);
        let producer: BaseProducer<Deliveries> =
            config.set("transactional.id", id).create_with_context(Deliveries::default())?;
        producer.init_transactions(PATIENCE)?;
        Ok(producer)
    }

    /// Waits until every partition of a new topic has a leader.
    pub fn wait_for_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        for _ in 0..200 {
            let metadata = self.lookup.fetch_metadata(Some(topic), PATIENCE)?;
            let is_ready = metadata.topics().iter().any(|found| {
                found.name() == topic
                    && found.error().is_none()
                    && found.partitions().len() >= partitions as usize
                    && found.partitions().iter().all(|of| of.leader() >= 0)
            });
            if is_ready {
                // The producers may know the topic with fewer partitions.
                self.idempotent.client().fetch_metadata(Some(topic), PATIENCE)?;
                self.plain.client().fetch_metadata(Some(topic), PATIENCE)?;
                // The broker may still refuse calls for a partition whose leader it has just become.
                return (0..i32::try_from(partitions)?)
                    .try_for_each(|of| self.watermarks(topic, of).map(drop));
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        bail!("topic {topic} has no leaders after 5 seconds")
    }

    /// The first offset of a partition, and its end. Tries again while a new topic has no leader.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        let mut tries = 0;
        loop {
            match self.lookup.fetch_watermarks(topic, partition, PATIENCE) {
                Ok(found) => return Ok(found),
                Err(error) if tries < 50 && error.rdkafka_error_code().is_some_and(is_trouble) => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The number of partitions of a topic; `None` if there is no such topic.
    pub fn partitions(&self, topic: &str) -> Result<Option<u32>> {
        let metadata = self.lookup.fetch_metadata(Some(topic), PATIENCE)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let known = found
            .filter(|found| found.error() != Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART));
        Ok(known.map(|found| found.partitions().len() as u32).filter(|count| *count > 0))
    }
}

fn base(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("allow.auto.create.topics", "false")
        .set("socket.nagle.disable", "true")
        .set("retry.backoff.ms", "50")
        .set("reconnect.backoff.ms", "50")
        .set("topic.metadata.refresh.fast.interval.ms", "50")
        // The broker's limits are compared, not the client's.
        .set("message.max.bytes", "100000000");
    config
}

fn producer(bootstrap: &str) -> ClientConfig {
    let mut config = base(bootstrap);
    config
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "20")
        .set("message.timeout.ms", "15000")
        .set("topic.metadata.propagation.max.ms", "2000");
    config
}

/// Whether an error says nothing about the broker's rules, for example a timeout.
pub fn is_trouble(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::Resolve
            | Code::MessageTimedOut
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::RequestTimedOut
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerNotAvailable
            | Code::NetworkException
            | Code::WaitingForCoordinator
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
    )
}
