//! `quipu compact`: one compaction of each partition now, whatever its dirty ratio.

use std::path::PathBuf;

use quipu::stats::Compacted;
use serde_json::json;

use crate::failure::Result;
use crate::open;
use crate::output::Output;
use crate::table::bytes;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
    /// A compacted topic
    topic: String,
    /// Only these partitions
    #[arg(short, long = "partition", value_name = "N")]
    partition: Vec<u32>,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    open::writing(&args.dir, out, |broker, out| {
        let topic = broker.topic(&args.topic)?;
        let partitions = match args.partition.as_slice() {
            [] => topic.partitions(),
            numbers => numbers.iter().map(|of| topic.partition(*of)).collect::<quipu::Result<_>>()?,
        };
        for partition in partitions {
            let number = partition.id().get();
            // A pass that does not hold all keys in memory is followed by another one.
            let mut passes = Vec::new();
            while let Some(pass) = partition.compact()? {
                let is_complete = pass.complete;
                passes.push(pass);
                if is_complete {
                    break;
                }
            }
            print(topic.name().as_str(), number, &passes, out)?;
        }
        Ok(())
    })
}

fn print(topic: &str, partition: u32, passes: &[Compacted], out: &mut Output) -> Result<()> {
    let (first, last) = (passes.first(), passes.last());
    let sizes = first.zip(last).map(|(first, last)| {
        (
            (first.segments_before, first.bytes_before, first.records_before),
            (last.segments_after, last.bytes_after, last.records_after),
        )
    });
    if out.is_json() {
        return out.json(&json!({ "topic": topic, "partition": partition, "passes": passes }));
    }
    let Some(((segments, size, records), (segments_after, size_after, records_after))) = sizes else {
        return out.line(&format!("{topic}/{partition}: nothing to compact in sealed segments"));
    };
    out.line(&format!(
        "{topic}/{partition}: records {records} -> {records_after}, {} -> {}, segments {segments} -> {segments_after}",
        bytes(size), bytes(size_after)
    ))
}
