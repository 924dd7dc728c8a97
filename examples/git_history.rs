//! The history of a repository as streams: one per path, each commit a transaction over the paths
//! that it changed.
//!
//!     cargo run --release --example git_history [-- FILE.events]
//!
//! A line of the file is `commit <tab> time <tab> A, M or D <tab> path`, oldest first; lines of one
//! commit follow each other. By default it takes `../shared/data/git-tantivy.events` if it exists,
//! else a generated history. Every stream is then loaded from a reopened broker and folded: the
//! existing paths are compared with the list in FILE.oracle, if there is one. To create such a file
//! from a repository:
//!
//!     git log --reverse --no-renames --name-status --diff-filter=AMD --format='%H %ct' | awk '
//!         NF == 2 && length($1) == 40 { c = $1; t = $2; next } NF >= 2 { p = $0; sub(/^[AMD]\t/, "", p); print c "\t" t "\t" $1 "\t" p }'

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use quipu::{Broker, ConsumedRecord, Record, Timestamp, TopicConfig};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let file = match args.as_slice() {
        [] => PathBuf::from("../shared/data/git-tantivy.events"),
        [file] if file.is_file() => file.clone(),
        _ => {
            eprintln!("usage: git_history [FILE.events]");
            return ExitCode::from(2);
        }
    };
    match run(&file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("git_history: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The change of a path by a commit.
struct Change {
    commit: String,
    time: i64,
    op: String,
    path: String,
}

fn run(file: &Path) -> Outcome<()> {
    let (changes, oracle) = if file.exists() {
        let oracle = std::fs::read_to_string(file.with_extension("oracle")).ok();
        let oracle = oracle.map(|text| text.lines().map(str::to_string).collect::<BTreeSet<_>>());
        (parse(&std::fs::read_to_string(file)?)?, oracle)
    } else {
        made_up()
    };
    let dir = std::env::temp_dir().join(format!("quipu-git-history-{}", std::process::id()));
    let done = replay(&dir, &changes, oracle.as_ref());
    std::fs::remove_dir_all(&dir)?;
    println!("{}", done?);
    Ok(())
}

fn replay(dir: &Path, changes: &[Change], oracle: Option<&BTreeSet<String>>) -> Outcome<String> {
    let broker = Broker::open(dir)?;
    let paths = broker
        .create_topic("paths", TopicConfig::streams().segment_bytes(1 << 20).max_record_bytes(1 << 16))?;
    let started = Instant::now();
    let mut commits = 0;
    for commit in changes.chunk_by(|a, b| a.commit == b.commit) {
        let mut transaction = broker.transaction();
        let mut seen: Vec<(&str, u64)> = Vec::new();
        for change in commit {
            let stream = paths.stream(&change.path)?;
            // The version of the path, and the changes of this commit so far.
            let before = seen.iter().filter(|(path, _)| *path == change.path).count() as u64;
            let expected = stream.version()?.plus(before);
            seen.push((&change.path, expected.get()));
            let event = Record::new(&change.commit)
                .event_type(change.op.as_str())
                .timestamp(Timestamp::from_millis(change.time * 1_000));
            transaction.append(&stream, expected, [event]);
        }
        transaction.commit()?;
        commits += 1;
    }
    println!(
        "{} changes of {commits} commits appended with expected versions in {:.1} s",
        changes.len(),
        started.elapsed().as_secs_f64()
    );
    broker.close()?;

    let broker = Broker::open(dir)?;
    let topic = broker.topic("paths")?;
    let all: BTreeSet<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    let started = Instant::now();
    let (mut events, mut alive) = (0, BTreeSet::new());
    for path in &all {
        let history = topic.stream(*path)?.load()?;
        events += history.len();
        if history.iter().fold(false, exists) {
            alive.insert(path.to_string());
        }
    }
    println!("{} streams loaded and folded in {:.2} s", all.len(), started.elapsed().as_secs_f64());
    if events != changes.len() {
        return Err(format!("{} changes went in and {events} events came out", changes.len()).into());
    }
    match oracle {
        Some(oracle) if *oracle == alive => println!("the same paths exist as in the oracle"),
        Some(oracle) => {
            let wrong: Vec<_> = oracle.symmetric_difference(&alive).take(5).collect();
            return Err(format!("the oracle has other paths alive: {wrong:?}").into());
        }
        None => println!("no oracle to compare with"),
    }
    broker.close()?;
    Ok(format!("ok: {events} events, {} streams, {} paths alive", all.len(), alive.len()))
}

/// Whether the path exists after this event.
fn exists(_: bool, event: ConsumedRecord<'_>) -> bool {
    event.event_type() != Some("D")
}

fn parse(text: &str) -> Outcome<Vec<Change>> {
    let change = |(number, line): (usize, &str)| {
        let wrong = || format!("line {} is no change: {line:?}", number + 1);
        let mut fields = line.splitn(4, '\t');
        let mut next = || fields.next().ok_or_else(wrong);
        let (commit, time, op, path) = (next()?, next()?, next()?, next()?);
        let time = time.parse().map_err(|_| wrong())?;
        if !["A", "M", "D"].contains(&op) {
            return Err(wrong().into());
        }
        Ok(Change { commit: commit.into(), time, op: op.into(), path: path.into() })
    };
    text.lines().enumerate().map(change).collect()
}

/// A history of 300 paths, and the paths that exist at its end.
fn made_up() -> (Vec<Change>, Option<BTreeSet<String>>) {
    let (mut changes, mut alive, mut state) = (Vec::new(), BTreeSet::new(), 1u64);
    for n in 0..6_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let path = format!("src/module_{}/file_{}.rs", (state >> 33) % 20, (state >> 40) % 15);
        let op = match (alive.contains(&path), state >> 60) {
            (false, _) => "A",
            (true, 0..3) => "D",
            (true, _) => "M",
        };
        if op == "D" {
            alive.remove(&path);
        } else {
            alive.insert(path.clone());
        }
        let commit = format!("commit {}", n / 3);
        changes.push(Change { commit, time: 1_700_000_000 + n, op: op.to_string(), path });
    }
    (changes, Some(alive))
}
