//! LMDB, by `heed`: one database, the number of a record is its key.

use std::path::Path;

use heed::byteorder::BigEndian;
use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, PutFlags};

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

pub struct Peer {
    env: Env,
    records: Database<'static, U64<BigEndian>, Bytes>,
    next: u64,
}

impl Contender for Peer {
    const NAME: &'static str = "lmdb";
    const ABOUT: &'static str = "`heed`, a transaction a call, `APPEND`; without a sync by `NO_SYNC`, where a power loss may damage \
        the file; durable: one sync a transaction; no checksum, reads are pointers into the map";
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
        Need::Plain,
    ];

    #[allow(unsafe_code)]
    fn open(dir: &Path, settings: &Settings) -> Self {
        let mut options = EnvOpenOptions::new();
        options.map_size((4 * settings.bytes as usize + (1 << 30)) & !0xffff);
        if !settings.durable {
            // SAFETY: may damage the file at a power loss only, after which no run reads it.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: no other process has the directory open, and this process opens it once.
        let env = unsafe { options.open(dir) }.unwrap();
        let txn = env.write_txn().unwrap();
        let records = env
            .create_databases_and_commit(txn, |opener, txn| -> heed::Result<_> {
                opener.create_database::<U64<BigEndian>, Bytes>(txn, None).map(CommitOrAbort::<_, ()>::Commit)
            })
            .unwrap()
            .unwrap_commit();
        let next = records.last(&env.read_txn().unwrap()).unwrap().map_or(0, |(last, _)| last + 1);
        Peer { env, records, next }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        let mut txn = self.env.write_txn().unwrap();
        for value in batch {
            self.records.put_with_flags(&mut txn, PutFlags::APPEND, &self.next, value).unwrap();
            self.next += 1;
        }
        txn.commit().unwrap();
    }

    fn append_through(&mut self, value: &[u8]) {
        self.append_batch(&[value]);
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        Box::new(|value| self.append_last(value))
    }

    fn scan(&mut self, digest: &mut Digest) {
        let txn = self.env.read_txn().unwrap();
        for record in self.records.iter(&txn).unwrap() {
            digest.push(record.unwrap().1);
        }
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        let txn = self.env.read_txn().unwrap();
        seen(self.records.get(&txn, &number).unwrap().unwrap())
    }

    fn pair(&mut self, _sleeping: bool) -> (Send<'_>, Receive<'_>) {
        let (this, mut read) = (&*self, self.next);
        let send = |value: &[u8]| this.append_last(value);
        let receive = move |seen: &mut dyn FnMut(&[u8])| {
            let txn = this.env.read_txn().unwrap();
            while let Some(value) = this.records.get(&txn, &read).unwrap() {
                seen(value);
                read += 1;
            }
        };
        (Box::new(send), Box::new(receive))
    }
}

impl Peer {
    /// For several threads: the transaction gives the number.
    fn append_last(&self, value: &[u8]) {
        let mut txn = self.env.write_txn().unwrap();
        let next = self.records.last(&txn).unwrap().map_or(0, |(last, _)| last + 1);
        self.records.put_with_flags(&mut txn, PutFlags::APPEND, &next, value).unwrap();
        txn.commit().unwrap();
    }
}
