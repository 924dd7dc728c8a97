//! `quipu topics`: Kafka's `kafka-topics --list`, with sizes.

use std::path::PathBuf;

use serde_json::json;

use crate::failure::Result;
use crate::open::{self, ReadingTopic};
use crate::output::Output;
use crate::settings;
use crate::table::{Left, Right, Table, bytes};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    open::reading(&args.dir, out, |broker, out| {
        let columns =
            [("TOPIC", Left), ("PARTITIONS", Right), ("OFFSETS", Right), ("SIZE", Right), ("CLEANUP", Left)];
        let mut table = Table::new(&columns);
        for topic in broker.topics() {
            let (offsets, size) = sizes(&topic);
            let form = settings::form(&topic.config())?;
            let cleanup = form.get("cleanup").and_then(|value| value.as_str()).unwrap_or_default();
            if out.is_json() {
                out.json(&json!({
                    "topic": topic.name(),
                    "id": topic.id(),
                    "partitions": topic.partition_count(),
                    "offsets": offsets,
                    "bytes": size,
                    "cleanup": cleanup,
                    "streams": topic.config().has_streams(),
                }))?;
            }
            table.row([
                topic.name().to_string(),
                topic.partition_count().to_string(),
                offsets.to_string(),
                bytes(size),
                if topic.config().has_streams() { "streams".to_string() } else { cleanup.to_string() },
            ]);
        }
        if out.is_json() { Ok(()) } else { out.table(&table) }
    })
}

/// How many offsets lie between the log starts and the visible ends, and the bytes of the segments.
/// A damaged partition counts as far as it is known.
fn sizes(topic: &ReadingTopic) -> (u64, u64) {
    topic.partitions().iter().map(|partition| partition.stats()).fold((0, 0), |(offsets, size), stats| {
        (offsets + stats.bounds.visible_end.since(stats.bounds.log_start), size + stats.bytes)
    })
}
