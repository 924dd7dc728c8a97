//! The calls that a new user writes first. That they compile is half of the test; the documentation
//! of the crate's traits has those that are refused, and the compiler's text for them.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use quipu::{
    Broker, ConsumedRecord, Consumer, Durability, Error, ExpectedVersion, GroupId, Offset, Offsets,
    OwnedRecord, PartitionId, Position, Producer, ProducerConfig, ReadModel, Record, Records, Retention,
    Start, Timestamp, Topic, TopicConfig, TopicName, Transaction,
};

const NOW: Duration = Duration::ZERO;

fn broker(partitions: u32) -> (Broker, Topic) {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("orders", TopicConfig::new().partitions(partitions)).unwrap();
    (broker, topic)
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
        std::thread::yield_now();
    }
}

fn send(producer: &Producer, to: impl quipu::Destination, value: &str) -> u64 {
    producer.send(to, Record::new(value)).unwrap().wait().unwrap().offset.into()
}

#[test]
fn a_destination_is_a_handle_or_a_name_borrowed_or_owned() {
    let (broker, topic) = broker(1);
    let producer = broker.producer();
    let partition = topic.partition(0).unwrap();
    let string = String::from("orders");
    let offsets = [
        send(&producer, &topic, "v"),
        send(&producer, topic.clone(), "v"),
        send(&producer, &partition, "v"),
        send(&producer, partition.clone(), "v"),
        send(&producer, "orders", "v"),
        send(&producer, &string, "v"),
        send(&producer, string.clone(), "v"),
        send(&producer, topic.name(), "v"),
        send(&producer, topic.name().clone(), "v"),
        send(&producer, &topic, "v"),
    ];
    assert!(offsets.iter().copied().eq(0..10));
    let two = ["a", "b"].map(Record::new);
    producer.send_all(string, two).unwrap().wait().unwrap();
    let mut transaction = broker.transaction();
    transaction.send(topic.clone(), Record::new("c")).send("orders".to_string(), Record::new("d"));
    assert_eq!(transaction.commit().unwrap().len(), 2);
    assert_eq!(partition.bounds().unwrap().log_end, 14);
}

#[test]
fn an_owned_destination_lives_in_the_future_that_sends() {
    let (broker, topic) = broker(1);
    let producer = broker.producer();
    let sent = [
        block_on(producer.send_async(String::from("orders"), Record::new("a"))),
        block_on(producer.send_async(topic.clone(), Record::new("b"))),
        block_on(producer.send_async(&topic, Record::new("c"))),
    ];
    assert!(sent.into_iter().map(|sent| u64::from(sent.unwrap().offset)).eq(0..3));
}

#[test]
fn keys_and_values_are_the_bytes_and_texts_that_programs_have() {
    let (broker, topic) = broker(1);
    let (producer, id) = (broker.producer(), 7_u64);
    let (absent, present): (Option<&str>, Option<String>) = (None, Some("k".to_string()));
    let shared: Arc<str> = Arc::from("shared");
    let records = [
        Record::new("text").key(absent),
        Record::new("text".to_string()).key(present),
        Record::new(id.to_be_bytes()).key(id.to_string()),
        Record::new(Box::<[u8]>::from(*b"boxed")).key(&shared),
        Record::new(Arc::<[u8]>::from(*b"shared")).key(Cow::Borrowed("k")),
        Record::new(absent).key("deleted"),
    ];
    producer.send_all(&topic, records).unwrap().wait().unwrap();
    let records = topic.partition(0).unwrap().read(Start::Beginning, 1 << 20).unwrap();
    let keys: Vec<_> = records.iter().map(|record| record.key_str()).collect();
    assert_eq!(keys, [None, Some("k"), Some("7"), Some("shared"), Some("k"), Some("deleted")]);
    let values: Vec<_> = records.iter().map(|record| record.value_str()).collect();
    let number = "\0\0\0\0\0\0\0\u{7}";
    assert_eq!(values, [Some("text"), Some("text"), Some(number), Some("boxed"), Some("shared"), None]);
    assert!(records.last().unwrap().is_tombstone());
    for text in ["a", "b"].iter() {
        producer.send(&topic, Record::new(text)).unwrap().detach();
    }
    producer.flush().unwrap();
}

#[test]
fn a_key_or_value_that_is_not_text_has_no_text() {
    let (broker, topic) = broker(1);
    broker.producer().send(&topic, Record::new([0xff]).key([0xfe])).unwrap().wait().unwrap();
    let records = topic.partition(0).unwrap().read(Start::Beginning, 1 << 20).unwrap();
    let record = records.last().unwrap();
    assert_eq!((record.key_str(), record.value_str()), (None, None));
    assert_eq!((record.key(), record.value()), (Some(&[0xfe][..]), Some(&[0xff][..])));
}

#[test]
fn names_are_one_or_several() {
    let (broker, topic) = broker(1);
    let configured = vec!["orders".to_string()];
    let slices: &[&str] = &["orders"];
    let member = || broker.consumer("billing");
    let members: [Consumer; 8] = [
        member().subscribe("orders").unwrap(),
        member().subscribe(["orders"]).unwrap(),
        member().subscribe(["orders"]).unwrap(),
        member().subscribe(slices).unwrap(),
        member().subscribe(&configured).unwrap(),
        member().subscribe(&configured[0]).unwrap(),
        member().subscribe(configured.clone()).unwrap(),
        member().subscribe(topic.name()).unwrap(),
    ];
    for member in &members {
        assert_eq!(member.subscription(), ["orders"]);
    }
    for reader in [
        broker.reader("orders", Start::Beginning).unwrap(),
        broker.reader(["orders", "orders"], Start::Beginning).unwrap(),
        broker.reader(&configured, Start::Beginning).unwrap(),
    ] {
        assert_eq!(reader.positions().len(), 1);
    }
    let group = GroupId::new("billing").unwrap();
    for config in [
        TopicConfig::new().retention_holds_for("billing"),
        TopicConfig::new().retention_holds_for(["billing"]),
        TopicConfig::new().retention_holds_for(&group),
    ] {
        assert_eq!(config.get_retention_holds_for(), ["billing"]);
    }
    let nothing = |_: &ConsumedRecord<'_>, _: &mut Transaction| -> quipu::Result<()> { Ok(()) };
    broker.consumer("copies").project("orders", nothing).unwrap();
    broker.consumer("copies").project(&configured, nothing).unwrap();
    broker.feed("orders", Nothing).unwrap();
    broker.feed(&configured, Nothing).unwrap();
}

struct Nothing;

impl ReadModel for Nothing {
    type Error = Error;

    fn positions(&mut self) -> quipu::Result<Vec<Position>> {
        Ok(Vec::new())
    }

    fn apply(&mut self, _: &Records, _: &[Position]) -> quipu::Result<()> {
        Ok(())
    }
}

#[test]
fn a_commit_takes_records_and_single_ones_borrowed_or_owned() {
    let (broker, topic) = broker(1);
    broker.producer().send_all(&topic, ["a", "b", "c", "d", "e"].map(Record::new)).unwrap().wait().unwrap();
    let mut consumer = broker.consumer("billing").subscribe("orders").unwrap();
    let records = consumer.poll(NOW).unwrap();
    let committed = || u64::from(consumer.committed("orders", 0).unwrap().unwrap().offset);
    for (at, record) in records.iter().enumerate() {
        match at {
            0 => consumer.commit(record).unwrap(),
            1 => consumer.commit(record).unwrap(),
            2 => consumer.commit(record.into_owned()).unwrap(),
            3 => consumer.commit(record.into_owned()).unwrap(),
            _ => consumer.commit_async(record).wait().unwrap(),
        }
        assert_eq!(committed(), at as u64 + 1);
    }
    consumer.commit(records.iter().next().unwrap()).unwrap();
    assert_eq!(committed(), 1);
    consumer.commit(&records).unwrap();
    assert_eq!(committed(), 5);
    consumer.commit(Offsets::new().add(records.iter().next().unwrap())).unwrap();
    assert_eq!(committed(), 1);
    consumer.commit(records).unwrap();
    assert_eq!(committed(), 5);
}

#[test]
fn collected_offsets_are_the_highest_of_each_partition_in_whichever_order_they_come() {
    let (broker, topic) = broker(2);
    let producer = broker.producer();
    for partition in topic.partitions() {
        producer.send_all(&partition, ["a", "b", "c"].map(Record::new)).unwrap().wait().unwrap();
    }
    let mut consumer = broker.consumer("billing").subscribe("orders").unwrap();
    let mut owned: Vec<OwnedRecord> = Vec::new();
    while owned.len() < 6 {
        owned.extend(consumer.poll(NOW).unwrap());
    }
    let next = |offsets: &Offsets| -> Vec<(u32, u64)> {
        offsets.positions().iter().map(|at| (at.partition.into(), at.offset.into())).collect()
    };
    let forwards: Offsets = owned.iter().collect();
    let mut backwards = Offsets::new();
    backwards.extend(owned.iter().rev());
    assert_eq!((next(&forwards), next(&backwards)), (vec![(0, 3), (1, 3)], vec![(0, 3), (1, 3)]));
    let some: Offsets = owned.iter().filter(|record| record.offset() < 1).collect();
    let mut both = some.clone();
    both.extend([forwards, some]);
    assert_eq!(next(&both), [(0, 3), (1, 3)]);
    consumer.commit(both).unwrap();
    assert_eq!(broker.group("billing").unwrap().lag().unwrap(), 0);
}

#[test]
fn of_two_log_epochs_the_later_one_counts_when_offsets_are_collected() {
    let (broker, topic) = broker(1);
    let partition = topic.partition(0).unwrap();
    broker.producer().send_all(&topic, ["a", "b", "c"].map(Record::new)).unwrap().wait().unwrap();
    let mut consumer = broker.consumer("billing").subscribe("orders").unwrap();
    let before = consumer.poll(NOW).unwrap();
    partition.truncate_to(Offset::new(1)).unwrap();
    broker.producer().send(&topic, Record::new("another")).unwrap().wait().unwrap();
    let mut after = Vec::new();
    while after.is_empty() {
        after.extend(consumer.poll(NOW).unwrap());
    }
    let both: Offsets = after.iter().chain(before.into_iter().collect::<Vec<_>>().iter()).collect();
    assert_eq!(both.positions()[0].to_string(), "orders/0@2#1");
    consumer.commit(both).unwrap();
}

#[test]
fn one_event_is_appended_as_it_is() {
    let broker = Broker::in_memory().unwrap();
    let accounts = broker.create_topic("accounts", TopicConfig::streams()).unwrap();
    let account = accounts.stream("account-7").unwrap();
    account.append(ExpectedVersion::Empty, Record::new("opened")).unwrap();
    account.append(account.version().unwrap(), [Record::new("paid"), Record::new("closed")]).unwrap();
    let mut transaction = broker.transaction();
    transaction.append(&account, ExpectedVersion::Any, Record::new("audited"));
    transaction.commit().unwrap();
    assert_eq!(account.version().unwrap(), 4);
    let plain = broker.create_topic("plain", TopicConfig::new()).unwrap();
    plain.partition(0).unwrap().append_at(Offset::ZERO, Record::new("one")).unwrap();
    broker.producer().send_all(&plain, Record::new("two")).unwrap().wait().unwrap();
    assert_eq!(plain.partition(0).unwrap().bounds().unwrap().log_end, 2);
}

#[test]
fn the_stream_of_a_null_key_is_refused() {
    let broker = Broker::in_memory().unwrap();
    let accounts = broker.create_topic("accounts", TopicConfig::streams()).unwrap();
    let error = accounts.stream(None::<&str>).unwrap_err();
    assert!(matches!(&error, Error::MissingKey { topic, .. } if *topic == "accounts"), "{error}");
    assert!(matches!(accounts.erase_stream(None::<&[u8]>), Err(Error::MissingKey { .. })));
    assert!(accounts.stream(Some("account-7")).unwrap().load().unwrap().is_empty());
}

#[test]
fn a_partition_is_named_by_its_number_or_its_id() {
    let (broker, topic) = broker(3);
    for partition in topic.partitions() {
        assert_eq!(topic.partition(partition.id()).unwrap().id(), partition.id());
        assert!(broker.damage("orders", partition.id()).unwrap().is_empty());
    }
    let number: u32 = topic.partition(2).unwrap().id().into();
    assert_eq!((number, topic.partition(PartitionId::new(2)).unwrap().id() == 2), (2, true));
    let error = topic.partition(3).unwrap_err();
    assert!(
        matches!(&error, Error::UnknownPartition { partition, count: 3, .. } if *partition == 3),
        "{error}"
    );
    let mut reader = broker.reader("orders", Start::End).unwrap();
    let error = reader.pause("payments", 1).unwrap_err();
    assert!(
        matches!(&error, Error::NotAssigned { topic, partition, .. } if *topic == "payments" && *partition == 1),
        "{error}"
    );
    assert!(matches!(reader.resume("no topic", 1), Err(Error::InvalidTopicName { .. })));
}

#[test]
fn a_topic_that_is_created_again_has_another_id() {
    let (broker, topic) = broker(1);
    assert_eq!(topic.id(), broker.topic("orders").unwrap().id());
    let raw = topic.partition(0).unwrap().read_raw(Offset::ZERO, 1 << 10).unwrap();
    assert_eq!(raw.topic_id(), topic.id());
    broker.delete_topic("orders").unwrap();
    let again = broker.create_topic("orders", TopicConfig::new()).unwrap();
    assert_ne!(again.id(), topic.id());
}

#[test]
fn offsets_times_and_names_convert_and_compare() {
    let (broker, topic) = broker(1);
    let sent = broker.producer().send(&topic, Record::new("v").timestamp(SystemTime::UNIX_EPOCH.into()));
    let receipt = sent.unwrap().wait().unwrap();
    assert_eq!(SystemTime::from(receipt.timestamp), SystemTime::UNIX_EPOCH);
    assert!(receipt.timestamp < Timestamp::now());
    assert!(receipt.offset + 1 > 0 && u64::from(receipt.offset + 1) == 1);
    let position = Position::new("orders".parse().unwrap(), 0, receipt.offset, receipt.epoch);
    assert_eq!(position, receipt.position());
    let name: TopicName = "orders".parse().unwrap();
    assert_eq!(broker.topic(name.as_str()).unwrap().name(), &name);
    assert!(matches!("a b".parse::<TopicName>(), Err(Error::InvalidTopicName { .. })));
    assert!(matches!("".parse::<GroupId>(), Err(Error::InvalidGroupName { .. })));
}

#[test]
fn headers_are_replaced_and_removed_when_a_record_is_forwarded() {
    let (broker, topic) = broker(1);
    let producer = broker.producer();
    let first = Record::new("v").key("k").header("attempt", "1").header("origin", "a").null_header("mark");
    producer.send(&topic, first).unwrap().wait().unwrap();
    let partition = topic.partition(0).unwrap();
    for attempt in ["2", "3"] {
        let last = partition.last_n(1).unwrap();
        let record = last.last().unwrap().into_owned();
        let forwarded = Record::from(&record).replace_header("attempt", attempt).remove_header("origin");
        producer.send(&topic, forwarded).unwrap().wait().unwrap();
    }
    let last = partition.last_n(1).unwrap();
    let last = last.last().unwrap();
    assert_eq!((last.key_str(), last.value_str()), (Some("k"), Some("v")));
    assert!(last.headers().eq([("mark", None), ("attempt", Some(&b"3"[..]))]));
}

/// What a borrowed record has, an owned one has too.
#[test]
fn an_owned_record_has_all_that_a_borrowed_one_has() {
    let api = include_str!("../public_api.txt");
    let methods = |of: &str| -> Vec<&str> {
        let from = api.split_once(of).unwrap().1;
        let names =
            from.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once("pub fn "));
        names.map(|(_, rest)| rest.split(['(', '<']).next().unwrap()).collect()
    };
    let owned = methods("struct quipu::OwnedRecord\n");
    let borrowed = methods("struct quipu::ConsumedRecord<'a>\n");
    assert!(borrowed.len() > 10, "{borrowed:?}");
    let missing: Vec<_> =
        borrowed.iter().filter(|name| !owned.contains(name) && **name != "into_owned").collect();
    assert!(missing.is_empty(), "{missing:?}");

    let (broker, topic) = broker(1);
    let event = Record::new("v").key("k").event_id("7").event_type("paid").schema_version(3);
    broker.producer().send(&topic, event).unwrap().wait().unwrap();
    let records = topic.partition(0).unwrap().read(Start::Beginning, 1 << 20).unwrap();
    for owned in records.iter().flat_map(|record| [record.into_owned(), record.into_owned().detach()]) {
        assert_eq!((owned.key_str(), owned.value_str()), (Some("k"), Some("v")));
        assert_eq!((owned.event_id(), owned.event_type()), (Some(&b"7"[..]), Some("paid")));
        assert_eq!(owned.schema_version(), Some(3));
    }
}

#[test]
fn settings_can_be_read_from_every_handle() {
    let broker = Broker::in_memory().unwrap();
    let week = Duration::from_secs(7 * 24 * 3600);
    let config = TopicConfig::new().partitions(3).durability(Durability::Sync);
    let topic = broker.create_topic("orders", config.retention(Retention::for_age(week))).unwrap();
    let config = topic.config();
    assert_eq!((config.get_partitions(), config.get_durability()), (3, Some(Durability::Sync)));
    assert_eq!((config.get_retention().age(), config.get_retention().bytes()), (Some(week), None));

    let producer = broker.producer_with(ProducerConfig::new().name("outbox").batch_bytes(2_048)).unwrap();
    assert_eq!((producer.config().get_name(), producer.config().get_batch_bytes()), (Some("outbox"), 2_048));

    let reader = broker.reader("orders", Start::End).unwrap().max_records(5).max_bytes(6);
    assert_eq!((reader.get_max_records(), reader.get_max_bytes()), (5, 6));

    let builder = broker.consumer("billing").max_records(7).auto_commit(week).max_poll_interval(week);
    let consumer = builder.subscribe(["orders", "payments.*"]).unwrap();
    assert_eq!((consumer.max_records(), consumer.max_bytes()), (7, 1 << 20));
    assert_eq!((consumer.auto_commit(), consumer.max_poll_interval()), (Some(week), Some(week)));
    assert_eq!(consumer.subscription(), ["orders", "payments.*"]);
    assert_eq!(consumer.assignor().unwrap().name(), "cooperative-sticky");
    let assigned = broker.consumer("export").assign(&topic.partitions()).unwrap();
    assert!(assigned.subscription().is_empty() && assigned.max_poll_interval().is_none());
    assert!(assigned.assignor().is_none() && assigned.auto_commit().is_none());
}

/// The iterator of records can stand in a struct.
struct Cursor<'a> {
    records: quipu::records::Iter<'a>,
}

#[test]
fn the_iterator_of_records_can_be_named() {
    let (broker, topic) = broker(1);
    broker.producer().send_all(&topic, ["a", "b"].map(Record::new)).unwrap().wait().unwrap();
    let records = topic.partition(0).unwrap().read(Start::Beginning, 1 << 20).unwrap();
    let mut cursor = Cursor { records: records.iter() };
    assert_eq!(cursor.records.next().unwrap().value_str(), Some("a"));
    assert_eq!(cursor.records.len(), 1);
    let owned: quipu::records::IntoIter = records.into_iter();
    assert_eq!(owned.len(), 2);
}
