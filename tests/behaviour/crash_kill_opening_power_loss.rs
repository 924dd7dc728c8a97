//! Programs that are killed, open the directory again, and then lose the power: names and bytes
//! that the kill left unsynced are still unsynced when the next opening uses them.
//!
//! Each workload crashes at its operations. After each crash: every way of losing the power; a
//! kill, a whole opening, and a power loss; a kill, an opening, more acknowledged operations, and a
//! power loss; a kill, an opening that itself crashes, and a power loss or a second kill. A failure
//! names the crash, the losses and the operations, which is all that is needed to repeat it.
//!
//! By default some of the crashes and losses are tried, with `QUIPU_THOROUGH=1` all crashes, and
//! more than 100,000 states.

use quipu::Result;
use quipu::testing::Disk;

use crate::common::thorough;
use crate::crash::{Continue, Counts, Depth, Run, Told, explore_stop};

type Workload = fn(&mut Run<'_>) -> Result<()>;

/// Crashes a workload at every operation.
fn explore(name: &str, workload: Workload) {
    let run = |disk: &Disk, told: &mut Told, cut: Option<u64>| -> Result<()> {
        let mut run = Run::new(disk, told, cut)?;
        let result = workload(&mut run);
        // It dies: dropping the broker is no close.
        disk.crash_at(1);
        result
    };
    let whole = Disk::new();
    run(&whole, &mut Told::default(), None).unwrap_or_else(|e| panic!("{name}: {e}"));
    let operations = whole.ops();
    let depth = match thorough() {
        true => Depth { losses: 16, opening_step: 7, continuations: Continue::All, second_opening: 7 },
        false => Depth { losses: 12, opening_step: 19, continuations: Continue::InTurn, second_opening: 11 },
    };
    let step = if thorough() { 1 } else { 3 };
    let mut counts = Counts { operations, ..Counts::default() };
    for cut in (1..=operations + 1).step_by(step) {
        let (disk, mut told) = (Disk::new(), Told::default());
        // Where the last operations only clean up, it does not mind that they fail.
        let _ = run(&disk, &mut told, Some(cut));
        let case = format!("{name} crash at operation {cut} of {operations}");
        explore_stop(&disk, &told, &case, cut, depth, &mut counts);
    }
    counts.conclude(name);
}

macro_rules! workloads {
    ($($name:ident: $workload:expr;)*) => {$(
        #[test]
        fn $name() {
            explore(stringify!($name), $workload);
        }
    )*};
}

workloads! {
    appends: |run| {
        for _ in 0..4 {
            run.append("sync", 20)?;
            run.append("os", 20)?;
        }
        run.be_killed()?;
        run.append("os", 20)?;
        run.append("sync", 20)?;
        run.sync()?;
        run.append("os", 20)?;
        run.reopen()?;
        run.append("sync", 20)?;
        run.append("os", 20)
    };
    rolls: |run| {
        for n in 0..4 {
            run.roll("sync")?;
            run.roll("os")?;
            if n == 1 {
                run.maintain()?;
            }
            if n == 2 {
                run.sync()?;
            }
        }
        run.reopen()?;
        run.roll("os")?;
        run.roll("sync")
    };
    transactions: |run| {
        run.append("os", 20)?;
        run.append("sync", 20)?;
        run.append("os2", 20)?;
        run.be_killed()?;
        run.be_killed()?;
        run.transaction(&["os", "sync"])?;
        run.append("os", 20)?;
        run.transaction(&["os", "os2"])?;
        run.transaction(&["os", "os2", "sync"])?;
        run.append("sync", 700 - 20)?;
        run.transaction(&["os", "sync"])?;
        run.reopen()?;
        run.transaction(&["os", "sync"])?;
        run.transaction(&["os", "os2"])
    };
    topics: |run| {
        run.append("sync", 20)?;
        run.create("os")?;
        run.delete("os")?;
        run.append("os", 20)?;
        run.delete("sync")?;
        run.append("sync", 20)?;
        run.be_killed()?;
        run.delete("os")?;
        run.transaction(&["sync", "os2"])?;
        run.delete("os2")?;
        run.reopen()?;
        run.delete("sync")?;
        run.create("os")
    };
    names: |run| {
        run.send_as("one")?;
        run.send_as("two")?;
        run.send_as("one")?;
        run.be_killed()?;
        run.send_as("one")?;
        run.forget("two")?;
        run.append("sync", 600)?;
        run.append("sync", 600)?;
        run.send_as("two")?;
        run.reopen()?;
        run.send_as("one")?;
        run.forget("one")
    };
    truncation: |run| {
        for name in ["sync", "os"] {
            for _ in 0..5 {
                run.append(name, 200)?;
            }
            run.truncate(name, 1)?;
            run.append(name, 200)?;
            run.truncate(name, 4)?;
            run.append(name, 200)?;
        }
        run.reset("os", 50)?;
        run.append("os", 20)?;
        run.be_killed()?;
        run.truncate("os", 1)?;
        run.truncate("sync", 2)?;
        run.append("sync", 20)
    };
    deleted_records: |run| {
        for name in ["sync", "os"] {
            for _ in 0..6 {
                run.append(name, 250)?;
            }
            run.delete_records(name, 4)?;
            run.append(name, 250)?;
        }
        run.be_killed()?;
        run.delete_records("os", 3)?;
        run.append("os", 250)?;
        run.reopen()?;
        run.delete_records("sync", 3)
    };
    retention: |run| {
        for n in 0..2 {
            for _ in 0..4 {
                run.append("sized", 400)?;
                run.append("aged", 300)?;
                run.append("sized", 400)?;
            }
            run.maintain()?;
            if n == 0 {
                run.be_killed()?;
            }
        }
        run.append("aged", 100)
    };
    compaction: |run| {
        for _ in 0..10 {
            run.append("table", 200)?;
        }
        run.compact("table")?;
        for _ in 0..6 {
            run.append("table", 200)?;
        }
        run.be_killed()?;
        run.compact("table")?;
        run.append("table", 200)
    };
    erasure: |run| {
        for n in 0..9 {
            run.event(["a", "b", "c"][n % 3])?;
        }
        run.erase("b")?;
        run.event("b")?;
        run.event("a")?;
        run.be_killed()?;
        run.erase("a")?;
        run.event("a")
    };
    commits: |run| {
        for _ in 0..2 {
            run.append("sync", 20)?;
            run.commit("sync")?;
            run.append("os", 20)?;
            run.commit("os")?;
            run.be_killed()?;
        }
        run.append("os", 20)?;
        run.commit("os")?;
        run.truncate("os", 0)?;
        run.commit("sync")?;
        run.reopen()?;
        run.append("sync", 20)?;
        run.commit("sync")
    };
    everything_once: |run| {
        run.append("sync", 300)?;
        run.append("os", 300)?;
        run.transaction(&["sync", "os"])?;
        run.roll("os")?;
        run.commit("sync")?;
        run.delete_records("os", 2)?;
        run.be_killed()?;
        run.transaction(&["sync", "os2"])?;
        run.truncate("os", 1)?;
        run.delete("os2")?;
        run.send_as("one")?;
        run.maintain()?;
        run.roll("sync")?;
        run.reopen()?;
        run.transaction(&["sync", "os"])
    };
}
