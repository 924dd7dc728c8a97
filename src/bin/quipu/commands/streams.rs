//! `quipu streams`: the streams of a topic, or the events of one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use quipu::Start;
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::lines::{Bytes, RecordLine};
use crate::open::{self, Reading, ReadingTopic};
use crate::output::Output;
use crate::progress::Progress;
use crate::time::iso;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
    /// A topic of streams
    topic: String,
    /// The key of one stream: its events are printed. Without it all records are read, and each key
    /// is listed with its version
    key: Option<String>,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    open::reading(&args.dir, out, |broker, out| {
        let topic = broker.topic(&args.topic)?;
        if !topic.config().has_streams() {
            return Err(Failure::Usage(format!(
                "{} keeps no streams; `quipu cat --key` reads a key",
                topic.name()
            )));
        }
        match &args.key {
            Some(key) => events(&topic, key, out),
            None => list(broker, &topic, out),
        }
    })
}

fn events(topic: &ReadingTopic, key: &str, out: &mut Output) -> Result<()> {
    let history = topic.stream(key)?.load()?;
    if history.is_empty() {
        return Err(Failure::Other(format!("{} has no stream {key:?}", topic.name())));
    }
    for (version, record) in history.versions() {
        if out.is_json() {
            let line = RecordLine { version: Some(version.get()), ..RecordLine::of(&record) };
            out.json(&line)?;
            continue;
        }
        let (position, time) = (record.position(), iso(record.timestamp().as_millis()));
        out.raw(
            format!(
                "{}\t{}/{}@{}\t{time}\t",
                version.get(),
                position.topic,
                position.partition,
                position.offset
            )
            .as_bytes(),
        )?;
        out.value(record.event_type().unwrap_or("-").as_bytes())?;
        out.raw(b"\t")?;
        out.value(record.value().unwrap_or_default())?;
        out.raw(b"\n")?;
    }
    Ok(())
}

/// A stream in a list.
#[derive(Default)]
struct Listed {
    version: u64,
    last_offset: u64,
    last_timestamp: i64,
    partition: u32,
}

fn list(broker: &Reading, topic: &ReadingTopic, out: &mut Output) -> Result<()> {
    let mut streams: BTreeMap<Vec<u8>, Listed> = BTreeMap::new();
    let progress = Progress::records("reading");
    for records in broker.reader(topic.name(), Start::Beginning)?.to_end() {
        let records = records?;
        progress.add(records.len() as u64);
        for record in &records {
            let Some(key) = record.key() else { continue };
            if !streams.contains_key(key) {
                streams.insert(key.to_vec(), Listed::default());
            }
            if let Some(listed) = streams.get_mut(key) {
                listed.version += 1;
                listed.last_offset = record.offset().get();
                listed.last_timestamp = record.timestamp().as_millis();
                listed.partition = record.partition().get();
            }
        }
    }
    drop(progress);
    for (key, listed) in &streams {
        if out.is_json() {
            out.json(&json!({
                "topic": topic.name(),
                "key": Bytes::of(key),
                "version": listed.version,
                "partition": listed.partition,
                "last_offset": listed.last_offset,
                "last_timestamp": listed.last_timestamp,
            }))?;
            continue;
        }
        out.value(key)?;
        let time = iso(listed.last_timestamp);
        let (version, partition) = (listed.version, listed.partition);
        out.line(&format!("\t{version}\t{}/{partition}@{}\t{time}", topic.name(), listed.last_offset))?;
    }
    Ok(())
}
