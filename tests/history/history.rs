//! A history: the calls of all clients and their results, and the content of the logs at each
//! opening. The words that the clients write and the checker reads.
//!
//! Times are numbers from one counter that all threads raise, so of two times the smaller one was
//! first. Values are numbers that no two records share, so a value names the record.

use std::collections::BTreeMap;

pub type Time = u64;
pub type Value = u64;

/// From the moment before a call to the moment after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: Time,
    pub to: Time,
}

/// The result of a call that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged.
    Done,
    /// The error said that nothing was or will be written.
    Failed,
    /// The error left it open.
    Unknown,
}

/// One record of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    pub partition: usize,
    pub value: Value,
    /// The record of the input that it was made from.
    pub of: Option<Value>,
    /// The offset of the acknowledgement.
    pub offset: Option<u64>,
}

/// A group's position: the next offset to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    pub group: usize,
    pub partition: usize,
    pub next: u64,
}

/// Records and positions that were written by one call, and become durable together.
#[derive(Clone, Debug)]
pub struct Change {
    /// The thread or member that made it. A session makes one change after another, or sends them
    /// in the order of `span.from`.
    pub session: u64,
    pub span: Span,
    pub outcome: Outcome,
    /// An acknowledgement promises that no power loss takes it.
    pub is_durable: bool,
    pub writes: Vec<Write>,
    pub commits: Vec<Commit>,
}

/// A read of one partition.
#[derive(Clone, Debug)]
pub struct Read {
    pub session: u64,
    pub span: Span,
    pub partition: usize,
    /// The offset that was asked for.
    pub from: u64,
    /// The offsets and values that were returned.
    pub got: Vec<(u64, Value)>,
    /// It returned nothing, because the log's visible end was `from`.
    pub at_end: bool,
}

/// A member of a group, in the order of its calls.
#[derive(Clone, Debug)]
pub enum Step {
    /// The listener was called: the partition is its own, and starts at `at` if that is known
    /// already.
    Assigned { time: Time, partition: usize, at: Option<u64> },
    /// It was revoked or lost.
    Gone { time: Time, partition: usize },
    /// A poll returned records: partition, offset, value.
    Polled { span: Span, got: Vec<(usize, u64, Value)> },
    /// A transaction with its positions was not committed, so it starts at the committed ones
    /// again.
    WentBack { time: Time },
    /// It has left the group.
    Left { time: Time },
}

#[derive(Clone, Debug)]
pub struct Member {
    pub session: u64,
    pub group: usize,
    pub steps: Vec<Step>,
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Closed,
    Killed,
    PowerLost,
}

/// All that a broker holds, read right after its opening.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// For each partition, offsets and values in the order of reading.
    pub logs: Vec<Vec<(u64, Value)>>,
    pub ends: Vec<u64>,
    /// By group and partition.
    pub committed: BTreeMap<(usize, usize), u64>,
}

/// One process: from its opening to its end.
#[derive(Clone, Debug)]
pub struct Life {
    pub began: Time,
    pub opened: Snapshot,
    pub end: End,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    /// For each partition: whether a record that is visible survives a power loss.
    pub is_sync: Vec<bool>,
    /// Whether a committed position survives a power loss.
    pub commits_are_sync: bool,
    /// The partitions before this number are the input of the groups.
    pub inputs: usize,
    /// The group that writes what it makes of the input together with its positions. The other
    /// groups only commit.
    pub exactly_once: usize,
    pub groups: usize,
    pub changes: Vec<Change>,
    pub reads: Vec<Read>,
    pub members: Vec<Member>,
    /// The last one has no calls: it shows the rest.
    pub lives: Vec<Life>,
    /// Before the last opening every group has polled and committed until nothing was left.
    pub is_drained: bool,
}
