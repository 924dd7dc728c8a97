//! The runs: each stage of each is a process, contenders take turns.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::TASK;
use crate::args::Args;
use crate::contender::{Need, Settings};
use crate::contenders::{self, Card, QUIPU};
use crate::digest::Digest;
use crate::plan::{self, Job, Row};
use crate::records::{Kind, Records};
use crate::workloads::{Outcome, Stage, Task};

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
}

const WHOLE: Sizes = Sizes {
    batches: 500_000_000,
    calls: 200_000_000,
    open: 1_000_000_000,
    longest: 5.0,
    timed: 2.0,
    tail: 20_000,
};
const QUICK: Sizes =
    Sizes { batches: 20_000_000, calls: 10_000_000, open: 20_000_000, longest: 1.0, timed: 0.2, tail: 1_000 };

/// The measurements, by row, contender and name: one a repetition.
pub struct Results {
    pub jobs: Vec<(Job, Vec<Measured>)>,
    /// What went wrong, a line each.
    pub failed: Vec<String>,
}

/// One contender in one job.
pub struct Measured {
    pub contender: &'static str,
    pub values: BTreeMap<String, Vec<f64>>,
}

pub fn run(args: &Args) -> Results {
    let rows: Vec<Row> = plan::rows().into_iter().filter(|row| args.wants(&row.key)).collect();
    let mut jobs: Vec<Job> = Vec::new();
    for row in &rows {
        if !jobs.contains(&row.job) {
            jobs.push(row.job);
        }
    }
    let cards: Vec<Card> =
        contenders::cards().into_iter().filter(|card| args.wants_contender(card.name)).collect();
    let mut results = Results { jobs: Vec::new(), failed: Vec::new() };
    for job in jobs {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.job == job).collect();
        let able: Vec<(&'static str, &Card)> = match job {
            Job::Own { ways, .. } => {
                let quipu = cards.iter().find(|card| card.name == QUIPU);
                ways.iter().filter_map(|(name, _)| Some((*name, quipu?))).collect()
            }
            _ => cards.iter().filter(|card| card.can(&job.needs())).map(|card| (card.name, card)).collect(),
        };
        let measured = run_job(args, job, &rows, &able, &mut results.failed);
        results.jobs.push((job, measured));
    }
    results
}

fn run_job(
    args: &Args,
    job: Job,
    rows: &[&Row],
    able: &[(&'static str, &Card)],
    failed: &mut Vec<String>,
) -> Vec<Measured> {
    let mut measured: Vec<Measured> =
        able.iter().map(|(name, _)| Measured { contender: name, values: BTreeMap::new() }).collect();
    let mut out = vec![false; able.len()];
    let names: Vec<_> = rows.iter().map(|row| row.key.as_str()).collect();
    let names = names.join(", ");
    for repetition in 0..args.repeat {
        for turn in 0..able.len() {
            // None is always first, or always after the same other one.
            let at = (turn + repetition) % able.len();
            if out[at] {
                continue;
            }
            eprintln!("{names}: {} of {}, {}", repetition + 1, args.repeat, able[at].0);
            let (name, card) = able[at];
            let run = Run { args, job, rows, name, card, dir: Scratch::new(&args.dir) };
            match run.measure() {
                Ok(values) => {
                    for (name, value) in values {
                        measured[at].values.entry(name).or_default().push(value);
                    }
                }
                Err(message) => {
                    eprintln!("FAILED: {message}");
                    failed.push(message);
                    out[at] = true;
                }
            }
        }
    }
    measured
}

/// One contender, one job, one directory.
struct Run<'a> {
    args: &'a Args,
    job: Job,
    rows: &'a [&'a Row],
    /// In the table: the contender's, or that of a way to use it.
    name: &'static str,
    card: &'a Card,
    dir: Scratch,
}

impl Run<'_> {
    fn measure(&self) -> Result<BTreeMap<String, f64>, String> {
        let sizes = if self.args.quick { QUICK } else { WHOLE };
        let mut values = BTreeMap::new();
        let mut stage = |settings: Settings, kind, stage| -> Result<Option<Digest>, String> {
            let outcome = self.process(settings, kind, stage)?;
            values.extend(outcome.values);
            Ok(outcome.digest)
        };
        let verify =
            |expected, in_order| Stage::Read { expected, in_order, again: false, gets: false, seconds: 0.0 };
        match self.job {
            Job::Batches { kind, lz4 } => {
                let bytes = if kind == Kind::Bytes10 { sizes.batches / 4 } else { sizes.batches };
                let settings = settings(kind, lz4, false, bytes);
                let call = crate::workloads::Call::Batch;
                let append = Stage::Append { call, bytes, seconds: sizes.longest };
                let expected = stage(settings, kind, append)?.expect("what was appended");
                let (again, gets) = (self.wants("again"), self.wants("get_p50"));
                let read = Stage::Read { expected, in_order: true, again, gets, seconds: sizes.timed };
                stage(settings, kind, read)?;
                if self.wants("first_p50") {
                    stage(settings, kind, Stage::FirstGets { count: expected.count })?;
                }
            }
            Job::Calls { kind, lz4, call } => {
                let settings = settings(kind, lz4, false, sizes.calls);
                let append = Stage::Append { call, bytes: sizes.calls, seconds: sizes.longest };
                let expected = stage(settings, kind, append)?.expect("what was appended");
                stage(settings, kind, verify(expected, true))?;
            }
            Job::Durable { threads } => {
                let kind = Kind::Bytes100;
                let settings = settings(kind, false, true, 100 << 20);
                let durable = Stage::Durable { threads, seconds: sizes.timed };
                let expected = stage(settings, kind, durable)?.expect("what was appended");
                stage(settings, kind, verify(expected, threads == 1))?;
            }
            Job::Tail { sleeping } => {
                let kind = Kind::Bytes100;
                stage(
                    settings(kind, false, false, 100 << 20),
                    kind,
                    Stage::Tail { sleeping, count: sizes.tail },
                )?;
            }
            Job::Own { partitions, lz4, durable, ways } => {
                let kind = Kind::Bytes100;
                let settings = Settings { partitions, ..settings(kind, lz4, durable, 100 << 20) };
                let (_, work) = ways.iter().find(|(name, _)| *name == self.name).expect("one of the ways");
                let own = Stage::Own { work: *work, seconds: sizes.timed };
                let expected = stage(settings, kind, own)?.expect("what was appended");
                stage(settings, kind, verify(expected, false))?;
            }
            Job::Open { killed } => {
                let kind = Kind::Bytes1024;
                let settings = settings(kind, false, false, 4 * sizes.open);
                let fill = if killed {
                    Stage::UntilKilled { bytes: sizes.open }
                } else {
                    let call = crate::workloads::Call::Batch;
                    Stage::Append { call, bytes: sizes.open, seconds: f64::from(u32::MAX) }
                };
                let expected = stage(settings, kind, fill)?.expect("what was appended");
                stage(settings, kind, Stage::Open { expected })?;
            }
        }
        Ok(values)
    }

    /// Whether a row of this job shows the measurement, and the contender has the call.
    fn wants(&self, value: &str) -> bool {
        self.rows.iter().any(|row| row.value == value && self.card.can(row.needs))
    }

    /// Starts this program again with a task.
    fn process(&self, settings: Settings, kind: Kind, stage: Stage) -> Result<Outcome, String> {
        let task =
            Task { contender: self.card.name.to_owned(), dir: self.dir.0.join("log"), kind, settings, stage };
        let text = serde_json::to_string(&task).expect("a task");
        let about = |what: String| format!("{}, {:?}, {:?}: {what}", self.name, self.job, stage);
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([TASK, &text])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| about(e.to_string()))?;
        // Libraries print, too: the outcome is the line that is one.
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut outcome = None;
        for line in lines.map_while(Result::ok) {
            if let Ok(found) = serde_json::from_str::<Outcome>(&line) {
                outcome = Some(found);
                if matches!(stage, Stage::UntilKilled { .. }) {
                    child.kill().map_err(|e| about(e.to_string()))?;
                }
            }
        }
        let status = child.wait().map_err(|e| about(e.to_string()))?;
        if !status.success() && !matches!(stage, Stage::UntilKilled { .. }) {
            return Err(about(status.to_string()));
        }
        outcome.ok_or_else(|| about("no outcome".to_owned()))
    }
}

fn settings(kind: Kind, lz4: bool, durable: bool, bytes: u64) -> Settings {
    let longest = match kind {
        Kind::Bytes10 => 10,
        Kind::Bytes100 => 100,
        Kind::Bytes1024 => 1024,
        Kind::Lines => Records::of(kind).longest(),
    };
    Settings { lz4, durable, bytes, longest, partitions: 1 }
}

/// A fresh directory with a directory `log`, removed when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(below: &Path) -> Self {
        let dir = below.join(format!("peers-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("log")).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether a contender can be in a row at all.
pub fn is_in(row: &Row, name: &str) -> bool {
    if matches!(row.job, Job::Own { .. }) {
        return true;
    }
    let needs: Vec<Need> = row.job.needs().into_iter().chain(row.needs.iter().copied()).collect();
    contenders::cards().iter().any(|card| card.name == name && card.can(&needs))
}
