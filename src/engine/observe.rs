//! What do the crates `tracing` and `metrics` get? Without these features every function here is
//! empty.
//!
//! Both crates call code of the user, a subscriber or a recorder. So every function must be called
//! under no lock, and none is called for each record. A panic of that code is caught by
//! [`Events::observe`](super::events::Events::observe), except at the beginning and the end of a
//! [`Span`], where nothing is under way.
#![allow(unused_variables)]

use std::path::Path;

use super::identity::Identity;
use crate::stats::Event;
use crate::types::{GroupId, TopicPartition};

/// Whether events must be kept for one of the two, also without a listener.
pub(super) const IS_ON: bool = cfg!(any(feature = "tracing", feature = "metrics"));

/// A span, entered until it is dropped.
#[must_use]
pub(crate) struct Span {
    #[cfg(feature = "tracing")]
    _entered: tracing::span::EnteredSpan,
}

/// The opening of the broker of a directory.
pub(crate) fn opening(directory: &Path) -> Span {
    Span {
        #[cfg(feature = "tracing")]
        _entered: tracing::info_span!(target: "quipu", "open", directory = %directory.display()).entered(),
    }
}

/// A compaction of a partition.
pub(crate) fn compacting(partition: &Identity) -> Span {
    Span {
        #[cfg(feature = "tracing")]
        _entered: tracing::info_span!(
            target: "quipu", "compact", topic = %partition.topic, partition = partition.partition.get()
        )
        .entered(),
    }
}

/// A broker was opened.
pub(crate) fn opened(is_clean: bool, recovered: usize, damaged: usize) {
    #[cfg(feature = "tracing")]
    match damaged {
        0 => tracing::info!(target: "quipu", clean = is_clean, recovered, "opened"),
        _ => tracing::error!(target: "quipu", clean = is_clean, recovered, damaged, "opened with damage"),
    }
}

/// The partitions of a member change.
pub(crate) fn rebalanced(group: &GroupId, change: &'static str, partitions: &[TopicPartition]) {
    #[cfg(feature = "tracing")]
    tracing::info!(target: "quipu", %group, change, count = partitions.len(), ?partitions, "rebalanced");
    #[cfg(feature = "metrics")]
    metrics::counter!(
        "quipu.consumer.rebalances", "messaging.system" => "quipu",
        "messaging.consumer.group.name" => group.to_string(), "quipu.change" => change
    )
    .increment(1);
}

/// How many records a consumer has returned since that was published last.
#[derive(Default)]
pub(crate) struct Consumed {
    #[cfg(feature = "metrics")]
    records: usize,
}

impl Consumed {
    /// Adds records. Returns the number to be [published](consumed) once it is at least `at_least`,
    /// and starts over.
    #[inline]
    pub(crate) fn add(&mut self, records: usize, at_least: usize) -> Option<usize> {
        #[cfg(feature = "metrics")]
        {
            self.records += records;
            (self.records >= at_least).then(|| std::mem::take(&mut self.records))
        }
        #[cfg(not(feature = "metrics"))]
        None
    }
}

/// A consumer of a group has returned so many records.
pub(crate) fn consumed(group: &GroupId, records: usize) {
    #[cfg(feature = "metrics")]
    metrics::counter!(
        "messaging.client.consumed.messages", "messaging.system" => "quipu",
        "messaging.operation.name" => "poll", "messaging.consumer.group.name" => group.to_string()
    )
    .increment(records as u64);
}

/// Numbers of a partition since they were published last.
#[cfg(feature = "metrics")]
pub(crate) struct Grown {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) syncs: u64,
    pub(crate) sync_seconds: f64,
}

/// Publishes the numbers of a partition.
#[cfg(feature = "metrics")]
pub(crate) fn grown(of: &Identity, grown: &Grown) {
    let labels = [
        metrics::Label::from_static_parts("messaging.system", "quipu"),
        metrics::Label::new("messaging.destination.name", of.topic.to_string()),
        metrics::Label::new("messaging.destination.partition.id", of.partition.to_string()),
    ];
    if grown.records > 0 {
        metrics::counter!("messaging.client.sent.messages", labels.iter()).increment(grown.records);
        metrics::counter!("quipu.partition.appended.bytes", labels.iter()).increment(grown.bytes);
    }
    if grown.syncs > 0 {
        metrics::counter!("quipu.partition.syncs", labels.iter()).increment(grown.syncs);
        let mean = grown.sync_seconds / grown.syncs as f64;
        metrics::histogram!("quipu.partition.sync.duration", labels.iter()).record(mean);
    }
}

/// An event of the broker.
pub(super) fn event(event: &Event) {
    #[cfg(feature = "tracing")]
    trace(event);
    #[cfg(feature = "metrics")]
    metrics::counter!(
        "quipu.events", "messaging.system" => "quipu", "quipu.event" => kind(event)
    )
    .increment(1);
}

#[cfg(feature = "metrics")]
fn kind(event: &Event) -> &'static str {
    match event {
        Event::Rolled { .. } => "rolled",
        Event::Retained { .. } => "retained",
        Event::Compacted(_) => "compacted",
        Event::Truncated { .. } => "truncated",
        Event::Recovered(_) => "recovered",
        Event::TailTruncated(_) => "tail_truncated",
        Event::LossAccepted { .. } => "loss_accepted",
        Event::CommitFailed { .. } => "commit_failed",
        Event::SendFailed { .. } => "send_failed",
        Event::Poisoned { .. } => "poisoned",
        Event::Panicked { .. } => "panicked",
    }
}

#[cfg(feature = "tracing")]
fn trace(event: &Event) {
    match event {
        Event::Rolled { topic, partition, base_offset } => {
            tracing::debug!(target: "quipu", %topic, %partition, %base_offset, "rolled");
        }
        Event::Retained { topic, partition, log_start, segments, bytes } => {
            tracing::info!(target: "quipu", %topic, %partition, %log_start, segments, bytes, "retained");
        }
        Event::Compacted(done) => tracing::info!(
            target: "quipu", topic = %done.topic, partition = %done.partition, compacted_to = %done.compacted_to,
            complete = done.complete, bytes_before = done.bytes_before, bytes_after = done.bytes_after,
            records_before = done.records_before, records_after = done.records_after, "compacted"
        ),
        Event::Truncated { topic, partition, to, epoch } => {
            tracing::info!(target: "quipu", %topic, %partition, %to, epoch, "truncated");
        }
        Event::Recovered(found) => tracing::info!(
            target: "quipu", topic = %found.topic, partition = %found.partition, from = %found.from,
            to = %found.to, bytes = found.bytes, "recovered"
        ),
        Event::TailTruncated(tail) => tracing::warn!(
            target: "quipu", topic = %tail.topic, partition = %tail.partition, from = %tail.from,
            bytes = tail.bytes, reason = tail.reason, "tail truncated"
        ),
        Event::LossAccepted { topic, partition, ranges, epoch } => {
            tracing::warn!(target: "quipu", %topic, %partition, ?ranges, epoch, "loss accepted");
        }
        Event::CommitFailed { cause } => tracing::error!(target: "quipu", %cause, "commit failed"),
        Event::SendFailed { topic, partition, producer, records, cause } => {
            tracing::error!(target: "quipu", %topic, %partition, producer = producer.as_deref(), records, %cause,
                "send failed");
        }
        Event::Poisoned { topic, partition, cause } => {
            tracing::error!(target: "quipu", %topic, %partition, %cause, "poisoned");
        }
        Event::Panicked { which, message } => {
            tracing::error!(target: "quipu", which, message, "panicked");
        }
    }
}
