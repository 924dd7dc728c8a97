//! A process is killed again and again, at any moment: every record that it was told is stored is
//! there.
//!
//! SIGKILL ends the process only: the machine and its page cache continue. What a power loss
//! removes is tested on the simulated disk (`behaviour/crash_at_every_operation.rs`) and, from
//! outside, with the same program.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{Random, thorough};
use tempfile::tempdir;

/// The example `torture`, built with the profile of this test.
fn torture() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
        let profile = deps.parent().unwrap();
        let program = profile.join("examples").join(format!("torture{}", std::env::consts::EXE_SUFFIX));
        if !program.is_file() {
            // The examples are built with the tests, but not with one test alone.
            let mut cargo = Command::new(env!("CARGO"));
            cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args([
                "build",
                "--example",
                "torture",
                "--target-dir",
            ]);
            cargo.arg(profile.parent().unwrap());
            if profile.file_name().is_some_and(|name| name == "release") {
                cargo.arg("--release");
            }
            assert!(cargo.status().unwrap().success(), "the example cannot be built");
        }
        program
    })
}

/// When to kill.
enum Moment {
    /// Once so many records have been acknowledged.
    Acknowledged(u64),
    /// After so much time, whatever it is doing then.
    After(Duration),
}

/// Topic, partition and offset of each record, and its hash.
type Records = HashMap<(String, String, u64), String>;

/// The promises so far.
#[derive(Default)]
struct Promises {
    records: Records,
    /// By topic and partition, below which offset records may vanish.
    may_begin: HashMap<(String, String), u64>,
    /// By topic and partition, the last acknowledged commit.
    committed: HashMap<(String, String), u64>,
}

fn promise(line: &str) -> ((String, String, u64), String) {
    let mut words = line.split(' ').skip(1);
    let mut word = || words.next().unwrap().to_string();
    let place = (word(), word(), word().parse().unwrap());
    (place, word())
}

/// Runs the program until the moment, kills it, and notes what it acknowledged until it died.
/// Returns how much that was.
fn run_and_kill(args: &[&str], moment: Moment, promises: &mut Promises) -> u64 {
    let mut child = Command::new(torture()).args(args).stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = channel();
    let reader = thread::spawn(move || {
        for line in out.split(b'\n') {
            let Ok(line) = line else { break };
            if sender.send(String::from_utf8(line).unwrap()).is_err() {
                break;
            }
        }
    });
    let mut told = 0;
    let mut note = |line: &str| {
        if line.starts_with("A ") {
            let (place, hash) = promise(line);
            let earlier = promises.records.insert(place, hash);
            assert_eq!(earlier, None, "an offset was given out twice: {line}");
            told += 1;
        } else if let Some(announced) = line.strip_prefix("T ") {
            let mut words = announced.split(' ').map(str::to_string);
            let place = (words.next().unwrap(), words.next().unwrap());
            let offset: u64 = words.next().unwrap().parse().unwrap();
            let bound = promises.may_begin.entry(place).or_default();
            *bound = offset.max(*bound);
        } else if let Some(committed) = line.strip_prefix("C followers ") {
            let mut words = committed.split(' ').map(str::to_string);
            let place = (words.next().unwrap(), words.next().unwrap());
            let offset = words.next().unwrap().parse().unwrap();
            promises.committed.insert(place, offset);
        } else {
            // A kill in the middle of a write may tear the line; that record was not acknowledged.
            assert!(line.starts_with("W cut"), "{line}");
        }
        told
    };
    match moment {
        Moment::Acknowledged(count) => {
            while let Ok(line) = lines.recv() {
                if note(&line) >= count {
                    break;
                }
            }
        }
        Moment::After(time) => {
            let until = Instant::now() + time;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                match lines.recv_timeout(left) {
                    Ok(line) => drop(note(&line)),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Promises that were on their way count as well.
    while let Ok(line) = lines.recv() {
        note(&line);
    }
    reader.join().unwrap();
    told
}

/// Every promise has its record, and nothing else is wrong.
fn check(dir: &str, promises: &Promises, case: &str) {
    let output = Command::new(torture()).args(["dump", dir]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{case}: {:?}\n{text}", output.status);
    let mut found = Records::new();
    let mut last = HashMap::new();
    let mut committed = HashMap::new();
    for line in text.lines() {
        if line.starts_with("R ") {
            let (place, hash) = promise(line);
            let partition = (place.0.clone(), place.1.clone());
            let bound = promises.may_begin.get(&partition).copied().unwrap_or(0);
            let next = last.entry(partition).or_insert_with(|| place.2.min(bound));
            assert_eq!(place.2, *next, "{case}: offsets follow each other: {line}");
            *next += 1;
            found.insert(place, hash);
        } else if let Some(found) = line.strip_prefix("G followers ") {
            let mut words = found.split(' ').map(str::to_string);
            let place = (words.next().unwrap(), words.next().unwrap());
            committed.insert(place, words.next().unwrap().parse::<u64>().unwrap());
        } else {
            assert!(!line.starts_with("E "), "{case}: {line}");
        }
    }
    for (place, offset) in &promises.committed {
        let found = committed.get(place).copied().unwrap_or(0);
        assert!(found >= *offset, "{case}: {place:?} was committed up to {offset} and is at {found}");
    }
    for (place, hash) in &promises.records {
        let may_be_gone =
            promises.may_begin.get(&(place.0.clone(), place.1.clone())).is_some_and(|b| place.2 < *b);
        if may_be_gone && !found.contains_key(place) {
            continue;
        }
        assert_eq!(found.get(place), Some(hash), "{case}: {place:?} was acknowledged");
    }
}

/// Kills `rounds` runs of one command on one directory, most of them before they have acknowledged
/// more than so much. Returns how many acknowledged something before they died, how much all of
/// them acknowledged, and how often logs were truncated.
fn torment(command: &str, more: &[&str], rounds: u64, most: u64, seed: u64) -> (u64, usize, u32) {
    let dir = tempdir().unwrap();
    let path = dir.path().join("data");
    let path = path.to_str().unwrap();
    let mut random = Random(seed);
    let mut promises = Promises::default();
    let mut told = 0;
    for round in 0..rounds {
        let run_seed = format!("{}", seed + round);
        let mut args = vec![command, path, &run_seed, "1000000"];
        args.extend(more);
        // Most die in the middle of their work, some while they open what the last one left.
        let moment = match random.below(20) {
            0 => Moment::After(Duration::from_micros(random.below(8_000))),
            _ => Moment::Acknowledged(1 + random.below(most)),
        };
        told += u64::from(run_and_kill(&args, moment, &mut promises) > 0);
        if round % 10 == 9 || round + 1 == rounds {
            check(path, &promises, &format!("{command}, round {round}"));
        }
    }
    let topics: HashSet<_> =
        promises.records.keys().map(|(topic, partition, _)| (topic, partition)).collect();
    assert_eq!(topics.len(), 4, "two topics of two partitions each");
    let broker = quipu::Broker::open(path).unwrap();
    let partitions = broker.topics().into_iter().flat_map(|topic| topic.partitions());
    (told, promises.records.len(), partitions.map(|partition| partition.epoch()).sum())
}

#[test]
fn a_writer_killed_a_hundred_times_loses_no_acknowledged_record() {
    let (told, promises, _) = torment("write", &[], 100, 25, 1000);
    assert!(told >= 90, "{told} of 100 runs acknowledged something");
    assert!(promises > 1000, "{promises}");
}

#[test]
fn killed_writers_that_share_syncs_lose_no_acknowledged_record() {
    let (told, promises, _) = torment("gwrite", &["8"], 20, 25, 2000);
    assert!(told >= 15 && promises > 150, "{told} of 20 runs acknowledged {promises} operations");
}

#[test]
fn a_killed_writer_with_maintenance_loses_no_acknowledged_record() {
    let rounds = if thorough() { 400 } else { 20 };
    let (told, promises, cuts) = torment("maint", &[], rounds, 250, 3000);
    assert!(
        told >= rounds * 3 / 4 && promises > 1000,
        "{told} of {rounds} runs acknowledged {promises} operations"
    );
    assert!(cuts > 20, "logs were truncated {cuts} times");
}
