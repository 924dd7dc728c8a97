//! `quipu groups`: Kafka's `kafka-consumer-groups --describe`.

use std::path::PathBuf;

use quipu::{GroupId, GroupPartition};
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::open::{self, Reading};
use crate::output::Output;
use crate::table::{Left, Right, Table, or_dash};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
    /// The groups; all if none is given
    groups: Vec<String>,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    open::reading(&args.dir, out, |broker, out| {
        let known = broker.groups()?;
        for name in &args.groups {
            if !known.iter().any(|group| group.as_str() == name) {
                let text = format!("there is no group {name:?}; `quipu groups DIR` lists all");
                return Err(Failure::Other(text));
            }
        }
        let is_asked_for = |group: &&GroupId| {
            args.groups.is_empty() || args.groups.iter().any(|name| *name == group.as_str())
        };
        describe(broker, known.iter().filter(is_asked_for), out)
    })
}

fn describe<'g>(broker: &Reading, groups: impl Iterator<Item = &'g GroupId>, out: &mut Output) -> Result<()> {
    let mut table = Table::new(&[
        ("GROUP", Left),
        ("TOPIC", Left),
        ("PARTITION", Right),
        ("CURRENT-OFFSET", Right),
        ("LOG-END-OFFSET", Right),
        ("LAG", Right),
    ]);
    for group in groups {
        for of in open::group(broker, group)?.partitions {
            if out.is_json() {
                out.json(&as_json(group, &of))?;
            }
            table.row([
                group.to_string(),
                of.topic.to_string(),
                of.partition.to_string(),
                or_dash(of.committed.as_ref().map(|committed| committed.offset)),
                of.end.to_string(),
                of.lag.to_string(),
            ]);
        }
    }
    if out.is_json() { Ok(()) } else { out.table(&table) }
}

fn as_json(group: &GroupId, of: &GroupPartition) -> serde_json::Value {
    let committed = of.committed.as_ref();
    json!({
        "group": group,
        "topic": of.topic,
        "partition": of.partition,
        "current_offset": committed.map(|committed| committed.offset),
        "log_end_offset": of.end,
        "lag": of.lag,
        "epoch": committed.map(|committed| committed.epoch),
        "committed_at": committed.map(|committed| committed.at),
        "metadata": committed.map(|committed| &committed.metadata),
    })
}
