//! The stages of one contender in one job.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::child::{self, Until};
use crate::TASK;
use crate::args::Args;
use crate::contender::Settings;
use crate::contenders::Card;
use crate::digest::Digest;
use crate::plan::{self, Job, Row};
use crate::records::{Kind, Records};
use crate::workloads::{Call, Outcome, Read, Stage, Task};

/// How much is done.
struct Sizes {
    /// Bytes of records in batches.
    batches: u64,
    /// Bytes of records one by one.
    calls: u64,
    /// Bytes of a log that is opened.
    open: u64,
    /// An append that takes longer than these seconds ends earlier.
    longest: f64,
    /// Seconds of durable appends, and the most of random reads.
    timed: f64,
    /// Records from append to read.
    tail: u64,
    /// Seconds of appends at a fixed rate.
    paced: f64,
}

const WHOLE: Sizes = Sizes {
    batches: 500_000_000,
    calls: 200_000_000,
    open: 1_000_000_000,
    longest: 5.0,
    timed: 2.0,
    tail: 20_000,
    paced: 8.0,
};
const QUICK: Sizes = Sizes {
    batches: 20_000_000,
    calls: 10_000_000,
    open: 20_000_000,
    longest: 1.0,
    timed: 0.2,
    tail: 1_000,
    paced: 0.3,
};
/// A process that takes longer is killed, and its contender is out of the job.
const PATIENCE: Duration = Duration::from_secs(180);

fn sizes(args: &Args) -> &'static Sizes {
    if args.quick { &QUICK } else { &WHOLE }
}

/// About so many seconds a contender takes, and its share of the bounds.
pub fn seconds(args: &Args, job: Job) -> f64 {
    let sizes = sizes(args);
    match job {
        Job::Batches { lz4, .. } => 1.2 * sizes.longest + sizes.timed + if lz4 { 1.0 } else { 0.5 },
        Job::Calls { .. } => 1.2 * sizes.longest,
        Job::Durable { .. } | Job::Own { .. } => 1.0 + 1.5 * sizes.timed,
        Job::Tail { .. } => 1.0 + sizes.tail as f64 / 1e4,
        Job::Paced { .. } => 1.0 + sizes.paced,
        Job::Open { .. } => 0.5 + 2.0 * sizes.longest,
    }
}

/// One contender, one job, one directory.
pub struct Run<'a> {
    pub args: &'a Args,
    pub job: Job,
    pub rows: &'a [Row],
    /// In the table: the contender's, that of a way to use it, or that of the bound.
    pub name: &'static str,
    /// None for the bound.
    pub card: Option<&'a Card>,
    pub dir: PathBuf,
}

impl Run<'_> {
    pub fn measure(&self) -> Result<BTreeMap<String, f64>, String> {
        let mut values = BTreeMap::new();
        let mut stage = |stage| -> Result<Option<Digest>, String> {
            let outcome = self.process(stage)?;
            values.extend(outcome.values);
            Ok(outcome.digest)
        };
        if self.card.is_none() {
            stage(self.bounds())?;
            return Ok(values);
        }
        let expected = stage(self.first()).and_then(|digest| match (self.job, digest) {
            (Job::Tail { .. }, _) => Ok(None),
            (_, Some(digest)) => Ok(Some(digest)),
            (_, None) => Err(self.about("nothing about the appended records")),
        })?;
        let Some(expected) = expected else { return Ok(values) };
        match self.job {
            Job::Batches { .. } => {
                stage(Stage::Read(Read {
                    expected,
                    in_order: true,
                    scan: self.wants("scan") || self.wants("again") || self.wants("get_p50"),
                    again: self.wants("again"),
                    gets: self.wants("get_p50"),
                    seconds: sizes(self.args).timed,
                }))?;
                if self.wants("first_p50") {
                    stage(Stage::FirstGets { count: expected.count })?;
                }
            }
            Job::Open { .. } => {
                stage(Stage::Open { expected })?;
            }
            Job::Durable { .. }
            | Job::Calls { .. }
            | Job::Paced { .. }
            | Job::Tail { .. }
            | Job::Own { .. } => {
                stage(Read::verify(expected, self.in_order()))?;
            }
        }
        Ok(values)
    }

    /// The stage that appends.
    fn first(&self) -> Stage {
        let sizes = sizes(self.args);
        match self.job {
            Job::Batches { .. } => {
                Stage::Append { call: Call::Batch, bytes: self.bytes(), seconds: sizes.longest }
            }
            Job::Calls { call, .. } => Stage::Append { call, bytes: sizes.calls, seconds: sizes.longest },
            Job::Durable { threads } => Stage::Durable { threads, seconds: sizes.timed },
            Job::Paced { durable } => Stage::Paced { per_second: plan::pace(durable), seconds: sizes.paced },
            Job::Tail { sleeping } => Stage::Tail { sleeping, count: sizes.tail },
            Job::Own { ways, .. } => {
                let (_, work) = ways.iter().find(|(name, _)| *name == self.name).expect("one of the ways");
                Stage::Own { work: *work, seconds: sizes.timed }
            }
            Job::Open { killed: true } => Stage::UntilKilled { bytes: sizes.open },
            Job::Open { killed: false } => {
                Stage::Append { call: Call::Batch, bytes: sizes.open, seconds: f64::from(u32::MAX) }
            }
        }
    }

    fn bounds(&self) -> Stage {
        Stage::Bounds { parts: self.job.parts(), bytes: self.bytes(), count: sizes(self.args).tail }
    }

    /// About so many bytes of records are appended.
    fn bytes(&self) -> u64 {
        let sizes = sizes(self.args);
        match self.job {
            Job::Batches { kind: Kind::Bytes10, .. } => sizes.batches / 4,
            Job::Batches { .. } => sizes.batches,
            Job::Calls { .. } => sizes.calls,
            Job::Open { .. } => 4 * sizes.open,
            Job::Durable { .. } | Job::Tail { .. } | Job::Paced { .. } | Job::Own { .. } => 100 << 20,
        }
    }

    fn kind(&self) -> Kind {
        match self.job {
            Job::Batches { kind, .. } | Job::Calls { kind, .. } => kind,
            Job::Open { .. } | Job::Paced { durable: false } => Kind::Bytes1024,
            Job::Durable { .. } | Job::Tail { .. } | Job::Paced { durable: true } | Job::Own { .. } => {
                Kind::Bytes100
            }
        }
    }

    fn settings(&self) -> Settings {
        let longest = match self.kind() {
            Kind::Bytes10 => 10,
            Kind::Bytes100 => 100,
            Kind::Bytes1024 => 1024,
            Kind::Lines => Records::of(Kind::Lines).longest(),
        };
        let (lz4, durable, partitions) = match self.job {
            Job::Batches { lz4, .. } | Job::Calls { lz4, .. } => (lz4, false, 1),
            Job::Durable { .. } => (false, true, 1),
            Job::Paced { durable } => (false, durable, 1),
            Job::Tail { .. } | Job::Open { .. } => (false, false, 1),
            Job::Own { partitions, lz4, durable, .. } => (lz4, durable, partitions),
        };
        Settings { lz4, durable, bytes: self.bytes(), longest, partitions }
    }

    /// Whether one thread appended to one partition.
    fn in_order(&self) -> bool {
        !matches!(self.job, Job::Own { .. } | Job::Durable { threads: 2.. })
    }

    /// Whether a row of this job shows the measurement, and the contender has the call.
    fn wants(&self, value: &str) -> bool {
        let can = |row: &Row| self.card.is_some_and(|card| card.can(row.needs));
        self.rows.iter().any(|row| row.value == value && can(row))
    }

    fn process(&self, stage: Stage) -> Result<Outcome, String> {
        let task = Task {
            contender: self.card.map_or(self.name, |card| card.name).to_owned(),
            dir: self.dir.clone(),
            kind: self.kind(),
            settings: self.settings(),
            stage,
        };
        let until = if matches!(stage, Stage::UntilKilled { .. }) { Until::Outcome } else { Until::End };
        child::run(TASK, &task, until, PATIENCE).map_err(|what| self.about(&format!("{stage:?}: {what}")))
    }

    fn about(&self, what: &str) -> String {
        format!("{}, {:?}, {what}", self.name, self.job)
    }
}
