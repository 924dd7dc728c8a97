//! One sync acknowledges every caller that waits for it, and a failed one leaves no caller waiting.

use std::io::ErrorKind;
use std::thread;

use quipu::testing::{Disk, Op};
use quipu::{BrokerConfig, Durability, Error, IoAction, Outcome, Record, TopicConfig};

const WAITERS: usize = 8;

#[test]
fn one_sync_acknowledges_all_callers_queued_during_the_previous_one() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    // Its files are made: the next sync is that of a record.
    broker.producer().send(&topic, Record::new("first")).unwrap().wait().unwrap();
    let syncs = || topic.partition(0).unwrap().stats().syncs;
    let before = syncs();
    let gate = disk.hold(Op::Sync, 1);
    thread::scope(|scope| {
        let send = || broker.producer().send(&topic, Record::new("v")).unwrap().wait().unwrap();
        let mut waiters = vec![scope.spawn(send)];
        gate.wait_until_reached();
        waiters.extend((0..WAITERS).map(|_| scope.spawn(send)));
        // All of them are in the log, none of them is visible, and one sync is under way.
        while topic.partition(0).unwrap().bounds().unwrap().log_end.get() < 2 + WAITERS as u64 {
            thread::yield_now();
        }
        assert_eq!(topic.partition(0).unwrap().bounds().unwrap().visible_end, 1);
        assert_eq!(syncs(), before + 1);
        gate.release();
        let mut offsets: Vec<_> = waiters.into_iter().map(|w| w.join().unwrap().offset.get()).collect();
        offsets.sort_unstable();
        assert_eq!(offsets, (1..=1 + WAITERS as u64).collect::<Vec<_>>());
    });
    assert_eq!(syncs(), before + 2, "the held sync, and one for all eight");
    broker.close().unwrap();
}

#[test]
fn a_failed_sync_fails_all_queued_callers() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    // Its files are made: the next sync is that of a record.
    broker.producer().send(&topic, Record::new("first")).unwrap().wait().unwrap();
    let gate = disk.hold(Op::Sync, 1);
    disk.fail(Op::Sync, 1, ErrorKind::Other);
    thread::scope(|scope| {
        let send = || broker.producer().send(&topic, Record::new("v")).unwrap().wait().unwrap_err();
        let mut waiters = vec![scope.spawn(send)];
        gate.wait_until_reached();
        waiters.extend((0..WAITERS).map(|_| scope.spawn(send)));
        while topic.partition(0).unwrap().bounds().unwrap().log_end.get() < 2 + WAITERS as u64 {
            thread::yield_now();
        }
        gate.release();
        for waiter in waiters {
            let error = waiter.join().unwrap();
            assert!(matches!(error, Error::Io { action: IoAction::Sync, .. }), "{error}");
            assert_eq!(error.outcome(), Outcome::Unknown);
        }
    });
    let refused = broker.producer().send(&topic, Record::new("v")).unwrap().wait().unwrap_err();
    assert!(matches!(refused, Error::Poisoned { .. }), "{refused}");
    assert_eq!(
        topic.partition(0).unwrap().bounds().unwrap().visible_end,
        1,
        "nothing was acknowledged or shown"
    );
}
