//! Are the walks in CONTRIBUTING.md those that the code takes? A medium notes the stack at the
//! operation that a walk ends with; the functions of the walk must be on it, in that order.

use std::backtrace::Backtrace;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::broker::Broker;
use crate::config::{BrokerConfig, Durability, ReadMode, TopicConfig};
use crate::record::Record;
use crate::storage::fs::FsStorage;
use crate::storage::{DirEntry, File, Map, OpenMode, Storage};
use crate::sync::{Arc, Mutex, Rank};
use crate::testing::ManualClock;
use crate::types::Start;

/// The stacks of reads and writes of one segment's file.
#[derive(Default)]
struct Stacks {
    is_noting: bool,
    reads: Vec<String>,
    writes: Vec<String>,
}

#[derive(Clone)]
struct Notes(Arc<Mutex<Stacks>>);

impl Notes {
    fn note(&self, which: impl FnOnce(&mut Stacks) -> &mut Vec<String>) {
        if self.0.lock().is_noting {
            let stack = Backtrace::force_capture().to_string();
            which(&mut self.0.lock()).push(stack);
        }
    }
}

struct Noting {
    inner: FsStorage,
    notes: Notes,
}

struct NotingFile {
    inner: Arc<dyn File>,
    notes: Notes,
}

impl Storage for Noting {
    fn display(&self, path: &Path) -> PathBuf {
        self.inner.display(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.inner.is_link(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let inner = self.inner.open(path, mode)?;
        if path.extension().is_none_or(|extension| extension != "log") {
            return Ok(inner);
        }
        Ok(Arc::new(NotingFile { inner, notes: self.notes.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn run_identity(&self) -> ([u8; 16], u32) {
        self.inner.run_identity()
    }
}

impl File for NotingFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.notes.note(|stacks| &mut stacks.reads);
        self.inner.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.notes.note(|stacks| &mut stacks.writes);
        self.inner.write_at(bytes, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.inner.map(len)
    }
}

/// A function on a stack: the file below `src/`, and its name without types.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    file: String,
    function: String,
}

/// The functions of this crate on a stack, outermost first.
fn frames(stack: &str) -> Vec<Frame> {
    let lines: Vec<&str> = stack.lines().collect();
    let frame = |pair: &[&str]| {
        let (number, name) = pair.first()?.trim().split_once(": ")?;
        number.parse::<u32>().ok()?;
        let (_, file) = pair.get(1)?.trim().strip_prefix("at ")?.split_once("/src/")?;
        let file = file.split(':').next()?;
        let is_ours = pair.get(1)?.contains("./src/") || pair.get(1)?.contains(env!("CARGO_MANIFEST_DIR"));
        let frame = Frame { file: file.to_string(), function: function_of(name) };
        (is_ours && file != "testing/walks.rs").then_some(frame)
    };
    let mut frames: Vec<Frame> = lines.windows(2).filter_map(frame).collect();
    frames.reverse();
    frames.dedup();
    frames
}

/// The last part of a name that is no closure, without the types in angle brackets.
fn function_of(name: &str) -> String {
    let mut depth = 0;
    let mut plain = String::new();
    for c in name.chars() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    plain
        .split("::")
        .filter(|part| !part.is_empty() && !part.starts_with('{'))
        .last()
        .unwrap_or("")
        .to_string()
}

/// The steps of a walk: the numbered list below a heading of CONTRIBUTING.md, each with a file and
/// a function.
fn walk(heading: &str) -> Vec<Frame> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONTRIBUTING.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split(&format!("### {heading}\n")).nth(1).unwrap_or_default();
    let section = section.split("\n#").next().unwrap_or_default();
    let steps = section.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    let step = |line: &str| {
        let mut code = line.split('`').skip(1).step_by(2).map(str::to_string);
        Some(Frame { function: code.next()?, file: code.next()? })
    };
    steps.filter_map(step).collect()
}

/// Each step of a walk is on the stack, after the step before it.
fn assert_is_walked(heading: &str, stack: &str) {
    let (steps, frames) = (walk(heading), frames(stack));
    if frames.is_empty() {
        println!("{heading}: SKIPPED, a build without line tables has no stacks to compare");
        return;
    }
    assert!((3..=12).contains(&steps.len()), "{heading} has {} steps: at most a dozen", steps.len());
    let mut rest = frames.iter();
    for step in &steps {
        assert!(
            rest.any(|frame| frame == step),
            "{heading}: {step:?} is not where the walk says. The stack, outermost first:\n{}",
            frames.iter().map(|f| format!("`{}` in `{}`\n", f.function, f.file)).collect::<String>()
        );
    }
}

#[test]
fn the_walks_of_the_contributors_guide_are_those_of_the_code() {
    let dir = tempfile::tempdir().unwrap();
    let notes = Notes(Arc::new(Mutex::new(Rank::Test, Stacks::default())));
    let open = || -> Broker {
        let inner = FsStorage::new(dir.path().to_path_buf());
        let storage = Noting { inner, notes: notes.clone() };
        let config = BrokerConfig::new().clock(ManualClock::new()).durability(Durability::Sync);
        config.read_mode(ReadMode::Positional).open_on(Arc::new(storage)).unwrap()
    };
    let take = || std::mem::take(&mut *notes.0.lock());
    let note = || notes.0.lock().is_noting = true;

    let broker = open();
    let topic = broker.create_topic("t", TopicConfig::new()).unwrap();
    broker.producer().send(&topic, Record::new("first")).unwrap().wait().unwrap();
    let producer = broker.producer();
    note();
    producer.send(&topic, Record::new("a record")).unwrap().wait().unwrap();
    assert_is_walked("A record's way in", take().writes.last().unwrap());

    let mut reader = broker.reader(["t"], Start::Beginning).unwrap();
    note();
    assert_eq!(reader.poll(Duration::ZERO).unwrap().iter().count(), 2);
    assert_is_walked("Its way out", take().reads.last().unwrap());
    drop(reader);

    // As a kill leaves the directory: the broker is forgotten, not closed.
    let copy = tempfile::tempdir().unwrap();
    copy_files(dir.path(), copy.path());
    let storage = Noting { inner: FsStorage::new(copy.path().to_path_buf()), notes: notes.clone() };
    note();
    let restarted = BrokerConfig::new().clock(ManualClock::new()).open_on(Arc::new(storage)).unwrap();
    // The deepest of its reads: that of the batches after the last durable point.
    let reads = take().reads;
    let deepest = reads.iter().max_by_key(|stack| frames(stack).len());
    assert_is_walked("A restart", deepest.unwrap());
    assert_eq!(restarted.open_report().recovered.len(), 1);
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_files(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
