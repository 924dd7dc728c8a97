//! A system that refuses threads, for example by a limit of processes, is an error of opening. A
//! program of its own: the limit is set in a child process, which runs one test on its main thread.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{env, fs, thread};

use quipu::testing::ManualClock;
use quipu::{Broker, BrokerConfig, Error, IoAction};

/// An ordinary user: the limit does not hold for root.
const ORDINARY_USER: u32 = 65534;

#[test]
fn a_system_that_refuses_threads_is_an_error_of_opening() {
    // Where another user may run it.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = dir.path().join("program");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |command: &mut Command| {
        // One of the two, depending on the shell.
        let script = "ulimit -u 0 2>/dev/null || ulimit -p 0; exec \"$0\" --exact opens --ignored --nocapture --test-threads=1";
        let command = command.args(["-c", script]).arg(&program);
        command.env("QUIPU_DIR", dir.path()).current_dir("/").output().unwrap()
    };
    let is_root = {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(&program).unwrap().uid() == 0
    };
    let mut shell = Command::new("sh");
    let output = if is_root { run(shell.uid(ORDINARY_USER).gid(ORDINARY_USER)) } else { run(&mut shell) };
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("REFUSED"), "{told}");
}

/// Run by the other test, in a process that may start no thread.
#[test]
#[ignore = "only where threads are refused"]
fn opens() {
    assert!(thread::Builder::new().spawn(|| {}).is_err(), "this system starts threads all the same");
    let dir = std::path::PathBuf::from(env::var_os("QUIPU_DIR").unwrap()).join("data");
    for _ in 0..2 {
        let error = Broker::open(&dir).unwrap_err();
        let Error::Io { action: IoAction::StartThread, path, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*path, dir);
        assert!(error.to_string().starts_with("cannot start a thread for "), "{error}");
    }
    assert!(matches!(Broker::in_memory(), Err(Error::Io { .. })));
    // Nothing stays locked, and a broker without threads works.
    let broker = BrokerConfig::new().clock(ManualClock::new()).open(&dir).unwrap();
    broker.close().unwrap();
    println!("REFUSED");
}
