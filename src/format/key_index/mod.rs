//! The key index of a sealed segment: the batches that hold records of a key. A side file of which
//! a lookup reads a few hundred bytes.
//!
//! First comes a filter, so that a lookup of a key that the segment does not have reads no more
//! than 64 bytes. Buckets of keys follow in the order of their hashes, then the places of the keys
//! that have more than one. Each piece has its own checksum: a lookup checks the pieces that it
//! reads. The file is derived: if it cannot be read, it is rebuilt from the segment.

use std::ops::Range;

use super::envelope::{self, ByteWriter, piece_crc};
use super::key_hash::KeyHash;
use super::reader::{ByteReader, Malformed};
use super::varint::put_varint;
use crate::types::{Offset, PartitionId, TopicId};

/// Bytes of the file before the filter: what has to be read to open it.
pub(crate) const HEADER_BYTES: usize = 96;

/// A batch that holds records of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyPlace {
    /// Where in the segment file the batch begins.
    pub(crate) position: u32,
    /// How many of its records have the key; at least one.
    pub(crate) records: u32,
}

/// A key of a segment, and its places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Indexed {
    pub(crate) hash: KeyHash,
    /// How many records of the key the segments before this one have, if that is known.
    pub(crate) before: Option<u64>,
    /// In the order of their positions.
    pub(crate) places: Vec<KeyPlace>,
}

/// The header: the segment, and the sizes from which the position of every piece follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyIndex {
    /// The segment.
    pub(crate) of: IndexedSegment,
    /// How many keys there are.
    keys: u32,
    /// Lines of the filter.
    lines: u32,
    /// Buckets of keys.
    buckets: u32,
    /// Bytes of the places.
    places_bytes: u32,
    /// The checksum of the header: the checksums of all pieces begin with it.
    salt: u32,
}

/// The entry of a key in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyEntry {
    /// How many records have the key.
    pub(crate) records: u32,
    /// How many the segments before this one have; [`UNKNOWN`] if it was not known.
    before: u32,
    /// How many batches hold them.
    batches: u32,
    /// Of one batch its position; of several the position of their places.
    at: u32,
    /// Of several batches, how many bytes their places take.
    len: u32,
    crc: u32,
}

/// The range of a bucket, and its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// In the file.
    pub(crate) range: Range<u64>,
    crc: u32,
}

impl KeyIndex {
    /// Returns the bytes of an index of these keys, which come in the order of their hashes. `None`
    /// if the numbers do not fit the format: a segment of at most 1 GiB has too few records for
    /// that.
    pub(crate) fn encode(of: &IndexedSegment, keys: &[Indexed]) -> Option<Vec<u8>> {
        let count = u32::try_from(keys.len()).ok()?;
        let (lines, buckets) = (count.div_ceil(KEYS_PER_LINE), count.div_ceil(KEYS_PER_BUCKET));
        let mut places = Vec::new();
        let mut found = Vec::with_capacity(keys.len());
        for Indexed { hash, before, places: of_key } in keys {
            let records = of_key.iter().try_fold(0u32, |sum, place| sum.checked_add(place.records))?;
            let batches = u32::try_from(of_key.len()).ok()?;
            let (at, len) = match of_key.as_slice() {
                [place] => (place.position, 0),
                several => put_places(several, &mut places)?,
            };
            let before = before.and_then(|before| u32::try_from(before).ok()).unwrap_or(UNKNOWN);
            found.push((*hash, KeyEntry { records, before, batches, at, len, crc: 0 }));
        }
        let mut writer = ByteWriter::new(MAGIC, HEADER_BYTES);
        writer.u32(of.partition.get());
        writer.bytes(&of.topic_id.0);
        writer.u64(of.base_offset.get());
        writer.u32(of.generation);
        writer.u64(of.covers_bytes);
        writer.u32(count);
        writer.u32(lines);
        writer.u32(buckets);
        writer.u32(u32::try_from(places.len()).ok()?);
        writer.u32(of.log_epoch);
        writer.bytes(&[0; RESERVED]);
        let mut file = writer.finish();
        let index = KeyIndex::decode(&file);
        debug_assert!(index.is_ok(), "the header was just encoded: {index:?}");
        let index = index.ok()?;
        put_filter(&index, keys, &mut file);
        let (mut directory, mut entries) = (Vec::new(), Vec::new());
        let mut rest = found.as_slice();
        let mut start = 0u32;
        for number in 0..buckets {
            let here = rest.partition_point(|(hash, _): &(KeyHash, KeyEntry)| hash.part(buckets) <= number);
            let (bucket, after) = rest.split_at_checked(here)?;
            rest = after;
            let from = entries.len();
            for (hash, entry) in bucket {
                entries.extend_from_slice(&hash.0.to_le_bytes());
                for value in [entry.records, entry.before, entry.batches, entry.at, entry.len] {
                    entries.extend_from_slice(&value.to_le_bytes());
                }
                let crc = match entry.batches {
                    1 => 0,
                    _ => piece_crc(index.salt, index.places(entry)?, places.get(entry.place_range())?),
                };
                entries.extend_from_slice(&crc.to_le_bytes());
            }
            let len = u32::try_from(bucket.len()).ok()?;
            let crc = piece_crc(index.salt, index.bucket_at(start), entries.get(from..)?);
            for value in [start, len, crc] {
                directory.extend_from_slice(&value.to_le_bytes());
            }
            start += len;
        }
        file.extend_from_slice(&directory);
        file.extend_from_slice(&entries);
        file.extend_from_slice(&places);
        debug_assert_eq!(file.len() as u64, index.file_bytes(), "of {count} keys");
        Some(file)
    }

    /// Reads the header. The caller must check the length of the file against
    /// [`file_bytes`](KeyIndex::file_bytes).
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let header = bytes.get(..HEADER_BYTES).unwrap_or(bytes);
        let mut reader = envelope::open(header, MAGIC)?;
        let partition = PartitionId::new(reader.u32("partition")?);
        let topic_id = TopicId(reader.array("topic id")?);
        let base_offset = Offset::new(reader.u64("base offset")?);
        let generation = reader.u32("generation")?;
        let covers_bytes = reader.u64("covered bytes")?;
        let at_counts = reader;
        let keys = reader.u32("key count")?;
        let lines = reader.u32("line count")?;
        let buckets = reader.u32("bucket count")?;
        let places_bytes = reader.u32("bytes of places")?;
        let log_epoch = reader.u32("log epoch")?;
        reader.zeros::<RESERVED>("reserved bytes")?;
        reader.expect_end("bytes after the header")?;
        if (lines, buckets) != (keys.div_ceil(KEYS_PER_LINE), keys.div_ceil(KEYS_PER_BUCKET)) {
            return Err(at_counts.malformed("counts"));
        }
        // The envelope has been opened, so there is a CRC at the end.
        let crc = header.last_chunk().copied().unwrap_or_default();
        Ok(KeyIndex {
            of: IndexedSegment { topic_id, partition, base_offset, generation, log_epoch, covers_bytes },
            keys,
            lines,
            buckets,
            places_bytes,
            salt: u32::from_le_bytes(crc),
        })
    }

    /// How long the file is.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.entries_start() + u64::from(self.keys) * ENTRY_BYTES as u64 + u64::from(self.places_bytes)
    }

    /// How many keys there are.
    pub(crate) fn keys(&self) -> u32 {
        self.keys
    }

    /// How many buckets there are.
    pub(crate) fn buckets(&self) -> u32 {
        self.buckets
    }

    // -- the filter --

    /// The line of the filter for a key; `None` if the index has no keys at all.
    pub(crate) fn filter_line(&self, hash: KeyHash) -> Option<Range<u64>> {
        (self.lines > 0).then(|| self.line_at(hash.part(self.lines)))
    }

    /// The ranges of all lines of the filter.
    pub(crate) fn filter_lines(&self) -> impl Iterator<Item = Range<u64>> {
        (0..self.lines).map(|line| self.line_at(line))
    }

    fn line_at(&self, line: u32) -> Range<u64> {
        let start = HEADER_BYTES as u64 + u64::from(line) * LINE_BYTES as u64;
        start..start + LINE_BYTES as u64
    }

    /// Checks a line of the filter, which begins at `at`. Returns its bits.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) fn check_line<'a>(&self, at: u64, line: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let Some((bits, crc)) = line.split_last_chunk().filter(|_| line.len() == LINE_BYTES) else {
            return Err(Malformed::new(line.len() as u64, "line of the filter"));
        };
        if piece_crc(self.salt, at, bits) != u32::from_le_bytes(*crc) {
            return Err(Malformed::new(at, "crc of a line of the filter"));
        }
        Ok(bits)
    }

    /// Whether a key may be there: wrongly true for fewer than one key in a hundred, never wrongly
    /// false.
    pub(crate) fn may_have(&self, hash: KeyHash, line: &[u8]) -> Result<bool, Malformed> {
        let range = self.filter_line(hash);
        debug_assert!(range.is_some(), "the caller has read the line of the key");
        let bits = self.check_line(range.map_or(0, |range| range.start), line)?;
        let is_set = |bit: usize| bits.get(bit / 8).is_some_and(|byte| byte & (1 << (bit % 8)) != 0);
        Ok(filter_bits(hash).all(is_set))
    }

    // -- the buckets --

    /// The entry of the directory for a key's bucket; `None` if the index has no keys at all.
    pub(crate) fn directory_entry(&self, hash: KeyHash) -> Option<Range<u64>> {
        (self.buckets > 0).then(|| self.directory_at(hash.part(self.buckets)))
    }

    /// The entry of the directory for this bucket.
    pub(crate) fn directory_at(&self, bucket: u32) -> Range<u64> {
        let start = self.directory_start() + u64::from(bucket) * DIRECTORY_BYTES as u64;
        start..start + DIRECTORY_BYTES as u64
    }

    /// The bucket that an entry of the directory names.
    pub(crate) fn bucket(&self, bytes: &[u8]) -> Result<Bucket, Malformed> {
        let mut reader = ByteReader::new(bytes);
        let (start, count) = (reader.u32("bucket")?, reader.u32("bucket")?);
        let crc = reader.u32("bucket")?;
        if start.checked_add(count).is_none_or(|end| end > self.keys) {
            return Err(Malformed::new(0, "bucket out of the file"));
        }
        let from = self.bucket_at(start);
        let range = from..from + u64::from(count) * ENTRY_BYTES as u64;
        Ok(Bucket { range, crc })
    }

    /// Returns the entry of a key in a bucket; `None` if the bucket does not have it.
    pub(crate) fn find(
        &self,
        bucket: &Bucket,
        bytes: &[u8],
        hash: KeyHash,
    ) -> Result<Option<KeyEntry>, Malformed> {
        let found = self.entries(bucket, bytes)?.find(|(other, _)| *other == hash);
        found.map(|(_, entry)| self.checked(entry)).transpose()
    }

    /// All keys of a bucket.
    pub(crate) fn all<'a>(
        &'a self,
        bucket: &Bucket,
        bytes: &'a [u8],
    ) -> Result<impl Iterator<Item = Result<(KeyHash, KeyEntry), Malformed>> + 'a, Malformed> {
        let entries = self.entries(bucket, bytes)?;
        Ok(entries.map(|(hash, entry)| self.checked(entry).map(|entry| (hash, entry))))
    }

    fn entries<'a>(
        &self,
        bucket: &Bucket,
        bytes: &'a [u8],
    ) -> Result<impl Iterator<Item = (KeyHash, KeyEntry)> + use<'a>, Malformed> {
        if piece_crc(self.salt, bucket.range.start, bytes) != bucket.crc {
            return Err(Malformed::new(bucket.range.start, "crc of a bucket"));
        }
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        Ok(entries.iter().filter_map(|bytes| {
            let mut reader = ByteReader::new(bytes);
            let hash = KeyHash(u128::from_le_bytes(reader.array("hash").ok()?));
            let mut next = || reader.u32("entry").ok();
            let entry = KeyEntry {
                records: next()?,
                before: next()?,
                batches: next()?,
                at: next()?,
                len: next()?,
                crc: next()?,
            };
            Some((hash, entry))
        }))
    }

    fn checked(&self, entry: KeyEntry) -> Result<KeyEntry, Malformed> {
        let fits = match entry.batches {
            0 => false,
            1 => entry.len == 0 && u64::from(entry.at) < self.of.covers_bytes,
            _ => entry.at.checked_add(entry.len).is_some_and(|end| end <= self.places_bytes),
        };
        if fits && entry.records >= entry.batches {
            Ok(entry)
        } else {
            Err(Malformed::new(0, "entry of a key"))
        }
    }

    // -- the places --

    /// The part of the file with the places of a key; `None` if the entry has its only place.
    pub(crate) fn place_range(&self, entry: &KeyEntry) -> Option<Range<u64>> {
        let start = self.places(entry).filter(|_| entry.batches > 1)?;
        Some(start..start + u64::from(entry.len))
    }

    /// The places of a key, in the order of their positions; `bytes` are those of
    /// [`place_range`](KeyIndex::place_range), if there are any.
    pub(crate) fn read_places(&self, entry: &KeyEntry, bytes: &[u8]) -> Result<Vec<KeyPlace>, Malformed> {
        if entry.batches == 1 {
            return Ok(vec![KeyPlace { position: entry.at, records: entry.records }]);
        }
        // An entry that has been checked lies in the file.
        let start = self.places(entry);
        debug_assert!(start.is_some(), "{entry:?} was not checked");
        let start = start.unwrap_or(0);
        if piece_crc(self.salt, start, bytes) != entry.crc {
            return Err(Malformed::new(start, "crc of the places of a key"));
        }
        let mut reader = ByteReader::new(bytes);
        // Each takes two bytes at least.
        let mut places = Vec::with_capacity((entry.batches as usize).min(bytes.len() / 2));
        let (mut position, mut left) = (0u64, entry.records);
        for _ in 0..entry.batches {
            let (apart, records) = (reader.varint("position")?, reader.varint("records")?);
            let next = position.checked_add(apart).and_then(|next| u32::try_from(next).ok());
            let (Some(at), Ok(records)) = (next, u32::try_from(records)) else {
                return Err(reader.malformed("place"));
            };
            position = u64::from(at);
            left = left.checked_sub(records).ok_or_else(|| reader.malformed("records of a key"))?;
            places.push(KeyPlace { position: at, records });
        }
        reader.expect_end("bytes after the last place")?;
        let sound = left == 0
            && position < self.of.covers_bytes
            && places.iter().all(|place| place.records > 0)
            && places.is_sorted_by(|a, b| a.position < b.position);
        if sound { Ok(places) } else { Err(Malformed::new(start, "places of a key")) }
    }

    fn directory_start(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.lines) * LINE_BYTES as u64
    }

    fn entries_start(&self) -> u64 {
        self.directory_start() + u64::from(self.buckets) * DIRECTORY_BYTES as u64
    }

    fn bucket_at(&self, first: u32) -> u64 {
        self.entries_start() + u64::from(first) * ENTRY_BYTES as u64
    }

    fn places(&self, entry: &KeyEntry) -> Option<u64> {
        (self.bucket_at(self.keys)).checked_add(u64::from(entry.at))
    }
}

/// The segment of an index, when the index was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexedSegment {
    pub(crate) topic_id: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) base_offset: Offset,
    pub(crate) generation: u32,
    /// After a truncation another segment can have the same name, but not the same epoch.
    pub(crate) log_epoch: u32,
    /// It covers the batches before this position of the segment.
    pub(crate) covers_bytes: u64,
}

impl KeyEntry {
    /// How many records of the key the segments before this one have, if that is known.
    pub(crate) fn before(&self) -> Option<u64> {
        (self.before != UNKNOWN).then_some(u64::from(self.before))
    }

    fn place_range(&self) -> Range<usize> {
        self.at as usize..self.at as usize + self.len as usize
    }
}

/// Appends the places of a key. Returns their position and their length, if the format has room for
/// them.
fn put_places(of_key: &[KeyPlace], places: &mut Vec<u8>) -> Option<(u32, u32)> {
    let (at, mut before) = (places.len(), 0);
    for place in of_key {
        put_varint(places, u64::from(place.position.checked_sub(before)?));
        put_varint(places, u64::from(place.records));
        before = place.position;
    }
    Some((u32::try_from(at).ok()?, u32::try_from(places.len() - at).ok()?))
}

/// Appends the filter: a Bloom filter of one line a key.
fn put_filter(index: &KeyIndex, keys: &[Indexed], file: &mut Vec<u8>) {
    let mut rest = keys;
    for number in 0..index.lines {
        let here = rest.partition_point(|key| key.hash.part(index.lines) <= number);
        debug_assert!(here <= rest.len(), "a partition point is within its slice");
        let (of_line, after) = rest.split_at_checked(here).unwrap_or((rest, &[]));
        rest = after;
        let mut bits = [0u8; LINE_BYTES - 4];
        for bit in of_line.iter().flat_map(|key| filter_bits(key.hash)) {
            if let Some(byte) = bits.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
        let crc = piece_crc(index.salt, file.len() as u64, &bits);
        file.extend_from_slice(&bits);
        file.extend_from_slice(&crc.to_le_bytes());
    }
}

/// The bits of its line that a key sets: seven numbers of nine bits, brought down to the 480 that
/// there are.
fn filter_bits(hash: KeyHash) -> impl Iterator<Item = usize> {
    let low = hash.low();
    (0..7).map(move |i| {
        let nine = (low >> (9 * i)) as usize & 0x1ff;
        (nine * LINE_BITS) >> 9
    })
}

const MAGIC: [u8; 8] = *b"QUIPUKEY";
/// Bytes of the header that mean nothing yet.
const RESERVED: usize = 12;
/// A line of the filter with its checksum: as much as a processor fetches at once.
const LINE_BYTES: usize = 64;
const LINE_BITS: usize = (LINE_BYTES - 4) * 8;
/// Twelve bits a key.
const KEYS_PER_LINE: u32 = 40;
const KEYS_PER_BUCKET: u32 = 32;
const DIRECTORY_BYTES: usize = 12;
const ENTRY_BYTES: usize = 40;
/// Of an entry: it was not known how many records there are before.
const UNKNOWN: u32 = u32::MAX;

#[cfg(test)]
mod tests;
