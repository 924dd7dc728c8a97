//! The runs: each stage of each is a process, contenders take turns, and the results are saved
//! after each turn of a job.

pub mod child;
mod stages;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::stages::Run;
use crate::args::Args;
use crate::contender::Need;
use crate::contenders::{self, Card, QUIPU};
use crate::plan::{self, Job, Row};

/// The entrant of each job that is no contender: its physical bounds.
pub const BOUND: &str = "bound";

/// The measurements, by job.
pub struct Results {
    pub jobs: Vec<(Job, Vec<Measured>)>,
    /// What went wrong, a line each.
    pub failed: Vec<String>,
    /// Whole repetitions.
    pub repetitions: usize,
}

/// One contender, one way to use Quipu, or the bound, in one job.
pub struct Measured {
    pub name: &'static str,
    /// By the name of a measurement: a sample a repetition.
    pub values: BTreeMap<String, Vec<f64>>,
    /// Why it is out.
    pub failed: Option<String>,
}

/// What takes part in a job.
struct Entrant {
    name: &'static str,
    /// None for the bound.
    card: Option<Card>,
}

/// A job that is wanted.
struct Planned {
    job: Job,
    rows: Vec<Row>,
    entrants: Vec<Entrant>,
}

/// Runs all that is wanted. `save` is called with the results so far, after each job of each
/// repetition.
pub fn run(args: &Args, save: impl Fn(&Results)) -> Results {
    let mut jobs: Vec<Planned> = Vec::new();
    for row in plan::rows().into_iter().filter(|row| args.wants(&row.key)) {
        match jobs.iter_mut().find(|planned| planned.job == row.job) {
            Some(planned) => planned.rows.push(row),
            None => jobs.push(Planned { job: row.job, entrants: entrants(args, row.job), rows: vec![row] }),
        }
    }
    announce(args, &jobs);
    let mut results = Results { jobs: Vec::new(), failed: Vec::new(), repetitions: 0 };
    for planned in &jobs {
        let new = |entrant: &Entrant| Measured { name: entrant.name, values: BTreeMap::new(), failed: None };
        results.jobs.push((planned.job, planned.entrants.iter().map(new).collect()));
    }
    let clock =
        Clock { start: Instant::now(), limit: args.minutes.map(|minutes| Duration::from_secs(60 * minutes)) };
    for repetition in 0..args.repeat {
        let before = clock.start.elapsed();
        for (at, planned) in jobs.iter().enumerate() {
            if clock.is_over() {
                eprintln!(
                    "the {} minutes are over in repetition {}",
                    args.minutes.unwrap_or(0),
                    repetition + 1
                );
                return results;
            }
            turn(args, planned, repetition, &clock, &mut results.jobs[at].1, &mut results.failed);
            save(&results);
        }
        results.repetitions += 1;
        save(&results);
        let took = clock.start.elapsed() - before;
        let left = took * (args.repeat - repetition - 1) as u32;
        eprintln!(
            "repetition {} of {}: {} s; about {} min are left",
            repetition + 1,
            args.repeat,
            took.as_secs(),
            left.as_secs().div_ceil(60)
        );
    }
    results
}

/// One repetition of a job: each entrant once.
fn turn(
    args: &Args,
    planned: &Planned,
    repetition: usize,
    clock: &Clock,
    measured: &mut [Measured],
    failed: &mut Vec<String>,
) {
    let Planned { job, rows, entrants } = planned;
    let names: Vec<_> = rows.iter().map(|row| row.key.as_str()).collect();
    let names = names.join(", ");
    for turn in 0..entrants.len() {
        // None is always first, or always after the same other one.
        let which = (turn + repetition) % entrants.len();
        let (entrant, measured) = (&entrants[which], &mut measured[which]);
        if measured.failed.is_some() {
            continue;
        }
        let minute = clock.start.elapsed().as_secs() / 60;
        eprintln!("minute {minute}, {} of {}, {names}: {}", repetition + 1, args.repeat, entrant.name);
        let dir = Scratch::new(&args.dir);
        let (name, card) = (entrant.name, entrant.card.as_ref());
        let run = Run { args, job: *job, rows, name, card, dir: dir.0.join("log") };
        match run.measure() {
            Ok(values) => {
                for (name, value) in values {
                    measured.values.entry(name).or_default().push(value);
                }
            }
            Err(message) => {
                eprintln!("FAILED: {message}");
                measured.failed = Some(message.clone());
                failed.push(message);
            }
        }
    }
}

fn entrants(args: &Args, job: Job) -> Vec<Entrant> {
    let cards = contenders::cards().into_iter().filter(|card| args.wants_contender(card.name));
    let mut entrants: Vec<Entrant> = match job {
        Job::Own { ways, .. } => {
            let is_wanted = args.wants_contender(QUIPU);
            let ways = ways.iter().filter(|_| is_wanted);
            ways.map(|(name, _)| Entrant { name, card: contenders::card(QUIPU) }).collect()
        }
        _ => {
            let able = cards.filter(|card| card.can(&job.needs()));
            able.map(|card| Entrant { name: card.name, card: Some(card) }).collect()
        }
    };
    if !entrants.is_empty() {
        entrants.push(Entrant { name: BOUND, card: None });
    }
    entrants
}

/// Prints how long all of it takes, at most.
fn announce(args: &Args, jobs: &[Planned]) {
    let seconds = |planned: &Planned| {
        let contenders = planned.entrants.iter().filter(|entrant| entrant.card.is_some()).count();
        stages::seconds(args, planned.job) * contenders as f64
    };
    let repetition: f64 = jobs.iter().map(seconds).sum();
    let runs: usize = jobs.iter().map(|planned| planned.entrants.len()).sum();
    let minutes = |seconds: f64| (seconds / 60.0).ceil();
    eprintln!(
        "{} jobs, {runs} runs, {} repetitions: about {} min each, {} min in all{}",
        jobs.len(),
        args.repeat,
        minutes(repetition),
        minutes(repetition * args.repeat as f64),
        args.minutes.map_or(String::new(), |minutes| format!("; ends after {minutes} min")),
    );
}

struct Clock {
    start: Instant,
    limit: Option<Duration>,
}

impl Clock {
    fn is_over(&self) -> bool {
        self.limit.is_some_and(|limit| self.start.elapsed() >= limit)
    }
}

/// A fresh directory with a directory `log`, removed when this is dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(below: &Path) -> Self {
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
    if name == BOUND {
        return false;
    }
    if matches!(row.job, Job::Own { .. }) {
        return true;
    }
    let needs: Vec<Need> = row.job.needs().into_iter().chain(row.needs.iter().copied()).collect();
    contenders::card(name).is_some_and(|card| card.can(&needs))
}
