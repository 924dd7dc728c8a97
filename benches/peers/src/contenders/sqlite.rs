//! SQLite, by `rusqlite`: one table, the number of a record is its primary key.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rusqlite::Connection;

use crate::contender::{Contender, Need, Receive, Send, Settings};
use crate::digest::Digest;

const INSERT: &str = "INSERT INTO t (value) VALUES (?1)";

pub struct Peer {
    db: Mutex<Connection>,
    path: PathBuf,
}

impl Contender for Peer {
    const NAME: &'static str = "sqlite";
    const ABOUT: &'static str = "`rusqlite`, WAL, a transaction a call; without a sync `synchronous=NORMAL` (a checkpoint syncs), \
        durable `FULL`: one sync a transaction, several threads by a mutex; no checksum of a row";
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

    fn open(dir: &Path, settings: &Settings) -> Self {
        let path = dir.join("db");
        let db = connect(&path);
        db.pragma_update(None, "synchronous", if settings.durable { "FULL" } else { "NORMAL" }).unwrap();
        db.execute_batch("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, value BLOB NOT NULL)")
            .unwrap();
        Peer { db: Mutex::new(db), path }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        let txn = self.db.get_mut().transaction().unwrap();
        {
            let mut insert = txn.prepare_cached(INSERT).unwrap();
            for value in batch {
                insert.execute([value]).unwrap();
            }
        }
        txn.commit().unwrap();
    }

    fn append_through(&mut self, value: &[u8]) {
        self.db.get_mut().prepare_cached(INSERT).unwrap().execute([value]).unwrap();
    }

    fn durable_writer(&self, _thread: usize) -> Send<'_> {
        Box::new(|value| {
            self.db.lock().prepare_cached(INSERT).unwrap().execute([value]).unwrap();
        })
    }

    fn scan(&mut self, digest: &mut Digest) {
        let db = self.db.get_mut();
        let mut select = db.prepare_cached("SELECT value FROM t ORDER BY id").unwrap();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            digest.push(row.get_ref(0).unwrap().as_blob().unwrap());
        }
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        let mut select = self.db.get_mut().prepare_cached("SELECT value FROM t WHERE id = ?1").unwrap();
        let mut rows = select.query([number as i64 + 1]).unwrap();
        seen(rows.next().unwrap().unwrap().get_ref(0).unwrap().as_blob().unwrap())
    }

    fn pair(&mut self, _sleeping: bool) -> (Send<'_>, Receive<'_>) {
        let reader = connect(&self.path);
        let mut read = 0;
        let send = |value: &[u8]| {
            self.db.get_mut().prepare_cached(INSERT).unwrap().execute([value]).unwrap();
        };
        let receive = move |seen: &mut dyn FnMut(&[u8])| {
            let mut select =
                reader.prepare_cached("SELECT id, value FROM t WHERE id > ?1 ORDER BY id").unwrap();
            let mut rows = select.query([read]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                seen(row.get_ref(1).unwrap().as_blob().unwrap());
                read = row.get(0).unwrap();
            }
        };
        (Box::new(send), Box::new(receive))
    }
}

fn connect(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db
}
