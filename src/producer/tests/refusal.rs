//! Records that are refused, and topics that have ended.

use super::fakes::{FakeTopic, flush, outbox, small};
use crate::config::TopicConfig;
use crate::error::Error;
use crate::producer::config::ProducerConfig;
use crate::producer::pending::Pending;
use crate::record::Record;
use crate::sync::Ordering;
use crate::types::Timestamp;

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
    assert!(matches!(unknown, Err(Error::UnknownPartition { partition, count: 2, .. }) if partition == 2));
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
