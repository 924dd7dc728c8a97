//! The commands, a file each.

mod alter;
mod cat;
mod create;
mod delete;
mod groups;
mod info;
mod produce;
mod topics;

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
    /// List the consumer groups with their offsets and lag
    Groups(groups::Args),
    /// Print the records of a topic
    Cat(cat::Args),
    /// Send each line of standard input as a record
    Produce(produce::Args),
    /// Create a topic, and the directory if it is missing
    Create(create::Args),
    /// Change the settings of a topic, or add partitions
    Alter(alter::Args),
    /// Delete a topic with all its records
    Delete(delete::Args),
}

impl Command {
    pub(crate) fn run(self, out: &mut Output) -> Result<()> {
        match self {
            Command::Topics(args) => topics::run(&args, out),
            Command::Info(args) => info::run(&args, out),
            Command::Groups(args) => groups::run(&args, out),
            Command::Cat(args) => cat::run(&args, out),
            Command::Produce(args) => produce::run(&args, out),
            Command::Create(args) => create::run(&args, out),
            Command::Alter(args) => alter::run(&args, out),
            Command::Delete(args) => delete::run(&args, out),
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
