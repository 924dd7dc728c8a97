//! `quipu retain`: the periodic work of a broker now: retention, rolls, indexes, compaction.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use quipu::stats::Event;
use serde_json::json;

use crate::failure::Result;
use crate::open;
use crate::output::Output;
use crate::table::bytes;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let config = open::config().on_event(move |event| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    });
    open::writing_with(config, &args.dir, out, |broker, _| Ok(broker.maintain()?))?;
    let events = std::mem::take(&mut *events.lock().unwrap_or_else(PoisonError::into_inner));
    for event in events {
        match event {
            Event::Retained { topic, partition, log_start, segments, bytes: size, .. } if out.is_json() => {
                out.json(&json!({
                    "event": "retained", "topic": topic, "partition": partition,
                    "log_start": log_start, "segments": segments, "bytes": size,
                }))?;
            }
            Event::Retained { topic, partition, log_start, segments, bytes: size, .. } => {
                let size = bytes(size);
                out.line(&format!(
                    "{topic}/{partition}: starts at {log_start}, deleted {segments} segments, {size}"
                ))?;
            }
            Event::Compacted(compacted) if out.is_json() => {
                out.json(&json!({ "event": "compacted", "compacted": compacted }))?;
            }
            Event::Compacted(of) => {
                let (before, after) = (of.records_before, of.records_after);
                out.line(&format!("{}/{}: compacted, records {before} -> {after}", of.topic, of.partition))?;
            }
            _ => {}
        }
    }
    Ok(())
}
