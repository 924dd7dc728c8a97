//! The producer against a log that records its calls, fails on demand, and stops on demand.
//!
//! The file is longer than 500 lines because all tests share the recording log at its end.

use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::config::ProducerConfig;
use super::core::Core;
use super::outbox::{Outbox, Target};
use super::pending::{Pending, Wait};
use super::sink::Sink;
use crate::broker::{Broker, ProducerIdentity};
use crate::clock::ManualClock;
use crate::config::{BrokerConfig, Compression, Durability, TopicConfig};
use crate::error::{Error, Outcome, Result, Space};
use crate::format::batch::{HEADER_BYTES, check_body};
use crate::format::body::{Records, validate};
use crate::format::compression::{Codec, decompress};
use crate::log::{Appended, LogSettings};
use crate::partitioner::{Partitioner, partition_for_key};
use crate::record::Record;
use crate::segment::builder::SealedBatch;
use crate::sync::{Arc, AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, thread};
use crate::types::{Offset, PartitionId, Receipt, Timestamp, TopicId, TopicName};

// -- order and failure --

#[test]
fn eight_threads_keep_their_order_in_every_partition() {
    const EACH: usize = 3_000;
    let topic = FakeTopic::new(2, TopicConfig::new().compression(Compression::Lz4));
    let outbox = outbox(&topic, small());
    thread::scope(|scope| {
        for sender in 0..8usize {
            let (outbox, topic) = (&outbox, &topic);
            scope.spawn(move || {
                let mut waiting: Vec<(String, Pending)> = Vec::new();
                for n in 0..EACH {
                    let text = format!("{sender} {n} {}", "x".repeat(n % 90));
                    let pending = outbox.send(topic, Some((n % 2) as u32), &Record::new(&text)).unwrap();
                    match n % 7 {
                        0 => assert_stored(topic, &pending.wait().unwrap(), &text),
                        1 => waiting.push((text, pending)),
                        _ => pending.detach(),
                    }
                }
                for (text, pending) in waiting {
                    assert_stored(topic, &pending.wait().unwrap(), &text);
                }
            });
        }
    });
    flush(&outbox).unwrap();
    for log in &topic.logs {
        let records = log.values();
        assert_eq!(records.len(), 8 * EACH / 2);
        let mut next = HashMap::new();
        for record in records {
            let mut words = record.split(' ').map(|word| word.parse::<usize>().unwrap_or(0));
            let (sender, n) = (words.next().unwrap(), words.next().unwrap());
            let before = next.insert(sender, n);
            assert!(
                before.is_none_or(|before| before < n),
                "record {n} of sender {sender} came after {before:?}"
            );
        }
    }
    assert_eq!(outbox.core().buffered(), 0);
}

#[test]
fn a_failed_batch_fails_all_after_it_and_the_next_send_works() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, small());
    let log = &topic.logs[0];
    log.fail_append(1);
    log.gate.shut();
    thread::scope(|scope| {
        let first = outbox.send(&topic, Some(0), &Record::new("first")).unwrap();
        let writer = scope.spawn(move || first.wait());
        log.gate.wait_until_a_thread_stops_there();
        // Two batches are sealed after it, a third is open.
        let after: Vec<_> = (0..3).map(|_| outbox.send(&topic, Some(0), &big()).unwrap()).collect();
        let open = outbox.send(&topic, Some(0), &Record::new("open")).unwrap();
        log.gate.open();
        let error = writer.join().unwrap().unwrap_err();
        for pending in after.into_iter().chain([open]) {
            assert_eq!(pending.wait().unwrap_err().to_string(), error.to_string());
        }
    });
    assert_eq!(outbox.core().buffered(), 0);
    let receipt = outbox.send(&topic, Some(0), &Record::new("next")).unwrap().wait().unwrap();
    assert_eq!(receipt.offset, 0);
    assert_eq!(log.values(), ["next"]);
    flush(&outbox).unwrap();
}

#[test]
fn another_partition_does_not_notice() {
    let topic = FakeTopic::new(2, TopicConfig::new());
    let outbox = outbox(&topic, small());
    topic.logs[0].gate.shut();
    thread::scope(|scope| {
        let held = outbox.send(&topic, Some(0), &Record::new("held")).unwrap();
        let writer = scope.spawn(move || held.wait());
        topic.logs[0].gate.wait_until_a_thread_stops_there();
        outbox.send(&topic, Some(1), &Record::new("free")).unwrap().wait().unwrap();
        topic.logs[0].gate.open();
        writer.join().unwrap().unwrap();
    });
}

#[test]
fn an_append_that_unwinds_leaves_no_thread_waiting() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, small());
    let log = &topic.logs[0];
    log.unwind_append(1);
    log.gate.shut();
    thread::scope(|scope| {
        let first = outbox.send(&topic, Some(0), &Record::new("first")).unwrap();
        let second = outbox.send(&topic, Some(0), &Record::new("first, too")).unwrap();
        let writer = scope.spawn(move || first.wait());
        log.gate.wait_until_a_thread_stops_there();
        let after = outbox.send(&topic, Some(0), &big()).unwrap();
        log.gate.open();
        assert!(writer.join().is_err());
        assert_eq!(second.wait().unwrap_err().outcome(), Outcome::Unknown);
        assert!(after.wait().is_err());
    });
    outbox.send(&topic, Some(0), &Record::new("next")).unwrap().wait().unwrap();
    assert_eq!(log.values(), ["next"]);
    assert_eq!(outbox.core().buffered(), 0);
}

#[test]
fn errors_of_acknowledgements_given_up_reach_the_flush_once() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, small());
    let log = &topic.logs[0];
    // Given up before the batch fails, while another one of the same batch is kept.
    log.fail_append(1);
    outbox.send(&topic, Some(0), &Record::new("a")).unwrap().detach();
    let kept = outbox.send(&topic, Some(0), &Record::new("b")).unwrap();
    assert!(flush(&outbox).is_err());
    assert!(flush(&outbox).is_ok());
    assert!(kept.wait().is_err());
    assert!(flush(&outbox).is_ok());
    // Given up after it.
    log.fail_append(1);
    let kept = outbox.send(&topic, Some(0), &Record::new("c")).unwrap();
    let dropped = outbox.send(&topic, Some(0), &Record::new("d")).unwrap();
    assert!(flush(&outbox).is_ok(), "both acknowledgements can still tell");
    drop(dropped);
    assert!(flush(&outbox).is_err());
    assert!(kept.wait().is_err());
    // Received, by waiting and by polling.
    log.fail_append(1);
    assert!(outbox.send(&topic, Some(0), &Record::new("e")).unwrap().wait().is_err());
    log.fail_append(1);
    assert!(block_on(outbox.send(&topic, Some(0), &Record::new("f")).unwrap()).is_err());
    log.fail_append(1);
    assert!(outbox.send_all(&topic, Some(0), [Record::new("g")].into_iter()).unwrap().wait().is_err());
    assert!(flush(&outbox).is_ok());
}

// -- when a batch is written --

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
fn a_batch_lingers_as_long_as_it_may() {
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
    let max = topic.logs[0].settings().max_batch_bytes();
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

// -- the bound --

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
        assert!(matches!(error, Error::BufferFull));
        let (waker, woken) = Flag::waker();
        outbox.core().wait_for_room(&waker);
        assert!(!woken.load(Ordering::SeqCst));
        log.gate.open();
        writer.join().unwrap().unwrap();
        assert!(woken.load(Ordering::SeqCst));
        outbox.send(&topic, Some(0), &Record::new("last")).unwrap().wait().unwrap();
        assert_eq!(log.values().len(), accepted + 2);
    });
}

// -- futures --

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
    shared::<super::Producer>();
    assert!(size_of::<Pending>() <= 40);
}

// -- refused records --

#[test]
fn refused_records_leave_no_trace() {
    let topic = FakeTopic::new(2, TopicConfig::new().max_record_bytes(100));
    let outbox = outbox(&topic, small());
    let send = |record: Record<'_>| outbox.send(&topic, Some(0), &record).map(Pending::detach);
    // Length, flags and the value's length are three bytes.
    send(Record::new([0; 97])).unwrap();
    for record in
        [Record::new([0; 98]), Record::null().key([0; 98]), Record::null().header("x".repeat(98), "")]
    {
        assert!(matches!(send(record), Err(Error::RecordTooLarge { limit: 100, size: 101.., .. })));
    }
    for (millis, good) in [
        (0, true),
        (1 << 62, true),
        (-1, false),
        ((1 << 62) + 1, false),
        (i64::MIN, false),
        (i64::MAX, false),
    ] {
        let sent = send(Record::null().timestamp(Timestamp::from_millis(millis)));
        match sent {
            Ok(()) => assert!(good, "{millis}"),
            Err(Error::InvalidTimestamp { timestamp, index: 0, .. }) => {
                assert!(!good && timestamp.as_millis() == millis)
            }
            Err(other) => panic!("{other}"),
        }
    }
    let unknown = outbox.send(&topic, Some(2), &Record::null());
    assert!(matches!(unknown, Err(Error::UnknownPartition { partition: 2, count: 2, .. })));
    assert!(outbox.send(&topic, Some(u32::MAX), &Record::null()).is_err());
    flush(&outbox).unwrap();
    assert_eq!(topic.logs[0].stored().len(), 3);
}

#[test]
fn an_ended_topic_takes_nothing_and_wakes_waiting_senders() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, ProducerConfig::new());
    let pending = outbox.send(&topic, Some(0), &Record::new("a")).unwrap();
    outbox.send(&topic, Some(0), &Record::new("b")).unwrap().detach();
    topic.ended.store(true, Ordering::SeqCst);
    topic.logs[0].fail_append(1);
    assert!(matches!(outbox.send(&topic, Some(0), &Record::new("c")), Err(Error::Closed)));
    assert!(matches!(outbox.send_all(&topic, None, [Record::new("c")].into_iter()), Err(Error::Closed)));
    let core = outbox.core().clone();
    drop(outbox);
    assert!(pending.wait().is_err());
    assert_eq!(core.buffered(), 0);
    assert!(core.take_failure().is_some());
}

// -- which partition --

#[test]
fn given_partition_then_partitioner_then_key_then_sticky() {
    struct Picky;
    impl Partitioner for Picky {
        fn partition(
            &self,
            topic: &TopicName,
            key: Option<&[u8]>,
            value: Option<&[u8]>,
            n: u32,
        ) -> Option<u32> {
            assert_eq!((topic.as_str(), n), ("fake", 12));
            match (key, value) {
                (_, Some(b"third")) => Some(3),
                (_, Some(b"beyond")) => Some(12),
                _ => None,
            }
        }
    }
    let topic = FakeTopic::new(12, TopicConfig::new());
    let outbox = outbox(&topic, ProducerConfig::new().partitioner(Picky));
    let partition =
        |to, record: Record<'_>| outbox.send(&topic, to, &record).unwrap().wait().unwrap().partition.get();
    assert_eq!(partition(Some(5), Record::new("third").key("kafka")), 5);
    assert_eq!(partition(None, Record::new("third").key("kafka")), 3);
    assert_eq!(partition(None, Record::new("other").key("kafka")), 4);
    assert_eq!(partition(None, Record::new("other").key("")), 9, "an empty key is a key");
    assert_eq!(partition(None, Record::tombstone("foobar")), 6);
    let beyond = outbox.send(&topic, None, &Record::new("beyond"));
    assert!(matches!(beyond, Err(Error::UnknownPartition { partition: 12, count: 12, .. })));
    let beyond = outbox.send_all(&topic, None, ["third", "beyond"].map(Record::new).into_iter());
    assert!(matches!(beyond, Err(Error::UnknownPartition { .. })));
    assert_eq!(topic.logs[3].values(), ["third"]);
}

#[test]
fn records_without_a_key_stay_for_a_batch_and_then_move() {
    let topic = FakeTopic::new(5, TopicConfig::new());
    let outbox = outbox(&topic, small());
    for _ in 0..10_000 {
        outbox.send(&topic, None, &Record::new([1; 97])).unwrap().detach();
    }
    flush(&outbox).unwrap();
    let (mut batches, mut records) = (0, 0);
    for log in &topic.logs {
        // 9 records of 100 bytes fill a batch of 1 KiB: none is left half full but the very last.
        assert!(log.counts().iter().filter(|count| **count != 9).count() <= 1, "{:?}", log.counts());
        assert!((150..300).contains(&log.batches()), "{}", log.batches());
        batches += log.batches();
        records += log.values_len();
    }
    assert_eq!((batches, records), (10_000usize.div_ceil(9), 10_000));
}

#[test]
fn batches_sealed_early_delay_the_move_to_twice_their_size_at_most() {
    let topic = FakeTopic::new(1_000, TopicConfig::new());
    let outbox = outbox(&topic, small());
    let mut runs = Vec::new();
    let mut last = (u32::MAX, 0);
    for n in 0..2_000 {
        let pending = outbox.send(&topic, None, &Record::new([1; 97])).unwrap();
        // Waiting for every fourth record seals the batches early, so that none is ever full.
        let Some(partition) = (n % 4 == 3).then(|| pending.wait().unwrap().partition.get()) else { continue };
        if partition == last.0 {
            last.1 += 4;
        } else {
            runs.push(last.1);
            last = (partition, 4);
        }
    }
    // A batch's worth is 924 bytes.
    assert!(runs.iter().skip(1).all(|run| (8..=20).contains(run)), "{runs:?}");
}

#[test]
fn the_path_over_the_partitions_follows_from_the_seed() {
    let path = |seed| {
        let topic = FakeTopic::new(100, TopicConfig::new());
        let core =
            Core::new(topic.broker.inner().ctx.clone(), ProducerConfig::new().linger(Duration::ZERO), None);
        let outbox = Outbox::new(core, seed);
        let value = vec![0; 70_000];
        let send = |_| outbox.send(&topic, None, &Record::new(&value)).unwrap().wait().unwrap().partition;
        (0..20).map(send).collect::<Vec<_>>()
    };
    assert_eq!(path(1), path(1));
    assert_ne!(path(1), path(2));
}

#[test]
fn partitions_that_are_added_are_seen() {
    let topic = FakeTopic::new(40, TopicConfig::new());
    topic.partitions.store(1, Ordering::SeqCst);
    let outbox = outbox(&topic, ProducerConfig::new());
    let send =
        |to| outbox.send(&topic, to, &Record::new("v").key("abc")).map(|p| p.wait().unwrap().partition.get());
    assert_eq!(send(None).unwrap(), 0);
    assert!(send(Some(39)).is_err());
    topic.partitions.store(40, Ordering::SeqCst);
    assert_eq!(send(None).unwrap(), partition_for_key(b"abc", 40));
    assert_eq!(send(Some(39)).unwrap(), 39);
}

#[test]
fn many_topics_keep_apart() {
    let topics: Vec<_> = (0..300).map(|_| FakeTopic::new(1, TopicConfig::new())).collect();
    let outbox = outbox(&topics[0], ProducerConfig::new());
    for (n, topic) in topics.iter().enumerate() {
        outbox.send(topic, None, &Record::new(n.to_string())).unwrap().detach();
    }
    flush(&outbox).unwrap();
    for (n, topic) in topics.iter().enumerate() {
        assert_eq!(topic.logs[0].values(), [n.to_string()]);
    }
}

// -- stored bytes --

#[test]
fn every_kind_of_record_comes_back() {
    for compression in [Compression::None, Compression::Lz4] {
        let topic = FakeTopic::new(1, TopicConfig::new().compression(compression));
        let outbox = outbox(&topic, ProducerConfig::new());
        let at = Timestamp::from_millis;
        let records = [
            Record::null(),
            Record::new(""),
            Record::new("v").key(""),
            Record::tombstone("k").timestamp(at(0)),
            Record::new("x".repeat(300))
                .header("a", "1")
                .null_header("a")
                .header("", "")
                .timestamp(at(1 << 62)),
            Record::new([0xff; 9]).key([0xfe; 200]).timestamp(at(5)),
        ];
        let receipts: Vec<_> = records.iter().map(|r| outbox.send(&topic, None, r).unwrap()).collect();
        let now = topic.broker.inner().ctx.clock.now();
        for (pending, record) in receipts.into_iter().zip(&records) {
            assert_eq!(pending.wait().unwrap().timestamp, record.given_timestamp().unwrap_or(now));
        }
        let expected = records.map(|record| {
            let timestamp = record.given_timestamp().unwrap_or(now);
            record.timestamp(timestamp)
        });
        assert_eq!(topic.logs[0].stored(), expected);
    }
}

#[test]
fn a_body_that_does_not_shrink_is_stored_uncompressed() {
    let topic = FakeTopic::new(1, TopicConfig::new().compression(Compression::Lz4));
    let outbox = outbox(&topic, ProducerConfig::new());
    outbox.send(&topic, None, &Record::new("short")).unwrap().wait().unwrap();
    outbox.send(&topic, None, &Record::new("long".repeat(100))).unwrap().wait().unwrap();
    assert_eq!(topic.logs[0].codecs(), [Codec::None, Codec::Lz4]);
}

// -- many at once --

#[test]
fn many_records_are_taken_in_order_and_answered_in_order() {
    let topic = FakeTopic::new(3, TopicConfig::new());
    let outbox = outbox(&topic, small());
    outbox.send(&topic, Some(1), &Record::new("before")).unwrap().detach();
    let texts: Vec<_> = (0..500).map(|n| format!("{n} {}", "x".repeat(n % 50))).collect();
    let records = texts.iter().enumerate().map(|(n, text)| {
        let record = Record::new(text).timestamp(Timestamp::from_millis(n as i64));
        if n % 3 == 0 { record } else { record.key(if n % 3 == 1 { "abc" } else { "kafka" }) }
    });
    let pending = outbox.send_all(&topic, None, records).unwrap();
    outbox.send(&topic, Some(1), &Record::new("after")).unwrap().detach();
    let receipts = pending.wait().unwrap();
    assert_eq!(receipts.len(), texts.len());
    for (n, (receipt, text)) in receipts.iter().zip(&texts).enumerate() {
        assert_stored(&topic, receipt, text);
        assert_eq!(receipt.timestamp.as_millis(), n as i64);
        match n % 3 {
            0 => {}
            1 => assert_eq!(receipt.partition.get(), partition_for_key(b"abc", 3)),
            _ => assert_eq!(receipt.partition.get(), partition_for_key(b"kafka", 3)),
        }
    }
    flush(&outbox).unwrap();
    let values = topic.logs[1].values();
    assert_eq!((values.first().unwrap().as_str(), values.last().unwrap().as_str()), ("before", "after"));
    assert_eq!(outbox.core().buffered(), 0);
}

#[test]
fn small_calls_share_a_batch() {
    let topic = FakeTopic::new(1, TopicConfig::new());
    let outbox = outbox(&topic, ProducerConfig::new());
    let mut last = Vec::new();
    for n in 0..50 {
        let records = [format!("{n} a"), format!("{n} b")];
        last.push(outbox.send_all(&topic, None, records.into_iter().map(Record::new)).unwrap());
        topic.clock.advance(Duration::from_micros(50));
    }
    let offsets: Vec<_> = last.into_iter().flat_map(|p| p.wait().unwrap()).map(|r| r.offset.get()).collect();
    assert_eq!(offsets, (0..100).collect::<Vec<_>>());
    assert_eq!(topic.logs[0].batches(), 1);
}

#[test]
fn small_calls_without_keys_move_on() {
    let topic = FakeTopic::new(10, TopicConfig::new());
    let outbox = outbox(&topic, small());
    for _ in 0..1_000 {
        outbox.send_all(&topic, None, [Record::new([0; 97])].into_iter()).unwrap().detach();
    }
    flush(&outbox).unwrap();
    let lens: Vec<_> = topic.logs.iter().map(|log| log.values_len()).collect();
    assert!(lens.iter().all(|len| (1..250).contains(len)), "{lens:?}");
}

#[test]
fn all_records_are_taken_or_none() {
    let topic = FakeTopic::new(2, TopicConfig::new().max_record_bytes(1_000));
    let outbox = outbox(&topic, ProducerConfig::new().buffer_bytes(64 << 10));
    outbox.send(&topic, Some(0), &Record::new("before")).unwrap().detach();
    let good = || (0..100).map(|_| Record::new([1; 100]));
    let bad_time = Record::null().timestamp(Timestamp::from_millis(-5));
    let error = outbox.send_all(&topic, Some(0), good().chain([bad_time])).unwrap_err();
    assert!(matches!(error, Error::InvalidTimestamp { index: 100, .. }));
    let error = outbox.send_all(&topic, Some(0), good().chain([Record::new([0; 1_000])])).unwrap_err();
    assert!(matches!(error, Error::RecordTooLarge { limit: 1_000, .. }));
    let error = outbox.send_all(&topic, Some(0), good().chain(good()).cycle()).unwrap_err();
    assert!(matches!(error, Error::BufferFull));
    // The caller's iterator may send through the same producer: no lock is held.
    let nested = (0..3).map(|_| {
        outbox.send(&topic, Some(0), &Record::new("nested")).unwrap().detach();
        Record::new("outer")
    });
    outbox.send_all(&topic, Some(0), nested).unwrap().wait().unwrap();
    assert_eq!(outbox.send_all(&topic, None, std::iter::empty()).unwrap().wait().unwrap(), []);
    flush(&outbox).unwrap();
    assert_eq!(topic.logs[0].values(), ["before", "nested", "nested", "nested", "outer", "outer", "outer"]);
    assert_eq!(outbox.core().buffered(), 0);
}

// -- through a broker --

#[test]
fn a_broker_serves_all_destinations() {
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).seed(1).in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let producer = broker.producer();
    let partition = topic.partition(2).unwrap();
    assert_eq!(producer.send(&partition, Record::new("a")).unwrap().wait().unwrap().partition.get(), 2);
    let receipt = producer.send(&topic, Record::new("a").key("abc")).unwrap().wait().unwrap();
    assert_eq!(receipt.partition.get(), partition_for_key(b"abc", 3));
    assert_eq!(producer.send("t", Record::new("b").key("abc")).unwrap().wait().unwrap().offset, 1);
    assert!(matches!(producer.send("u", Record::null()), Err(Error::UnknownTopic { .. })));
    let sent = producer.send_async("t", Record::new("c").key("abc"));
    assert_eq!(block_on(sent).unwrap().offset, 2);
    assert_eq!(producer.send_all("t", ["d", "e"].map(Record::new)).unwrap().wait().unwrap().len(), 2);
    // Lingering records are written when time passes, when the producer is dropped, and when the
    // broker is closed.
    producer.send(&topic, Record::new("f").key("abc")).unwrap().detach();
    clock.advance(Duration::from_millis(5));
    assert_eq!(end(&topic, "abc"), 4);
    producer.send(&topic, Record::new("g").key("abc")).unwrap().detach();
    producer.flush().unwrap();
    block_on(producer.flush_async()).unwrap();
    let last = producer.send(&topic, Record::new("h").key("abc")).unwrap();
    let other = producer.clone();
    drop(producer);
    broker.close().unwrap();
    assert!(last.wait().is_ok());
    assert!(matches!(other.send(&topic, Record::null()), Err(Error::Closed)));
    assert!(matches!(other.send("t", Record::null()), Err(Error::Closed)));
}

fn end(topic: &crate::topic::Topic, key: &str) -> u64 {
    let partition = topic.partition(partition_for_key(key.as_bytes(), 3)).unwrap();
    partition.bounds().unwrap().visible_end.get()
}

// -- the stand-ins --

/// A topic whose logs are lists. Its broker is there for the clock, the timer and the memory.
struct FakeTopic {
    id: TopicId,
    name: TopicName,
    logs: Vec<Arc<FakeLog>>,
    partitions: AtomicUsize,
    ended: AtomicBool,
    broker: Broker,
    clock: ManualClock,
}

impl FakeTopic {
    fn new(partitions: u32, config: TopicConfig) -> Arc<Self> {
        let clock = ManualClock::new();
        let broker = BrokerConfig::new().clock(clock.clone()).in_memory().unwrap();
        let name = TopicName::new("fake").unwrap();
        let log = |partition| Arc::new(FakeLog::new(&name, partition, &config));
        let logs: Vec<_> = (0..partitions).map(log).collect();
        let partitions = AtomicUsize::new(logs.len());
        // All in one chain of the outbox: the hardest case.
        Arc::new(FakeTopic {
            id: TopicId([7; 16]),
            name,
            logs,
            partitions,
            ended: AtomicBool::new(false),
            broker,
            clock,
        })
    }
}

impl Target for FakeTopic {
    fn id(&self) -> &TopicId {
        &self.id
    }

    fn name(&self) -> &TopicName {
        &self.name
    }

    fn partitions(&self) -> u32 {
        self.partitions.load(Ordering::SeqCst) as u32
    }

    fn check(&self) -> Result<()> {
        if self.ended.load(Ordering::SeqCst) { Err(Error::Closed) } else { Ok(()) }
    }

    fn timestamps(&self, _: Timestamp) -> Option<(Timestamp, Timestamp)> {
        Some((Timestamp::default(), Timestamp::MAX))
    }

    fn sink(&self, partition: u32) -> Option<Box<dyn Sink>> {
        (partition < self.partitions())
            .then(|| Box::new(self.logs[partition as usize].clone()) as Box<dyn Sink>)
    }
}

struct FakeLog {
    topic: TopicName,
    partition: PartitionId,
    settings: Arc<LogSettings>,
    state: Mutex<FakeState>,
    gate: Gate,
}

#[derive(Default)]
struct FakeState {
    stored: Vec<Record<'static>>,
    sizes: Vec<usize>,
    counts: Vec<u32>,
    codecs: Vec<Codec>,
    fault: Option<(usize, Fault)>,
    visible: u64,
    waits: usize,
    sync_requests: usize,
    wakers: Vec<Waker>,
}

#[derive(Clone, Copy)]
enum Fault {
    Error,
    Unwind,
}

impl FakeLog {
    fn new(topic: &TopicName, partition: u32, config: &TopicConfig) -> Self {
        FakeLog {
            topic: topic.clone(),
            partition: PartitionId::new(partition),
            settings: LogSettings::new(config.clone(), Durability::Os),
            state: Mutex::new(crate::sync::Rank::Test, Default::default()),
            gate: Gate::default(),
        }
    }

    fn fail_append(&self, nth: usize) {
        self.state.lock().fault = Some((nth, Fault::Error));
    }

    fn unwind_append(&self, nth: usize) {
        self.state.lock().fault = Some((nth, Fault::Unwind));
    }

    fn stored(&self) -> Vec<Record<'static>> {
        self.state.lock().stored.clone()
    }

    fn values(&self) -> Vec<String> {
        let text = |record: &Record<'_>| {
            String::from_utf8_lossy(record.value_bytes().unwrap_or_default()).into_owned()
        };
        self.state.lock().stored.iter().map(text).collect()
    }

    fn values_len(&self) -> usize {
        self.state.lock().stored.len()
    }

    fn batches(&self) -> usize {
        self.state.lock().sizes.len()
    }

    fn sizes(&self) -> Vec<usize> {
        self.state.lock().sizes.clone()
    }

    fn counts(&self) -> Vec<u32> {
        self.state.lock().counts.clone()
    }

    fn codecs(&self) -> Vec<Codec> {
        self.state.lock().codecs.clone()
    }

    fn waits(&self) -> usize {
        self.state.lock().waits
    }

    fn sync_requests(&self) -> usize {
        self.state.lock().sync_requests
    }

    fn make_visible(&self) {
        let mut state = self.state.lock();
        state.visible = state.stored.len() as u64;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Sink for Arc<FakeLog> {
    fn topic(&self) -> &TopicName {
        &self.topic
    }

    fn partition(&self) -> PartitionId {
        self.partition
    }

    fn settings(&self) -> Arc<LogSettings> {
        self.settings.clone()
    }

    fn append(&self, batch: SealedBatch, _: Option<&ProducerIdentity>) -> Result<Appended> {
        self.gate.pass();
        let mut state = self.state.lock();
        if let Some((left, fault)) = &mut state.fault {
            *left -= 1;
            let (left, fault) = (*left, *fault);
            if left == 0 {
                state.fault = None;
                drop(state);
                match fault {
                    Fault::Error => {
                        return Err(Error::DiskFull { path: "fake".into(), cause: Space::NoSpace });
                    }
                    Fault::Unwind => panic!("the append unwinds"),
                }
            }
        }
        let SealedBatch { header, stored, raw, .. } = batch;
        check_body(&header, &stored[HEADER_BYTES..]).unwrap();
        let codec = Codec::from_number(header.codec).unwrap();
        let mut body = Vec::new();
        let (records, table) =
            stored[HEADER_BYTES..].split_at(stored.len() - HEADER_BYTES - header.table_bytes() as usize);
        decompress(codec, records, header.uncompressed_len as usize, &mut body).unwrap();
        assert_eq!(raw.is_some(), codec != Codec::None);
        assert!(raw.is_none_or(|raw| raw[HEADER_BYTES..] == body));
        validate(&header, &body, table).unwrap();
        let base = state.stored.len() as u64;
        let mut max = Timestamp::from_millis(i64::MIN);
        for record in Records::new(&body, header.count) {
            let record = record.unwrap();
            let timestamp = header.timestamp(record.timestamp_delta);
            max = max.max(timestamp);
            let mut copy = Record::from_parts(record.key, record.value).timestamp(timestamp);
            for (name, value) in record.headers {
                copy = match value {
                    Some(value) => copy.header(name, value),
                    None => copy.null_header(name),
                };
            }
            state.stored.push(copy.into_owned());
        }
        assert_eq!(max, header.max_timestamp);
        assert_eq!(header.last_offset_delta + 1, header.count);
        state.sizes.push(stored.len());
        state.counts.push(header.count);
        state.codecs.push(codec);
        let end = state.stored.len() as u64;
        if self.settings.durability == Durability::Os {
            state.visible = end;
        }
        Ok(Appended { base_offset: Offset::new(base), end: Offset::new(end), epoch: 7, append_time: None })
    }

    fn wait_visible(&self, end: Offset, _: u32) -> Result<()> {
        let mut state = self.state.lock();
        state.waits += 1;
        state.visible = state.visible.max(end.get());
        Ok(())
    }

    fn poll_visible(&self, end: Offset, _: u32, waker: &Waker) -> Poll<Result<()>> {
        let mut state = self.state.lock();
        if state.visible >= end.get() {
            return Poll::Ready(Ok(()));
        }
        state.wakers.push(waker.clone());
        Poll::Pending
    }

    fn may_have_lost(&self, _: u32) -> bool {
        false
    }

    fn request_sync(&self) {
        self.state.lock().sync_requests += 1;
    }
}

/// A place that appends pass, unless it is shut.
struct Gate {
    /// Shut, and how many stand there.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Default for Gate {
    fn default() -> Self {
        Gate { state: Mutex::new(crate::sync::Rank::Test, (false, 0)), changed: Condvar::new() }
    }
}

impl Gate {
    fn shut(&self) {
        self.state.lock().0 = true;
    }

    fn open(&self) {
        self.state.lock().0 = false;
        self.changed.notify_all();
    }

    fn wait_until_a_thread_stops_there(&self) {
        let mut state = self.state.lock();
        while state.1 == 0 {
            self.changed.wait(&mut state);
        }
    }

    fn pass(&self) {
        let mut state = self.state.lock();
        state.1 += 1;
        self.changed.notify_all();
        while state.0 {
            self.changed.wait(&mut state);
        }
        state.1 -= 1;
    }
}

fn outbox(topic: &Arc<FakeTopic>, config: ProducerConfig) -> Outbox<FakeTopic> {
    config.validate().unwrap();
    Outbox::new(Core::new(topic.broker.inner().ctx.clone(), config, None), 42)
}

fn flush(outbox: &Outbox<FakeTopic>) -> Result<()> {
    Box::new(outbox.flush()).wait()
}

/// The smallest batches, and no lingering that could be noticed.
fn small() -> ProducerConfig {
    ProducerConfig::new().batch_bytes(1 << 10).linger(Duration::from_secs(3_600))
}

/// No two of these fit one of [`small`]'s batches, nor one beside another record.
fn big() -> Record<'static> {
    Record::new([b'b'; 910])
}

fn assert_stored(topic: &FakeTopic, receipt: &Receipt, text: &str) {
    let state = topic.logs[receipt.partition.get() as usize].state.lock();
    assert_eq!(state.stored[receipt.offset.get() as usize].value_bytes(), Some(text.as_bytes()));
}

struct Flag(Arc<AtomicBool>);

impl Flag {
    fn waker() -> (Waker, Arc<AtomicBool>) {
        let flag = Arc::new(AtomicBool::new(false));
        (Waker::from(Arc::new(Flag(flag.clone()))), flag)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
