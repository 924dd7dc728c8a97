//! Handles and errors cross `catch_unwind`, and work after a panic.

use std::panic::{RefUnwindSafe, UnwindSafe, catch_unwind};
use std::time::Duration;

use quipu::{
    Broker, BrokerConfig, Consumer, ConsumerBuilder, ConsumerHandle, Error, Feed, Group, History,
    ManualClock, Offsets, Partition, Pending, Position, Producer, Projector, Reader, ReaderHandle, Receipt,
    Record, Records, Stream, StreamReader, Topic, TopicConfig, Transaction,
};

/// Stands for a read model or a projection.
struct Model(#[allow(dead_code)] Vec<u64>);

/// Fails to compile, not to run.
#[test]
fn every_handle_and_error_is_unwind_safe() {
    fn safe<T: UnwindSafe + RefUnwindSafe>() {}
    let all: &[fn()] = &[
        safe::<Broker>,
        safe::<Topic>,
        safe::<Partition>,
        safe::<Stream>,
        safe::<StreamReader>,
        safe::<Producer>,
        safe::<Pending>,
        safe::<Pending<()>>,
        safe::<Transaction>,
        safe::<Group>,
        safe::<Consumer>,
        safe::<ConsumerBuilder>,
        safe::<ConsumerHandle>,
        safe::<Feed<Model>>,
        safe::<Projector<Model>>,
        safe::<Reader>,
        safe::<ReaderHandle>,
        safe::<Records>,
        safe::<History>,
        safe::<Offsets>,
        safe::<Position>,
        safe::<Receipt>,
        safe::<Error>,
    ];
    all.iter().for_each(|check| check());
}

#[test]
fn handles_work_after_a_panic_of_code_that_they_called() {
    let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let (producer, mut consumer) = (broker.producer(), broker.consumer("g").subscribe("t").unwrap());
    let unwound = catch_unwind(|| {
        let records =
            (0..10).map(|number| if number < 5 { Record::new("v") } else { panic!("the iterator") });
        producer.send_all("t", records).map(Pending::detach)
    });
    unwound.unwrap_err();
    producer.send("t", Record::new("after")).unwrap().wait().unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    let values: Vec<_> = records.iter().map(|record| record.value_str().unwrap().to_string()).collect();
    assert_eq!(values, ["after"]);
}

#[test]
fn a_builder_crosses_a_panic() {
    let broker = BrokerConfig::new().clock(ManualClock::new()).in_memory().unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let builder = broker.consumer("g").max_records(3).on_rebalance(|_| Ok(()));
    let unwound = catch_unwind(|| {
        assert_eq!(builder.get_max_records(), 4, "a panic on purpose");
    });
    unwound.unwrap_err();
    assert_eq!(builder.subscribe("t").unwrap().max_records(), 3);
}
