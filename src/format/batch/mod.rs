//! The header of a batch, with the checksum of the body and its own, and the search for the next
//! batch after damage. The content of the body is in [`body`](super::body).

use super::reader::{ByteReader, Malformed, Unsupported};
use crate::types::{Offset, PartitionId, Timestamp, TopicId};

/// Bytes of a batch before its body.
pub(crate) const HEADER_BYTES: usize = 104;

/// The largest decompressed body: the bound of what a reader allocates.
pub(crate) const MAX_UNCOMPRESSED: u32 = 64 * 1024 * 1024;

/// The fields of a batch header, except the magic and the header's CRC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Bytes of the stored body.
    pub(crate) body_len: u32,
    /// Offset deltas count from here.
    pub(crate) base_offset: Offset,
    /// The batch owns the offsets up to `base_offset` plus this; below `u32::MAX`.
    pub(crate) last_offset_delta: u32,
    /// Records in the body; 0 if compaction emptied it.
    pub(crate) count: u32,
    /// Timestamp deltas count from here.
    pub(crate) base_timestamp: Timestamp,
    /// No record has a greater timestamp.
    pub(crate) max_timestamp: Timestamp,
    /// The idempotent producer that sent it; 0: none.
    pub(crate) producer_id: u64,
    /// The producer's number of the first record.
    pub(crate) base_sequence: u64,
    /// Rises when a producer of this id is replaced.
    pub(crate) producer_epoch: u16,
    /// The codec's number, known to this build or not: see
    /// [`Codec::from_number`](super::compression::Codec).
    pub(crate) codec: u8,
    /// The body ends with a table of the positions of every 2^n-th record; 0: it has none. See
    /// [`packing`](super::packing).
    pub(crate) table: u8,
    /// Flags.
    pub(crate) attributes: Attributes,
    /// Bytes of the body when decompressed.
    pub(crate) uncompressed_len: u32,
    /// The atomic commit it belongs to; 0: none.
    pub(crate) transaction_id: u64,
    /// All offsets below this one were known to be on the medium when the batch was written.
    pub(crate) synced_upto: Offset,
    /// Its meaning is in the attributes; 0 where it has none.
    pub(crate) extra: u64,
    /// The epoch in which the batch was appended.
    pub(crate) log_epoch: u32,
    /// CRC of the stored body.
    pub(crate) body_crc: u32,
}

impl BatchHeader {
    /// The last offset that the batch owns.
    pub(crate) fn last_offset(&self) -> Offset {
        self.base_offset.plus(u64::from(self.last_offset_delta))
    }

    /// The offset after the batch.
    pub(crate) fn end_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// Bytes that the batch takes in its segment, header included.
    pub(crate) fn stored_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.body_len)
    }

    /// The timestamp of a record with this delta.
    #[inline]
    pub(crate) fn timestamp(&self, delta: i64) -> Timestamp {
        if self.attributes.append_time() {
            self.max_timestamp
        } else {
            Timestamp::from_millis(self.base_timestamp.as_millis().saturating_add(delta))
        }
    }

    /// Bytes of the position table at the end of the body, if there is one.
    pub(crate) fn table_bytes(&self) -> u64 {
        match (self.table, self.count.checked_sub(1)) {
            (1..=TABLE_MAX, Some(last)) => {
                u64::from(last >> self.table) * u64::from(self.table_entry_bytes())
            }
            _ => 0,
        }
    }

    /// Bytes of an entry of the position table: two where every position fits.
    pub(crate) fn table_entry_bytes(&self) -> u8 {
        if self.uncompressed_len <= 1 << 16 { 2 } else { 4 }
    }

    /// Reads the next entry of the position table.
    pub(crate) fn table_entry(&self, table: &mut ByteReader<'_>) -> Result<usize, Malformed> {
        match self.table_entry_bytes() {
            2 => table.u16("position table").map(usize::from),
            _ => table.u32("position table").map(|position| position as usize),
        }
    }

    /// Returns the position and the name of the first implausible value, whatever the CRC is.
    fn check(&self) -> Result<(), (u64, &'static str)> {
        let records_len = u64::from(self.body_len).checked_sub(self.table_bytes());
        let offsets = u64::from(self.last_offset_delta) + 1;
        if offsets > MAX_OFFSETS || self.base_offset.get().checked_add(offsets).is_none() {
            Err((16, "last offset"))
        } else if u64::from(self.count) > offsets {
            Err((20, "record count"))
        } else if self.table > TABLE_MAX || records_len.is_none() {
            Err((59, "position table"))
        } else if !self.attributes.is_valid() {
            Err((60, "attributes"))
        } else if self.uncompressed_len > MAX_UNCOMPRESSED
            || u64::from(self.count) * SHORTEST_RECORD > u64::from(self.uncompressed_len)
            || (self.count == 0 && self.uncompressed_len != 0)
        {
            Err((88, "uncompressed length"))
        } else if records_len.is_some_and(|len| match self.codec {
            0 => len != u64::from(self.uncompressed_len),
            // A body that does not shrink is stored uncompressed.
            _ => len >= u64::from(self.uncompressed_len),
        }) {
            Err((4, "body length"))
        } else if self.synced_upto > self.base_offset {
            Err((72, "synced_upto"))
        } else if self.extra != 0 && self.attributes.extra() == Extra::Nothing {
            Err((80, "extra"))
        } else {
            Ok(())
        }
    }
}

/// The attribute bits of a batch: kind of timestamp, meaning of `extra`, sequences.
///
/// The lower half are incompatible features: a reader that does not know a bit that is set must not
/// use the batch, and must not truncate it. The upper half are compatible ones: a reader that does
/// not know a bit ignores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(u32);

impl Attributes {
    const APPEND_TIME: u32 = 0b0_0001;
    const EXTRA: u32 = 0b0_0110;
    const EXTRA_SHIFT: u32 = 1;
    const GIVEN: u32 = 0b0_1000;
    const DENSE: u32 = 0b1_0000;
    const KNOWN: u32 = 0b1_1111;
    const INCOMPATIBLE: u32 = 0xffff;

    /// The incompatible features that this build does not know.
    fn unknown(self) -> u32 {
        self.0 & Self::INCOMPATIBLE & !Self::KNOWN
    }

    /// Whether all records have the batch's `max_timestamp`, the time of the append.
    #[inline]
    pub(crate) fn append_time(self) -> bool {
        self.0 & Self::APPEND_TIME != 0
    }

    /// With append time or without.
    #[must_use]
    pub(crate) fn with_append_time(self, append_time: bool) -> Self {
        Attributes((self.0 & !Self::APPEND_TIME) | if append_time { Self::APPEND_TIME } else { 0 })
    }

    /// Returns the meaning of the header's `extra`.
    pub(crate) fn extra(self) -> Extra {
        match (self.0 & Self::EXTRA) >> Self::EXTRA_SHIFT {
            1 => Extra::StreamVersion,
            2 => Extra::DeleteHorizon,
            _ => Extra::Nothing,
        }
    }

    /// With this meaning of the header's `extra`.
    #[must_use]
    pub(crate) fn with_extra(self, extra: Extra) -> Self {
        Attributes((self.0 & !Self::EXTRA) | ((extra as u32) << Self::EXTRA_SHIFT))
    }

    /// Returns `None` if the caller gave its records no sequences. Otherwise the header has the
    /// last one, and this is whether they have no gaps.
    pub(crate) fn given_sequences(self) -> Option<bool> {
        (self.0 & Self::GIVEN != 0).then_some(self.0 & Self::DENSE != 0)
    }

    /// With sequences of the caller, with gaps between them or without; or without sequences.
    #[must_use]
    pub(crate) fn with_given_sequences(self, dense: Option<bool>) -> Self {
        let bits = match dense {
            Some(true) => Self::GIVEN | Self::DENSE,
            Some(false) => Self::GIVEN,
            None => 0,
        };
        Attributes((self.0 & !(Self::GIVEN | Self::DENSE)) | bits)
    }

    fn is_valid(self) -> bool {
        self.0 & Self::EXTRA != Self::EXTRA && (self.0 & Self::GIVEN != 0 || self.0 & Self::DENSE == 0)
    }
}

/// The meaning of [`BatchHeader::extra`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Extra {
    /// It is zero.
    Nothing = 0,
    /// The stream version of the first record.
    StreamVersion = 1,
    /// Until when the tombstones of the batch are kept, in milliseconds.
    DeleteHorizon = 2,
}

/// 16 random bytes that the header CRCs of a partition depend on, and the hashes of its keys.
///
/// They never leave the broker's directory. Without them a sender cannot make a value whose bytes
/// look like a batch of the partition that the value is written to.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) [u8; 16]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The partition that a batch belongs to: the state of its header's CRC after secret, topic id and
/// partition.
///
/// Computed once per partition, so that a header costs the checksum of its own bytes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    /// The seed of this partition of this topic.
    pub(crate) fn new(secret: &Secret, topic_id: &TopicId, partition: PartitionId) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&secret.0);
        hasher.update(&topic_id.0);
        hasher.update(&partition.get().to_le_bytes());
        Seed(hasher.finalize())
    }

    /// The CRC of the seed's bytes followed by `bytes`.
    fn crc(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// Writes a header, and returns its CRC.
pub(crate) fn encode_header(header: &BatchHeader, seed: Seed, out: &mut [u8; HEADER_BYTES]) -> u32 {
    debug_assert_eq!(header.check(), Ok(()));
    let mut rest = out.as_mut_slice();
    put(&mut rest, MAGIC);
    put(&mut rest, header.body_len.to_le_bytes());
    put(&mut rest, header.base_offset.get().to_le_bytes());
    put(&mut rest, header.last_offset_delta.to_le_bytes());
    put(&mut rest, header.count.to_le_bytes());
    put(&mut rest, header.base_timestamp.as_millis().to_le_bytes());
    put(&mut rest, header.max_timestamp.as_millis().to_le_bytes());
    put(&mut rest, header.producer_id.to_le_bytes());
    put(&mut rest, header.base_sequence.to_le_bytes());
    put(&mut rest, header.producer_epoch.to_le_bytes());
    put(&mut rest, [header.codec, header.table]);
    put(&mut rest, header.attributes.0.to_le_bytes());
    put(&mut rest, header.transaction_id.to_le_bytes());
    put(&mut rest, header.synced_upto.get().to_le_bytes());
    put(&mut rest, header.extra.to_le_bytes());
    put(&mut rest, header.uncompressed_len.to_le_bytes());
    put(&mut rest, header.log_epoch.to_le_bytes());
    put(&mut rest, header.body_crc.to_le_bytes());
    let [covered @ .., crc0, crc1, crc2, crc3] = out;
    let header_crc = seed.crc(covered);
    [*crc0, *crc1, *crc2, *crc3] = header_crc.to_le_bytes();
    header_crc
}

/// Reads the header at the start of `bytes`, which may be longer, and returns its CRC too.
///
/// The CRC and the plausibility of every field are checked; the body is not looked at. A header
/// with a codec that this build does not know is accepted. One with an incompatible feature that it
/// does not know is refused: the error names the feature, and the batch must not be treated as
/// damage.
pub(crate) fn decode_header(bytes: &[u8], seed: Seed) -> Result<(BatchHeader, u32), Malformed> {
    let mut reader = ByteReader::new(bytes);
    if reader.array("batch magic")? != MAGIC {
        return Err(Malformed::new(0, "batch magic"));
    }
    let Some((covered, tail)) = bytes.split_first_chunk::<COVERED_BYTES>() else {
        return Err(reader.malformed("batch header"));
    };
    let header_crc =
        ByteReader::new(tail).u32("batch header").map_err(|error| error.shifted(COVERED_BYTES as u64))?;
    if seed.crc(covered) != header_crc {
        return Err(Malformed::new(COVERED_BYTES as u64, "crc of the batch header"));
    }
    let attributes = ByteReader::at(covered, ATTRIBUTES_AT).u32("attributes").map(Attributes)?;
    if attributes.unknown() != 0 {
        // The checksum fits, so the bytes are not damaged. The other fields may have another
        // meaning.
        let needs = Unsupported::Features(attributes.unknown());
        return Err(Malformed::unsupported(ATTRIBUTES_AT as u64, "attributes", needs));
    }
    let header = BatchHeader {
        body_len: reader.u32("body_len")?,
        base_offset: Offset::new(reader.u64("base_offset")?),
        last_offset_delta: reader.u32("last_offset_delta")?,
        count: reader.u32("count")?,
        base_timestamp: Timestamp::from_millis(reader.i64("base_timestamp")?),
        max_timestamp: Timestamp::from_millis(reader.i64("max_timestamp")?),
        producer_id: reader.u64("producer_id")?,
        base_sequence: reader.u64("base_sequence")?,
        producer_epoch: reader.u16("producer_epoch")?,
        codec: reader.u8("codec")?,
        table: reader.u8("position table")?,
        attributes: Attributes(reader.u32("attributes")?),
        transaction_id: reader.u64("transaction_id")?,
        synced_upto: Offset::new(reader.u64("synced_upto")?),
        extra: reader.u64("extra")?,
        uncompressed_len: reader.u32("uncompressed_len")?,
        log_epoch: reader.u32("log_epoch")?,
        body_crc: reader.u32("body_crc")?,
    };
    header.check().map_err(|(position, what)| Malformed::new(position, what))?;
    Ok((header, header_crc))
}

/// Returns the checksum of a stored body.
pub(crate) fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body)
}

/// Checks length and CRC of a stored body.
pub(crate) fn check_body(header: &BatchHeader, body: &[u8]) -> Result<(), Malformed> {
    if body.len() as u64 != u64::from(header.body_len) {
        Err(Malformed::new(body.len() as u64, "length of the batch body"))
    } else if crc32fast::hash(body) != header.body_crc {
        Err(Malformed::new(0, "crc of the batch body"))
    } else {
        Ok(())
    }
}

/// Returns the position of the first valid header at or after `from`.
pub(crate) fn find_batch(bytes: &[u8], mut from: usize, seed: Seed) -> Option<usize> {
    loop {
        let candidates = bytes.get(from..)?;
        let position = from + find_magic(candidates)?;
        // A header that needs a feature that this build does not have is valid too.
        if decode_header(bytes.get(position..)?, seed).map_or_else(|m| m.unsupported.is_some(), |_| true) {
            return Some(position);
        }
        from = position + 1;
    }
}

/// Whether all bytes are zero, as where nothing was ever written.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    // No early exit within a block, so that it compiles to a few vector instructions.
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// The position of the first magic.
///
/// Blocks without its first two bytes in a row are passed over without a branch per byte.
fn find_magic(bytes: &[u8]) -> Option<usize> {
    let followers = bytes.get(1..)?;
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let (next, _) = followers.as_chunks::<BLOCK>();
    let [first, second, ..] = MAGIC;
    let mut position = 0;
    for (block, next) in blocks.iter().zip(next) {
        let hit = block
            .iter()
            .zip(next)
            .fold(0, |hit, (a, b)| hit | (u8::from(*a == first) & u8::from(*b == second)));
        if hit != 0 {
            let rest = bytes.get(position..)?;
            // A magic that begins in this block ends at most three bytes after it. At the end of
            // the bytes there are fewer.
            if let Some(found) = find_magic_slowly(rest.get(..BLOCK + MAGIC.len() - 1).unwrap_or(rest)) {
                return Some(position + found);
            }
        }
        position += BLOCK;
    }
    find_magic_slowly(bytes.get(position..)?).map(|found| position + found)
}

fn find_magic_slowly(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MAGIC.len()).position(|window| window == MAGIC)
}

/// Writes the next field of a header of fixed size.
#[inline(always)]
fn put<const N: usize>(out: &mut &mut [u8], field: [u8; N]) {
    if let Some((place, rest)) = std::mem::take(out).split_first_chunk_mut() {
        *place = field;
        *out = rest;
    }
}

/// The first bytes of every batch. Not zero, and never changed within a version.
const MAGIC: [u8; 4] = *b"QBAT";
/// Header bytes that the header's CRC covers.
const COVERED_BYTES: usize = HEADER_BYTES - 4;
/// The position of the attributes.
const ATTRIBUTES_AT: usize = 60;
/// The greatest distance of two entries of a position table: 2^15 records.
const TABLE_MAX: u8 = 15;
/// Bytes of a record without key, value and headers.
const SHORTEST_RECORD: u64 = 2;
/// A batch owns as many offsets as it had records when it was appended.
const MAX_OFFSETS: u64 = MAX_UNCOMPRESSED as u64 / SHORTEST_RECORD;
/// How many bytes a search looks at in one step.
const BLOCK: usize = 64;

const _: () = assert!(MAGIC[0] != 0, "zeros must not look like a batch");

#[cfg(test)]
mod tests;
