//! `quipu alter`: Kafka's `kafka-topics --alter` and `kafka-configs`.

use std::path::PathBuf;

use quipu::TopicConfig;
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::open;
use crate::output::Output;
use crate::settings;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
    /// The topic
    topic: String,
    /// How many partitions there are to be: not fewer than there are. Keys may get other partitions
    #[arg(short = 'P', long, value_name = "N")]
    partitions: Option<u32>,
    /// A setting, as for `quipu create`; others stay
    #[arg(short, long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    if args.partitions.is_none() && args.set.is_empty() {
        return Err(Failure::Usage("nothing to change: give --set or --partitions".to_string()));
    }
    open::writing(&args.dir, out, |broker, out| {
        let topic = broker.topic(&args.topic)?;
        let config = args.partitions.into_iter().fold(topic.config(), TopicConfig::partitions);
        let config = settings::with(&config, &args.set)?;
        broker.alter_topic(&args.topic, config)?;
        let topic = broker.topic(&args.topic)?;
        if out.is_json() {
            return out.json(&json!({ "topic": topic.name(), "config": topic.config() }));
        }
        let changed = settings::changed(&topic.config())?.join(" ");
        out.done(&format!("altered: {}, partitions {} {changed}", topic.name(), topic.partition_count()))
    })
}
