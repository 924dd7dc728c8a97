//! The physical bounds of a run: what its bytes cost if nothing else is done with them.
//!
//! Each part is measured alone, on the records of the run, in blocks of 64 KiB where a library may
//! choose the size. A row is bounded by the slowest of the parts that it cannot leave out; its
//! library does several of them and the rest of its work.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use serde::{Deserialize, Serialize};

use super::{Outcome, Task, tail};
use crate::contender::{Receive, Send};
use crate::contenders::floor_map;
use crate::latencies::Latencies;
use crate::records::{Random, Records};

const BLOCK: usize = 64 << 10;
/// Reads at random, and calls of a latency.
const CALLS: u64 = 20_000;
const SYNCS: u64 = 500;
/// Zeros before the place of a durable write, as the floor writes them.
const ZEROS: usize = 1 << 20;

/// The parts that bound the rows of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parts {
    /// Of so many bytes of records, by so many threads: copy, CRC, LZ4, write, read.
    Bytes { threads: usize },
    /// A write for each record.
    Writes,
    /// A sync for `records`, which wait for it together.
    Syncs { records: usize },
    /// From one thread to another.
    HandOver { sleeping: bool },
    /// Opening a file and reading its first block.
    Open,
}

pub fn run(task: &Task, parts: Parts, bytes: u64, count: u64, outcome: &mut Outcome) {
    let records = Records::of(task.kind);
    let values = records.values();
    match parts {
        Parts::Bytes { threads } => {
            let blocks = Blocks::of(&values, task.settings.lz4);
            blocks.measure(&task.dir, bytes, threads, outcome);
        }
        Parts::Writes => writes(&task.dir, &values, outcome),
        Parts::Syncs { records } => syncs(&task.dir, values[0], records, outcome),
        Parts::HandOver { sleeping } => {
            outcome.put("hand-over", tail::measure(channel(sleeping), count).quantile(0.5));
        }
        Parts::Open => open(&task.dir, values[0], outcome),
    }
}

/// The records of a run, a block after the other.
struct Blocks {
    plain: Vec<Vec<u8>>,
    /// Compressed, or the same.
    stored: Vec<Vec<u8>>,
    lz4: bool,
    records: f64,
    /// The bytes of a record.
    each: usize,
}

impl Blocks {
    fn of(values: &[&[u8]], lz4: bool) -> Self {
        let all = values.concat();
        let plain: Vec<Vec<u8>> = all.chunks(BLOCK).map(<[u8]>::to_vec).collect();
        let mut table = CompressTable::default();
        let pack = |block: &Vec<u8>| packed(block, &mut table);
        let stored = if lz4 { plain.iter().map(pack).collect() } else { plain.clone() };
        Blocks { plain, stored, lz4, records: values.len() as f64, each: values[0].len() }
    }

    /// Puts the records a second of each part into the outcome.
    fn measure(&self, dir: &Path, bytes: u64, threads: usize, outcome: &mut Outcome) {
        let total = |blocks: &[Vec<u8>]| blocks.iter().map(Vec::len).sum::<usize>();
        let rounds = (bytes as usize / total(&self.plain)).max(1);
        let all = self.records * rounds as f64 * threads as f64;
        let mut rate = |name: &str, part: &(dyn Fn(usize) + Sync)| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                (0..threads).for_each(|thread| drop(scope.spawn(move || part(thread))));
            });
            outcome.put(name, all / start.elapsed().as_secs_f64());
        };
        rate("copy", &|_| self.copy(rounds));
        rate("crc", &|_| each(&self.stored, rounds, crc));
        let path = |thread: usize| dir.join(format!("bound-{thread}"));
        rate("write", &|thread| write(&path(thread), &self.stored, rounds));
        rate("read, crc", &|thread| checked(&path(thread), self.stored[0].len()));
        rate("read", &|thread| sum(&floor_map(&path(thread))));
        if self.lz4 {
            rate("lz4", &|_| self.pack(rounds));
            rate("unlz4", &|_| self.unpack(rounds));
            outcome.put("unlz4 of a block", self.unpack_one());
        } else {
            outcome.put("pread", self.preads(&path(0)));
        }
        outcome.put("bytes", total(&self.stored) as f64 / self.records);
    }

    fn copy(&self, rounds: usize) {
        let mut room = vec![0; BLOCK];
        each(&self.plain, rounds, |block| {
            room[..block.len()].copy_from_slice(block);
            black_box(&room);
        });
    }

    fn pack(&self, rounds: usize) {
        let (mut table, mut room) = (CompressTable::default(), vec![0; get_maximum_output_size(BLOCK)]);
        each(&self.plain, rounds, |block| {
            black_box(compress_into_with_table(block, &mut room, &mut table).unwrap());
        });
    }

    fn unpack(&self, rounds: usize) {
        let mut room = vec![0; BLOCK];
        each(&self.stored, rounds, |block| {
            black_box(decompress_into(block, &mut room).unwrap());
        });
    }

    /// The median, in microseconds.
    fn unpack_one(&self) -> f64 {
        let (mut room, mut random) = (vec![0; BLOCK], Random(1));
        of_calls(CALLS / 10, |_| {
            let block = &self.stored[random.below(self.stored.len() as u64) as usize];
            black_box(decompress_into(block, &mut room).unwrap());
        })
    }

    /// Positional reads of one record each, with its CRC: the median, in microseconds.
    fn preads(&self, path: &Path) -> f64 {
        let (file, mut random) = (File::open(path).unwrap(), Random(1));
        let places = file.metadata().unwrap().len() / self.each as u64;
        let mut room = vec![0; self.each];
        of_calls(CALLS, |_| {
            file.read_exact_at(&mut room, random.below(places) * self.each as u64).unwrap();
            black_box(crc32fast::hash(&room));
        })
    }
}

fn each(blocks: &[Vec<u8>], rounds: usize, mut work: impl FnMut(&[u8])) {
    for _ in 0..rounds {
        blocks.iter().for_each(|block| work(block));
    }
}

fn packed(block: &[u8], table: &mut CompressTable) -> Vec<u8> {
    let mut room = vec![0; get_maximum_output_size(block.len())];
    let len = compress_into_with_table(block, &mut room, table).unwrap();
    room.truncate(len);
    room
}

fn write(path: &Path, blocks: &[Vec<u8>], rounds: usize) {
    let (file, mut end) = (File::create(path).unwrap(), 0);
    each(blocks, rounds, |block| {
        file.write_all_at(block, end).unwrap();
        end += block.len() as u64;
    });
}

/// A CRC of each block of a file, through a map.
fn checked(path: &Path, block: usize) {
    floor_map(path).chunks(block).for_each(crc);
}

fn crc(bytes: &[u8]) {
    black_box(crc32fast::hash(bytes));
}

/// A look at every word.
fn sum(bytes: &[u8]) {
    let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    black_box(words.fold(0, u64::wrapping_add));
}

/// The median of calls, in microseconds.
fn of_calls(count: u64, mut call: impl FnMut(u64)) -> f64 {
    let mut latencies = Latencies::default();
    for number in 0..count {
        let start = Instant::now();
        call(number);
        latencies.push(start.elapsed());
    }
    latencies.quantile(0.5)
}

/// One write into the page cache for each record.
fn writes(dir: &Path, values: &[&[u8]], outcome: &mut Outcome) {
    let (file, mut end) = (File::create(dir.join("bound")).unwrap(), 0);
    let start = Instant::now();
    let median = of_calls(10 * CALLS, |number| {
        let value = values[number as usize % values.len()];
        file.write_all_at(value, end).unwrap();
        end += value.len() as u64;
    });
    outcome.put("writes", 10.0 * CALLS as f64 / start.elapsed().as_secs_f64());
    outcome.put("write of one", median);
}

/// A sync of each small write, into zeros that are on the medium.
fn syncs(dir: &Path, value: &[u8], records: usize, outcome: &mut Outcome) {
    let file = File::create(dir.join("bound")).unwrap();
    file.write_all_at(&vec![0; ZEROS], 0).unwrap();
    file.sync_all().unwrap();
    let start = Instant::now();
    let median = of_calls(SYNCS, |number| {
        file.write_all_at(value, number * value.len() as u64).unwrap();
        file.sync_data().unwrap();
    });
    outcome.put("sync", records as f64 * SYNCS as f64 / start.elapsed().as_secs_f64());
    outcome.put("sync of one", median);
}

/// The hand-over of a value between two threads by a channel of the standard library.
fn channel(sleeping: bool) -> (Send<'static>, Receive<'static>) {
    let (send, receive) = mpsc::channel::<[u8; tail::BYTES]>();
    let send = move |value: &[u8]| send.send(value.try_into().unwrap()).unwrap();
    let receive = move |seen: &mut dyn FnMut(&[u8])| {
        let wait = Duration::from_secs(1);
        let value = if sleeping { receive.recv_timeout(wait).ok() } else { receive.try_recv().ok() };
        if let Some(value) = value {
            seen(&value);
        }
    };
    (Box::new(send), Box::new(receive))
}

fn open(dir: &Path, value: &[u8], outcome: &mut Outcome) {
    let (path, mut room) = (dir.join("bound"), vec![0; value.len()]);
    std::fs::write(&path, value).unwrap();
    let median = of_calls(100, |_| {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        black_box(file.metadata().unwrap().len());
        file.read_exact_at(&mut room, 0).unwrap();
    });
    outcome.put("open, read", median / 1e3);
}
