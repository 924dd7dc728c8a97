//! `quipu delete`: Kafka's `kafka-topics --delete`.

use std::path::PathBuf;

use serde_json::json;

use crate::failure::{Failure, Result};
use crate::open;
use crate::output::Output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
    /// The topic
    topic: String,
    /// Delete it: without this nothing is deleted
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    open::writing(&args.dir, out, |broker, out| {
        let topic = broker.topic(&args.topic)?;
        let of = |partition: quipu::Partition| partition.stats().bounds;
        let offsets: u64 = topic
            .partitions()
            .into_iter()
            .map(of)
            .map(|bounds| bounds.visible_end.since(bounds.log_start))
            .sum();
        if !args.yes {
            let text = format!("{} has {offsets} offsets, and nothing was deleted: add --yes", topic.name());
            return Err(Failure::Usage(text));
        }
        broker.delete_topic(&args.topic)?;
        if out.is_json() {
            return out.json(&json!({ "topic": topic.name(), "deleted": true, "offsets": offsets }));
        }
        out.done(&format!("deleted: {}, with {offsets} offsets", topic.name()))
    })
}
