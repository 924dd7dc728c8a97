//! Three members of a group share a topic; one is dropped half-way, and the others continue at its
//! committed offsets.
//!
//!     cargo run --release --example consumer_group [-- [FILE OR DIRECTORY]...]
//!
//! Without arguments it takes `../shared/data` if it exists, else this crate's own sources: every
//! line becomes a record, keyed by its file. It prints the owners over time, and compares at the
//! end: no record is lost or processed twice, because every member commits a record before it can
//! lose the partition.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quipu::{Broker, Compression, RebalanceEvent, Record, TopicConfig};

const PARTITIONS: u32 = 6;
const LINES_MAX: usize = 60_000;

/// How often each record was processed, by partition and offset.
type Processed = Mutex<BTreeMap<(u32, u64), u32>>;

fn main() -> ExitCode {
    let inputs: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if inputs.iter().any(|arg| arg.to_string_lossy().starts_with('-') || !arg.exists()) {
        eprintln!("usage: consumer_group [FILE OR DIRECTORY]...");
        return ExitCode::from(2);
    }
    match run(inputs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("consumer_group: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut inputs: Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    if inputs.is_empty() {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let data = crate_dir.join("../shared/data");
        inputs.push(if data.is_dir() { data } else { crate_dir.join("src") });
    }
    let mut lines = Vec::new();
    for input in &inputs {
        read_lines(input, &mut lines)?;
    }
    let broker = Broker::in_memory()?;
    let topic = broker
        .create_topic("lines", TopicConfig::new().partitions(PARTITIONS).compression(Compression::Lz4))?;
    let producer = broker.producer();
    for (name, line) in &lines {
        producer.send(&topic, Record::new(&line[..]).key(name))?.detach();
    }
    producer.flush()?;
    println!("input: {} lines in {PARTITIONS} partitions", lines.len());

    let (started, processed, done) = (Instant::now(), Processed::default(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let members: Vec<_> = ["ada", "ben", "cleo"]
            .into_iter()
            .map(|name| {
                let (broker, processed, done, total) = (&broker, &processed, &done, lines.len());
                // When half of the work is done, the consumer of "cleo" is dropped without `close`.
                let until = if name == "cleo" { total / 2 } else { total };
                scope.spawn(move || work(broker, name, started, processed, done, until))
            })
            .collect();
        members.into_iter().try_for_each(|member| {
            member.join().map_err(|_| "a member panicked")?.map_err(Box::<dyn Error>::from)
        })
    })?;

    let lag = broker.group("workers")?.lag()?;
    let processed = processed.into_inner()?;
    let twice = processed.values().filter(|times| **times > 1).count();
    if processed.len() != lines.len() || twice > 0 || lag > 0 {
        return Err(
            format!("{} of {} processed, {twice} twice, lag {lag}", processed.len(), lines.len()).into()
        );
    }
    println!("ok: {} lines processed by three members, 0 lost, 0 twice", processed.len());
    broker.close()?;
    Ok(())
}

fn work(
    broker: &Broker,
    name: &'static str,
    started: Instant,
    processed: &Processed,
    done: &AtomicUsize,
    until: usize,
) -> quipu::Result<()> {
    let mine = Arc::new(Mutex::new(0));
    let told = mine.clone();
    let mut consumer = broker
        .consumer("workers")
        .max_records(200)
        .on_rebalance(move |rebalance| {
            let partitions: Vec<_> = rebalance.partitions().iter().map(|of| of.partition.get()).collect();
            let verb = match rebalance.event() {
                RebalanceEvent::Assigned => "takes",
                RebalanceEvent::Revoked => "gives up",
                _ => "has lost",
            };
            let at = started.elapsed().as_secs_f64() * 1e3;
            let so_far = told.lock().map_or(0, |so_far| *so_far);
            println!("{at:8.2} ms  {name:<5}{verb} {partitions:?}, {so_far} processed so far");
            Ok(())
        })
        .subscribe(["lines"])?;
    while done.load(Ordering::Relaxed) < until {
        let records = consumer.poll(Duration::from_millis(20))?;
        for record in &records {
            let place = (record.partition().get(), record.offset().get());
            if let Ok(mut processed) = processed.lock() {
                *processed.entry(place).or_default() += 1;
            }
        }
        consumer.commit(&records)?; // before the next poll: no other member can own the partition yet
        done.fetch_add(records.len(), Ordering::Relaxed);
        if let Ok(mut mine) = mine.lock() {
            *mine += records.len();
        }
    }
    println!("{:8.2} ms  {name:<5}goes", started.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// Lines by the name of their file.
fn read_lines(path: &Path, lines: &mut Vec<(String, Vec<u8>)>) -> Result<(), Box<dyn Error>> {
    if path.is_dir() {
        let mut entries =
            std::fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| read_lines(entry, lines));
    }
    let room = LINES_MAX.saturating_sub(lines.len());
    let name = path.to_string_lossy().into_owned();
    let text = std::fs::read(path)?;
    lines.extend(text.split(|byte| *byte == b'\n').take(room).map(|line| (name.clone(), line.to_vec())));
    Ok(())
}
