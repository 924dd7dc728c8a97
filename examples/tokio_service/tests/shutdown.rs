//! The service is ended by a signal while clients send, and counts afterwards.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

/// Sends the signal as soon as the service has printed its first line. Returns what it printed.
fn ended_by(signal: &str) -> String {
    let mut service =
        Command::new(env!("CARGO_BIN_EXE_tokio_service")).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(service.stdout.take().unwrap());
    let mut printed = String::new();
    out.read_line(&mut printed).unwrap();
    // So that there is something to lose.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let kill = Command::new("kill").arg(signal).arg(service.id().to_string()).status().unwrap();
    assert!(kill.success());
    out.read_to_string(&mut printed).unwrap();
    let status = service.wait().unwrap();
    assert!(status.success(), "{status}: {printed}");
    printed
}

#[test]
fn sigterm_ends_it_without_a_loss() {
    assert!(ended_by("-TERM").lines().last().unwrap().starts_with("ok: "));
}

#[test]
fn ctrl_c_ends_it_without_a_loss() {
    assert!(ended_by("-INT").lines().last().unwrap().starts_with("ok: "));
}
