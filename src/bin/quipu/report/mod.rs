//! A page about a directory: the numbers, and how they are drawn. Nothing here reads anything.

pub(crate) mod page;
mod plots;

pub(crate) struct Page {
    pub(crate) dir: String,
    pub(crate) made_at: i64,
    /// The largest first.
    pub(crate) topics: Vec<Topic>,
    /// The least and the greatest time of any record.
    pub(crate) span: Option<(i64, i64)>,
    pub(crate) groups: Vec<Group>,
    /// Everything that is not as it should be.
    pub(crate) health: Vec<String>,
}

pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) settings: Vec<String>,
    pub(crate) partitions: Vec<Partition>,
    /// Offsets by time, in equal parts of the span; empty for the smaller ones of many topics.
    pub(crate) by_time: Vec<u64>,
}

pub(crate) struct Partition {
    pub(crate) number: u32,
    pub(crate) log_start: u64,
    pub(crate) visible_end: u64,
    pub(crate) bytes: u64,
    pub(crate) segments: Vec<Segment>,
    pub(crate) first_timestamp: Option<i64>,
    pub(crate) max_timestamp: Option<i64>,
    pub(crate) is_damaged: bool,
    pub(crate) error: Option<String>,
}

pub(crate) struct Segment {
    pub(crate) base_offset: u64,
    pub(crate) bytes: u64,
    pub(crate) is_sealed: bool,
}

/// How far a group is in a partition.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) topic: String,
    pub(crate) partition: u32,
    pub(crate) committed: Option<u64>,
    pub(crate) end: u64,
    pub(crate) lag: u64,
}

impl Topic {
    pub(crate) fn bytes(&self) -> u64 {
        self.partitions.iter().map(|of| of.bytes).sum()
    }

    pub(crate) fn offsets(&self) -> u64 {
        self.partitions.iter().map(Partition::offsets).sum()
    }
}

impl Partition {
    pub(crate) fn offsets(&self) -> u64 {
        self.visible_end.saturating_sub(self.log_start)
    }
}
