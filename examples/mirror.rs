//! A second broker keeps a copy of every topic of the first, while writers append and the process
//! is killed several times.
//!
//!     cargo run --release --example mirror [-- [FILE OR DIRECTORY]...]
//!
//! Without arguments it takes `../shared/data` if it exists, else this crate's own sources: every
//! line becomes a record. Source and copy communicate over two channels only: requests ("the
//! batches from offset 17 of orders/1 on") one way, bytes the other. A socket would work as well.
//!
//! The parent runs itself as a child that writes and replicates, and kills it (SIGKILL) in the
//! middle, a few times; each child continues at the ends of the logs. The last one runs to the end.
//! Then the copy is promoted, which means that it is opened. It is compared record by record with
//! the source and the input, and appended to.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use quipu::{Broker, Compression, Offset, Partition, RawBatches, Record, Start, TopicConfig};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const TOPICS: [(&str, Compression); 2] = [("plain", Compression::None), ("packed", Compression::Lz4)];
const PARTITIONS: u32 = 2;
/// Records in one call: few, so that there are many batches and many shipments.
const CHUNK: usize = 20;
/// A pause between calls, so that writers still run at the time of the kill.
const PAUSE: Duration = Duration::from_millis(1);
const SHIPMENT_BYTES: usize = 16 << 10;
const KILLS: usize = 4;
/// A child is killed after this many shipments, and a few more each time.
const SHIPMENTS_PER_LIFE: usize = 40;
/// No more lines than this: the point is the order of events, not the amount.
const LINES_MAX: usize = 60_000;

fn main() -> ExitCode {
    let mut args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let child = args.first().is_some_and(|arg| arg == Path::new("--child")) && args.len() > 2;
    let inputs = args.split_off(if child { 2 } else { 0 });
    if inputs.iter().any(|arg| arg.to_string_lossy().starts_with('-') || !arg.exists()) {
        eprintln!("usage: mirror [FILE OR DIRECTORY]...");
        return ExitCode::from(2);
    }
    let result = if child { live(&args[1], &inputs) } else { run(inputs) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mirror: {e}");
            ExitCode::FAILURE
        }
    }
}

// -- the parent: kills, and compares --

fn run(mut inputs: Vec<PathBuf>) -> Outcome<()> {
    if inputs.is_empty() {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let data = crate_dir.join("../shared/data");
        inputs.push(if data.is_dir() { data } else { crate_dir.join("src") });
    }
    let unique = std::time::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_nanos();
    let dir = std::env::temp_dir().join(format!("quipu-mirror-{}-{unique}", std::process::id()));
    let lines = read_input(&inputs)?;
    println!("input:    {} lines (at most {LINES_MAX} are taken)", lines.len());
    let mut kills = 0;
    for life in 0..=KILLS {
        let limit = if life < KILLS { SHIPMENTS_PER_LIFE + 7 * life } else { usize::MAX };
        if child(&dir, &inputs, limit)? {
            break;
        }
        kills += 1;
    }
    println!("killed:   {kills} times while writing and replicating");
    let (batches, records) = compare(&dir, &lines)?;
    promote(&dir)?;
    std::fs::remove_dir_all(&dir)?;
    println!("ok: {batches} batches replicated, {records} records equal");
    Ok(())
}

/// Runs a child until it has reported so many shipments, then kills it. Returns whether it had
/// finished before.
fn child(dir: &Path, inputs: &[PathBuf], shipments: usize) -> Outcome<bool> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--child")
        .arg(dir)
        .args(inputs)
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().ok_or("the child says nothing")?;
    let mut last = String::new();
    for line in BufReader::new(out).lines().take(shipments) {
        last = line?;
    }
    if last != "done" {
        child.kill()?; // SIGKILL: nothing is closed, nothing flushed
    }
    let status = child.wait()?;
    match last == "done" {
        true if status.success() => Ok(true),
        false if status.code().is_none() => Ok(false),
        _ => Err(format!("the child failed: {status}").into()),
    }
}

/// Checks that source, copy and input are equal. Returns the numbers of batches and records of the
/// copy.
fn compare(dir: &Path, lines: &[Vec<u8>]) -> Outcome<(usize, usize)> {
    let (source, copy) = (Broker::open(dir.join("source"))?, Broker::open(dir.join("copy"))?);
    let (mut batches, mut equal) = (0, 0);
    for (slot, (topic, partition)) in slots().enumerate() {
        let ours = source.topic(topic)?.partition(partition)?;
        let theirs = copy.topic(topic)?.partition(partition)?;
        if ours.bounds()? != theirs.bounds()? {
            return Err(format!("{topic}/{partition}: {:?}, {:?}", ours.bounds()?, theirs.bounds()?).into());
        }
        let mut expected = lines_of(lines, slot);
        let mut from = Offset::ZERO;
        loop {
            let found = theirs.read(Start::At(from), 1 << 20)?;
            let Some(last) = found.last() else { break };
            let wanted = ours.read(Start::At(from), 1 << 20)?;
            for (a, b) in found.iter().zip(&wanted) {
                let same = (a.offset(), a.timestamp(), a.key(), a.value())
                    == (b.offset(), b.timestamp(), b.key(), b.value());
                if !same || a.value() != expected.next().map(Vec::as_slice) {
                    return Err(format!("{} and {} differ", a.position(), b.position()).into());
                }
                equal += 1;
            }
            from = last.offset().plus(1).min(wanted.last().map_or(from, |last| last.offset().plus(1)));
        }
        if expected.next().is_some() {
            return Err(format!("{topic}/{partition} lacks records").into());
        }
        let mut at = Offset::ZERO;
        while at < theirs.bounds()?.visible_end {
            let some = theirs.read_raw(at, 1 << 20)?;
            (batches, at) = (batches + some.len(), some.end_offset());
        }
    }
    source.close()?;
    copy.close()?;
    Ok((batches, equal))
}

/// Appends to the copy. There is nothing to convert.
fn promote(dir: &Path) -> Outcome<()> {
    let broker = Broker::open(dir.join("copy"))?;
    for topic in broker.topics() {
        for partition in topic.partitions() {
            let end = partition.bounds()?.log_end;
            let receipt = broker.producer().send(&partition, Record::new("written to the copy"))?.wait()?;
            let newest = partition.last_n(1)?;
            let value = newest.last().and_then(|record| record.value());
            if receipt.offset != end || value != Some(b"written to the copy") {
                return Err(format!("the promoted copy does not continue at offset {end}: {receipt}").into());
            }
        }
    }
    println!("promoted: the copy takes records of its own");
    Ok(broker.close()?)
}

// -- the child: writes, replicates, and does not expect to be killed --

/// A request of the copy.
enum Question {
    Topics,
    Batches { topic: String, partition: u32, from: Offset },
}

/// A response of the source.
enum Answer {
    /// Names and numbers of partitions.
    Topics(Vec<(String, u32)>),
    Batches {
        bytes: Vec<u8>,
        writing: bool,
    },
}

fn live(dir: &Path, inputs: &[PathBuf]) -> Outcome<()> {
    let lines = read_input(inputs)?;
    let source = Broker::open(dir.join("source"))?;
    for (name, compression) in TOPICS {
        let config = TopicConfig::new().partitions(PARTITIONS).compression(compression);
        source.ensure_topic(name, config.segment_bytes(256 << 10).max_record_bytes(64 << 10))?;
    }
    let writing = AtomicUsize::new(slots().count());
    let (ask, questions) = channel();
    let (answer, answers) = channel();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (slot, (topic, partition)) in slots().enumerate() {
            let (source, lines, writing) = (&source, &lines, &writing);
            threads.push(scope.spawn(move || {
                let done = write(source, topic, partition, lines_of(lines, slot));
                // After the last record, so that a thread which sees that no writer is left sees
                // all records.
                writing.fetch_sub(1, Ordering::SeqCst);
                done
            }));
        }
        let (from, writing) = (&source, &writing);
        threads.push(scope.spawn(move || serve(from, &questions, &answer, writing)));
        threads.push(scope.spawn(move || follow(&dir.join("copy"), &ask, &answers)));
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })?;
    source.close()?;
    say("done")
}

/// Writes the lines of one partition, from the log's end on.
fn write<'a>(
    source: &Broker,
    topic: &str,
    partition: u32,
    lines: impl Iterator<Item = &'a Vec<u8>>,
) -> Outcome<()> {
    let partition = source.topic(topic)?.partition(partition)?;
    let producer = source.producer();
    let written = partition.bounds()?.log_end.get() as usize;
    let rest: Vec<_> = lines.skip(written).collect();
    for chunk in rest.chunks(CHUNK) {
        for line in chunk {
            producer.send(&partition, Record::new(line.as_slice()))?.detach();
        }
        producer.flush()?;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// The source's side: responds until the other side is gone.
fn serve(
    source: &Broker,
    questions: &Receiver<Question>,
    answers: &Sender<Answer>,
    writing: &AtomicUsize,
) -> Outcome<()> {
    for question in questions {
        let answer = match question {
            Question::Topics => {
                let topic = |t: &quipu::Topic| (t.name().to_string(), t.partition_count());
                Answer::Topics(source.topics().iter().map(topic).collect())
            }
            Question::Batches { topic, partition, from } => {
                // Before the records are read: see `live`.
                let writing = writing.load(Ordering::SeqCst) > 0;
                let batches = source.topic(&topic)?.partition(partition)?.read_raw(from, SHIPMENT_BYTES)?;
                Answer::Batches { bytes: batches.into_bytes(), writing }
            }
        };
        if answers.send(answer).is_err() {
            break;
        }
    }
    Ok(())
}

/// The copy's side: requests missing batches until there are none and no writer is left.
fn follow(dir: &Path, ask: &Sender<Question>, answers: &Receiver<Answer>) -> Outcome<()> {
    let broker = Broker::open(dir)?;
    ask.send(Question::Topics)?;
    let Answer::Topics(topics) = answers.recv()? else { return Err("not the answer".into()) };
    let mut copies: BTreeMap<(String, u32), Partition> = BTreeMap::new();
    for (name, partitions) in topics {
        // Batches keep their compression, whatever the topic of the copy has.
        let config = TopicConfig::new().partitions(partitions).segment_bytes(256 << 10);
        let topic = broker.ensure_topic(&name, config.max_record_bytes(64 << 10))?;
        copies.extend(topic.partitions().into_iter().map(|p| ((name.clone(), p.id().get()), p)));
    }
    loop {
        let mut idle = true;
        for ((topic, partition), copy) in &copies {
            // The log end is the only state of a follower, and the log has it.
            let from = copy.bounds()?.log_end;
            ask.send(Question::Batches { topic: topic.clone(), partition: *partition, from })?;
            let Answer::Batches { bytes, writing } = answers.recv()? else {
                return Err("not the answer".into());
            };
            let batches = RawBatches::from_bytes(bytes)?;
            if !batches.is_empty() {
                let end = copy.append_raw(&batches)?;
                say(&format!("shipped {} batches of {topic}/{partition} up to {end}", batches.len()))?;
            }
            idle &= batches.is_empty() && !writing;
        }
        if idle {
            return Ok(broker.close()?);
        }
    }
}

/// One line to the parent, at once.
fn say(line: &str) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    Ok(out.flush()?)
}

// -- the input --

/// Every partition of every topic.
fn slots() -> impl Iterator<Item = (&'static str, u32)> {
    TOPICS.into_iter().flat_map(|(name, _)| (0..PARTITIONS).map(move |partition| (name, partition)))
}

/// The lines that go into one partition.
fn lines_of(lines: &[Vec<u8>], slot: usize) -> impl Iterator<Item = &Vec<u8>> {
    lines.iter().skip(slot).step_by(slots().count())
}

fn read_input(inputs: &[PathBuf]) -> Outcome<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    for path in inputs {
        add_input(path, &mut lines).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    lines.truncate(LINES_MAX);
    Ok(lines)
}

fn add_input(path: &Path, lines: &mut Vec<Vec<u8>>) -> std::io::Result<()> {
    if path.is_dir() {
        let mut entries =
            std::fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| add_input(entry, lines));
    }
    // Lines are bytes: logs are not always UTF-8. No line is longer than the topics allow.
    let bytes = std::fs::read(path)?;
    lines.extend(bytes.split(|b| *b == b'\n').map(|line| line[..line.len().min(32 << 10)].to_vec()));
    Ok(())
}
