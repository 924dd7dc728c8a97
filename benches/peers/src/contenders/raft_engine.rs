//! `raft-engine`: the log of TiKV, for many Raft groups.
//!
//! A group has consecutive indexes, so each thread has a group of its own, as each region of TiKV
//! has.

use std::path::Path;

use protobuf::descriptor::UninterpretedOption;
use raft_engine::env::DefaultFileSystem;
use raft_engine::internals::FilePipeLog;
use raft_engine::{Config, LogBatch, MessageExt, ReadableSize};

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

const GROUP: u64 = 1;
/// The entries of a read of a scan: a batch of small records.
const SCAN: u64 = 1000;

type Engine = raft_engine::Engine<DefaultFileSystem, FilePipeLog<DefaultFileSystem>>;

pub struct Peer {
    engine: Engine,
    batch: LogBatch,
    next: u64,
}

/// A message with a number and bytes that protobuf brings along: an entry without the fields that
/// only Raft needs.
struct Entries;

impl MessageExt for Entries {
    type Entry = UninterpretedOption;

    fn index(entry: &UninterpretedOption) -> u64 {
        entry.get_positive_int_value()
    }
}

fn entry(index: u64, value: &[u8]) -> UninterpretedOption {
    let mut entry = UninterpretedOption::new();
    entry.set_positive_int_value(index);
    entry.set_string_value(value.to_vec());
    entry
}

impl Contender for Peer {
    const NAME: &'static str = "raft-engine";
    const ABOUT: &'static str = "defaults (LZ4 from 8 KB on; switched off in the rows without LZ4), one group a thread; durable by \
        `write(batch, true)`, one fdatasync for all that wait; CRC-32 of each batch, checked by every read";
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
        let mut config = Config { dir: dir.to_str().unwrap().to_owned(), ..Config::default() };
        if !settings.lz4 {
            config.batch_compression_threshold = ReadableSize(0);
        }
        let engine = Engine::open(config).unwrap();
        let next = engine.last_index(GROUP).unwrap_or(0) + 1;
        Peer { engine, batch: LogBatch::with_capacity(16), next }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        let entries: Vec<_> =
            batch.iter().zip(self.next..).map(|(value, index)| entry(index, value)).collect();
        self.next += entries.len() as u64;
        self.batch.add_entries::<Entries>(GROUP, &entries).unwrap();
        self.engine.write(&mut self.batch, false).unwrap();
    }

    fn append_through(&mut self, value: &[u8]) {
        self.append_batch(&[value]);
    }

    fn durable_writer(&self, thread: usize) -> Send<'_> {
        let group = GROUP + thread as u64;
        let mut next = self.engine.last_index(group).unwrap_or(0) + 1;
        let mut batch = LogBatch::with_capacity(1);
        Box::new(move |value| {
            batch.add_entries::<Entries>(group, &[entry(next, value)]).unwrap();
            self.engine.write(&mut batch, true).unwrap();
            next += 1;
        })
    }

    fn scan(&mut self, digest: &mut Digest) {
        let mut entries = Vec::new();
        for group in self.engine.raft_groups() {
            let (first, last) =
                (self.engine.first_index(group).unwrap(), self.engine.last_index(group).unwrap());
            for from in (first..=last).step_by(SCAN as usize) {
                let end = (from + SCAN).min(last + 1);
                entries.clear();
                self.engine.fetch_entries_to::<Entries>(group, from, end, None, &mut entries).unwrap();
                entries.iter().for_each(|entry| digest.push(entry.get_string_value()));
            }
        }
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        let entry = self.engine.get_entry::<Entries>(GROUP, number + 1).unwrap().unwrap();
        seen(entry.get_string_value())
    }

    fn pair(&mut self, _sleeping: bool) -> (Send<'_>, Receive<'_>) {
        let (engine, batch, next) = (&self.engine, &mut self.batch, &mut self.next);
        let mut read = *next;
        let send = |value: &[u8]| {
            batch.add_entries::<Entries>(GROUP, &[entry(*next, value)]).unwrap();
            engine.write(batch, false).unwrap();
            *next += 1;
        };
        let mut entries = Vec::new();
        let receive = move |seen: &mut dyn FnMut(&[u8])| {
            let Some(last) = engine.last_index(GROUP).filter(|last| *last >= read) else { return };
            entries.clear();
            engine.fetch_entries_to::<Entries>(GROUP, read, last + 1, None, &mut entries).unwrap();
            entries.iter().for_each(|entry| seen(entry.get_string_value()));
            read = last + 1;
        };
        (Box::new(send), Box::new(receive))
    }
}
