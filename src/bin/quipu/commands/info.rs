//! `quipu info`: Kafka's `kafka-topics --describe` and `kafka-log-dirs`.

use std::path::PathBuf;

use quipu::Start;
use serde::Serialize;
use serde_json::json;

use crate::failure::{Result, is_damage};
use crate::open::{self, ReadingPartition, ReadingTopic};
use crate::output::Output;
use crate::settings;
use crate::table::{Left, Right, Table, bytes, or_dash};
use crate::time::iso;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
    /// The topics; all if none is given
    topics: Vec<String>,
    /// Read every record, to count them and to compare their bytes with those that are stored
    #[arg(long)]
    count: bool,
    /// List the segments too
    #[arg(long)]
    segments: bool,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    open::reading(&args.dir, out, |broker, out| {
        let topics = match args.topics.as_slice() {
            [] => broker.topics(),
            names => names.iter().map(|name| broker.topic(name)).collect::<quipu::Result<_>>()?,
        };
        for (at, topic) in topics.iter().enumerate() {
            if at > 0 && !out.is_json() {
                out.line("")?;
            }
            describe(topic, args, out)?;
        }
        Ok(())
    })
}

/// A partition in numbers.
#[derive(Serialize)]
struct Described {
    partition: u32,
    log_start: u64,
    visible_end: u64,
    log_end: u64,
    durable_end: u64,
    epoch: u32,
    bytes: u64,
    segments: usize,
    /// The time of the oldest record, and the greatest time of all.
    first_timestamp: Option<i64>,
    max_timestamp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counted: Option<Counted>,
    /// Why it cannot be read or written, if so.
    error: Option<String>,
}

/// All records of a partition, read.
#[derive(Clone, Copy, Default, Serialize)]
struct Counted {
    records: u64,
    /// Of keys, values, and the names and values of headers.
    payload_bytes: u64,
}

fn describe(topic: &ReadingTopic, args: &Args, out: &mut Output) -> Result<()> {
    let partitions = topic.partitions();
    let described: Vec<Described> =
        partitions.iter().map(|partition| described(partition, args.count, out)).collect();
    if out.is_json() {
        let segments: Vec<_> = partitions.iter().map(ReadingPartition::segments).collect();
        let mut object = json!({
            "topic": topic.name(),
            "id": topic.id(),
            "created_at": topic.created_at(),
            "config": topic.config(),
            "partitions": described,
        });
        if let Some(object) = object.as_object_mut().filter(|_| args.segments) {
            object.insert("segments".to_string(), json!(segments));
        }
        return out.json(&object);
    }
    let name = out.name(topic.name().as_str()).into_owned();
    let (count, created) = (topic.partition_count(), iso(topic.created_at().as_millis()));
    out.line(&format!("{name}: partitions {count}, created {created}, id {}", topic.id()))?;
    for setting in settings::changed(&topic.config())? {
        let setting = out.name(&setting).into_owned();
        out.line(&format!("  {setting}"))?;
    }
    out.table(&table(&described, args.count))?;
    if args.segments {
        out.line("")?;
        out.table(&segments(&partitions))?;
    }
    Ok(())
}

fn described(partition: &ReadingPartition, is_counted: bool, out: &mut Output) -> Described {
    let stats = partition.stats();
    let mut described = Described {
        partition: partition.id().get(),
        log_start: stats.bounds.log_start.get(),
        visible_end: stats.bounds.visible_end.get(),
        log_end: stats.bounds.log_end.get(),
        durable_end: stats.bounds.durable_end.get(),
        epoch: stats.epoch,
        bytes: stats.bytes,
        segments: stats.segments,
        first_timestamp: None,
        max_timestamp: None,
        counted: None,
        error: stats.poisoned.as_ref().map(ToString::to_string),
    };
    if let Err(error) = look_inside(partition, is_counted, &mut described) {
        if is_damage(&error) {
            out.damage_found();
        }
        described.error = Some(error.to_string());
    }
    described
}

fn look_inside(
    partition: &ReadingPartition,
    is_counted: bool,
    described: &mut Described,
) -> quipu::Result<()> {
    let first = partition.read(Start::Beginning, 1)?;
    described.first_timestamp = first.iter().next().map(|record| record.timestamp().as_millis());
    described.max_timestamp = partition.max_timestamp()?.map(|(_, time)| time.as_millis());
    if is_counted {
        described.counted = Some(count(partition)?);
    }
    Ok(())
}

fn count(partition: &ReadingPartition) -> quipu::Result<Counted> {
    let mut counted = Counted::default();
    let mut from = Start::Beginning;
    loop {
        let records = partition.read(from, 1 << 20)?;
        let Some(last) = records.last() else { return Ok(counted) };
        from = Start::At(last.offset() + 1);
        for record in &records {
            let of = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
            let headers: usize = record.headers().map(|(name, value)| name.len() + of(value)).sum();
            counted.records += 1;
            counted.payload_bytes += (of(record.key()) + of(record.value()) + headers) as u64;
        }
    }
}

fn table(described: &[Described], is_counted: bool) -> Table {
    let mut columns = vec![
        ("PARTITION", Right),
        ("LOG-START-OFFSET", Right),
        ("LOG-END-OFFSET", Right),
        ("DURABLE-END", Right),
        ("SEGMENTS", Right),
        ("SIZE", Right),
        ("EPOCH", Right),
        ("FIRST-TIME", Left),
        ("MAX-TIME", Left),
    ];
    if is_counted {
        columns.extend([("RECORDS", Right), ("PAYLOAD", Right), ("RATIO", Right)]);
    }
    columns.push(("ERROR", Left));
    let mut table = Table::new(&columns);
    for of in described {
        let mut cells = vec![
            of.partition.to_string(),
            of.log_start.to_string(),
            of.visible_end.to_string(),
            of.durable_end.to_string(),
            of.segments.to_string(),
            bytes(of.bytes),
            of.epoch.to_string(),
            or_dash(of.first_timestamp.map(iso)),
            or_dash(of.max_timestamp.map(iso)),
        ];
        if is_counted {
            let ratio = of.counted.map(|counted| counted.payload_bytes as f64 / of.bytes.max(1) as f64);
            cells.extend([
                or_dash(of.counted.map(|counted| counted.records)),
                or_dash(of.counted.map(|counted| bytes(counted.payload_bytes))),
                or_dash(ratio.map(|ratio| format!("{ratio:.2}"))),
            ]);
        }
        cells.push(of.error.clone().unwrap_or_default());
        table.row(cells);
    }
    table
}

fn segments(partitions: &[ReadingPartition]) -> Table {
    let columns =
        [("PARTITION", Right), ("BASE-OFFSET", Right), ("SIZE", Right), ("STATE", Left), ("FILE", Left)];
    let mut table = Table::new(&columns);
    for partition in partitions {
        for segment in partition.segments() {
            table.row([
                partition.id().to_string(),
                segment.base_offset.to_string(),
                bytes(segment.bytes),
                if segment.sealed { "sealed" } else { "active" }.to_string(),
                segment.file.display().to_string(),
            ]);
        }
    }
    table
}
