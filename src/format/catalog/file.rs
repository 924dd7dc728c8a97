//! The bytes of a catalog: a file begins with a header and a snapshot, which is a list of changes,
//! and more changes are appended one after the other.

use std::collections::BTreeSet;

use super::state::{Catalog, Change, Opening, ProducerEntry, TopicEntry, TopicState, is_producer_name};
use crate::format::envelope::{self, ByteWriter, crc_of};
use crate::format::manifest::EpochStart;
use crate::format::reader::{ByteReader, Malformed, Unsupported};
use crate::format::{FORMAT_VERSION, settings};
use crate::types::{Offset, PartitionId, Timestamp, TopicId, TopicName};

/// The content of a catalog's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadCatalog {
    pub(crate) catalog: Catalog,
    /// Rises by one with each file that replaces another.
    pub(crate) number: u64,
    /// The length of the file when it was put in place.
    pub(crate) snapshot_bytes: u64,
    /// Where the last valid change ends.
    pub(crate) end: u64,
    /// How many bytes after that end are left of a change that was never whole.
    pub(crate) torn: u64,
}

/// Appends the bytes of one change to `out`, of which the first byte lies at `base` in file
/// `number`. Everything before `synced_upto` was on the medium before.
pub(crate) fn encode_change(out: &mut Vec<u8>, number: u64, base: u64, synced_upto: u64, change: &Change) {
    let position = base + out.len() as u64;
    let mut content = ByteWriter::bare();
    content.u8(change.kind());
    content.u64(synced_upto);
    change.encode_body(&mut content);
    let content = content.into_bytes();
    // A change has far fewer bytes than 4 GiB: a topic's settings, or a bit for each partition.
    debug_assert!(u32::try_from(content.len()).is_ok(), "a change of {} bytes", content.len());
    let len = (content.len() as u32).to_le_bytes();
    let crc = crc_of(&[&number.to_le_bytes(), &position.to_le_bytes(), &len, &content]);
    out.extend_from_slice(&CHANGE_MAGIC);
    out.extend_from_slice(&len);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&content);
}

/// Reads a whole file.
///
/// # Errors
/// The file needs something that this build does not have; or it is damaged, which is more than
/// that the last changes were never whole.
pub(crate) fn read(bytes: &[u8]) -> Result<ReadCatalog, Malformed> {
    let (number, snapshot_bytes) = decode_header(bytes)?;
    let mut catalog = Catalog::default();
    let mut end = HEADER_BYTES as u64;
    while let Some((change, next)) = framed(bytes, number, end) {
        if let Some(change) = Change::decode(change)? {
            catalog.apply(change).map_err(|what| Malformed::new(end, what))?;
        }
        end = next;
    }
    // `end` is a position in `bytes`, so it is a `usize`.
    let rest = ByteReader::at(bytes, end as usize).rest();
    if end < snapshot_bytes {
        return Err(Malformed::new(end, "a change that was on the medium before the file was put in place"));
    }
    // A later change proves that these bytes were on the medium.
    let is_witness = |at: u64| {
        let (content, _) = framed(bytes, number, at)?;
        let mut content = content;
        content.u8("").and_then(|_| content.u64("")).ok().filter(|upto| *upto > end)
    };
    let later = (end + 1..bytes.len() as u64).find_map(is_witness);
    if later.is_some() {
        return Err(Malformed::new(end, "a change; a later one says that it was on the medium"));
    }
    let torn = if rest.iter().all(|byte| *byte == 0) { 0 } else { rest.len() as u64 };
    catalog.check().map_err(|what| Malformed::new(HEADER_BYTES as u64, what))?;
    Ok(ReadCatalog { catalog, number, snapshot_bytes, end, torn })
}

/// Returns the content of the change at a position, and the position of the next one. `None` if
/// there is no valid change.
fn framed(bytes: &[u8], number: u64, position: u64) -> Option<(ByteReader<'_>, u64)> {
    let at = usize::try_from(position).ok()?;
    let mut reader = ByteReader::at(bytes, at);
    if reader.array("change").ok()? != CHANGE_MAGIC {
        return None;
    }
    let len = reader.u32("length").ok()?;
    let crc = reader.u32("crc").ok()?;
    let start = reader;
    let content = reader.take(usize::try_from(len).ok()?, "content").ok()?;
    let expected = crc_of(&[&number.to_le_bytes(), &position.to_le_bytes(), &len.to_le_bytes(), content]);
    (crc == expected).then_some(())?;
    let mut within = start;
    Some((within.short_take(content.len())?, reader.position()))
}

fn encode_header(number: u64, snapshot_bytes: u64) -> Vec<u8> {
    let mut writer = ByteWriter::new(MAGIC, HEADER_BYTES);
    writer.u64(number);
    writer.u64(snapshot_bytes);
    writer.u32(FORMAT_VERSION);
    writer.u32(0);
    writer.bytes(&[0; 16]);
    writer.finish()
}

impl Catalog {
    /// Returns the bytes of a file that has this state as its snapshot.
    pub(crate) fn snapshot(&self, number: u64) -> Vec<u8> {
        debug_assert_eq!(self.check(), Ok(()));
        let mut bytes = vec![0; HEADER_BYTES];
        for change in self.changes() {
            // Nothing of the file is on the medium yet.
            encode_change(&mut bytes, number, 0, 0, &change);
        }
        let header = encode_header(number, bytes.len() as u64);
        bytes.splice(..HEADER_BYTES, header);
        bytes
    }
}

/// Returns the number of the file, and its length when it was put in place.
fn decode_header(bytes: &[u8]) -> Result<(u64, u64), Malformed> {
    let header = bytes.get(..HEADER_BYTES).unwrap_or(bytes);
    let mut reader = envelope::open(header, MAGIC)?;
    let number = reader.u64("number")?;
    let snapshot_bytes = reader.u64("snapshot bytes")?;
    let at_listed = reader.position();
    let (version, features) = (reader.u32("listed version")?, reader.u32("listed features")?);
    if version > FORMAT_VERSION {
        let needs = Unsupported::Version(version);
        return Err(Malformed::unsupported(at_listed, "listed version", needs));
    }
    if version == 0 {
        return Err(Malformed::new(at_listed, "listed version"));
    }
    if features != 0 {
        let needs = Unsupported::Features(features);
        return Err(Malformed::unsupported(at_listed + 4, "listed features", needs));
    }
    reader.zeros::<16>("zeros of the header")?;
    Ok((number, snapshot_bytes))
}

impl Change {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Change::Ids(_) => 1,
            Change::Topic(_) => 2,
            Change::TopicGone(_) => 3,
            Change::Producer(_) => 4,
            Change::ProducerGone(_) => 5,
            Change::Partitions(..) => 6,
            Change::Opening(_) => 7,
            Change::Epochs(_) => 8,
            Change::ProducerUsed(..) => 128,
        }
    }

    pub(super) fn encode_body(&self, writer: &mut ByteWriter) {
        match self {
            Change::Ids(next) => writer.u64(*next),
            Change::Topic(entry) => entry.encode(writer),
            Change::TopicGone(id) => writer.bytes(&id.0),
            Change::Producer(entry) => entry.encode(writer),
            Change::ProducerGone(id) => writer.u64(*id),
            Change::ProducerUsed(id, at) => {
                writer.u64(*id);
                writer.i64(at.as_millis());
            }
            Change::Partitions(id, partitions) => {
                writer.bytes(&id.0);
                encode_bits(partitions, writer);
            }
            Change::Opening(opening) => {
                writer.bytes(&opening.boot);
                writer.u64(opening.run);
                writer.i64(opening.at.as_millis());
                writer.u32(opening.process);
            }
            Change::Epochs(epochs) => {
                writer.count(epochs.len());
                for (id, partition, EpochStart { epoch, start }) in epochs {
                    writer.bytes(&id.0);
                    writer.u32(partition.get());
                    writer.u32(*epoch);
                    writer.u64(start.get());
                }
            }
        }
    }

    /// Reads the content of a change. `None` if it need not be understood.
    fn decode(mut reader: ByteReader<'_>) -> Result<Option<Self>, Malformed> {
        let start = reader;
        let kind = reader.u8("kind")?;
        let at_synced = reader;
        let synced_upto = reader.u64("synced upto")?;
        if synced_upto > start.position() {
            return Err(at_synced.malformed("synced upto"));
        }
        let change = match kind {
            1 => Change::Ids(reader.u64("next id")?),
            2 => Change::Topic(TopicEntry::decode(&mut reader)?),
            3 => Change::TopicGone(TopicId(reader.array("topic id")?)),
            4 => Change::Producer(ProducerEntry::decode(&mut reader)?),
            5 => Change::ProducerGone(reader.u64("producer id")?),
            6 => Change::Partitions(TopicId(reader.array("topic id")?), decode_bits(&mut reader)?),
            7 => Change::Opening(Opening {
                boot: reader.array("boot identity")?,
                run: reader.u64("run")?,
                at: Timestamp::from_millis(reader.i64("time of the opening")?),
                process: reader.u32("process")?,
            }),
            8 => Change::Epochs(decode_epochs(&mut reader)?),
            128 => Change::ProducerUsed(
                reader.u64("producer id")?,
                Timestamp::from_millis(reader.i64("time of the use")?),
            ),
            0 => return Err(start.malformed("kind")),
            kind if kind < 128 => {
                let needs = Unsupported::Change(kind);
                return Err(Malformed::unsupported(start.position(), "kind", needs));
            }
            _ => return Ok(None),
        };
        reader.expect_end("bytes after the change")?;
        Ok(Some(change))
    }
}

/// The number of the first partition, and a bit for each from there on.
pub(super) fn encode_bits(partitions: &BTreeSet<u32>, writer: &mut ByteWriter) {
    let first = partitions.first().map_or(0, |first| first & !7);
    let len = partitions.last().map_or(0, |last| (last - first) as usize / 8 + 1);
    let mut bits = vec![0u8; len];
    for partition in partitions {
        let at = partition - first;
        debug_assert!((at as usize) < len * 8, "the bits reach to the last partition");
        if let Some(byte) = bits.get_mut(at as usize / 8) {
            *byte |= 1 << (at % 8);
        }
    }
    writer.u32(first);
    writer.bytes(&bits);
}

pub(super) fn decode_bits(reader: &mut ByteReader<'_>) -> Result<BTreeSet<u32>, Malformed> {
    let first = reader.u32("first partition")?;
    let start = *reader;
    let bits = reader.take(reader.remaining(), "partitions")?;
    let set = bits
        .iter()
        .enumerate()
        .flat_map(|(at, byte)| (0..8u32).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| (at, bit)));
    let number = |(at, bit): (usize, u32)| {
        let at = u32::try_from(at).ok()?.checked_mul(8)?.checked_add(bit)?;
        first.checked_add(at)
    };
    set.map(number).collect::<Option<_>>().ok_or_else(|| start.malformed("partitions"))
}

fn decode_epochs(reader: &mut ByteReader<'_>) -> Result<Vec<(TopicId, PartitionId, EpochStart)>, Malformed> {
    let count = reader.count(EPOCH_BYTES, "epoch count")?;
    let mut epochs = Vec::with_capacity(count);
    for _ in 0..count {
        let id = TopicId(reader.array("topic id")?);
        let partition = PartitionId::new(reader.u32("partition")?);
        let (epoch, start) = (reader.u32("epoch")?, Offset::new(reader.u64("start of the epoch")?));
        epochs.push((id, partition, EpochStart { epoch, start }));
    }
    Ok(epochs)
}

fn decode_earlier(reader: &mut ByteReader<'_>) -> Result<Vec<u32>, Malformed> {
    if reader.remaining() == 0 {
        return Ok(Vec::new());
    }
    let count = reader.count(4, "count of earlier numbers of partitions")?;
    (0..count).map(|_| reader.u32("earlier number of partitions")).collect()
}

impl TopicEntry {
    fn encode(&self, writer: &mut ByteWriter) {
        writer.bytes(&self.id.0);
        writer.u8(self.state as u8);
        writer.u32(self.partitions);
        writer.i64(self.created_at.as_millis());
        put_name(self.name.as_str(), writer);
        settings::encode(&self.settings, writer);
        if self.earlier_partitions.is_empty() && self.rest.is_empty() {
            return;
        }
        // There are fewer than there are partitions.
        writer.u32(self.earlier_partitions.len() as u32);
        self.earlier_partitions.iter().for_each(|count| writer.u32(*count));
        writer.bytes(&self.rest);
    }

    fn decode(reader: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        Ok(TopicEntry {
            id: TopicId(reader.array("topic id")?),
            state: TopicState::decode(reader)?,
            partitions: reader.u32("partitions")?,
            created_at: Timestamp::from_millis(reader.i64("creation time")?),
            name: decode_name(reader)?,
            settings: settings::decode(reader)?,
            earlier_partitions: decode_earlier(reader)?,
            rest: reader.take(reader.remaining(), "rest")?.to_vec(),
        })
    }
}

impl ProducerEntry {
    fn encode(&self, writer: &mut ByteWriter) {
        writer.u64(self.id);
        writer.u16(self.epoch);
        put_name(&self.name, writer);
    }

    fn decode(reader: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        let (id, epoch) = (reader.u64("producer id")?, reader.u16("producer epoch")?);
        let start = *reader;
        let len = reader.u8("producer name")?;
        let bytes = reader.take(usize::from(len), "producer name")?;
        let name = std::str::from_utf8(bytes).ok().filter(|name| is_producer_name(name));
        let name = name.ok_or_else(|| start.malformed("producer name"))?.to_string();
        Ok(ProducerEntry { id, epoch, name })
    }
}

impl TopicState {
    fn decode(reader: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        let start = *reader;
        match reader.u8("topic state")? {
            1 => Ok(TopicState::Live),
            3 => Ok(TopicState::Deleting),
            _ => Err(start.malformed("topic state")),
        }
    }
}

/// Names of topics and of producers have at most 249 bytes.
fn put_name(name: &str, writer: &mut ByteWriter) {
    debug_assert!(u8::try_from(name.len()).is_ok(), "a name of {} bytes", name.len());
    writer.u8(name.len() as u8);
    writer.bytes(name.as_bytes());
}

fn decode_name(reader: &mut ByteReader<'_>) -> Result<TopicName, Malformed> {
    let start = *reader;
    let len = reader.u8("topic name")?;
    let bytes = reader.take(usize::from(len), "topic name")?;
    let name = std::str::from_utf8(bytes).ok().and_then(|name| TopicName::new(name).ok());
    name.ok_or_else(|| start.malformed("topic name"))
}

/// Bytes of a file before its first change.
pub(crate) const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"QUIPUCAT";
pub(super) const CHANGE_MAGIC: [u8; 4] = *b"QCHG";
const EPOCH_BYTES: usize = 16 + 4 + 4 + 8;
