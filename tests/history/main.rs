//! Histories of eight threads under faults, crashes and rebalances, and a checker that knows
//! nothing of the library (in the manner of Jepsen and its checker Elle).
//!
//! [`workload`] runs the threads and notes every call in the words of [`history`]; [`checker`]
//! looks for contradictions. [`seeded`] shows that it finds them: bugs that the threads pretend,
//! and edits of histories of which nothing is wrong.
//!
//! Threads are scheduled by the system, so a seed gives the plan of a history and not the history:
//! a failure prints what is wrong, with the calls and their times.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod checker;
#[path = "../common/mod.rs"]
mod common;
mod history;
mod seeded;
mod workload;

use std::fs;
use std::path::Path;

use history::{End, History, Outcome, Step};

/// The numbers of the histories of the test: some dozens, or more than a thousand.
fn seeds() -> std::ops::Range<u64> {
    0..if common::thorough() { 1200 } else { 40 }
}

/// Panics if anything is wrong with a history.
fn assert_right(history: &History, seed: u64) {
    let found = checker::check(history);
    if !found.is_empty() {
        let lines: Vec<String> =
            found.iter().map(|wrong| format!("{:?}: {}", wrong.kind, wrong.text)).collect();
        panic!("history {seed}: {} contradictions\n{}", lines.len(), lines[..lines.len().min(12)].join("\n"));
    }
}

/// What the histories have had in them.
#[derive(Debug, Default)]
struct Counts {
    done: usize,
    failed: usize,
    unknown: usize,
    reads: usize,
    polled: usize,
    assigned: usize,
    gone: usize,
    kills: usize,
    power_losses: usize,
    /// Changes during which another one was called.
    overlapping: usize,
}

impl Counts {
    fn add(&mut self, history: &History) {
        let outcomes = |outcome| history.changes.iter().filter(|change| change.outcome == outcome).count();
        self.done += outcomes(Outcome::Done);
        self.failed += outcomes(Outcome::Failed);
        self.unknown += outcomes(Outcome::Unknown);
        self.reads += history.reads.len();
        for step in history.members.iter().flat_map(|member| &member.steps) {
            match step {
                Step::Polled { got, .. } => self.polled += got.len(),
                Step::Assigned { .. } => self.assigned += 1,
                Step::Gone { .. } => self.gone += 1,
                _ => {}
            }
        }
        let ends = |end| history.lives.iter().filter(|life| life.end == end).count();
        self.kills += ends(End::Killed);
        self.power_losses += ends(End::PowerLost);
        let mut spans: Vec<_> =
            history.changes.iter().map(|change| (change.span.from, change.span.to)).collect();
        spans.sort_unstable();
        self.overlapping += spans.windows(2).filter(|pair| pair[1].0 < pair[0].1).count();
    }
}

#[test]
fn nothing_is_lost_doubled_reordered_or_half_visible() {
    let mut counts = Counts::default();
    for seed in seeds() {
        let history = workload::run(seed, None);
        assert_right(&history, seed);
        counts.add(&history);
    }
    println!("ok: {} histories, {counts:?}", seeds().end);
    let Counts { done, failed, unknown, reads, polled, assigned, gone, kills, power_losses, overlapping } =
        counts;
    let often = [done, reads, polled, overlapping];
    let rarely = [failed, unknown, assigned, gone, kills, power_losses];
    assert!(often.iter().all(|n| *n > 1000) && rarely.iter().all(|n| *n > 10), "{counts:?}");
}

/// Otherwise a bug of the library could hide itself from the checker.
#[test]
fn the_checker_uses_nothing_of_the_library() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/history");
    let mut files = vec![here.join("history.rs")];
    files.extend(fs::read_dir(here.join("checker")).unwrap().map(|entry| entry.unwrap().path()));
    assert_eq!(files.len(), 6);
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code.filter(|line| line.contains("quipu") || line.trim_start().starts_with("use ")) {
            let is_own = ["use std::", "use super::", "use crate::history::"];
            let is_own = is_own.iter().any(|own| line.trim_start().starts_with(own));
            assert!(is_own, "{}: {line}", file.display());
        }
    }
}
