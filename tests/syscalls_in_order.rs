//! The calls that a broker makes to a real operating system, seen from outside under strace, where
//! there is one. The simulated disk cannot show whether a sync of a file or of a directory reaches
//! the system at all.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{open_dir, send, small};
use quipu::Durability;
use tempfile::tempdir;

const ACKNOWLEDGED: &str = "ACKNOWLEDGED";

/// The calls that matter, in their order.
#[derive(Debug, PartialEq)]
enum Call {
    MakeDir(PathBuf),
    Create(PathBuf),
    Rename(PathBuf, PathBuf),
    Write(PathBuf),
    SyncData(PathBuf),
    /// `fsync`: of a file too.
    Sync(PathBuf),
    /// The program got the acknowledgement of a record.
    Acknowledged,
}

/// The program that is looked at. Does nothing unless it is started by the test below.
#[test]
fn writer() {
    let Some(dir) = std::env::var_os("QUIPU_TEST_DIRECTORY") else { return };
    // Two of the directories above are missing.
    let dir = Path::new(&dir).join("one/two");
    for round in 0..2 {
        let broker = open_dir(&dir).unwrap();
        let topic = broker.ensure_topic("t", small().durability(Durability::Sync)).unwrap();
        let partition = topic.partition(0).unwrap();
        // Enough to begin a second segment.
        for n in 0..5 {
            send(&broker, &partition, &format!("{n:>400}")).unwrap();
            println!("{ACKNOWLEDGED} {n}");
        }
        if round == 0 {
            broker.close().unwrap();
        }
    }
}

/// The calls of [`writer`] to the system in a directory; `None` where it cannot be looked at.
fn trace(dir: &Path) -> Option<Vec<Call>> {
    let log = dir.join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-s", "64", "-o"]).arg(&log).args(["-e", "signal=none", "-e"]).arg(
        "trace=?mkdir,?mkdirat,?open,openat,?rename,?renameat,?renameat2,write,pwrite64,fsync,fdatasync",
    );
    strace.arg(std::env::current_exe().unwrap());
    strace.args(["--exact", "writer", "--nocapture", "--test-threads=1"]);
    strace.env("QUIPU_TEST_DIRECTORY", dir).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(output) = strace.output() else {
        println!("SKIPPED: no strace here, the calls to the system were NOT looked at");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() && (said.contains("ptrace") || said.contains("PTRACE")) {
        println!("SKIPPED: strace may not be used here, the calls to the system were NOT looked at: {said}");
        return None;
    }
    assert!(output.status.success(), "{said}");
    let lines = fs::read_to_string(log).unwrap();
    Some(lines.lines().filter_map(call).collect())
}

fn call(line: &str) -> Option<Call> {
    // "<process> <name>(<arguments>) = <result>"; one that failed has done nothing.
    let (_, rest) = line.split_once(' ')?;
    let (name, rest) = rest.trim_start().split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with('-') {
        return None;
    }
    let quoted: Vec<PathBuf> = arguments.split('"').skip(1).step_by(2).map(PathBuf::from).collect();
    let file = || {
        let (_, path) = arguments.split_once('<')?;
        Some(PathBuf::from(path.split_once('>')?.0))
    };
    match name {
        "mkdir" | "mkdirat" => Some(Call::MakeDir(quoted.first()?.clone())),
        "open" | "openat" if arguments.contains("O_CREAT") => Some(Call::Create(quoted.first()?.clone())),
        "rename" | "renameat" | "renameat2" => {
            Some(Call::Rename(quoted.first()?.clone(), quoted.get(1)?.clone()))
        }
        "write" if arguments.contains(ACKNOWLEDGED) => Some(Call::Acknowledged),
        "write" | "pwrite64" => Some(Call::Write(file()?)),
        "fdatasync" => Some(Call::SyncData(file()?)),
        "fsync" => Some(Call::Sync(file()?)),
        _ => None,
    }
}

/// The rule for each call before the next acknowledgement.
fn check(calls: &[Call], dir: &Path) {
    let ours = |path: &Path| path.starts_with(dir) && path != dir.join("trace");
    for (at, call) in calls.iter().enumerate() {
        let later = &calls[at + 1..];
        let upto = later.iter().position(|call| *call == Call::Acknowledged).unwrap_or(later.len());
        let before_the_next = &later[..upto];
        let syncs_dir_of = |path: &Path, calls: &[Call]| {
            let parent = path.parent().unwrap();
            calls.iter().any(|call| matches!(call, Call::Sync(synced) if synced == parent))
        };
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        match call {
            Call::MakeDir(path) if ours(path) => {
                assert!(syncs_dir_of(path, before_the_next), "{path:?} was made, and its parent not synced");
            }
            // Derived files and the lock file may be lost.
            Call::Create(path) if ours(path) && path.extension().is_some_and(|e| e == "log") => {
                assert!(
                    syncs_dir_of(path, before_the_next),
                    "{path:?} was created, and its directory not synced"
                );
            }
            Call::Rename(from, to) if ours(to) => {
                assert_eq!(*from, to.with_file_name(format!("{}.tmp", name(to))));
                let written =
                    calls[..at].iter().rposition(|call| matches!(call, Call::Write(path) if path == from));
                let synced = calls[written.unwrap()..at]
                    .iter()
                    .any(|call| matches!(call, Call::SyncData(path) if path == from));
                assert!(synced, "{from:?} was renamed before it was synced");
                assert!(
                    syncs_dir_of(to, before_the_next),
                    "{to:?} was replaced, and its directory not synced"
                );
            }
            Call::Write(path) if ours(path) && path.extension().is_some_and(|e| e == "log") => {
                let synced = before_the_next
                    .iter()
                    .any(|call| matches!(call, Call::SyncData(synced) if synced == path));
                assert!(synced || upto == later.len(), "{path:?} was acknowledged before it was synced");
            }
            _ => {}
        }
    }
}

#[test]
fn acknowledged_records_and_the_names_of_their_files_were_synced() {
    let dir = tempdir().unwrap();
    // As the system names it.
    let dir = dir.path().canonicalize().unwrap();
    let Some(calls) = trace(&dir) else { return };
    let count = |is_it: &dyn Fn(&Call) -> bool| calls.iter().filter(|call| is_it(call)).count();
    let ends = |path: &Path, end: &str| path.to_string_lossy().ends_with(end);
    // It is the program that is meant.
    assert_eq!(count(&|call| *call == Call::Acknowledged), 10);
    let made = |what: &str| count(&|call| matches!(call, Call::MakeDir(path) if *path == dir.join(what)));
    for parent in ["one", "one/two", "one/two/topics", "one/two/topics/t", "one/two/topics/t/0"] {
        assert_eq!(made(parent), 1, "{parent}");
    }
    assert!(count(&|call| matches!(call, Call::Create(path) if ends(path, ".log"))) >= 3, "segments");
    assert!(count(&|call| matches!(call, Call::Rename(_, to) if ends(to, "/manifest"))) >= 3);
    assert!(count(&|call| matches!(call, Call::Write(path) if ends(path, ".log"))) >= 10);
    assert!(count(&|call| matches!(call, Call::SyncData(path) if ends(path, ".log"))) >= 10);
    check(&calls, &dir);
    println!("{} calls to the system were looked at", calls.len());
}
