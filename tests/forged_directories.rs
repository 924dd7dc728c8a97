//! A directory with changed bytes and checksums that fit: whatever it says, every call returns, with
//! a result or an error, in bounded memory.
//!
//! Each case changes one field of one file. A program of its own, because it bounds memory.

#![allow(unsafe_code, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;
mod forged;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{Random, open, thorough};
use forged::exercise::exercise;
use forged::pieces::{Piece, pieces};
use forged::shipment::{Batch, shipment};
use forged::world::{State, world};
use quipu::testing::Disk;
use quipu::{Error, RawBatches, Start, Timestamp, TopicConfig};

struct Bounded;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(held, Ordering::Relaxed);
}

// SAFETY: passes everything to the system's allocator, and allocates nothing itself.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

/// A call that has not returned by then hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a directory of some kilobytes may take. The largest single thing that a file may ask for is
/// a batch of 64 MiB, decompressed.
const MEMORY: usize = 192 << 20;

/// But the catalog says how many partitions a topic has, up to 100,000, and each is an object.
const MEMORY_OF_TOPICS: usize = 100_000 * (12 << 10);

/// Runs one case in a thread of its own, so that a hang is noticed. Returns the fault.
fn run(disk: Disk, memory: usize) -> Option<String> {
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let (done, is_done) = mpsc::channel();
    let runner = thread::spawn(move || {
        exercise(&disk);
        done.send(()).unwrap();
    });
    let ended = is_done.recv_timeout(PATIENCE);
    if ended == Err(mpsc::RecvTimeoutError::Timeout) {
        return Some("hangs".to_string());
    }
    if runner.join().is_err() {
        return Some("panics".to_string());
    }
    let taken = MOST.load(Ordering::Relaxed).saturating_sub(before);
    (taken > memory).then(|| format!("takes {} MiB", taken >> 20))
}

/// The values that a field may be given.
fn forge(random: &mut Random, old: u64, width: usize) -> u64 {
    let most = u64::MAX >> (64 - 8 * width as u32);
    let values = [
        0,
        1,
        most,
        most / 2,
        most / 2 + 1,
        old.wrapping_add(1),
        old.wrapping_sub(1),
        old.wrapping_mul(2),
        old / 2,
        old ^ 1 << random.below(8 * width as u64),
        1 << random.below(8 * width as u64),
        old.wrapping_add(random.below(2_000)),
        random.next(),
    ];
    values[random.below(values.len() as u64) as usize] & most
}

/// Changes a few bytes at one place of a piece, and makes its checksums fit.
fn change(random: &mut Random, disk: &Disk, piece: &Piece) -> String {
    let mut bytes = disk.read(&piece.path).unwrap();
    let width = [1, 2, 4, 8][random.below(4) as usize];
    let room = piece.fields.len();
    if room < width {
        return String::new();
    }
    let at = piece.fields.start + random.below((room - width + 1) as u64) as usize;
    let mut field = [0; 8];
    field[..width].copy_from_slice(&bytes[at..at + width]);
    let new = forge(random, u64::from_le_bytes(field), width);
    bytes[at..at + width].copy_from_slice(&new.to_le_bytes()[..width]);
    piece.seal(&mut bytes);
    disk.overwrite(&piece.path, 0, &bytes).unwrap();
    format!("{} ({}), {width} bytes at {at} became {new:#x}", piece.path.display(), piece.what)
}

fn every_kind_of_piece(state: State) {
    let disk = world(state);
    // Unchanged it is good, and each piece is what it is taken for: else nothing would be shown.
    let found = pieces(&disk);
    for piece in &found {
        let (before, mut after) = (disk.read(&piece.path).unwrap(), disk.read(&piece.path).unwrap());
        piece.seal(&mut after);
        assert_eq!(before, after, "{} ({})", piece.path.display(), piece.what);
    }
    assert_eq!(run(disk.duplicate(), MEMORY), None);
    assert!(open(&disk.duplicate()).unwrap().open_report().damaged.is_empty());
    let times = if thorough() { 120 } else { 4 };
    let mut random = Random(state as u64 + 1);
    let mut faults = Vec::new();
    for piece in &found {
        for _ in 0..times {
            let disk = disk.duplicate();
            let case = change(&mut random, &disk, piece);
            let memory = if piece.what == "a change" { MEMORY_OF_TOPICS } else { MEMORY };
            faults.extend(run(disk, memory).map(|fault| format!("{case}: {fault}")));
        }
    }
    println!("{state:?}: {} pieces, {times} changes of each", found.len());
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn a_closed_directory_with_forged_fields_is_refused_or_read_in_bounds() {
    every_kind_of_piece(State::Closed);
}

#[test]
fn a_killed_directory_with_forged_fields_is_refused_or_read_in_bounds() {
    every_kind_of_piece(State::Killed);
}

/// A closed directory with one field changed.
fn forged(path: &str, what: &str, at: usize, new: &[u8]) -> Disk {
    let disk = world(State::Closed);
    let found = pieces(&disk);
    // The last such piece of a file: of its batches, the last one.
    let piece = found.iter().rfind(|piece| piece.path == Path::new(path) && piece.what == what).unwrap();
    let mut bytes = disk.read(path).unwrap();
    let at = piece.fields.start + at;
    bytes[at..at + new.len()].copy_from_slice(new);
    piece.seal(&mut bytes);
    disk.overwrite(path, 0, &bytes).unwrap();
    disk
}

/// The error of reading a partition from its beginning on.
fn read_error(disk: &Disk, topic: &str) -> Error {
    let broker = open(disk).unwrap();
    let partition = broker.topic(topic).unwrap().partition(0).unwrap();
    common::read(&partition).1.unwrap()
}

#[test]
fn a_log_start_after_the_end_is_damage() {
    // After magic, versions, partition, topic id, secret and the listed formats.
    let disk = forged("topics/packed/0/manifest", "all of it", 64 - 8, &1_000u64.to_le_bytes());
    let broker = open(&disk).unwrap();
    let [(place, Error::Corrupt(damage))] = &broker.open_report().damaged[..] else {
        panic!("{:?}", broker.open_report())
    };
    assert_eq!((place.to_string().as_str(), damage.file.ends_with("manifest")), ("packed/0", true));
    assert_eq!(damage.what, "the log starts at offset 1000, after its end 200");
    let partition = broker.topic("packed").unwrap().partition(0).unwrap();
    for from in [Start::Beginning, Start::End, Start::Time(Timestamp::from_millis(1))] {
        assert!(partition.read(from, 1 << 20).is_ok_and(|records| records.is_empty()), "{from:?}");
    }
    assert!(partition.last_n(1).unwrap().is_empty());
    let mut reader = broker.reader("packed", Start::Beginning).unwrap();
    assert!(reader.poll(Duration::ZERO).unwrap().is_empty());
}

const PACKED: &str = "topics/packed/0/00000000000000000000-0.log";

#[test]
fn a_batch_that_ends_after_its_log_is_damage() {
    // The offset of its last record.
    let disk = forged(PACKED, "header of a batch", 16 - 4, &250u32.to_le_bytes());
    let Error::Corrupt(damage) = read_error(&disk, "packed") else { panic!() };
    assert_eq!(damage.what, "the batch ends at offset 251, after the end 200");
}

#[test]
fn a_batch_of_an_epoch_to_come_is_damage() {
    let disk = forged(PACKED, "header of a batch", 92 - 4, &7u32.to_le_bytes());
    let Error::Corrupt(damage) = read_error(&disk, "packed") else { panic!() };
    assert_eq!(damage.what, "the batch is of epoch 7, and the log of 0");
}

/// The records of a batch of the key bomb.
const BOMB_BYTES: usize = 16 << 20;
const BOMB_RECORDS: u32 = BOMB_BYTES as u32 / 4;

/// Millions of records of four bytes, whose two keys alternate, in 66 kilobytes a batch.
fn key_bomb(batches: u64) -> Vec<u8> {
    let records = BOMB_RECORDS;
    let mut body = Vec::with_capacity(BOMB_BYTES);
    for number in 0..records {
        body.extend([3, 1, 1, if number % 2 == 0 { b'a' } else { b'b' }]);
    }
    let (uncompressed, body) = (body.len() as u32, lz4_flex::block::compress(&body));
    let batch = |number| Batch {
        base: number * u64::from(records),
        offsets: records,
        records,
        time: 1_000,
        codec: 1,
        uncompressed,
        body: body.clone(),
    };
    shipment(&(0..batches).map(batch).collect::<Vec<_>>())
}

/// Calls, and returns how much more memory was held in between.
fn most_held<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let made = call();
    (made, MOST.load(Ordering::Relaxed).saturating_sub(before))
}

#[test]
fn a_shipment_of_many_small_records_takes_no_more_memory_than_its_largest_batch() {
    let broker = open(&Disk::new()).unwrap();
    let topic = broker.create_topic("s", TopicConfig::streams()).unwrap();
    let shipped = RawBatches::from_bytes(key_bomb(3)).unwrap();
    let partition = topic.partition(0).unwrap();
    let (appended, most) = most_held(|| partition.append_raw(&shipped));
    assert_eq!(appended.unwrap(), 3 * u64::from(BOMB_RECORDS));
    assert!(most <= 3 * BOMB_BYTES, "{} MiB", most >> 20);
}

#[test]
fn a_shipped_batch_owns_no_more_offsets_than_a_batch_can_have_records() {
    let broker = open(&Disk::new()).unwrap();
    let partition = broker.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    let batch = |offsets| Batch {
        base: 0,
        offsets,
        records: 1,
        time: 1_000,
        codec: 0,
        uncompressed: 4,
        body: vec![3, 2, 1, b'x'],
    };
    for offsets in [(1 << 25) + 1, u32::MAX - 1] {
        let refused = RawBatches::from_bytes(shipment(&[batch(offsets)])).unwrap_err();
        assert!(
            matches!(&refused, Error::InvalidBatches { what, .. } if what.contains("last offset")),
            "{refused:?}"
        );
    }
    let shipped = RawBatches::from_bytes(shipment(&[batch(1 << 25)])).unwrap();
    assert_eq!(partition.append_raw(&shipped).unwrap(), 1 << 25);
}
