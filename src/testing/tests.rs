//! The order of a broker's calls to a real file system. A layer between the two records all calls.

use std::io;
use std::path::{Path, PathBuf};

use crate::broker::Broker;
use crate::config::{BrokerConfig, Cleanup, Durability, TopicConfig};
use crate::error::Result;
use crate::record::Record;
use crate::storage::fs::FsStorage;
use crate::storage::{DirEntry, File, Map, OpenMode, Storage};
use crate::sync::{Arc, Mutex, Rank};
use crate::testing::ManualClock;
use crate::types::TopicName;

#[derive(Clone, Debug, PartialEq)]
enum Call {
    MakeDir(PathBuf),
    Create(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Write(PathBuf),
    SyncData(PathBuf),
    SyncDir(PathBuf),
    SyncRoot,
    /// A caller got an acknowledgement of durability.
    Acknowledged,
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// The name of an open file, which follows the file when that is renamed.
type Name = Arc<Mutex<PathBuf>>;

struct Recorder {
    inner: FsStorage,
    calls: Calls,
    names: Mutex<Vec<Name>>,
}

struct RecordedFile {
    inner: Arc<dyn File>,
    name: Name,
    calls: Calls,
}

impl Recorder {
    /// Records a successful call.
    fn note<R>(&self, result: io::Result<R>, call: Call) -> io::Result<R> {
        if result.is_ok() {
            self.calls.lock().push(call);
        }
        result
    }
}

impl Storage for Recorder {
    fn display(&self, path: &Path) -> PathBuf {
        self.inner.display(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.note(self.inner.create_dir(path), Call::MakeDir(path.into()))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.inner.is_link(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let inner = self.inner.open(path, mode)?;
        if matches!(mode, OpenMode::CreateNew | OpenMode::Truncate) {
            self.calls.lock().push(Call::Create(path.into()));
        }
        let name = Arc::new(Mutex::new(Rank::Test, path.into()));
        self.names.lock().push(Arc::clone(&name));
        Ok(Arc::new(RecordedFile { inner, name, calls: Arc::clone(&self.calls) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(self.inner.rename(from, to), Call::Rename(from.into(), to.into()))?;
        for name in self.names.lock().iter() {
            let mut name = name.lock();
            if *name == from {
                *name = to.into();
            }
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.note(self.inner.remove_file(path), Call::Remove(path.into()))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.note(self.inner.sync_dir(dir), Call::SyncDir(dir.into()))
    }

    fn sync_root(&self) -> io::Result<()> {
        self.note(self.inner.sync_root(), Call::SyncRoot)
    }

    fn run_identity(&self) -> ([u8; 16], u32) {
        self.inner.run_identity()
    }
}

impl File for RecordedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let written = self.inner.write_at(bytes, position)?;
        let path = self.name.lock().clone();
        self.calls.lock().push(Call::Write(path));
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()?;
        let path = self.name.lock().clone();
        self.calls.lock().push(Call::SyncData(path));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.inner.map(len)
    }
}

/// Opens a directory, and records the calls from here on.
fn open_recorded(dir: &Path, calls: &Calls) -> Broker {
    let inner = FsStorage::new(dir.to_path_buf());
    let names = Mutex::new(Rank::Test, Vec::new());
    let storage = Arc::new(Recorder { inner, calls: Arc::clone(calls), names });
    let config = BrokerConfig::new().clock(ManualClock::new()).seed(1).durability(Durability::Sync);
    config.open_on(storage).unwrap()
}

/// A broker that does each thing once, and the calls that this took.
fn calls() -> Vec<Call> {
    let dir = tempfile::tempdir().unwrap();
    let calls = Calls::new(Mutex::new(Rank::Test, Vec::new()));
    let open = || open_recorded(dir.path(), &calls);
    let done = || calls.lock().push(Call::Acknowledged);
    let small = || TopicConfig::new().segment_bytes(1 << 10).max_record_bytes(700);
    let send = |broker: &Broker, topic: &str, n: u32| -> Result<()> {
        let record = Record::new(format!("{n:>300}")).key(format!("{}", n % 3));
        broker.producer().send(topic, record)?.wait()?;
        done();
        Ok(())
    };
    let broker = open();
    for (name, cleanup) in [("log", Cleanup::Delete), ("table", Cleanup::Compact)] {
        broker.create_topic(name, small().cleanup(cleanup).min_cleanable_dirty_ratio(1.0)).unwrap();
        done();
        for n in 0..12 {
            send(&broker, name, n).unwrap();
        }
    }
    let log = broker.topic("log").unwrap().partition(0).unwrap();
    log.delete_records(4.into()).unwrap();
    done();
    log.truncate_to(9.into()).unwrap();
    done();
    send(&broker, "log", 12).unwrap();
    while broker.topic("table").unwrap().partition(0).unwrap().compact().unwrap().is_some() {}
    done();
    for _ in 0..2 {
        let mut transaction = broker.transaction();
        transaction.send("log", Record::new("both")).send("table", Record::new("both").key("k"));
        transaction.commit().unwrap();
        done();
    }
    let consumer = broker.consumer("group").assign(&[log]).unwrap();
    let next = crate::types::Position {
        topic: TopicName::new("log").unwrap(),
        partition: 0.into(),
        offset: 5.into(),
        epoch: 1,
    };
    consumer.commit(consumer.offsets_at([&next])).unwrap();
    done();
    drop(consumer);
    broker.delete_topic("log").unwrap();
    done();
    broker.close().unwrap();
    done();
    drop(broker);
    let broker = open();
    send(&broker, "table", 13).unwrap();
    drop(broker);
    calls.lock().clone()
}

#[test]
fn an_opening_after_a_close_syncs_nothing_and_the_first_change_syncs_the_name_of_the_root_first() {
    let dir = tempfile::tempdir().unwrap();
    let calls = Calls::new(Mutex::new(Rank::Test, Vec::new()));
    let take = || std::mem::take(&mut *calls.lock());
    let broker = open_recorded(dir.path(), &calls);
    assert_eq!(take().first(), Some(&Call::SyncRoot), "a new directory");
    broker.create_topic("t", TopicConfig::new()).unwrap();
    broker.close().unwrap();
    drop(broker);

    take();
    let broker = open_recorded(dir.path(), &calls);
    assert_eq!(take(), []);
    broker.producer().send("t", Record::new("v")).unwrap().wait().unwrap();
    assert_eq!(take().first(), Some(&Call::SyncRoot), "the first change");
    broker.close().unwrap();
    drop(broker);

    std::fs::remove_file(dir.path().join("checkpoint")).unwrap();
    take();
    drop(open_recorded(dir.path(), &calls));
    assert_eq!(take().first(), Some(&Call::SyncRoot), "not closed properly");
}

fn has_end(path: &Path, end: &str) -> bool {
    path.to_string_lossy().ends_with(end)
}

/// Whether this comes before the next call that `is_end` names.
fn comes_before(calls: &[Call], wanted: &Call, is_end: impl Fn(&Call) -> bool) -> bool {
    calls.iter().take_while(|call| !is_end(call)).any(|call| call == wanted)
}

#[test]
fn names_are_durable_before_files_that_rely_on_them() {
    let calls = calls();
    let (mut made, mut segments, mut replaced, mut removed) = (0, 0, 0, 0);
    for (at, call) in calls.iter().enumerate() {
        let later = &calls[at + 1..];
        let dir = |path: &Path| Call::SyncDir(path.parent().unwrap().to_path_buf());
        match call {
            Call::MakeDir(path) => {
                let synced = comes_before(later, &dir(path), |call| *call == Call::Acknowledged);
                assert!(synced, "{path:?} was made, and its parent not synced");
                made += 1;
            }
            Call::Create(path) if has_end(path, ".log") => {
                let lists = |call: &Call| matches!(call, Call::Rename(_, to) if *to == path.with_file_name("manifest"));
                let synced = comes_before(later, &dir(path), lists);
                assert!(synced, "a manifest may list {path:?}, whose name is not on the medium");
                segments += 1;
            }
            Call::Rename(from, to) if has_end(from, ".tmp") => {
                let written = calls[..at].iter().rposition(|call| *call == Call::Write(from.clone()));
                let synced = calls[written.unwrap()..at].contains(&Call::SyncData(from.clone()));
                assert!(synced, "{from:?} was renamed before it was synced");
                // Not acknowledged and not relied on before: no file is removed because of it.
                let relies = |call: &Call| {
                    *call == Call::Acknowledged
                        || matches!(call, Call::Remove(gone) if gone.parent() == to.parent())
                };
                assert!(
                    comes_before(later, &dir(to), relies),
                    "{to:?} was replaced, and its directory not synced"
                );
                replaced += 1;
            }
            Call::Remove(path) if has_end(path, ".log") => removed += 1,
            _ => {}
        }
    }
    // topics, trash, and three partitions with their topics.
    assert!(
        made >= 8 && segments >= 10 && replaced >= 10 && removed >= 5,
        "{made} {segments} {replaced} {removed}"
    );
}

#[test]
fn bytes_are_durable_before_they_are_acknowledged() {
    let calls = calls();
    let mut written = 0;
    for (at, call) in calls.iter().enumerate() {
        let Call::Write(path) = call else { continue };
        if !has_end(path, ".log") && !has_end(path, "catalog") && !has_end(path, "journal") {
            continue;
        }
        // The commits of a topic are removed with it. That need not be durable, because an opening
        // revokes the rest of them.
        if path.starts_with("topics/__consumer_offsets") {
            continue;
        }
        let later = &calls[at + 1..];
        let is_synced =
            comes_before(later, &Call::SyncData(path.clone()), |call| *call == Call::Acknowledged);
        // A record of the journal stands for batches that are not synced yet; marks of files come
        // with the next change.
        let may_wait = || {
            let told = later.iter().take_while(|call| **call != Call::Acknowledged);
            let since = calls[..at].iter().rev().take_while(|call| **call != Call::Acknowledged);
            told.clone().count() == later.len()
                || has_end(path, "catalog")
                || told.chain(since).any(|call| *call == Call::SyncData("journal".into()))
        };
        assert!(is_synced || may_wait(), "{path:?} was acknowledged before it was synced");
        written += u32::from(is_synced);
    }
    assert!(written >= 40, "{written}");
    assert!(calls.iter().filter(|call| **call == Call::Acknowledged).count() >= 35);
}
