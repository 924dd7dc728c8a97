//! Dropping the tail of a log, or all of it: the records that stay, and the reports to readers and
//! waiting callers.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quipu::stats::Event;
use quipu::testing::{Disk, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Compression, Durability, Error, Offset, OffsetReset, Partition, Pending, Receipt,
    Record, SkipReason, Start, Timestamp, TopicConfig,
};

use crate::common::{assert_filled, at, files, fill, open, send, small, value};

const NOW: Duration = Duration::ZERO;

fn with(disk: &Disk, config: TopicConfig) -> (Broker, Partition) {
    let broker = open(disk).unwrap();
    let partition = broker.ensure_topic("t", config).unwrap().partition(0).unwrap();
    (broker, partition)
}

fn filled(disk: &Disk, end: u64) -> (Broker, Partition) {
    let (broker, partition) = with(disk, small());
    fill(&broker, &partition, end);
    assert!(end < 20 || partition.segments().len() >= 3);
    (broker, partition)
}

/// Records of one batch, with the times that follow `time`.
fn send_batch(broker: &Broker, to: &Partition, values: &[String], time: i64) {
    let records = values.iter().zip(time..).map(|(value, time)| {
        Record::new(value.as_str())
            .key(&b"key"[..])
            .timestamp(Timestamp::from_millis(time))
            .header("name", &b"content"[..])
            .null_header("none")
    });
    broker.producer().send_all(to, records).unwrap().wait().unwrap();
}

fn ends(partition: &Partition) -> (u64, u64, u64, u64) {
    let b = partition.bounds().unwrap();
    (b.log_start.get(), b.visible_end.get(), b.durable_end.get(), b.log_end.get())
}

/// The epoch after a stop: a power loss begins one, since nothing proves where the log had ended.
fn after(epoch: u32, case: &str) -> u32 {
    epoch + u32::from(["power lost", "zeroed"].contains(&case))
}

/// Again after a clean close, after the process died, and after a power loss.
fn after_each_stop(disk: &Disk, check: impl Fn(&Broker, &Partition, &str)) {
    for (survive, case) in [
        (None, "closed"),
        (Some(Survive::Everything), "died"),
        (Some(Survive::Synced), "power lost"),
        (Some(Survive::Zeroed(3)), "zeroed"),
    ] {
        let disk = disk.duplicate();
        match survive {
            None => open(&disk).unwrap().close().unwrap(),
            Some(survive) => disk.crash(survive),
        }
        let broker = open(&disk).unwrap();
        // After a kill an opening leaves that to the next sync.
        broker.sync().unwrap();
        assert!(
            broker.open_report().damaged.is_empty() && broker.open_report().truncated_tails.is_empty(),
            "{case}"
        );
        check(&broker, &broker.topic("t").unwrap().partition(0).unwrap(), case);
    }
}

// 20, 23
#[test]
fn truncate_to_sets_the_log_end_and_appends_continue_there() {
    // To 0, into each segment, to the base of each, to the last record.
    for to in 0..40 {
        let disk = Disk::new();
        let (broker, partition) = filled(&disk, 40);
        let bases: Vec<_> = partition.segments().iter().map(|s| s.base_offset.get()).collect();
        partition.truncate_to(to.into()).unwrap();
        assert_eq!(ends(&partition), (0, to, to, to));
        assert_eq!(partition.epoch(), 1);
        assert_filled(&partition, to, "cut");
        let kept = bases.iter().filter(|base| **base < to).count();
        assert_eq!(partition.segments().len(), kept + 1, "{bases:?} {to}");
        assert_eq!(files(&disk, "topics/t/0", ".log").len(), kept + 1);
        after_each_stop(&disk, |_, partition, case| {
            assert_eq!(
                (ends(partition), partition.epoch()),
                ((0, to, to, to), after(1, case)),
                "{to} {case}"
            );
            assert_filled(partition, to, case);
        });
        fill(&broker, &partition, 60);
        assert_filled(&partition, 60, "grown");
        broker.sync().unwrap();
        after_each_stop(&disk, |_, partition, case| assert_filled(partition, 60, case));
    }
}

// 20
#[test]
fn truncation_at_or_beyond_the_end_does_nothing() {
    let (disk, operations) = (Disk::new(), |disk: &Disk| disk.ops_of(Op::Any));
    let (_broker, partition) = filled(&disk, 10);
    let before = operations(&disk);
    for to in [10, 11, u64::MAX] {
        partition.truncate_to(to.into()).unwrap();
    }
    assert_eq!((ends(&partition).3, partition.epoch(), operations(&disk)), (10, 0, before));
}

// 20, 24
#[test]
fn a_truncation_stops_at_the_log_start() {
    let disk = Disk::new();
    let (broker, partition) = filled(&disk, 40);
    partition.delete_records(25.into()).unwrap();
    let refused = partition.truncate_to(24.into());
    assert!(
        matches!(refused, Err(Error::OffsetOutOfRange { earliest, .. }) if earliest == 25),
        "{refused:?}"
    );
    assert_eq!((ends(&partition).3, partition.epoch()), (40, 0));
    partition.truncate_to(25.into()).unwrap();
    assert_eq!(ends(&partition), (25, 25, 25, 25));
    assert!(partition.read(Start::Beginning, 1 << 20).unwrap().is_empty());
    after_each_stop(&disk, |_, partition, case| assert_eq!(ends(partition), (25, 25, 25, 25), "{case}"));
    assert_eq!(send(&broker, &partition, "v").unwrap().offset, 25);
    // And the start may follow.
    partition.truncate_to(25.into()).unwrap();
    fill(&broker, &partition, 60);
    assert_eq!(partition.delete_records(50.into()).unwrap(), 50);
    assert_eq!(ends(&partition).0, 50);
    assert_eq!(
        partition.read(at(50), 1).unwrap().iter().next().unwrap().value().unwrap(),
        value(50).as_bytes()
    );
}

// 20, 21, 22
#[test]
fn a_batch_across_the_truncation_keeps_its_first_records() {
    for compression in [Compression::None, Compression::Lz4] {
        for to in 0..30u64 {
            let disk = Disk::new();
            let (broker, partition) = with(&disk, TopicConfig::new().compression(compression));
            let values: Vec<_> = (0..30).map(value).collect();
            for n in 0..3 {
                send_batch(&broker, &partition, &values[n * 10..][..10], 1_000 + n as i64 * 10);
            }
            let before = partition.read(Start::Beginning, 1 << 20).unwrap();
            partition.truncate_to(to.into()).unwrap();
            let check = |partition: &Partition, case: &str| {
                assert_eq!(ends(partition), (0, to, to, to), "{case}");
                let after = partition.read(Start::Beginning, 1 << 20).unwrap();
                assert_eq!(after.len() as u64, to);
                for (before, after) in before.iter().zip(&after) {
                    assert_eq!(
                        (after.offset(), after.timestamp(), after.key(), after.value()),
                        (before.offset(), before.timestamp(), before.key(), before.value())
                    );
                    assert!(after.headers().eq(before.headers()), "{case}");
                }
                let latest = to.checked_sub(1).map(|last| (Offset::new(last), 1_000 + last as i64));
                let found = partition.max_timestamp().unwrap().map(|(o, t)| (o, t.as_millis()));
                assert_eq!(found, latest, "{case}");
                for offset in 0..30 {
                    let found =
                        partition.offset_for_time(Timestamp::from_millis(1_000 + offset as i64)).unwrap();
                    let found = found.map(|(offset, time)| (offset, time.as_millis()));
                    let expected = (Offset::new(offset), 1_000 + offset as i64);
                    assert_eq!(found, (offset < to).then_some(expected), "{case}");
                }
            };
            check(&partition, "cut");
            after_each_stop(&disk, |_, partition, case| check(partition, case));
            send_batch(&broker, &partition, &values[to as usize..], 5_000);
            assert_filled(&partition, 30, "sent again");
        }
    }
}

#[test]
fn a_log_start_within_the_batch_stays() {
    let disk = Disk::new();
    let (broker, partition) = with(&disk, TopicConfig::new());
    send_batch(&broker, &partition, &(0..10).map(value).collect::<Vec<_>>(), 0);
    partition.delete_records(4.into()).unwrap();
    partition.truncate_to(7.into()).unwrap();
    assert_eq!(ends(&partition), (4, 7, 7, 7));
    let check = |partition: &Partition| {
        let records = partition.read(Start::Beginning, 1 << 20).unwrap();
        assert_eq!(records.iter().map(|r| r.offset().get()).collect::<Vec<_>>(), [4, 5, 6]);
    };
    check(&partition);
    after_each_stop(&disk, |_, partition, _| check(partition));
}

// 24
#[test]
fn reset_to_starts_the_log_at_any_offset() {
    for offset in [0, 3, 25, 40, 41, 1_000_000_000_000] {
        let disk = Disk::new();
        let (broker, partition) = filled(&disk, 40);
        partition.delete_records(10.into()).unwrap();
        partition.reset_to(offset.into()).unwrap();
        let empty = (offset, offset, offset, offset);
        assert_eq!((ends(&partition), partition.epoch()), (empty, 1));
        assert_eq!(files(&disk, "topics/t/0", ".log").len(), 1);
        assert_eq!(partition.max_timestamp().unwrap(), None);
        after_each_stop(&disk, |broker, partition, case| {
            assert_eq!((ends(partition), partition.epoch()), (empty, after(1, case)), "{case}");
            assert_eq!(send(broker, partition, "first").unwrap().offset, offset, "{case}");
        });
        for n in 0..30 {
            assert_eq!(send(&broker, &partition, &value(n)).unwrap().offset, offset + n);
        }
        assert_eq!(partition.last_n(1).unwrap().last().unwrap().value().unwrap(), value(29).as_bytes());
    }
    let (_broker, partition) = filled(&Disk::new(), 1);
    assert!(matches!(partition.reset_to(u64::MAX.into()), Err(Error::OffsetOutOfRange { .. })));
    assert_eq!((ends(&partition).3, partition.epoch()), (1, 0));
}

// 20, 24
#[test]
fn a_reader_beyond_the_truncation_gets_a_report_and_follows_its_policy() {
    type Case = (fn(&Partition), u64, [u64; 3]);
    let cases: [Case; 3] = [
        (|partition| partition.truncate_to(12.into()).unwrap(), 12, [0, 12, 20]),
        (|partition| partition.reset_to(5.into()).unwrap(), 0, [5, 5, 13]),
        (|partition| partition.reset_to(100.into()).unwrap(), 0, [100, 100, 108]),
    ];
    for (act, at, expected) in cases {
        for (policy, to) in
            [OffsetReset::Beginning, OffsetReset::Nearest, OffsetReset::End].into_iter().zip(expected)
        {
            let disk = Disk::new();
            let (broker, partition) = filled(&disk, 20);
            let mut reader = broker.reader(["t"], Start::At(Offset::new(15))).unwrap().offset_reset(policy);
            reader = reader.max_records(1);
            assert_eq!(reader.poll(NOW).unwrap().last().unwrap().offset(), 15);
            let position = reader.position("t", 0).unwrap();
            act(&partition);
            for _ in 0..8 {
                send(&broker, &partition, "new").unwrap();
            }
            let polled = reader.poll(NOW).unwrap();
            let [skipped] = polled.skipped() else { panic!("{:?}", polled.skipped()) };
            assert_eq!((skipped.from.get(), skipped.to.get()), (16, to), "{policy:?}");
            assert!(
                matches!(skipped.reason, SkipReason::Truncated { at: found, .. } if found == at),
                "{skipped}"
            );
            assert!(polled.iter().all(|record| record.offset() == to));
            // A position that was kept somewhere knows it after a restart too.
            after_each_stop(&disk, |broker, _, case| {
                let mut reader = broker
                    .reader_at(std::slice::from_ref(&position))
                    .unwrap()
                    .offset_reset(OffsetReset::Fail);
                let polled = reader.poll(NOW);
                assert!(matches!(polled, Err(Error::Truncated { to, .. }) if to == at), "{case} {polled:?}");
            });
        }
    }
}

#[test]
fn a_reader_before_the_truncation_continues_and_keeps_its_records() {
    let (broker, partition) = filled(&Disk::new(), 20);
    let mut reader = broker
        .reader(["t"], Start::At(Offset::new(8)))
        .unwrap()
        .offset_reset(OffsetReset::Fail)
        .max_records(4);
    let held = reader.poll(NOW).unwrap();
    partition.truncate_to(12.into()).unwrap();
    assert!(held.iter().map(|r| r.value().unwrap().to_vec()).eq((8..12).map(|n| value(n).into_bytes())));
    assert!(reader.poll(NOW).unwrap().is_empty());
    send(&broker, &partition, "instead").unwrap();
    assert_eq!(reader.poll(NOW).unwrap().last().unwrap().value().unwrap(), b"instead");
}

#[test]
fn loaded_records_beyond_the_truncation_are_not_delivered() {
    let (broker, partition) = with(&Disk::new(), TopicConfig::new());
    send_batch(&broker, &partition, &(0..10).map(value).collect::<Vec<_>>(), 0);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(3);
    assert_eq!(reader.poll(NOW).unwrap().len(), 3);
    partition.truncate_to(5.into()).unwrap();
    assert_eq!(reader.poll(NOW).unwrap().iter().map(|r| r.offset().get()).collect::<Vec<_>>(), [3, 4]);
    assert!(reader.poll(NOW).unwrap().is_empty());
}

#[test]
fn a_caller_waiting_for_a_truncated_record_gets_an_error() {
    let disk = Disk::new();
    let (broker, partition) = with(&disk, small().durability(Durability::Sync));
    fill(&broker, &partition, 10);
    let producer = broker.producer();
    let kept = producer.send(&partition, Record::new("kept")).unwrap();
    let dropped = producer.send_all(&partition, [Record::new("a"), Record::new("b")]).unwrap();
    producer.flush().unwrap();
    partition.truncate_to(12.into()).unwrap();
    assert_eq!(kept.wait().unwrap().offset, 10);
    let told = dropped.wait();
    assert!(matches!(told, Err(Error::Truncated { to, .. }) if to == 12), "{told:?}");
    // Records that are not written yet are appended after the truncation.
    let open = producer.send(&partition, Record::new("later")).unwrap();
    partition.truncate_to(10.into()).unwrap();
    assert_eq!(open.wait().unwrap().offset, 10);
}

#[test]
fn a_flush_succeeds_after_its_records_were_truncated_on_request() {
    for reset in [false, true] {
        let disk = Disk::new();
        let (broker, partition) = with(&disk, small().durability(Durability::Sync));
        let producer = broker.producer();
        producer.send(&partition, Record::new("acknowledged")).unwrap().wait().unwrap();
        producer.send(&partition, Record::new("detached")).unwrap().detach();
        producer.send(&partition, Record::new("acknowledged too")).unwrap().wait().unwrap();
        match reset {
            false => partition.truncate_to(0.into()).unwrap(),
            true => partition.reset_to(9.into()).unwrap(),
        }
        producer.flush().unwrap();
        // A loss by a failure is different: no caller requested it.
        producer.send(&partition, Record::new("detached")).unwrap().detach();
        disk.fail(Op::Sync, 1, ErrorKind::Other);
        producer.send(&partition, Record::new("lost")).unwrap().wait().unwrap_err();
        partition.reopen().unwrap();
        let told = producer.flush();
        assert!(matches!(told, Err(Error::Truncated { .. })), "{told:?}");
        producer.flush().unwrap();
    }
}

/// Under a manual clock nothing has to be waited for.
fn polled_once<F: Future>(future: F) -> F::Output {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("still pending"),
    }
}

/// Several acknowledgements may hang on one batch: each is of its own records.
#[test]
fn the_kept_records_of_a_truncated_batch_are_acknowledged() {
    for (durability, polled) in
        [(Durability::Sync, false), (Durability::Sync, true), (Durability::Os, false), (Durability::Os, true)]
    {
        let disk = Disk::new();
        let (broker, partition) = with(&disk, small().durability(durability));
        fill(&broker, &partition, 10);
        let producer = broker.producer();
        let one = |value: &'static str| producer.send(&partition, Record::new(value)).unwrap();
        let kept = one("10");
        let both = producer.send_all(&partition, [Record::new("11"), Record::new("12")]).unwrap();
        let half = producer.send_all(&partition, [Record::new("13"), Record::new("14")]).unwrap();
        let cut = one("15");
        producer.flush().unwrap();
        assert_eq!(partition.stats().batches_appended, 11, "one batch");
        partition.truncate_to(14.into()).unwrap();
        for value in ["other", "records", "instead"] {
            send(&broker, &partition, value).unwrap();
        }
        let answer = |pending: Pending| if polled { polled_once(pending) } else { pending.wait() };
        let answers =
            |pending: Pending<Vec<Receipt>>| if polled { polled_once(pending) } else { pending.wait() };
        assert_eq!(answer(kept).unwrap().offset, 10);
        let receipts = answers(both).unwrap();
        assert_eq!(receipts.iter().map(|r| r.offset.get()).collect::<Vec<_>>(), [11, 12]);
        for told in [answers(half).map(drop), answer(cut).map(drop)] {
            assert!(matches!(told, Err(Error::Truncated { to, .. }) if to == 14), "{told:?}");
        }
    }
}

// 19, 22
#[test]
fn max_timestamp_and_time_lookup_follow_a_truncation() {
    let disk = Disk::new();
    let (broker, partition) = with(&disk, small());
    // The latest of all times lies in the middle; others rise and fall.
    let time = |n: u64| if n == 17 { 10_000 } else { 1_000 + (n as i64 * 7 % 23) * 10 };
    for n in 0..40 {
        let record = Record::new(value(n)).timestamp(Timestamp::from_millis(time(n)));
        broker.producer().send(&partition, record).unwrap().wait().unwrap();
    }
    assert!(partition.segments().len() >= 3);
    let whole = disk.clone();
    drop((broker, partition));
    for to in 0..40 {
        let disk = whole.duplicate();
        let broker = open(&disk).unwrap();
        let partition = broker.topic("t").unwrap().partition(0).unwrap();
        partition.truncate_to(to.into()).unwrap();
        let check = |partition: &Partition, case: &str| {
            let found = partition.max_timestamp().unwrap().map(|(o, t)| (o.get(), t.as_millis()));
            // The first of those that share it.
            let latest = (0..to).max_by_key(|n| (time(*n), std::cmp::Reverse(*n))).map(|n| (n, time(n)));
            assert_eq!(found, latest, "{to} {case}");
            for at in [0, 1_000, 1_005, 1_100, 1_220, 1_221, 10_000, 10_001] {
                let found = partition.offset_for_time(Timestamp::from_millis(at)).unwrap();
                let found = found.map(|(offset, time)| (offset.get(), time.as_millis()));
                let expected = (0..to).find(|n| time(*n) >= at).map(|n| (n, time(n)));
                assert_eq!(found, expected, "{to} {case} {at}");
            }
        };
        check(&partition, "cut");
        after_each_stop(&disk, |_, partition, case| check(partition, case));
    }
}

// 23
#[test]
fn a_log_truncated_to_nothing_assigns_the_same_offsets_again() {
    let disk = Disk::new();
    let (broker, partition) = filled(&disk, 40);
    for start in [0, 7, 31] {
        partition.delete_records(start.into()).unwrap();
        partition.truncate_to(start.into()).unwrap();
        assert_eq!(ends(&partition), (start, start, start, start));
        for n in start..40 {
            assert_eq!(send(&broker, &partition, &value(n)).unwrap().offset, n);
        }
        broker.sync().unwrap();
        after_each_stop(&disk, |_, partition, case| {
            assert_eq!(ends(partition), (start, 40, 40, 40), "{case}");
            let records = partition.last_n(40).unwrap();
            assert!(
                records
                    .iter()
                    .map(|r| r.value().unwrap().to_vec())
                    .eq((start..40).map(|n| value(n).into_bytes()))
            );
        });
    }
}

#[test]
fn a_truncation_is_reported_as_an_event() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let config = BrokerConfig::new().on_event(move |event| {
        if let Event::Truncated { topic, partition, to, epoch, .. } = event {
            noted.lock().unwrap().push((topic.to_string(), partition.get(), to.get(), *epoch));
        }
    });
    let broker = config.on_disk(&Disk::new()).unwrap();
    let partition = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    fill(&broker, &partition, 10);
    partition.truncate_to(5.into()).unwrap();
    partition.truncate_to(5.into()).unwrap();
    partition.reset_to(70.into()).unwrap();
    assert_eq!(*seen.lock().unwrap(), [("t".to_string(), 0, 5, 1), ("t".to_string(), 0, 70, 2)]);
}

/// A segment that starts again under an old name is another one, also for a checkpoint of the old
/// one.
#[test]
fn a_checkpoint_of_a_truncated_segment_is_ignored() {
    let disk = Disk::new();
    let (broker, partition) = filled(&disk, 40);
    let base = partition.segments().last().unwrap().base_offset.get();
    fill(&broker, &partition, base + 3);
    broker.close().unwrap();
    let (broker, partition) = filled(&disk, 40);
    partition.truncate_to((base - 2).into()).unwrap();
    // Rolls at the same offset again.
    for n in base - 2..base + 8 {
        send(&broker, &partition, &"y".repeat(if n < base { 500 } else { 20 })).unwrap();
    }
    disk.crash(Survive::Everything);
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().damaged.is_empty(), "{:?}", broker.open_report().damaged);
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(ends(&partition).3, base + 8);
}

#[test]
fn an_io_error_in_a_truncation_changes_nothing_or_poisons() {
    for reset in [false, true] {
        for nth in 1.. {
            let disk = Disk::new();
            let (broker, partition) = with(&disk, small().durability(Durability::Sync));
            fill(&broker, &partition, 20);
            send_batch(&broker, &partition, &(20..25).map(value).collect::<Vec<_>>(), 0);
            disk.fail(Op::Any, nth, ErrorKind::Other);
            let act = |partition: &Partition| match reset {
                false => partition.truncate_to(22.into()),
                true => partition.reset_to(70.into()),
            };
            let done = act(&partition);
            disk.clear_faults();
            if done.is_ok() {
                // At most an unlisted file is left.
                assert_eq!(partition.epoch(), 1);
                if nth > 40 {
                    break;
                }
                continue;
            }
            assert_eq!((ends(&partition).3, partition.epoch()), (25, 0), "{nth}");
            assert_filled(&partition, 25, "unchanged");
            partition.reopen().unwrap();
            assert_filled(&partition, 25, "reopened");
            act(&partition).unwrap();
            disk.crash(Survive::Synced);
            let broker = open(&disk).unwrap();
            let partition = broker.topic("t").unwrap().partition(0).unwrap();
            assert_eq!(ends(&partition).3, if reset { 70 } else { 22 }, "{nth}");
        }
    }
}

#[test]
fn readers_and_lookups_race_with_truncation() {
    let broker = Broker::in_memory().unwrap();
    let partition = broker.create_topic("t", small()).unwrap().partition(0).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (done, partition, broker) = (Done(&done), &partition, &broker);
        for _ in 0..2 {
            let done = done.0;
            scope.spawn(move || {
                let mut reader =
                    broker.reader(["t"], Start::Beginning).unwrap().offset_reset(OffsetReset::Nearest);
                while !done.load(Ordering::Relaxed) {
                    for record in &reader.poll(NOW).unwrap() {
                        let said = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
                        assert_eq!(said, value(record.offset().get()));
                    }
                    partition.max_timestamp().unwrap();
                    partition.last_n(3).unwrap();
                    let b = partition.bounds().unwrap();
                    assert!(b.log_start <= b.visible_end && b.visible_end <= b.log_end, "{b:?}");
                }
            });
        }
        let mut random = crate::common::Random(5);
        for _ in 0..400 {
            let bounds = partition.bounds().unwrap();
            let (start, end) = (bounds.log_start.get(), bounds.log_end.get());
            fill(broker, partition, end + random.below(12));
            match random.below(8) {
                0 => partition.reset_to((start + random.below(40)).into()).unwrap(),
                _ => partition.truncate_to((start + random.below(end - start + 1)).into()).unwrap(),
            }
        }
    });
}

/// Lets the others end, also when an assertion fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
