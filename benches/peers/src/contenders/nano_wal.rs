//! `nano-wal`: records at places that only the caller knows.
//!
//! The places are kept in memory, and in a file beside the log from one process to the next.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nano_wal::{EntryRef, ReadDescriptor, Segment, Wal, WalOptions, WriteEntry, read_batch};
use parking_lot::Mutex;

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The records of a read of a scan: what the library reads with one call.
const SCAN: usize = 512;

pub struct Peer {
    log: Wal,
    segment: Arc<Segment>,
    now: i64,
    places: Mutex<Vec<EntryRef>>,
    beside: PathBuf,
}

impl Contender for Peer {
    const NAME: &'static str = "nano-wal";
    const ABOUT: &'static str = "batches by `append_batch` (204 records at most); in the page cache at the return; durable by its \
        flag, one fdatasync for each; no checksum; reads by places that the caller keeps, which are lost with the process";
    const CAN: &'static [Need] = &[
        Need::Batch,
        Need::One,
        Need::Through,
        Need::Durable,
        Need::DurableThreads,
        Need::Scan,
        Need::Get,
        Need::TailSpinning,
        Need::Plain,
    ];
    const BATCH: usize = 204;

    fn open(dir: &Path, _settings: &Settings) -> Self {
        let log = Wal::new(dir, "t", WalOptions { retention: YEAR, segment_duration: YEAR }).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let segment = log.ensure_segment(now).unwrap();
        let beside = dir.with_extension("places");
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let places = std::fs::read(&beside).unwrap_or_default();
        let places = places.chunks_exact(16).map(|place| EntryRef {
            file_offset: number(&place[..8]),
            byte_size: number(&place[8..]) as usize,
        });
        Peer { log, segment, now, places: Mutex::new(places.collect()), beside }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        let entries: Vec<_> = batch.iter().map(|content| WriteEntry { header: None, content }).collect();
        let places = self.log.append_batch(&entries, self.now, false).unwrap();
        self.places.get_mut().extend(places);
    }

    fn append_through(&mut self, value: &[u8]) {
        let place = self.log.append(None, value, self.now, false).unwrap();
        self.places.get_mut().push(place);
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        Box::new(|value| {
            let place = self.log.append(None, value, self.now, true).unwrap();
            self.places.lock().push(place);
        })
    }

    fn scan(&mut self, digest: &mut Digest) {
        for places in self.places.get_mut().chunks(SCAN) {
            let reads: Vec<_> = places
                .iter()
                .map(|place| ReadDescriptor {
                    read_fd: Arc::clone(self.segment.read_fd()),
                    file_offset: place.file_offset,
                    byte_size: place.byte_size,
                })
                .collect();
            for record in read_batch(&reads).unwrap() {
                digest.push(&record.content);
            }
        }
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        let place = self.places.get_mut()[number as usize];
        let record = self.log.read_at(&self.segment, place.file_offset, place.byte_size).unwrap();
        seen(&record.content)
    }

    fn pair(&mut self, _sleeping: bool) -> (Send<'_>, Receive<'_>) {
        // The places are handed over by the caller: all records are of one size.
        let (this, sent) = (&*self, Arc::new(AtomicU64::new(0)));
        let (first, size) = (self.segment.file_size(), Arc::new(AtomicU64::new(0)));
        let (to_sent, to_size) = (Arc::clone(&sent), Arc::clone(&size));
        let send = move |value: &[u8]| {
            let place = this.log.append(None, value, this.now, false).unwrap();
            to_size.store(place.byte_size as u64, Ordering::Relaxed);
            to_sent.fetch_add(1, Ordering::Release);
        };
        let mut read = 0;
        let receive = move |seen: &mut dyn FnMut(&[u8])| {
            while read < sent.load(Ordering::Acquire) {
                let size = size.load(Ordering::Relaxed);
                let record = this.log.read_at(&this.segment, first + read * size, size as usize).unwrap();
                seen(&record.content);
                read += 1;
            }
        };
        (Box::new(send), Box::new(receive))
    }

    fn close(self) {
        let places = self.places.into_inner();
        let bytes: Vec<u8> = places
            .iter()
            .flat_map(|place| [place.file_offset.to_le_bytes(), (place.byte_size as u64).to_le_bytes()])
            .flatten()
            .collect();
        std::fs::write(&self.beside, bytes).unwrap();
    }
}
