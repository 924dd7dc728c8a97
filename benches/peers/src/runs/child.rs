//! A process that measures: this program, started again with a task.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The end of its messages that an error shows.
const SHOWN: usize = 400;

/// When a process is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It ends by itself, successfully.
    End,
    /// It is killed as soon as it has printed its outcome.
    Outcome,
}

/// Starts this program with `word` and a task, and returns the outcome that it prints as a line of
/// JSON. Libraries print, too: the outcome is the line that is one.
///
/// # Errors
///
/// A process that ends otherwise, or takes longer than `limit`, which is killed.
pub fn run<T: Serialize, O: DeserializeOwned>(
    word: &str,
    task: &T,
    until: Until,
    limit: Duration,
) -> Result<O, String> {
    let text = serde_json::to_string(task).expect("a task");
    let mut child = Command::new(std::env::current_exe().map_err(|e| e.to_string())?)
        .args([word, &text])
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let lines = lines(&mut child);
    let messages = messages(&mut child);
    let (outcome, is_over) = wait(&mut child, &lines, until, limit);
    let status = child.wait().map_err(|e| e.to_string())?;
    let messages = messages.join().unwrap_or_default();
    if is_over {
        return Err(format!("killed after {} s", limit.as_secs()));
    }
    if until == Until::End && !status.success() {
        return Err(failure(status, &messages));
    }
    outcome.ok_or_else(|| "no outcome".to_owned())
}

/// Returns the outcome, and whether the process was killed because it took too long.
fn wait<O: DeserializeOwned>(
    child: &mut Child,
    lines: &Receiver<String>,
    until: Until,
    limit: Duration,
) -> (Option<O>, bool) {
    let (start, mut outcome) = (Instant::now(), None);
    loop {
        match lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
            Ok(line) => {
                let Ok(found) = serde_json::from_str(&line) else { continue };
                outcome = Some(found);
                if until == Until::Outcome {
                    let _ = child.kill();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return (outcome, false),
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                return (outcome, true);
            }
        }
    }
}

/// The lines of its output, as they come. The channel closes when the output does.
fn lines(child: &mut Child) -> Receiver<String> {
    let output = child.stdout.take().expect("its output");
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

fn messages(child: &mut Child) -> std::thread::JoinHandle<String> {
    let mut output = child.stderr.take().expect("its messages");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = output.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The status, and the last messages without the advice that follows a panic.
fn failure(status: ExitStatus, messages: &str) -> String {
    let lines = messages.lines().filter(|line| !line.starts_with("note: run with"));
    let text = lines.collect::<Vec<_>>().join(" ");
    let from = text.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
    format!("{status}: {}", &text[from..])
}
