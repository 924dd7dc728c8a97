//! Jobs that fail are tried again later, and after three attempts put aside as dead letters, while
//! the jobs after them continue.
//!
//!     cargo run --release --example dead_letters
//!
//! A failed job is forwarded to the topic `jobs.retry`, with the number of attempts in a header, or
//! to `jobs.dead`. The forwarded record and the position of the consumer are committed in one
//! transaction. So a crash at any place neither loses a job nor forwards it twice.

use std::collections::BTreeMap;
use std::time::Duration;

use quipu::testing::produced;
use quipu::{Broker, ConsumedRecord, Record, Result, TopicConfig};

const ATTEMPTS: u32 = 3;

/// The work. Every fifth job needs a second attempt, and every seventh never succeeds.
fn run(job: &str, attempt: u32) -> std::result::Result<(), String> {
    let number: u32 = job.parse().map_err(|e| format!("{job}: {e}"))?;
    match number {
        n if n % 7 == 0 => Err(format!("job {n} cannot be done")),
        n if n % 5 == 0 && attempt == 1 => Err(format!("job {n}: the other side is busy")),
        _ => Ok(()),
    }
}

fn attempt_of(record: &ConsumedRecord<'_>) -> u32 {
    let header = record.header("attempt").flatten().and_then(|value| std::str::from_utf8(value).ok());
    header.and_then(|value| value.parse().ok()).unwrap_or(1)
}

fn main() -> Result<()> {
    let broker = Broker::in_memory()?;
    for topic in ["jobs", "jobs.retry", "jobs.dead"] {
        broker.ensure_topic(topic, TopicConfig::new().partitions(2))?;
    }
    let producer = broker.producer();
    for number in 1..=100 {
        let number = number.to_string();
        producer.send("jobs", Record::new(&number).key(&number))?.detach();
    }
    producer.flush()?;

    let mut worker = broker.consumer("workers").max_records(10).subscribe(["jobs", "jobs.retry"])?;
    let mut done = BTreeMap::<String, u32>::new();
    while broker.group("workers")?.lag()? > 0 {
        let records = worker.poll(Duration::from_millis(100))?;
        let mut transaction = broker.transaction();
        for record in &records {
            let (job, attempt) = (record.value_str().unwrap_or_default(), attempt_of(&record));
            match run(job, attempt) {
                Ok(()) => drop(done.insert(job.to_string(), attempt)),
                Err(why) => {
                    let to = if attempt < ATTEMPTS { "jobs.retry" } else { "jobs.dead" };
                    // Key, headers and timestamp are kept. A header is replaced, so that a second
                    // `attempt` does not pile up beside the first.
                    let forwarded = Record::from(&record)
                        .replace_header("attempt", (attempt + 1).to_string())
                        .replace_header("error", why);
                    transaction.send(to, forwarded);
                }
            }
        }
        transaction.offsets(&worker, &records);
        transaction.commit()?;
    }

    let dead = produced(&broker, "jobs.dead")?;
    for letter in &dead {
        let error = letter.header("error").flatten().map(String::from_utf8_lossy);
        println!("dead: {} after {} attempts: {error:?}", letter.key_str().unwrap(), ATTEMPTS);
    }
    assert_eq!(dead.len(), 14, "7, 14, 21 ... 98");
    assert!(dead.iter().all(|letter| letter.headers().count() == 2), "nothing piled up");
    assert_eq!(done.len(), 86);
    let again = done.values().filter(|attempt| **attempt == 2).count();
    assert_eq!(again, 18, "every fifth but 35 and 70");
    assert_eq!(produced(&broker, "jobs.retry")?.len(), 18 + 14 * 2);
    println!("ok: {} jobs done, {again} of them at the second attempt, {} put aside", done.len(), dead.len());
    Ok(())
}
