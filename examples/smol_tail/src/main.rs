//! `tail -f` on smol: writers append lines, and a tail that joins late shows the last lines and then
//! follows.
//!
//!     cargo run --manifest-path examples/smol_tail/Cargo.toml
//!
//! Quipu's futures belong to no runtime, so nothing here is different from tokio but the names:
//! `smol::unblock` for what blocks, `smol::Timer` for time. The last line is `ok` and the exit code
//! 0 if the tail has seen every line from where it began, in the order of each writer.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use quipu::{Broker, Producer, Reader, Record, Start, TopicConfig};
use smol::future::FutureExt;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const WRITERS: usize = 4;
const LINES: usize = 500;
/// How many lines from before its start the tail shows.
const LAST: usize = 10;

fn main() -> ExitCode {
    match smol::block_on(run()) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("smol_tail: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<String> {
    let dir = std::env::temp_dir().join(format!("quipu-smol-tail-{}", std::process::id()));
    // Blocks: opening, and creating a topic.
    let (broker, log) = smol::unblock({
        let dir = dir.clone();
        move || -> quipu::Result<_> {
            let broker = Broker::open(dir)?;
            let log = broker.ensure_topic("log", TopicConfig::new())?;
            Ok((broker, log))
        }
    })
    .await?;

    // Half of the lines are there before the tail starts.
    write_all(&broker, 0..LINES / 2).await?;
    let end = log.partition(0)?.bounds()?.visible_end;
    let tail = broker.reader("log", Start::At((end.get() - LAST as u64).into()))?;
    let expected = LAST + WRITERS * (LINES - LINES / 2);
    let tailing = smol::spawn(follow(tail, expected));
    write_all(&broker, LINES / 2..LINES).await?;
    let seen = tailing.await?;

    broker.close_async().await?;
    smol::fs::remove_dir_all(&dir).await?;
    for (writer, lines) in &seen {
        if lines.last() != Some(&(LINES - 1)) || !lines.windows(2).all(|pair| pair[0] + 1 == pair[1]) {
            return Err(format!("{writer}: {lines:?}").into());
        }
    }
    Ok(format!("ok: {expected} lines of {} writers followed in order", seen.len()))
}

/// All writers at once.
async fn write_all(broker: &Broker, lines: std::ops::Range<usize>) -> quipu::Result<()> {
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| smol::spawn(write(broker.producer(), format!("writer-{n}"), lines.clone())))
        .collect();
    for writer in writers {
        writer.await?;
    }
    Ok(())
}

async fn write(producer: Producer, name: String, lines: std::ops::Range<usize>) -> quipu::Result<()> {
    for n in lines {
        producer.send_async("log", Record::new(n.to_string()).key(&name)).await?;
    }
    Ok(())
}

/// Follows until it has seen so many lines. Returns each writer's, in the order of the log.
async fn follow(mut tail: Reader, lines: usize) -> Outcome<BTreeMap<String, Vec<usize>>> {
    let mut seen = BTreeMap::<String, Vec<usize>>::new();
    for _ in 0..lines {
        // A future that lost the race is dropped. The next one starts at the same line.
        let line = loop {
            let line = async { Some(tail.recv_one().await) };
            let quiet = async {
                smol::Timer::after(Duration::from_millis(1)).await;
                None
            };
            match line.or(quiet).await {
                Some(line) => break line?.ok_or("woken without a line")?,
                None => continue, // a place for a heartbeat
            }
        };
        let (writer, number) = (line.key_str().ok_or("no key")?, line.value_str().ok_or("no value")?);
        seen.entry(writer.to_string()).or_default().push(number.parse()?);
    }
    Ok(seen)
}
