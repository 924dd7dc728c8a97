//! The command line.

use std::path::PathBuf;
use std::time::Duration;

/// The command line.
pub(crate) struct Args {
    pub(crate) filters: Vec<String>,
    pub(crate) quick: bool,
    pub(crate) repeat: usize,
    pub(crate) list: bool,
    /// For the bench itself: fill a broker in this directory, print a line, and wait to be killed.
    pub(crate) fill: Option<FillArgs>,
}

/// The arguments of the process that will be killed.
#[derive(Clone)]
pub(crate) struct FillArgs {
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u32,
}

/// The amount of work of a repetition.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Distinct records of each kind, in bytes; longer runs go through them again.
    pub(crate) records_bytes: usize,
    pub(crate) append_bytes: u64,
    pub(crate) scan_bytes: u64,
    pub(crate) open_bytes: u64,
    /// How long one repetition of a measurement of latencies takes.
    pub(crate) duration: Duration,
    pub(crate) random_reads: usize,
    pub(crate) lookup_batches: usize,
    /// Of ten events each; ten times as many of one.
    pub(crate) streams: u64,
}

impl Args {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// The reason why they cannot be parsed.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Args { filters: Vec::new(), quick: false, repeat: 0, list: false, fill: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                // Cargo adds it.
                "--bench" => {}
                "--quick" => args.quick = true,
                "--list" => args.list = true,
                "--repeat" => args.repeat = number(words.next(), "--repeat")?,
                FILL => {
                    let dir = words.next().ok_or("--fill needs a directory")?.into();
                    args.fill = Some(FillArgs { dir, segment_bytes: number(words.next(), FILL)? });
                }
                option if option.starts_with('-') => {
                    return Err(format!("unknown argument: {option}\n{USAGE}"));
                }
                filter => args.filters.push(filter.to_string()),
            }
        }
        if args.repeat == 0 {
            args.repeat = if args.quick { 1 } else { 5 };
        }
        Ok(args)
    }

    pub(crate) fn sizes(&self) -> Sizes {
        let (mib, seconds) = (1 << 20, Duration::from_secs);
        match self.quick {
            false => Sizes {
                records_bytes: 32 << 20,
                append_bytes: 256 * mib,
                scan_bytes: 256 * mib,
                open_bytes: 1000 * mib,
                duration: seconds(1),
                random_reads: 50_000,
                lookup_batches: 1_000_000,
                streams: 1_000_000,
            },
            true => Sizes {
                records_bytes: 4 << 20,
                append_bytes: 16 * mib,
                scan_bytes: 16 * mib,
                open_bytes: 64 * mib,
                duration: seconds(1) / 5,
                random_reads: 2_000,
                lookup_batches: 20_000,
                streams: 10_000,
            },
        }
    }
}

fn number<N: std::str::FromStr>(word: Option<String>, option: &str) -> Result<N, String> {
    word.and_then(|word| word.parse().ok()).ok_or_else(|| format!("{option} needs a number\n{USAGE}"))
}

pub(crate) const FILL: &str = "--fill";
const USAGE: &str = "usage: cargo bench -- [--quick] [--repeat N] [--list] [part of a name]...";
