//! One topic is transformed into another, exactly once, by a process that is killed several times.
//!
//!     cargo run --release --example exactly_once [-- [FILE OR DIRECTORY]...]
//!
//! Without arguments it takes `../shared/data` if it exists, else this crate's own sources: every
//! line becomes a record of the topic `lines`. A child polls them, writes each one's length and
//! checksum into the topic `sums`, and commits both, the written records and the position in
//! `lines`, in one transaction. The parent kills it (SIGKILL) in the middle, a few times, and then
//! compares: every line has exactly one sum, in order.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use quipu::{Broker, Compression, Record, Start, TopicConfig};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PARTITIONS: u32 = 4;
const LINES_MAX: usize = 60_000;
const KILLS: usize = 6;

fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let result = match args.as_slice() {
        [flag, dir] if flag == Path::new("--child") => transform(dir).map_err(Into::into),
        inputs if inputs.iter().any(|arg| arg.to_string_lossy().starts_with('-') || !arg.exists()) => {
            eprintln!("usage: exactly_once [FILE OR DIRECTORY]...");
            return ExitCode::from(2);
        }
        inputs => run(inputs.to_vec()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("exactly_once: {e}");
            ExitCode::FAILURE
        }
    }
}

// -- the child: these are the ten lines --

fn transform(dir: &Path) -> quipu::Result<()> {
    let broker = Broker::open(dir)?;
    let sums = broker.topic("sums")?;
    let mut consumer = broker.consumer("sums").max_records(100).subscribe(["lines"])?;
    loop {
        let records = consumer.poll(Duration::from_millis(100))?;
        if records.is_empty() {
            say("done");
            return broker.close();
        }
        let mut transaction = broker.transaction();
        for record in &records {
            let sum = sum(record.value().unwrap_or_default());
            transaction.send(&sums.partition(record.partition())?, Record::new(sum));
        }
        transaction.offsets(&consumer, &records);
        transaction.commit()?;
        say("transformed some");
    }
}

fn sum(line: &[u8]) -> String {
    let fold = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{} {:016x}", line.len(), line.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

fn say(text: &str) {
    // The parent is gone.
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(1);
    }
}

// -- the parent: fills, kills, compares --

fn run(mut inputs: Vec<PathBuf>) -> Outcome<()> {
    if inputs.is_empty() {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let data = crate_dir.join("../shared/data");
        inputs.push(if data.is_dir() { data } else { crate_dir.join("src") });
    }
    let mut lines = Vec::new();
    for input in &inputs {
        read_lines(input, &mut lines)?;
    }
    println!("input:  {} lines (at most {LINES_MAX} are taken)", lines.len());
    let unique = std::time::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_nanos();
    let dir = std::env::temp_dir().join(format!("quipu-exactly-once-{}-{unique}", std::process::id()));
    fill(&dir, &lines)?;
    let batches = lines.len() / 100;
    let mut kills = 0;
    while !child(&dir, if kills < KILLS { 1 + batches / (KILLS + 2) } else { usize::MAX })? {
        kills += 1;
    }
    println!("killed: {kills} times while transforming");
    let equal = compare(&dir, &lines)?;
    std::fs::remove_dir_all(&dir)?;
    println!("ok: {equal} lines transformed exactly once, {kills} kills");
    Ok(())
}

fn fill(dir: &Path, lines: &[Vec<u8>]) -> quipu::Result<()> {
    let broker = Broker::open(dir)?;
    let config = TopicConfig::new().partitions(PARTITIONS).compression(Compression::Lz4);
    let topic = broker.ensure_topic("lines", config)?;
    broker.ensure_topic("sums", TopicConfig::new().partitions(PARTITIONS))?;
    let producer = broker.producer();
    for (partition, lines) in topic.partitions().iter().zip(lines.chunks(lines.len().div_ceil(4).max(1))) {
        producer.send_all(partition, lines.iter().map(|line| Record::new(&line[..])))?.detach();
    }
    producer.flush()?;
    broker.close()
}

/// Runs a child until it has printed this many lines, then kills it. Returns whether it had
/// finished before.
fn child(dir: &Path, words: usize) -> Outcome<bool> {
    let mut child =
        Command::new(std::env::current_exe()?).arg("--child").arg(dir).stdout(Stdio::piped()).spawn()?;
    let out = child.stdout.take().ok_or("the child says nothing")?;
    let mut last = String::new();
    for line in BufReader::new(out).lines().take(words) {
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

/// Checks that every line has its sum, in order, once. Returns their number.
fn compare(dir: &Path, lines: &[Vec<u8>]) -> Outcome<usize> {
    let broker = Broker::open(dir)?;
    let mut equal = 0;
    for (partition, lines) in (0..).zip(lines.chunks(lines.len().div_ceil(4).max(1))) {
        let mut found = Vec::new();
        for records in broker.reader(["sums"], Start::Beginning)?.to_end() {
            let records = records?;
            let here = records.iter().filter(|record| record.partition().get() == partition);
            found.extend(
                here.map(|record| String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned()),
            );
        }
        let expected: Vec<_> = lines.iter().map(|line| sum(line)).collect();
        if found != expected {
            let first = found.iter().zip(&expected).position(|(a, b)| a != b);
            let (found, expected) = (found.len(), expected.len());
            return Err(format!(
                "partition {partition}: {found} sums of {expected} lines, first difference {first:?}"
            )
            .into());
        }
        equal += found.len();
    }
    broker.close()?;
    Ok(equal)
}

fn read_lines(path: &Path, lines: &mut Vec<Vec<u8>>) -> Outcome<()> {
    if path.is_dir() {
        let mut entries =
            std::fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| read_lines(entry, lines));
    }
    let room = LINES_MAX.saturating_sub(lines.len());
    lines.extend(std::fs::read(path)?.split(|byte| *byte == b'\n').take(room).map(<[u8]>::to_vec));
    Ok(())
}
