#![doc = include_str!("../README.md")]
//!
//! # How the crate is laid out
//!
//! The directory tree follows the data, and a module imports only from the rows above its own
//! (`tests/architecture` holds this):
//!
//! | row | modules | question |
//! |---|---|---|
//! | words | `types` `error` `record` `config` `clock` `sync` `version` [`event`] [`stats`] | What are things called? |
//! | bytes | `format` | What do the bytes mean? Pure: no I/O, no locks, no clock, no panic on any input. |
//! | medium | `storage` | How do bytes get onto a medium, and when are they safe there? Knows files, not formats. |
//! | engine | `engine` | What do all logs of a broker share? Clock, pools, open files, timer, worker, events. |
//! | one file | `segment` | A file of batches with its indexes: built, opened, walked. |
//! | one log | `log` | A list of segments and its ends: append, roll, sync, recover, read, compact, find by key. |
//! | several logs | `transaction` (all but the handle) | The journal: all batches of a transaction, or none. |
//! | groups | `group` | Which member owns which partition, and how far is each group? |
//! | broker | `broker` | One directory: topics, catalog, checkpoint, background work. |
//! | handles | `topic` `producer` `partitioner` `reader` [`records`] `consumer` `transaction` `stream` `projection` `read_only` `offline` [`testing`] `edges` (the optional features) | What does the user hold? |
//!
//! **A record's way in.** [`Producer::send`] encodes the record once into the open batch of its
//! partition, under a short lock. A full or lingering batch is compressed and its body's checksum
//! is computed outside every lock. Then it is appended in the order of sealing: base offset and
//! header checksum under the partition's writer lock, one positional write. The group commit makes
//! it durable as the topic asks, the visible end moves, readers wake.
//!
//! **Its way out.** A reader keeps its place in the files and walks. At the end of the log it
//! shares the batch that the producer sealed. Before that it reads maps of sealed segments, or the
//! file of the active one up to the visible end (a read of single records: a map of it too). Every
//! byte from a file is checked before it is returned, through a map once. Records are borrowed from
//! that one buffer.
//!
//! **Several at once.** A [`Transaction`] writes one record to the journal, its commit point, and
//! then to each partition. An opening completes a transaction that a crash interrupted. A group's
//! coordinator checks commits and writes them, as records of a topic of the broker's own, under one
//! lock, so that no partition changes hands in between.
//!
//! **By key.** Where a topic keeps streams, each append notes the keys of its batch: in a table of
//! the active segment, which is written to a side file once the segment is sealed. A [`Stream`] is
//! loaded from the batches that these name, and its version is the number of records that they
//! count. An append looks the version up before it takes the writer's lock, and checks it under the
//! lock.
//!
//! **Where the arguments are.** The format and crash safety, per operation: `src/format/FORMAT.md`.
//! Concurrency: the heads of `src/log/mod.rs`, `src/log/list.rs`, `src/transaction/journal/mod.rs`,
//! `src/log/streams.rs` and `src/group/mod.rs`; of other
//! processes: `src/engine/publish.rs`, `src/log/follow.rs` and `src/broker/follow/mod.rs`; the order of all locks: `src/sync/rank.rs`.
//! Durability of each file operation: the traits in `src/storage/mod.rs`. The medium that crashes
//! and fails on demand is public: [`testing::Disk`].

#![cfg_attr(docsrs, feature(doc_cfg))]
// A public item without a sentence is an item nobody can rely on.
#![deny(missing_docs)]
// `pub` means public; what the crate shares with itself says `pub(crate)`.
#![deny(unreachable_pub)]
// A library does not act on the process: it neither panics, nor prints, nor exits. Bytes are never
// taken on trust.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::todo,
        clippy::unimplemented,
        clippy::print_stdout,
        clippy::print_stderr,
        clippy::exit
    )
)]

mod broker;
mod clock;
mod config;
mod consumer;
mod edges;
mod engine;
mod error;
pub mod event;
mod format;
mod group;
pub mod guide;
mod log;
mod offline;
mod partitioner;
mod producer;
mod projection;
mod read_only;
mod reader;
mod record;
pub mod records;
mod rng;
mod segment;
pub mod stats;
mod storage;
mod stream;
mod sync;
pub mod testing;
mod topic;
mod transaction;
mod types;
mod unwind;
mod version;

pub use broker::Broker;
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::{
    BrokerConfig, Cleanup, Compression, Durability, ReadMode, Retention, TimestampType, TopicConfig,
};
pub use consumer::{
    CommittedOffset, Consumer, ConsumerBuilder, ConsumerHandle, Group, GroupDescription, GroupMember,
    GroupPartition, IntoOffsets, Offsets, Rebalance, RebalanceEvent,
};
#[cfg(feature = "futures")]
pub use edges::ProducerSink;
#[cfg(feature = "serde")]
pub use edges::{Codec, Json, Typed};
pub use error::{
    Corruption, Error, ErrorKind, IoAction, Offender, Outcome, Owner, RejectReason, Result, Space,
};
pub use group::assign::{
    Assignor, AssignorMember, AssignorTopic, CooperativeStickyAssignor, RangeAssignor, RebalanceProtocol,
    RoundRobinAssignor,
};
pub use log::raw_batches::RawBatches;
pub use partitioner::{Partitioner, partition_for_key};
pub use producer::{Destination, Pending, Producer, ProducerConfig, SendFuture, TrySendError};
pub use projection::{Feed, Progress, Projection, Projector, ReadModel};
pub use read_only::{ReadOnlyBroker, ReadOnlyPartition, ReadOnlyStream, ReadOnlyTopic};
pub use reader::{OffsetReset, Reader, ReaderHandle, Recv, RecvOne};
pub use record::{Header, IntoBytes, Record};
#[doc(inline)]
pub use records::{ConsumedRecord, OwnedRecord, Records, SkipReason, Skipped};
pub use stream::{History, Stream, StreamReader, StreamReceipt};
pub use topic::{Partition, Topic};
pub use transaction::Transaction;
pub use types::{
    Bounds, GroupId, Names, Offset, ParsePositionError, PartitionId, Position, Receipt, Start, Timestamp,
    TopicId, TopicName, TopicPartition,
};
pub use version::{ExpectedVersion, ParseVersionError, Version};
