//! The functions of a log that a producer needs.

use std::task::{Poll, Waker};

use crate::broker::ProducerIdentity;
use crate::config::Compression;
use crate::error::{Error, IoAction, Result};
use crate::log::producers::Sender;
use crate::log::{Appended, Log, LogSettings};
use crate::segment::builder::SealedBatch;
use crate::sync::Arc;
use crate::types::{Offset, PartitionId, TopicName};

/// The settings of a log that a batch depends on.
#[derive(Clone, Copy)]
pub(super) struct BatchSettings {
    /// Of the largest batch that fits a segment, header included.
    pub(super) max_batch_bytes: usize,
    /// Of the largest record that is allowed and fits a batch.
    pub(super) max_record_len: usize,
    pub(super) compression: Compression,
}

impl BatchSettings {
    pub(super) fn of(settings: &LogSettings) -> Self {
        BatchSettings {
            max_batch_bytes: settings.max_batch_bytes(),
            max_record_len: settings.max_record_len(),
            compression: settings.compression,
        }
    }
}

/// The functions of a log that a producer needs.
pub(super) trait Sink: Send + Sync {
    fn topic(&self) -> &TopicName;
    fn partition(&self) -> PartitionId;
    fn batch_settings(&self) -> BatchSettings;
    /// Writes a batch at the log's end, if the handle that sends it, where it has a name, is the
    /// last one of that.
    /// The batch's buffers may be gone after that.
    fn append(&self, batch: &mut SealedBatch, identity: Option<&ProducerIdentity>) -> Result<Appended>;
    /// Whether everything below `end` is visible, without regard to truncations.
    fn is_visible(&self, end: Offset) -> bool;
    /// Blocks until everything below `end`, appended up to `epoch`, is visible.
    fn wait_visible(&self, end: Offset, epoch: u32) -> Result<()>;
    /// Looks whether everything below `end`, appended up to `epoch`, is visible, or leaves the
    /// waker.
    fn poll_visible(&self, end: Offset, epoch: u32, waker: &Waker) -> Poll<Result<()>>;
    /// Whether something appended up to `epoch` may have been truncated because it could not be
    /// stored, and not on a caller's request.
    fn may_have_lost(&self, epoch: u32) -> bool;
    /// Requests a sync, so that appended records become visible although no thread waits for them.
    fn request_sync(&self);
    /// Whether the next write makes files, which takes several syncs.
    fn is_new(&self) -> bool;
}

impl Sink for Arc<Log> {
    fn topic(&self) -> &TopicName {
        Log::topic(self)
    }

    fn partition(&self) -> PartitionId {
        Log::partition(self)
    }

    fn batch_settings(&self) -> BatchSettings {
        self.with_settings(BatchSettings::of)
    }

    fn append(&self, batch: &mut SealedBatch, identity: Option<&ProducerIdentity>) -> Result<Appended> {
        match identity {
            Some(identity) => self.append_from(
                batch,
                &Sender { first: None, producer: &identity.name, fence: &|| identity.check() },
            ),
            None => Log::append(self, batch),
        }
    }

    fn is_visible(&self, end: Offset) -> bool {
        self.visible_end() >= end
    }

    fn wait_visible(&self, end: Offset, epoch: u32) -> Result<()> {
        Log::wait_visible(self, end, epoch)
    }

    fn poll_visible(&self, end: Offset, epoch: u32, waker: &Waker) -> Poll<Result<()>> {
        Log::poll_visible(self, end, epoch, waker)
    }

    fn may_have_lost(&self, epoch: u32) -> bool {
        self.health().may_have_lost(epoch)
    }

    fn request_sync(&self) {
        Log::request_sync(self);
    }

    fn is_new(&self) -> bool {
        !self.has_files()
    }
}

/// The error of a write that unwound: it is unknown which part of it is in the log.
pub(super) fn unwound(sink: &dyn Sink) -> Error {
    let place = format!("{}/{}", sink.topic(), sink.partition());
    Error::io(
        IoAction::Write,
        place.as_ref(),
        std::io::Error::other("the thread that was writing it panicked"),
    )
}
