use super::assigned::LOOKS;
use super::*;
use crate::config::{BrokerConfig, Durability, TopicConfig};
use crate::records::tests::{append, value};
use crate::testing::{Disk, ManualClock};
use crate::types::Offset;
use crate::{Error, Record, Topic};

const NOW: Duration = Duration::ZERO;

fn broker(partitions: u32) -> (Broker, Topic) {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    (broker, topic)
}

fn log(topic: &Topic, partition: u32) -> Arc<Log> {
    topic.partition(partition).unwrap().log().clone()
}

fn offsets(records: &Records) -> Vec<u64> {
    records.iter().map(|record| record.offset().get()).collect()
}

/// Batches of one record each.
fn fill(log: &Arc<Log>, count: usize) {
    for _ in 0..count {
        append(log, 1, &[value(0, b"value")]);
    }
}

#[test]
fn reading_continues_after_emptied_batches_and_emptied_ends_of_batches() {
    let (broker, topic) = broker(1);
    let log = log(&topic, 0);
    append(&log, 10, &[value(3, b"a")]);
    append(&log, 10, &[]);
    append(&log, 10, &[value(1, b"b")]);
    append(&log, 10, &[]);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    assert_eq!(offsets(&reader.poll(NOW).unwrap()), [3, 21]);
    // The last batch is empty, and the position is after it.
    assert!(reader.poll(NOW).unwrap().is_empty());
    assert_eq!(reader.position("t", 0).unwrap().offset, 40);
    let read =
        broker.reader(["t"], Start::Beginning).unwrap().to_end().map(|r| r.unwrap().len()).sum::<usize>();
    assert_eq!(read, 2);
}

#[test]
fn an_offset_in_a_gap_is_that_of_the_next_record() {
    let (broker, topic) = broker(1);
    let log = log(&topic, 0);
    append(&log, 10, &[value(0, b"a"), value(1, b"b")]);
    append(&log, 10, &[value(0, b"c"), value(1, b"d")]);
    // R2, R3: "36, 37, 38 are all equivalent positions".
    for (from, expected) in
        [(1, vec![1, 10, 11]), (5, vec![10, 11]), (11, vec![11]), (12, vec![]), (20, vec![])]
    {
        let read = topic.partition(0).unwrap().read(Start::At(Offset::new(from)), 1 << 20).unwrap();
        assert_eq!(offsets(&read), expected, "from {from}");
        let mut reader = broker.reader(["t"], Start::At(Offset::new(from))).unwrap();
        assert_eq!(reader.position("t", 0).unwrap().offset, from);
        assert_eq!(offsets(&reader.poll(NOW).unwrap()), expected, "from {from}");
    }
}

#[test]
fn a_poll_that_takes_part_of_a_batch_leaves_the_rest_for_the_next() {
    let (broker, topic) = broker(1);
    let made: Vec<_> = (0..10).map(|delta| value(delta, b"value")).collect();
    append(&log(&topic, 0), 10, &made);
    append(&log(&topic, 0), 10, &made);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(3);
    let mut seen = Vec::new();
    loop {
        let records = reader.poll(NOW).unwrap();
        if records.is_empty() {
            break;
        }
        assert!(records.len() <= 3);
        seen.extend(offsets(&records));
        assert_eq!(reader.position("t", 0).unwrap().offset.get(), seen.len() as u64);
    }
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
}

#[test]
fn each_poll_starts_after_the_partition_served_last() {
    let (broker, topic) = broker(3);
    for partition in 0..3 {
        fill(&log(&topic, partition), 4);
    }
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(2);
    let mut turns = Vec::new();
    for _ in 0..6 {
        let records = reader.poll(NOW).unwrap();
        turns.push(records.last().unwrap().partition().get());
    }
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn bytes_are_a_limit_for_all_batches_but_the_first() {
    let (broker, topic) = broker(1);
    let log = log(&topic, 0);
    let large = [b'x'; 1_000];
    for _ in 0..4 {
        append(&log, 1, &[value(0, &large)]);
    }
    // R6.
    for (limit, expected) in [(1, 1), (1_000, 1), (1_500, 1), (2_500, 2), (1 << 20, 4)] {
        let read = topic.partition(0).unwrap().read(Start::Beginning, limit).unwrap();
        assert_eq!(read.len(), expected, "limit {limit}");
        let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_bytes(limit);
        assert_eq!(reader.poll(NOW).unwrap().len(), expected, "limit {limit}");
        let all = reader.to_end().map(|records| records.unwrap().len()).sum::<usize>();
        assert_eq!(all, 4 - expected, "nothing that was loaded is lost");
    }
}

#[test]
fn a_paused_partition_is_left_out_with_its_errors() {
    let (broker, topic) = broker(2);
    fill(&log(&topic, 0), 1);
    fill(&log(&topic, 1), 1);
    let mut reader = broker.reader(["t"], Start::At(Offset::new(9))).unwrap().offset_reset(OffsetReset::Fail);
    reader.pause("t", 0).unwrap();
    reader.pause("t", 1).unwrap();
    assert!(reader.poll(NOW).unwrap().is_empty());
    assert_eq!(reader.paused().len(), 2);
    reader.resume("t", 1).unwrap();
    assert!(reader.poll(NOW).is_err());
    reader.seek_all(Start::Beginning).unwrap();
    assert_eq!(reader.poll(NOW).unwrap().last().unwrap().partition().get(), 1);
    assert!(matches!(reader.pause("t", 2), Err(Error::NotAssigned { .. })));
    assert!(matches!(reader.resume("u", 0), Err(Error::NotAssigned { .. })));
}

#[test]
fn a_dropped_reader_and_a_dropped_future_leave_no_state() {
    let (broker, topic) = broker(1);
    let log = log(&topic, 0);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let weak = Arc::downgrade(reader.fetcher.waiter());
    let waiter = reader.fetcher.waiter().clone();
    {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut recv = std::pin::pin!(reader.recv());
        assert!(recv.as_mut().poll(&mut cx).is_pending());
        assert!(recv.as_mut().poll(&mut cx).is_pending());
        assert!(waiter.has_waker());
    }
    assert!(!waiter.has_waker());
    drop((reader, waiter));
    assert!(!log.waiters().any());
    assert!(weak.upgrade().is_none());
    fill(&log, 1);
}

#[test]
fn a_future_and_a_reader_may_go_to_another_thread() {
    fn send<T: Send>(_: &T) {}
    fn handle<T: Send + Sync + Clone>(_: &T) {}
    let (broker, _topic) = broker(1);
    let mut reader = broker.reader(["t"], Start::End).unwrap();
    send(&reader);
    handle(&reader.handle());
    send(&reader.recv());
}

#[test]
fn a_record_is_read_as_it_was_sent() {
    let (broker, topic) = broker(1);
    let producer = broker.producer();
    producer.send(&topic, Record::new("v").key("k").header("h", "x")).unwrap().wait().unwrap();
    let records = broker.reader(["t"], Start::Beginning).unwrap().poll(NOW).unwrap();
    let record = records.last().unwrap();
    assert_eq!(Record::from(&record), Record::new("v").key("k").header("h", "x"));
}

/// The looks at partitions during some polls.
fn looks(polls: impl FnOnce()) -> u64 {
    LOOKS.set(0);
    polls();
    LOOKS.get()
}

/// Appends to one partition, and polls until there is nothing, a few times.
fn rounds(broker: &Broker, topic: &Topic, mut poll: impl FnMut() -> usize) -> u64 {
    let producer = broker.producer();
    for _ in 0..3 {
        while poll() > 0 {}
    }
    looks(|| {
        for round in 0..10 {
            let to = topic.partition(round % 7).unwrap();
            producer.send(&to, Record::new("v")).unwrap().wait().unwrap();
            assert_eq!(poll(), 1);
            assert_eq!(poll(), 0);
        }
    })
}

#[test]
fn a_poll_costs_the_same_beside_few_idle_partitions_and_beside_many() {
    let mut costs = Vec::new();
    for partitions in [10, 100, 1_000, 10_000] {
        let (broker, topic) = broker(partitions);
        let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
        let of_reader = rounds(&broker, &topic, || reader.poll(NOW).unwrap().len());
        let mut consumer = broker.consumer("g").subscribe(["t"]).unwrap();
        let of_consumer = rounds(&broker, &topic, || consumer.poll(NOW).unwrap().len());
        costs.push((partitions, of_reader, of_consumer));
    }
    println!("looks of 20 polls of a reader and of a consumer: {costs:?}");
    assert!(costs.iter().all(|(_, reader, consumer)| (*reader, *consumer) == (costs[0].1, costs[0].2)));
    assert!(costs[0].1 <= 80 && costs[0].2 <= 80, "{costs:?}");
}

/// Nor does the lag after it, nor the positions that a read model gets.
#[test]
fn a_step_of_a_feed_and_of_a_projector_costs_the_same_beside_few_idle_partitions_and_beside_many() {
    struct Model;
    impl crate::ReadModel for Model {
        type Error = Error;
        fn positions(&mut self) -> Result<Vec<Position>> {
            Ok(Vec::new())
        }
        fn apply(&mut self, _: &Records, _: &[Position]) -> Result<()> {
            Ok(())
        }
    }
    let mut costs = Vec::new();
    for partitions in [10, 100, 1_000, 10_000] {
        let (broker, topic) = broker(partitions);
        // The first step with an event looks up all positions.
        fill(&log(&topic, 0), 1);
        let mut feed = broker.feed(["t"], Model).unwrap();
        let of_feed = rounds(&broker, &topic, || feed.step(NOW).unwrap().applied as usize);
        let nothing = |_: &crate::ConsumedRecord<'_>, _: &mut crate::Transaction| -> Result<()> { Ok(()) };
        let mut projector = broker.consumer("p").project(["t"], nothing).unwrap();
        let of_projector = rounds(&broker, &topic, || projector.step(NOW).unwrap().applied as usize);
        costs.push((partitions, of_feed, of_projector));
    }
    println!("looks of 20 steps of a feed and of a projector: {costs:?}");
    assert!(costs.iter().all(|(_, feed, projector)| (*feed, *projector) == (costs[0].1, costs[0].2)));
    assert!(costs[0].1 <= 100 && costs[0].2 <= 100, "{costs:?}");
}

#[test]
fn the_lag_and_the_positions_are_those_of_all_partitions_whatever_happened_to_them() {
    let mut random = crate::rng::SplitMix64::new(3);
    let mut pick = move |n: u64| random.next_u64() % n;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let broker = BrokerConfig::new().clock(ManualClock::new()).seed(1).on_disk(&Disk::new()).unwrap();
        let topics: Vec<_> = ["t", "u"]
            .map(|name| broker.create_topic(name, TopicConfig::new().partitions(6)).unwrap())
            .into();
        let producer = broker.producer();
        let mut reader = broker.reader(["t", "u"], Start::Beginning).unwrap().max_records(3);
        let mut kept = Vec::new();
        for _ in 0..80 {
            let topic = &topics[pick(2) as usize];
            let (name, partition) = (topic.name().as_str(), pick(6) as u32);
            let Ok(of) = topic.partition(partition) else {
                // The topic was deleted: the reader is told so until it gives the topic up.
                match pick(4) {
                    0 => drop(reader.forget_deleted()),
                    _ => drop(reader.poll(NOW)),
                }
                let lag: u64 = reader.fetcher.assigned().iter().map(Assigned::lag).sum();
                assert_eq!(reader.lag(), lag);
                continue;
            };
            let end = || of.bounds().map_or(0, |bounds| bounds.log_end.get());
            // The reader may have given the partition up.
            match pick(19) {
                0..=5 => drop(producer.send(&of, Record::new("v")).and_then(|pending| pending.wait())),
                6..=9 => drop(reader.poll(NOW)),
                10 => while reader.poll(NOW).is_ok_and(|records| !records.is_empty()) {},
                11 => drop(reader.pause(name, partition)),
                12 => drop(reader.resume(name, partition)),
                13 => {
                    if let Some(at) = reader.position(name, partition) {
                        drop(reader.seek(&Position { offset: Offset::new(pick(4)), ..at }));
                    }
                }
                14 => drop(of.truncate_to(Offset::new(pick(end() + 1)))),
                15 => drop(of.delete_records(Offset::new(pick(end() + 1)))),
                16 => {
                    let more = TopicConfig::new().partitions(topic.partition_count() + 1);
                    drop(broker.alter_topic(name, more));
                }
                17 if pick(8) == 0 => reader.fetcher.unassign(|assigned| assigned.is(name, of.id())),
                18 if pick(8) == 0 => drop(broker.delete_topic("u")),
                _ => {}
            }
            let lag: u64 = reader.fetcher.assigned().iter().map(Assigned::lag).sum();
            assert_eq!(reader.lag(), lag);
            seen.insert(lag);
            if pick(3) > 0 {
                reader.update(&mut kept);
                assert_eq!(kept, reader.positions());
            }
        }
    }
    assert!(seen.contains(&0) && seen.len() > 15, "{seen:?}");
}

/// A reader that has found nothing looks at no partition until something happens to one.
#[test]
fn every_change_of_a_partition_is_found_by_the_next_poll() {
    let disk = Disk::new();
    let broker = BrokerConfig::new().clock(ManualClock::new()).seed(1).on_disk(&disk).unwrap();
    let config = TopicConfig::new().partitions(50);
    let topic = broker.create_topic("t", config.clone()).unwrap();
    let producer = broker.producer();
    let send = |partition: u32| {
        producer.send(topic.partition(partition).unwrap(), Record::new("v")).unwrap().wait().unwrap()
    };
    for partition in 0..50 {
        send(partition);
    }
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    let mut found = |change: &dyn Fn(&mut Reader)| {
        while !reader.poll(NOW).unwrap().is_empty() {}
        assert_eq!(looks(|| assert!(reader.poll(NOW).unwrap().is_empty())), 0, "nothing is ready");
        change(&mut reader);
        let mut polled = Records::default();
        let count = looks(|| polled = reader.poll(NOW).unwrap());
        let is_grown = reader.positions().len() > 50;
        assert!(count <= if is_grown { 200 } else { 10 }, "{count} looks");
        let records: Vec<_> = polled.iter().map(|r| (r.partition().get(), r.offset().get())).collect();
        (records, polled.skipped().len())
    };
    assert_eq!(found(&|_| drop(send(7))), (vec![(7, 1)], 0));
    let start = || Position { offset: Offset::ZERO, ..send(8).position() };
    assert_eq!(found(&|reader| reader.seek(&start()).unwrap()), (vec![(8, 0), (8, 1)], 0));
    // Paused: nothing, and everything once it is resumed.
    assert_eq!(
        found(&|reader| {
            reader.pause("t", 9).unwrap();
            send(9);
            assert!(reader.poll(NOW).unwrap().is_empty());
            send(9);
            assert!(reader.poll(NOW).unwrap().is_empty());
            reader.resume("t", 9).unwrap();
        }),
        (vec![(9, 1), (9, 2)], 0)
    );
    let tenth = topic.partition(10).unwrap();
    assert_eq!(found(&|_| tenth.truncate_to(Offset::ZERO).unwrap()), (vec![], 1));
    assert_eq!(found(&|_| tenth.reset_to(Offset::new(5)).unwrap()), (vec![], 1));
    assert_eq!(
        found(&|_| {
            send(10);
            tenth.delete_records(Offset::new(6)).unwrap();
        }),
        (vec![], 1)
    );
    let transaction = || {
        let mut transaction = broker.transaction();
        for partition in [11, 12] {
            transaction.send(topic.partition(partition).unwrap(), Record::new("v"));
        }
        transaction.commit().unwrap();
    };
    assert_eq!(found(&|_| transaction()), (vec![(11, 1), (12, 1)], 0));
    // Visible after its sync only, and with the change of the durability.
    broker.alter_topic("t", config.clone().durability(Durability::Sync)).unwrap();
    assert_eq!(found(&|_| drop(send(13))), (vec![(13, 1)], 0));
    let flush = || {
        producer.send(topic.partition(14).unwrap(), Record::new("v")).unwrap().detach();
        producer.flush().unwrap();
    };
    assert_eq!(found(&|_| flush()), (vec![(14, 1)], 0));
    // Of a partition that is added, all records.
    assert_eq!(
        found(&|_| {
            broker.alter_topic("t", config.clone().partitions(51)).unwrap();
            send(50);
        })
        .0,
        [(50, 0)]
    );
    broker.delete_topic("t").unwrap();
    assert!(matches!(reader.poll(NOW), Err(Error::TopicDeleted { .. })));
    assert!(matches!(reader.poll(NOW), Err(Error::TopicDeleted { .. })));
}

#[test]
fn ready_partitions_have_their_turns_in_order_also_after_some_were_given_up() {
    let (broker, topic) = broker(40);
    let mut reader = broker.reader(["t"], Start::Beginning).unwrap().max_records(1);
    assert!(reader.poll(NOW).unwrap().is_empty());
    let turns = |reader: &mut Reader, count: usize| -> Vec<u32> {
        (0..count).map(|_| reader.poll(NOW).unwrap().last().unwrap().partition().get()).collect()
    };
    for partition in [30, 5, 17, 38] {
        fill(&log(&topic, partition), 3);
    }
    assert_eq!(turns(&mut reader, 6), [5, 17, 30, 38, 5, 17]);
    // Every other one goes: the places of the others change, and none of them is lost.
    reader.fetcher.unassign(|assigned| assigned.log().partition().get() % 2 == 1);
    fill(&log(&topic, 2), 2);
    assert_eq!(turns(&mut reader, 4), [38, 2, 30, 38]);
    fill(&log(&topic, 36), 1);
    assert_eq!(turns(&mut reader, 3), [2, 30, 36]);
    assert!(reader.poll(NOW).unwrap().is_empty());
    for partition in (0..40).rev() {
        fill(&log(&topic, partition), 1);
    }
    assert_eq!(turns(&mut reader, 20), (38..40).chain(0..38).step_by(2).collect::<Vec<_>>());
    assert!(reader.poll(NOW).unwrap().is_empty());
}

/// Threads append to the same partitions, and each finds its own record by a poll that does not
/// wait, as soon as the append has returned. Another reader waits for all of them.
#[test]
fn a_record_is_found_by_a_poll_once_its_append_has_returned() {
    const ROUNDS: u64 = 2_000;
    let (broker, topic) = broker(3);
    let mut all = broker.reader(["t"], Start::Beginning).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (broker, topic) = (&broker, &topic);
            scope.spawn(move || {
                let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
                let producer = broker.producer();
                for round in 0..ROUNDS {
                    let to = topic.partition(((thread + round) % 3) as u32).unwrap();
                    let sent = producer.send(&to, Record::new("v")).unwrap().wait().unwrap();
                    let mut next = reader.position("t", to.id()).unwrap().offset;
                    while next <= sent.offset {
                        let records = reader.poll(NOW).unwrap();
                        assert!(!records.is_empty(), "{sent:?} is not found from {next} on");
                        next = reader.position("t", to.id()).unwrap().offset;
                    }
                }
            });
        }
        let mut left = 3 * ROUNDS as usize;
        while left > 0 {
            let records = all.poll(Duration::from_secs(600)).unwrap();
            assert!(!records.is_empty(), "the wait ended with {left} records to come");
            left -= records.len();
        }
    });
}
