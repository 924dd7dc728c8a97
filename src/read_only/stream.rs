//! A stream of a directory that is only read.

use std::fmt;

use crate::error::Result;
use crate::records::OwnedRecord;
use crate::stream::{History, Stream};
use crate::topic::Topic;
use crate::types::{PartitionId, TopicName};
use crate::version::Version;

/// All visible records of one key of a [`ReadOnlyTopic`](crate::ReadOnlyTopic). A cheap handle.
#[derive(Clone)]
pub struct ReadOnlyStream {
    topic: Topic,
    stream: Stream,
}

impl ReadOnlyStream {
    pub(super) fn new(topic: Topic, stream: Stream) -> Self {
        ReadOnlyStream { topic, stream }
    }

    /// The stream as it is known now: keys are hashed with a secret of the partition, which is known
    /// with its first files.
    fn now(&self) -> Result<Stream> {
        self.topic.stream(self.key())
    }

    /// The topic's name.
    pub fn topic(&self) -> &TopicName {
        self.stream.topic()
    }

    /// Its key.
    pub fn key(&self) -> &[u8] {
        self.stream.key()
    }

    /// The partition that it is in, among other streams.
    pub fn partition(&self) -> PartitionId {
        self.stream.partition().id()
    }

    /// All its events and its version: see [`Stream::load`](crate::Stream::load).
    ///
    /// # Errors
    /// As [`Stream::load`](crate::Stream::load).
    pub fn load(&self) -> Result<History> {
        self.now()?.load()
    }

    /// The events after a version: see [`Stream::load_from`](crate::Stream::load_from).
    ///
    /// # Errors
    /// As [`Stream::load_from`](crate::Stream::load_from).
    pub fn load_from(&self, version: Version) -> Result<History> {
        self.now()?.load_from(version)
    }

    /// The newest `n` events, oldest first: see [`Stream::last_n`](crate::Stream::last_n).
    ///
    /// # Errors
    /// As [`Stream::load`](crate::Stream::load).
    pub fn last_n(&self, n: usize) -> Result<History> {
        self.now()?.last_n(n)
    }

    /// The newest event. `None` if there is none.
    ///
    /// # Errors
    /// As [`Stream::load`](crate::Stream::load).
    pub fn last(&self) -> Result<Option<OwnedRecord>> {
        self.now()?.last()
    }

    /// Its version: how many visible events it has.
    ///
    /// # Errors
    /// As [`Stream::load`](crate::Stream::load).
    pub fn version(&self) -> Result<Version> {
        self.now()?.version()
    }
}

impl fmt::Debug for ReadOnlyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.stream, f)
    }
}
