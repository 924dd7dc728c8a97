//! A commit that no caller waits for and that fails is reported to the event listener.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::stats::Event;
use quipu::testing::ManualClock;
use quipu::{Broker, BrokerConfig, Error, ExpectedVersion, Record, TopicConfig};

const NOW: Duration = Duration::ZERO;

type Causes = Arc<Mutex<Vec<Error>>>;

fn broker() -> (Broker, Causes) {
    let causes = Causes::default();
    let heard = causes.clone();
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1).on_event(move |event| {
        if let Event::CommitFailed { cause, .. } = event {
            heard.lock().unwrap().push(cause.clone());
        }
    });
    (config.in_memory().unwrap(), causes)
}

fn take(causes: &Causes) -> Vec<Error> {
    std::mem::take(&mut *causes.lock().unwrap())
}

#[test]
fn a_detached_commit_that_is_rejected_is_reported() {
    let (broker, causes) = broker();
    broker.create_topic("t", TopicConfig::new()).unwrap();
    broker.producer().send("t", Record::new("v")).unwrap().wait().unwrap();
    let mut gone = broker.consumer("g").subscribe(["t"]).unwrap();
    let records = gone.poll(NOW).unwrap();
    let handle = gone.handle();
    handle.commit_async(&records).detach();
    assert!(take(&causes).is_empty(), "this one is made");
    drop(gone);
    for detaches in [true, false] {
        let rejected = handle.commit_async(&records);
        if detaches {
            rejected.detach()
        } else {
            drop(rejected)
        }
        let causes = take(&causes);
        assert!(matches!(&causes[..], [Error::CommitRejected { .. }]), "{causes:?}");
    }
    // An error that a caller gets is not reported again.
    assert!(handle.commit_async(&records).wait().is_err());
    let mut polled = Box::pin(handle.commit_async(&records));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(matches!(polled.as_mut().poll(&mut cx), std::task::Poll::Ready(Err(_))));
    drop(polled);
    assert!(take(&causes).is_empty());
}

#[test]
fn a_detached_transaction_that_conflicts_is_reported() {
    let (broker, causes) = broker();
    let accounts = broker.create_topic("accounts", TopicConfig::streams()).unwrap();
    let account = accounts.stream("a").unwrap();
    let transaction = |expected: ExpectedVersion| {
        let mut transaction = broker.transaction();
        transaction.append(&account, expected, [Record::new("v")]);
        transaction.commit_async()
    };
    transaction(ExpectedVersion::Empty).detach();
    assert!(take(&causes).is_empty(), "this one is made");
    for detaches in [true, false] {
        let conflict = transaction(ExpectedVersion::Empty);
        if detaches {
            conflict.detach()
        } else {
            drop(conflict)
        }
        let causes = take(&causes);
        assert!(matches!(&causes[..], [Error::VersionConflict { .. }]), "{causes:?}");
    }
    assert!(transaction(ExpectedVersion::Empty).wait().is_err());
    let mut polled = Box::pin(transaction(ExpectedVersion::Empty));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(matches!(polled.as_mut().poll(&mut cx), std::task::Poll::Ready(Err(_))));
    drop(polled);
    assert!(take(&causes).is_empty());
    assert_eq!(account.version().unwrap().get(), 1);
}
