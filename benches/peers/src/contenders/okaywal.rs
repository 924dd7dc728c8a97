//! `okaywal`: a write-ahead log, whose segments are used again after a checkpoint.
//!
//! No checkpoint is due in these runs, so that all records stay and can be compared.

use std::path::Path;
use std::sync::Arc;

use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};
use parking_lot::Mutex;

use crate::contender::{Contender, Need, Send, Settings};
use crate::digest::Digest;

const PREALLOCATED: u32 = 64 << 20;

pub struct Peer {
    log: WriteAheadLog,
    recovered: Recovered,
}

impl Contender for Peer {
    const NAME: &'static str = "okaywal";
    const ABOUT: &'static str = "an entry of one chunk a record, no checkpoints, 64 MiB preallocated; every commit is synced, one \
        sync for all that wait; CRC-32C of each chunk, checked when it is opened";
    const CAN: &'static [Need] = &[Need::Durable, Need::DurableThreads, Need::Scan, Need::Plain];

    fn open(dir: &Path, _settings: &Settings) -> Self {
        let recovered = Recovered::default();
        let log = Configuration::default_for(dir)
            .preallocate_bytes(PREALLOCATED)
            .checkpoint_after_bytes(u64::MAX)
            .open(recovered.clone())
            .unwrap();
        Peer { log, recovered }
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        Box::new(|value| {
            let mut entry = self.log.begin_entry().unwrap();
            entry.write_chunk(value).unwrap();
            entry.commit().unwrap();
        })
    }

    fn scan(&mut self, digest: &mut Digest) {
        for value in self.recovered.0.lock().iter() {
            digest.push(value);
        }
    }

    fn close(self) {
        self.log.shutdown().unwrap();
    }
}

/// What the log had when it was opened.
#[derive(Clone, Debug, Default)]
struct Recovered(Arc<Mutex<Vec<Vec<u8>>>>);

impl LogManager for Recovered {
    fn recover(&mut self, entry: &mut Entry<'_>) -> std::io::Result<()> {
        self.0.lock().extend(entry.read_all_chunks()?.unwrap_or_default());
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> std::io::Result<()> {
        Ok(())
    }
}
