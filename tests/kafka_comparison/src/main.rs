//! Runs seeded random histories on Quipu and on Apache Kafka, and compares everything that a
//! program sees. Each difference must be in the list of deliberate ones, `differences.toml`. See
//! README.md.

mod compare;
mod differences;
mod history;
mod kafka;
mod quipu;
mod random;
mod seen;
mod system;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use crate::compare::{Comparison, compare, shorten};
use crate::differences::Differences;
use crate::history::{History, Kind};
use crate::kafka::Kafka;
use crate::kafka::clients::Clients;
use crate::quipu::Quipu;
use crate::system::{Names, System};

const USAGE: &str = "\
KAFKA_BOOTSTRAP=host:port kafka-comparison [--seeds N] [--first SEED] [--kind NAME]... [--jobs N]
                                           [--session-ms MS]
  --seeds N         how many histories of each kind (20)
  --first SEED      the first seed (0)
  --kind NAME       log, groups, transactions, compaction or limits; all of them by default
  --jobs N          how many histories run at once (4)
  --session-ms MS   the session timeout of members (2000); at least the broker's minimum
Without KAFKA_BOOTSTRAP Quipu in memory is compared with Quipu in a directory.";

/// From this number of seeds on a run is of full size: each listed difference must be met.
const FULL_SIZE: u64 = 150;

struct Options {
    seeds: u64,
    first: u64,
    kinds: Vec<Kind>,
    jobs: usize,
    session: Duration,
    bootstrap: Option<String>,
}

/// What all workers have found.
#[derive(Default)]
struct Totals {
    /// Histories, and steps compared, by kind.
    counts: BTreeMap<Kind, (u64, usize)>,
    met: BTreeMap<String, u64>,
    /// Full reports of differences that are not listed.
    unlisted: Vec<String>,
    /// Differences that did not show again, and histories that could not be run.
    unsteady: Vec<String>,
    failed: Vec<String>,
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options {
        seeds: 20,
        first: 0,
        kinds: Vec::new(),
        jobs: 4,
        session: Duration::from_millis(2000),
        bootstrap: std::env::var("KAFKA_BOOTSTRAP").ok(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{argument} has no value\n{USAGE}"))?;
        match argument.as_str() {
            "--seeds" => options.seeds = value.parse()?,
            "--first" => options.first = value.parse()?,
            "--jobs" => options.jobs = value.parse()?,
            "--session-ms" => options.session = Duration::from_millis(value.parse()?),
            "--kind" => {
                let kind = Kind::ALL.into_iter().find(|kind| kind.name() == value);
                options.kinds.push(kind.with_context(|| format!("no kind {value}\n{USAGE}"))?);
            }
            _ => bail!("{argument}?\n{USAGE}"),
        }
    }
    if options.kinds.is_empty() {
        options.kinds = Kind::ALL.to_vec();
    }
    Ok(options)
}

/// Runs all histories. Returns whether there was no unlisted and no stale difference.
fn run(options: &Options) -> Result<bool> {
    let list = Differences::load()?;
    let start = Instant::now();
    // Kinds in turn, so that a run that is stopped has some of each.
    let seeds = options.first..options.first + options.seeds;
    let work: Vec<_> = seeds.flat_map(|seed| options.kinds.iter().map(move |kind| (*kind, seed))).collect();
    let next = AtomicUsize::new(0);
    let totals = Mutex::new(Totals::default());
    let attempts = AtomicU64::new(0);
    let failed = std::thread::scope(|scope| {
        let worker =
            || Worker { options, list: &list, totals: &totals, attempts: &attempts }.run(&work, &next);
        let workers: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .find_map(|worker| worker.join().unwrap_or_else(|_| bail!("a worker has panicked")).err())
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(report(options, &list, &totals, start.elapsed()))
}

/// Runs histories one after the other, with clients of its own.
struct Worker<'a> {
    options: &'a Options,
    list: &'a Differences,
    totals: &'a Mutex<Totals>,
    /// Counts the runs of histories of all workers: each has names of its own.
    attempts: &'a AtomicU64,
}

impl Worker<'_> {
    fn run(&self, work: &[(Kind, u64)], next: &AtomicUsize) -> Result<()> {
        let bootstrap = self.options.bootstrap.as_deref();
        let clients = bootstrap.map(|at| Clients::new(at, self.options.session)).transpose()?;
        while let Some((kind, seed)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            self.history(&History::new(*kind, *seed), clients.as_ref());
        }
        Ok(())
    }

    fn systems<'c>(
        &self,
        history: &History,
        clients: Option<&'c Clients>,
    ) -> Result<(Box<dyn System + 'c>, Box<dyn System + 'c>)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("q{:x}-{attempt}-", now.as_millis());
        let names = Names::new(prefix, i64::try_from(now.as_millis())?);
        let on_disk = clients.is_some() && history.seed % 4 == 3;
        let quipu: Box<dyn System + 'c> = Box::new(Quipu::new(names.clone(), on_disk)?);
        let other: Box<dyn System + 'c> = match clients {
            Some(clients) => Box::new(Kafka::new(clients, names, history.seed.is_multiple_of(2))),
            None => Box::new(Quipu::new(names, true)?),
        };
        Ok((quipu, other))
    }

    fn history(&self, history: &History, clients: Option<&Clients>) {
        let systems = |history: &History| self.systems(history, clients);
        // A timeout says nothing, so that history runs again.
        let mut runs = (0..3).map(|_| compare(history, &systems, self.list));
        let first = runs.next().unwrap_or_else(|| bail!("no run"));
        let compared = first.or_else(|error| runs.find(Result::is_ok).unwrap_or(Err(error)));
        let mut reports = (Vec::new(), Vec::new());
        if let Some(difference) = compared.as_ref().ok().and_then(|comparison| comparison.unlisted.clone()) {
            let again = compare(history, &systems, self.list);
            let shows_again =
                |again: Comparison| again.unlisted.is_some_and(|other| other.is_like(&difference));
            if again.is_ok_and(shows_again) {
                let (shortest, shown) = shorten(history, &difference, &systems, self.list);
                reports.0.push(format!(
                    "{shortest}{shown}\n  replay: --kind {} --first {} --seeds 1",
                    history.kind.name(),
                    history.seed
                ));
            } else {
                reports.1.push(format!("{} of seed {}: {difference}", history.kind.name(), history.seed));
            }
        }
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        for report in &reports.0 {
            println!("UNLISTED DIFFERENCE in {report}\n");
        }
        for report in &reports.1 {
            println!("not seen again: {report}");
        }
        totals.unlisted.append(&mut reports.0);
        totals.unsteady.append(&mut reports.1);
        match compared {
            Ok(comparison) => {
                let count = totals.counts.entry(history.kind).or_default();
                *count = (count.0 + 1, count.1 + comparison.steps);
                for (name, times) in comparison.met {
                    *totals.met.entry(name).or_default() += times;
                }
            }
            Err(error) => {
                let report = format!("{} of seed {}: {error:#}", history.kind.name(), history.seed);
                println!("could not be run: {report}\n{history}");
                totals.failed.push(report);
            }
        }
    }
}

/// Prints the differences. Returns whether all of them are listed and none is stale.
fn report(options: &Options, list: &Differences, totals: &Totals, took: Duration) -> bool {
    for (kind, (histories, steps)) in &totals.counts {
        println!("{}: {histories} histories, {steps} steps compared", kind.name());
    }
    for line in list.describe(&totals.met) {
        println!("listed: {line}");
    }
    let is_full =
        options.bootstrap.is_some() && options.seeds >= FULL_SIZE && options.kinds.len() == Kind::ALL.len();
    let stale = if is_full { list.never_met(&totals.met) } else { Vec::new() };
    for name in &stale {
        println!("stale, never met in a run of full size: {name}");
    }
    println!(
        "{} unlisted, {} stale, {} not seen again, {} not run, {} s",
        totals.unlisted.len(),
        stale.len(),
        totals.unsteady.len(),
        totals.failed.len(),
        took.as_secs()
    );
    // A run in which hardly anything could be run proves nothing.
    let has_run =
        totals.failed.len() * 20 <= totals.counts.values().map(|count| count.0 as usize).sum::<usize>();
    totals.unlisted.is_empty() && stale.is_empty() && has_run
}
