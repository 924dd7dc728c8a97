//! The laws: what is measured against what, at which sizes, and which shape it should have.

use super::{Point, memory, opening, rates};

/// The shape that a law should have. A factor is the tolerance.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// The cost at every size is that at the first size.
    Flat(f64),
    /// The cost at every size is at most the least at a smaller size.
    NeverWorse(f64),
    /// One more costs as much at the end as before: the sum is linear.
    Each(f64),
}

pub struct Law {
    pub key: &'static str,
    pub title: &'static str,
    /// What the size counts, and the unit of the measurement.
    pub x: &'static str,
    pub y: &'static str,
    pub more_is_better: bool,
    pub shape: Shape,
    xs: &'static [u64],
    /// The number of the first sizes that `--quick` takes.
    quick: usize,
    pub measure: fn(&Point) -> f64,
}

impl Law {
    pub fn sizes(&self, quick: bool) -> &'static [u64] {
        if quick { self.xs.get(..self.quick).unwrap_or(self.xs) } else { self.xs }
    }
}

const THREADS: &[u64] = &[1, 2, 4, 8];
const PARTITIONS: &[u64] = &[1, 10, 100, 1_000, 10_000];
const BYTES: &[u64] = &[10, 100, 1 << 10, 10 << 10, 100 << 10, 1 << 20, 16 << 20];
const SEGMENTS: &[u64] = &[1, 10, 100, 1_000];
const BATCH: &[u64] = &[1, 10, 100, 1_000, 10_000];

pub fn laws() -> Vec<Law> {
    let mut laws = append_laws();
    laws.extend(read_laws());
    laws.extend(size_laws());
    laws.extend(memory_laws());
    laws
}

const GROWS: Shape = Shape::NeverWorse(1.25);
const LEVEL: Shape = Shape::Flat(2.0);
/// A rate of bytes grows with the record.
const BYTE_RATE: Shape = Shape::NeverWorse(1.5);
const SEGMENT_COST: Shape = Shape::Flat(1.5);

/// Of a rate in records a second.
fn rate(
    key: &'static str,
    title: &'static str,
    x: &'static str,
    shape: Shape,
    (xs, quick): (&'static [u64], usize),
    measure: fn(&Point) -> f64,
) -> Law {
    Law { key, title, x, y: "records/s", more_is_better: true, shape, xs, quick, measure }
}

fn append_laws() -> Vec<Law> {
    let threads = "send, 16 partitions";
    let bytes = rate("append/bytes", "send", "bytes of a record", BYTE_RATE, (BYTES, 7), rates::append_bytes);
    vec![
        rate("append/threads", threads, "threads", GROWS, (THREADS, 3), rates::append_threads),
        rate(
            "append/partitions",
            "send to all in turn",
            "partitions",
            LEVEL,
            (PARTITIONS, 4),
            rates::append_partitions,
        ),
        Law { y: "MB/s", ..bytes },
        rate(
            "append/segments",
            "send, with rolls",
            "segments before",
            SEGMENT_COST,
            (SEGMENTS, 3),
            rates::append_segments,
        ),
        rate("append/batch", "send_all", "records of a call", GROWS, (BATCH, 5), rates::append_batch),
    ]
}

fn read_laws() -> Vec<Law> {
    let threads = "readers of the same 16 partitions";
    let bytes =
        rate("read/bytes", "one reader", "bytes of a record", BYTE_RATE, (BYTES, 7), rates::read_bytes);
    let get = rate(
        "read/segments",
        "one record anywhere, p50",
        "segments",
        SEGMENT_COST,
        (SEGMENTS, 3),
        rates::get_segments,
    );
    vec![
        rate("read/threads", threads, "threads", GROWS, (THREADS, 3), rates::read_threads),
        rate(
            "read/partitions",
            "one reader of all",
            "partitions",
            LEVEL,
            (PARTITIONS, 4),
            rates::read_partitions,
        ),
        Law { y: "MB/s", ..bytes },
        Law { y: "µs", more_is_better: false, ..get },
        rate("read/batch", "one reader", "records of a batch", GROWS, (BATCH, 4), rates::read_batch),
    ]
}

/// Of openings, in milliseconds.
fn size_laws() -> Vec<Law> {
    let law = |key, title, x, shape, xs, quick, measure| Law {
        key,
        title,
        x,
        y: "ms",
        more_is_better: false,
        shape,
        xs,
        quick,
        measure,
    };
    vec![
        law("open/data", "open after a close", "MB", Shape::Flat(2.0), &[10, 100, 1_000], 2, opening::closed),
        law(
            "open/tail",
            "open after a kill, 100 MB synced",
            "MB since",
            Shape::Each(1.5),
            &[1, 8, 24, 56],
            3,
            opening::killed,
        ),
    ]
}

/// Of anonymous memory, in KiB.
fn memory_laws() -> Vec<Law> {
    let law = |key, title, x, xs, quick, measure| Law {
        key,
        title,
        x,
        y: "KiB",
        more_is_better: false,
        shape: Shape::Each(1.5),
        xs,
        quick,
        measure,
    };
    vec![
        law("memory/partitions", "a record in each", "partitions", PARTITIONS, 4, memory::partitions),
        law(
            "memory/streams",
            "an event in each",
            "streams",
            &[1_000, 10_000, 100_000, 1_000_000],
            3,
            memory::streams,
        ),
        law("memory/consumers", "a group each", "consumers", &[1, 10, 100, 1_000], 3, memory::consumers),
        law(
            "memory/members",
            "a partition each",
            "members of a group",
            &[1, 10, 100, 400],
            3,
            memory::members,
        ),
    ]
}
