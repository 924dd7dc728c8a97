//! `quipu produce`: sends lines, with the letters of `kcat -P`.

use std::io::{self, BufRead};
use std::path::PathBuf;

use quipu::{Partition, Producer, Record, Topic};
use serde_json::json;

use crate::escape::delimiter;
use crate::failure::{Failure, Result};
use crate::open;
use crate::output::Output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
    /// The topic
    topic: String,
    /// The partition; the partitioner chooses one by default, as Kafka's does
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
    /// Each line is a key, this delimiter, and a value; without the delimiter it is a value
    #[arg(short = 'K', long, value_name = "DELIMITER")]
    key_delimiter: Option<String>,
    /// A header of each record; without a value it is null. May be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// Send an empty value as null, which deletes the key from a compacted topic
    #[arg(short = 'Z', long)]
    empty_is_null: bool,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    open::writing(&args.dir, out, |broker, out| {
        let topic = broker.topic(&args.topic)?;
        let to = args.partition.map(|number| topic.partition(number)).transpose()?;
        let producer = broker.producer();
        let sent = send(args, &producer, &topic, to.as_ref());
        // Records before a line that is refused are written, and the first error is reported.
        let flushed = producer.flush();
        let count = sent?;
        flushed?;
        if out.is_json() {
            return out.json(&json!({ "topic": topic.name(), "records": count }));
        }
        out.done(&format!("sent to {}: {count} records", topic.name()))
    })
}

fn send(args: &Args, producer: &Producer, topic: &Topic, to: Option<&Partition>) -> Result<u64> {
    let delimiter = args.key_delimiter.as_deref().map(delimiter);
    let mut lines = io::stdin().lock();
    let (mut line, mut count) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line);
        match read.map_err(|e| Failure::Other(format!("cannot read standard input: {e}")))? {
            0 => return Ok(count),
            _ => line.truncate(line.strip_suffix(b"\n").map_or(line.len(), <[u8]>::len)),
        }
        let record = record(args, &line, delimiter.as_deref());
        match to {
            Some(partition) => producer.send(partition, record)?.detach(),
            None => producer.send(topic, record)?.detach(),
        }
        count += 1;
    }
}

fn record<'l>(args: &'l Args, line: &'l [u8], delimiter: Option<&[u8]>) -> Record<'l> {
    let (key, value) = match delimiter.and_then(|delimiter| split(line, delimiter)) {
        Some((key, value)) => (Some(key), value),
        None => (None, line),
    };
    let value = Some(value).filter(|value| !(args.empty_is_null && value.is_empty()));
    let record = Record::new(value).key(key);
    args.header.iter().fold(record, |record, header| match header.split_once('=') {
        Some((name, value)) => record.header(name, value),
        None => record.null_header(header.as_str()),
    })
}

/// The parts before and after the first delimiter.
fn split<'l>(line: &'l [u8], delimiter: &[u8]) -> Option<(&'l [u8], &'l [u8])> {
    let at = line.windows(delimiter.len()).position(|window| window == delimiter)?;
    Some((&line[..at], &line[at + delimiter.len()..]))
}
