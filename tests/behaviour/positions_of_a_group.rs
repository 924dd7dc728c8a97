//! Positions that come from no poll: committing them, and setting a group to them.

use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Survive};
use quipu::{
    Broker, BrokerConfig, Consumer, Durability, Error, Offset, Position, RebalanceEvent, RejectReason,
    TopicConfig,
};

use crate::common::send;

const NOW: Duration = Duration::ZERO;

fn open(disk: &Disk) -> Broker {
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1).durability(Durability::Sync);
    config.on_disk(disk).unwrap()
}

/// A topic with two partitions of four records each.
fn filled(disk: &Disk) -> Broker {
    let broker = open(disk);
    let topic = broker.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    for partition in topic.partitions() {
        (0..4).for_each(|_| drop(send(&broker, &partition, "v").unwrap()));
    }
    broker
}

fn at(position: &str) -> Position {
    position.parse().unwrap()
}

fn committed(broker: &Broker, group: &str) -> [Option<u64>; 2] {
    let group = broker.group(group).unwrap();
    [0, 1].map(|partition| Some(group.committed("t", partition).unwrap()?.offset.get()))
}

fn reasons(committed: quipu::Result<()>) -> Vec<RejectReason> {
    match committed {
        Err(Error::CommitRejected { offenders, .. }) => {
            offenders.into_iter().map(|offender| offender.reason).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn member(broker: &Broker) -> Consumer {
    broker.consumer("g").subscribe(["t"]).unwrap()
}

#[test]
fn positions_count_as_polled_when_they_became_offsets_and_not_at_the_commit() {
    let broker = filled(&Disk::new());
    let mut a = member(&broker);
    assert_eq!(a.poll(NOW).unwrap().len(), 8);
    let (early, handle) = (a.offsets_at(a.positions()), a.handle());
    // Another member gets a partition, and is gone again before it has committed anything.
    let mut b = member(&broker);
    for _ in 0..3 {
        a.poll(NOW).unwrap();
        b.poll(NOW).unwrap();
    }
    assert_eq!((a.assignment().len(), b.assignment().len()), (1, 1));
    b.close().unwrap();
    a.poll(NOW).unwrap();
    assert_eq!(a.assignment().len(), 2, "all partitions are its own again");
    assert_eq!(reasons(handle.commit(&early)), [RejectReason::Stale]);
    assert_eq!(reasons(broker_transaction(&broker, &a, &early)), [RejectReason::Stale]);
    assert_eq!(committed(&broker, "g"), [None, None], "all of them or none");
    // Those that are made now are of this assignment.
    a.commit(a.offsets_at([at("t/0@1#0"), at("t/1@2#0"), at("t/0@3#0")])).unwrap();
    assert_eq!(committed(&broker, "g"), [Some(3), Some(2)], "of two in one partition the last");
}

fn broker_transaction(broker: &Broker, consumer: &Consumer, done: &quipu::Offsets) -> quipu::Result<()> {
    let mut transaction = broker.transaction();
    transaction.offsets(consumer, done);
    transaction.commit().map(drop)
}

#[test]
fn positions_of_an_earlier_opening_are_not_committed() {
    let disk = Disk::new();
    let broker = filled(&disk);
    let mut old = member(&broker);
    old.poll(NOW).unwrap();
    let done = old.offsets_at(old.positions());
    drop(old);
    disk.crash(Survive::Synced);
    let broker = open(&disk);
    // Its member has the number that the old one had.
    let mut new = member(&broker);
    new.poll(NOW).unwrap();
    assert_eq!(reasons(new.commit(&done)), [RejectReason::NotAMember; 2]);
    assert_eq!(committed(&broker, "g"), [None, None]);
}

#[test]
fn a_position_of_no_partition_is_rejected_by_its_name() {
    let broker = filled(&Disk::new());
    let consumer = broker.consumer("g").assign(&[]).unwrap();
    for unknown in ["t/2@0#0", "u/0@0#0"] {
        let error = consumer.commit(consumer.offsets_at([at("t/0@1#0"), at(unknown)])).unwrap_err();
        assert!(error.to_string().contains(&unknown[..3]), "{error}");
        assert_eq!(reasons(Err(error)), [RejectReason::UnknownPartition]);
    }
    assert_eq!(committed(&broker, "g"), [None, None]);
}

#[test]
fn a_listener_commits_the_positions_of_revoked_partitions() {
    let broker = filled(&Disk::new());
    let builder = broker.consumer("g").on_rebalance(|rebalance| {
        if rebalance.event() == RebalanceEvent::Revoked {
            rebalance.commit(rebalance.offsets_at(rebalance.positions()))?;
        }
        Ok(())
    });
    let mut a = builder.subscribe(["t"]).unwrap();
    a.poll(NOW).unwrap();
    a.close().unwrap();
    assert_eq!(committed(&broker, "g"), [Some(4), Some(4)]);
}

#[test]
fn a_group_is_set_to_positions_which_are_moved_into_the_log_and_survive_a_power_loss() {
    let disk = Disk::new();
    let broker = filled(&disk);
    let topic = broker.topic("t").unwrap();
    topic.partition(0).unwrap().delete_records(Offset::new(2)).unwrap();
    // Both of what was at offset 3 and what is there now.
    topic.partition(1).unwrap().truncate_to(Offset::new(3)).unwrap();
    send(&broker, &topic.partition(1).unwrap(), "v").unwrap();
    let group = broker.group("g").unwrap();
    let set = |positions: &[&str]| -> Vec<String> {
        let positions: Vec<_> = positions.iter().map(|position| at(position)).collect();
        group.reset_to(&positions).unwrap().iter().map(ToString::to_string).collect()
    };
    assert_eq!(set(&["t/1@1#0", "t/0@3#0"]), ["t/0@3#0", "t/1@1#1"], "in the order of the partitions");
    assert_eq!(set(&["t/0@0#0", "t/1@9#1"]), ["t/0@2#0", "t/1@4#1"], "to the nearer end");
    assert_eq!(set(&["t/1@4#0"]), ["t/1@3#1"], "to the truncation");
    assert_eq!(set(&["t/0@2#0", "t/0@4#0"]), ["t/0@4#0"], "the last of two");
    assert_eq!(set(&[]), [""; 0]);
    disk.crash(Survive::Synced);
    let broker = open(&disk);
    assert_eq!(committed(&broker, "g"), [Some(4), Some(3)]);
    assert_eq!(member(&broker).poll(NOW).unwrap().iter().next().unwrap().offset(), 3);
}

#[test]
fn a_group_is_set_to_all_positions_or_to_none() {
    let broker = filled(&Disk::new());
    let group = broker.group("g").unwrap();
    let refused = |unknown: &str| group.reset_to(&[at("t/0@1#0"), at(unknown)]).unwrap_err();
    assert!(
        matches!(refused("t/2@0#0"), Error::UnknownPartition { partition, count: 2, .. } if partition == 2)
    );
    assert!(matches!(refused("u/0@0#0"), Error::UnknownTopic { .. }));
    let a = member(&broker);
    assert!(matches!(refused("t/1@1#0"), Error::GroupNotEmpty { .. }));
    drop(a);
    assert_eq!(committed(&broker, "g"), [None, None]);
}

#[test]
fn looking_a_group_up_leaves_nothing() {
    let disk = Disk::new();
    let broker = open(&disk);
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let before = disk.fingerprint();
    for name in ["g", "h"] {
        let group = broker.group(name).unwrap();
        assert_eq!(group.lag().unwrap(), 0);
        assert!(group.describe().unwrap().partitions.is_empty());
        assert_eq!(group.committed("t", 0).unwrap(), None);
        group.delete().unwrap();
        // Refused before anything is written.
        assert!(matches!(group.reset("u", Offset::ZERO), Err(Error::UnknownTopic { .. })));
        assert!(matches!(group.shift("u", 1), Err(Error::UnknownTopic { .. })));
        assert!(matches!(group.reset_to(&[at("t/1@0#0")]), Err(Error::UnknownPartition { .. })));
        assert!(broker.groups().unwrap().is_empty(), "also while a handle is there");
    }
    assert_eq!(disk.fingerprint(), before, "no file was written");
}
