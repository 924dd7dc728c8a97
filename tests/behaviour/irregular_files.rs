//! In the place of each file there may be something else: a FIFO, a device, a link, a directory. No
//! call waits for it, follows it, or changes what a link leads to.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use quipu::{Broker, ExpectedVersion, ProducerConfig, Record, Start, TopicConfig};

use crate::common::{open_dir, tree};

/// Puts something at a path, for which it may use a directory.
type Put = fn(&Path, &Path);

/// What is put in a file's place.
const KINDS: [(&str, Put); 4] = [
    ("a FIFO", |at, _| assert!(Command::new("mkfifo").arg(at).status().unwrap().success())),
    ("a device", |at, _| symlink("/dev/zero", at).unwrap()),
    ("a link to a file", |at, precious| symlink(precious.join("file"), at).unwrap()),
    ("a link to a directory", |at, precious| symlink(precious, at).unwrap()),
];

/// A directory with every kind of file, cleanly closed or not.
fn fill(root: &Path, closes: bool) {
    let broker = open_dir(root).unwrap();
    let topic = broker.create_topic("t", TopicConfig::streams()).unwrap();
    topic.stream("a").unwrap().append(ExpectedVersion::Empty, Record::new("v")).unwrap();
    broker.create_topic("u", TopicConfig::new()).unwrap();
    let producer = broker.producer_with(ProducerConfig::new().name("p")).unwrap();
    producer.send("u", Record::new("v").sequence(1)).unwrap().wait().unwrap();
    let mut both = broker.transaction();
    both.send("t", Record::new("w").key("a"));
    both.send("u", Record::new("w"));
    both.commit().unwrap();
    if closes {
        broker.close().unwrap();
    } else {
        // As a kill leaves it: nothing more is written.
        std::mem::forget(broker);
    }
}

/// Every call that may open a file; errors are results too.
fn use_it(root: &Path) {
    let _ = Broker::verify(root, |_| std::ops::ControlFlow::Continue(()));
    let Ok(broker) = open_dir(root) else { return };
    for topic in broker.topics() {
        let _ = broker.producer().send(&topic, Record::new("x").key("a")).and_then(|sent| sent.wait());
        for partition in topic.partitions() {
            let _ = (partition.read(Start::Beginning, 1 << 20), partition.last_n(1), partition.reopen());
        }
    }
    if let Ok(topic) = broker.topic("t") {
        let _ = topic.stream("a").and_then(|stream| stream.load());
    }
    let _ = (broker.maintain(), broker.delete_topic("u"), broker.close());
}

#[test]
fn nothing_in_the_place_of_a_file_is_waited_for_or_followed() {
    for closes in [true, false] {
        let from = tempfile::tempdir().unwrap();
        fill(from.path(), closes);
        let relative = |path: PathBuf| path.strip_prefix(from.path()).unwrap().to_path_buf();
        let files: BTreeMap<_, _> =
            tree(from.path()).into_iter().map(|(path, content)| (relative(path), content)).collect();
        for path in files.iter().filter(|(_, content)| content.is_some()).map(|(path, _)| path) {
            for (kind, make) in KINDS {
                let (root, precious) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                fs::write(precious.path().join("file"), "precious").unwrap();
                restore(root.path(), &files);
                let at = root.path().join(path);
                fs::remove_file(&at).unwrap();
                make(&at, precious.path());
                let (done, is_done) = mpsc::channel();
                let path_of_root = root.path().to_path_buf();
                let user = std::thread::spawn(move || {
                    use_it(&path_of_root);
                    done.send(()).unwrap();
                });
                let case = format!("{kind} for {}, closed: {closes}", path.display());
                assert!(is_done.recv_timeout(Duration::from_secs(60)).is_ok(), "{case}");
                user.join().unwrap();
                let left = fs::read_to_string(precious.path().join("file"));
                assert_eq!(left.unwrap(), "precious", "{case}");
                assert_eq!(fs::read_dir(precious.path()).unwrap().count(), 1, "{case}");
            }
        }
    }
}

fn restore(root: &Path, files: &BTreeMap<PathBuf, Option<Vec<u8>>>) {
    for (path, content) in files {
        let at = root.join(path);
        match content {
            None => fs::create_dir_all(&at).unwrap(),
            Some(content) => fs::write(&at, content).unwrap(),
        }
    }
}
