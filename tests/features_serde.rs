//! The feature `serde`: forms that are stored, values of records, and a typed view of a topic.

#![cfg(feature = "serde")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use quipu::{
    Broker, BrokerConfig, Cleanup, Codec, Compression, Durability, Error, GroupId, Offset, PartitionId,
    Position, ProducerConfig, ReadMode, Receipt, Record, Records, Retention, Start, Timestamp, TimestampType,
    Topic, TopicConfig, TopicId, TopicName, TopicPartition, Version,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The JSON of a value, which must be `json`, and the value read from that.
fn through<T: Serialize + DeserializeOwned>(value: &T, json: &str) -> T {
    assert_eq!(serde_json::to_string(value).unwrap(), json);
    serde_json::from_str(json).unwrap()
}

fn read_all(topic: &Topic) -> Records {
    topic.partition(0).unwrap().read(Start::Beginning, 1 << 20).unwrap()
}

#[test]
fn words_are_stored_as_numbers_and_texts() {
    let name: TopicName = "orders".parse().unwrap();
    assert_eq!(through(&name, r#""orders""#), name);
    let group: GroupId = "billing".parse().unwrap();
    assert_eq!(through(&group, r#""billing""#), group);
    assert_eq!(through(&Offset::new(u64::MAX), "18446744073709551615"), Offset::new(u64::MAX));
    assert_eq!(through(&PartitionId::new(7), "7"), PartitionId::new(7));
    assert_eq!(through(&Timestamp::from_millis(-5), "-5"), Timestamp::from_millis(-5));
    let position = Position::new(name.clone(), 2, 17, 3);
    assert_eq!(through(&position, r#""orders/2@17#3""#), position);
    let partition = TopicPartition::new(name, 2);
    assert_eq!(through(&partition, r#"{"topic":"orders","partition":2}"#), partition);
    // A version is equal to another one without its epoch.
    let version: Version = "10@e3".parse().unwrap();
    assert_eq!(through(&version, r#""10@e3""#).epoch(), Some(3));
}

#[test]
fn what_is_no_such_word_is_refused_with_the_rule() {
    let told = |error: serde_json::Error, part: &str| assert!(error.to_string().contains(part), "{error}");
    told(serde_json::from_str::<TopicName>(r#""a b""#).unwrap_err(), "not a valid topic name");
    told(serde_json::from_str::<Position>(r#""a/1""#).unwrap_err(), "topic/partition@offset#epoch");
    told(
        serde_json::from_str::<TopicId>(r#""+0000000000000000000000000000001""#).unwrap_err(),
        "32 hexadecimal",
    );
    told(serde_json::from_str::<Offset>("-1").unwrap_err(), "u64");
}

#[test]
fn a_receipt_and_a_topics_id_come_back() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    let receipt = broker.producer().send(&topic, Record::new("v")).unwrap().wait().unwrap();
    let json = serde_json::to_string(&receipt).unwrap();
    assert_eq!(serde_json::from_str::<Receipt>(&json).unwrap(), receipt);
    let id = topic.id();
    assert_eq!(through(&id, &format!("\"{id}\"")), id);
}

#[test]
fn every_setting_of_a_topic_is_stored() {
    let ms = Duration::from_millis;
    let config = TopicConfig::new()
        .partitions(2)
        .compression(Compression::Lz4)
        .durability(Durability::Interval(ms(7)))
        .segment_bytes(5_000)
        .segment_age(ms(1))
        .max_record_bytes(3_000)
        .index_interval_bytes(4_000)
        .timestamps(TimestampType::Append)
        .timestamp_bounds(Some(ms(2)), None)
        .retention(Retention::for_age(ms(3)).and_bytes(6_000))
        .retention_holds_for(["b", "a"])
        .cleanup(Cleanup::Compact)
        .min_cleanable_dirty_ratio(0.25)
        .delete_retention(ms(4))
        .min_compaction_lag(ms(5))
        .max_compaction_lag(ms(6));
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<TopicConfig>(&json).unwrap(), config);
    let streams = TopicConfig::streams();
    let json = serde_json::to_string(&streams).unwrap();
    assert_eq!(serde_json::from_str::<TopicConfig>(&json).unwrap(), streams);
}

#[test]
fn settings_left_out_have_their_defaults_and_unknown_ones_are_refused() {
    let read = |json: &str| serde_json::from_str::<TopicConfig>(json);
    assert_eq!(read("{}").unwrap(), TopicConfig::new());
    assert_eq!(read(r#"{"streams": true}"#).unwrap(), TopicConfig::streams());
    let small =
        read(r#"{"segment_bytes": 65536, "durability": "sync", "timestamp_bounds": {"before_ms": 9}}"#);
    let bounds = (Some(Duration::from_millis(9)), Some(Duration::from_secs(3600)));
    let expected = TopicConfig::new().segment_bytes(65536).durability(Durability::Sync);
    assert_eq!(small.unwrap(), expected.timestamp_bounds(bounds.0, bounds.1));
    assert!(read(r#"{"partition": 3}"#).unwrap_err().to_string().contains("partition"));

    let broker: BrokerConfig =
        serde_json::from_str(r#"{"durability": {"interval_ms": 5}, "read_mode": "checked"}"#).unwrap();
    assert_eq!(broker.get_durability(), Durability::Interval(Duration::from_millis(5)));
    assert_eq!((broker.get_read_mode(), broker.get_sync_threads()), (ReadMode::Checked, 8));
    let again: BrokerConfig = serde_json::from_str(&serde_json::to_string(&broker).unwrap()).unwrap();
    assert_eq!(again.get_durability(), broker.get_durability());

    let producer = ProducerConfig::new().name("outbox").linger(Duration::from_millis(20));
    let json = serde_json::to_string(&producer).unwrap();
    let again: ProducerConfig = serde_json::from_str(&json).unwrap();
    assert_eq!((again.get_name(), again.get_linger()), (Some("outbox"), Duration::from_millis(20)));
}

#[test]
fn statistics_are_stored() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    broker.producer().send(&topic, Record::new("v")).unwrap().wait().unwrap();
    let stats = serde_json::to_value(broker.stats()).unwrap();
    assert_eq!(stats["disk"], "ok");
    assert_eq!(stats["topics"][0]["name"], "t");
    let partition = &stats["topics"][0]["partitions"][0];
    assert_eq!((&partition["records_appended"], &partition["bounds"]["log_end"]), (&1.into(), &1.into()));
    assert!(partition["poisoned"].is_null());
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Order {
    item: String,
    cents: u64,
}

fn order(n: u64) -> Order {
    Order { item: format!("item {n}"), cents: n }
}

#[test]
fn a_value_that_cannot_be_read_is_an_error_with_its_position_and_the_next_ones_follow() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("orders", TopicConfig::new()).unwrap();
    let other = broker.create_topic("other", TopicConfig::new()).unwrap();
    let (orders, producer) = (topic.typed::<Order>(), broker.producer());
    orders.send(&producer, "a", &order(0)).unwrap().wait().unwrap();
    producer.send(&topic, Record::new("{\"item\": 7}").key("b")).unwrap().wait().unwrap();
    producer.send(&topic, Record::tombstone("c")).unwrap().wait().unwrap();
    producer.send(&other, Record::new("of another topic")).unwrap().wait().unwrap();
    orders.send(&producer, None::<&str>, &order(3)).unwrap().wait().unwrap();

    let mut consumer = broker.consumer("g").subscribe(["orders", "other"]).unwrap();
    let mut read = Vec::new();
    while read.len() < 4 {
        let records = consumer.poll(Duration::from_secs(5)).unwrap();
        read.extend(orders.values(&records).map(|(record, value)| (record.position(), value)));
        consumer.commit(&records).unwrap();
    }
    let offsets: Vec<u64> = read.iter().map(|(position, _)| position.offset.get()).collect();
    assert_eq!(offsets, [0, 1, 2, 3]);
    assert_eq!(read[0].1.as_ref().unwrap().as_ref(), Some(&order(0)));
    let Err(bad @ Error::Decode { position, source, .. }) = &read[1].1 else { panic!("{:?}", read[1]) };
    assert_eq!(position, &read[1].0);
    assert!(bad.to_string().starts_with("cannot decode the value of the record at orders/0@1#0: "), "{bad}");
    assert!(source.downcast_ref::<serde_json::Error>().is_some());
    assert_eq!(read[2].1.as_ref().unwrap(), &None);
    assert_eq!(read[3].1.as_ref().unwrap().as_ref(), Some(&order(3)));
}

#[test]
fn values_are_read_from_borrowed_and_owned_records() {
    #[derive(Deserialize)]
    struct Borrowed<'a> {
        item: &'a str,
    }
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    let producer = broker.producer();
    producer.send(&topic, Record::json(&order(1)).unwrap().key("k")).unwrap().wait().unwrap();
    producer.send(&topic, Record::tombstone("k")).unwrap().wait().unwrap();
    let records = read_all(&topic);
    let mut records = records.iter();
    let (first, last) = (records.next().unwrap(), records.next().unwrap().into_owned());
    assert_eq!(first.json::<Borrowed<'_>>().unwrap().item, "item 1");
    assert_eq!(first.into_owned().detach().json::<Order>().unwrap(), order(1));
    assert_eq!(last.json::<Option<Order>>().unwrap(), None);
    assert!(matches!(last.json::<Order>(), Err(Error::Decode { .. })));
}

#[test]
fn a_value_without_json_is_not_sent() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    type Pairs = std::collections::BTreeMap<(u8, u8), u8>;
    let no_json = Pairs::from([((1, 2), 3)]);
    assert!(matches!(Record::json(&no_json), Err(Error::Encode { .. })));
    let sent = topic.typed_with::<Pairs, _>(PairCodec).send(&broker.producer(), "k", &no_json);
    assert!(matches!(sent, Err(Error::Encode { .. })));
    assert!(read_all(&topic).is_empty());
}

/// JSON, which has no maps with such keys.
struct PairCodec;

impl<T: Serialize> Codec<T> for PairCodec {
    fn encode(&self, value: &T) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(serde_json::to_vec(value)?)
    }

    fn decode(&self, _: &[u8]) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
        Err("it is not read".into())
    }
}
