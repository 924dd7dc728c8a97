//! `quipu create`: Kafka's `kafka-topics --create`.

use std::path::PathBuf;

use quipu::{Error, TopicConfig};
use serde_json::json;

use crate::failure::Result;
use crate::open;
use crate::output::Output;
use crate::settings;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker; it is made if it is missing
    dir: PathBuf,
    /// The topic
    topic: String,
    /// How many partitions [default: 1]
    #[arg(short = 'P', long, value_name = "N")]
    partitions: Option<u32>,
    /// Keep a stream of events for each key
    #[arg(long)]
    streams: bool,
    /// A setting, by its name here or in Kafka: cleanup=compact, retention.ms=7d,
    /// segment_bytes=64MiB, durability=sync, compression=lz4. `quipu info --json` lists all
    #[arg(short, long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Do nothing if the topic is there
    #[arg(long)]
    if_not_exists: bool,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    let config = if args.streams { TopicConfig::streams() } else { TopicConfig::new() };
    let config = args.partitions.into_iter().fold(config, TopicConfig::partitions);
    let config = settings::with(&config, &args.set)?;
    open::creating(&args.dir, out, |broker, out| {
        let (topic, is_new) = match broker.create_topic(&args.topic, config) {
            Ok(topic) => (topic, true),
            Err(Error::TopicExists { .. }) if args.if_not_exists => (broker.topic(&args.topic)?, false),
            Err(error) => return Err(error.into()),
        };
        if out.is_json() {
            return out.json(&json!({
                "topic": topic.name(),
                "id": topic.id(),
                "created": is_new,
                "config": topic.config(),
            }));
        }
        let done = if is_new { "created" } else { "there already" };
        out.done(&format!("{done}: {}, partitions {}", topic.name(), topic.partition_count()))
    })
}
