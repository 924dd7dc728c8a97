//! `quipu groups`: Kafka's `kafka-consumer-groups --describe` and `--reset-offsets`.

use std::path::PathBuf;

use quipu::{GroupId, GroupPartition, Offset, Position};
use serde_json::{Value, json};

use super::partitions;
use crate::failure::{Failure, Result};
use crate::open::{self, Reading};
use crate::output::Output;
use crate::place::Place;
use crate::table::{Left, Right, Table, or_dash};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
    /// The groups; all if none is given
    #[arg(value_name = "GROUP")]
    groups: Vec<String>,
    /// Set one group, which must have no members, to another place in a topic
    #[arg(long, requires_all = ["groups", "topic", "target"])]
    reset: bool,
    /// The topic to set the group in
    #[arg(short, long, requires = "reset")]
    topic: Option<String>,
    /// Only these partitions of it
    #[arg(short, long = "partition", value_name = "N", requires = "reset")]
    partition: Vec<u32>,
    /// The place: as for `quipu cat --offset`
    #[arg(long, value_name = "PLACE", requires = "reset", group = "target", allow_hyphen_values = true)]
    to: Option<Place>,
    /// So many offsets on, or back if it is below zero
    #[arg(long, value_name = "N", requires = "reset", group = "target", allow_hyphen_values = true)]
    shift_by: Option<i64>,
    /// Print the new offsets, and change nothing
    #[arg(long, requires = "reset")]
    dry_run: bool,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    if args.reset {
        return reset(args, out);
    }
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

fn as_json(group: &GroupId, of: &GroupPartition) -> Value {
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

fn reset(args: &Args, out: &mut Output) -> Result<()> {
    let [name] = args.groups.as_slice() else {
        return Err(Failure::Usage("--reset sets one group at a time".to_string()));
    };
    let group: GroupId = name.parse()?;
    let mut changes = open::reading(&args.dir, out, |broker, _| targets(args, broker, &group))?;
    if !args.dry_run {
        let wanted: Vec<Position> = changes.iter().map(|change| change.to.clone()).collect();
        let set = open::writing(&args.dir, out, |broker, _| Ok(broker.group(name)?.reset_to(&wanted)?))?;
        // The library has the last word: the log may have changed in between.
        for (change, to) in changes.iter_mut().zip(set) {
            change.to = to;
        }
    }
    print(&group, &changes, args.dry_run, out)
}

/// Where a group is in a partition, and where it is to be.
struct Change {
    from: Option<Offset>,
    to: Position,
}

fn targets(args: &Args, broker: &Reading, group: &GroupId) -> Result<Vec<Change>> {
    let topic = broker.topic(args.topic.as_deref().unwrap_or_default())?;
    let now = open::group(broker, group)?.partitions;
    let mut changes = Vec::new();
    for partition in partitions(&topic, &args.partition)? {
        let of = now.iter().find(|of| of.topic == *topic.name() && of.partition == partition.id());
        let bounds = partition.bounds()?;
        let from = of.and_then(|of| of.committed.as_ref()).map(|committed| committed.offset);
        let mut to = args.to.unwrap_or(Place::Beginning).position(&partition)?;
        if let Some(by) = args.shift_by {
            // Without a committed offset, from where the group would continue.
            let next = of.map_or(bounds.log_start, |of| Offset::new(of.end.get().saturating_sub(of.lag)));
            to.offset = Offset::new(from.unwrap_or(next).get().saturating_add_signed(by));
        }
        to.offset = to.offset.clamp(bounds.log_start, bounds.visible_end);
        changes.push(Change { from, to });
    }
    Ok(changes)
}

fn print(group: &GroupId, changes: &[Change], is_dry_run: bool, out: &mut Output) -> Result<()> {
    let mut table = Table::new(&[
        ("GROUP", Left),
        ("TOPIC", Left),
        ("PARTITION", Right),
        ("CURRENT-OFFSET", Right),
        ("NEW-OFFSET", Right),
    ]);
    for Change { from, to } in changes {
        if out.is_json() {
            out.json(&json!({
                "group": group,
                "topic": to.topic,
                "partition": to.partition,
                "current_offset": from,
                "new_offset": to.offset,
                "dry_run": is_dry_run,
            }))?;
        }
        table.row([
            group.to_string(),
            to.topic.to_string(),
            to.partition.to_string(),
            or_dash(*from),
            to.offset.to_string(),
        ]);
    }
    if out.is_json() { Ok(()) } else { out.table(&table) }
}
