//! `yaque`: a queue in files, for one sender and one receiver.

use std::path::{Path, PathBuf};

use yaque::{QueueIter, Receiver, Sender};

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

pub struct Peer {
    sender: Sender,
    dir: PathBuf,
}

impl Contender for Peer {
    const NAME: &'static str = "yaque";
    const ABOUT: &'static str = "batches by `try_send_batch`; in the page cache at the return, never synced; no checksum; \
        no reads by position";
    const CAN: &'static [Need] = &[
        Need::Batch,
        Need::One,
        Need::Through,
        Need::Scan,
        Need::TailSpinning,
        Need::TailSleeping,
        Need::Plain,
    ];

    fn open(dir: &Path, _settings: &Settings) -> Self {
        Peer { sender: Sender::open(dir).unwrap(), dir: dir.to_path_buf() }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        self.sender.try_send_batch(batch).unwrap();
    }

    fn append_through(&mut self, value: &[u8]) {
        self.sender.try_send(value).unwrap();
    }

    fn scan(&mut self, digest: &mut Digest) {
        for value in QueueIter::open(&self.dir).unwrap() {
            digest.push(&value.unwrap());
        }
    }

    fn pair(&mut self, sleeping: bool) -> (Send<'_>, Receive<'_>) {
        let mut receiver = Receiver::open(&self.dir).unwrap();
        let send = |value: &[u8]| self.sender.try_send(value).unwrap();
        let receive = move |seen: &mut dyn FnMut(&[u8])| {
            let received = if sleeping {
                futures_executor::block_on(receiver.recv()).unwrap()
            } else {
                match receiver.try_recv() {
                    Ok(received) => received,
                    Err(_) => return,
                }
            };
            seen(&received);
            received.commit().unwrap();
        };
        (Box::new(send), Box::new(receive))
    }
}
