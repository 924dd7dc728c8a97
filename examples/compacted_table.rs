//! A compacted changelog: every change of a table of counters is a record. The topic is compacted
//! as it grows, and the table is rebuilt from it.
//!
//!     cargo run --release --example compacted_table [-- FILE]
//!
//! The keys are the fifth words of the lines of FILE, by default `../shared/data/OpenSSH.log` if it
//! exists, else generated. Every seventh change deletes its key.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use quipu::{Broker, Cleanup, Compression, Offset, Record, Start, TopicConfig};

/// The keys are repeated until this many changes were made.
const CHANGES: usize = 200_000;

fn main() -> Result<(), Box<dyn Error>> {
    let file = match std::env::args().nth(1) {
        Some(file) if !Path::new(&file).is_file() => return Err("usage: compacted_table [FILE]".into()),
        Some(file) => file,
        None => "../shared/data/OpenSSH.log".to_string(),
    };
    let keys: Vec<String> = if Path::new(&file).exists() {
        let text = String::from_utf8_lossy(&std::fs::read(&file)?).into_owned();
        text.lines().filter_map(|line| line.split_whitespace().nth(4)).map(str::to_string).collect()
    } else {
        (0..997u64).map(|n| format!("user {}", n.wrapping_mul(2_654_435_761) % 997)).collect()
    };

    let dir = std::env::temp_dir().join(format!("quipu-compacted-{}", std::process::id()));
    let broker = Broker::open(&dir)?;
    let config = TopicConfig::new()
        .cleanup(Cleanup::Compact)
        .compression(Compression::Lz4)
        .segment_bytes(1 << 18)
        .max_record_bytes(1 << 16);
    let changes = broker.create_topic("counters", config)?;
    let producer = broker.producer();
    let mut table = BTreeMap::new();
    for (n, key) in keys.iter().cycle().take(CHANGES).enumerate() {
        let record = if n % 7 == 6 {
            table.remove(key);
            Record::tombstone(key)
        } else {
            let count = table.entry(key.clone()).or_insert(0u64);
            *count += 1;
            Record::new(count.to_string()).key(key).header("from", "the example")
        };
        producer.send(&changes, record)?.detach();
    }
    producer.flush()?;

    let partition = changes.partition(0)?;
    let before = partition.stats().bytes;
    while let Some(pass) = partition.compact()? {
        println!(
            "up to offset {}: {} records became {}",
            pass.compacted_to, pass.records_before, pass.records_after
        );
    }
    let after = partition.stats().bytes;

    let (mut rebuilt, mut from) = (BTreeMap::new(), Offset::new(0));
    loop {
        let records = partition.read(Start::At(from), 1 << 20)?;
        let Some(last) = records.last() else { break };
        from = last.offset().plus(1);
        for record in &records {
            let key = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
            match record.value() {
                Some(value) => rebuilt.insert(key, std::str::from_utf8(value)?.parse::<u64>()?),
                None => rebuilt.remove(&key),
            };
        }
    }
    broker.close()?;
    std::fs::remove_dir_all(&dir)?;
    if rebuilt != table {
        return Err("the table that was rebuilt is another one".into());
    }
    println!("ok: {CHANGES} changes, {before} bytes, compacted to {after}; {} keys rebuilt", table.len());
    Ok(())
}
