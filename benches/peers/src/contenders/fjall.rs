//! `fjall`: an LSM tree, the number of a record is its key, in big endian.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

pub struct Peer {
    db: Database,
    records: Keyspace,
    next: AtomicU64,
}

impl Contender for Peer {
    const NAME: &'static str = "fjall";
    const ABOUT: &'static str = "a batch a call, in the page cache at the return; durable by `PersistMode::SyncData`, one sync a batch, \
        under its journal's lock; LZ4 of all data blocks (default: of the third level on; switched off in the rows without LZ4), \
        not of small records in the journal; xxh3 of each block, checked when it is read from its file";
    const CAN: &'static [Need] = &[
        Need::Batch,
        Need::One,
        Need::Through,
        Need::Durable,
        Need::DurableThreads,
        Need::Scan,
        Need::Get,
        Need::TailSpinning,
        Need::Closed,
        Need::Killed,
        Need::Lz4,
        Need::Plain,
    ];

    fn open(dir: &Path, settings: &Settings) -> Self {
        let db = Database::builder(dir).open().unwrap();
        let codec = if settings.lz4 { CompressionType::Lz4 } else { CompressionType::None };
        let options =
            || KeyspaceCreateOptions::default().data_block_compression_policy(CompressionPolicy::all(codec));
        let records = db.keyspace("records", options).unwrap();
        let last = records.last_key_value().map(|last| last.key().unwrap());
        let next = last.map_or(0, |key| u64::from_be_bytes(key[..].try_into().unwrap()) + 1);
        Peer { db, records, next: AtomicU64::new(next) }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        self.append(batch, PersistMode::Buffer);
    }

    fn append_through(&mut self, value: &[u8]) {
        self.append_batch(&[value]);
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        Box::new(|value| self.append(&[value], PersistMode::SyncData))
    }

    fn scan(&mut self, digest: &mut Digest) {
        for record in self.records.iter() {
            digest.push(&record.value().unwrap());
        }
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        seen(&self.records.get(number.to_be_bytes()).unwrap().unwrap())
    }

    fn pair(&mut self, _sleeping: bool) -> (Send<'_>, Receive<'_>) {
        let (this, mut read) = (&*self, self.next.load(Ordering::Relaxed));
        let send = |value: &[u8]| this.append(&[value], PersistMode::Buffer);
        let receive = move |seen: &mut dyn FnMut(&[u8])| {
            while let Some(value) = this.records.get(read.to_be_bytes()).unwrap() {
                seen(&value);
                read += 1;
            }
        };
        (Box::new(send), Box::new(receive))
    }
}

impl Peer {
    fn append(&self, values: &[&[u8]], durability: PersistMode) {
        let first = self.next.fetch_add(values.len() as u64, Ordering::Relaxed);
        let mut batch = self.db.batch().durability(Some(durability));
        for (number, value) in (first..).zip(values) {
            batch.insert(&self.records, number.to_be_bytes(), *value);
        }
        batch.commit().unwrap();
    }
}
