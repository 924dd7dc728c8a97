//! The structures of FORMAT.md, read from the page alone: this shares no code with the library, so
//! that a fault of one is not a fault of the other.

mod batches;
mod fields;
mod files;

pub(crate) use self::batches::{BATCH_HEADER, Header, SEGMENT_HEADER, batch_header, segment_header};
pub(crate) use self::fields::{Field, Shown, Structure, hex};
pub(crate) use self::files::{is_of_this_version, rest, structures};

#[cfg(test)]
mod tests {
    use super::{batch_header, segment_header, structures};

    const MAGICS: [&[u8]; 8] =
        [b"QUIPUMAN", b"QUIPUCAT", b"QUIPUCHK", b"QUIPUPRD", b"QUIPUJNL", b"QUIPUIDX", b"QUIPUKEY", b"OTHER"];

    /// Bytes that look the same in each run.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Small numbers are counts and lengths that lead far.
            if state.is_multiple_of(3) { (state >> 32) as u8 } else { (state >> 61) as u8 }
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn any_bytes_are_named_once_each_and_none_panics() {
        for seed in 0..4000 {
            let magic = MAGICS[seed as usize % MAGICS.len()];
            let mut bytes = [magic, &2_u32.to_le_bytes(), &noise(seed, (seed % 600) as usize)].concat();
            if seed % 5 == 0 {
                // A change or a transaction after the header.
                let at = (if magic == b"QUIPUJNL" { 32 } else { 64 }).min(bytes.len());
                bytes.splice(at..at, if magic == b"QUIPUJNL" { *b"QTXN" } else { *b"QCHG" });
            }
            let all = structures(&bytes);
            let named: usize = all.iter().flat_map(|of| &of.fields).map(|field| field.bytes.len()).sum();
            assert_eq!(named, bytes.len(), "seed {seed}");
        }
    }

    #[test]
    fn any_bytes_after_the_magic_of_a_batch_are_read_without_a_panic() {
        let (_, seed_of_crc) = segment_header(&noise(1, 128));
        for seed in 0..4000 {
            let bytes = [b"QBAT".as_slice(), &noise(seed, 400)].concat();
            let (_, header) = batch_header(&bytes, 128, &seed_of_crc).unwrap();
            let header = header.unwrap();
            let body = &bytes[104..];
            assert!(!header.body_of(body, 232).is_whole());
            // Most are errors: the bytes are no records.
            let _ = header.records(body);
        }
    }
}
