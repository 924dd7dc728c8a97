//! A history: steps that a program makes, drawn from a seed.

mod compaction;
mod groups;
mod limits;
mod log;
mod transactions;

use std::fmt;

use crate::random::Random;

/// The kinds of histories. Each has its own generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Log,
    Groups,
    Transactions,
    Compaction,
    Limits,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Log, Kind::Groups, Kind::Transactions, Kind::Compaction, Kind::Limits];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Log => "log",
            Kind::Groups => "groups",
            Kind::Transactions => "transactions",
            Kind::Compaction => "compaction",
            Kind::Limits => "limits",
        }
    }
}

/// A record to send.
#[derive(Clone, PartialEq, Eq)]
pub struct Rec {
    pub key: Option<String>,
    pub value: Option<String>,
    pub headers: Vec<(String, Option<String>)>,
    /// Its time, in milliseconds after the start of the run; may be negative.
    pub at: i64,
}

impl fmt::Debug for Rec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_deref();
        let key = self.key.as_deref();
        write!(f, "{}", record_text(key.map(str::as_bytes), value.map(str::as_bytes), self.at, &self.headers))
    }
}

/// A record as text: the same for both systems.
pub fn record_text(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    at: i64,
    headers: &[(String, Option<String>)],
) -> String {
    let bytes = |bytes: Option<&[u8]>| match bytes {
        None => "null".to_string(),
        Some(long) if long.len() > 40 => format!("{} bytes", long.len()),
        Some(bytes) => format!("'{}'", bytes.escape_ascii()),
    };
    let header = |(name, value): &(String, Option<String>)| {
        format!(" {name}={}", bytes(value.as_deref().map(str::as_bytes)))
    };
    let headers: String = headers.iter().map(header).collect();
    format!("{}={}{headers} @{at}", bytes(key), bytes(value))
}

/// The settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    /// The name is used unchanged. Others get a prefix that is unique to the run.
    pub is_literal: bool,
    pub partitions: u32,
    pub is_compacted: bool,
    /// `segment.ms`, by the times of the records.
    pub segment_ms: Option<u64>,
    /// `max.message.bytes`, `max_record_bytes`.
    pub max_bytes: Option<u32>,
}

impl Topic {
    pub fn new(name: &str, partitions: u32) -> Self {
        Topic {
            name: name.to_string(),
            is_literal: false,
            partitions,
            is_compacted: false,
            segment_ms: None,
            max_bytes: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Beginning,
    End,
    At(u64),
}

/// `auto.offset.reset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    Earliest,
    Latest,
    Fail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    Range,
    RoundRobin,
    Sticky,
}

/// The number of a consumer in its history. Members of the group have names in their order.
pub type Who = u8;

/// One step. Both systems make it, and what a program sees of it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    CreateTopic(Topic),
    DeleteTopic {
        topic: String,
    },
    AddPartitions {
        topic: String,
        count: u32,
    },
    /// Without a partition the records have keys, and the keys choose.
    Send {
        topic: String,
        partition: Option<u32>,
        records: Vec<Rec>,
    },
    DeleteRecords {
        topic: String,
        partition: u32,
        before: u64,
    },
    Bounds {
        topic: String,
    },
    OffsetForTime {
        topic: String,
        partition: u32,
        at: i64,
    },
    /// A new reader reads the topic from its beginning to its end. On Kafka it reads committed
    /// records only.
    Read {
        topic: String,
    },
    /// A consumer without a group.
    Assign {
        who: Who,
        topic: String,
        places: Vec<(u32, Place)>,
        reset: Reset,
    },
    Seek {
        who: Who,
        topic: String,
        partition: u32,
        to: Place,
    },
    Pause {
        who: Who,
        topic: String,
        partition: u32,
    },
    Resume {
        who: Who,
        topic: String,
        partition: u32,
    },
    /// Polls until nothing comes.
    Poll {
        who: Who,
    },
    /// `topics` end with `*` where they stand for all topics that begin so.
    Join {
        who: Who,
        topics: Vec<String>,
        strategy: Strategy,
        reset: Reset,
    },
    Leave {
        who: Who,
    },
    /// It stops without leaving.
    Die {
        who: Who,
    },
    /// All members poll until the group has settled.
    Settle,
    /// All members poll until nothing comes.
    Deliver,
    /// The owner of the partition commits.
    Commit {
        topic: String,
        partition: u32,
        next: u64,
        metadata: String,
    },
    /// A given member commits, whether it owns the partition or not.
    CommitBy {
        who: Who,
        topic: String,
        partition: u32,
        next: u64,
    },
    Committed {
        topic: String,
        partition: u32,
    },
    Lag,
    DeleteGroup,
    Begin {
        tx: u8,
    },
    SendIn {
        tx: u8,
        topic: String,
        partition: u32,
        record: Rec,
    },
    /// The owner of the partition commits its offset with the transaction.
    OffsetsIn {
        tx: u8,
        topic: String,
        partition: u32,
        next: u64,
    },
    End {
        tx: u8,
        commit: bool,
    },
    /// Compacts, on Kafka by waiting for it, and reads.
    Compact {
        topic: String,
    },
}

impl Step {
    /// Its kind, as in the list of differences.
    pub fn name(&self) -> &'static str {
        match self {
            Step::CreateTopic(_) => "create topic",
            Step::DeleteTopic { .. } => "delete topic",
            Step::AddPartitions { .. } => "add partitions",
            Step::Send { .. } => "send",
            Step::DeleteRecords { .. } => "delete records",
            Step::Bounds { .. } => "bounds",
            Step::OffsetForTime { .. } => "offset for time",
            Step::Read { .. } => "read",
            Step::Assign { .. } => "assign",
            Step::Seek { .. } => "seek",
            Step::Pause { .. } => "pause",
            Step::Resume { .. } => "resume",
            Step::Poll { .. } => "poll",
            Step::Join { .. } => "join",
            Step::Leave { .. } => "leave",
            Step::Die { .. } => "die",
            Step::Settle => "settle",
            Step::Deliver => "deliver",
            Step::Commit { .. } => "commit",
            Step::CommitBy { .. } => "commit by",
            Step::Committed { .. } => "committed",
            Step::Lag => "lag",
            Step::DeleteGroup => "delete group",
            Step::Begin { .. } => "begin",
            Step::SendIn { .. } => "send in transaction",
            Step::OffsetsIn { .. } => "offsets in transaction",
            Step::End { .. } => "end transaction",
            Step::Compact { .. } => "compact",
        }
    }
}

#[derive(Clone, Debug)]
pub struct History {
    pub kind: Kind,
    pub seed: u64,
    pub steps: Vec<Step>,
}

impl History {
    pub fn new(kind: Kind, seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let steps = match kind {
            Kind::Log => log::steps(random),
            Kind::Groups => groups::steps(random),
            Kind::Transactions => transactions::steps(random),
            Kind::Compaction => compaction::steps(random),
            Kind::Limits => limits::steps(random),
        };
        History { kind, seed, steps }
    }

    /// Whether the group settles after each change of its members, so that what follows does not
    /// depend on time. The generators keep to that, shortening must.
    pub fn is_determined(&self) -> bool {
        let changes = |step: &Step| {
            matches!(step, Step::Join { .. } | Step::Leave { .. } | Step::Die { .. })
                || (self.kind == Kind::Groups && matches!(step, Step::AddPartitions { .. }))
        };
        let mut after = self.steps.iter().skip(1).map(Some).chain([None]);
        self.steps.iter().all(|step| {
            let next = after.next().flatten();
            !changes(step) || matches!(next, None | Some(Step::Settle))
        })
    }

    /// What is true of the history once step `at` has been made. A listed difference may be
    /// allowed only where one of these is true.
    pub fn tags(&self, at: usize) -> Vec<&'static str> {
        let done = self.steps.get(..=at).unwrap_or(&self.steps);
        let any = |is: fn(&Step) -> bool| done.iter().any(is);
        let begun = done.iter().filter(|step| matches!(step, Step::Begin { .. })).count();
        let ended = done.iter().filter(|step| matches!(step, Step::End { .. })).count();
        let mut tags = vec![self.kind.name()];
        let mut add = |tag, is| {
            if is {
                tags.push(tag);
            }
        };
        add("transaction", begun > 0);
        add("open transaction", begun > ended);
        add("aborted", any(|step| matches!(step, Step::End { commit: false, .. })));
        add("offsets in transaction", any(|step| matches!(step, Step::OffsetsIn { .. })));
        add("two transactions with offsets", has_two_with_offsets(done));
        add("deleted records", any(|step| matches!(step, Step::DeleteRecords { .. })));
        add("latest", any(|step| matches!(step, Step::Join { reset: Reset::Latest, .. })));
        add("later partitions", has_later_partitions(done));
        add("sticky", any(|step| matches!(step, Step::Join { strategy: Strategy::Sticky, .. })));
        tags
    }
}

/// Whether partitions have been added after a member has joined.
fn has_later_partitions(steps: &[Step]) -> bool {
    let mut after = steps.iter().skip_while(|step| !matches!(step, Step::Join { .. }));
    after.any(|step| matches!(step, Step::CreateTopic(_) | Step::AddPartitions { .. }))
}

/// Whether two transactions that were open at once have committed the offset of one partition.
fn has_two_with_offsets(steps: &[Step]) -> bool {
    let mut open: Vec<(u8, u32)> = Vec::new();
    for step in steps {
        match step {
            Step::OffsetsIn { tx, partition, .. } => {
                if open.iter().any(|(other, of)| other != tx && of == partition) {
                    return true;
                }
                open.push((*tx, *partition));
            }
            Step::End { tx, .. } => open.retain(|(other, _)| other != tx),
            _ => {}
        }
    }
    false
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "history {} of seed {}:", self.kind.name(), self.seed)?;
        for (at, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {at}. {step:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_history_and_the_group_settles_in_it() {
        for kind in Kind::ALL {
            for seed in 0..300 {
                let history = History::new(kind, seed);
                assert_eq!(history.steps, History::new(kind, seed).steps);
                assert!(history.is_determined(), "{history}");
            }
        }
    }
}
