//! `quipu verify`: every byte of a closed directory, against the invariants of FORMAT.md.

use std::ops::ControlFlow;
use std::path::PathBuf;

use quipu::Broker;
use quipu::stats::{Finding, FindingKind, VerifyReport};
use serde_json::{Value, json};

use crate::failure::Result;
use crate::open;
use crate::output::Output;
use crate::progress::Progress;
use crate::table::bytes;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of a broker that no process has open; nothing is changed
    dir: PathBuf,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    open::is_there(&args.dir)?;
    let progress = Progress::bytes("verifying");
    let report = Broker::verify(&args.dir, |at| {
        progress.at(at.done, at.total);
        ControlFlow::Continue(())
    })?;
    drop(progress);
    if !report.is_whole() {
        out.damage_found();
    }
    if out.is_json() {
        return out.json(&as_json(&report));
    }
    for finding in &report.findings {
        let text = as_text(finding);
        let text = out.name(&text).into_owned();
        out.line(&text)?;
    }
    for note in &report.notes {
        let note = out.name(note).into_owned();
        out.line(&format!("note: {note}"))?;
    }
    let VerifyReport { partitions, batches, records, .. } = report;
    let verdict = if report.is_whole() { "whole" } else { "DAMAGED" };
    let read = bytes(report.bytes);
    out.line(&format!("{verdict}: {partitions} partitions, {batches} batches, {records} records, {read}"))
}

/// For example `damage topics/t/0/0-0.log at byte 232, 90 bytes, t/0 offsets 0 to 3: ...`.
pub(super) fn as_text(finding: &Finding) -> String {
    let mut text = format!("{} {} at byte {}", kind(finding.kind), finding.file.display(), finding.position);
    if finding.bytes > 0 {
        text.push_str(&format!(", {} bytes", finding.bytes));
    }
    if let (Some(topic), Some(partition)) = (&finding.topic, finding.partition) {
        text.push_str(&format!(", {topic}/{partition}"));
        if let Some((from, to)) = finding.offsets.filter(|(from, to)| to > from) {
            text.push_str(&format!(" offsets {from} to {to}"));
        }
    }
    text.push_str(&format!(": {}", finding.what));
    if let Some(invariant) = finding.invariant {
        text.push_str(&format!(" (invariant {invariant} of FORMAT.md)"));
    }
    text
}

pub(super) fn finding_as_json(finding: &Finding) -> Value {
    json!({
        "kind": kind(finding.kind),
        "file": finding.file.display().to_string(),
        "position": finding.position,
        "bytes": finding.bytes,
        "topic": finding.topic,
        "partition": finding.partition,
        "offsets": finding.offsets,
        "what": finding.what,
        "invariant": finding.invariant,
    })
}

fn kind(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Damage => "damage",
        FindingKind::TornTail => "torn tail",
        FindingKind::Derived => "derived",
        FindingKind::Unreadable => "unreadable",
        _ => "other",
    }
}

fn as_json(report: &VerifyReport) -> Value {
    json!({
        "whole": report.is_whole(),
        "partitions": report.partitions,
        "batches": report.batches,
        "records": report.records,
        "bytes": report.bytes,
        "findings": report.findings.iter().map(finding_as_json).collect::<Vec<_>>(),
        "notes": report.notes,
    })
}
