//! Every program of at most three steps out of ten is killed at every operation, with every subset
//! of the unsynced writes lost, and, after the kill and an opening, every subset of the writes that
//! are unsynced then.
//!
//! A program crashes at the operations of its last step only: earlier ones crash in the shorter
//! program that it begins with. So each state is looked at once. Where more than 64 subsets differ,
//! a sample takes their place.
//!
//! By default every program of at most two steps is run, 110 of them, with `QUIPU_THOROUGH=1` all
//! 1,110.

use std::thread;

use quipu::Result;
use quipu::testing::{Disk, Survive};

use crate::common::thorough;
use crate::crash::{Continue, Counts, Depth, Run, Told, explore_stop};

type Step = fn(&mut Run<'_>) -> Result<()>;

const ALPHABET: [(&str, Step); 10] = [
    ("append sync", |run| run.append("sync", 20)),
    ("append os", |run| run.append("os", 20)),
    ("transaction", |run| run.transaction(&["sync", "os"])),
    ("create", |run| {
        // A new one each time.

        let free = ["new-1", "new-2", "new-3"]
            .into_iter()
            .find(|name| run.told.logs.get(*name).is_none_or(|log| !log.now.exists));
        run.create(free.unwrap())
    }),
    ("delete", |run| run.delete("sync")),
    ("truncate", |run| run.truncate("os", 2)),
    ("delete records", |run| run.delete_records("os", 2)),
    ("roll", |run| run.roll("os")),
    ("commit", |run| run.commit("os")),
    ("maintain, close, open", |run| {
        run.maintain()?;
        run.reopen()
    }),
];

/// All losses everywhere. Of the shorter programs the opening after the kill crashes too.
fn depth(steps: usize) -> Depth {
    let opening_step = match (steps, thorough()) {
        (0 | 1, true) => 1,
        (0 | 1, false) => 7,
        (2, true) => 11,
        _ => 0,
    };
    Depth { losses: usize::MAX, opening_step, continuations: Continue::Nothing, second_opening: 101 }
}

/// A broker with two logs of two segments each, killed with one record that is not synced.
fn prepared() -> (Disk, Told) {
    let (disk, mut told) = (Disk::new(), Told::default());
    let mut run = Run::new(&disk, &mut told, None).unwrap();
    for bytes in [400, 400, 20] {
        run.append("sync", bytes).unwrap();
        run.append("os", bytes).unwrap();
    }
    run.sync().unwrap();
    run.append("os", 20).unwrap();
    disk.crash(Survive::Everything);
    drop(run);
    (disk, told)
}

/// Runs the steps, with a crash at the n-th operation or without. Returns the number of operations
/// before the last step.
fn run(disk: &Disk, told: &mut Told, steps: &[usize], cut: Option<u64>) -> Result<u64> {
    let mut run = Run::new(disk, told, cut)?;
    let mut before = 0;
    let result = steps.iter().try_for_each(|step| {
        before = disk.ops();
        ALPHABET[*step].1(&mut run)
    });
    disk.crash_at(1);
    drop(run);
    result.map(|()| before)
}

fn explore(base: &(Disk, Told), steps: &[usize], counts: &mut Counts) {
    let names: Vec<_> = steps.iter().map(|step| ALPHABET[*step].0).collect();
    let (whole, mut told) = (base.0.duplicate(), base.1.clone());
    let before = run(&whole, &mut told, steps, None).unwrap_or_else(|e| panic!("{names:?}: {e}"));
    for cut in before + 1..=whole.ops() + 1 {
        let (disk, mut told) = (base.0.duplicate(), base.1.clone());
        let _ = run(&disk, &mut told, steps, Some(cut));
        let case = format!("{names:?}, crash at operation {cut} of {}", whole.ops());
        explore_stop(&disk, &told, &case, cut, depth(steps.len()), counts);
    }
    counts.operations += whole.ops() - before;
}

#[test]
fn every_small_program_keeps_its_promises_after_every_crash() {
    let longest = if thorough() { 3 } else { 2 };
    let mut programs: Vec<Vec<usize>> = vec![Vec::new()];
    let mut first = 0;
    for _ in 0..longest {
        let shorter = programs[first..].to_vec();
        first = programs.len();
        programs
            .extend(shorter.iter().flat_map(|steps| (0..10).map(move |step| [&steps[..], &[step]].concat())));
    }
    assert_eq!(programs.len(), 1 + if thorough() { 1_110 } else { 110 });
    // Two threads share them.
    let counts = thread::scope(|scope| {
        let halves: Vec<_> = (0..2)
            .map(|half| {
                let programs = &programs;
                scope.spawn(move || {
                    let (base, mut counts) = (prepared(), Counts::default());
                    for steps in programs.iter().skip(half).step_by(2) {
                        explore(&base, steps, &mut counts);
                    }
                    counts
                })
            })
            .collect();
        let mut counts = Counts::default();
        for half in halves {
            counts.add(half.join().unwrap());
        }
        counts
    });
    let (most, states) = (if thorough() { 400_000 } else { 20_000 }, counts.states());
    counts.conclude(&format!("{} programs", programs.len() - 1));
    assert!(states >= most, "{states}");
}
