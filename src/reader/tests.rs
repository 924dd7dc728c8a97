use super::*;
use crate::config::TopicConfig;
use crate::records::tests::{append, value};
use crate::types::Offset;
use crate::{Record, Topic};

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
    let mut reader = broker.reader(&["t"], Start::Beginning).unwrap();
    assert_eq!(offsets(&reader.poll(NOW).unwrap()), [3, 21]);
    // The last batch is empty, and the position is after it.
    assert!(reader.poll(NOW).unwrap().is_empty());
    assert_eq!(reader.position("t", 0).unwrap().offset, 40);
    let read =
        broker.reader(&["t"], Start::Beginning).unwrap().to_end().map(|r| r.unwrap().len()).sum::<usize>();
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
        let mut reader = broker.reader(&["t"], Start::At(Offset::new(from))).unwrap();
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
    let mut reader = broker.reader(&["t"], Start::Beginning).unwrap().max_records(3);
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
    let mut reader = broker.reader(&["t"], Start::Beginning).unwrap().max_records(2);
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
    for (limit, expected) in [(0, 1), (1, 1), (1_000, 1), (1_500, 1), (2_500, 2), (1 << 20, 4)] {
        let read = topic.partition(0).unwrap().read(Start::Beginning, limit).unwrap();
        assert_eq!(read.len(), expected, "limit {limit}");
        let mut reader = broker.reader(&["t"], Start::Beginning).unwrap().max_bytes(limit);
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
    let mut reader =
        broker.reader(&["t"], Start::At(Offset::new(9))).unwrap().offset_reset(OffsetReset::Fail);
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
    let mut reader = broker.reader(&["t"], Start::Beginning).unwrap();
    let weak = Arc::downgrade(reader.fetcher.waiter());
    let parked = &broker.inner().ctx.parked;
    {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut recv = std::pin::pin!(reader.recv());
        assert!(recv.as_mut().poll(&mut cx).is_pending());
        assert!(recv.as_mut().poll(&mut cx).is_pending());
        assert!(parked.any());
    }
    assert!(!parked.any());
    drop(reader);
    assert!(weak.upgrade().is_none());
    fill(&log, 1);
}

#[test]
fn a_future_and_a_reader_may_go_to_another_thread() {
    fn send<T: Send>(_: &T) {}
    fn handle<T: Send + Sync + Clone>(_: &T) {}
    let (broker, _topic) = broker(1);
    let mut reader = broker.reader(&["t"], Start::End).unwrap();
    send(&reader);
    handle(&reader.handle());
    send(&reader.recv());
}

#[test]
fn a_record_is_read_as_it_was_sent() {
    let (broker, topic) = broker(1);
    let producer = broker.producer();
    producer.send(&topic, Record::new("v").key("k").header("h", "x")).unwrap().wait().unwrap();
    let records = broker.reader(&["t"], Start::Beginning).unwrap().poll(NOW).unwrap();
    let record = records.last().unwrap();
    assert_eq!(Record::from(&record), Record::new("v").key("k").header("h", "x"));
}
