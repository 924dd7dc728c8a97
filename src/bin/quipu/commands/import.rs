//! `quipu import`: the lines of `quipu export`, or any lines of that form, as records.

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::path::PathBuf;

use quipu::{Broker, Error, Offset, Partition, Producer, Record};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::lines::{RecordLine, TopicLine};
use crate::open;
use crate::output::Output;
use crate::progress::Progress;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker; it is made if it is missing
    dir: PathBuf,
    /// The topic of all records, in place of the one that each line names
    #[arg(short, long)]
    topic: Option<String>,
    /// Give each record the offset of its line. The partitions must be empty or end there. Gaps,
    /// which compaction leaves, cannot be made
    #[arg(long, conflicts_with = "topic")]
    keep_offsets: bool,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    open::creating(&args.dir, out, |broker, out| {
        let producer = broker.producer();
        let mut import = Import {
            broker,
            producer,
            to: args.topic.as_deref(),
            keeps: args.keep_offsets,
            tails: BTreeMap::new(),
        };
        let read = import.read_all();
        // Lines before one that is refused are written, and the first error is reported.
        let written = import.finish();
        let (count, written) = (read?, written);
        written?;
        if out.is_json() {
            out.json(&json!({ "records": count }))
        } else {
            out.done(&format!("imported: {count} records"))
        }
    })
}

struct Import<'a> {
    broker: &'a Broker,
    producer: Producer,
    to: Option<&'a str>,
    keeps: bool,
    /// The partitions that get records at their offsets.
    tails: BTreeMap<(String, u32), Tail>,
}

/// Records of consecutive offsets that are not appended yet.
struct Tail {
    partition: Partition,
    from: Offset,
    records: Vec<Record<'static>>,
    bytes: usize,
}

impl Tail {
    /// About so many bytes are appended at once.
    const BATCH: usize = 64 << 10;

    fn append(&mut self) -> quipu::Result<()> {
        if !self.records.is_empty() {
            let count = self.records.len() as u64;
            self.partition.append_at(self.from, self.records.drain(..))?;
            (self.from, self.bytes) = (self.from + count, 0);
        }
        Ok(())
    }
}

impl Import<'_> {
    fn read_all(&mut self) -> Result<u64> {
        let progress = Progress::records("importing");
        let (mut line, mut number, mut count) = (String::new(), 0_u64, 0);
        let mut lines = io::stdin().lock();
        loop {
            line.clear();
            number += 1;
            let read = lines.read_line(&mut line);
            if read.map_err(|e| Failure::Other(format!("line {number} of standard input: {e}")))? == 0 {
                return Ok(count);
            }
            if line.trim().is_empty() {
                continue;
            }
            count += u64::from(self.take(&line).map_err(|failure| failure.at(format!("line {number}")))?);
            progress.add(1);
        }
    }

    /// Takes one line. Returns whether it is a record.
    fn take(&mut self, line: &str) -> Result<bool> {
        let value: Value = serde_json::from_str(line).map_err(invalid)?;
        if value.get("config").is_some() {
            self.create(from_value(value)?)?;
            return Ok(false);
        }
        let line: RecordLine = from_value(value)?;
        if line.value_bytes.is_some() {
            return Err(Failure::Other("the value was left out (cat --no-values)".to_string()));
        }
        if self.keeps {
            self.keep(line)?
        } else {
            self.send(line)?
        }
        Ok(true)
    }

    /// A topic that is there keeps its settings.
    fn create(&self, line: TopicLine) -> Result<()> {
        if self.to.is_none() {
            let config = from_value(Value::Object(line.config))?;
            match self.broker.create_topic(&line.topic, config) {
                Ok(_) | Err(Error::TopicExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn send(&self, line: RecordLine) -> Result<()> {
        let (topic, partition) = (self.to.unwrap_or(&line.topic).to_string(), line.partition);
        // Of a topic that is named here, the partitioner chooses: it may have fewer partitions.
        let partition = partition.filter(|_| self.to.is_none());
        let record = line.into_record().map_err(Failure::Other)?;
        match partition {
            Some(number) => {
                let to = self.broker.topic(&topic)?.partition(number)?;
                self.producer.send(&to, record)?.detach();
            }
            None => self.producer.send(topic.as_str(), record)?.detach(),
        }
        Ok(())
    }

    fn keep(&mut self, line: RecordLine) -> Result<()> {
        let (Some(number), Some(offset)) = (line.partition, line.offset) else {
            let text = "--keep-offsets needs a partition and an offset in each line";
            return Err(Failure::Other(text.to_string()));
        };
        let key = (line.topic.clone(), number);
        let tail = match self.tails.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let partition = self.broker.topic(&line.topic)?.partition(number)?;
                let from = begin_at(&partition, Offset::new(offset))?;
                entry.insert(Tail { partition, from, records: Vec::new(), bytes: 0 })
            }
        };
        let next = tail.from + tail.records.len() as u64;
        if next != offset {
            let text = format!(
                "{}/{number} continues at offset {next}, and the line has {offset}: \
                 without --keep-offsets the records get new offsets",
                line.topic
            );
            return Err(Failure::Other(text));
        }
        let record = line.into_record().map_err(Failure::Other)?;
        tail.bytes +=
            record.value_bytes().map_or(0, <[u8]>::len) + record.key_bytes().map_or(0, <[u8]>::len) + 16;
        tail.records.push(record);
        if tail.bytes >= Tail::BATCH { Ok(tail.append()?) } else { Ok(()) }
    }

    /// Writes everything that was taken.
    fn finish(&mut self) -> quipu::Result<()> {
        let mut first = Ok(());
        for tail in self.tails.values_mut() {
            first = first.and(tail.append());
        }
        first.and(self.producer.flush())
    }
}

/// Lets an empty partition begin at this offset, and returns where the partition ends.
fn begin_at(partition: &Partition, offset: Offset) -> quipu::Result<Offset> {
    let bounds = partition.bounds()?;
    if bounds.log_start == bounds.log_end && bounds.log_end != offset {
        partition.reset_to(offset)?;
    }
    Ok(partition.bounds()?.log_end)
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(invalid)
}

fn invalid(error: serde_json::Error) -> Failure {
    Failure::Other(format!("no record and no topic of `quipu export`: {error}"))
}
