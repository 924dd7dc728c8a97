//! The text beside a committed offset is bounded, as on Kafka (`offset.metadata.max.bytes`).

use std::time::Duration;

use quipu::{Broker, Consumer, Error, Offsets, Position, Record, RejectReason, TopicConfig, TopicPartition};

use crate::common::send;

fn broker() -> (Broker, Consumer) {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    for partition in topic.partitions() {
        send(&broker, &partition, "a").unwrap();
    }
    let consumer = broker.consumer("g").assign(&topic.partitions()).unwrap();
    (broker, consumer)
}

fn position(text: &str) -> Position {
    text.parse().unwrap()
}

fn is_too_large(error: &Error, partition: u32) -> bool {
    matches!(error, Error::CommitRejected { offenders, .. } if matches!(&offenders[..], [offender]
        if TopicPartition::new(offender.topic.clone(), offender.partition).to_string() == format!("t/{partition}")
            && matches!(offender.reason, RejectReason::MetadataTooLarge { size: 4097, limit: 4096, .. })))
}

#[test]
fn metadata_of_4096_bytes_is_stored_and_one_byte_more_rejects_the_whole_commit() {
    let (_broker, consumer) = broker();
    assert_eq!(Offsets::MAX_METADATA_BYTES, 4096);
    // Bytes count, not characters.
    let (most, more) = ("\u{fc}".repeat(2048), format!("{}x", "\u{fc}".repeat(2048)));
    consumer.commit(consumer.offsets_at([&position("t/0@1#0")]).metadata(&most)).unwrap();
    assert_eq!(consumer.committed("t", 0).unwrap().unwrap().metadata, most);
    // The offset of the other partition has a short text: it is not stored either.
    let mut done = Offsets::new();
    done.add(consumer.offsets_at([position("t/1@1#0")]).metadata(&more));
    done.add(consumer.offsets_at([position("t/0@0#0")]));
    let error = consumer.commit(&done).unwrap_err();
    assert!(is_too_large(&error, 1), "{error:?}");
    assert!(error.to_string().contains("t/1 at offset 1: its metadata has 4097 bytes"), "{error}");
    assert_eq!(consumer.committed("t", 0).unwrap().unwrap().offset, 1);
    assert_eq!(consumer.committed("t", 1).unwrap(), None);
}

#[test]
fn a_transaction_whose_offsets_have_too_much_metadata_appends_nothing() {
    let (broker, consumer) = broker();
    let topic = broker.topic("t").unwrap();
    let mut transaction = broker.transaction();
    transaction.send(topic.partition(0).unwrap(), Record::new("b"));
    transaction.offsets(&consumer, consumer.offsets_at([&position("t/0@1#0")]).metadata(&"m".repeat(4097)));
    let error = transaction.commit().unwrap_err();
    assert!(is_too_large(&error, 0), "{error:?}");
    assert_eq!(topic.partition(0).unwrap().bounds().unwrap().log_end, 1);
    assert_eq!(consumer.committed("t", 0).unwrap(), None);
    drop(consumer);
    let mut next = broker.consumer("g").subscribe(["t"]).unwrap();
    assert_eq!(next.poll(Duration::ZERO).unwrap().len(), 2);
}
