//! Are the walks in CONTRIBUTING.md those that the code takes? A medium notes the stack at the operation that a walk ends with;
//! the functions of the walk must be on it, in that order.

use std::backtrace::Backtrace;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::broker::Broker;
use crate::config::{BrokerConfig, Durability, ReadMode, TopicConfig};
use crate::record::Record;
use crate::storage::fs::FsStorage;
use crate::storage::{Entry, File, Map, OpenMode, Storage};
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

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
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

/// The functions of a stack that are ours, outermost first, as `module::function`.
fn functions(stack: &str) -> Vec<String> {
    let ours = stack.lines().filter_map(|line| line.split_once(": ")).map(|(_, name)| name.trim());
    let mut names: Vec<String> = ours
        .filter(|name| name.contains("quipu::") && !name.contains("testing::walks"))
        .map(|name| name.replace("::{{closure}}", ""))
        .collect();
    names.reverse();
    names.dedup();
    names
}

/// The names in the numbered list below a heading of CONTRIBUTING.md.
fn walk(heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONTRIBUTING.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split(&format!("### {heading}\n")).nth(1).unwrap_or_default();
    let section = section.split("\n#").next().unwrap_or_default();
    let steps = section.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    let name = |line: &str| line.split('`').nth(1).unwrap_or_default().to_string();
    steps.map(name).filter(|name| !name.is_empty()).collect()
}

/// Each step of a walk is on the stack, after the step before it.
fn assert_is_walked(heading: &str, stack: &str) {
    let (steps, functions) = (walk(heading), functions(stack));
    assert!((3..=12).contains(&steps.len()), "{heading} has {} steps: at most a dozen", steps.len());
    let mut rest = functions.iter();
    for step in &steps {
        let (of, function) = step.rsplit_once("::").unwrap_or(("", step));
        let is_step = |name: &&String| {
            name.rsplit("::").next() == Some(function) && (of.is_empty() || name.contains(of))
        };
        assert!(
            rest.any(|name| is_step(&name)),
            "{heading}: {step} is not where the walk says. The stack, outermost first:\n{}",
            functions.join("\n")
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

    let mut reader = broker.reader(&["t"], Start::Beginning).unwrap();
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
    let reads = take().reads;
    assert_is_walked("A restart", reads.iter().find(|stack| stack.contains("read_segment")).unwrap());
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
