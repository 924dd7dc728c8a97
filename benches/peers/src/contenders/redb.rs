//! `redb`: a B+tree, the number of a record is its key.

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");

pub struct Peer {
    db: Database,
    next: u64,
}

impl Contender for Peer {
    const NAME: &'static str = "redb";
    const ABOUT: &'static str = "a transaction a call; without a sync by `Durability::None`, which a kill loses until the next durable \
        commit (one, at the end, is part of each row); durable: one sync a transaction; xxh3 of each page, checked after a kill only";
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

    fn open(dir: &Path, _settings: &Settings) -> Self {
        let db = Database::create(dir.join("db")).unwrap();
        let found = db.begin_read().unwrap().open_table(RECORDS);
        let next = match found {
            Ok(records) => last(&records).map_or(0, |last| last + 1),
            Err(_) => {
                let create = db.begin_write().unwrap();
                create.open_table(RECORDS).unwrap();
                create.commit().unwrap();
                0
            }
        };
        Peer { db, next }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        let mut txn = self.db.begin_write().unwrap();
        txn.set_durability(Durability::None).unwrap();
        {
            let mut table = txn.open_table(RECORDS).unwrap();
            for value in batch {
                table.insert(self.next, *value).unwrap();
                self.next += 1;
            }
        }
        txn.commit().unwrap();
    }

    fn append_through(&mut self, value: &[u8]) {
        self.append_batch(&[value]);
    }

    fn flush(&mut self) {
        self.db.begin_write().unwrap().commit().unwrap();
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        Box::new(|value| self.append_last(value, Durability::Immediate))
    }

    fn scan(&mut self, digest: &mut Digest) {
        let table = self.db.begin_read().unwrap().open_table(RECORDS).unwrap();
        for record in table.iter().unwrap() {
            digest.push(record.unwrap().1.value());
        }
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        let table = self.db.begin_read().unwrap().open_table(RECORDS).unwrap();
        let record = table.get(number).unwrap().unwrap();
        seen(record.value())
    }

    fn pair(&mut self, _sleeping: bool) -> (Send<'_>, Receive<'_>) {
        let (this, mut read) = (&*self, self.next);
        let send = |value: &[u8]| this.append_last(value, Durability::None);
        let receive = move |seen: &mut dyn FnMut(&[u8])| {
            let table = this.db.begin_read().unwrap().open_table(RECORDS).unwrap();
            while let Some(record) = table.get(read).unwrap() {
                seen(record.value());
                read += 1;
            }
        };
        (Box::new(send), Box::new(receive))
    }

    fn close(self) {
        self.db.close().unwrap();
    }
}

impl Peer {
    /// For several threads: the transaction gives the number.
    fn append_last(&self, value: &[u8], durability: Durability) {
        let mut txn = self.db.begin_write().unwrap();
        txn.set_durability(durability).unwrap();
        {
            let mut table = txn.open_table(RECORDS).unwrap();
            let next = last(&table).map_or(0, |last| last + 1);
            table.insert(next, value).unwrap();
        }
        txn.commit().unwrap();
    }
}

fn last(table: &impl ReadableTable<u64, &'static [u8]>) -> Option<u64> {
    table.last().unwrap().map(|(number, _)| number.value())
}
