//! Shipments that a peer made up, as FORMAT.md has them. Shares no code with the crate.

const TOPIC: [u8; 16] = [9; 16];
const SECRET: [u8; 16] = [5; 16];

/// A batch of a shipment.
pub struct Batch {
    pub base: u64,
    pub offsets: u32,
    pub records: u32,
    pub time: i64,
    /// 0: the body as it is; 1: LZ4.
    pub codec: u8,
    pub uncompressed: u32,
    pub body: Vec<u8>,
}

fn crc(parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_le_bytes()
}

impl Batch {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = b"QBAT".to_vec();
        bytes.extend((self.body.len() as u32).to_le_bytes());
        bytes.extend(self.base.to_le_bytes());
        bytes.extend((self.offsets - 1).to_le_bytes());
        bytes.extend(self.records.to_le_bytes());
        bytes.extend(self.time.to_le_bytes());
        bytes.extend(self.time.to_le_bytes());
        bytes.extend([0; 18]);
        bytes.extend([self.codec, 0]);
        // Attributes, transaction, synced_upto, extra.
        bytes.extend([0; 28]);
        bytes.extend(self.uncompressed.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(crc(&[&self.body]));
        let header = crc(&[&SECRET, &TOPIC, &0u32.to_le_bytes(), &bytes]);
        bytes.extend(header);
        bytes.extend(&self.body);
        bytes
    }
}

/// The bytes of a shipment of batches that follow each other.
pub fn shipment(batches: &[Batch]) -> Vec<u8> {
    let content: Vec<u8> = batches.iter().flat_map(Batch::encode).collect();
    let (first, last) = (batches.first().unwrap(), batches.last().unwrap());
    let mut bytes = b"QUIPUSHP".to_vec();
    // Version 2, no features.
    bytes.extend([2u32, 0, 0].map(u32::to_le_bytes).concat());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(TOPIC);
    bytes.extend(0u32.to_le_bytes());
    bytes.extend((batches.len() as u32).to_le_bytes());
    bytes.extend(first.base.to_le_bytes());
    bytes.extend((last.base + u64::from(last.offsets)).to_le_bytes());
    bytes.extend((content.len() as u64).to_le_bytes());
    bytes.extend(SECRET);
    let sum = crc(&[&bytes]);
    bytes.extend(sum);
    bytes.extend(content);
    bytes
}
