//! The main job on real input: every line of some files goes into a topic as a record, is stored
//! compressed in segment files, survives the closing of the broker, and is read back by offset and
//! compared with the input.
//!
//!     cargo run --release --example quickstart [-- [--dir DIRECTORY] [FILE OR DIRECTORY]...]
//!
//! Without arguments it takes this crate's own sources, and a fresh temporary directory for the
//! log.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use quipu::{Broker, Compression, Offset, Record, Start, TopicConfig};

const TOPIC: &str = "lines";

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("quickstart: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the number of records that differ after reading.
fn run() -> Result<u64, Box<dyn Error>> {
    let options = Options::from_args()?;
    let input = read_input(&options.inputs)?;
    let lines: u64 = input.values().map(|lines| lines.len() as u64).sum();
    if lines == 0 {
        return Err("there is no line of text in the input".into());
    }
    println!("input:    {} files, {lines} lines", input.len());

    let offsets = write(&options.dir, &input)?;
    let (read, differences) = read_back(&options.dir, &input, &offsets)?;
    if options.temporary {
        std::fs::remove_dir_all(&options.dir)?;
    } else {
        println!("kept in:  {}", options.dir.display());
    }
    let verdict = if differences == 0 && read == lines { "ok" } else { "FAILED" };
    println!("{verdict}: {lines} records written, {read} read back, {differences} differences");
    Ok(differences + lines.abs_diff(read))
}

/// The place of each record: partition and offset for every line of every file.
type Offsets = BTreeMap<String, Vec<(u32, Offset)>>;
/// Every file's lines by its name. Lines are bytes: logs are not always UTF-8.
type Input = BTreeMap<String, Vec<Vec<u8>>>;

fn write(dir: &Path, input: &Input) -> Result<Offsets, Box<dyn Error>> {
    let broker = Broker::open(dir)?;
    let topic = broker.ensure_topic(TOPIC, TopicConfig::new().partitions(4).compression(Compression::Lz4))?;
    let producer = broker.producer();
    let started = Instant::now();
    let (mut bytes, mut offsets) = (0, Offsets::new());
    for (name, lines) in input {
        // Lines with the same key go to the same partition and keep their order.
        let send = |line: &Vec<u8>| producer.send(&topic, Record::new(line.as_slice()).key(name.as_str()));
        let pending = lines.iter().map(send).collect::<quipu::Result<Vec<_>>>()?;
        let receipts =
            pending.into_iter().map(|pending| pending.wait()).collect::<quipu::Result<Vec<_>>>()?;
        offsets.insert(name.clone(), receipts.iter().map(|r| (r.partition.get(), r.offset)).collect());
        bytes += lines.iter().map(|line| line.len() + name.len()).sum::<usize>();
    }
    producer.flush()?;
    broker.sync()?;
    let took = started.elapsed();
    let records: usize = offsets.values().map(Vec::len).sum();
    println!(
        "written:  {records} records, {bytes} bytes, {:.0} records/s, synced",
        records as f64 / took.as_secs_f64()
    );

    let stats = broker.stats();
    let partitions: Vec<_> =
        stats.topics.iter().filter(|t| t.name == TOPIC).flat_map(|t| &t.partitions).collect();
    let appended: u64 = partitions.iter().map(|p| p.bytes_appended).sum();
    println!("on disk:  {appended} bytes, ratio {:.2}", bytes as f64 / appended as f64);
    let partitions = broker.topic(TOPIC)?.partitions();
    for segment in partitions.iter().flat_map(|partition| partition.segments()) {
        println!("          {:>9} bytes  {}", segment.bytes, segment.file.display());
    }
    broker.close()?;
    Ok(offsets)
}

/// Reads all records in a reopened broker, each at the place of its receipt.
fn read_back(dir: &Path, input: &Input, offsets: &Offsets) -> Result<(u64, u64), Box<dyn Error>> {
    let broker = Broker::open(dir)?;
    let topic = broker.topic(TOPIC)?;
    let expected: BTreeMap<(u32, Offset), (&str, &[u8])> = offsets
        .iter()
        .flat_map(|(name, places)| {
            let lines = input.get(name).into_iter().flatten();
            places.iter().zip(lines).map(|(place, line)| (*place, (name.as_str(), line.as_slice())))
        })
        .collect();
    let started = Instant::now();
    let (mut read, mut differences) = (0, 0);
    for partition in topic.partitions() {
        let id = partition.id().get();
        // An earlier run may have left its own records in this directory: start after them.
        let Some(((_, first), _)) =
            expected.range((id, Offset::ZERO)..).next().filter(|((p, _), _)| *p == id)
        else {
            continue;
        };
        let mut from = *first;
        loop {
            let records = partition.read(Start::At(from), 1 << 20)?;
            let Some(last) = records.last() else { break };
            from = last.position().next().offset;
            for record in &records {
                read += 1;
                let wanted = expected.get(&(id, record.offset()));
                let found = (record.key(), record.value());
                if wanted.is_none_or(|(name, line)| found != (Some(name.as_bytes()), Some(line))) {
                    differences += 1;
                }
            }
        }
    }
    let took = started.elapsed();
    println!("read:     {read} records, {:.0} records/s", read as f64 / took.as_secs_f64());
    broker.close()?;
    Ok((read, differences))
}

struct Options {
    dir: PathBuf,
    temporary: bool,
    inputs: Vec<PathBuf>,
}

impl Options {
    fn from_args() -> Result<Self, Box<dyn Error>> {
        let (mut dir, mut inputs) = (None, Vec::new());
        let mut args = std::env::args_os().skip(1);
        while let Some(arg) = args.next() {
            if arg == "--dir" {
                dir = Some(PathBuf::from(args.next().ok_or("--dir wants a directory")?));
            } else if arg.to_string_lossy().starts_with("--") {
                return Err(format!(
                    "unknown option {arg:?}; usage: quickstart [--dir DIRECTORY] [FILE OR DIRECTORY]..."
                )
                .into());
            } else {
                inputs.push(PathBuf::from(arg));
            }
        }
        if inputs.is_empty() {
            inputs.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        }
        let temporary = dir.is_none();
        let dir = dir.unwrap_or_else(|| {
            let unique = std::time::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_nanos();
            std::env::temp_dir().join(format!("quipu-quickstart-{}-{unique}", std::process::id()))
        });
        Ok(Options { dir, temporary, inputs })
    }
}

fn read_input(inputs: &[PathBuf]) -> Result<Input, Box<dyn Error>> {
    let mut input = Input::new();
    for path in inputs {
        add_input(path, &mut input).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(input)
}

fn add_input(path: &Path, input: &mut Input) -> std::io::Result<()> {
    if path.is_dir() {
        let mut entries =
            std::fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| add_input(entry, input));
    }
    let bytes = std::fs::read(path)?;
    let mut lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    if lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    input.insert(path.display().to_string(), lines);
    Ok(())
}
