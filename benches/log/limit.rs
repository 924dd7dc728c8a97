//! The limits, lower bounds of the cost: the same records in the same layout, without the work of a
//! library: no locks, no clock, no offsets, no index, no listeners.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use parking_lot::{Condvar, Mutex};
use quipu::Compression;

use super::records::RecordSet;

/// The size at which a batch is written, header included: the producer's default.
pub(crate) const BATCH_BYTES: usize = 64 << 10;
/// Space before a body.
pub(crate) const HEADER_BYTES: usize = 104;
/// Bytes of a segment file before its first batch.
const SEGMENT_HEADER_BYTES: usize = 128;

// -- writing --

/// Appends a record that has a value only, at its batch's base timestamp.
#[inline]
pub(crate) fn encode(value: &[u8], out: &mut Vec<u8>) {
    let len = 1 + varint_len(value.len()) + value.len();
    out.reserve(len + 5);
    put_varint(len, out);
    out.push(VALUE);
    put_varint(value.len(), out);
    out.extend_from_slice(value);
}

/// The bodies, each after space for a header, of the first `count` records in batches of
/// `batch_bytes`.
pub(crate) fn bodies(set: &RecordSet, batch_bytes: usize, count: usize) -> Vec<Vec<u8>> {
    let mut batches = vec![vec![0; HEADER_BYTES]];
    for value in set.take(count) {
        if batches.last().is_some_and(|batch| batch.len() + value.len() + 16 > batch_bytes) {
            batches.push(vec![0; HEADER_BYTES]);
        }
        encode(value, batches.last_mut().unwrap());
    }
    batches
}

/// Compresses, checksums and writes one batch after the other.
pub(crate) struct Writer {
    file: File,
    end: u64,
    compression: Compression,
    table: CompressTable,
    packed: Vec<u8>,
}

impl Writer {
    pub(crate) fn create(path: &Path, compression: Compression) -> Self {
        Writer {
            file: create(path),
            end: 0,
            compression,
            table: CompressTable::default(),
            packed: Vec::new(),
        }
    }

    /// Writes a batch, given as space for a header and a body. Returns its position.
    pub(crate) fn write(&mut self, batch: &mut [u8]) -> (u64, usize) {
        let stored = match self.compression {
            Compression::Lz4 => {
                self.packed.resize(HEADER_BYTES + get_maximum_output_size(batch.len()), 0);
                let body = &mut self.packed[HEADER_BYTES..];
                let len = compress_into_with_table(&batch[HEADER_BYTES..], body, &mut self.table).unwrap();
                &mut self.packed[..HEADER_BYTES + len]
            }
            _ => batch,
        };
        let crc = crc32fast::hash(&stored[HEADER_BYTES..]);
        stored[BODY_CRC..BODY_CRC + 4].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(stored, self.end).unwrap();
        let position = self.end;
        self.end += stored.len() as u64;
        (position, stored.len())
    }

    /// Waits until all written bytes are on the medium.
    pub(crate) fn sync(&self) {
        self.file.sync_data().unwrap();
    }
}

/// A fresh file to write and read at positions.
pub(crate) fn create(path: &Path) -> File {
    File::options().create_new(true).read(true).write(true).open(path).unwrap()
}

/// Durable appends by many threads that share a sync, with as little code as possible.
pub(crate) struct GroupCommit {
    file: File,
    state: Mutex<Ends>,
    synced: Condvar,
}

#[derive(Default)]
struct Ends {
    written: u64,
    synced: u64,
    syncing: bool,
}

impl GroupCommit {
    pub(crate) fn create(path: &Path) -> Self {
        GroupCommit { file: create(path), state: Mutex::default(), synced: Condvar::new() }
    }

    /// Writes a batch, and returns when it is on the medium.
    pub(crate) fn append(&self, batch: &mut [u8]) {
        let crc = crc32fast::hash(&batch[HEADER_BYTES..]);
        batch[BODY_CRC..BODY_CRC + 4].copy_from_slice(&crc.to_le_bytes());
        let mut ends = self.state.lock();
        self.file.write_all_at(batch, ends.written).unwrap();
        ends.written += batch.len() as u64;
        let mine = ends.written;
        while ends.synced < mine {
            if ends.syncing {
                self.synced.wait(&mut ends);
                continue;
            }
            ends.syncing = true;
            let upto = ends.written;
            parking_lot::MutexGuard::unlocked(&mut ends, || self.file.sync_data().unwrap());
            ends.syncing = false;
            ends.synced = upto;
            self.synced.notify_all();
        }
    }
}

// -- reading --

/// A batch as it lies in a segment file.
pub(crate) struct Stored<'a> {
    pub(crate) position: usize,
    pub(crate) base_offset: u64,
    /// Header and body.
    pub(crate) bytes: &'a [u8],
}

/// The batches of a segment file.
pub(crate) fn batches(file: &[u8]) -> impl Iterator<Item = Stored<'_>> {
    let mut position = SEGMENT_HEADER_BYTES;
    std::iter::from_fn(move || {
        let header =
            file.get(position..position + HEADER_BYTES).filter(|header| header.starts_with(b"QBAT"))?;
        let len = HEADER_BYTES + u32_at(header, BODY_LEN) as usize;
        let base_offset =
            u64::from(u32_at(header, BASE_OFFSET)) | u64::from(u32_at(header, BASE_OFFSET + 4)) << 32;
        let stored = Stored { position, base_offset, bytes: &file[position..position + len] };
        position += len;
        Some(stored)
    })
}

/// Checks a batch and returns its body, decompressed into `room` if necessary.
#[inline]
pub(crate) fn unpack<'a>(batch: &'a [u8], room: &'a mut Vec<u8>) -> &'a [u8] {
    let (header, body) = batch.split_at(HEADER_BYTES);
    assert_eq!(crc32fast::hash(body), u32_at(header, BODY_CRC), "crc of a body");
    let len = u32_at(header, UNCOMPRESSED_LEN) as usize;
    // At its end there may be a table of positions.
    let entries = match header[TABLE] {
        0 => 0,
        shift => (u32_at(header, COUNT).saturating_sub(1) >> shift) as usize,
    };
    let body = &body[..body.len() - entries * if len <= 1 << 16 { 2 } else { 4 }];
    if header[CODEC] == 0 {
        return body;
    }
    if room.len() < len {
        room.resize(len, 0);
    }
    let done = decompress_into(body, &mut room[..len]).unwrap();
    &room[..done]
}

/// The values of a body whose records have nothing else but, perhaps, a timestamp.
#[inline]
pub(crate) fn values(mut body: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if body.is_empty() {
            return None;
        }
        let _len = take_varint(&mut body);
        let flags = body[0];
        body = &body[1..];
        if flags & TIMESTAMP != 0 {
            take_varint(&mut body);
        }
        let len = take_varint(&mut body);
        let (value, rest) = body.split_at(len);
        body = rest;
        Some(value)
    })
}

/// A read-only map of a file. The file must not be written to while it is mapped.
#[allow(unsafe_code)]
pub(crate) fn map(path: &Path) -> memmap2::Mmap {
    // SAFETY: the files are ours, in a directory of this run, and filled before they are mapped;
    // none ever shrinks.
    unsafe { memmap2::Mmap::map(&File::open(path).unwrap()).unwrap() }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

// -- varints --

fn varint_len(number: usize) -> usize {
    (usize::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize
}

#[inline]
fn put_varint(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[inline]
fn take_varint(bytes: &mut &[u8]) -> usize {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        number |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return number;
        }
        shift += 7;
    }
}

// Where the fields of a batch header lie; see FORMAT.md.
const BODY_LEN: usize = 4;
const BASE_OFFSET: usize = 8;
const COUNT: usize = 20;
const CODEC: usize = 58;
const TABLE: usize = 59;
const UNCOMPRESSED_LEN: usize = 88;
const BODY_CRC: usize = 96;
// Flags of a record.
const VALUE: u8 = 1 << 1;
const TIMESTAMP: u8 = 1 << 3;
