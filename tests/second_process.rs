//! A directory and other processes: one that opens it at the same time, one that is killed while it
//! has it open, and those that other threads start while it is closed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{assert_filled, fill, open_dir, tree};
use quipu::{Error, TopicConfig};
use tempfile::tempdir;

/// How long the refusal of a second opener may take.
const AT_ONCE: Duration = Duration::from_millis(10);

#[test]
fn a_second_opening_in_another_process_is_refused_at_once_and_changes_nothing() {
    let dir = tempdir().unwrap();
    let broker = open_dir(dir.path()).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    fill(&broker, &topic.partition(0).unwrap(), 5);
    let before = tree(dir.path());
    let output = child("try_to_open", dir.path()).output().unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    let answer = answer.lines().find_map(|line| line.split_once("ANSWER ").map(|(_, rest)| rest)).unwrap();
    let (micros, path) = answer.split_once(' ').unwrap();
    assert_eq!(Path::new(path), dir.path());
    assert!(Duration::from_micros(micros.parse().unwrap()) < AT_ONCE, "{micros} us");
    assert_eq!(tree(dir.path()), before);
    broker.close().unwrap();
}

#[test]
fn the_lock_is_free_after_a_kill() {
    let dir = tempdir().unwrap();
    let mut holder =
        child("hold_open", dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("HELD")), "the other process holds the directory");
    assert!(matches!(open_dir(dir.path()), Err(Error::AlreadyOpen { .. })));
    holder.kill().unwrap();
    holder.wait().unwrap();
    let broker = open_dir(dir.path()).unwrap();
    assert!(!broker.open_report().clean);
    assert_filled(
        &broker.topic("t").unwrap().partition(0).unwrap(),
        4,
        "the records that the killed process acknowledged",
    );
}

/// A child process that was just forked has a copy of every open file, the lock's too, until it
/// runs its program.
#[test]
fn a_directory_is_free_after_a_close_while_other_threads_start_processes() {
    let dir = tempfile::tempdir().unwrap();
    let stop = Arc::new(Mutex::new(false));
    let starters: Vec<_> = (0..2)
        .map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                while !*stop.lock().unwrap() {
                    std::process::Command::new("true").status().unwrap();
                }
            })
        })
        .collect();
    for round in 0..60 {
        let broker = open_dir(dir.path()).unwrap_or_else(|e| panic!("round {round}: {e}"));
        broker.close().unwrap();
    }
    *stop.lock().unwrap() = true;
    starters.into_iter().for_each(|starter| starter.join().unwrap());
}

/// This test program, running one of the tests below as another process would.
fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("QUIPU_TEST_DIRECTORY", dir);
    command
}

fn childs_directory() -> Option<PathBuf> {
    std::env::var_os("QUIPU_TEST_DIRECTORY").map(PathBuf::from)
}

/// Does nothing unless started by a test above.
#[test]
fn try_to_open() {
    let Some(dir) = childs_directory() else { return };
    let attempt = |_| {
        let began = Instant::now();
        match open_dir(&dir) {
            Err(Error::AlreadyOpen { path, .. }) => (began.elapsed(), path),
            other => panic!("{other:?}"),
        }
    };
    let (took, path) = (0..20).map(attempt).min().unwrap();
    println!("\nANSWER {} {}", took.as_micros(), path.display());
}

/// Does nothing unless started by a test above.
#[test]
fn hold_open() {
    let Some(dir) = childs_directory() else { return };
    let broker = open_dir(&dir).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    fill(&broker, &topic.partition(0).unwrap(), 4);
    println!("\nHELD");
    // Until it is killed: nothing is written to its input.
    let _ = std::io::stdin().read(&mut [0]);
}
