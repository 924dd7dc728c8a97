//! When a batch is written, and how many bytes a producer may hold before.

use std::task::Context;
use std::time::Duration;

use super::fakes::{FakeTopic, Flag, big, flush, outbox, small};
use crate::config::{Durability, TopicConfig};
use crate::error::Error;
use crate::producer::config::ProducerConfig;
use crate::producer::core::RoomWait;
use crate::producer::pending::Pending;
use crate::producer::sink::Sink;
use crate::record::Record;
use crate::sync::{Ordering, thread};
use crate::types::{Offset, PartitionId};

#[test]
fn waiting_seals_the_batch_and_only_that() {
    let topic = FakeTopic::new(2, TopicConfig::new());
    let outbox = outbox(&topic, ProducerConfig::new());
    let first = outbox.send(&topic, Some(0), &Record::new("a")).unwrap();
    let second = outbox.send(&topic, Some(0), &Record::new("b")).unwrap();
    outbox.send(&topic, Some(1), &Record::new("c")).unwrap().detach();
    assert!(topic.logs[0].values().is_empty());
    let receipt = second.wait().unwrap();
    assert_eq!((receipt.offset, receipt.partition, receipt.epoch), (Offset::new(1), PartitionId::new(0), 7));
    assert_eq!(receipt.topic, "fake");
    outbox.send(&topic, Some(0), &Record::new("later")).unwrap().detach();
    assert_eq!(first.wait().unwrap().offset, 0);
    assert_eq!(topic.logs[0].values(), ["a", "b"]);
    assert!(topic.logs[1].values().is_empty());
}

#[test]
fn a_batch_is_written_when_it_has_lingered() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, ProducerConfig::new().batch_bytes(1 << 10).linger(Duration::from_millis(5)));
    let log = &topic.logs[0];
    outbox.send(&topic, Some(0), &Record::new("a")).unwrap().detach();
    topic.clock.advance(Duration::from_millis(3));
    outbox.send(&topic, Some(0), &Record::new("b")).unwrap().detach();
    topic.clock.advance(Duration::from_micros(1_999));
    assert!(log.values().is_empty());
    topic.clock.advance(Duration::from_micros(1));
    assert_eq!(log.values(), ["a", "b"]);
    assert_eq!(log.sync_requests(), 1);
    // The timer was set for a batch that is gone when it comes; the younger one has its full time.
    outbox.send(&topic, Some(0), &Record::new("c")).unwrap().detach();
    topic.clock.advance(Duration::from_millis(3));
    outbox.send(&topic, Some(0), &Record::new("d")).unwrap().wait().unwrap();
    outbox.send(&topic, Some(0), &Record::new("e")).unwrap().detach();
    topic.clock.advance(Duration::from_millis(4));
    assert_eq!(log.values().len(), 4);
    topic.clock.advance(Duration::from_millis(1));
    assert_eq!(log.values().len(), 5);
}

#[test]
fn without_lingering_every_send_is_written() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, ProducerConfig::new().linger(Duration::ZERO));
    for n in 1..=3 {
        outbox.send(&topic, None, &Record::new("a")).unwrap().detach();
        assert_eq!(topic.logs[0].values().len(), n);
        assert_eq!(topic.logs[0].batches(), n);
    }
    let all = outbox.send_all(&topic, None, ["b", "c"].map(Record::new).into_iter()).unwrap();
    assert_eq!(topic.logs[0].values().len(), 5);
    assert_eq!(all.wait().unwrap().len(), 2);
}

#[test]
fn full_batches_are_written_by_the_sender_and_never_exceed_their_size() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, small());
    for n in 0..200usize {
        outbox.send(&topic, None, &Record::new("x".repeat(n))).unwrap().detach();
    }
    assert!(topic.logs[0].batches() > 15);
    assert!(
        topic.logs[0].sizes().iter().all(|size| (512..=1024).contains(size)),
        "{:?}",
        topic.logs[0].sizes()
    );
    // A record that is larger has a batch to itself.
    let receipt = outbox.send(&topic, None, &Record::new("y".repeat(5_000))).unwrap().wait().unwrap();
    assert_eq!(receipt.offset, 200);
    assert!(*topic.logs[0].sizes().last().unwrap() > 5_000);
}

#[test]
fn batches_fit_segments_that_are_smaller() {
    let config = TopicConfig::new().segment_bytes(2 << 10).max_record_bytes(1 << 10);
    let topic = FakeTopic::new(1, config);
    let outbox = outbox(&topic, ProducerConfig::new());
    for _ in 0..100 {
        outbox.send(&topic, None, &Record::new([7; 100])).unwrap().detach();
    }
    flush(&outbox).unwrap();
    let max = topic.logs[0].batch_settings().max_batch_bytes;
    assert!(topic.logs[0].sizes().iter().all(|size| *size <= max));
}

#[test]
fn dropping_the_producer_hands_its_batches_over() {
    let topic = FakeTopic::new(2, TopicConfig::new());
    let outbox = outbox(&topic, ProducerConfig::new().linger(Duration::from_secs(3_600)));
    let kept = outbox.send(&topic, Some(0), &Record::new("a")).unwrap();
    outbox.send(&topic, Some(1), &Record::new("b")).unwrap().detach();
    drop(outbox);
    assert!(topic.logs[1].values().is_empty(), "dropping writes nothing itself");
    topic.clock.advance(Duration::ZERO);
    assert_eq!(topic.logs[1].values(), ["b"]);
    assert_eq!(kept.wait().unwrap().offset, 0);
}

#[test]
fn an_acknowledgement_outlives_the_producer_and_writes_its_batch() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, ProducerConfig::new());
    let pending = outbox.send(&topic, Some(0), &Record::new("a")).unwrap();
    drop(outbox);
    assert_eq!(pending.wait().unwrap().offset, 0);
    assert_eq!(topic.logs[0].values(), ["a"]);
}

#[test]
fn only_the_waiting_thread_syncs() {
    let topic = FakeTopic::new(1, TopicConfig::new().durability(Durability::Sync));
    let outbox = outbox(&topic, small());
    let log = &topic.logs[0];
    let pending = outbox.send(&topic, Some(0), &Record::new("a")).unwrap();
    pending.wait().unwrap();
    assert_eq!((log.sync_requests(), log.waits()), (0, 1));
    for _ in 0..2 {
        outbox.send(&topic, Some(0), &big()).unwrap().detach();
    }
    assert_eq!((log.sync_requests(), log.waits()), (1, 1));
    flush(&outbox).unwrap();
    assert_eq!(log.waits(), 2);
    flush(&outbox).unwrap();
    assert_eq!(log.waits(), 2, "there is nothing left to wait for");
}

#[test]
fn a_full_buffer_is_written_by_the_sender() {
    let topic = FakeTopic::new(50, TopicConfig::new());
    let bound = 64 << 10;
    let config =
        ProducerConfig::new().batch_bytes(8 << 10).buffer_bytes(bound).linger(Duration::from_secs(3_600));
    let outbox = outbox(&topic, config);
    for n in 0..5_000u32 {
        outbox.send(&topic, Some(n % 50), &Record::new([1; 100])).unwrap().detach();
        assert!(outbox.core().buffered() <= bound + (8 << 10));
    }
    flush(&outbox).unwrap();
    assert_eq!(outbox.core().buffered(), 0);
    assert_eq!(topic.logs.iter().map(|log| log.values().len()).sum::<usize>(), 5_000);
}

#[test]
fn batches_of_other_threads_are_not_waited_for_but_can_be_awaited() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, ProducerConfig::new().batch_bytes(1 << 10).buffer_bytes(2 << 10));
    let log = &topic.logs[0];
    log.gate.shut();
    thread::scope(|scope| {
        let first = outbox.send(&topic, Some(0), &Record::new("first")).unwrap();
        let writer = scope.spawn(move || first.wait());
        log.gate.wait_until_a_thread_stops_there();
        let mut accepted = 0;
        let error = loop {
            match outbox.send(&topic, Some(0), &big()) {
                Ok(pending) => pending.detach(),
                Err(error) => break error,
            }
            accepted += 1;
            assert!(accepted < 10);
        };
        assert!(matches!(error, Error::BufferFull { .. }));
        let (waker, woken) = Flag::waker();
        let mut waiting = RoomWait::new(outbox.core(), 910);
        let polled = waiting
            .poll(&Context::from_waker(&waker), || outbox.send(&topic, Some(0), &big()).map(Pending::detach));
        assert!(polled.is_pending());
        assert!(!woken.load(Ordering::SeqCst));
        log.gate.open();
        writer.join().unwrap().unwrap();
        assert!(woken.load(Ordering::SeqCst));
        outbox.send(&topic, Some(0), &Record::new("last")).unwrap().wait().unwrap();
        assert_eq!(log.values().len(), accepted + 2);
    });
}

/// However many partitions the producer has written.
#[test]
fn a_flush_visits_only_partitions_that_have_something() {
    let topic = FakeTopic::new(1_000, TopicConfig::new().durability(Durability::Sync));
    let outbox = outbox(&topic, ProducerConfig::new());
    for partition in 0..1_000 {
        outbox.send(&topic, Some(partition), &Record::new("a")).unwrap().detach();
    }
    assert_eq!(outbox.unflushed(), 1_000);
    flush(&outbox).unwrap();
    assert_eq!(outbox.unflushed(), 0, "all of them are written and durable");
    // Written by the sender, by the timer, with others, and past the buffers.
    outbox.send(&topic, Some(3), &Record::new("b")).unwrap().wait().unwrap();
    outbox.send(&topic, Some(4), &Record::new("c")).unwrap().detach();
    topic.clock.advance(Duration::from_millis(5));
    outbox.send_all(&topic, Some(5), [Record::new("d")].into_iter()).unwrap().wait().unwrap();
    outbox.note_written(&topic, 6, (Offset::new(1), 7)).unwrap();
    assert_eq!(outbox.unflushed(), 4);
    let waits = |partition: usize| topic.logs[partition].waits();
    let before = [3, 4, 5, 6, 7].map(waits);
    flush(&outbox).unwrap();
    let after = [3, 4, 5, 6, 7].map(waits);
    let grown: Vec<_> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    assert_eq!(grown, [1, 1, 1, 1, 0]);
    assert_eq!(outbox.unflushed(), 0);
}
