//! Segments: their header, batches, and the records in these.

use super::fields::{Fields, Shown, Structure};
use super::files::prefix;

/// The fixed sizes of FORMAT.md.
pub(crate) const SEGMENT_HEADER: usize = 128;
pub(crate) const BATCH_HEADER: usize = 104;
/// No body has more bytes, decompressed.
const BODY_MAX: u64 = 67_108_864;

/// The header of a segment, and the seed of the checksums of its batches.
pub(crate) fn segment_header(bytes: &[u8]) -> (Structure, Vec<u8>) {
    let mut fields = Fields::new(bytes);
    prefix(&mut fields);
    let partition = fields.number("partition", 4);
    let topic = fields.id("topic id");
    for (name, width) in [
        ("base offset", 8),
        ("prev end", 8),
        ("prev crc", 4),
        ("generation", 4),
        ("log epoch", 4),
        ("zero", 4),
    ] {
        fields.number(name, width);
    }
    fields.signed("created at");
    let secret = fields.id("secret");
    fields.raw("zero", 28);
    let covered = fields.before();
    fields.crc("crc", &[], covered);
    let partition = (partition.unwrap_or_default() as u32).to_le_bytes();
    let seed = [secret.unwrap_or_default(), topic.unwrap_or_default(), &partition].concat();
    (fields.end("segment header", 0), seed)
}

/// What a reader of records needs from a batch's header.
pub(crate) struct Header {
    pub(crate) body: usize,
    codec: u64,
    table_bytes: usize,
    count: u64,
    base_offset: u64,
    base_timestamp: i64,
    max_timestamp: i64,
    has_append_time: bool,
    uncompressed: u64,
    body_crc: u32,
}

/// The header of a batch; `None` if the bytes do not begin with its magic.
pub(crate) fn batch_header(bytes: &[u8], at: u64, seed: &[u8]) -> Option<(Structure, Option<Header>)> {
    if !bytes.starts_with(b"QBAT") {
        return None;
    }
    let mut fields = Fields::new(bytes);
    fields.text("magic", 4);
    let header = header_fields(&mut fields, seed);
    Some((fields.end("batch", at), header))
}

fn header_fields(fields: &mut Fields<'_>, seed: &[u8]) -> Option<Header> {
    let body = fields.number("body_len", 4)?;
    let base_offset = fields.number("base_offset", 8)?;
    fields.number("last_offset_delta", 4)?;
    let count = fields.number("count", 4)?;
    let base_timestamp = fields.signed("base_timestamp")?;
    let max_timestamp = fields.signed("max_timestamp")?;
    for (name, width) in [("producer_id", 8), ("base_sequence", 8), ("producer_epoch", 2)] {
        fields.number(name, width)?;
    }
    let codec = fields.number("codec", 1)?;
    fields.means(match codec {
        0 => "none".to_string(),
        1 => "lz4".to_string(),
        2 => "zstd".to_string(),
        other => format!("{other}, unknown"),
    });
    let table = fields.number("table", 1)?;
    let attributes = fields.number("attributes", 4)?;
    for (name, width) in [("transaction_id", 8), ("synced_upto", 8), ("extra", 8)] {
        fields.number(name, width)?;
    }
    let uncompressed = fields.number("uncompressed_len", 4)?;
    fields.number("log_epoch", 4)?;
    let body_crc = fields.number("body_crc", 4)? as u32;
    let covered = fields.before();
    fields.crc("header_crc", seed, covered)?;
    let entries = if table == 0 { 0 } else { count.saturating_sub(1) >> table.min(15) };
    let entry = if uncompressed <= 65_536 { 2 } else { 4 };
    Some(Header {
        body: body as usize,
        codec,
        table_bytes: (entries * entry) as usize,
        count,
        base_offset,
        base_timestamp,
        max_timestamp,
        has_append_time: attributes & 1 == 1,
        uncompressed,
        body_crc,
    })
}

impl Header {
    /// The body as one structure: its records as they are stored, and the position table.
    pub(crate) fn body_of(&self, body: &[u8], at: u64) -> Structure {
        let mut fields = Fields::new(body);
        let records = self.body.saturating_sub(self.table_bytes);
        fields.raw("records, as stored", records);
        if self.table_bytes > 0 {
            fields.raw("position table", self.table_bytes);
        }
        let mut structure = fields.end("body", at);
        // The checksum stands in the header. It is shown where its bytes are complete.
        let computed = crc32fast::hash(body);
        structure.fields.push(super::fields::Field {
            name: "body_crc",
            bytes: Vec::new(),
            value: Shown::Crc { found: self.body_crc, computed },
        });
        structure
    }

    /// The records of a body, each a structure whose position is that in the decompressed records.
    ///
    /// # Errors
    /// The reason why the body cannot be decompressed.
    pub(crate) fn records(&self, body: &[u8]) -> Result<Vec<Structure>, String> {
        let stored = body.get(..self.body.saturating_sub(self.table_bytes)).unwrap_or_default();
        if self.uncompressed > BODY_MAX {
            return Err(format!("uncompressed_len {} is larger than {BODY_MAX}", self.uncompressed));
        }
        let unpacked = unpack(self.codec, stored, self.uncompressed as usize)?;
        let (mut at, mut offset) = (0, None);
        let mut records = Vec::new();
        for _ in 0..self.count {
            let mut fields = Fields::new(unpacked.get(at..).unwrap_or_default());
            let next = self.record(&mut fields, offset);
            let taken = fields.taken();
            records.push(fields.end("record", at as u64));
            let Some(next) = next else { break };
            offset = Some(next);
            at += taken;
        }
        Ok(records)
    }

    /// The fields of one record. Returns its offset delta.
    fn record(&self, fields: &mut Fields<'_>, last: Option<u64>) -> Option<u64> {
        fields.varint("length")?;
        let flags = fields.number("flags", 1)?;
        let has = |bit: u64| flags >> bit & 1 == 1;
        let time = if has(3) { fields.zigzag("timestamp delta")? } else { 0 };
        let time =
            if self.has_append_time { self.max_timestamp } else { self.base_timestamp.saturating_add(time) };
        if has(3) {
            fields.means(format!("timestamp {time}"));
        }
        let following = last.map_or(0, |last| last.saturating_add(1));
        let delta = if has(4) { fields.varint("offset delta")? } else { following };
        // Of a record without a delta the flags are the only place to name its offset.
        let offset = self.base_offset.saturating_add(delta);
        if has(4) {
            fields.means(format!("offset {offset}"));
        } else {
            fields.note("flags", format!("{flags}, offset {offset}, timestamp {time}"));
        }
        for (bit, length, content) in [(0, "key length", "key"), (1, "value length", "value")] {
            if has(bit) {
                let bytes = fields.varint(length)?;
                fields.content(content, bytes)?;
            }
        }
        for _ in 0..if has(2) { fields.varint("header count")? } else { 0 } {
            let name = fields.varint("name length")?;
            fields.content("header name", name)?;
            let value = fields.varint("header value length + 1")?;
            if value > 0 {
                fields.content("header value", value - 1)?;
            }
        }
        Some(delta)
    }
}

fn unpack(codec: u64, stored: &[u8], length: usize) -> Result<Vec<u8>, String> {
    let unpacked = match codec {
        0 => Ok(stored.to_vec()),
        1 => lz4_flex::block::decompress(stored, length).map_err(|e| e.to_string()),
        #[cfg(feature = "zstd")]
        2 => zstd::bulk::decompress(stored, length).map_err(|e| e.to_string()),
        other => Err(format!("codec {other} is not in this build")),
    }?;
    if unpacked.len() == length {
        Ok(unpacked)
    } else {
        Err(format!("{} bytes instead of {length}", unpacked.len()))
    }
}
