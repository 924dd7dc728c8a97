//! The rows of the table, and the work that each needs.

use crate::contender::Need;
use crate::contenders::{FLOOR, QUIPU};
use crate::records::Kind;
use crate::workloads::{Call, Parts, Work};

/// Work whose measurements fill one or more rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Append in batches, then scan and get in processes that start afterwards.
    Batches {
        kind: Kind,
        lz4: bool,
    },
    /// Append one by one.
    Calls {
        kind: Kind,
        lz4: bool,
        call: Call,
    },
    Durable {
        threads: usize,
    },
    Tail {
        sleeping: bool,
    },
    /// Append one by one at a fixed rate of arrival.
    Paced {
        durable: bool,
    },
    Open {
        killed: bool,
    },
    /// Of Quipu alone: ways to do the same.
    Own {
        partitions: u32,
        lz4: bool,
        durable: bool,
        ways: &'static [Way],
    },
}

/// A name, and the work.
pub type Way = (&'static str, Work);

const THREADS: &[Way] = &[("1 thread", Work::Send { threads: 1 }), ("2 threads", Work::Send { threads: 2 })];
const TRANSACTIONS: &[Way] = &[
    ("one by one", Work::Apart),
    ("transactions", Work::Together { threads: 1 }),
    ("transactions, 2 threads", Work::Together { threads: 2 }),
];
const COMMITTERS: usize = 8;
const COMMITS: &[Way] =
    &[("1 thread", Work::Together { threads: 1 }), ("8 threads", Work::Together { threads: COMMITTERS })];

/// The unit of the measurement that a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Bytes,
}

impl Unit {
    pub fn more_is_better(self) -> bool {
        self == Unit::PerSecond
    }

    pub fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "/s",
            Unit::Nanoseconds => "ns",
            Unit::Microseconds => "µs",
            Unit::Milliseconds => "ms",
            Unit::Bytes => "B",
        }
    }
}

pub struct Row {
    /// Its name in `--workloads`.
    pub key: String,
    pub title: String,
    pub job: Job,
    /// The measurement, by its name in an outcome.
    pub value: &'static str,
    pub unit: Unit,
    /// Calls that a contender of this row has, beside those of the job.
    pub needs: &'static [Need],
    /// Further columns: the head, the measurement, the unit.
    pub more: &'static [(&'static str, &'static str, Unit)],
    /// What others are compared with, and which is compared in the first table.
    pub base: &'static str,
    pub ours: &'static str,
    /// The parts that no library can leave out, by their names in the outcome of the bounds: the
    /// slowest is the physical bound of the row.
    pub bounds: &'static [&'static str],
}

impl Job {
    /// The parts that bound its rows.
    pub fn parts(self) -> Parts {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match self {
            Job::Batches { .. } | Job::Calls { call: Call::Batch | Call::One, .. } => {
                Parts::Bytes { threads: 1 }
            }
            Job::Calls { call: Call::Through, .. } | Job::Paced { durable: false } => Parts::Writes,
            Job::Paced { durable: true } => Parts::Syncs { records: 1 },
            Job::Durable { threads } => Parts::Syncs { records: threads },
            Job::Tail { sleeping } => Parts::HandOver { sleeping },
            Job::Open { .. } => Parts::Open,
            Job::Own { durable: true, partitions, .. } => {
                Parts::Syncs { records: COMMITTERS * partitions as usize }
            }
            Job::Own { ways, .. } if ways == THREADS => Parts::Bytes { threads: cores.min(2) },
            Job::Own { .. } => Parts::Writes,
        }
    }

    /// The calls that it makes of a contender, which must also be able to verify its records.
    pub fn needs(self) -> Vec<Need> {
        let codec = |lz4| if lz4 { Need::Lz4 } else { Need::Plain };
        match self {
            Job::Batches { lz4, .. } => vec![Need::Batch, codec(lz4)],
            Job::Calls { lz4, call, .. } => {
                let call = if call == Call::Through { Need::Through } else { Need::One };
                vec![call, codec(lz4)]
            }
            Job::Durable { threads: 1 } | Job::Paced { durable: true } => vec![Need::Durable],
            Job::Durable { .. } => vec![Need::Durable, Need::DurableThreads],
            Job::Paced { durable: false } => vec![Need::Through, Need::Plain],
            Job::Tail { sleeping: false } => vec![Need::TailSpinning],
            Job::Tail { sleeping: true } => vec![Need::TailSleeping],
            Job::Open { killed: false } => vec![Need::Batch, Need::Closed],
            Job::Own { .. } => Vec::new(),
            Job::Open { killed: true } => vec![Need::Batch, Need::Killed],
        }
    }
}

/// All rows, in the order of the table.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let sets = [
        (Kind::Bytes100, false),
        (Kind::Bytes100, true),
        (Kind::Bytes1024, false),
        (Kind::Bytes1024, true),
        (Kind::Lines, false),
        (Kind::Lines, true),
        (Kind::Bytes10, false),
    ];
    for (kind, lz4) in sets.into_iter().filter(|(kind, _)| kind.is_there()) {
        batches(kind, lz4, &mut rows);
    }
    let calls = [
        ("one", "one record a call", Call::One, false),
        ("one", "one record a call", Call::One, true),
        ("through", "one record a call, each in the page cache before the next", Call::Through, false),
    ];
    for (name, title, call, lz4) in calls {
        let kind = Kind::Bytes100;
        let bounds = match (call, lz4) {
            (Call::Through, _) => &["writes"],
            (_, false) => WRITE,
            (_, true) => WRITE_LZ4,
        };
        let row = Row::new(named(name, kind, lz4), title, Job::Calls { kind, lz4, call });
        rows.push(row.titled(kind, lz4).of("append", Unit::PerSecond).with(APPEND).bounded(bounds));
    }
    rows.extend([1, 8, 64].map(durable));
    rows.extend([false, true].map(paced));
    rows.extend([false, true].map(tail));
    rows.extend([false, true].map(open));
    for (partitions, lz4) in [(1, false), (16, false), (1, true), (16, true)] {
        let bounds = if lz4 { WRITE_LZ4 } else { WRITE };
        rows.push(own("threads", "`send`", partitions, lz4, false, THREADS).bounded(bounds));
    }
    for partitions in [4, 16] {
        let title = "records, a transaction over";
        let row = own("transactions/os", title, partitions, false, false, TRANSACTIONS);
        rows.push(row.bounded(&["writes"]));
    }
    let row = own("transactions/sync", "records, a durable transaction over", 4, false, true, COMMITS);
    rows.push(row.bounded(&["sync"]));
    rows
}

const APPEND: &[(&str, &str, Unit)] = &[
    ("CPU ns/record", "append_cpu", Unit::Nanoseconds),
    ("disk B/record", "disk", Unit::Bytes),
    ("peak memory", "memory", Unit::Bytes),
];
const WRITE: &[&str] = &["copy", "crc", "write"];
const WRITE_LZ4: &[&str] = &["lz4", "crc", "write"];

impl Row {
    /// Of the floor and Quipu, without a value.
    fn new(key: String, title: &str, job: Job) -> Self {
        Row {
            key,
            title: title.to_owned(),
            job,
            value: "",
            unit: Unit::PerSecond,
            needs: &[],
            more: &[],
            base: FLOOR,
            ours: QUIPU,
            bounds: &[],
        }
    }

    /// Adds the records to its title.
    fn titled(mut self, kind: Kind, lz4: bool) -> Self {
        self.title = format!("{}, {}{}", self.title, kind.title(), if lz4 { ", LZ4" } else { "" });
        self
    }

    fn of(self, value: &'static str, unit: Unit) -> Self {
        Row { value, unit, ..self }
    }

    fn needing(self, needs: &'static [Need]) -> Self {
        Row { needs, ..self }
    }

    fn with(self, more: &'static [(&'static str, &'static str, Unit)]) -> Self {
        Row { more, ..self }
    }

    fn bounded(self, bounds: &'static [&'static str]) -> Self {
        Row { bounds, ..self }
    }
}

fn named(name: &str, kind: Kind, lz4: bool) -> String {
    format!("{name}/{}{}", kind.name(), if lz4 { "/lz4" } else { "" })
}

/// The rows of a log that was written in batches.
fn batches(kind: Kind, lz4: bool, rows: &mut Vec<Row>) {
    let row = |name: &str, title: &str| {
        Row::new(named(name, kind, lz4), title, Job::Batches { kind, lz4 }).titled(kind, lz4)
    };
    let append = row("append", "append in batches, no sync").of("append", Unit::PerSecond);
    rows.push(append.with(APPEND).bounded(if lz4 { WRITE_LZ4 } else { WRITE }));
    let scan = row("scan", "scan in order, first of a process").of("scan", Unit::PerSecond);
    let more =
        &[("CPU ns/record", "scan_cpu", Unit::Nanoseconds), ("peak memory", "read_memory", Unit::Bytes)];
    let bounds: &[&str] = if lz4 { &["unlz4", "read, crc"] } else { &["read, crc"] };
    rows.push(scan.needing(&[Need::Scan]).with(more).bounded(bounds));
    let again = row("again", "scan in order, second of a process").of("again", Unit::PerSecond);
    let more = &[("CPU ns/record", "again_cpu", Unit::Nanoseconds)];
    let bounds: &[&str] = if lz4 { &["unlz4", "read"] } else { &["read"] };
    rows.push(again.needing(&[Need::Scan]).with(more).bounded(bounds));
    if matches!(kind, Kind::Bytes100 | Kind::Bytes1024) {
        let bounds: &[&str] = if lz4 { &["unlz4 of a block"] } else { &["pread"] };
        let get = row("get", "random read after a scan, p50").of("get_p50", Unit::Microseconds);
        let get = get.with(&[("p99", "get_p99", Unit::Microseconds)]);
        rows.push(get.needing(&[Need::Scan, Need::Get]).bounded(bounds));
        let first = row("first-get", "random read of a place not read before, p50");
        let first =
            first.of("first_p50", Unit::Microseconds).with(&[("p99", "first_p99", Unit::Microseconds)]);
        rows.push(first.needing(&[Need::Get]).bounded(bounds));
    }
    rows.push(row("disk", "bytes on disk a record").of("disk", Unit::Bytes).bounded(&["bytes"]));
}

fn durable(threads: usize) -> Row {
    let many = if threads == 1 { "" } else { "s that each wait" };
    let title = format!("durable, 100 B, {threads} thread{many}");
    let row = Row::new(format!("durable/{threads}"), &title, Job::Durable { threads });
    row.of("durable", Unit::PerSecond).bounded(&["sync"]).with(&[
        ("p50", "durable_p50", Unit::Microseconds),
        ("p99", "durable_p99", Unit::Microseconds),
        ("p99.9", "durable_p999", Unit::Microseconds),
        ("CPU ns/record", "durable_cpu", Unit::Nanoseconds),
    ])
}

/// Records a second of a paced append.
pub fn pace(durable: bool) -> f64 {
    if durable { 1_000.0 } else { 10_000.0 }
}

fn paced(durable: bool) -> Row {
    let (name, what, bound): (_, _, &[&str]) = if durable {
        ("durable", "durable, 100 B", &["sync of one"])
    } else {
        ("append", "append to the page cache, 1 KiB", &["write of one"])
    };
    let title = format!("{what}, {:.0} a second, p50 from the time at which each is due", pace(durable));
    let row = Row::new(format!("latency/{name}"), &title, Job::Paced { durable });
    row.of("paced_p50", Unit::Microseconds).bounded(bound).with(&[
        ("p99", "paced_p99", Unit::Microseconds),
        ("p99.9", "paced_p999", Unit::Microseconds),
        ("max", "paced_max", Unit::Microseconds),
    ])
}

fn tail(sleeping: bool) -> Row {
    let name = if sleeping { "sleeping" } else { "spinning" };
    let title =
        format!("append to read, 10,000 a second, a {name} reader, p50 from the time at which each is due");
    let row = Row::new(format!("tail/{name}"), &title, Job::Tail { sleeping });
    row.of("tail_p50", Unit::Microseconds).bounded(&["hand-over"]).with(&[
        ("p99", "tail_p99", Unit::Microseconds),
        ("p99.9", "tail_p999", Unit::Microseconds),
        ("max", "tail_max", Unit::Microseconds),
    ])
}

fn open(killed: bool) -> Row {
    let name = if killed { "killed" } else { "closed" };
    let title = format!("open 1 GB of records of 1 KiB, {name}");
    let row = Row::new(format!("open/{name}"), &title, Job::Open { killed });
    row.of("open", Unit::Milliseconds).bounded(&["open, read"])
}

fn own(key: &str, title: &str, partitions: u32, lz4: bool, durable: bool, ways: &'static [Way]) -> Row {
    let many = if partitions == 1 { "" } else { "s" };
    let codec = if lz4 { ", LZ4" } else { "" };
    let title = format!("{title} {partitions} partition{many}, 100 B{codec}");
    let key = format!("{key}/{partitions}{}", if lz4 { "/lz4" } else { "" });
    let row = Row::new(key, &title, Job::Own { partitions, lz4, durable, ways });
    let row = row.of("append", Unit::PerSecond).with(APPEND);
    Row { base: ways[0].0, ours: ways[1].0, ..row }
}
