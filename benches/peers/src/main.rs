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
mod scaling;
mod soak;
mod workloads;

use std::process::ExitCode;

use serde::Serialize;

use self::args::{Args, Command};

/// The first argument of a process that measures: of a contender, or a point of a law; and of one
/// that fills a log until it is killed.
const TASK: &str = "--task";
const POINT: &str = "--point";
const UNTIL_KILLED: &str = "--until-killed";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let first = words.next().unwrap_or_default();
    if [TASK, POINT, UNTIL_KILLED].contains(&first.as_str()) {
        measure(&first, &words.next().unwrap_or_default());
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
    let is_whole = match args.command {
        Command::Compare => {
            let results = runs::run(&args, |results| report::save(&args, results));
            report::print(&args, &results);
            results.failed.is_empty()
        }
        Command::Scaling => scaling::run(&args),
        Command::Soak => {
            soak::run(&args);
            true
        }
    };
    if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does the task, and prints its outcome.
fn measure(word: &str, task: &str) {
    const JSON: &str = "a task in JSON";
    match word {
        TASK => print(&workloads::run(serde_json::from_str(task).expect(JSON))),
        POINT => print(&scaling::point(&serde_json::from_str(task).expect(JSON))),
        _ => scaling::until_killed(&serde_json::from_str(task).expect(JSON)),
    }
}

fn print(outcome: &impl Serialize) {
    println!("{}", serde_json::to_string(outcome).expect("numbers"));
}
