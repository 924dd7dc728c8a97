//! How do encoded records become a body as it is stored, and records again? Compressed or not, with a table of positions at
//! the end, so that a reader of one record need not walk over those before it.
//!
//! Every writer of batches packs here and every reader unpacks here: a codec is known to this file and to
//! [`compression`](super::compression).

use super::batch::{BatchHeader, HEADER_BYTES, body_crc};
use super::body;
use super::compression::{Codec, Compressor, decompress};
use super::reader::{Malformed, Reader};

/// A table has the position of every 16th record where two bytes hold it, and of every 32nd where it takes four: an eighth of
/// a byte a record, and at most 15 or 31 records to walk over. Measured: every 8th costs twice the bytes for 15% of the
/// time, every 64th is a third slower.
const TABLE_SHIFTS: [(u8, u8); 2] = [(2, 4), (4, 5)];

/// The position of every 16th record is noted while records are encoded. The distances of tables are multiples of it.
pub(crate) const NOTED: u32 = 1 << 4;
/// A table takes at most one byte for so many records.
pub(crate) const TABLE_RECORDS_PER_BYTE: usize = 8;

/// Says in `header` how the records in `stored`, after room for a header, are stored, and appends the table of positions.
/// They are the records themselves: a body that is not compressed. `noted` has the positions of every [`NOTED`]-th record, or
/// nothing if they were not noted while the records were encoded.
pub(crate) fn finish_plain(header: &mut BatchHeader, noted: &[u32], stored: &mut Vec<u8>) {
    header.uncompressed_len = length(records_in(stored).len());
    let entries = table_of(records_in(stored), noted, header);
    finish(header, Codec::None, &entries, stored);
}

/// As [`finish_plain`], of records that have been compressed: `records` are those, `stored` has the compressed form after
/// room for a header.
pub(crate) fn finish_compressed(
    header: &mut BatchHeader,
    codec: Codec,
    records: &[u8],
    noted: &[u32],
    stored: &mut Vec<u8>,
) {
    header.uncompressed_len = length(records.len());
    let entries = table_of(records, noted, header);
    finish(header, codec, &entries, stored);
}

/// Packs the records in `stored`, after room for a header, in place: compressed if `header` is that of a compressed batch
/// and they shrink. For batches that are written again; `header.count` must be that of the records.
pub(crate) fn repack(header: &mut BatchHeader, stored: &mut Vec<u8>, compressor: &mut Compressor) {
    if header.codec != Codec::None.number() {
        let mut packed = vec![0; HEADER_BYTES];
        if compressor.compress(records_in(stored), &mut packed) {
            finish_compressed(header, Codec::Lz4, records_in(stored), &[], &mut packed);
            *stored = packed;
            return;
        }
    }
    finish_plain(header, &[], stored);
}

/// The records of a stored body that has passed its checksum: checked against the header, the table too. They lie in `body`
/// itself if it is not compressed, and in `room` otherwise.
pub(crate) fn unpack<'a>(
    header: &BatchHeader,
    body: &'a [u8],
    room: &'a mut Vec<u8>,
) -> Result<&'a [u8], Malformed> {
    let (records, table) = split(header, body)?;
    let records = match known_codec(header)? {
        Codec::None => records,
        codec => {
            decompress(codec, records, header.uncompressed_len as usize, room)?;
            room.as_slice()
        }
    };
    body::validate(header, records, table)?;
    Ok(records)
}

/// As [`unpack`] of a compressed body, into `room`, which gets the table after the records.
pub(crate) fn unpack_with_table(
    header: &BatchHeader,
    body: &[u8],
    room: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let (records, table) = split(header, body)?;
    decompress(known_codec(header)?, records, header.uncompressed_len as usize, room)?;
    body::validate(header, room, table)?;
    room.extend_from_slice(table);
    Ok(())
}

/// Checks the records of a body that is not compressed, where they lie.
pub(crate) fn check_plain(header: &BatchHeader, body: &[u8]) -> Result<(), Malformed> {
    let (records, table) = split(header, body)?;
    body::validate(header, records, table)
}

/// The codec of a batch.
///
/// # Errors
/// This build does not have it. The batch is whole: it can be checked, skipped and shipped.
pub(crate) fn known_codec(header: &BatchHeader) -> Result<Codec, Malformed> {
    Codec::from_number(header.codec).ok_or_else(|| {
        Malformed::new(0, "the batch is compressed with a codec that this version does not know")
    })
}

/// A record at or before the one with number `index`, of a batch whose checked body has this table: its number and position.
/// Number 0 at position 0 if the table does not say more.
pub(crate) fn nearest(header: &BatchHeader, table: &[u8], index: u32) -> (u32, usize) {
    let index = index.min(header.count.saturating_sub(1));
    let Some(entry) = index.checked_shr(u32::from(header.table)).and_then(|entry| entry.checked_sub(1))
    else {
        return (0, 0);
    };
    if header.table == 0 {
        return (0, 0);
    }
    let mut table = Reader::at(table, entry as usize * usize::from(header.table_entry_bytes()));
    match table_entry(header, &mut table) {
        Ok(position) => ((entry + 1) << header.table, position),
        Err(_) => (0, 0),
    }
}

fn split<'a>(header: &BatchHeader, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Malformed> {
    // Both were compared when the header was decoded.
    let at = usize::try_from(header.table_bytes()).ok().and_then(|table| body.len().checked_sub(table));
    at.and_then(|at| body.split_at_checked(at)).ok_or_else(|| Malformed::new(0, "position table"))
}

fn finish(header: &mut BatchHeader, codec: Codec, entries: &[u8], stored: &mut Vec<u8>) {
    stored.extend_from_slice(entries);
    let body = records_in(stored);
    header.codec = codec.number();
    header.body_len = length(body.len());
    header.body_crc = body_crc(body);
}

/// The next entry of a table.
pub(crate) fn table_entry(header: &BatchHeader, table: &mut Reader<'_>) -> Result<usize, Malformed> {
    match header.table_entry_bytes() {
        2 => table.u16("position table").map(usize::from),
        _ => table.u32("position table").map(|position| position as usize),
    }
}

/// The table of the records of a batch, and in the header the distance of its entries; none for few records.
fn table_of(records: &[u8], noted: &[u32], header: &mut BatchHeader) -> Vec<u8> {
    let bytes = header.table_entry_bytes();
    header.table = TABLE_SHIFTS.iter().find(|(of, _)| *of == bytes).map_or(0, |(_, shift)| *shift);
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
    let step = (1_usize << header.table) / NOTED as usize;
    let mut table = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    for position in noted.iter().skip(step.saturating_sub(1)).step_by(step.max(1)) {
        table.extend(position.to_le_bytes().iter().take(usize::from(bytes)));
    }
    debug_assert_eq!(table.len() as u64, len, "of {} records", header.count);
    table
}

/// Where every [`NOTED`]-th record begins.
fn positions(records: &[u8], count: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut reader = Reader::new(records);
    for index in 0..count {
        if index > 0 && index.is_multiple_of(NOTED) {
            found.push(length(reader.position() as usize));
        }
        // They were just encoded.
        let passed = reader.prefixed("record");
        debug_assert!(passed.is_ok(), "record {index} of {count} was just encoded");
    }
    found
}

fn records_in(stored: &[u8]) -> &[u8] {
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
    use super::super::body::{RecordFields, Records, encode};
    use super::*;

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
        repack(&mut header, &mut stored, &mut Compressor::default());
        (header, stored.split_off(HEADER_BYTES))
    }

    #[test]
    fn records_come_back_and_each_is_found_by_its_number() {
        for codec in [Codec::None, Codec::Lz4] {
            for (count, len) in [(1, 8), (16, 8), (17, 8), (33, 100), (1_000, 8), (1_000, 100), (64, 4_000)] {
                let (header, body) = packed(count, len, codec);
                assert_eq!(check_body(&header, &body), Ok(()));
                let mut room = Vec::new();
                let records = unpack(&header, &body, &mut room).unwrap().to_vec();
                let mut walk = Records::new(&records, count);
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
        for codec in [Codec::None, Codec::Lz4] {
            let (header, body) = packed(100, 20, codec);
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
