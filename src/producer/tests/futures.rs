//! Acknowledgements that are awaited.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::fakes::{FakeTopic, Flag, outbox};
use crate::config::{Durability, TopicConfig};
use crate::producer::config::ProducerConfig;
use crate::producer::pending::Pending;
use crate::record::Record;
use crate::sync::Ordering;
use crate::types::Receipt;

#[test]
fn an_acknowledgement_can_be_awaited() {
    let topic = FakeTopic::new(1, TopicConfig::new().durability(Durability::Sync));
    let outbox = outbox(&topic, ProducerConfig::new());
    let log = &topic.logs[0];
    let mut pending = outbox.send(&topic, Some(0), &Record::new("a")).unwrap();
    let (waker, woken) = Flag::waker();
    let cx = &mut Context::from_waker(&waker);
    assert!(Pin::new(&mut pending).poll(cx).is_pending());
    assert_eq!(
        (log.values().len(), log.sync_requests()),
        (1, 1),
        "the first poll writes and asks for a sync"
    );
    assert!(!woken.load(Ordering::SeqCst));
    log.make_visible();
    assert!(woken.load(Ordering::SeqCst));
    for _ in 0..2 {
        let Poll::Ready(Ok(receipt)) = Pin::new(&mut pending).poll(cx) else { panic!("it is visible") };
        assert_eq!(receipt.offset, 0);
    }
    // A flush, and many records, in the same way.
    outbox.send(&topic, Some(0), &Record::new("b")).unwrap().detach();
    let mut all = outbox.send_all(&topic, Some(0), ["c", "d"].map(Record::new).into_iter()).unwrap();
    let mut flushed = Pending::other(outbox.flush());
    assert!(Pin::new(&mut all).poll(cx).is_pending());
    assert!(Pin::new(&mut flushed).poll(cx).is_pending());
    log.make_visible();
    let Poll::Ready(Ok(receipts)) = Pin::new(&mut all).poll(cx) else { panic!("they are visible") };
    assert_eq!(receipts.iter().map(|r| r.offset.get()).collect::<Vec<_>>(), [2, 3]);
    assert!(matches!(Pin::new(&mut flushed).poll(cx), Poll::Ready(Ok(()))));
}

#[test]
fn pending_and_its_futures_are_send_and_static() {
    fn check<T: Send + 'static>() {}
    check::<Pending>();
    check::<Pending<()>>();
    check::<Pending<Vec<Receipt>>>();
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<crate::Producer>();
    assert!(size_of::<Pending>() <= 40);
}
