//! The feature `bytes`: keys and values as `Bytes`, in and out without a copy.

#![cfg(feature = "bytes")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;
use quipu::{Broker, Record, Start, TopicConfig};

#[test]
fn bytes_that_no_other_shares_become_a_record_without_a_copy() {
    let bytes = Bytes::from(vec![7; 100]);
    let at = bytes.as_ptr();
    assert_eq!(Record::new(&bytes).value_bytes().unwrap().as_ptr(), at);
    let record = Record::new(bytes).key(Bytes::from_static(b"key"));
    assert_eq!(record.value_bytes().unwrap().as_ptr(), at);
    assert_eq!(record.key_bytes(), Some(&b"key"[..]));
    assert_eq!(Record::new(None::<Bytes>).value_bytes(), None);
}

#[test]
fn keys_and_values_share_the_buffer_of_their_record() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    let producer = broker.producer();
    producer.send(&topic, Record::new("42 EUR").key("k")).unwrap().wait().unwrap();
    producer.send(&topic, Record::new("").key("")).unwrap().wait().unwrap();
    producer.send(&topic, Record::null()).unwrap().wait().unwrap();
    let records = topic.partition(0).unwrap().read(Start::Beginning, 1 << 20).unwrap();
    let records: Vec<_> = records.iter().map(|record| record.into_owned()).collect();
    let (key, value) = (records[0].shared_key().unwrap(), records[0].shared_value().unwrap());
    assert_eq!(value.as_ptr(), records[0].value().unwrap().as_ptr());
    assert_eq!(key.as_ptr(), records[0].key().unwrap().as_ptr());
    assert_eq!(records[1].shared_key().unwrap(), "");
    assert_eq!((records[2].shared_key(), records[2].shared_value()), (None, None));
    // They keep the buffer alive.
    drop((records, topic, producer, broker));
    assert_eq!((&key[..], value.slice(3..)), (&b"k"[..], Bytes::from_static(b"EUR")));
}
