//! The files other than segments, by their magic: manifest, catalog, checkpoint, producers,
//! journal, index and key index.

use super::batches::batch_header;
use super::fields::{Fields, Structure};

/// The 20 bytes that every file begins with.
pub(crate) fn prefix(fields: &mut Fields<'_>) -> Option<()> {
    fields.text("magic", 8)?;
    fields.number("version", 4)?;
    fields.number("incompatible features", 4)?;
    fields.number("compatible features", 4)?;
    Some(())
}

/// The structures of a whole file; one of nothing but bytes where the magic is not known.
pub(crate) fn structures(bytes: &[u8]) -> Vec<Structure> {
    // Another version may have its fields and its checksum elsewhere.
    if bytes.starts_with(b"QUIPU") && !is_of_this_version(bytes) {
        let mut fields = Fields::new(bytes);
        // A file that is too short for it is one of nothing but bytes.
        let _ = prefix(&mut fields);
        let taken = fields.taken();
        return vec![
            fields.end("file of another version", 0),
            rest("bytes of another version", bytes, taken),
        ];
    }
    match bytes.get(..8) {
        Some(b"QUIPUMAN") => manifest(bytes),
        Some(b"QUIPUCAT") => catalog(bytes),
        Some(b"QUIPUCHK") => checkpoint(bytes),
        Some(b"QUIPUPRD") => producers(bytes),
        Some(b"QUIPUJNL") => journal(bytes),
        Some(b"QUIPUIDX") => index(bytes),
        Some(b"QUIPUKEY") => keys(bytes),
        _ if bytes.is_empty() => Vec::new(),
        _ => vec![rest("bytes of no structure", bytes, 0)],
    }
}

/// Whether the version after the magic is the one that FORMAT.md describes.
pub(crate) fn is_of_this_version(bytes: &[u8]) -> bool {
    bytes.get(8..12) == Some(&2_u32.to_le_bytes())
}

/// The rest of a file.
pub(crate) fn rest(name: &'static str, bytes: &[u8], at: usize) -> Structure {
    let mut fields = Fields::new(bytes.get(at..).unwrap_or_default());
    let is_zero = bytes.iter().skip(at).all(|byte| *byte == 0);
    fields.raw(if is_zero { "zeros" } else { "bytes" }, bytes.len() - at);
    fields.end(if is_zero { "zeros" } else { name }, at as u64)
}

/// Structures one after the other in a file.
struct File<'b> {
    bytes: &'b [u8],
    at: usize,
    structures: Vec<Structure>,
}

impl<'b> File<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        File { bytes, at: 0, structures: Vec::new() }
    }

    /// Takes a structure. Returns `None` where it ended too early.
    fn take<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Fields<'b>) -> Option<T>) -> Option<T> {
        let mut fields = Fields::new(self.bytes.get(self.at..).unwrap_or_default());
        let read = read(&mut fields);
        let taken = fields.taken();
        self.structures.push(fields.end(name, self.at as u64));
        self.at += taken;
        read
    }

    /// The checksum at the end of a file that is written whole.
    fn crc(&mut self) -> Option<()> {
        let covered = self.bytes.get(..self.at).unwrap_or_default();
        self.take("crc", |fields| fields.crc("crc", &[], covered)).map(|_| ())
    }

    fn end(mut self) -> Vec<Structure> {
        if self.at < self.bytes.len() {
            self.structures.push(rest("bytes after the end", self.bytes, self.at));
        }
        self.structures
    }
}

/// Integers without a sign, by name and width.
fn numbers(fields: &mut Fields<'_>, names: &[(&'static str, usize)]) -> Option<()> {
    for (name, width) in names {
        fields.number(name, *width)?;
    }
    Some(())
}

fn manifest(bytes: &[u8]) -> Vec<Structure> {
    let mut file = File::new(bytes);
    // `None` is a file that is too short, and its last structure says so.
    let _ = manifest_lists(&mut file);
    file.end()
}

fn manifest_lists(file: &mut File<'_>) -> Option<()> {
    let features = file.bytes.get(16..20).unwrap_or_default();
    let has_lost = features.first().is_some_and(|features| features & 1 == 1);
    let has_unknown = features.iter().zip([1, 0, 0, 0]).any(|(features, known)| features & !known != 0);
    file.take("manifest", |fields| {
        prefix(fields)?;
        fields.number("partition", 4)?;
        fields.id("topic id")?;
        fields.id("secret")?;
        numbers(fields, &[("listed version", 4), ("listed features", 4), ("log start", 8)])
    })?;
    list(file, "epochs", "epoch", |fields| numbers(fields, &[("epoch", 4), ("start", 8)]))?;
    list(file, "segments", "segment", |fields| {
        numbers(fields, &[("base offset", 8), ("generation", 4), ("log epoch", 4)])?;
        let state = fields.number("state", 1)?;
        fields.means(match state {
            1 => "active".to_string(),
            2 => "sealed".to_string(),
            3 => "synced".to_string(),
            4 => "synced, written again".to_string(),
            other => format!("{other}, unknown"),
        });
        numbers(fields, &[("size", 8), ("end offset", 8), ("last crc", 4)])?;
        fields.signed("max timestamp")?;
        numbers(fields, &[("digest", 8)])
    })?;
    if has_lost {
        list(file, "lost ranges", "lost range", |fields| numbers(fields, &[("from", 8), ("to", 8)]))?;
    }
    // An unknown compatible feature may add bytes after the last list.
    let more = file.bytes.len().saturating_sub(file.at + 4);
    if has_unknown && more > 0 {
        file.take("unknown", |fields| fields.raw("unknown", more))?;
    }
    file.crc()
}

/// A list whose entries say how long they are: bytes after the known fields are a later release's.
fn list<'b>(
    file: &mut File<'b>,
    name: &'static str,
    entry: &'static str,
    read: impl Fn(&mut Fields<'b>) -> Option<()>,
) -> Option<()> {
    let (count, length) =
        file.take(name, |fields| Some((fields.number("count", 4)?, fields.number("bytes of each", 4)?)))?;
    for _ in 0..count {
        file.take(entry, |fields| {
            let before = fields.taken();
            read(fields)?;
            let more = (length as usize).saturating_sub(fields.taken() - before);
            if more > 0 {
                fields.raw("unknown", more)?;
            }
            Some(())
        })?;
    }
    Some(())
}

fn catalog(bytes: &[u8]) -> Vec<Structure> {
    let mut file = File::new(bytes);
    let number = file.take("catalog", |fields| {
        prefix(fields)?;
        let number = fields.number("number", 8)?;
        numbers(fields, &[("snapshot bytes", 8), ("listed version", 4), ("listed features", 4)])?;
        fields.raw("zero", 16)?;
        let covered = fields.before();
        fields.crc("crc", &[], covered)?;
        Some(number)
    });
    if let Some(number) = number {
        while file.bytes.get(file.at..).is_some_and(|rest| rest.starts_with(b"QCHG"))
            && change(&mut file, number).is_some()
        {}
    }
    file.end()
}

/// The seed of changes and transactions, which are appended to a catalog or a journal.
fn seed(of_file: u64, at: usize, length: u64) -> Vec<u8> {
    [&of_file.to_le_bytes()[..], &(at as u64).to_le_bytes(), &(length as u32).to_le_bytes()].concat()
}

fn change(file: &mut File<'_>, number: u64) -> Option<()> {
    let (at, bytes) = (file.at, file.bytes);
    file.take("change", |fields| {
        fields.text("magic", 4)?;
        let length = fields.number("length", 4)?;
        let content = bytes.get(at + 12..at + 12 + length as usize);
        fields.crc("crc", &seed(number, at, length), content.unwrap_or_default())?;
        let kind = fields.number("kind", 1)?;
        fields.number("synced upto", 8)?;
        // Of a change that is damaged, the kind and the length may be anything.
        let body = content?.get(9..).unwrap_or_default().len();
        let mut of = Fields::new(content?.get(9..).unwrap_or_default());
        let name = change_body(&mut of, kind, body);
        fields.note("kind", format!("{kind}, {name}"));
        let left = body.saturating_sub(of.taken());
        if left > 0 {
            of.raw("unknown", left);
        }
        fields.append(of);
        Some(())
    })
}

/// The body of a change. Returns the name of its kind.
fn change_body(fields: &mut Fields<'_>, kind: u64, length: usize) -> &'static str {
    match kind {
        1 => numbers(fields, &[("next id", 8)]).map(|()| "ids"),
        2 => topic(fields).map(|()| "topic"),
        3 => fields.id("topic id").map(|_| "topic gone"),
        4 => producer(fields).map(|()| "producer"),
        5 => numbers(fields, &[("producer id", 8)]).map(|()| "producer gone"),
        6 => fields
            .id("topic id")
            .and_then(|_| fields.number("first", 4))
            .and_then(|_| fields.raw("partitions with files", length.saturating_sub(20)))
            .map(|_| "partitions"),
        7 => opening(fields).map(|()| "opening"),
        8 => epochs(fields).map(|()| "epochs"),
        128 => numbers(fields, &[("producer id", 8)])
            .and_then(|()| fields.signed("time"))
            .map(|_| "producer used"),
        _ => Some("unknown"),
    }
    .unwrap_or("too short")
}

fn topic(fields: &mut Fields<'_>) -> Option<()> {
    fields.id("topic id")?;
    let state = fields.number("state", 1)?;
    fields.means(match state {
        1 => "live".to_string(),
        3 => "being deleted".to_string(),
        other => format!("{other}, unknown"),
    });
    fields.number("partitions", 4)?;
    fields.signed("created at")?;
    let name = fields.number("name length", 1)?;
    fields.text("name", name as usize)?;
    for _ in 0..fields.number("setting count", 4)? {
        let tag = fields.number("setting", 2)?;
        fields.means(format!("{tag}, {}", setting(tag)));
        numbers(fields, &[("flags", 1)])?;
        let length = fields.number("length", 4)? as usize;
        match length {
            1..=8 => fields.number("value", length).map(|_| ())?,
            _ => fields.raw("value", length).map(|_| ())?,
        }
    }
    Some(())
}

fn setting(tag: u64) -> &'static str {
    const NAMES: [&str; 23] = [
        "",
        "compression",
        "segment bytes",
        "segment age",
        "max record bytes",
        "index interval bytes",
        "durability",
        "retention age",
        "retention bytes",
        "",
        "timestamps",
        "timestamp bounds",
        "cleanup",
        "minimal dirty ratio",
        "delete retention",
        "minimal compaction lag",
        "maximal compaction lag",
        "",
        "streams",
        "retention holds",
        "",
        "",
        "level of compression",
    ];
    NAMES.get(tag as usize).copied().filter(|name| !name.is_empty()).unwrap_or("unknown")
}

fn producer(fields: &mut Fields<'_>) -> Option<()> {
    numbers(fields, &[("producer id", 8), ("epoch", 2)])?;
    let length = fields.number("name length", 1)?;
    fields.text("name", length as usize).map(|_| ())
}

fn opening(fields: &mut Fields<'_>) -> Option<()> {
    fields.id("boot identity")?;
    fields.number("run", 8)?;
    fields.signed("time")?;
    numbers(fields, &[("process id", 4)])
}

fn epochs(fields: &mut Fields<'_>) -> Option<()> {
    for _ in 0..fields.number("count", 4)? {
        fields.id("topic id")?;
        numbers(fields, &[("partition", 4), ("epoch", 4), ("start", 8)])?;
    }
    Some(())
}

fn checkpoint(bytes: &[u8]) -> Vec<Structure> {
    let mut file = File::new(bytes);
    let count = file.take("checkpoint", |fields| {
        prefix(fields)?;
        numbers(fields, &[("clean", 1), ("catalog number", 8), ("catalog bytes", 8)])?;
        fields.number("count", 4)
    });
    let entries = (0..count.unwrap_or_default()).map_while(|_| {
        file.take("entry", |fields| {
            fields.id("topic id")?;
            numbers(
                fields,
                &[
                    ("partition", 4),
                    ("base offset", 8),
                    ("generation", 4),
                    ("position", 8),
                    ("end offset", 8),
                ],
            )?;
            fields.signed("first timestamp")?;
            fields.signed("max timestamp")?;
            numbers(fields, &[("last crc", 4), ("log epoch", 4), ("digest", 8)])
        })
    });
    if count == Some(entries.count() as u64) {
        file.crc();
    }
    file.end()
}

fn producers(bytes: &[u8]) -> Vec<Structure> {
    let mut file = File::new(bytes);
    let count = file.take("producers", |fields| {
        prefix(fields)?;
        fields.id("topic id")?;
        numbers(fields, &[("partition", 4), ("log epoch", 4), ("end offset", 8)])?;
        fields.number("count", 4)
    });
    let entries = (0..count.unwrap_or_default()).map_while(|_| {
        file.take("producer", |fields| {
            fields.number("producer id", 8)?;
            for _ in 0..fields.number("count", 1)? {
                numbers(
                    fields,
                    &[("first sequence", 8), ("last sequence", 8), ("base offset", 8), ("last offset", 8)],
                )?;
            }
            Some(())
        })
    });
    if count == Some(entries.count() as u64) {
        file.crc();
    }
    file.end()
}

fn journal(bytes: &[u8]) -> Vec<Structure> {
    let mut file = File::new(bytes);
    let floor = file.take("journal", |fields| {
        prefix(fields)?;
        let floor = fields.number("floor", 8)?;
        let covered = fields.before();
        fields.crc("crc", &[], covered)?;
        Some(floor)
    });
    if let Some(floor) = floor {
        while file.bytes.get(file.at..).is_some_and(|rest| rest.starts_with(b"QTXN"))
            && transaction(&mut file, floor).is_some()
        {}
    }
    file.end()
}

fn transaction(file: &mut File<'_>, floor: u64) -> Option<()> {
    let (at, bytes) = (file.at, file.bytes);
    let parts = file.take("transaction", |fields| {
        fields.text("magic", 4)?;
        let length = fields.number("length", 4)?;
        let content = bytes.get(at + 12..at + 12 + length as usize).unwrap_or_default();
        fields.crc("crc", &seed(floor, at, length), content)?;
        numbers(fields, &[("transaction id", 8), ("synced_upto", 8)])?;
        fields.number("parts", 4)
    })?;
    for _ in 0..parts {
        let length = file.take("part", |fields| {
            fields.id("topic id")?;
            numbers(fields, &[("partition", 4), ("base offset", 8)])?;
            fields.number("length", 4)
        })?;
        // The seed of its checksum is in the manifest of its partition.
        let batch = file.bytes.get(file.at..)?.get(..length as usize)?;
        let (mut structure, _) = batch_header(batch, file.at as u64, &[])?;
        structure.fields.retain(|field| field.name != "header_crc");
        file.structures.push(structure);
        let header = super::batches::BATCH_HEADER - 4;
        file.structures.push(rest("header_crc and body", batch, header.min(batch.len())));
        file.structures.last_mut()?.at = (file.at + header) as u64;
        file.at += batch.len();
    }
    Some(())
}

fn index(bytes: &[u8]) -> Vec<Structure> {
    let mut file = File::new(bytes);
    let count = file.take("index", |fields| {
        prefix(fields)?;
        fields.number("partition", 4)?;
        fields.id("topic id")?;
        numbers(fields, &[("base offset", 8), ("generation", 4), ("log epoch", 4)])?;
        let count = fields.number("count", 4)?;
        numbers(fields, &[("covers bytes", 8), ("end offset", 8)])?;
        Some(count)
    });
    let entries = (0..count.unwrap_or_default()).map_while(|_| {
        file.take("entry", |fields| {
            numbers(fields, &[("offset delta", 4), ("position", 4)])?;
            fields.signed("max before")
        })
    });
    if count == Some(entries.count() as u64) {
        file.crc();
    }
    file.end()
}

fn keys(bytes: &[u8]) -> Vec<Structure> {
    let mut file = File::new(bytes);
    let parts = file.take("key index", |fields| {
        prefix(fields)?;
        fields.number("partition", 4)?;
        fields.id("topic id")?;
        numbers(fields, &[("base offset", 8), ("generation", 4), ("covers bytes", 8)])?;
        let keys = fields.number("keys", 4)?;
        let (lines, buckets) = (fields.number("lines", 4)?, fields.number("buckets", 4)?);
        let places = fields.number("places bytes", 4)?;
        fields.number("log epoch", 4)?;
        fields.raw("zero", 12)?;
        let covered = fields.before();
        fields.crc("crc", &[], covered)?;
        Some((lines, buckets, keys, places))
    });
    if let Some((lines, buckets, keys, places)) = parts {
        let sizes =
            [("filter", lines * 64), ("directory", buckets * 12), ("buckets", keys * 40), ("places", places)];
        for (name, length) in sizes.into_iter().filter(|(_, length)| *length > 0) {
            if file.take(name, |fields| fields.raw("bytes", length as usize)).is_none() {
                break;
            }
        }
    }
    file.end()
}
