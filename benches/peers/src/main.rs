//! Measures Quipu beside other logs and stores, and beside the simplest logs that work.
//!
//! See README.md. The program starts itself again for each measurement: a contender has a process
//! of its own.

#![deny(unsafe_code)]

mod args;
mod contender;
mod contenders;
mod digest;
mod latencies;
mod plan;
mod process;
mod records;
mod report;
mod runs;
mod workloads;

use std::process::ExitCode;

use self::args::Args;
use self::workloads::Task;

/// The first argument of a process that measures.
const TASK: &str = "--task";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(TASK) {
        let task: Task = serde_json::from_str(&words.next().expect("a task")).expect("a task in JSON");
        let outcome = workloads::run(task);
        println!("{}", serde_json::to_string(&outcome).expect("numbers"));
        return ExitCode::SUCCESS;
    }
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    if args.list {
        for row in plan::rows() {
            println!("{:<24} {}", row.key, row.title);
        }
        return ExitCode::SUCCESS;
    }
    let results = runs::run(&args);
    report::write(&args, &results);
    if results.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
