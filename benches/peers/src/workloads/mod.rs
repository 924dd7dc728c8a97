//! The workloads: each is one function over a contender, in a process of its own.

mod append;
mod bounds;
mod durable;
mod open;
mod own;
mod paced;
mod read;
mod tail;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::bounds::Parts;
use crate::contender::{Contender, Settings};
use crate::contenders::{self, Visitor};
use crate::digest::Digest;
use crate::records::Kind;

/// What one process does. It gets this as its argument, and prints an [`Outcome`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub contender: String,
    pub dir: PathBuf,
    pub kind: Kind,
    pub settings: Settings,
    pub stage: Stage,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Stage {
    /// Appends until these bytes of records, or for so many seconds.
    Append { call: Call, bytes: u64, seconds: f64 },
    /// Appends by this many threads, each waiting until its record is durable.
    Durable { threads: usize, seconds: f64 },
    /// Opens, reads, and compares with what was appended.
    Read(Read),
    /// Opens, and gets records of batches that this process has not read before.
    FirstGets { count: u64 },
    /// A sender at a steady pace, and a receiver.
    Tail { sleeping: bool, count: u64 },
    /// Appends of one record each, at a steady pace.
    Paced { per_second: f64, seconds: f64 },
    /// Appends, reports what is in the page cache, and appends more until it is killed.
    UntilKilled { bytes: u64 },
    /// Opens, and compares the records that had been acknowledged.
    Open { expected: Digest },
    /// Work that only Quipu does, for so many seconds.
    Own { work: Work, seconds: f64 },
    /// The bounds of a job: of so many bytes, or of so many hand-overs.
    Bounds { parts: Parts, bytes: u64, count: u64 },
}

/// The timed parts of a read, before the comparison.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Read {
    pub expected: Digest,
    pub in_order: bool,
    pub scan: bool,
    pub again: bool,
    pub gets: bool,
    /// The most seconds of gets.
    pub seconds: f64,
}

impl Read {
    /// The comparison alone.
    pub fn verify(expected: Digest, in_order: bool) -> Stage {
        Stage::Read(Read { expected, in_order, scan: false, again: false, gets: false, seconds: 0.0 })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// `send` from this many threads, to all partitions in turn.
    Send { threads: usize },
    /// Transactions from this many threads, of a record in each partition.
    Together { threads: usize },
    /// The same records one by one, waited for together.
    Apart,
}

/// How records are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    Batch,
    One,
    Through,
}

/// The measurements of one process, by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub values: BTreeMap<String, f64>,
    /// What it appended.
    pub digest: Option<Digest>,
}

impl Outcome {
    pub fn put(&mut self, name: &str, value: f64) {
        self.values.insert(name.to_owned(), value);
    }
}

/// Does the work of a process.
pub fn run(task: Task) -> Outcome {
    if let Stage::Bounds { parts, bytes, count } = task.stage {
        let mut outcome = Outcome::default();
        bounds::run(&task, parts, bytes, count, &mut outcome);
        return outcome;
    }
    let (contender, lz4) = (task.contender.clone(), task.settings.lz4);
    contenders::visit(&contender, lz4, task)
}

impl Visitor for Task {
    type Output = Outcome;

    fn visit<C: Contender>(self) -> Outcome {
        let mut outcome = Outcome::default();
        match self.stage {
            Stage::Append { call, bytes, seconds } => {
                append::run::<C>(&self, call, bytes, seconds, &mut outcome);
            }
            Stage::Durable { threads, seconds } => durable::run::<C>(&self, threads, seconds, &mut outcome),
            Stage::Read(read) => read::run::<C>(&self, &read, &mut outcome),
            Stage::FirstGets { count } => read::first_gets::<C>(&self, count, &mut outcome),
            Stage::Tail { sleeping, count } => tail::run::<C>(&self, sleeping, count, &mut outcome),
            Stage::Paced { per_second, seconds } => {
                paced::run::<C>(&self, per_second, seconds, &mut outcome);
            }
            Stage::UntilKilled { bytes } => open::until_killed::<C>(&self, bytes),
            Stage::Open { expected } => open::run::<C>(&self, expected, &mut outcome),
            Stage::Own { work, seconds } => own::run(&self, work, seconds, &mut outcome),
            Stage::Bounds { .. } => unreachable!("they are of no contender"),
        }
        outcome
    }
}
