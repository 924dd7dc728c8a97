//! `quipu salvage`: the whole batches of a damaged directory, in a new one.

use std::path::PathBuf;

use quipu::Broker;
use quipu::stats::{DamagedRange, FindingKind};
use serde_json::{Value, json};

use super::verify::{as_text, finding_as_json};
use crate::failure::Result;
use crate::open;
use crate::output::Output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of a broker that no process has open; nothing in it is changed
    from: PathBuf,
    /// A directory for the copy, missing or empty
    to: PathBuf,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    open::is_there(&args.from)?;
    let report = Broker::salvage(&args.from, &args.to)?;
    let is_loss = |kind| matches!(kind, FindingKind::Damage | FindingKind::Unreadable);
    if !report.lost.is_empty() || report.findings.iter().any(|finding| is_loss(finding.kind)) {
        out.damage_found();
    }
    if out.is_json() {
        return out.json(&json!({
            "topics": report.topics.iter().map(|(topic, partitions)| json!({
                "topic": topic,
                "partitions": partitions,
            })).collect::<Vec<_>>(),
            "batches": report.batches,
            "records": report.records,
            "lost": report.lost.iter().map(lost_as_json).collect::<Vec<_>>(),
            "findings": report.findings.iter().map(finding_as_json).collect::<Vec<_>>(),
            "notes": report.notes,
        }));
    }
    let lost = report.lost.iter().map(|lost| {
        let DamagedRange { topic, partition, from, to, file, position, what, .. } = lost;
        format!(
            "lost {topic}/{partition} offsets {from} to {to}: {} at byte {position}: {what}",
            file.display()
        )
    });
    let notes = report.notes.iter().map(|note| format!("note: {note}"));
    let lines: Vec<String> = lost.chain(report.findings.iter().map(as_text)).chain(notes).collect();
    for line in &lines {
        let line = out.name(line).into_owned();
        out.line(&line)?;
    }
    let (topics, batches, records) = (report.topics.len(), report.batches, report.records);
    out.line(&format!("copied: {topics} topics, {batches} batches, {records} records"))
}

fn lost_as_json(lost: &DamagedRange) -> Value {
    json!({
        "topic": lost.topic,
        "partition": lost.partition,
        "from": lost.from,
        "to": lost.to,
        "file": lost.file.display().to_string(),
        "position": lost.position,
        "bytes": lost.bytes,
        "what": lost.what,
    })
}
