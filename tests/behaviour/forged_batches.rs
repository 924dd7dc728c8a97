//! The bytes of a value are never taken for a batch, not even after a crash that tears the batch
//! around it, because the checksums of batch headers depend on a secret of the partition.
//!
//! Another test shows that the forged bytes would be accepted with the secret: otherwise these
//! tests would prove nothing.

use quipu::testing::{Disk, Survive};
use quipu::{Durability, Error, Record, TopicConfig};

use crate::common::{fill, open, read};

const SEGMENT: &str = "topics/t/0/00000000000000000000-0.log";
const SEGMENT_HEADER: usize = 128;
const BATCH_HEADER: usize = 104;

/// A batch of one record that lies at `base` and claims that everything before it is durable.
fn forged(base: u64, seed: &[&[u8]]) -> Vec<u8> {
    forged_with(base, &[3, 2, 1, b'x'], seed)
}

/// As [`forged`], with this body.
pub(crate) fn forged_with(base: u64, body: &[u8], seed: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(b"QBAT");
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(base.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend([0; 36]);
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(base.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(crc(&[body]).to_le_bytes());
    assert_eq!(bytes.len(), BATCH_HEADER - 4);
    let header_crc = crc(&[seed, &[&bytes]].concat());
    bytes.extend(header_crc.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// Appends a value that carries a forged batch, tears the batch that holds the value, and opens
/// again. Returns whether that is taken for damage, and the readable records.
fn tear(make: impl Fn(&[u8]) -> Vec<u8>) -> (bool, Vec<String>) {
    let disk = Disk::new();
    let broker = open(&disk).unwrap();
    let topic = broker.create_topic("t", TopicConfig::new().durability(Durability::Os)).unwrap();
    let partition = topic.partition(0).unwrap();
    fill(&broker, &partition, 3);
    let header = disk.read(SEGMENT).unwrap()[..SEGMENT_HEADER].to_vec();
    let before = disk.read(SEGMENT).unwrap().len();
    broker.producer().send(&partition, Record::new(make(&header))).unwrap().wait().unwrap();
    disk.crash(Survive::Everything);
    // A flipped bit in the header of the batch that carries the value.
    disk.flip_bit(SEGMENT, before as u64 * 8 + 70).unwrap();
    let broker = open(&disk).unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap();
    let (mut values, mut error) = read(&partition);
    if let Some(Error::Corrupt(corruption)) = &error
        && let Some(resume) = corruption.resume
    {
        let records = partition.read(quipu::Start::At(resume), 1 << 20);
        values.extend(
            records.iter().flatten().map(|r| String::from_utf8_lossy(r.value().unwrap()).into_owned()),
        );
        error = None;
    }
    assert!(error.is_none(), "{error:?}");
    (!broker.open_report().damaged.is_empty(), values)
}

#[test]
fn a_value_that_carries_a_batch_is_neither_a_witness_nor_a_record() {
    // All that a writer of values can know: the topic's identity and the partition.
    let (damaged, values) = tear(|header| forged(1_000, &[&header[24..40], &header[20..24]]));
    assert!(!damaged, "a torn tail");
    assert_eq!(values.len(), 3);
    let (damaged, values) = tear(|header| forged(1_000, &[&[0; 16], &header[24..40], &header[20..24]]));
    assert!(!damaged, "a torn tail");
    assert_eq!(values.len(), 3);
}

#[test]
fn with_the_secret_the_same_bytes_are_believed() {
    let (damaged, values) =
        tear(|header| forged(1_000, &[&header[80..96], &header[24..40], &header[20..24]]));
    assert!(damaged, "it is a witness");
    assert_eq!(values.last().unwrap(), "x", "and a record");
}
