//! `commitlog`: segments with an index entry for each message.

use std::path::Path;

use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};
use parking_lot::Mutex;

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

/// The bytes of a read of a scan.
const SCAN: usize = 1 << 20;
/// More than the header of a message has.
const HEADER: usize = 64;

pub struct Peer {
    log: Mutex<CommitLog>,
    batch: MessageBuf,
    longest: usize,
}

impl Contender for Peer {
    const NAME: &'static str = "commitlog";
    const ABOUT: &'static str = "batches by `MessageBuf`; in the page cache at the return, and nothing repairs the tail after a \
        kill; CRC-32C of each message, checked by every read";
    const CAN: &'static [Need] = &[
        Need::Batch,
        Need::One,
        Need::Through,
        Need::Scan,
        Need::Get,
        Need::TailSpinning,
        Need::Closed,
        Need::Plain,
    ];

    fn open(dir: &Path, settings: &Settings) -> Self {
        let log = CommitLog::new(LogOptions::new(dir)).unwrap();
        Peer { log: Mutex::new(log), batch: MessageBuf::default(), longest: settings.longest }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        self.batch.clear();
        for value in batch {
            self.batch.push(value).unwrap();
        }
        self.log.get_mut().append(&mut self.batch).unwrap();
    }

    fn append_through(&mut self, value: &[u8]) {
        self.log.get_mut().append_msg(value).unwrap();
    }

    fn scan(&mut self, digest: &mut Digest) {
        let log = self.log.get_mut();
        let (mut next, end) = (0, log.next_offset());
        while next < end {
            for message in log.read(next, ReadLimit::max_bytes(SCAN)).unwrap().iter() {
                digest.push(message.payload());
                next = message.offset() + 1;
            }
        }
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        let messages = self.log.get_mut().read(number, ReadLimit::max_bytes(self.longest + HEADER)).unwrap();
        let message = messages.iter().next().unwrap();
        seen(message.payload())
    }

    fn pair(&mut self, _sleeping: bool) -> (Send<'_>, Receive<'_>) {
        let shared = &self.log;
        let mut next = shared.lock().next_offset();
        let send = |value: &[u8]| {
            shared.lock().append_msg(value).unwrap();
        };
        let receive = move |seen: &mut dyn FnMut(&[u8])| {
            let messages = {
                let log = shared.lock();
                if log.next_offset() == next {
                    return;
                }
                log.read(next, ReadLimit::max_bytes(SCAN)).unwrap()
            };
            for message in messages.iter() {
                seen(message.payload());
                next = message.offset() + 1;
            }
        };
        (Box::new(send), Box::new(receive))
    }
}
