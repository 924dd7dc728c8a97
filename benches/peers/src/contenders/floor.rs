//! The simplest log that works: length and CRC of each record, one write a batch, a map to scan,
//! a positional read to get, a group commit.
//!
//! Durable appends go into zeros that were written and synced before, so that a sync need not
//! change the size of the file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

pub const HEADER: usize = 8;
const BUFFER: usize = 64 << 10;
const ZEROS: u64 = 1 << 20;

pub struct Floor {
    path: PathBuf,
    file: File,
    end: u64,
    buffer: Vec<u8>,
    /// Where each record begins, and the end of the last.
    places: Vec<u64>,
    ends: Mutex<Ends>,
    synced: Condvar,
}

#[derive(Default)]
struct Ends {
    written: u64,
    synced: u64,
    /// The end of the zeros.
    prepared: u64,
    syncing: bool,
}

impl Contender for Floor {
    const NAME: &'static str = "floor";
    const ABOUT: &'static str = "no library, but the simplest log that works: length and CRC-32 of each record (with LZ4: \
        of each block of 64 KiB), one write a batch; durable: one fdatasync for all that wait; every read checks the CRC";
    const CAN: &'static [Need] = &[
        Need::Batch,
        Need::One,
        Need::Through,
        Need::Durable,
        Need::DurableThreads,
        Need::Scan,
        Need::Get,
        Need::TailSpinning,
        Need::TailSleeping,
        Need::Closed,
        Need::Killed,
        Need::Lz4,
        Need::Plain,
    ];

    fn open(dir: &Path, _settings: &Settings) -> Self {
        let path = dir.join("log");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
        let mut end = 0;
        if file.metadata().unwrap().len() > 0 {
            records(&map(&path), |at, value| end = at + (HEADER + value.len()) as u64);
        }
        let ends = Ends { written: end, synced: end, ..Ends::default() };
        Floor {
            path,
            file,
            end,
            buffer: Vec::with_capacity(2 * BUFFER),
            places: Vec::new(),
            ends: Mutex::new(ends),
            synced: Condvar::new(),
        }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        for value in batch {
            encode(value, &mut self.buffer);
        }
        self.flush();
    }

    fn append_one(&mut self, value: &[u8]) {
        encode(value, &mut self.buffer);
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    fn append_through(&mut self, value: &[u8]) {
        encode(value, &mut self.buffer);
        self.flush();
    }

    fn flush(&mut self) {
        self.file.write_all_at(&self.buffer, self.end).unwrap();
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        let mut record = Vec::new();
        Box::new(move |value| {
            record.clear();
            encode(value, &mut record);
            self.commit(&record);
        })
    }

    fn scan(&mut self, digest: &mut Digest) {
        records(&map(&self.path), |_, value| digest.push(value));
    }

    fn prepare_gets(&mut self) {
        self.places.clear();
        let mut end = 0;
        records(&map(&self.path), |at, value| {
            self.places.push(at);
            end = at + (HEADER + value.len()) as u64;
        });
        self.places.push(end);
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        let (at, end) = (self.places[number as usize], self.places[number as usize + 1]);
        self.buffer.resize((end - at) as usize, 0);
        self.file.read_exact_at(&mut self.buffer, at).unwrap();
        let (header, value) = self.buffer.split_at(HEADER);
        assert_eq!(crc32fast::hash(value), u32_at(header, 4), "CRC of record {number}");
        seen(value)
    }

    fn pair(&mut self, sleeping: bool) -> (Send<'_>, Receive<'_>) {
        let end = Arc::new(AtomicU64::new(self.end));
        let (changed, lock) = (Arc::new(Condvar::new()), Arc::new(Mutex::new(())));
        let file = &self.file;
        let mut writing = (self.end, Vec::new());
        let mut reading = (self.end, Vec::new());
        let written = (Arc::clone(&end), Arc::clone(&changed), Arc::clone(&lock));
        let send = move |value: &[u8]| {
            let (at, record) = &mut writing;
            record.clear();
            encode(value, record);
            file.write_all_at(record, *at).unwrap();
            *at += record.len() as u64;
            written.0.store(*at, Ordering::Release);
            if sleeping {
                drop(written.2.lock());
                written.1.notify_one();
            }
        };
        let receive = move |seen: &mut dyn FnMut(&[u8])| {
            let (at, bytes) = &mut reading;
            if sleeping {
                let mut guard = lock.lock();
                if end.load(Ordering::Acquire) == *at {
                    changed.wait_for(&mut guard, Duration::from_secs(1));
                }
            }
            let end = end.load(Ordering::Acquire);
            if end > *at {
                bytes.resize((end - *at) as usize, 0);
                file.read_exact_at(bytes, *at).unwrap();
                records(bytes, |_, value| seen(value));
                *at = end;
            }
        };
        (Box::new(send), Box::new(receive))
    }
}

impl Floor {
    /// Writes a record, and returns when it is on the medium.
    fn commit(&self, record: &[u8]) {
        let mut ends = self.ends.lock();
        let at = ends.written;
        ends.written += record.len() as u64;
        let mine = ends.written;
        if mine > ends.prepared {
            self.prepare(&mut ends);
        }
        self.file.write_all_at(record, at).unwrap();
        while ends.synced < mine {
            if ends.syncing {
                self.synced.wait(&mut ends);
                continue;
            }
            ends.syncing = true;
            let upto = ends.written;
            MutexGuard::unlocked(&mut ends, || self.file.sync_data().unwrap());
            ends.syncing = false;
            ends.synced = upto;
            self.synced.notify_all();
        }
    }

    fn prepare(&self, ends: &mut Ends) {
        let from = ends.prepared.max(ends.synced);
        self.file.write_all_at(&vec![0; ZEROS as usize], from.max(ends.written)).unwrap();
        ends.prepared = from.max(ends.written) + ZEROS;
    }
}

#[inline]
fn encode(value: &[u8], out: &mut Vec<u8>) {
    out.reserve(HEADER + value.len());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(value).to_le_bytes());
    out.extend_from_slice(value);
}

/// The records up to the end, or to the first one that is torn.
#[inline]
fn records(log: &[u8], mut seen: impl FnMut(u64, &[u8])) {
    let mut at = 0;
    while let Some(header) = log.get(at..at + HEADER) {
        let len = u32_at(header, 0) as usize;
        let Some(value) = log.get(at + HEADER..at + HEADER + len).filter(|value| !value.is_empty()) else {
            break;
        };
        if crc32fast::hash(value) != u32_at(header, 4) {
            break;
        }
        seen(at as u64, value);
        at += HEADER + len;
    }
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A read-only map of a file.
#[allow(unsafe_code)]
pub fn map(path: &Path) -> memmap2::Mmap {
    // SAFETY: the file is in a directory of this run, no other process has it open, and it never
    // shrinks. It does not grow while this map is read.
    unsafe { memmap2::Mmap::map(&File::open(path).unwrap()).unwrap() }
}
