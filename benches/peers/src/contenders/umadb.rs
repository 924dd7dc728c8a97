//! `umadb-core`: the store of an event-store server, used as that server uses it.
//!
//! Appends go to its writer's thread, which commits all that wait at once.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot, watch};
use umadb_core::db::UmaDb;
use umadb_core::mvcc::{Mvcc, StorageOptions};
use umadb_core::writer_thread_blocking::writer_thread_blocking;
use umadb_core::writer_thread_request::WriterThreadRequest;
use umadb_dcb::{DcbEvent, DcbEventStoreSync};

use crate::contender::{Contender, Need, Send, Settings};
use crate::digest::Digest;

/// The events of a read of a scan: a batch of small records.
const SCAN: u32 = 1000;
/// Waiting requests, and the events of a commit.
const QUEUE: usize = 1024;
const COMMIT: usize = 2000;

pub struct Peer {
    db: UmaDb,
    requests: mpsc::Sender<WriterThreadRequest>,
    writer: JoinHandle<()>,
}

impl Contender for Peer {
    const NAME: &'static str = "umadb";
    const ABOUT: &'static str = "`umadb-core` without its server, one event a record, no tags; each commit is synced, in rows without a sync, \
        too (two syncs for all that wait; a batch is a commit); CRC-32 of each page, checked when it is read";
    const CAN: &'static [Need] = &[
        Need::Batch,
        Need::Durable,
        Need::DurableThreads,
        Need::Scan,
        Need::Get,
        Need::Closed,
        Need::Killed,
        Need::Plain,
    ];

    fn open(dir: &Path, _settings: &Settings) -> Self {
        let options = StorageOptions::default().db_path(dir);
        let mvcc = Arc::new(Mvcc::new(false, options).unwrap());
        let (requests, received) = mpsc::channel(QUEUE);
        let (head, _) = watch::channel(None);
        let shared = Arc::clone(&mvcc);
        let writer = std::thread::spawn(|| writer_thread_blocking(shared, received, head, COMMIT));
        Peer { db: UmaDb::from_arc(mvcc), requests, writer }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        self.append(batch);
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        Box::new(|value| self.append(&[value]))
    }

    fn scan(&mut self, digest: &mut Digest) {
        let mut next = 1;
        loop {
            let events = self.db.read(None, Some(next), false, Some(SCAN)).unwrap();
            let before = next;
            for event in events {
                let event = event.unwrap();
                digest.push(&event.event.data);
                next = event.position + 1;
            }
            if next == before {
                return;
            }
        }
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        let mut events = self.db.read(None, Some(number + 1), false, Some(1)).unwrap();
        seen(&events.next().unwrap().unwrap().event.data)
    }

    fn close(self) {
        self.requests.blocking_send(WriterThreadRequest::Shutdown).unwrap();
        self.writer.join().unwrap();
    }
}

impl Peer {
    fn append(&self, values: &[&[u8]]) {
        let events = values.iter().map(|value| DcbEvent::new().event_type("t").data(*value)).collect();
        let (response_tx, response) = oneshot::channel();
        let request = WriterThreadRequest::Append {
            events,
            condition: None,
            tracking_info: None,
            response_tx,
            cancel: None,
        };
        self.requests.blocking_send(request).unwrap();
        response.blocking_recv().unwrap().unwrap();
    }
}
