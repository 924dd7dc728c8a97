//! A bound on all files in the broker's directory: which segments are deleted to keep it, and which
//! are not.

use std::time::Duration;

use quipu::testing::{Disk, ManualClock};
use quipu::{
    Broker, BrokerConfig, Cleanup, Clock, Error, Outcome, Partition, Record, Result, Retention, TopicConfig,
};

const BUDGET: u64 = 512 << 10;

fn opened(disk: &Disk, clock: &ManualClock) -> Broker {
    BrokerConfig::new().clock(clock.clone()).disk_budget(BUDGET).on_disk(disk).unwrap()
}

fn small() -> TopicConfig {
    TopicConfig::new().segment_bytes(16 << 10).max_record_bytes(2000)
}

/// Deletes when it must, and never by itself.
fn expirable() -> TopicConfig {
    small().retention(Retention::for_bytes(u64::MAX))
}

fn send(broker: &Broker, clock: &ManualClock, topic: &str) -> Result<u64> {
    clock.advance(Duration::from_millis(1));
    let record = Record::new(vec![7; 1000]).key("k").timestamp(clock.now());
    Ok(broker.producer().send(topic, record)?.wait()?.offset.get())
}

fn partition(broker: &Broker, topic: &str) -> Partition {
    broker.topic(topic).unwrap().partition(0).unwrap()
}

fn start(broker: &Broker, topic: &str) -> u64 {
    partition(broker, topic).bounds().unwrap().log_start.get()
}

fn bytes(disk: &Disk) -> u64 {
    disk.files().iter().map(|(_, bytes)| bytes).sum()
}

#[test]
fn the_oldest_of_all_topics_goes_and_the_whole_directory_stays_within_its_budget() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = opened(&disk, &clock);
    for topic in ["a", "b"] {
        broker.create_topic(topic, expirable()).unwrap();
    }
    broker.create_topic("kept", small()).unwrap();
    let mut largest = 0;
    for n in 0..2_000 {
        if n < 100 {
            send(&broker, &clock, "a").unwrap();
            send(&broker, &clock, "kept").unwrap();
        }
        send(&broker, &clock, "b").unwrap();
        largest = largest.max(bytes(&disk));
        if n % 100 == 0 {
            broker.maintain().unwrap();
            largest = largest.max(bytes(&disk));
        }
    }
    assert!(largest <= BUDGET, "{largest} bytes");
    assert!(largest > BUDGET * 8 / 10, "{largest} bytes: it is used");
    assert_eq!(start(&broker, "a"), 100, "all of it is older than the rest of b");
    assert_eq!(start(&broker, "kept"), 0, "a topic without a limit loses nothing");
    assert!(start(&broker, "b") > 1_500);
}

#[test]
fn an_append_is_refused_when_nothing_may_be_deleted_for_it() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = opened(&disk, &clock);
    broker.create_topic("kept", small()).unwrap();
    broker.create_topic("compacted", small().cleanup(Cleanup::Compact)).unwrap();
    let mut count = 0;
    let error = loop {
        let topic = if count % 2 == 0 { "kept" } else { "compacted" };
        match send(&broker, &clock, topic) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    let Error::OverBudget { limit, used, held_by, .. } = &error else { panic!("{error}") };
    assert_eq!((*limit, held_by), (BUDGET, &None));
    assert_eq!(*used, bytes(&disk), "side files, catalog and reserve count");
    assert_eq!(error.outcome(), Outcome::NotWritten);
    assert!(count > 300, "{count}");
    assert!(matches!(send(&broker, &clock, "kept"), Err(Error::OverBudget { .. })));
    broker.delete_topic("compacted").unwrap();
    assert!(send(&broker, &clock, "kept").unwrap() >= 150, "there is room again");
}

#[test]
fn records_held_for_a_group_stay_and_the_error_names_the_group() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = opened(&disk, &clock);
    broker.create_topic("t", expirable().retention_holds_for(["slow", "fast"])).unwrap();
    let read_all = |group: &str| {
        let mut consumer = broker.consumer(group).subscribe(["t"]).unwrap();
        loop {
            let records = consumer.poll(Duration::ZERO).unwrap();
            if records.is_empty() {
                break;
            }
            consumer.commit(&records).unwrap();
        }
    };
    for _ in 0..50 {
        send(&broker, &clock, "t").unwrap();
    }
    read_all("slow");
    let refused = loop {
        match send(&broker, &clock, "t") {
            Ok(_) => read_all("fast"),
            Err(error) => break error,
        }
    };
    let Error::OverBudget { held_by: Some(group), .. } = &refused else { panic!("{refused}") };
    assert_eq!(group.as_str(), "slow");
    assert!(refused.to_string().contains("group slow"), "{refused}");
    let held = start(&broker, "t");
    assert!(held > 0 && held <= 50, "{held}: what both had read went");
    read_all("slow");
    send(&broker, &clock, "t").unwrap();
    assert!(start(&broker, "t") > held);
}

#[test]
fn transactions_and_existing_files_count_towards_the_budget() {
    let (disk, clock) = (Disk::new(), ManualClock::new());
    let broker = opened(&disk, &clock);
    for topic in ["a", "b"] {
        broker.create_topic(topic, expirable()).unwrap();
    }
    let commit = |broker: &Broker| {
        clock.advance(Duration::from_millis(1));
        let mut transaction = broker.transaction();
        for topic in ["a", "b"] {
            transaction.send(topic, Record::new(vec![7; 1000]).timestamp(clock.now()));
        }
        transaction.commit()
    };
    for _ in 0..120 {
        commit(&broker).unwrap();
        assert!(bytes(&disk) <= BUDGET, "{}", bytes(&disk));
    }
    broker.close().unwrap();
    drop(broker);
    let broker = opened(&disk, &clock);
    for _ in 0..400 {
        send(&broker, &clock, "a").unwrap();
        assert!(bytes(&disk) <= BUDGET, "{}", bytes(&disk));
    }
    assert!(start(&broker, "a") > 0 && start(&broker, "b") > 0);
}
