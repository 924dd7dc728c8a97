//! A file is read into a topic by a program that loses its power again and again. Every start
//! resumes after the last stored line, and in the end each line is there once.
//!
//!     cargo run --release --example ingest [-- FILE]
//!
//! Two calls do it. `Record::sequence` gives each record its place in the source, here the line's
//! number. `Producer::last_sequence` returns the last one that was stored, by this run or an
//! earlier one. A source that cannot be read from the middle may also be sent from the start: a
//! record with a sequence that is stored already is not appended again.

use std::error::Error;

use quipu::testing::{Disk, Survive, produced};
use quipu::{Broker, BrokerConfig, ProducerConfig, Record, TopicConfig};

const POWER_LOSSES: u64 = 20;

/// The program.
fn ingest(broker: &Broker, lines: &[&str]) -> quipu::Result<()> {
    let topic = broker.ensure_topic("lines", TopicConfig::new())?;
    // The name is what the sequences belong to. It fences an older run that still sends.
    let producer = broker.producer_with(ProducerConfig::new().name("ingest"))?;
    let last = producer.last_sequence(&topic.partition(0)?)?;
    let begin = last.map_or(0, |last| last as usize + 1);
    println!("begins at line {begin} of {}", lines.len());
    for (number, line) in lines.iter().enumerate().skip(begin) {
        producer.send(&topic, Record::new(*line).sequence(number as u64))?.detach();
        if number % 10 == 9 {
            producer.flush()?; // returns the error of a detached send
            broker.sync()?; // what is synced survives a power loss
        }
    }
    producer.flush()?;
    broker.close()
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/CHANGELOG.md").into());
    let text = std::fs::read_to_string(path)?;
    let lines: Vec<&str> = text.lines().collect();

    // A disk in memory that loses its power on demand. A real program calls `Broker::open(dir)`.
    let disk = Disk::new();
    for loss in 0..POWER_LOSSES {
        disk.crash_at(40 + 4 * loss); // at this operation from now on
        let run = BrokerConfig::new().on_disk(&disk).and_then(|broker| ingest(&broker, &lines));
        // What was not synced is lost in part, as on a real disk.
        disk.crash(Survive::Random(loss));
        if let Err(e) = run {
            println!("run {loss} ends: {e}");
        }
    }
    ingest(&BrokerConfig::new().on_disk(&disk)?, &lines)?;

    let broker = BrokerConfig::new().on_disk(&disk)?;
    let stored = produced(&broker, "lines")?;
    assert!(stored.iter().map(|record| record.value_str()).eq(lines.iter().map(|line| Some(*line))));
    println!("ok: {} lines, each once and in order", stored.len());
    Ok(())
}
