//! The texts of errors that do not fit one line.

use std::path::Path;

use super::details::{DamagedRange, Offender, Owner};
use crate::types::{GroupId, Offset, PartitionId, TopicName, TopicPartition};
use crate::version::Version;

pub(super) fn already_open(path: &Path, owner: Option<&Owner>) -> String {
    let path = path.display();
    match owner {
        Some(owner) => format!("{path} is already open: {owner}"),
        None => format!("{path} is already open, in this process or another"),
    }
}

pub(super) fn stream_truncated(topic: &TopicName, key: &[u8], version: Version, to: Version) -> String {
    format!(
        "stream \"{}\" of {topic} was truncated since version {version}: \
         it has the same events up to version {to} only",
        key.escape_ascii()
    )
}

pub(super) fn truncated(topic: &TopicName, partition: PartitionId, offset: Offset, to: Offset) -> String {
    format!(
        "{topic}/{partition} was truncated since the position at offset {offset} was taken: \
         the records are the same before offset {to} only"
    )
}

pub(super) fn transaction_too_large(partition: Option<&TopicPartition>, size: usize, limit: usize) -> String {
    match partition {
        None => format!("a transaction of {size} bytes is larger than the limit of {limit} bytes"),
        Some(partition) => format!(
            "a transaction has {size} bytes of records for {partition}, and the limit is {limit} bytes: \
             they are one batch, of at most 64 MiB, which must fit a segment (segment_bytes)"
        ),
    }
}

pub(super) fn loss_not_named(range: &DamagedRange) -> String {
    let DamagedRange { topic, partition, from, to, bytes, position, .. } = range;
    format!(
        "{topic}/{partition} has damage that was not named: offsets {from} to {to}, \
         {bytes} bytes at byte {position} of {}",
        range.file.display()
    )
}

pub(super) fn buffer_full(producer: Option<&str>, used: usize, limit: usize) -> String {
    let name = producer.map_or(String::new(), |name| format!(" {name:?}"));
    format!("the buffer of producer{name} is full: {used} bytes are not written yet, the limit is {limit}")
}

pub(super) fn out_of_order(
    producer: &str,
    topic: &TopicName,
    partition: PartitionId,
    sequence: u64,
    last: Option<u64>,
) -> String {
    let last = last.map_or(String::new(), |last| format!(": the last one is {last}"));
    format!("sequence {sequence} of producer {producer:?} comes too late in {topic}/{partition}{last}")
}

pub(super) fn duplicate(
    producer: &str,
    topic: &TopicName,
    partition: PartitionId,
    sequence: u64,
    last: u64,
) -> String {
    format!(
        "sequence {sequence} of producer {producer:?} was sent to {topic}/{partition} before, or skipped: \
         the last one is {last}"
    )
}

pub(super) fn possible_duplicate(
    producer: &str,
    topic: &TopicName,
    partition: PartitionId,
    sequence: u64,
    reason: &str,
) -> String {
    format!(
        "sequence {sequence} of producer {producer:?} may be in {topic}/{partition}, \
         from before {topic} was given more partitions: {reason}"
    )
}

pub(super) fn unsupported(path: &Path, needs: &str, supported: u32) -> String {
    format!(
        "{} needs {needs}; this build has format version {supported}: nothing was changed, \
         use the release that wrote it or a later one, built with that feature",
        path.display()
    )
}

pub(super) fn over_budget(limit: u64, used: u64, held_by: Option<&GroupId>) -> String {
    let held =
        held_by.map_or(String::new(), |group| format!(": group {group} has not read the oldest records yet"));
    format!(
        "the files of the broker have {used} bytes of a budget of {limit}, \
         and nothing of it may be deleted{held}"
    )
}

pub(super) fn list(offenders: &[Offender]) -> String {
    offenders.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

pub(super) fn comma_separated(partitions: &[TopicPartition]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
