//! `walrus-rust`: one topic, read by a cursor that the library keeps.
//!
//! The cursor only goes forward, so a second scan opens the log again.

use std::path::{Path, PathBuf};

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

const TOPIC: &str = "t";
/// The bytes of a read of a scan.
const SCAN: usize = 1 << 20;

pub struct Peer {
    log: Walrus,
    dir: PathBuf,
    durable: bool,
}

impl Contender for Peer {
    const NAME: &'static str = "walrus";
    const ABOUT: &'static str = "one by one by `append_for_topic` also in batches, since its call for a batch always syncs; without a sync \
        by `NoFsync`, in the page cache at the return; durable by `SyncEach` (`O_SYNC`, then fsync), several threads by its \
        mutex; FNV-1a of each record, checked by every read; no reads by position";
    const CAN: &'static [Need] = &[
        Need::Batch,
        Need::One,
        Need::Through,
        Need::Durable,
        Need::DurableThreads,
        Need::Scan,
        Need::TailSpinning,
        Need::Closed,
        Need::Killed,
        Need::Plain,
    ];

    #[allow(unsafe_code)]
    fn open(dir: &Path, settings: &Settings) -> Self {
        // SAFETY: the first thing that this process does; it has no other thread yet.
        unsafe {
            std::env::set_var("WALRUS_DATA_DIR", dir);
            std::env::set_var("WALRUS_QUIET", "1");
        }
        Peer { log: open(settings.durable), dir: dir.to_path_buf(), durable: settings.durable }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        for value in batch {
            self.append_through(value);
        }
    }

    fn append_through(&mut self, value: &[u8]) {
        self.log.append_for_topic(TOPIC, value).unwrap();
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        Box::new(|value| self.log.append_for_topic(TOPIC, value).unwrap())
    }

    fn rewind(&mut self) {
        let index = self.dir.join(TOPIC).join("read_offset_idx_index.db");
        let _ = std::fs::remove_file(index);
        self.log = open(self.durable);
    }

    fn scan(&mut self, digest: &mut Digest) {
        loop {
            let entries = self.log.batch_read_for_topic(TOPIC, SCAN, true).unwrap();
            if entries.is_empty() {
                return;
            }
            entries.iter().for_each(|entry| digest.push(&entry.data));
        }
    }

    fn pair(&mut self, _sleeping: bool) -> (Send<'_>, Receive<'_>) {
        let log = &self.log;
        let send = |value: &[u8]| log.append_for_topic(TOPIC, value).unwrap();
        let receive = |seen: &mut dyn FnMut(&[u8])| {
            while let Some(entry) = log.read_next(TOPIC, true).unwrap() {
                seen(&entry.data);
            }
        };
        (Box::new(send), Box::new(receive))
    }
}

fn open(durable: bool) -> Walrus {
    let schedule = if durable { FsyncSchedule::SyncEach } else { FsyncSchedule::NoFsync };
    let reads = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
    Walrus::with_consistency_and_schedule_for_key(TOPIC, reads, schedule).unwrap()
}
