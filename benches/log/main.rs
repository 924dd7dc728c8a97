//! Measures the log next to a lower bound of the cost. `cargo bench` prints ratios, because they
//! mean the same on every machine.
//!
//! The *limit* of each measurement is that lower bound: the same records through as little code as
//! possible (encode, `lz4_flex`, `crc32fast`, a positional write or a map, and nothing else),
//! measured in turns in the same run. So the result is a share of the limit. BENCHMARKS.md has the
//! figures.
//!
//! ```text
//! cargo bench                            everything
//! cargo bench -- append                  names that contain "append"; several arguments: any of them
//! cargo bench -- --quick                 small sizes: does it run, and roughly how fast?
//! cargo bench -- --repeat 9              more repetitions; the default is 5
//! cargo bench -- --list                  the names
//! ```

mod append;
mod archive;
mod args;
mod compact;
mod durable;
mod groups;
mod limit;
mod lookup;
mod open;
mod partitions;
mod random;
mod records;
mod scan;
mod scratch;
mod ship;
mod streams;
mod suite;
mod tail;
mod together;

use std::process::ExitCode;

use self::args::Args;
use self::suite::Suite;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(complaint) => {
            eprintln!("{complaint}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(dir) = &args.fill {
        open::fill_until_killed(dir, args.sizes().open_bytes);
    }
    let mut suite = Suite::new(&args);
    append::run(&mut suite);
    durable::run(&mut suite);
    scan::run(&mut suite);
    ship::run(&mut suite);
    compact::run(&mut suite);
    archive::run(&mut suite);
    tail::run(&mut suite);
    random::run(&mut suite);
    groups::run(&mut suite);
    streams::run(&mut suite);
    together::run(&mut suite);
    partitions::run(&mut suite);
    lookup::run(&mut suite);
    open::run(&mut suite);
    suite.finish()
}
