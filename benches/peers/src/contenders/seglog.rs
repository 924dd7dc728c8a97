//! `seglog`: one segment file of a fixed size; the user rolls and keeps an index.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use seglog::read::{ReadHint, Reader};
use seglog::write::Writer;

use crate::contender::{Contender, Need, Send, Settings};
use crate::digest::Digest;

pub struct Peer {
    path: PathBuf,
    writer: Mutex<Writer<0>>,
    reader: Reader<0>,
    places: Vec<u64>,
}

impl Contender for Peer {
    const NAME: &'static str = "seglog";
    const ABOUT: &'static str = "one preallocated segment; `append` into its buffer of 16 KiB, visible to readers and recoverable \
        after a `commit` only, which syncs (once, at the end, in rows without a sync); durable: append and commit, \
        several threads by a mutex; CRC-32C of each record, checked by every read; the caller keeps the places";
    const CAN: &'static [Need] = &[
        Need::Batch,
        Need::One,
        Need::Through,
        Need::Durable,
        Need::DurableThreads,
        Need::Scan,
        Need::Get,
        Need::Closed,
        Need::Plain,
    ];

    fn open(dir: &Path, settings: &Settings) -> Self {
        let path = dir.join("segment");
        // Each record of 10 B has 8 of framing; a durable one has a marker of its own.
        let size = 2 * settings.bytes as usize + (64 << 20);
        let writer =
            if path.exists() { Writer::open(&path, size, 0) } else { Writer::create(&path, size, 0) }
                .unwrap();
        let reader = Reader::open(&path, Some(writer.flushed_offset())).unwrap();
        Peer { path, writer: Mutex::new(writer), reader, places: Vec::new() }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        for value in batch {
            self.append_one(value);
        }
    }

    #[inline]
    fn append_one(&mut self, value: &[u8]) {
        self.writer.get_mut().append(&[], value).unwrap();
    }

    fn append_through(&mut self, value: &[u8]) {
        self.append_one(value);
        self.flush();
    }

    fn flush(&mut self) {
        self.writer.get_mut().flush_writer().unwrap();
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        Box::new(|value| {
            let mut writer = self.writer.lock();
            writer.append(&[], value).unwrap();
            writer.commit(0).unwrap();
        })
    }

    fn scan(&mut self, digest: &mut Digest) {
        let mut records = self.reader.iter(0);
        while let Some(record) = records.next_record().unwrap() {
            digest.push(&record.data);
        }
    }

    fn prepare_gets(&mut self) {
        let mut reader = Reader::<0>::open(&self.path, Some(self.writer.get_mut().flushed_offset())).unwrap();
        let mut records = reader.iter(0);
        self.places.clear();
        while let Some(record) = records.next_record().unwrap() {
            self.places.push(record.offset);
        }
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        let record = self.reader.read_record(self.places[number as usize], ReadHint::Random).unwrap();
        seen(&record.data)
    }

    fn close(self) {
        let mut writer = self.writer.into_inner();
        writer.commit(0).unwrap();
        writer.close().unwrap();
    }
}
