//! The damage that every decoder must notice. Shared by the tests of the codecs.

use super::reader::Malformed;

/// Every truncation and every single flipped bit of `bytes` is refused, and so are zeros of the
/// same length, bytes that are appended, and random bytes. No call panics.
pub(super) fn is_always_noticed<T: std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, Malformed>,
) {
    decode(bytes).unwrap();
    for len in 0..bytes.len() {
        assert!(decode(&bytes[..len]).is_err(), "truncated to {len} bytes");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = decode(&flipped).expect_err("a flipped bit");
        assert!(error.position <= bytes.len() as u64, "{error:?}");
    }
    assert!(decode(&vec![0; bytes.len()]).is_err());
    let mut random = Random(42);
    for len in (0..200).chain([bytes.len(); 200]) {
        assert!(decode(&random.bytes(len)).is_err());
    }
}

/// Bytes as lower-case hexadecimal digits, for the pinned examples.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A small generator (xorshift64*), so that the same bytes come each time.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 56) as u8).collect()
    }
}

/// The bytes of a file after a change, with a CRC that fits: only the checks after the CRC can
/// notice it.
pub(super) fn resealed(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len() - 4].to_vec();
    change(&mut bytes);
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}
