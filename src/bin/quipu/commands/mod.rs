//! The commands, a file each.

mod alter;
mod backup;
mod bench;
mod cat;
mod compact;
mod completions;
mod create;
mod delete;
mod dump;
mod export;
mod groups;
mod import;
mod info;
mod man;
mod produce;
mod report;
mod retain;
mod salvage;
mod streams;
mod topics;
mod verify;

use clap::Subcommand;

use crate::failure::Result;
use crate::open::{ReadingPartition, ReadingTopic};
use crate::output::Output;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the topics
    Topics(topics::Args),
    /// Describe topics: partitions, offsets, times, segments, settings
    Info(info::Args),
    /// List the consumer groups with their offsets and lag, or set one to another place
    Groups(groups::Args),
    /// Print the records of a topic
    Cat(cat::Args),
    /// List the streams of a topic, or print the events of one
    Streams(streams::Args),
    /// Send each line of standard input as a record
    Produce(produce::Args),
    /// Create a topic, and the directory if it is missing
    Create(create::Args),
    /// Change the settings of a topic, or add partitions
    Alter(alter::Args),
    /// Delete a topic with all its records
    Delete(delete::Args),
    /// Write one page of HTML: sizes, records by time, segments, lag, problems
    Report(report::Args),
    /// Check every byte of a closed directory, and name all damage
    Verify(verify::Args),
    /// Print the structures of a file in words, or each byte with the name of its field
    Dump(dump::Args),
    /// Copy everything whole of a damaged directory into a new one
    Salvage(salvage::Args),
    /// Copy everything into another directory, or only the changes into an older backup
    Backup(backup::Args),
    /// Compact the sealed segments of a topic now
    Compact(compact::Args),
    /// Delete what retention allows, and do the other periodic work now
    Retain(retain::Args),
    /// Print topics and records as lines of JSON
    Export(export::Args),
    /// Read lines of JSON as records
    Import(import::Args),
    /// Measure appends, reads and syncs on a disk, beside its raw limits
    Bench(bench::Args),
    /// Print a script with which a shell completes commands
    Completions(completions::Args),
    /// Print the manual page, or write one for each command
    Man(man::Args),
}

impl Command {
    pub(crate) fn run(self, out: &mut Output) -> Result<()> {
        match self {
            Command::Topics(args) => topics::run(&args, out),
            Command::Info(args) => info::run(&args, out),
            Command::Groups(args) => groups::run(&args, out),
            Command::Cat(args) => cat::run(&args, out),
            Command::Streams(args) => streams::run(&args, out),
            Command::Produce(args) => produce::run(&args, out),
            Command::Create(args) => create::run(&args, out),
            Command::Alter(args) => alter::run(&args, out),
            Command::Delete(args) => delete::run(&args, out),
            Command::Report(args) => report::run(&args, out),
            Command::Verify(args) => verify::run(&args, out),
            Command::Dump(args) => dump::run(&args, out),
            Command::Salvage(args) => salvage::run(&args, out),
            Command::Backup(args) => backup::run(&args, out),
            Command::Compact(args) => compact::run(&args, out),
            Command::Retain(args) => retain::run(&args, out),
            Command::Export(args) => export::run(&args, out),
            Command::Import(args) => import::run(&args, out),
            Command::Bench(args) => bench::run(&args, out),
            Command::Completions(args) => completions::run(&args, out),
            Command::Man(args) => man::run(&args, out),
        }
    }
}

/// The partitions with these numbers, or all.
fn partitions(topic: &ReadingTopic, numbers: &[u32]) -> Result<Vec<ReadingPartition>> {
    if numbers.is_empty() {
        return Ok(topic.partitions());
    }
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers.into_iter().map(|number| topic.partition(number)).collect::<quipu::Result<_>>()?)
}
