//! The texts of errors, and the outcome that they report.

use std::io;
use std::path::Path;

use super::*;

fn topic() -> TopicName {
    TopicName::new("orders").unwrap()
}

/// Each text has the names and the two values: the one found and the one asked for.
#[test]
fn texts_name_the_value_found_and_the_value_asked_for() {
    let (partition, to) = (PartitionId::new(2), Offset::new(17));
    let texts = [
        (
            Error::OffsetConflict { topic: topic(), partition, expected: Offset::new(16), end: to },
            "orders/2 ends at offset 17, the append expected offset 16",
        ),
        (
            Error::Truncated { topic: topic(), partition, offset: Offset::new(20), to },
            "orders/2 was truncated since the position at offset 20 was taken: \
             the records are the same before offset 17 only",
        ),
        (
            Error::OutOfOrderSequence {
                producer: "job".into(),
                topic: topic(),
                partition,
                sequence: 5,
                last: Some(6),
            },
            "sequence 5 of producer \"job\" comes too late in orders/2: the last one is 6",
        ),
        (
            Error::ConfigMismatch {
                topic: topic(),
                field: "partitions",
                found: "7".to_string(),
                asked: "6".to_string(),
            },
            "topic orders exists with partitions 7, asked for was 6",
        ),
        (
            Error::CommitRejected {
                group: GroupId::new("billing").unwrap(),
                offenders: vec![Offender {
                    topic: topic(),
                    partition,
                    offset: Offset::new(18),
                    reason: RejectReason::BeyondEnd { end: to },
                }],
            },
            "group billing: the commit was rejected: orders/2 at offset 18: the partition ends at offset 17",
        ),
        (
            Error::InvalidProducerName { name: String::new() },
            "\"\" is not a valid producer name: it has 0 bytes and must have 1 to 249",
        ),
    ];
    for (error, text) in texts {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn only_a_failed_write_or_sync_leaves_the_outcome_open() {
    let outcome = |action| Error::io(action, Path::new("f"), io::ErrorKind::Other.into()).outcome();
    assert_eq!([IoAction::Write, IoAction::Sync].map(outcome), [Outcome::Unknown; 2]);
    for action in [IoAction::Create, IoAction::Replace, IoAction::Change, IoAction::Open, IoAction::Read] {
        assert_eq!(outcome(action), Outcome::NotWritten, "{action}");
    }
    let full = Error::write(Path::new("f"), io::ErrorKind::StorageFull.into());
    assert_eq!((full.outcome(), full.is_full()), (Outcome::NotWritten, true));
}

#[test]
fn a_name_that_does_not_parse_is_an_error_with_the_name_and_the_rule() {
    assert_eq!("orders".parse::<TopicName>().unwrap(), "orders");
    assert_eq!("billing".parse::<GroupId>().unwrap(), "billing");
    let wrong = "a b".parse::<TopicName>().unwrap_err().to_string();
    assert!(wrong.starts_with("\"a b\" is not a valid topic name: it has a character"), "{wrong}");
    let wrong = "".parse::<GroupId>().unwrap_err().to_string();
    assert_eq!(wrong, "\"\" is not a valid group name: it is empty");
}

#[test]
fn the_same_call_is_retriable_only_if_nothing_of_it_was_done_and_the_reason_may_pass() {
    let io = |action, number| Error::io(action, Path::new("f"), io::Error::from_raw_os_error(number));
    let full = Error::DiskFull { path: "f".into(), cause: Space::NoSpace };
    let buffer = Error::BufferFull { producer: None, used: 2, limit: 1 };
    for (error, kind, retriable) in [
        (full, ErrorKind::NoSpace, true),
        (buffer, ErrorKind::Busy, true),
        (Error::AlreadyOpen { path: "d".into(), owner: None }, ErrorKind::Busy, true),
        (Error::Closed, ErrorKind::Closed, false),
        (Error::Fenced { producer: "p".into() }, ErrorKind::Fenced, false),
        (Error::UnknownTopic { topic: "t".into() }, ErrorKind::NotFound, false),
        (io(IoAction::Read, 5), ErrorKind::Storage, false),
        // `EMFILE`: nothing was opened, or the bytes before it were written.
        (io(IoAction::Open, 24), ErrorKind::Storage, cfg!(unix)),
        (io(IoAction::Sync, 24), ErrorKind::Storage, false),
    ] {
        assert_eq!((error.kind(), error.is_retriable()), (kind, retriable), "{error}");
    }
}
