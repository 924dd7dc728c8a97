//! `quipu bench`: what this disk gives, and how much of it the library passes on, in ten seconds.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quipu::{Broker, Durability, Record, Start, TopicConfig};
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::table::{Left, Right, Table, bytes};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A directory on the disk to measure: files are written in a new directory in it, which is
    /// removed at the end
    dir: PathBuf,
    /// How long all measurements take together
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Bytes of the value of each record
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    size: u32,
}

/// Raw writes and reads have as many bytes as a batch of a producer.
const CHUNK: usize = 64 << 10;
/// Six measurements share the time.
const PARTS: u32 = 6;

/// Something that was done again and again for some time.
struct Rate {
    times: u64,
    bytes: u64,
    took: Duration,
}

impl Rate {
    fn per_second(&self) -> f64 {
        self.times as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    if !args.dir.is_dir() {
        return Err(Failure::Usage(format!("{} is no directory", args.dir.display())));
    }
    let at = args.dir.join(format!("quipu-bench-{}", std::process::id()));
    let failed = |e: io::Error| Failure::Other(format!("{}: {e}", at.display()));
    fs::create_dir(&at).map_err(failed)?;
    let measured = measure(args, &at);
    let removed = fs::remove_dir_all(&at).map_err(failed);
    let measured = measured?;
    removed?;
    print(args, &measured, out)
}

/// The name of a measurement, the library's rate, and that of the calls to the system it needs.
type Measured = (&'static str, Rate, Rate);

fn measure(args: &Args, at: &Path) -> Result<Vec<Measured>> {
    let failed = |e: io::Error| Failure::Other(format!("{}: {e}", at.display()));
    let each = Duration::from_secs(args.seconds) / PARTS;
    let value = vec![b'v'; args.size as usize];
    let raw = at.join("raw");
    let raw_append = write_raw(&raw, &vec![b'v'; CHUNK], each).map_err(failed)?;
    let raw_read = read_raw(&raw, each).map_err(failed)?;
    let raw_durable = sync_raw(&at.join("synced"), &value, each).map_err(failed)?;

    let broker = Broker::open(at.join("broker"))?;
    let append = append(&broker, &value, each)?;
    let read = read(&broker, each)?;
    let durable = durable(&broker, &value, each)?;
    broker.close()?;
    Ok(vec![
        ("append", append, raw_append),
        ("read", read, raw_read),
        ("durable, one at a time", durable, raw_durable),
    ])
}

/// Sends without waiting for each record; everything is written at the end, and nothing synced.
fn append(broker: &Broker, value: &[u8], each: Duration) -> quipu::Result<Rate> {
    let topic = broker.create_topic("append", TopicConfig::new())?;
    let producer = broker.producer();
    repeat(each, value.len(), |times| {
        producer.send(&topic, Record::new(value))?.detach();
        // The clock is not the thing to measure.
        Ok(times % 256 != 0)
    })
    .and_then(|rate| producer.flush().map(|()| rate))
}

/// Each record is on the medium before the next one is sent.
fn durable(broker: &Broker, value: &[u8], each: Duration) -> quipu::Result<Rate> {
    let topic = broker.create_topic("durable", TopicConfig::new().durability(Durability::Sync))?;
    let producer = broker.producer();
    repeat(each, value.len(), |_| {
        producer.send(&topic, Record::new(value))?.wait()?;
        Ok(false)
    })
}

/// Reads everything that was appended, from its beginning, and again if there is time.
fn read(broker: &Broker, each: Duration) -> quipu::Result<Rate> {
    let start = Instant::now();
    let (mut times, mut bytes) = (0, 0);
    while times == 0 || start.elapsed() < each {
        for records in broker.reader("append", Start::Beginning)?.to_end() {
            for record in &records? {
                times += 1;
                bytes += record.value().map_or(0, <[u8]>::len) as u64;
            }
        }
    }
    Ok(Rate { times, bytes, took: start.elapsed() })
}

/// Calls until the time is over. A call returns whether to call again without a look at the clock.
fn repeat(
    each: Duration,
    size: usize,
    mut call: impl FnMut(u64) -> quipu::Result<bool>,
) -> quipu::Result<Rate> {
    let start = Instant::now();
    let mut times = 0;
    loop {
        times += 1;
        if !call(times)? && start.elapsed() >= each {
            return Ok(Rate { times, bytes: times * size as u64, took: start.elapsed() });
        }
    }
}

fn write_raw(path: &Path, chunk: &[u8], each: Duration) -> io::Result<Rate> {
    let mut file = File::create(path)?;
    let start = Instant::now();
    let mut times = 0;
    while times == 0 || start.elapsed() < each {
        file.write_all(chunk)?;
        times += 1;
    }
    Ok(Rate { times, bytes: times * chunk.len() as u64, took: start.elapsed() })
}

/// Each write is synced. It goes over bytes that are there, because a sync that stores another
/// length of the file too takes longer.
fn sync_raw(path: &Path, chunk: &[u8], each: Duration) -> io::Result<Rate> {
    let length = 4 << 20;
    let mut file = File::create(path)?;
    file.write_all(&vec![0; length])?;
    file.sync_all()?;
    let start = Instant::now();
    let mut times = 0;
    while times == 0 || start.elapsed() < each {
        if times % (length / chunk.len()) as u64 == 0 {
            file.rewind()?;
        }
        file.write_all(chunk)?;
        file.sync_data()?;
        times += 1;
    }
    Ok(Rate { times, bytes: times * chunk.len() as u64, took: start.elapsed() })
}

fn read_raw(path: &Path, each: Duration) -> io::Result<Rate> {
    let mut chunk = vec![0; CHUNK];
    let start = Instant::now();
    let (mut times, mut bytes) = (0, 0);
    while times == 0 || start.elapsed() < each {
        let mut file = File::open(path)?;
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            (times, bytes) = (times + 1, bytes + read as u64);
        }
    }
    Ok(Rate { times, bytes, took: start.elapsed() })
}

fn print(args: &Args, measured: &[Measured], out: &mut Output) -> Result<()> {
    let columns =
        [("MEASURED", Left), ("RECORDS/S", Right), ("VALUES/S", Right), ("RAW/S", Right), ("OF-RAW", Right)];
    let mut table = Table::new(&columns);
    for (name, rate, raw) in measured {
        // Where each record is a call to the system, calls are compared, and bytes elsewhere.
        let is_calls = name.starts_with("durable");
        let share = if is_calls {
            rate.per_second() / raw.per_second()
        } else {
            rate.bytes_per_second() / raw.bytes_per_second()
        };
        if out.is_json() {
            out.json(&json!({
                "measured": name,
                "value_bytes": args.size,
                "records": rate.times,
                "seconds": rate.took.as_secs_f64(),
                "records_per_second": rate.per_second(),
                "bytes_per_second": rate.bytes_per_second(),
                "raw_calls_per_second": raw.per_second(),
                "raw_bytes_per_second": raw.bytes_per_second(),
                "of_raw": share,
            }))?;
        }
        let raw = if is_calls {
            format!("{:.0} syncs", raw.per_second())
        } else {
            bytes(raw.bytes_per_second() as u64)
        };
        table.row([
            (*name).to_string(),
            format!("{:.0}", rate.per_second()),
            bytes(rate.bytes_per_second() as u64),
            raw,
            format!("{:.0}%", 100.0 * share),
        ]);
    }
    if out.is_json() { Ok(()) } else { out.table(&table) }
}
