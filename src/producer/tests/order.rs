//! Order and failure: a batch that fails takes the batches after it with it.

use std::collections::HashMap;

use super::fakes::{FakeTopic, assert_stored, big, block_on, flush, outbox, small};
use crate::config::{Compression, TopicConfig};
use crate::error::Outcome;
use crate::producer::pending::Pending;
use crate::record::Record;
use crate::sync::thread;

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
fn a_failed_append_leaves_other_partitions_alone() {
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
fn a_flush_reports_errors_of_detached_acknowledgements_once() {
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
