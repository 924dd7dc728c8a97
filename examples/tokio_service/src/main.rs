//! A service on tokio: requests come in over a channel, three tasks process what was stored, and a
//! signal ends it without a loss.
//!
//!     cargo run --manifest-path examples/tokio_service/Cargo.toml [-- --for MILLIS]
//!
//! It runs until Ctrl-C or SIGTERM, or for MILLIS. Then it opens its directory again and counts:
//! every request that was acknowledged is stored, and was processed once, before the shutdown or
//! after it. The last line is `ok` and the exit code 0 if that holds.
//!
//! What blocks, and therefore runs in `spawn_blocking`: opening, creating topics, closing a consumer,
//! and the work on the records. What does not: `send`, as long as the buffer of the producer has
//! room, and everything that is awaited. A sync is made by a thread of the broker.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu::{Broker, Consumer, Durability, Producer, Receipt, Record, Records, Start, TopicConfig};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const CLIENTS: usize = 20;
const CONSUMERS: usize = 3;
const PARTITIONS: u32 = 6;

/// What a client hands in. It is acknowledged over the second channel.
struct Request {
    client: String,
    line: String,
    stored: oneshot::Sender<quipu::Result<Receipt>>,
}

/// How often each record was processed, by partition and offset.
type Processed = Arc<Mutex<BTreeMap<(u32, u64), u32>>>;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let millis = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--for", millis] if millis.parse::<u64>().is_ok() => millis.parse().ok(),
        _ => {
            eprintln!("usage: tokio_service [--for MILLIS]");
            return ExitCode::from(2);
        }
    };
    match run(millis.map(Duration::from_millis)).await {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("tokio_service: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(time: Option<Duration>) -> Outcome<String> {
    let dir = std::env::temp_dir().join(format!("quipu-tokio-service-{}", std::process::id()));
    let processed = Processed::default();
    let acknowledged = serve(dir.clone(), processed.clone(), time).await?;
    println!("closed: {acknowledged} requests acknowledged, {} processed", processed.lock().unwrap().len());
    spawn_blocking(move || {
        let line = count(&dir, acknowledged, &processed)?;
        std::fs::remove_dir_all(&dir)?;
        Ok(line)
    })
    .await?
}

/// Runs the service until it is stopped. Returns the number of acknowledged requests.
async fn serve(dir: PathBuf, processed: Processed, time: Option<Duration>) -> Outcome<usize> {
    // Blocks: opening recovers what a crash left, and creating a topic syncs.
    let broker = spawn_blocking(move || -> quipu::Result<Broker> {
        let broker = Broker::open(dir)?;
        let config = TopicConfig::new().partitions(PARTITIONS).durability(Durability::Sync);
        broker.ensure_topic("requests", config)?;
        Ok(broker)
    })
    .await??;

    let (requests, queue) = mpsc::channel(1000);
    let (stop, stopped) = watch::channel(false);
    let ingesting = tokio::spawn(ingest(broker.producer(), queue));
    let mut consumers = JoinSet::new();
    for _ in 0..CONSUMERS {
        let consumer = broker.consumer("workers").subscribe("requests")?;
        consumers.spawn(consume(consumer, processed.clone(), stopped.clone()));
    }
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        clients.spawn(client(format!("client-{n}"), requests.clone(), stopped.clone()));
    }
    drop(requests); // the clients have the others: without clients, `ingest` ends
    println!("serving {CLIENTS} clients with {CONSUMERS} consumers");

    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => signal().await?,
    }

    // The order matters. First no new requests: each client waits for its last acknowledgement.
    stop.send_replace(true);
    let acknowledged = clients.join_all().await.into_iter().sum();
    // Then `ingest` empties the queue and ends, because all senders are gone.
    ingesting.await?;
    // The consumers commit what they have. The rest waits in the topic for the next start.
    for consumer in consumers.join_all().await {
        consumer?;
    }
    // Closing syncs, on a thread of its own. Dropping the last handle would do it on this one.
    broker.close_async().await?;
    Ok(acknowledged)
}

/// Stores requests in bursts: those that came during one sync share the next one.
async fn ingest(producer: Producer, mut queue: mpsc::Receiver<Request>) {
    let mut burst = Vec::new();
    while queue.recv_many(&mut burst, 1000).await > 0 {
        // At most one burst is in the producer's buffer, so `send` waits for no room. Where larger
        // ones are possible, `send_async` awaits the room.
        let sent: Vec<_> = burst
            .drain(..)
            .map(|request: Request| {
                let record = Record::new(request.line).key(request.client);
                (producer.send("requests", record), request.stored)
            })
            .collect();
        for (pending, stored) in sent {
            let receipt = match pending {
                Ok(pending) => pending.await,
                Err(e) => Err(e),
            };
            let _ = stored.send(receipt); // an error if the client has gone
        }
    }
}

async fn consume(
    mut consumer: Consumer,
    processed: Processed,
    mut stopped: watch::Receiver<bool>,
) -> Outcome<()> {
    loop {
        let records = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => break,
            // Dropped if the other branch wins. No record is lost by that.
            records = consumer.recv() => records?,
        };
        // Work of more than some microseconds must not run on a thread of the runtime.
        let processed = processed.clone();
        let records = spawn_blocking(move || process(records, &processed)).await?;
        // Before the next `recv`: until then no other member can own these partitions.
        consumer.commit_async(&records).await?;
    }
    // Leaves the group. Blocks if there is something to commit, or a listener that blocks.
    spawn_blocking(move || consumer.close()).await??;
    Ok(())
}

fn process(records: Records, processed: &Processed) -> Records {
    let mut processed = processed.lock().unwrap();
    for record in &records {
        *processed.entry((record.partition().get(), record.offset().get())).or_default() += 1;
    }
    records
}

/// Sends one request after the other until the service stops. Returns the number of those that were
/// acknowledged.
async fn client(name: String, requests: mpsc::Sender<Request>, stopped: watch::Receiver<bool>) -> usize {
    let mut acknowledged = 0;
    while !*stopped.borrow() {
        let (stored, receipt) = oneshot::channel();
        let request = Request { client: name.clone(), line: format!("request {acknowledged}"), stored };
        if requests.send(request).await.is_err() {
            break;
        }
        match receipt.await {
            Ok(Ok(_)) => acknowledged += 1,
            _ => break,
        }
    }
    acknowledged
}

async fn signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            done = tokio::signal::ctrl_c() => done,
            _ = term.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// The next start: it processes the requests that are left, and compares.
fn count(dir: &Path, acknowledged: usize, processed: &Processed) -> Outcome<String> {
    let broker = Broker::open(dir)?;
    if !broker.open_report().clean {
        return Err("the broker was not closed".into());
    }
    let stored = broker
        .reader("requests", Start::Beginning)?
        .to_end()
        .try_fold(0, |sum, records| records.map(|records| sum + records.len()))?;
    let before = processed.lock().unwrap().len();
    let mut consumer = broker.consumer("workers").subscribe("requests")?;
    while broker.group("workers")?.lag()? > 0 {
        let records = process(consumer.poll(Duration::from_secs(1))?, processed);
        consumer.commit(&records)?;
    }
    consumer.close()?;
    broker.close()?;
    let processed = processed.lock().unwrap();
    let (all, twice) = (processed.len(), processed.values().filter(|times| **times > 1).count());
    if acknowledged == 0 || (stored, all, twice) != (acknowledged, acknowledged, 0) {
        return Err(
            format!("{acknowledged} acknowledged, {stored} stored, {all} processed, {twice} twice").into()
        );
    }
    Ok(format!(
        "ok: {acknowledged} requests stored, {before} processed before the shutdown, {} after it",
        all - before
    ))
}
