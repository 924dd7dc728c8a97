//! Transactions: all or nothing over partitions, topics and a consumer's offsets, in one step
//! (KIP-98, KIP-447).

use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread;
use std::time::Duration;

use quipu::testing::{Disk, ManualClock, Op, Survive};
use quipu::{
    Broker, BrokerConfig, Compression, Durability, Error, Offset, Offsets, Outcome, Partition, Record,
    RejectReason, Start, Timestamp, TimestampType, TopicConfig,
};

use crate::common::{dump, make_files, open, read_from, send, small};

const NOW: Duration = Duration::ZERO;

fn broker(disk: &Disk, durability: Durability) -> Broker {
    BrokerConfig::new().clock(ManualClock::new()).seed(1).durability(durability).on_disk(disk).unwrap()
}

fn topics(broker: &Broker) -> Vec<Partition> {
    ["a", "b"]
        .iter()
        .flat_map(|name| broker.ensure_topic(name, TopicConfig::new().partitions(2)).unwrap().partitions())
        .collect()
}

fn ends(partitions: &[Partition]) -> Vec<u64> {
    partitions.iter().map(|partition| partition.bounds().unwrap().visible_end.get()).collect()
}

/// One record into each.
fn everywhere(broker: &Broker, partitions: &[Partition], value: &str) -> quipu::Result<Vec<quipu::Receipt>> {
    let mut transaction = broker.transaction();
    for partition in partitions {
        transaction.send(partition, Record::new(value.to_string()));
    }
    transaction.commit()
}

#[test]
fn all_records_of_a_transaction_have_receipts_in_the_order_of_sending() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    send(&broker, &p[1], "before").unwrap();
    let mut transaction = broker.transaction();
    transaction.send(&p[3], Record::new("x")).send(&p[1], Record::new("y")).send(&p[3], Record::new("z"));
    transaction.send("a", Record::new("keyed").key("customer-7"));
    let receipts = transaction.commit().unwrap();
    let places: Vec<_> = receipts.iter().take(3).map(ToString::to_string).collect();
    assert_eq!(places, ["b/1@0", "a/1@1", "b/1@1"]);
    let keyed = p[receipts[3].partition.get() as usize].read(Start::At(receipts[3].offset), 1).unwrap();
    assert_eq!(keyed.iter().next().unwrap().key(), Some(&b"customer-7"[..]));
    assert_eq!(ends(&p).iter().sum::<u64>(), 5);
}

#[test]
fn a_dropped_or_failed_transaction_appends_nothing() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    let ops = disk.ops_of(Op::Write);
    let mut dropped = broker.transaction();
    dropped.send(&p[0], Record::new("v")).send(&p[1], Record::new("v"));
    drop(dropped);
    let mut wrong = broker.transaction();
    wrong.send(&p[0], Record::new("v")).send("nothing", Record::new("v")).send(&p[1], Record::new("v"));
    assert!(matches!(wrong.commit(), Err(Error::UnknownTopic { .. })));
    let mut early = broker.transaction();
    early.send(&p[0], Record::new("v"));
    early.send(&p[1], Record::new("v").timestamp(Timestamp::from_millis(-1)));
    assert!(matches!(early.commit(), Err(Error::InvalidTimestamp { index: 1, .. })));
    let mut large = broker.transaction();
    large.send(&p[0], Record::new(vec![0; 2 << 20])).send(&p[1], Record::new("v"));
    assert!(matches!(large.commit(), Err(Error::RecordTooLarge { .. })));
    assert!(broker.transaction().commit().unwrap().is_empty());
    assert_eq!((disk.ops_of(Op::Write), ends(&p)), (ops, vec![0; 4]));
}

/// Committed in one step, so no reader and no writer waits for an open one (unlike Kafka's last
/// stable offset).
#[test]
fn an_open_transaction_blocks_no_reader_or_writer() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    let mut open = broker.transaction();
    open.send(&p[0], Record::new("later")).send(&p[1], Record::new("later"));
    send(&broker, &p[0], "sooner").unwrap();
    let mut reader = broker.reader(["a"], Start::Beginning).unwrap();
    assert_eq!(reader.poll(NOW).unwrap().len(), 1);
    open.commit().unwrap();
    let values: Vec<_> = read_from(&p[0], Start::Beginning).into_values().collect();
    assert_eq!(values, ["sooner", "later"]);
}

#[test]
fn a_consumers_offsets_are_committed_with_the_transaction_or_not_at_all() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    for partition in &p[..2] {
        send(&broker, partition, "in").unwrap();
    }
    let mut a = broker.consumer("g").subscribe(["a"]).unwrap();
    let records = a.poll(NOW).unwrap();
    let transform = |consumer: &quipu::Consumer, done: Offsets| {
        let mut transaction = broker.transaction();
        transaction.send(&p[2], Record::new("out")).send(&p[3], Record::new("out"));
        transaction.offsets(consumer, done);
        transaction.commit()
    };
    assert_eq!(transform(&a, Offsets::from(&records)).unwrap().len(), 2, "offsets have no receipts");
    assert_eq!(a.committed("a", 1).unwrap().unwrap().offset, 1);
    // The other takes a partition over: all later work of the first is rejected.
    let mut b = broker.consumer("g").subscribe(["a"]).unwrap();
    a.poll(NOW).unwrap();
    b.poll(NOW).unwrap();
    match transform(&a, Offsets::from(&records)) {
        Err(Error::CommitRejected { offenders, .. }) => {
            assert_eq!(offenders[0].reason, RejectReason::NotOwned)
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ends(&p), [1, 1, 1, 1]);
    // And offsets alone are a transaction too.
    let mut alone = broker.transaction();
    alone.offsets(&b, Offsets::new());
    assert!(alone.commit().unwrap().is_empty());
    let elsewhere = Broker::in_memory().unwrap();
    let mut foreign = elsewhere.transaction();
    foreign.offsets(&b, Offsets::new());
    assert!(matches!(foreign.commit(), Err(Error::ForeignBroker { .. })));
}

/// Of a consumer with partitions assigned by hand (Kafka's `ClassicGroup.validateOffsetCommit`).
#[test]
fn a_group_is_not_reset_or_taken_over_during_a_transaction_without_a_member() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    send(&broker, &p[0], "in").unwrap();
    let mut alone = broker.consumer("g").assign(&[p[0].clone()]).unwrap();
    let records = alone.poll(NOW).unwrap();
    assert_eq!(records.len(), 1);
    let group = broker.group("g").unwrap();
    // The first transaction makes the journal: between the check of its offsets and the write of
    // anything.
    let gate = disk.hold(Op::Sync, 1);
    let committing = std::thread::spawn({
        let (broker, to, handle) = (broker.clone(), p[2].clone(), alone.handle());
        move || {
            let mut transaction = broker.transaction();
            transaction.send(&to, Record::new("out")).offsets_of(&handle, &records);
            transaction.commit()
        }
    });
    gate.wait_until_reached();
    assert!(matches!(group.reset("a", Start::Beginning), Err(Error::GroupNotEmpty { .. })));
    assert!(matches!(group.delete(), Err(Error::GroupNotEmpty { .. })));
    let mut member = broker.consumer("g").subscribe(["a"]).unwrap();
    assert_eq!(member.poll(NOW).unwrap().len(), 0, "it is being done");
    assert_eq!(member.assignment().len(), 1, "the other partition is free");
    gate.release();
    committing.join().unwrap().unwrap();
    assert_eq!(member.poll(NOW).unwrap().len(), 0, "it is done");
    assert_eq!(member.assignment().len(), 2);
    assert_eq!(group.committed("a", 0).unwrap().unwrap().offset, 1);
    drop(member);
    group.reset("a", Start::Beginning).unwrap();
}

/// A member's partitions stay where they are until its transaction is over, also if the member leaves or is expelled
/// meanwhile. Then the next owner continues after the transaction.
#[test]
fn partitions_of_a_transaction_change_hands_after_it_also_when_their_member_leaves() {
    for expelled in [false, true] {
        let (disk, clock) = (Disk::new(), ManualClock::new());
        let broker = BrokerConfig::new().clock(clock.clone()).seed(1).on_disk(&disk).unwrap();
        let p = topics(&broker);
        send(&broker, &p[0], "in").unwrap();
        let interval = Duration::from_secs(10);
        let mut leaving = broker.consumer("g").max_poll_interval(interval).subscribe(["a"]).unwrap();
        let records = leaving.poll(NOW).unwrap();
        assert_eq!((records.len(), leaving.assignment().len()), (1, 2));
        let gate = disk.hold(Op::Sync, 1);
        let committing = thread::spawn({
            let (broker, to, handle) = (broker.clone(), p[2].clone(), leaving.handle());
            move || {
                let mut transaction = broker.transaction();
                transaction.send(&to, Record::new("out")).offsets_of(&handle, &records);
                transaction.commit()
            }
        });
        gate.wait_until_reached();
        if expelled {
            clock.advance(interval);
        } else {
            leaving.close().unwrap();
        }
        let mut next = broker.consumer("g").subscribe(["a"]).unwrap();
        assert!(next.poll(NOW).unwrap().is_empty(), "expelled: {expelled}");
        assert_eq!(next.assignment().iter().map(|of| of.partition.get()).collect::<Vec<_>>(), [1]);
        assert!(!broker.group("g").unwrap().describe().unwrap().stable);
        gate.release();
        committing.join().unwrap().unwrap();
        assert!(next.poll(NOW).unwrap().is_empty(), "it continues after the transaction");
        assert_eq!(next.assignment().len(), 2, "expelled: {expelled}");
        assert!(broker.group("g").unwrap().describe().unwrap().stable);
        send(&broker, &p[0], "later").unwrap();
        assert_eq!(next.poll(NOW).unwrap().iter().next().unwrap().offset(), 1);
    }
}

#[test]
fn offsets_committed_in_a_transaction_survive_a_power_loss() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Sync);
    let p = topics(&broker);
    send(&broker, &p[0], "in").unwrap();
    let mut a = broker.consumer("g").subscribe(["a"]).unwrap();
    let records = a.poll(NOW).unwrap();
    let mut transaction = broker.transaction();
    transaction.send(&p[2], Record::new("out")).offsets_of(&a.handle(), &records);
    transaction.commit().unwrap();
    std::mem::forget((a, broker, p));
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    assert_eq!(broker.group("g").unwrap().committed("a", 0).unwrap().unwrap().offset, 1);
    assert_eq!(broker.topic("b").unwrap().partition(0).unwrap().bounds().unwrap().log_end, 1);
}

/// There are no markers, so offsets count records.
/// Within a transaction they go to one partition of the topic.
#[test]
fn records_without_a_key_go_to_every_partition() {
    let broker = Broker::in_memory().unwrap();
    broker.create_topic("one", TopicConfig::new()).unwrap();
    broker.create_topic("four", TopicConfig::new().partitions(4)).unwrap();
    let mut chosen = [0; 4];
    for _ in 0..100 {
        let mut transaction = broker.transaction();
        for topic in ["four", "one", "four"] {
            transaction.send(topic, Record::new("v"));
        }
        let receipts = transaction.commit().unwrap();
        assert_eq!(receipts[0].partition, receipts[2].partition);
        chosen[receipts[0].partition.get() as usize] += 1;
    }
    // With 100 throws of a die of four sides.
    assert!(chosen.iter().all(|count| (10..=45).contains(count)), "{chosen:?}");
}

#[test]
fn transactions_leave_no_gaps() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    for _ in 0..10 {
        everywhere(&broker, &p, "v").unwrap();
    }
    let found = read_from(&p[2], Start::Beginning);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
}

#[test]
fn conditions_are_checked_with_the_append_and_a_conflict_appends_nothing() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    send(&broker, &p[0], "v").unwrap();
    let attempt = |end: u64| {
        let mut transaction = broker.transaction();
        transaction.expect_end(&p[0], Offset::new(end));
        transaction.send(&p[2], Record::new("v")).send(&p[3], Record::new("v"));
        transaction.commit()
    };
    for wrong in [0, 2] {
        assert!(matches!(attempt(wrong), Err(Error::OffsetConflict { end, .. }) if end == 1));
    }
    assert_eq!(ends(&p), [1, 0, 0, 0]);
    attempt(1).unwrap();
    let mut both = broker.transaction();
    both.expect_end(&p[0], Offset::new(1)).expect_end(&p[0], Offset::new(2));
    assert!(matches!(both.commit(), Err(Error::OffsetConflict { .. })));
    // In the same partition, and with nothing but a condition.
    let mut same = broker.transaction();
    same.expect_end(&p[0], Offset::new(1)).send(&p[0], Record::new("w"));
    assert_eq!(same.commit().unwrap()[0].offset, 1);
    let mut only = broker.transaction();
    only.expect_end(&p[0], Offset::new(2));
    assert!(only.commit().unwrap().is_empty());
}

#[test]
fn one_partition_is_a_plain_append_and_needs_no_journal() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Sync);
    let p = topics(&broker);
    make_files(&disk, &broker, &p[0]);
    let syncs = disk.ops_of(Op::Sync);
    let mut one = broker.transaction();
    one.send(&p[0], Record::new("v")).send(&p[0], Record::new("w"));
    one.commit().unwrap();
    assert_eq!(disk.ops_of(Op::Sync) - syncs, 1);
    assert!(disk.read("journal").is_err());
    everywhere(&broker, &p, "v").unwrap();
    assert!(disk.read("journal").is_ok());
}

#[test]
fn compression_and_append_time_are_the_topics() {
    let disk = Disk::new();
    let clock = ManualClock::new();
    let broker = BrokerConfig::new().clock(clock.clone()).on_disk(&disk).unwrap();
    let config = TopicConfig::new().compression(Compression::Lz4).timestamps(TimestampType::Append);
    let lz4 = broker.create_topic("lz4", config).unwrap();
    let plain = broker.create_topic("plain", TopicConfig::new()).unwrap();
    let old = Timestamp::from_millis(1000);
    let mut transaction = broker.transaction();
    for _ in 0..50 {
        transaction.send(&lz4, Record::new("the same again and again").timestamp(old));
        transaction.send(&plain, Record::new("v").timestamp(old));
    }
    let receipts = transaction.commit().unwrap();
    assert_eq!(receipts[1].timestamp, old);
    assert!(receipts[0].timestamp > old);
    let records = lz4.partition(0).unwrap().read(Start::Beginning, 1 << 20).unwrap();
    assert_eq!((records.len(), records.iter().next().unwrap().timestamp()), (50, receipts[0].timestamp));
}

// -- durability --

#[test]
fn the_strictest_durability_governs() {
    for strict in [false, true] {
        let disk = Disk::new();
        let broker = broker(&disk, Durability::Os);
        let second = if strict { Durability::Sync } else { Durability::Os };
        let config = |durability| TopicConfig::new().durability(durability);
        let a = broker.create_topic("a", config(Durability::Os)).unwrap().partition(0).unwrap();
        let b = broker.create_topic("b", config(second)).unwrap().partition(0).unwrap();
        send(&broker, &a, "not synced by itself").unwrap();
        everywhere(&broker, &[a.clone(), b.clone()], "together").unwrap();
        std::mem::forget((broker, a, b));
        disk.crash(Survive::Synced);
        let broker = open(&disk).unwrap();
        let found: Vec<_> = dump(&broker).unwrap().into_values().map(|records| records.len()).collect();
        assert_eq!(found, if strict { [2, 1] } else { [0, 0] });
    }
}

#[test]
fn no_part_of_a_transaction_is_durable_before_all_of_it_is() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    for n in 0..5 {
        send(&broker, &p[n % 4], "v").unwrap();
    }
    everywhere(&broker, &p, "together").unwrap();
    // One of the logs is synced for itself, by a change of its settings and a sender that waits.
    broker.alter_topic("a", TopicConfig::new().partitions(2).durability(Durability::Sync)).unwrap();
    send(&broker, &p[0], "synced").unwrap();
    std::mem::forget((broker, p));
    disk.crash(Survive::Synced);
    let broker = open(&disk).unwrap();
    let last: Vec<_> = topics(&broker)
        .iter()
        .map(|p| read_from(p, Start::Beginning).into_values().filter(|v| v == "together").count())
        .collect();
    assert_eq!(last, [1; 4], "the synced record stands on it, so it is there, everywhere");
}

#[test]
fn the_journal_starts_over_when_it_is_large_and_when_the_broker_is_closed() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    let value = "x".repeat(500_000);
    let (mut largest, mut shrunk) = (0, false);
    for _ in 0..12 {
        everywhere(&broker, &p, &value).unwrap();
        let len = disk.read("journal").unwrap().len();
        shrunk |= len < largest;
        largest = largest.max(len);
    }
    assert!(shrunk && largest < 20 << 20, "{largest}");
    broker.close().unwrap();
    assert!(disk.read("journal").unwrap().len() < 100);
    drop(broker);
    let broker = open(&disk).unwrap();
    assert!(broker.open_report().clean);
    everywhere(&broker, &topics(&broker), "v").unwrap();
    assert_eq!(ends(&topics(&broker)), [13; 4]);
}

/// One that cannot be replaced grows by as much again. The bound of the next is the usual one.
#[test]
fn a_journal_that_could_not_be_replaced_grows_once_and_the_next_is_replaced_in_time() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    let value = "x".repeat(500_000);
    let largest = || {
        let mut last = 0;
        loop {
            everywhere(&broker, &p, &value).unwrap();
            let len = disk.read("journal").unwrap().len();
            if len < last {
                return last;
            }
            last = len;
        }
    };
    everywhere(&broker, &p, "v").unwrap();
    disk.fail(Op::OpenFile, 1, ErrorKind::Other);
    assert!(largest() > 30 << 20);
    assert!(largest() < 20 << 20);
}

/// Polls a future here: a thread that sleeps until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

#[test]
fn awaited_waited_for_or_dropped_it_is_written_at_once_and_visible_when_it_is_safe() {
    for durability in [Durability::Os, Durability::Sync] {
        let disk = Disk::new();
        let broker = BrokerConfig::new().durability(durability).on_disk(&disk).unwrap();
        let p = topics(&broker);
        let begin = |value: &str| {
            let mut transaction = broker.transaction();
            for partition in &p {
                transaction.send(partition, Record::new(value.to_string()));
            }
            transaction.commit_async()
        };
        let (first, second, third) = (begin("first"), begin("second"), begin("third"));
        assert_eq!(p[3].bounds().unwrap().log_end, 3, "with and without a waiting caller");
        assert_eq!(block_on(second).unwrap()[3].offset, 1);
        assert_eq!(first.wait().unwrap()[0].offset, 0);
        drop(third);
        while ends(&p) != [3; 4] {
            thread::yield_now();
        }
        // One partition alone takes the way of a plain append.
        let mut alone = broker.transaction();
        alone.send(&p[0], Record::new("alone"));
        assert_eq!(block_on(alone.commit_async()).unwrap()[0].offset, 3);
        let mut conflict = broker.transaction();
        conflict.expect_end(&p[0], Offset::ZERO);
        assert!(matches!(block_on(conflict.commit_async()), Err(Error::OffsetConflict { .. })));
        let last = begin("last");
        std::mem::forget((broker, p));
        let last = block_on(last).unwrap();
        disk.crash(Survive::Synced);
        let broker = open(&disk).unwrap();
        let found = ends(&topics(&broker));
        let expected = if durability == Durability::Sync { [5, 4, 4, 4] } else { [0; 4] };
        assert_eq!(found, expected, "{durability:?}");
        assert_eq!(last.len(), 4);
    }
}

#[test]
fn many_that_are_awaited_share_their_syncs() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().durability(Durability::Sync).on_disk(&disk).unwrap();
    let p = topics(&broker);
    everywhere(&broker, &p, "first").unwrap();
    let syncs = disk.ops_of(Op::Sync);
    let all: Vec<_> = (0..100)
        .map(|n| {
            let mut transaction = broker.transaction();
            transaction.send(&p[n % 4], Record::new("v")).send(&p[(n + 1) % 4], Record::new("w"));
            transaction.commit_async()
        })
        .collect();
    for committing in all {
        assert_eq!(block_on(committing).unwrap().len(), 2);
    }
    assert!(disk.ops_of(Op::Sync) - syncs < 200, "{}", disk.ops_of(Op::Sync) - syncs);
    assert_eq!(ends(&p), [51; 4]);
}

// -- failures --

#[test]
fn a_full_disk_refuses_it_whole_and_takes_the_next() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    everywhere(&broker, &p, "first").unwrap();
    disk.fail(Op::Write, 1, ErrorKind::StorageFull);
    let error = everywhere(&broker, &p, "no room").unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }) && error.outcome() == Outcome::NotWritten, "{error}");
    everywhere(&broker, &p, "third").unwrap();
    let again = |broker: &Broker| {
        for partition in topics(broker) {
            let values: Vec<_> = read_from(&partition, Start::Beginning).into_values().collect();
            assert_eq!(values, ["first", "third"]);
        }
    };
    again(&broker);
    std::mem::forget((broker, p));
    disk.crash(Survive::Everything);
    again(&open(&disk).unwrap());
}

#[test]
fn a_failure_after_its_record_leaves_it_to_the_next_opening_which_makes_it_whole() {
    for nth in 2..=5 {
        let disk = Disk::new();
        let broker = broker(&disk, Durability::Os);
        let p = topics(&broker);
        everywhere(&broker, &p, "first").unwrap();
        disk.fail(Op::Write, nth, ErrorKind::Other);
        let error = everywhere(&broker, &p, "second").unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        assert_eq!(ends(&p), [1; 4], "no part of it is visible");
        assert!(everywhere(&broker, &p, "third").is_err());
        assert!(matches!(p[0].reopen(), Err(Error::Poisoned { .. })), "that could lose a part");
        drop((broker, p));
        let broker = open(&disk).unwrap();
        for partition in topics(&broker) {
            let values: Vec<_> = read_from(&partition, Start::Beginning).into_values().collect();
            assert_eq!(values, ["first", "second"], "write {nth}");
        }
        everywhere(&broker, &topics(&broker), "third").unwrap();
    }
}

#[test]
fn a_failed_sync_is_reported_and_never_acknowledged() {
    for nth in 1..=5 {
        let disk = Disk::new();
        let broker = broker(&disk, Durability::Sync);
        let p = topics(&broker);
        everywhere(&broker, &p, "first").unwrap();
        let done = disk.ops_of(Op::Sync);
        disk.fail(Op::Sync, nth, ErrorKind::Other);
        let result = everywhere(&broker, &p, "second");
        if disk.ops_of(Op::Sync) - done >= nth {
            assert_eq!(result.unwrap_err().outcome(), Outcome::Unknown);
            assert!(everywhere(&broker, &p, "third").is_err());
        } else {
            result.unwrap();
        }
        disk.clear_faults();
        disk.crash(Survive::Synced);
        drop((broker, p));
        let broker = open(&disk).unwrap();
        let counts = ends(&topics(&broker));
        assert!(counts == [1; 4] || counts == [2; 4], "{counts:?}");
    }
}

#[test]
fn a_truncation_clears_the_journal_first() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    for n in 0..4 {
        everywhere(&broker, &p, &n.to_string()).unwrap();
    }
    p[0].truncate_to(Offset::new(2)).unwrap();
    send(&broker, &p[0], "instead").unwrap();
    p[3].reset_to(Offset::new(10)).unwrap();
    std::mem::forget((broker, p));
    disk.crash(Survive::Everything);
    let broker = open(&disk).unwrap();
    let p = topics(&broker);
    assert_eq!(read_from(&p[0], Start::Beginning).into_values().collect::<Vec<_>>(), ["0", "1", "instead"]);
    assert_eq!(ends(&p), [3, 4, 4, 10]);
}

#[test]
fn a_deleted_topic_takes_its_part_and_leaves_the_others() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Os);
    let p = topics(&broker);
    everywhere(&broker, &p, "v").unwrap();
    broker.delete_topic("b").unwrap();
    assert!(matches!(everywhere(&broker, &p, "v"), Err(Error::TopicDeleted { .. })));
    std::mem::forget((broker, p));
    disk.crash(Survive::Everything);
    let broker = open(&disk).unwrap();
    assert_eq!(ends(&broker.topic("a").unwrap().partitions()), [1, 1]);
}

#[test]
fn a_damaged_journal_is_an_error_and_a_torn_one_is_not() {
    let disk = Disk::new();
    let broker = broker(&disk, Durability::Sync);
    let p = topics(&broker);
    for n in 0..3 {
        everywhere(&broker, &p, &n.to_string()).unwrap();
    }
    std::mem::forget((broker, p));
    let bytes = disk.read("journal").unwrap().len() as u64;
    let damaged = disk.duplicate();
    damaged.flip_bit("journal", 60 * 8).unwrap();
    match open(&damaged) {
        Err(Error::Corrupt(corruption)) => assert!(corruption.file.ends_with("journal")),
        other => panic!("{other:?}"),
    }
    let torn = disk.duplicate();
    torn.truncate("journal", bytes - 10).unwrap();
    let broker = open(&torn).unwrap();
    assert_eq!(ends(&topics(&broker)), [2; 4], "the last record looks like a torn one");
    assert_eq!(broker.open_report().truncated_tails.len(), 4, "and what it was of is reported");
}

// -- many at once --

#[test]
fn money_moves_between_accounts_from_many_threads_and_none_is_lost() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().on_disk(&disk).unwrap();
    let accounts = broker.create_topic("accounts", small().partitions(6)).unwrap();
    let balance = |partition: &Partition| -> i64 {
        read_from(partition, Start::Beginning).values().map(|value| value.parse::<i64>().unwrap()).sum()
    };
    for partition in accounts.partitions() {
        send(&broker, &partition, "100").unwrap();
    }
    thread::scope(|scope| {
        for seed in 0..8u64 {
            let (broker, accounts) = (&broker, &accounts);
            scope.spawn(move || {
                for n in 0..40 {
                    let (from, to) = ((seed + n) % 6, (seed * 5 + n * 3 + 1) % 6);
                    if from == to {
                        continue;
                    }
                    let (from, to) =
                        (accounts.partition(from as u32).unwrap(), accounts.partition(to as u32).unwrap());
                    loop {
                        let mut transaction = broker.transaction();
                        transaction.expect_end(&from, from.bounds().unwrap().log_end);
                        transaction.send(&from, Record::new("-7")).send(&to, Record::new("7"));
                        match transaction.commit() {
                            Ok(_) => break,
                            Err(Error::OffsetConflict { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    let sum =
        |broker: &Broker| -> i64 { broker.topic("accounts").unwrap().partitions().iter().map(balance).sum() };
    assert_eq!(sum(&broker), 600);
    std::mem::forget((broker, accounts));
    disk.crash(Survive::Everything);
    assert_eq!(sum(&open(&disk).unwrap()), 600);
}

/// A clean close leaves an empty journal. Whatever is found in its place then holds nothing that
/// the segments do not.
#[test]
fn a_journal_that_is_damaged_after_a_clean_close_is_reported_and_replaced() {
    type Harm = fn(&Disk);
    let harms: [(&str, Harm); 5] = [
        ("a flipped bit", |disk| disk.flip_bit("journal", 170).unwrap()),
        ("an empty file", |disk| disk.truncate("journal", 0).unwrap()),
        ("a short file", |disk| disk.truncate("journal", 11).unwrap()),
        ("zeros", |disk| disk.overwrite("journal", 0, &[0; 32]).unwrap()),
        ("garbage after it", |disk| disk.overwrite("journal", 32, b"garbage").unwrap()),
    ];
    let sync = |disk: &Disk| broker(disk, Durability::Sync);
    for (what, harm) in harms {
        let disk = Disk::new();
        let broker = sync(&disk);
        let p = topics(&broker);
        everywhere(&broker, &p, "first").unwrap();
        broker.close().unwrap();
        assert_eq!(disk.read("journal").unwrap().len(), 32);
        drop((broker, p));
        harm(&disk);
        let broker = sync(&disk);
        let told = broker.open_report().warnings.clone();
        assert!(told.len() == 1 && told[0].contains("mem:/journal"), "{what}: {told:?}");
        assert!(broker.open_report().damaged.is_empty(), "{what}");
        everywhere(&broker, &topics(&broker), "second").unwrap();
        disk.crash(Survive::Synced);
        let broker = open(&disk).unwrap();
        for partition in topics(&broker) {
            let values: Vec<_> = read_from(&partition, Start::Beginning).into_values().collect();
            assert_eq!(values, ["first", "second"], "{what}");
        }
        assert!(broker.open_report().warnings.is_empty());
    }
}
