//! The rows of the table, and the work that each needs.

use crate::contender::Need;
use crate::contenders::{FLOOR, QUIPU};
use crate::records::Kind;
use crate::workloads::{Call, Work};

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
const COMMITS: &[Way] =
    &[("1 thread", Work::Together { threads: 1 }), ("8 threads", Work::Together { threads: 8 })];

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
}

const APPEND: &[(&str, &str, Unit)] = &[
    ("CPU ns/record", "append_cpu", Unit::Nanoseconds),
    ("disk B/record", "disk", Unit::Bytes),
    ("peak memory", "memory", Unit::Bytes),
];

impl Job {
    /// The calls that it makes of a contender.
    pub fn needs(self) -> Vec<Need> {
        let codec = |lz4| if lz4 { Need::Lz4 } else { Need::Plain };
        match self {
            Job::Batches { lz4, .. } => vec![Need::Batch, Need::Scan, codec(lz4)],
            Job::Calls { lz4, call, .. } => {
                let call = if call == Call::Through { Need::Through } else { Need::One };
                vec![call, Need::Scan, codec(lz4)]
            }
            Job::Durable { threads: 1 } => vec![Need::Durable, Need::Scan],
            Job::Durable { .. } => vec![Need::Durable, Need::DurableThreads, Need::Scan],
            Job::Tail { sleeping: false } => vec![Need::TailSpinning],
            Job::Tail { sleeping: true } => vec![Need::TailSleeping],
            Job::Open { killed: false } => vec![Need::Batch, Need::Scan, Need::Closed],
            Job::Own { .. } => Vec::new(),
            Job::Open { killed: true } => vec![Need::Batch, Need::Scan, Need::Killed],
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
        let row = |name: &str, title: &str, value, unit, needs, more| Row {
            key: format!("{name}/{}{}", kind.name(), if lz4 { "/lz4" } else { "" }),
            title: format!("{title}, {}{}", kind.title(), if lz4 { ", LZ4" } else { "" }),
            job: Job::Batches { kind, lz4 },
            value,
            unit,
            needs,
            more,
            base: FLOOR,
            ours: QUIPU,
        };
        rows.push(row("append", "append in batches, no sync", "append", Unit::PerSecond, &[], APPEND));
        let more =
            &[("CPU ns/record", "scan_cpu", Unit::Nanoseconds), ("peak memory", "read_memory", Unit::Bytes)];
        rows.push(row("scan", "scan in order, first of a process", "scan", Unit::PerSecond, &[], more));
        let more = &[("CPU ns/record", "again_cpu", Unit::Nanoseconds)];
        rows.push(row("again", "scan in order, second of a process", "again", Unit::PerSecond, &[], more));
        if matches!(kind, Kind::Bytes100 | Kind::Bytes1024) {
            let more = &[("p99", "get_p99", Unit::Microseconds)];
            rows.push(row(
                "get",
                "random read after a scan, p50",
                "get_p50",
                Unit::Microseconds,
                &[Need::Get],
                more,
            ));
            let more = &[("p99", "first_p99", Unit::Microseconds)];
            let title = "random read of a place not read before, p50";
            rows.push(row("first-get", title, "first_p50", Unit::Microseconds, &[Need::Get], more));
        }
        rows.push(row("disk", "bytes on disk a record", "disk", Unit::Bytes, &[], &[]));
    }
    let calls = [
        ("one", "one record a call", Call::One, false),
        ("one", "one record a call", Call::One, true),
        ("through", "one record a call, each in the page cache before the next", Call::Through, false),
    ];
    for (name, title, call, lz4) in calls {
        let kind = Kind::Bytes100;
        rows.push(Row {
            key: format!("{name}/100B{}", if lz4 { "/lz4" } else { "" }),
            title: format!("{title}, {}{}", kind.title(), if lz4 { ", LZ4" } else { "" }),
            job: Job::Calls { kind, lz4, call },
            value: "append",
            unit: Unit::PerSecond,
            needs: &[],
            more: APPEND,
            base: FLOOR,
            ours: QUIPU,
        });
    }
    rows.extend([1, 8, 64].map(durable));
    rows.extend([false, true].map(tail));
    rows.extend([false, true].map(open));
    for (partitions, lz4) in [(1, false), (16, false), (1, true), (16, true)] {
        rows.push(own("threads", "`send`", partitions, lz4, false, THREADS));
    }
    for partitions in [4, 16] {
        rows.push(own(
            "transactions/os",
            "records, a transaction over",
            partitions,
            false,
            false,
            TRANSACTIONS,
        ));
    }
    rows.push(own("transactions/sync", "records, a durable transaction over", 4, false, true, COMMITS));
    rows
}

fn durable(threads: usize) -> Row {
    Row {
        key: format!("durable/{threads}"),
        title: format!(
            "durable, 100 B, {threads} thread{}",
            if threads == 1 { "" } else { "s that each wait" }
        ),
        job: Job::Durable { threads },
        value: "durable",
        unit: Unit::PerSecond,
        needs: &[],
        more: &[
            ("p50", "durable_p50", Unit::Microseconds),
            ("p99", "durable_p99", Unit::Microseconds),
            ("p99.9", "durable_p999", Unit::Microseconds),
            ("CPU ns/record", "durable_cpu", Unit::Nanoseconds),
        ],
        base: FLOOR,
        ours: QUIPU,
    }
}

fn tail(sleeping: bool) -> Row {
    let name = if sleeping { "sleeping" } else { "spinning" };
    Row {
        key: format!("tail/{name}"),
        title: format!("append to read, 10,000 a second, a {name} reader, p50"),
        job: Job::Tail { sleeping },
        value: "tail_p50",
        unit: Unit::Microseconds,
        needs: &[],
        more: &[
            ("p99", "tail_p99", Unit::Microseconds),
            ("p99.9", "tail_p999", Unit::Microseconds),
            ("max", "tail_max", Unit::Microseconds),
        ],
        base: FLOOR,
        ours: QUIPU,
    }
}

fn open(killed: bool) -> Row {
    Row {
        key: format!("open/{}", if killed { "killed" } else { "closed" }),
        title: format!("open 1 GB of records of 1 KiB, {}", if killed { "killed" } else { "closed" }),
        job: Job::Open { killed },
        value: "open",
        unit: Unit::Milliseconds,
        needs: &[],
        more: &[],
        base: FLOOR,
        ours: QUIPU,
    }
}

fn own(key: &str, title: &str, partitions: u32, lz4: bool, durable: bool, ways: &'static [Way]) -> Row {
    let many = if partitions == 1 { "" } else { "s" };
    Row {
        key: format!("{key}/{partitions}{}", if lz4 { "/lz4" } else { "" }),
        title: format!("{title}, {partitions} partition{many}, 100 B{}", if lz4 { ", LZ4" } else { "" }),
        job: Job::Own { partitions, lz4, durable, ways },
        value: "append",
        unit: Unit::PerSecond,
        needs: &[],
        more: APPEND,
        base: ways[0].0,
        ours: ways[1].0,
    }
}
