use proptest::prelude::*;

use super::super::damage::{self, Random, hex};
use super::*;

const SECRET: Secret = Secret(*b"a secret, random");

fn seed() -> Seed {
    Seed::new(&SECRET, &TopicId(*b"0123456789abcdef"), PartitionId::new(7))
}

fn example() -> BatchHeader {
    BatchHeader {
        body_len: 300,
        base_offset: Offset::new(1_000_000),
        last_offset_delta: 9,
        count: 10,
        base_timestamp: Timestamp::from_millis(1_700_000_000_000),
        max_timestamp: Timestamp::from_millis(1_700_000_000_009),
        producer_id: 11,
        base_sequence: 12,
        producer_epoch: 13,
        codec: 1,
        table: 2,
        attributes: Attributes::default().with_extra(Extra::StreamVersion),
        uncompressed_len: 1_000,
        transaction_id: 14,
        synced_upto: Offset::new(999_990),
        extra: 15,
        log_epoch: 16,
        body_crc: 0xdead_beef,
    }
}

fn encoded(header: &BatchHeader) -> [u8; HEADER_BYTES] {
    let mut out = [0xff; HEADER_BYTES];
    encode_header(header, seed(), &mut out);
    out
}

/// The bytes with a CRC that fits them, however implausible they are.
fn signed(mut bytes: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
    let crc = seed().crc(&bytes[..COVERED_BYTES]);
    bytes[COVERED_BYTES..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn bytes_are_pinned() {
    assert_eq!(
        hex(&encoded(&example())),
        "514241542c01000040420f0000000000090000000a0000000068e5cf8b0100000968e5cf8b010000\
         0b000000000000000c000000000000000d000102020000000e0000000000000036420f0000000000\
         0f00000000000000e803000010000000efbeaddee8412062"
    );
}

#[test]
fn a_header_comes_back_with_its_crc_and_its_sums() {
    let mut bytes = [0; HEADER_BYTES];
    let crc = encode_header(&example(), seed(), &mut bytes);
    assert_eq!(decode_header(&bytes, seed()), Ok((example(), crc)));
    let mut longer = bytes.to_vec();
    longer.extend([1, 2, 3]);
    assert_eq!(decode_header(&longer, seed()), Ok((example(), crc)));
    assert_eq!(example().last_offset(), 1_000_009);
    assert_eq!(example().end_offset(), 1_000_010);
    assert_eq!(example().stored_bytes(), 404);
    assert_eq!(example().table_bytes(), 4);
}

#[test]
fn every_damage_is_noticed() {
    damage::is_always_noticed(&encoded(&example()), |bytes| decode_header(bytes, seed()));
}

#[test]
fn the_header_crc_is_that_of_the_seed_then_the_header() {
    let mut all = SECRET.0.to_vec();
    all.extend(b"0123456789abcdef");
    all.extend(7u32.to_le_bytes());
    let bytes = encoded(&example());
    all.extend(&bytes[..COVERED_BYTES]);
    assert_eq!(bytes[COVERED_BYTES..], crc32fast::hash(&all).to_le_bytes());
}

#[test]
fn a_batch_of_another_partition_or_topic_is_refused() {
    let bytes = encoded(&example());
    for other in [
        Seed::new(&SECRET, &TopicId(*b"0123456789abcdef"), PartitionId::new(8)),
        Seed::new(&SECRET, &TopicId(*b"0123456789abcdeF"), PartitionId::new(7)),
        Seed::new(&Secret::default(), &TopicId(*b"0123456789abcdef"), PartitionId::new(7)),
    ] {
        assert_eq!(decode_header(&bytes, other).unwrap_err().what, "crc of the batch header");
    }
}

#[test]
fn implausible_headers_are_refused_even_with_a_crc_that_fits() {
    let good = encoded(&example());
    assert!(decode_header(&signed(good), seed()).is_ok());
    let cases: [(usize, &[u8], &str); 16] = [
        (0, b"QBAU", "batch magic"),
        (16, &(1u32 << 25).to_le_bytes(), "last offset"),
        (8, &(u64::MAX - 9).to_le_bytes(), "last offset"),
        (20, &11u32.to_le_bytes(), "record count"),
        (59, &[16], "position table"),
        (4, &3u32.to_le_bytes(), "position table"),
        (60, &0b0_0111u32.to_le_bytes(), "attributes"),
        (60, &0b1_0010u32.to_le_bytes(), "attributes"),
        (88, &(MAX_UNCOMPRESSED + 1).to_le_bytes(), "uncompressed length"),
        (88, &19u32.to_le_bytes(), "uncompressed length"),
        (20, &0u32.to_le_bytes(), "uncompressed length"),
        // Compressed, and not smaller; stored as it is, and of another length.
        (4, &1_004u32.to_le_bytes(), "body length"),
        (4, &u32::MAX.to_le_bytes(), "body length"),
        (58, &[0], "body length"),
        (72, &1_000_001u64.to_le_bytes(), "synced_upto"),
        (60, &0u32.to_le_bytes(), "extra"),
    ];
    for (at, field, what) in cases {
        let mut bytes = good;
        bytes[at..at + field.len()].copy_from_slice(field);
        assert_eq!(decode_header(&signed(bytes), seed()).unwrap_err().what, what);
    }
}

#[test]
fn an_incompatible_feature_is_no_damage_and_a_compatible_one_is_ignored() {
    for bit in 5..16 {
        let mut bytes = encoded(&example());
        bytes[60 + bit / 8] |= 1 << (bit % 8);
        let bytes = signed(bytes);
        let error = decode_header(&bytes, seed()).unwrap_err();
        assert_eq!(error.unsupported, Some(Unsupported::Features(1 << bit)));
        // A search for batches after damage stops at it.
        assert_eq!(find_batch(&[&[1, 2, 3][..], &bytes].concat(), 0, seed()), Some(3));
    }
    for bit in 16..32 {
        let mut bytes = encoded(&example());
        bytes[60 + bit / 8] |= 1 << (bit % 8);
        let (header, _) = decode_header(&signed(bytes), seed()).unwrap();
        // It is kept where the header is written again.
        assert_eq!(encoded(&header)[60..64], signed(bytes)[60..64]);
    }
}

#[test]
fn the_extremes_are_plausible() {
    let header = BatchHeader {
        base_offset: Offset::new(u64::MAX - (1 << 25)),
        last_offset_delta: (1 << 25) - 1,
        count: 1,
        synced_upto: Offset::new(u64::MAX - (1 << 25)),
        uncompressed_len: MAX_UNCOMPRESSED,
        codec: u8::MAX,
        attributes: Attributes::default().with_extra(Extra::DeleteHorizon),
        ..example()
    };
    assert_eq!(decode_header(&encoded(&header), seed()).unwrap().0, header);
    assert_eq!(header.end_offset(), Offset::MAX);
}

#[test]
fn attributes_do_not_disturb_each_other() {
    for given in [None, Some(false), Some(true)] {
        for append_time in [false, true] {
            for extra in [Extra::Nothing, Extra::StreamVersion, Extra::DeleteHorizon] {
                let attributes = Attributes(0b1_1111)
                    .with_extra(extra)
                    .with_append_time(append_time)
                    .with_given_sequences(given);
                assert_eq!(
                    (attributes.given_sequences(), attributes.append_time(), attributes.extra()),
                    (given, append_time, extra)
                );
                assert!(attributes.is_valid());
            }
        }
    }
}

#[test]
fn append_time_overrules_the_deltas() {
    let header = example();
    assert_eq!(header.timestamp(4).as_millis(), 1_700_000_000_004);
    let header = BatchHeader { attributes: header.attributes.with_append_time(true), ..header };
    assert_eq!(header.timestamp(4), header.max_timestamp);
}

#[test]
fn bodies_are_checked_by_length_and_crc() {
    let body = b"some bytes";
    let header = BatchHeader { body_len: 10, table: 0, body_crc: crc32fast::hash(body), ..example() };
    assert_eq!(check_body(&header, body), Ok(()));
    assert!(check_body(&header, b"some byteS").is_err());
    assert!(check_body(&header, b"some byte").is_err());
    assert!(check_body(&header, b"some bytes ").is_err());
}

#[test]
fn a_batch_is_found_wherever_it_begins() {
    let batch = encoded(&example());
    let mut random = Random(7);
    for before in (0..300).chain([4_095, 4_096, 100_000]) {
        let mut bytes = random.bytes(before);
        bytes.extend(batch);
        for after in [0, 1, 64, 200] {
            let mut bytes = bytes.clone();
            bytes.extend(random.bytes(after));
            assert_eq!(find_batch(&bytes, 0, seed()), Some(before));
            assert_eq!(find_batch(&bytes, before, seed()), Some(before));
            assert_eq!(find_batch(&bytes, before + 1, seed()), None);
        }
        assert_eq!(find_batch(&bytes[..bytes.len() - 1], 0, seed()), None);
    }
    assert_eq!(find_batch(&[], 0, seed()), None);
    assert_eq!(find_batch(&[], 5, seed()), None);
}

#[test]
fn a_magic_alone_does_not_stop_the_search() {
    for repeats in [1, 15, 16, 17, 1_000] {
        for shift in 0..5 {
            let mut bytes = vec![0; shift];
            bytes.extend(MAGIC.repeat(repeats));
            bytes.extend(b"QBQBAQ");
            let position = bytes.len();
            bytes.extend(encoded(&example()));
            assert_eq!(find_batch(&bytes, 0, seed()), Some(position));
        }
    }
}

#[test]
fn zeros_are_told_from_anything_else() {
    for len in 0..200 {
        let mut bytes = vec![0; len];
        assert!(is_zero(&bytes));
        for position in 0..len {
            bytes[position] = 0x10;
            assert!(!is_zero(&bytes));
            bytes[position] = 0;
        }
    }
}

proptest! {
    #[test]
    fn the_fast_search_finds_what_the_slow_one_finds(
        bytes in proptest::collection::vec(prop::sample::select(b"QBAT".to_vec()), 0..400),
    ) {
        prop_assert_eq!(find_magic(&bytes), find_magic_slowly(&bytes));
    }
}
