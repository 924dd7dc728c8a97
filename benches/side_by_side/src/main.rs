//! Eleven small programs, each written twice: with rdkafka against a real Kafka, and with Quipu.
//!
//!     KAFKA_BOOTSTRAP=host:port cargo run --release --manifest-path benches/side_by_side/Cargo.toml
//!
//! Both must return the same lines, otherwise the exit code is 1. Prints a table of their sizes,
//! their allocations and their set-up time. `-- RUNS` runs each of them so many times (5) and
//! takes the medians; each run is a process of its own, with new topics. Linux only.

mod allocations;
mod kafka;
mod quipu;

use std::error::Error;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Program {
    name: &'static str,
    what: &'static str,
    partitions: i32,
    /// The end of the name of a second topic.
    second: Option<&'static str>,
    sources: [&'static str; 2],
}

macro_rules! program {
    ($name:literal, $what:literal, $partitions:literal, $second:expr) => {
        Program {
            name: $name,
            what: $what,
            partitions: $partitions,
            second: $second,
            sources: [
                include_str!(concat!("kafka/", $name, ".rs")),
                include_str!(concat!("quipu/", $name, ".rs")),
            ],
        }
    };
}

const PROGRAMS: [Program; 11] = [
    program!("first_record", "a first record, sent, read, committed", 1, None),
    program!("keyed_batches", "1,000 records with 10 keys, compressed", 4, None),
    program!("group", "two members of a group share 100 records", 4, None),
    program!("resume", "a second run continues at the committed offset", 1, None),
    program!("exactly_once", "a topic transformed by a run that dies, and again", 1, Some(".out")),
    program!("headers", "headers, and one replaced in a copy", 1, Some(".copies")),
    program!("time_lookup", "an offset by its time, read from there", 1, None),
    program!("tail", "from the end, as records come", 1, None),
    program!("dead_letters", "records that cannot be processed, put aside", 1, Some(".dead")),
    program!("rebalance_listener", "a listener sees a second member join", 4, None),
    program!("a_test", "a service and its test, without a Kafka", 1, None),
];

const SIDES: [&str; 2] = ["kafka", "quipu"];

static STARTED: OnceLock<Instant> = OnceLock::new();
static FIRST: OnceLock<Duration> = OnceLock::new();

/// Each program calls this once it has read a record. The first call counts.
fn first_record() {
    FIRST.get_or_init(|| STARTED.get().map_or(Duration::ZERO, Instant::elapsed));
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["--one", side, program, at, topic] => one(side, program, at, topic),
        [] => all(5),
        [runs] if runs.parse::<usize>().is_ok_and(|runs| runs > 0) => all(runs.parse().unwrap_or(1)),
        _ => {
            eprintln!("usage: KAFKA_BOOTSTRAP=host:port quipu-side-by-side [RUNS]");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one program in this process, and prints what it has cost and seen.
fn one(side: &str, program: &str, at: &str, topic: &str) -> Outcome<()> {
    let before = allocations::count();
    STARTED.get_or_init(Instant::now);
    let seen = match side {
        "quipu" => quipu::run(program, at.as_ref(), topic)?,
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(kafka::run(program, at, topic))?
        }
    };
    println!("{} {}", allocations::count() - before, FIRST.get().ok_or("it has read no record")?.as_micros());
    seen.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// What a run has cost, and the lines that it returned.
struct Run {
    allocations: u64,
    micros: u64,
    seen: Vec<String>,
}

fn run(side: &str, program: &str, at: &str, topic: &str) -> Outcome<Run> {
    let child = Command::new(std::env::current_exe()?).args(["--one", side, program, at, topic]).output()?;
    if !child.status.success() {
        return Err(format!("{program} on {side}: {}", String::from_utf8_lossy(&child.stderr)).into());
    }
    let out = String::from_utf8(child.stdout)?;
    let (costs, seen) = out.split_once('\n').ok_or("it printed nothing")?;
    let (allocations, micros) = costs.split_once(' ').ok_or("it printed no costs")?;
    let seen = seen.lines().map(str::to_string).collect();
    Ok(Run { allocations: allocations.parse()?, micros: micros.parse()?, seen })
}

fn all(runs: usize) -> Outcome<()> {
    let at = std::env::var("KAFKA_BOOTSTRAP").map_err(|_| "KAFKA_BOOTSTRAP must name a Kafka, host:port")?;
    let dir = std::env::temp_dir().join(format!("quipu-side-by-side-{}", std::process::id()));
    println!(
        "| program | lines: rdkafka | Quipu | allocations: rdkafka | Quipu | set-up, ms: rdkafka | Quipu |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for program in &PROGRAMS {
        let mut costs = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        for n in 0..runs {
            let topic = format!("{}-{}-{n}", program.name, std::process::id());
            create_topics(&at, program, &topic)?;
            let mut seen = Vec::new();
            for (side, costs) in SIDES.into_iter().zip(&mut costs) {
                let dir = dir.join(&topic);
                let at = if side == "quipu" { dir.to_str().ok_or("a path that is no text")? } else { &at };
                let run = run(side, program.name, at, &topic)?;
                costs[0].push(run.allocations);
                costs[1].push(run.micros);
                seen.push(run.seen);
            }
            if seen[0].is_empty() || seen[0] != seen[1] {
                return Err(format!("{}: {:#?} and {:#?}", program.name, seen[0], seen[1]).into());
            }
        }
        let [kafka, quipu] = program.sources.map(lines);
        let [[kafka_allocations, kafka_micros], [quipu_allocations, quipu_micros]] =
            costs.map(|of_side| of_side.map(median));
        println!(
            "| `{}`: {} | {kafka} | {quipu} | {kafka_allocations} | {quipu_allocations} | {} | {} |",
            program.name,
            program.what,
            millis(kafka_micros),
            millis(quipu_micros),
        );
    }
    std::fs::remove_dir_all(&dir)?;
    println!("\nok: {} programs, the same result on both sides in each of {runs} runs", PROGRAMS.len());
    Ok(())
}

/// On Kafka the topics are there before the program starts, as an administrator would make them.
fn create_topics(at: &str, program: &Program, topic: &str) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", at).create()?;
    let names: Vec<String> =
        [Some(""), program.second].into_iter().flatten().map(|end| format!("{topic}{end}")).collect();
    let topics: Vec<_> = names
        .iter()
        .map(|name| NewTopic::new(name, program.partitions, TopicReplication::Fixed(1)))
        .collect();
    for created in runtime.block_on(admin.create_topics(&topics, &AdminOptions::new()))? {
        created.map_err(|(name, e)| format!("{name}: {e}"))?;
    }
    for name in &names {
        // Until every partition has a leader, clients wait and try again.
        let has_leaders = || -> Outcome<bool> {
            let metadata = admin.inner().fetch_metadata(Some(name), Duration::from_secs(10))?;
            let partitions = metadata.topics().first().ok_or("no metadata")?.partitions();
            Ok(partitions.len() == program.partitions as usize
                && partitions.iter().all(|of| of.leader() >= 0))
        };
        while !has_leaders()? {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Neither blank nor a comment. `use` counts.
fn lines(source: &str) -> usize {
    source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

fn median(mut of: Vec<u64>) -> u64 {
    of.sort();
    of[of.len() / 2]
}

fn millis(micros: u64) -> String {
    format!("{:.1}", micros as f64 / 1000.0)
}
