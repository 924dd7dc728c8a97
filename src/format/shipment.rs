//! A shipment: stored batches of one partition in an envelope, for a copy of the partition. The
//! envelope has the partition, the offsets and the number of bytes.

use super::batch::{BatchHeader, HEADER_BYTES, Secret, Seed, check_body, decode_header};
use super::envelope::{ByteWriter, open};
use super::reader::Malformed;
use crate::types::{Offset, PartitionId, TopicId};

/// Bytes of a shipment before its first batch.
pub(crate) const ENVELOPE_BYTES: usize = 92;

const MAGIC: [u8; 8] = *b"QUIPUSHP";

/// The header of a shipment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// The partition that the batches were read from: with the topic id and the secret, the seed of
    /// their headers' CRCs.
    pub(crate) partition: PartitionId,
    pub(crate) topic_id: TopicId,
    /// The log epoch of that partition when they were read.
    pub(crate) log_epoch: u32,
    /// How many batches follow.
    pub(crate) batches: u32,
    /// The base offset of the first one; without any, the offset that was asked for.
    pub(crate) base_offset: Offset,
    /// The end of the last one; without any, the base offset.
    pub(crate) end_offset: Offset,
    /// How many bytes follow.
    pub(crate) bytes: u64,
    /// The secret of the shipment's header CRCs. It is not the secret of a partition.
    pub(crate) secret: Secret,
}

impl Envelope {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = ByteWriter::new(MAGIC, ENVELOPE_BYTES);
        writer.u32(self.partition.get());
        writer.bytes(&self.topic_id.0);
        writer.u32(self.log_epoch);
        writer.u32(self.batches);
        writer.u64(self.base_offset.get());
        writer.u64(self.end_offset.get());
        writer.u64(self.bytes);
        writer.bytes(&self.secret.0);
        writer.finish()
    }

    /// Reads the envelope at the start of `bytes`, and nothing after it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        // Of fewer bytes the magic and the version are checked first.
        let mut reader = open(bytes.get(..ENVELOPE_BYTES).unwrap_or(bytes), MAGIC)?;
        let envelope = Envelope {
            partition: PartitionId::new(reader.u32("partition")?),
            topic_id: TopicId(reader.array("topic id")?),
            log_epoch: reader.u32("log epoch")?,
            batches: reader.u32("batch count")?,
            base_offset: Offset::new(reader.u64("base offset")?),
            end_offset: Offset::new(reader.u64("end offset")?),
            bytes: reader.u64("bytes")?,
            secret: Secret(reader.array("secret")?),
        };
        reader.expect_end("bytes after the envelope")?;
        Ok(envelope)
    }

    /// The seed of the batches' header CRCs.
    pub(crate) fn seed(&self) -> Seed {
        Seed::new(&self.secret, &self.topic_id, self.partition)
    }
}

/// Checks a whole shipment without decompressing bodies: the envelope, every batch's header, the
/// CRC of its body, and that the batches are those of the envelope, without a gap.
pub(crate) fn check(bytes: &[u8]) -> Result<Envelope, Malformed> {
    let envelope = Envelope::decode(bytes)?;
    if (bytes.len() - ENVELOPE_BYTES) as u64 != envelope.bytes {
        return Err(Malformed::new(bytes.len() as u64, "length of the shipment"));
    }
    let (mut count, mut end) = (0, envelope.base_offset);
    for batch in ShipmentBatches::new(&envelope, bytes) {
        let batch = batch?;
        if batch.header.base_offset != end {
            return Err(Malformed::new(batch.position + 8, "base offset of the next batch"));
        }
        check_body(&batch.header, batch.body())
            .map_err(|error| error.shifted(batch.position + HEADER_BYTES as u64))?;
        (count, end) = (count + 1, batch.header.end_offset());
    }
    if count != u64::from(envelope.batches) {
        return Err(Malformed::new(44, "batch count"));
    }
    if end != envelope.end_offset {
        return Err(Malformed::new(56, "end offset"));
    }
    Ok(envelope)
}

/// One batch of a shipment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shipped<'a> {
    /// The position of the batch in the shipment.
    pub(crate) position: u64,
    pub(crate) header: BatchHeader,
    /// Header and body.
    pub(crate) stored: &'a [u8],
}

impl<'a> Shipped<'a> {
    pub(crate) fn body(&self) -> &'a [u8] {
        debug_assert!(self.stored.len() >= HEADER_BYTES, "the header has been decoded");
        self.stored.get(HEADER_BYTES..).unwrap_or_default()
    }
}

/// Iterates over the batches of a shipment, and checks their headers. It ends after an error.
pub(crate) struct ShipmentBatches<'a> {
    seed: Seed,
    rest: &'a [u8],
    position: u64,
}

impl<'a> ShipmentBatches<'a> {
    /// `bytes` begin with the envelope.
    pub(crate) fn new(envelope: &Envelope, bytes: &'a [u8]) -> Self {
        let rest = bytes.get(ENVELOPE_BYTES..).unwrap_or_default();
        ShipmentBatches { seed: envelope.seed(), rest, position: ENVELOPE_BYTES as u64 }
    }

    fn read(&mut self) -> Result<Shipped<'a>, Malformed> {
        let position = self.position;
        let (header, _) = decode_header(self.rest, self.seed).map_err(|error| error.shifted(position))?;
        let len = usize::try_from(header.stored_bytes()).unwrap_or(usize::MAX);
        let Some((stored, rest)) = self.rest.split_at_checked(len) else {
            return Err(Malformed::new(position + 4, "length of a batch"));
        };
        self.rest = rest;
        self.position += header.stored_bytes();
        Ok(Shipped { position, header, stored })
    }
}

impl<'a> Iterator for ShipmentBatches<'a> {
    type Item = Result<Shipped<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(self.read().inspect_err(|_| self.rest = &[]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::damage::hex;
    use super::*;

    fn example() -> Envelope {
        Envelope {
            partition: PartitionId::new(3),
            topic_id: TopicId(*b"0123456789abcdef"),
            log_epoch: 4,
            batches: 5,
            base_offset: Offset::new(6),
            end_offset: Offset::new(7),
            bytes: 8,
            secret: Secret(*b"of the shipment."),
        }
    }

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(
            hex(&example().encode()),
            "51554950555348500200000000000000000000000300000030313233343536373839616263646566\
             04000000050000000600000000000000070000000000000008000000000000006f66207468652073\
             6869706d656e742e96997bab"
        );
    }

    #[test]
    fn what_goes_in_comes_out() {
        let bytes = example().encode();
        assert_eq!(bytes.len(), ENVELOPE_BYTES);
        assert_eq!(Envelope::decode(&bytes), Ok(example()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Envelope::decode(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Envelope::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn an_empty_shipment_is_whole_and_a_promise_of_batches_is_not() {
        let empty = Envelope { batches: 0, end_offset: Offset::new(6), bytes: 0, ..example() };
        assert_eq!(check(&empty.encode()), Ok(empty));
        assert!(check(&Envelope { batches: 1, ..empty }.encode()).is_err());
        assert!(check(&Envelope { end_offset: Offset::new(7), ..empty }.encode()).is_err());
        assert!(check(&Envelope { bytes: 1, ..empty }.encode()).is_err());
        assert!(check(&Envelope { bytes: u64::MAX, ..empty }.encode()).is_err());
    }
}
