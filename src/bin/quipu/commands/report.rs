//! `quipu report`: one page about a directory, for a person who is asked how it is.

use std::fs;
use std::path::PathBuf;

use quipu::{Bounds, Start, Timestamp};

use crate::failure::{Failure, Result, is_damage};
use crate::open::{self, Reading, ReadingPartition, ReadingTopic};
use crate::output::Output;
use crate::report::{Group, Page, Partition, Segment, Topic, page};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of the broker
    dir: PathBuf,
    /// The file to write: one page that needs nothing else. `-` is standard output
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
}

/// Columns of each chart of records by time.
const COLUMNS: i64 = 60;
/// Each chart costs a search by time for each column and partition.
const CHARTS: usize = 12;

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    let page = open::reading(&args.dir, out, |broker, out| collect(args, broker, out))?;
    let html = page::html(&page);
    if args.html.as_os_str() == "-" {
        return out.raw(html.as_bytes());
    }
    fs::write(&args.html, html)
        .map_err(|e| Failure::Other(format!("cannot write {}: {e}", args.html.display())))?;
    out.done(&format!("written: {}", args.html.display()))
}

fn collect(args: &Args, broker: &Reading, out: &mut Output) -> Result<Page> {
    let mut topics: Vec<(ReadingTopic, Topic)> =
        broker.topics().into_iter().map(|of| (of.clone(), topic(&of))).collect();
    topics.sort_by_key(|(_, of)| std::cmp::Reverse(of.bytes()));
    let times = topics.iter().flat_map(|(_, of)| &of.partitions);
    let from = times.clone().filter_map(|of| of.first_timestamp).min();
    let to = times.filter_map(|of| of.max_timestamp).max();
    let span = from.zip(to).filter(|(from, to)| from <= to);
    let mut health = Vec::new();
    for (handle, topic) in &mut topics {
        for partition in topic.partitions.iter().filter(|of| of.error.is_some()) {
            if partition.is_damaged {
                out.damage_found();
            }
            let error = partition.error.as_deref().unwrap_or_default();
            health.push(format!("{}/{}: {error}", topic.name, partition.number));
        }
        topic.settings = crate::settings::changed(&handle.config())?;
    }
    if let Some((from, to)) = span {
        for (handle, topic) in topics.iter_mut().take(CHARTS) {
            topic.by_time = by_time(handle, from, to);
        }
    }
    let mut groups = Vec::new();
    for name in broker.groups()? {
        for of in open::group(broker, &name)?.partitions {
            groups.push(Group {
                name: name.to_string(),
                topic: of.topic.to_string(),
                partition: of.partition.get(),
                committed: of.committed.map(|committed| committed.offset.get()),
                end: of.end.get(),
                lag: of.lag,
            });
        }
    }
    Ok(Page {
        dir: args.dir.display().to_string(),
        made_at: Timestamp::now().as_millis(),
        topics: topics.into_iter().map(|(_, topic)| topic).collect(),
        span,
        groups,
        health,
    })
}

fn topic(topic: &ReadingTopic) -> Topic {
    let name = topic.name().to_string();
    let partitions = topic.partitions().iter().map(partition).collect();
    Topic { name, settings: Vec::new(), partitions, by_time: Vec::new() }
}

fn partition(of: &ReadingPartition) -> Partition {
    let stats = of.stats();
    let Bounds { log_start, visible_end, .. } = stats.bounds;
    let times = || {
        let first = of.read(Start::Beginning, 1)?;
        let first = first.iter().next().map(|record| record.timestamp().as_millis());
        Ok((first, of.max_timestamp()?.map(|(_, time)| time.as_millis())))
    };
    let (times, error) = match times() {
        Ok(times) => (times, stats.poisoned),
        Err(error) => ((None, None), Some(error)),
    };
    let segment = |of: quipu::stats::SegmentStats| Segment {
        base_offset: of.base_offset.get(),
        bytes: of.bytes,
        is_sealed: of.sealed,
    };
    Partition {
        number: of.id().get(),
        log_start: log_start.get(),
        visible_end: visible_end.get(),
        bytes: stats.bytes,
        segments: of.segments().into_iter().map(segment).collect(),
        first_timestamp: times.0,
        max_timestamp: times.1,
        is_damaged: error.as_ref().is_some_and(is_damage),
        error: error.as_ref().map(ToString::to_string),
    }
}

/// How many offsets of a topic are in each part of the time. A record counts at the greatest time
/// of the records up to it, so that the sum is the number of all offsets.
fn by_time(topic: &ReadingTopic, from: i64, to: i64) -> Vec<u64> {
    let mut counts = vec![0; COLUMNS as usize];
    for partition in topic.partitions() {
        // Of a partition that cannot be read the page has the error already.
        if let Some(offsets) = offsets_at(&partition, from, to) {
            for (count, pair) in counts.iter_mut().zip(offsets.windows(2)) {
                if let [before, after] = pair {
                    *count += after - before;
                }
            }
        }
    }
    counts
}

/// The offsets at which the columns begin, and the end.
fn offsets_at(partition: &ReadingPartition, from: i64, to: i64) -> Option<Vec<u64>> {
    let Bounds { log_start, visible_end, .. } = partition.bounds().ok()?;
    let mut offsets = vec![log_start.get()];
    for column in 1..COLUMNS {
        // In 128 bits: a time may be any.
        let time =
            i128::from(from) + (i128::from(to) - i128::from(from)) * i128::from(column) / i128::from(COLUMNS);
        let found = partition.offset_for_time(Timestamp::from_millis(time as i64)).ok()?;
        offsets.push(found.map_or(visible_end, |(offset, _)| offset).get());
    }
    offsets.push(visible_end.get());
    Some(offsets)
}
