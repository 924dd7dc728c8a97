//! Encoded records become a stored body, and records again: compressed or not, with a table of
//! positions at the end, so that a reader of one record need not walk over those before it.
//!
//! Every writer of batches packs here and every reader unpacks here. What depends on a codec is in
//! [`compression`](super::compression).

use std::ops::DerefMut;

use super::batch::{BatchHeader, HEADER_BYTES, body_crc};
use super::body;
use super::compression::{Codec, compress, decompress};
use super::reader::{ByteReader, Malformed, Unsupported};
use crate::config::Compression;

/// A table has the position of every 16th record where an entry takes two bytes, and of every 32nd
/// where it takes four: an eighth of a byte a record, and at most 15 or 31 records to walk over.
/// Measured: every 8th record costs twice the bytes for 15% less time, every 64th is a third
/// slower.
const SHORT_SHIFT: u8 = 4;
const LONG_SHIFT: u8 = 5;

/// The position of every 16th record is noted while records are encoded. The distances of tables
/// are multiples of it.
pub(crate) const NOTED: u32 = 1 << 4;
/// A table takes at most one byte for so many records.
pub(crate) const TABLE_RECORDS_PER_BYTE: usize = 8;

/// Packs the records of a new batch, which lie in `plain` after room for a header, and completes
/// `header`. `noted` has the positions of every [`NOTED`]-th record, or nothing if they were not
/// noted while the records were encoded.
///
/// Returns the stored form, and `plain` beside it if the stored form is another one: it is
/// compressed, in a buffer that `room` made for so many bytes. Records that do not shrink are
/// stored unchanged.
pub(crate) fn pack<B: DerefMut<Target = Vec<u8>>>(
    header: &mut BatchHeader,
    compression: Compression,
    noted: &[u32],
    mut plain: B,
    room: impl FnOnce(usize) -> B,
) -> (B, Option<B>) {
    if compression != Compression::None {
        let mut packed = room(plain.len());
        packed.clear();
        packed.resize(HEADER_BYTES, 0);
        if let Some(codec) = compress(compression, records_in(&plain), &mut packed) {
            let table = describe(header, records_in(&plain), noted);
            finish(header, codec, &table, &mut packed);
            return (packed, Some(plain));
        }
    }
    let table = describe(header, records_in(&plain), noted);
    finish(header, Codec::None, &table, &mut plain);
    (plain, None)
}

/// Packs `count` records in `stored`, after room for a header, in place: for a batch that is
/// written again. They are compressed if `header` is that of a compressed batch, with its codec,
/// and they shrink; the level is that of the topic's `compression`, if its codec is the same.
pub(crate) fn repack(header: &mut BatchHeader, count: u32, compression: Compression, stored: &mut Vec<u8>) {
    header.count = count;
    let codec = Codec::from_number(header.codec);
    debug_assert!(codec.is_ok(), "the records of the batch have just been read");
    let compression = codec.map_or(Compression::None, |codec| codec.again(compression));
    let mut room = Vec::new();
    let (_, plain) = pack(header, compression, &[], &mut *stored, |_| &mut room);
    if plain.is_some() {
        *stored = room;
    }
}

/// Returns the records of a stored body that has passed its checksum, checked against the header,
/// and the table too. They lie in `body` itself if it is not compressed, and in `room` otherwise.
///
/// # Errors
/// They are malformed; or compressed with a codec that this build does not have, which
/// [`is_optional_codec`] recognizes if another build has it.
pub(crate) fn unpack<'a>(
    header: &BatchHeader,
    body: &'a [u8],
    room: &'a mut Vec<u8>,
) -> Result<&'a [u8], Malformed> {
    let (records, table) = split(header, body)?;
    let records = match Codec::from_number(header.codec)? {
        Codec::None => records,
        codec => {
            decompress(codec, records, header.uncompressed_len as usize, room)?;
            room.as_slice()
        }
    };
    body::validate(header, records, table)?;
    Ok(records)
}

/// As [`unpack`], for a reader that keeps the body: returns `None` if the records lie in `body`
/// itself, else a buffer that `room` made, with the records and the table after them. If
/// `is_checked`, the records passed an earlier call and are not checked again.
pub(crate) fn unpack_shared<B: DerefMut<Target = Vec<u8>>>(
    header: &BatchHeader,
    body: &[u8],
    is_checked: bool,
    room: impl FnOnce() -> B,
) -> Result<Option<B>, Malformed> {
    let (records, table) = split(header, body)?;
    let check = |records: &[u8]| if is_checked { Ok(()) } else { body::validate(header, records, table) };
    match Codec::from_number(header.codec)? {
        Codec::None => {
            check(records)?;
            Ok(None)
        }
        codec => {
            let mut room = room();
            decompress(codec, records, header.uncompressed_len as usize, &mut room)?;
            check(&room)?;
            room.extend_from_slice(table);
            Ok(Some(room))
        }
    }
}

/// Checks a stored body that has passed its checksum as far as this build can: records of a codec
/// that it does not have are not looked at.
pub(crate) fn check(header: &BatchHeader, body: &[u8], room: &mut Vec<u8>) -> Result<(), Malformed> {
    match unpack(header, body, room) {
        Err(malformed) if !is_unknown_codec(&malformed) => Err(malformed),
        _ => Ok(()),
    }
}

/// Whether the finding is that this build does not have the codec of a batch. The batch may be
/// whole: it can be checked and skipped.
fn is_unknown_codec(malformed: &Malformed) -> bool {
    matches!(malformed.unsupported, Some(Unsupported::Codec { .. }))
}

/// Whether the finding is that this build lacks the codec of a batch, and another build of this
/// release has it.
pub(crate) fn is_optional_codec(malformed: &Malformed) -> bool {
    matches!(malformed.unsupported, Some(Unsupported::Codec { feature: Some(_), .. }))
}

/// Returns number and position of a record at or before the one with number `index`, of a batch
/// whose checked body has this table: number 0 at position 0 if the table has no nearer one.
pub(crate) fn nearest(header: &BatchHeader, table: &[u8], index: u32) -> (u32, usize) {
    let index = index.min(header.count.saturating_sub(1));
    let Some(entry) = index.checked_shr(u32::from(header.table)).and_then(|entry| entry.checked_sub(1))
    else {
        return (0, 0);
    };
    if header.table == 0 {
        return (0, 0);
    }
    let mut table = ByteReader::at(table, entry as usize * usize::from(header.table_entry_bytes()));
    match header.table_entry(&mut table) {
        Ok(position) => ((entry + 1) << header.table, position),
        Err(_) => (0, 0),
    }
}

fn split<'a>(header: &BatchHeader, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Malformed> {
    // The header was decoded, which compares both lengths.
    let at = usize::try_from(header.table_bytes()).ok().and_then(|table| body.len().checked_sub(table));
    at.and_then(|at| body.split_at_checked(at)).ok_or_else(|| Malformed::new(0, "position table"))
}

/// Notes the size of the records in `header`, and returns their table of positions.
fn describe(header: &mut BatchHeader, records: &[u8], noted: &[u32]) -> Vec<u8> {
    header.uncompressed_len = length(records.len());
    table_of(records, noted, header)
}

fn finish(header: &mut BatchHeader, codec: Codec, entries: &[u8], stored: &mut Vec<u8>) {
    stored.extend_from_slice(entries);
    let body = records_in(stored);
    header.codec = codec.number();
    header.body_len = length(body.len());
    header.body_crc = body_crc(body);
}

/// Returns the table of the records of a batch, and sets the distance of its entries in the header.
/// Few records have no table.
fn table_of(records: &[u8], noted: &[u32], header: &mut BatchHeader) -> Vec<u8> {
    let bytes = header.table_entry_bytes();
    header.table = if bytes == 2 { SHORT_SHIFT } else { LONG_SHIFT };
    let len = header.table_bytes();
    if len == 0 {
        header.table = 0;
        return Vec::new();
    }
    let walked;
    let noted = match noted.len() as u64 == u64::from(header.count.saturating_sub(1) / NOTED) {
        true => noted,
        false => {
            walked = positions(records, header.count);
            &walked
        }
    };
    // The distance of entries is a multiple of that of the noted positions.
    let step = (1_usize << header.table) / NOTED as usize;
    let mut table = Vec::with_capacity(len as usize);
    for position in noted.iter().skip(step - 1).step_by(step) {
        table.extend(position.to_le_bytes().iter().take(usize::from(bytes)));
    }
    debug_assert_eq!(table.len() as u64, len, "of {} records", header.count);
    table
}

/// Returns the position of every [`NOTED`]-th record.
fn positions(records: &[u8], count: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut reader = ByteReader::new(records);
    for index in 0..count {
        if index > 0 && index.is_multiple_of(NOTED) {
            found.push(length(reader.position() as usize));
        }
        let passed = reader.prefixed("record");
        debug_assert!(passed.is_ok(), "record {index} of {count} was just encoded");
    }
    found
}

fn records_in(stored: &[u8]) -> &[u8] {
    debug_assert!(stored.len() >= HEADER_BYTES, "room for a header comes first");
    stored.get(HEADER_BYTES..).unwrap_or_default()
}

/// A batch is 16 MiB, or one record of 32 MiB, at most: this fits.
fn length(len: usize) -> u32 {
    debug_assert!(u32::try_from(len).is_ok(), "a body of {len} bytes");
    len as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::batch::check_body;
    use super::super::body::{RawRecords, RecordFields, encode};
    use super::*;

    const CODECS: &[Codec] = &[
        Codec::None,
        Codec::Lz4,
        #[cfg(feature = "zstd")]
        Codec::Zstd,
    ];

    /// A batch of so many records with values of `len` bytes, packed.
    fn packed(count: u32, len: usize, codec: Codec) -> (BatchHeader, Vec<u8>) {
        let mut stored = vec![0; HEADER_BYTES];
        for i in 0..count {
            let value = i.to_le_bytes().repeat(len / 4);
            let fields = RecordFields::<(&str, Option<&[u8]>)> {
                offset_delta: None,
                timestamp_delta: 0,
                key: None,
                value: Some(&value),
                headers: &[],
            };
            encode(&fields, &mut stored);
        }
        let mut header = BatchHeader {
            last_offset_delta: count - 1,
            count,
            codec: codec.number(),
            ..BatchHeader::default()
        };
        repack(&mut header, count, Compression::None, &mut stored);
        (header, stored.split_off(HEADER_BYTES))
    }

    #[test]
    fn records_come_back_and_each_is_found_by_its_number() {
        for codec in CODECS {
            for (count, len) in [(1, 8), (16, 8), (17, 8), (33, 100), (1_000, 8), (1_000, 100), (64, 4_000)] {
                let (header, body) = packed(count, len, *codec);
                assert_eq!(check_body(&header, &body), Ok(()));
                let mut room = Vec::new();
                let records = unpack(&header, &body, &mut room).unwrap().to_vec();
                let mut walk = RawRecords::new(&records, count);
                let mut starts = Vec::new();
                for _ in 0..count {
                    starts.push(walk.position());
                    walk.next().unwrap().unwrap();
                }
                let table = &body[body.len() - header.table_bytes() as usize..];
                let farthest = if header.uncompressed_len <= 65_536 { 16 } else { 32 };
                for index in 0..count {
                    let (number, position) = nearest(&header, table, index);
                    assert!(number <= index && index - number < farthest, "{index} of {count}: {number}");
                    assert_eq!(position, starts[number as usize]);
                }
                assert_eq!(table.is_empty(), count <= farthest);
            }
        }
    }

    #[test]
    fn a_table_costs_an_eighth_of_a_byte_a_record() {
        let (header, _) = packed(600, 100, Codec::None);
        assert_eq!((header.table, header.table_bytes()), (4, 2 * 37));
        let (header, _) = packed(4_000, 100, Codec::None);
        assert_eq!((header.table, header.table_bytes()), (5, 4 * 124));
    }

    #[test]
    fn a_table_that_is_wrong_is_refused() {
        for codec in CODECS {
            let (header, body) = packed(100, 20, *codec);
            let from = body.len() - header.table_bytes() as usize;
            for at in from..body.len() {
                let mut wrong = body.clone();
                wrong[at] ^= 1;
                assert_eq!(unpack(&header, &wrong, &mut Vec::new()).unwrap_err().what, "position table");
            }
        }
    }

    proptest! {
        #[test]
        fn any_table_and_number_are_harmless(
            table in proptest::collection::vec(any::<u8>(), 0..40), index: u32, shift in 0u8..16, count: u32, len: u32,
        ) {
            let (header, _) = packed(1, 8, Codec::None);
            nearest(&BatchHeader { table: shift, count, uncompressed_len: len, ..header }, &table, index);
        }
    }
}
