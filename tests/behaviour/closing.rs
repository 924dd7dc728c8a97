//! A closed broker writes nothing, and its directory is free for another thread or process,
//! whichever handle is dropped last.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::{fs, thread};

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{Broker, BrokerConfig, Durability, Error, ProducerConfig, Record, TopicConfig};

use crate::common::{assert_filled, fill, open, open_dir, send, small, snapshot};

type Act = fn(&Broker) -> quipu::Result<()>;

/// Everything that changes the catalog.
const CHANGES: [(&str, Act); 6] = [
    ("create_topic", |broker| broker.create_topic("late", TopicConfig::new()).map(drop)),
    ("alter_topic", |broker| broker.alter_topic("old", TopicConfig::new().partitions(2))),
    ("delete_topic", |broker| broker.delete_topic("old")),
    ("a producer's name", |broker| broker.producer_with(ProducerConfig::new().name("late")).map(drop)),
    ("forget_producer", |broker| broker.forget_producer("known").map(drop)),
    ("a first write", |broker| {
        let partition = broker.topic("old")?.partition(0)?;
        broker.producer().send(&partition, Record::new("late"))?.wait().map(drop)
    }),
];

#[test]
fn closing_waits_for_a_change_that_is_under_way() {
    for (what, change) in CHANGES {
        let disk = Disk::new();
        let one = open(&disk).unwrap();
        one.create_topic("old", TopicConfig::new()).unwrap();
        one.producer_with(ProducerConfig::new().name("known")).unwrap();
        let gate = disk.hold(Op::Sync, 1);
        let late = {
            let one = one.clone();
            thread::spawn(move || change(&one))
        };
        gate.wait_until_reached();
        let (closed, is_closed) = mpsc::channel();
        let closer = {
            let one = one.clone();
            thread::spawn(move || closed.send(one.close()).unwrap())
        };
        // It is refused as long as the change may still write.
        assert!(matches!(open(&disk), Err(Error::AlreadyOpen { .. })), "{what}");
        assert!(is_closed.try_recv().is_err(), "{what}");
        gate.release();
        late.join().unwrap().unwrap();
        closer.join().unwrap();
        is_closed.recv().unwrap().unwrap();
        let before = snapshot(&disk);
        for (what, change) in CHANGES {
            assert!(matches!(change(&one), Err(Error::Closed)), "{what}");
        }
        drop(one);
        assert_eq!(snapshot(&disk), before, "{what}: nothing is written after the close");
        let two = open(&disk).unwrap();
        assert!(two.open_report().clean, "{what}");
        assert_eq!(two.topic("late").is_ok(), what == "create_topic");
        assert_eq!(two.topic("old").is_ok(), what != "delete_topic");
    }
}

#[test]
fn closing_waits_for_maintenance_that_is_under_way() {
    let disk = Disk::new();
    let one = open(&disk).unwrap();
    let partition = one.create_topic("t", small()).unwrap().partition(0).unwrap();
    fill(&one, &partition, 30);
    let gate = disk.hold(Op::Write, 1);
    let late = {
        let one = one.clone();
        thread::spawn(move || one.maintain())
    };
    gate.wait_until_reached();
    let closer = {
        let one = one.clone();
        thread::spawn(move || one.close())
    };
    gate.release();
    // It succeeds, or returns that the broker is closed.
    let late = late.join().unwrap();
    assert!(matches!(late, Ok(()) | Err(Error::Closed | Error::Io { .. })), "{late:?}");
    closer.join().unwrap().unwrap();
    let before = snapshot(&disk);
    assert!(matches!(one.maintain(), Err(Error::Closed)));
    drop((one, partition));
    assert_eq!(snapshot(&disk), before);
    let two = open(&disk).unwrap();
    assert_filled(&two.topic("t").unwrap().partition(0).unwrap(), 30, "all there");
}

// -- the owner of the directory --

#[test]
fn a_deleted_lock_file_does_not_admit_a_second_owner() {
    let dir = tempfile::tempdir().unwrap();
    let one = open_dir(dir.path()).unwrap();
    let topic = one.create_topic("t", TopicConfig::new().durability(Durability::Sync)).unwrap();
    fill(&one, &topic.partition(0).unwrap(), 1);
    fs::remove_file(dir.path().join("LOCK")).unwrap();
    assert!(matches!(open_dir(dir.path()), Err(Error::AlreadyOpen { .. })));
    fill(&one, &topic.partition(0).unwrap(), 6);
    drop((one, topic));
    let two = open_dir(dir.path()).unwrap();
    assert_filled(&two.topic("t").unwrap().partition(0).unwrap(), 6, "one owner");
    assert!(matches!(open_dir(dir.path()), Err(Error::AlreadyOpen { .. })));
}

// -- how the last handle goes --

/// Wakes by dropping its broker.
struct Dropping(Mutex<Option<Broker>>);

impl Wake for Dropping {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
    }
}

#[test]
fn the_last_handle_may_be_dropped_by_a_waker_on_a_thread_of_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let config = BrokerConfig::new().durability(Durability::Sync);
        let broker = config.open(dir.path()).unwrap();
        let topic = broker.ensure_topic("t", TopicConfig::new()).unwrap();
        let pending = broker.producer().send(&topic, Record::new("v")).unwrap();
        let waker = Waker::from(Arc::new(Dropping(Mutex::new(Some(broker)))));
        drop(topic);
        let mut pending = pin!(pending);
        if let Poll::Ready(done) = pending.as_mut().poll(&mut Context::from_waker(&waker)) {
            done.unwrap();
            waker.wake_by_ref();
        }
        drop(waker);
        // The drop has released the directory once this opens.
        let again = loop {
            match BrokerConfig::new().open(dir.path()) {
                Err(Error::AlreadyOpen { .. }) => thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        let partition = again.topic("t").unwrap().partition(0).unwrap();
        assert_eq!(partition.bounds().unwrap().log_end.get(), round + 1, "{:?}", again.open_report());
    }
}

#[test]
fn a_broker_that_failed_is_closed_like_any_other() {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let partition = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    fill(&broker, &partition, 5);
    disk.fail(Op::Write, 1, std::io::ErrorKind::Other);
    assert!(send(&broker, &partition, "lost").is_err());
    assert!(broker.close().is_err());
    broker.close().unwrap();
    let again = open(&disk).unwrap();
    assert!(!again.open_report().recovered.is_empty(), "a partition that failed is read again");
    assert_filled(&again.topic("t").unwrap().partition(0).unwrap(), 5, "all that was acknowledged");
    disk.crash(Survive::Everything);
}

/// Wakes by sending.
struct Sending(Mutex<mpsc::Sender<()>>);

impl Wake for Sending {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap().send(()).unwrap();
    }
}

#[test]
fn a_close_that_is_awaited_blocks_no_task() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    broker.producer().send("t", Record::new("v")).unwrap().wait().unwrap();
    let gate = disk.hold(Op::Sync, 1);
    let mut closing = pin!(broker.close_async());
    gate.wait_until_reached();
    let (woken, is_woken) = mpsc::channel();
    let waker = Waker::from(Arc::new(Sending(Mutex::new(woken))));
    let mut cx = Context::from_waker(&waker);
    assert!(closing.as_mut().poll(&mut cx).is_pending());
    assert!(matches!(broker.topic("t"), Err(Error::Closed)), "it has begun");
    gate.release();
    is_woken.recv().unwrap();
    assert!(matches!(closing.as_mut().poll(&mut cx), Poll::Ready(Ok(()))));
    let again = open(&disk).unwrap();
    assert!(again.open_report().clean);
}

#[test]
fn a_close_that_nobody_awaits_is_completed() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    let gate = disk.hold(Op::Sync, 1);
    drop(broker.close_async());
    drop(broker);
    gate.wait_until_reached();
    gate.release();
    let again = loop {
        match open(&disk) {
            Err(Error::AlreadyOpen { .. }) => thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    assert!(again.open_report().clean);
}

#[test]
fn an_awaited_close_returns_the_error_of_the_close() {
    let disk = Disk::new();
    for clock in [None, Some(ManualClock::new())] {
        let mut config = BrokerConfig::new();
        if let Some(clock) = clock {
            config = config.clock(clock);
        }
        let broker = config.on_disk(&disk).unwrap();
        let topic = broker.ensure_topic("t", TopicConfig::new()).unwrap();
        broker.producer().send(&topic, Record::new("v")).unwrap().wait().unwrap();
        disk.fail(Op::Sync, 1, std::io::ErrorKind::Other);
        let error = broker.close_async().wait().unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
    }
}
