/// Every lock of the crate, in the order in which a thread may take them: a thread that holds one
/// takes only locks further down. Each is named for what it protects, and has one owner.
///
/// Two locks of one rank are held at once only where [`may_repeat`](Rank::may_repeat) states their
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// A lock of a test, which has no place in the order.
    #[cfg(test)]
    Test,

    // -- the broker --
    /// `Follower`: the right to follow an owner of the directory. An opening in memory takes all
    /// other locks.
    Following,
    /// `Threads`: the handles of the background threads, while they are joined.
    Threads,
    /// `BrokerInner`: the lock file of the directory.
    Directory,
    /// `BrokerInner`: the right to change topics and names of producers.
    Changing,
    /// `Maintenance`: the right to delete records to make room.
    MakingRoom,

    // -- handles --
    /// `Unflushed`: the buffers of a producer that have something for a flush.
    ProducerUnflushed,
    /// `PartitionBuffer`: the records that wait for a batch.
    ProducerQueue,

    // -- groups --
    /// `Coordinator`: the groups by name.
    Groups,
    /// `Group`: who its members are, and which partitions they have.
    Membership,

    // -- one log --
    /// `Publisher`: the right to publish the ends of logs.
    Publishing,
    /// `Publisher`: the logs by the numbers of their slots.
    PublishedLogs,
    /// `Compactor`: the right to compact or erase.
    Compacting,
    /// `Journal`: shared by commits; taken alone by a new file and by a truncation.
    JournalGate,
    /// `SegmentList`: the right to take segments out of the list.
    Shape,
    /// `Writer`: the right to append. Of several logs in the order of topic id and partition.
    Writer,
    /// `OffsetStore`: the committed offsets.
    Offsets,
    /// `Log`: its settings.
    Settings,
    /// `Journal`: the right to write a record, and what the file has.
    Journal,
    /// `ProducerTable`: the right to replace the side file.
    SavingProducers,
    /// `ProducerTable`: the batches of idempotent producers.
    Producers,
    /// `ManifestStore`: the manifest on disk, over its replacement.
    ManifestFile,
    /// `ManifestStore`: the manifest in memory.
    Manifest,
    /// `SegmentList`: the current view.
    View,
    /// `GroupCommit`: who syncs, and up to where it is durable.
    GroupCommit,
    /// `SyncState`: the last point known to be on the medium.
    DurablePoint,
    /// `Compactor`: when it may be tried again.
    CompactionRetries,
    /// `Compactor`: its numbers.
    CompactionStats,

    /// `Pace`: its own, while a compaction waits.
    Pause,

    /// `SyncState`: the bytes that an opening has checked and not synced.
    Inherited,

    // -- one segment --
    /// `SyncMarks`: the right to sync the segment.
    Syncing,
    /// `Keys`: the right to read or write the side file.
    CompletingKeys,

    // -- what any change may need --
    /// `CheckpointStore`: the last checkpoint, over its replacement.
    Checkpoint,
    /// `Reserve`: the file that makes room.
    Reserve,
    /// `WriteGate`: the preparation of the first change, while it is under way. It changes the
    /// catalog.
    Gate,
    /// `CatalogStore`: the catalog, over its change.
    Catalog,

    /// `Publisher`: the file of the owner, over a write of it.
    OwnerFile,

    // -- leaves: under these nothing but the medium is asked --
    /// `BrokerInner`: the topics.
    Topics,
    /// `TopicState`: the logs of a topic.
    TopicLogs,
    /// `TopicState`: the settings of a topic.
    TopicConfig,
    /// `BrokerInner`: the last handle of each idempotent producer.
    ProducerHandles,
    /// `BrokerInner`, `Sticky`: random numbers.
    Random,
    /// `TailCache`: the newest batches.
    Tail,
    /// `Health`: why calls are refused.
    Health,
    /// `Journal`: the records that an opening found.
    JournalRecords,
    /// `Events`: those that wait until no lock is held.
    Events,
    /// `WorkQueue`: the logs that want the worker.
    Work,
    /// `Timer`: the tasks by the time they are due.
    Timer,
    /// `Publisher`: the logs that have changed.
    NotedLogs,
    /// `Waiters`: the readers of a log.
    Waiters,
    /// `Waiter`: whether a reader was signalled.
    Waiter,
    /// `Pending`: how far a batch is.
    Pending,
    /// `ProducerCore`: the wakers of senders that wait for memory.
    ProducerWaiting,
    /// `ProducerCore`: the first failure.
    ProducerFailure,
    /// `format::compression`: the working memory of a codec.
    Compressors,
    /// `Unpacked`: one decompressed batch.
    Unpacked,
    /// `BufferPool`: free buffers.
    Pool,

    // -- open files: every operation that opens one may close others --
    /// `HeldFiles`: whether a backup is running, and the files to remove after it.
    HeldFiles,
    /// `FileBudget`: the segments that have files open.
    OpenFiles,
    /// `Index`: the known entries.
    Index,
    /// `Keys`: the known keys.
    Keys,
    /// `Handles`: the map of a segment.
    SegmentMap,
    /// `Handles`: the file of a segment.
    SegmentFile,

    // -- the medium --
    /// `BudgetStorage`: the files that are counted.
    BudgetFiles,
    /// `BudgetStorage`: the length of one file.
    BudgetLength,
    /// `Overlay`: the names that differ from those of the medium.
    OverlayNodes,
    /// `Overlay`: the changes of one file.
    OverlayContent,
    /// The simulated medium: the plan of faults.
    Faults,
    /// The simulated medium: an operation that a test holds.
    Door,
    /// The simulated machine, which is shared by operations and taken alone by a crash.
    Machine,
    /// The simulated medium: its directories.
    MemoryTree,
    /// The simulated medium: the bytes of one file.
    MemoryContent,
    /// `ManualClock`: its time.
    Clock,
}

impl Rank {
    /// Whether a thread may hold several locks of this rank, in an order that is stated at the rank
    /// or at its owner.
    #[cfg(debug_assertions)]
    pub(super) fn may_repeat(self) -> bool {
        self == Rank::Writer
    }

    /// Whether it has no place in the order: a lock of a test, which may be taken anywhere.
    #[cfg(debug_assertions)]
    pub(super) fn is_unranked(self) -> bool {
        #[cfg(test)]
        return self == Rank::Test;
        #[cfg(not(test))]
        false
    }
}
