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

/// The first argument of a process that measures.
const TASK: &str = "--task";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(TASK) {
        let task = serde_json::from_str(&words.next().expect("a task")).expect("a task in JSON");
        println!("{}", serde_json::to_string(&workloads::run(task)).expect("numbers"));
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
        for (name, title) in args.known() {
            println!("{name:<24} {title}");
        }
        return ExitCode::SUCCESS;
    }
    let results = runs::run(&args, |results| report::save(&args, results));
    report::print(&args, &results);
    if results.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
