//! `quipu`: looks into the directory of a broker and operates it, from a shell.
//!
//! Thin: everything that it knows about a directory comes from the public API of the library. Each
//! command is a file in `commands`; the files beside this one are shared by the commands.

mod commands;
mod dump;
mod escape;
mod failure;
mod lines;
mod open;
mod output;
mod place;
mod progress;
mod report;
mod settings;
mod table;
mod time;

use std::process::ExitCode;

use clap::Parser;

use self::commands::Command;
use self::failure::Failure;
use self::output::{Common, Output};

/// Looks into the directory of a Quipu broker, and operates it.
///
/// DIR is the directory of a broker. Commands that only look work also while a program has it open;
/// those that write take its lock.
#[derive(Parser)]
#[command(name = "quipu", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, and nothing was found; 1 an error; 2 wrong arguments; \
                          10 damage was found; 11 the directory is already open.";

fn main() -> ExitCode {
    let Arguments { common, command } = Arguments::parse();
    let mut out = Output::new(&common);
    let done = command.run(&mut out).and_then(|()| out.finish());
    match done {
        Ok(()) if out.has_damage() => ExitCode::from(failure::DAMAGE),
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&mut out, &failure),
    }
}

/// Prints the output so far, then the failure, and returns its exit code.
fn report(out: &mut Output, failure: &Failure) -> ExitCode {
    if !failure.is_closed_pipe() {
        // The failure that is reported is the first one.
        let _ = out.finish();
        out.warn(&failure.to_string());
        if let Some(advice) = failure.advice() {
            out.warn(advice);
        }
    }
    ExitCode::from(failure.exit_code())
}
