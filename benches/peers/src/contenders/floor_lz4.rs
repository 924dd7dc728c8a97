//! The simplest log that compresses: LZ4 and a CRC for each block of 64 KiB of records.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use super::floor::{Floor, map, u32_at};
use crate::contender::{Contender, Need, Settings};
use crate::digest::Digest;

const BLOCK: usize = 64 << 10;
/// Bytes stored, CRC of them, bytes before compression, records.
const HEADER: usize = 16;

pub struct FloorLz4 {
    path: PathBuf,
    file: File,
    end: u64,
    /// The open block: length and bytes of each record.
    block: Vec<u8>,
    count: u32,
    packed: Vec<u8>,
    table: CompressTable,
    /// The number of the first record, the place and the size of each block.
    places: Vec<(u64, u64, usize)>,
}

impl Contender for FloorLz4 {
    const NAME: &'static str = Floor::NAME;
    const ABOUT: &'static str = Floor::ABOUT;
    const CAN: &'static [Need] = Floor::CAN;

    fn open(dir: &Path, _settings: &Settings) -> Self {
        let path = dir.join("log");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
        let mut end = 0;
        if file.metadata().unwrap().len() > 0 {
            blocks(&map(&path), |at, block| end = at + block.len() as u64);
        }
        FloorLz4 {
            path,
            file,
            end,
            block: Vec::with_capacity(2 * BLOCK),
            count: 0,
            packed: Vec::new(),
            table: CompressTable::default(),
            places: Vec::new(),
        }
    }

    fn append_batch(&mut self, batch: &[&[u8]]) {
        for value in batch {
            self.append_one(value);
        }
    }

    #[inline]
    fn append_one(&mut self, value: &[u8]) {
        self.block.reserve(4 + value.len());
        self.block.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(value);
        self.count += 1;
        if self.block.len() >= BLOCK {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.block.is_empty() {
            return;
        }
        self.packed.resize(HEADER + get_maximum_output_size(self.block.len()), 0);
        let (header, body) = self.packed.split_at_mut(HEADER);
        let len = compress_into_with_table(&self.block, body, &mut self.table).unwrap();
        let fields = [len as u32, crc32fast::hash(&body[..len]), self.block.len() as u32, self.count];
        for (field, to) in fields.iter().zip(header.chunks_exact_mut(4)) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        self.file.write_all_at(&self.packed[..HEADER + len], self.end).unwrap();
        self.end += (HEADER + len) as u64;
        self.block.clear();
        self.count = 0;
    }

    fn scan(&mut self, digest: &mut Digest) {
        let room = &mut self.packed;
        blocks(&map(&self.path), |_, block| {
            for value in values(unpack(block, room)) {
                digest.push(value);
            }
        });
    }

    fn prepare_gets(&mut self) {
        self.places.clear();
        let mut first = 0;
        blocks(&map(&self.path), |at, block| {
            self.places.push((first, at, block.len()));
            first += u64::from(u32_at(block, 12));
        });
    }

    fn get<R>(&mut self, number: u64, seen: impl FnOnce(&[u8]) -> R) -> R {
        let (first, at, len) = self.places[self.places.partition_point(|place| place.0 <= number) - 1];
        self.block.resize(len, 0);
        self.file.read_exact_at(&mut self.block, at).unwrap();
        assert_eq!(
            crc32fast::hash(&self.block[HEADER..]),
            u32_at(&self.block, 4),
            "CRC of the block at {at}"
        );
        let records = unpack(&self.block, &mut self.packed);
        seen(values(records).nth((number - first) as usize).unwrap())
    }
}

/// The blocks, each with its header, up to the end or to the first one that is torn.
fn blocks(log: &[u8], mut seen: impl FnMut(u64, &[u8])) {
    let mut at = 0;
    while let Some(header) = log.get(at..at + HEADER) {
        let len = HEADER + u32_at(header, 0) as usize;
        let Some(block) = log.get(at..at + len) else { break };
        if crc32fast::hash(&block[HEADER..]) != u32_at(header, 4) {
            break;
        }
        seen(at as u64, block);
        at += len;
    }
}

#[inline]
fn unpack<'a>(block: &[u8], room: &'a mut Vec<u8>) -> &'a [u8] {
    let len = u32_at(block, 8) as usize;
    if room.len() < len {
        room.resize(len, 0);
    }
    let done = decompress_into(&block[HEADER..], &mut room[..len]).unwrap();
    &room[..done]
}

#[inline]
fn values(mut records: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = records.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        records = rest;
        Some(value)
    })
}
