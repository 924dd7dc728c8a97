//! A producer whose buffer is full.

use std::thread;
use std::time::Duration;

use quipu::testing::ManualClock;
use quipu::{Broker, BrokerConfig, Error, Producer, ProducerConfig, Record, TopicConfig};

const SMALL: usize = 16 << 10;

fn lingering(broker: &Broker, name: &str) -> Producer {
    let config = ProducerConfig::new().batch_bytes(4 << 10).buffer_bytes(SMALL).name(name);
    broker.producer_with(config.linger(Duration::from_secs(3_600))).unwrap()
}

fn manual(partitions: u32) -> Broker {
    let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    broker
}

fn stored(broker: &Broker) -> u64 {
    let partitions = broker.topic("t").unwrap().partitions();
    partitions.iter().map(|partition| partition.bounds().unwrap().log_end.get()).sum()
}

fn keyed(number: usize) -> Record<'static> {
    Record::new(vec![7; 300]).key(number.to_string())
}

/// Without a timer, and under a clock that stands still: the sender itself writes.
#[test]
fn one_thread_alone_is_never_refused() {
    let broker = manual(64);
    let producer = lingering(&broker, "p");
    (0..2_000).for_each(|number| producer.send("t", keyed(number)).unwrap().detach());
    assert!(stored(&broker) > 1_000);
    producer.flush().unwrap();
    assert_eq!(stored(&broker), 2_000);
}

#[test]
fn many_threads_that_send_more_than_the_buffer_holds_are_never_refused() {
    let broker = Broker::in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new().partitions(4)).unwrap();
    for (threads, size, buffer) in [(8, 1_000, 64 << 10), (8, 90_000, 100 << 10), (2, 100, 64 << 10)] {
        let before = stored(&broker);
        let producer = broker.producer_with(ProducerConfig::new().buffer_bytes(buffer)).unwrap();
        let each = 2_000_000 / size;
        thread::scope(|scope| {
            for thread in 0..threads {
                let (producer, value) = (&producer, vec![7; size]);
                scope.spawn(move || {
                    for number in 0..each {
                        let record = Record::new(&value).key((thread + number).to_string());
                        producer.send("t", record).unwrap().detach();
                    }
                });
            }
        });
        producer.flush().unwrap();
        assert_eq!(stored(&broker) - before, (threads * each) as u64);
    }
}

#[test]
fn try_send_writes_nothing_and_gives_the_record_back() {
    let broker = manual(64);
    let producer = lingering(&broker, "sensor-7");
    let mut taken = 0;
    let refused = loop {
        match producer.try_send("t", keyed(taken)) {
            Ok(sent) => sent.detach(),
            Err(refused) => break refused,
        }
        taken += 1;
    };
    // Every batch is open, because none is full.
    assert_eq!(stored(&broker), 0);
    assert!(
        matches!(refused.cause(), Error::BufferFull { producer, used, limit: SMALL, .. }
            if producer.as_deref() == Some("sensor-7") && *used >= SMALL),
        "{refused:?}"
    );
    let text = refused.to_string();
    assert!(text.starts_with("the buffer of producer \"sensor-7\" is full: "), "{text}");
    let record = refused.into_record();
    assert_eq!(record.key_bytes(), Some(taken.to_string().as_bytes()));
    producer.flush().unwrap();
    let receipt = producer.try_send("t", record).unwrap().wait().unwrap();
    assert_eq!(stored(&broker), taken as u64 + 1);
    assert_eq!(receipt.topic, "t");
}

#[test]
fn try_send_gives_the_record_back_with_every_other_error_too() {
    let broker = manual(1);
    let refused = broker.producer().try_send("missing", Record::new("v")).unwrap_err();
    assert!(matches!(refused.cause(), Error::UnknownTopic { topic, .. } if topic == "missing"));
    assert_eq!(refused.into_record().value_bytes(), Some(&b"v"[..]));
    broker.close().unwrap();
    let refused = broker.producer().try_send("t", Record::new("v")).unwrap_err();
    assert!(matches!(refused.into_cause(), Error::Closed));
}
