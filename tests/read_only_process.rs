//! A reader in this process beside an owner in another, which is killed and started again.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{open_dir, small, thorough, tree};
use quipu::{Broker, Durability, Error, ProducerConfig, Reader, Record, Start};
use tempfile::tempdir;

/// How long a record that was acknowledged may take to arrive on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// An owner in another process.
struct Owner {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Owner {
    fn start(dir: &Path, durability: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "append_until_killed", "--nocapture", "--test-threads=1"])
            .env("QUIPU_TEST_DIRECTORY", dir)
            .env("QUIPU_TEST_DURABILITY", durability)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Owner { child, lines }
    }

    /// Waits for the next report of the log end that was acknowledged.
    fn acknowledged(&mut self) -> u64 {
        let of_line = |line: String| line.split_once("END ").and_then(|(_, end)| end.trim().parse().ok());
        self.lines.find_map(|line| of_line(line.unwrap())).expect("the owner reports its end")
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Reads until the log end, and checks that no record is missing, twice, or another one.
fn read_up_to(reader: &mut Reader, read: &mut u64, end: u64) {
    let began = Instant::now();
    while *read < end {
        let records = reader.poll(Duration::from_millis(100)).unwrap();
        assert!(records.skipped().is_empty(), "{:?}", records.skipped());
        for record in &records {
            assert_eq!(record.offset(), *read);
            assert_eq!(record.value(), Some(read.to_string().as_bytes()));
            *read += 1;
        }
        assert!(began.elapsed() < PATIENCE, "{read} of {end} records");
    }
}

#[test]
fn an_owner_is_killed_and_started_many_times_under_the_eyes_of_a_reader() {
    let rounds = if thorough() { 500 } else { 8 };
    for durability in ["os", "sync"] {
        let dir = tempdir().unwrap();
        let mut owner = Owner::start(dir.path(), durability);
        owner.acknowledged();
        let seen = Broker::open_read_only(dir.path()).unwrap();
        let mut reader = seen.reader(["t"], Start::Beginning).unwrap();
        let mut read = 0;
        for round in 0..rounds {
            for _ in 0..round % 4 {
                read_up_to(&mut reader, &mut read, owner.acknowledged());
            }
            let end = owner.acknowledged();
            owner.kill();
            // All that was acknowledged is found, with or without an owner.
            if round % 2 == 0 {
                read_up_to(&mut reader, &mut read, end);
            }
            owner = Owner::start(dir.path(), durability);
            let end = end.max(owner.acknowledged());
            read_up_to(&mut reader, &mut read, end);
        }
        owner.kill();
    }
}

#[test]
fn an_owner_is_named_where_its_directory_is_opened_again() {
    let dir = tempdir().unwrap();
    let mut owner = Owner::start(dir.path(), "os");
    owner.acknowledged();
    let process = owner.child.id();
    let error = open_dir(dir.path()).unwrap_err();
    let Error::AlreadyOpen { owner: Some(named), .. } = &error else { panic!("{error}") };
    assert_eq!(named.process, process);
    assert!(error.to_string().contains(&format!("process {process}")), "{error}");
    let seen = Broker::open_read_only(dir.path()).unwrap();
    assert_eq!(seen.owner().as_ref(), Some(named));
    owner.kill();
    assert_eq!(seen.owner(), None);
}

#[test]
fn reading_changes_no_file() {
    let dir = tempdir().unwrap();
    let mut owner = Owner::start(dir.path(), "os");
    owner.acknowledged();
    owner.kill();
    let before = tree(dir.path());
    for _ in 0..2 {
        let seen = Broker::open_read_only(dir.path()).unwrap();
        let read: usize = seen
            .reader(["t"], Start::Beginning)
            .unwrap()
            .to_end()
            .map(|records| records.unwrap().len())
            .sum();
        assert!(read > 0);
        seen.stats();
        seen.close();
    }
    assert_eq!(tree(dir.path()), before);
    // The reader holds no lock.
    let seen = Broker::open_read_only(dir.path()).unwrap();
    open_dir(dir.path()).unwrap().close().unwrap();
    drop(seen);
}

/// Does nothing unless started by a test above: appends until it is killed.
#[test]
fn append_until_killed() {
    let Some(dir) = std::env::var_os("QUIPU_TEST_DIRECTORY").map(PathBuf::from) else { return };
    let is_sync = std::env::var_os("QUIPU_TEST_DURABILITY").is_some_and(|durability| durability == "sync");
    let durability = if is_sync { Durability::Sync } else { Durability::Os };
    let broker = Broker::open(&dir).unwrap();
    let topic = broker.topic_or_create("t", small().durability(durability)).unwrap();
    let producer = broker.producer_with(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
    let mut end = topic.partition(0).unwrap().bounds().unwrap().log_end.get();
    loop {
        for _ in 0..20 {
            producer.send(&topic, Record::new(end.to_string())).unwrap().wait().unwrap();
            end += 1;
        }
        println!("\nEND {end}");
    }
}
