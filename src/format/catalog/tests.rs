use std::collections::BTreeSet;

use super::super::damage::{Random, hex};
use super::super::envelope::{ByteWriter, crc_of};
use super::file::{CHANGE_MAGIC, decode_bits, encode_bits};
use super::*;
use crate::format::manifest::EpochStart;
use crate::format::reader::{ByteReader, Malformed, Unsupported};
use crate::format::settings::Setting;
use crate::types::{Offset, PartitionId, Timestamp, TopicId, TopicName};

fn setting(tag: u16, must: bool, bytes: &[u8]) -> Setting {
    Setting { tag, must, bytes: bytes.to_vec() }
}

fn topic(id: u8, name: &str, state: TopicState) -> TopicEntry {
    TopicEntry {
        id: TopicId([id; 16]),
        state,
        partitions: 20,
        created_at: Timestamp::from_millis(1_700_000_000_000),
        name: TopicName::new(name).unwrap(),
        settings: vec![setting(7, true, b"seven"), setting(1, false, b"")],
        earlier_partitions: Vec::new(),
        rest: Vec::new(),
    }
}

fn producer(id: u64, epoch: u16, name: &str) -> ProducerEntry {
    ProducerEntry { id, epoch, name: name.to_string() }
}

fn opening() -> Opening {
    Opening { boot: [0xb0; 16], run: 3, at: Timestamp::from_millis(-1), process: 77 }
}

fn epoch(id: u8, partition: u32, epoch: u32, start: u64) -> (TopicId, PartitionId, EpochStart) {
    let start = EpochStart { epoch, start: Offset::new(start) };
    (TopicId([id; 16]), PartitionId::new(partition), start)
}

/// One change of each kind.
fn changes() -> Vec<Change> {
    vec![
        Change::Ids(9),
        Change::Topic(topic(1, "orders", TopicState::Live)),
        Change::Partitions(TopicId([1; 16]), [0, 9, 19].into()),
        Change::Topic(TopicEntry { rest: b"more".to_vec(), ..topic(2, "orders", TopicState::Deleting) }),
        Change::Topic(topic(3, "Orders", TopicState::Live)),
        Change::TopicGone(TopicId([3; 16])),
        Change::Producer(producer(8, 1, "outbox")),
        Change::Producer(producer(1, u16::MAX, "\u{fc}")),
        Change::Producer(producer(2, 0, "short")),
        Change::ProducerGone(2),
        Change::Epochs(vec![epoch(1, 9, 4, 100), epoch(1, 9, 5, 100), epoch(2, 0, 1, 7)]),
        Change::Opening(opening()),
        Change::ProducerUsed(8, Timestamp::from_millis(1_700_000_000_000)),
    ]
}

fn example() -> Catalog {
    let mut catalog = Catalog::empty();
    changes().into_iter().for_each(|change| catalog.apply(change).unwrap());
    assert_eq!(catalog.check(), Ok(()));
    catalog
}

/// A file with a snapshot and changes after it, each with its synced position.
fn file(snapshot: &Catalog, changes: &[(Change, u64)]) -> Vec<u8> {
    let mut bytes = snapshot.snapshot(5);
    for (change, synced_upto) in changes {
        encode_change(&mut bytes, 5, 0, *synced_upto, change);
    }
    bytes
}

/// A valid change with any content.
fn raw_change(bytes: &mut Vec<u8>, content: &[u8]) {
    let (position, len) = (bytes.len() as u64, (content.len() as u32).to_le_bytes());
    let crc = crc_of(&[&5u64.to_le_bytes(), &position.to_le_bytes(), &len, content]);
    bytes.extend_from_slice(&CHANGE_MAGIC);
    bytes.extend_from_slice(&len);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(content);
}

fn content(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &0u64.to_le_bytes(), body].concat()
}

#[test]
fn bytes_are_pinned() {
    assert_eq!(
        hex(&Catalog::empty().snapshot(1)),
        "515549505543415402000000000000000000000001000000000000005d000000000000000200000000000000\
         000000000000000000000000000000000c264d5f5143484711000000030ca24d010000000000000000010000\
         0000000000"
    );
    let expected: [&str; 13] = [
        "5143484711000000f3b76ade0140000000000000000900000000000000",
        "5143484744000000cef5e4b30240000000000000000101010101010101010101010101010101140000000068\
         e5cf8b010000066f72646572730200000007000105000000736576656e01000000000000",
        "5143484720000000b5024cc10640000000000000000101010101010101010101010101010100000000010208",
        "514348474c0000009998e5a00240000000000000000202020202020202020202020202020203140000000068\
         e5cf8b010000066f72646572730200000007000105000000736576656e010000000000000000000\
         06d6f7265",
        "51434847440000001981d8860240000000000000000303030303030303030303030303030301140000000068\
         e5cf8b010000064f72646572730200000007000105000000736576656e01000000000000",
        "5143484719000000ac1f239403400000000000000003030303030303030303030303030303",
        "514348471a00000002cfc50b04400000000000000008000000000000000100066f7574626f78",
        "5143484716000000663c44ef0440000000000000000100000000000000ffff02c3bc",
        "51434847190000000c9248dd044000000000000000020000000000000000000573686f7274",
        "51434847110000006a8c08f00540000000000000000200000000000000",
        "514348476d000000543143870840000000000000000300000001010101010101010101010101010101090000\
         0004000000640000000000000001010101010101010101010101010101090000000500000064000000000000\
         000202020202020202020202020202020200000000010000000700000000000000",
        "514348472d000000110dd0a3074000000000000000b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b003000000000000\
         00ffffffffffffffff4d000000",
        "5143484719000000d009a4c880400000000000000008000000000000000068e5cf8b010000",
    ];
    for (change, expected) in changes().iter().zip(expected) {
        let mut bytes = Vec::new();
        encode_change(&mut bytes, 5, 64, 64, change);
        assert_eq!(hex(&bytes), expected, "{change:?}");
    }
}

#[test]
fn a_snapshot_comes_back() {
    for catalog in [Catalog::empty(), example()] {
        let bytes = catalog.snapshot(7);
        let end = bytes.len() as u64;
        let found = ReadCatalog { catalog, number: 7, snapshot_bytes: end, end, torn: 0 };
        assert_eq!(read(&bytes), Ok(found));
    }
}

#[test]
fn changes_add_up_to_what_a_snapshot_says() {
    let mut bytes = Catalog::empty().snapshot(5);
    for change in changes() {
        let synced_upto = bytes.len() as u64;
        encode_change(&mut bytes, 5, 0, synced_upto, &change);
    }
    let found = read(&bytes).unwrap();
    assert_eq!((found.end, found.torn), (bytes.len() as u64, 0));
    assert_eq!(found.catalog, example());
    assert_eq!(read(&found.catalog.snapshot(6)).unwrap().catalog, example());
    // In another number or at another place they say nothing.
    let mut moved = Catalog::empty().snapshot(6);
    let at = moved.len();
    moved.extend_from_slice(&bytes[at..]);
    assert_eq!(read(&moved).unwrap().end, at as u64);
}

#[test]
fn a_topic_keeps_its_files_and_its_name_is_free_when_it_is_deleted() {
    let mut catalog = example();
    let id = TopicId([1; 16]);
    catalog.apply(Change::Topic(topic(1, "orders", TopicState::Deleting))).unwrap();
    assert!(!catalog.is_live(&TopicName::new("orders").unwrap()));
    assert_eq!(catalog.topic(&id).unwrap().with_files, [0, 9, 19].into());
    catalog.apply(Change::Topic(topic(4, "orders", TopicState::Live))).unwrap();
    assert_eq!(catalog.check(), Ok(()));
    catalog.apply(Change::TopicGone(id)).unwrap();
    assert!(catalog.is_live(&TopicName::new("orders").unwrap()) && catalog.topic(&id).is_none());
    assert_eq!(catalog.epochs.len(), 1, "those of the other topic");
    // Two names change places: only at the end it has to be right.
    let mut catalog = Catalog::empty();
    for (id, name) in [(1, "a"), (2, "b"), (1, "b"), (2, "a")] {
        catalog.apply(Change::Topic(topic(id, name, TopicState::Live))).unwrap();
    }
    assert_eq!(catalog.check(), Ok(()));
}

#[test]
fn any_set_of_partitions_comes_back() {
    let mut random = Random(11);
    for round in 0..2_000u32 {
        let (first, spread) = (random.next() as u32 % 5_000, 1 + random.next() as u32 % 300);
        let partitions: BTreeSet<_> =
            (0..round % 40).map(|_| first + random.next() as u32 % spread).collect();
        let mut writer = ByteWriter::bare();
        encode_bits(&partitions, &mut writer);
        let bytes = writer.into_bytes();
        assert!(bytes.len() <= 4 + 2 + spread as usize / 8);
        assert_eq!(decode_bits(&mut ByteReader::new(&bytes)), Ok(partitions));
    }
}

/// In the snapshot every damage is one. After it, nothing but a whole change is taken.
#[test]
fn every_damage_of_a_snapshot_is_noticed() {
    super::super::damage::is_always_noticed(&example().snapshot(5), read);
}

#[test]
fn a_part_of_a_change_is_a_torn_tail_whatever_is_left_of_it() {
    let start = example().snapshot(5).len();
    let bytes = file(&example(), &[(Change::Producer(producer(3, 0, "third")), start as u64)]);
    let whole = read(&bytes).unwrap();
    assert_eq!((whole.end, whole.torn), (bytes.len() as u64, 0));
    for len in start..bytes.len() {
        let found = read(&bytes[..len]).unwrap();
        let torn = (len - start) as u64;
        assert_eq!((found.end, found.torn, &found.catalog), (start as u64, torn, &example()));
    }
    for bit in start * 8..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let found = read(&flipped).unwrap();
        assert_eq!((found.end, found.torn), (start as u64, (bytes.len() - start) as u64), "{bit}");
    }
    let mut zeros = bytes.clone();
    zeros[start..].fill(0);
    let found = read(&zeros).unwrap();
    assert_eq!((found.end, found.torn), (start as u64, 0), "zeros are the end");
}

#[test]
fn a_later_change_that_says_it_was_on_the_medium_makes_it_damage() {
    let start = example().snapshot(5).len();
    let first = Change::Producer(producer(3, 0, "third"));
    let second = Change::Producer(producer(4, 0, "fourth"));
    let between = file(&example(), &[(first.clone(), start as u64)]).len();
    for (synced_upto, is_damage) in [(start, false), (start + 1, true), (between, true)] {
        let changes = [(first.clone(), start as u64), (second.clone(), synced_upto as u64)];
        let bytes = file(&example(), &changes);
        for bit in start * 8..between * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match read(&flipped) {
                Ok(found) => assert!(!is_damage && found.end == start as u64, "{bit}"),
                Err(m) => assert_eq!((m.position, is_damage, m.unsupported), (start as u64, true, None)),
            }
        }
    }
}

#[test]
fn a_file_that_was_longer_when_it_was_put_in_place_is_damaged() {
    let bytes = example().snapshot(5);
    for len in HEADER_BYTES..bytes.len() {
        let mut zeros = bytes.clone();
        zeros[len..].fill(0);
        assert!(read(&bytes[..len]).is_err(), "{len}");
        assert!(zeros == bytes || read(&zeros).is_err(), "{len}");
    }
}

#[test]
fn kinds_that_must_be_understood_refuse_and_others_are_passed_over() {
    let start = example().snapshot(5).len() as u64;
    for kind in 0..=255u8 {
        let mut bytes = example().snapshot(5);
        raw_change(&mut bytes, &content(kind, b"a body of a later release"));
        let content_at = start + 12;
        match kind {
            1..=8 | 128 => assert_eq!(read(&bytes).unwrap_err().unsupported, None),
            0 => assert_eq!(read(&bytes).unwrap_err(), Malformed::new(content_at, "kind")),
            9..=127 => {
                let refused = Malformed::unsupported(content_at, "kind", Unsupported::Change(kind));
                assert_eq!(read(&bytes).unwrap_err(), refused);
            }
            129..=255 => {
                let found = read(&bytes).unwrap();
                assert_eq!((found.end, &found.catalog), (bytes.len() as u64, &example()));
                assert_eq!(found.catalog.snapshot(5).len() as u64, start, "it is gone with the file");
            }
        }
    }
}

#[test]
fn what_a_later_release_lists_refuses_before_anything_else() {
    let refused = |at: usize, value: u8| {
        let mut bytes = example().snapshot(5);
        bytes[at] = value;
        let crc = crc_of(&[&bytes[..60]]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        // Nothing after the header is looked at.
        bytes.truncate(64);
        read(&bytes).unwrap_err()
    };
    assert_eq!(refused(8, 3).unsupported, Some(Unsupported::Version(3)));
    assert_eq!(refused(13, 1).unsupported, Some(Unsupported::Features(256)));
    assert_eq!(refused(36, 3), Malformed::unsupported(36, "listed version", Unsupported::Version(3)));
    assert_eq!(refused(36, 0), Malformed::new(36, "listed version"));
    assert_eq!(refused(40, 2), Malformed::unsupported(40, "listed features", Unsupported::Features(2)));
    assert_eq!(refused(44, 1), Malformed::new(44, "zeros of the header"));
    assert_eq!(refused(59, 1), Malformed::new(44, "zeros of the header"));
}

#[test]
fn bytes_of_a_topic_that_a_later_release_added_are_kept_and_others_refused() {
    let with_rest = TopicEntry { rest: b"later".to_vec(), ..topic(4, "t", TopicState::Live) };
    let bytes = file(&example(), &[(Change::Topic(with_rest.clone()), 0)]);
    let found = read(&bytes).unwrap().catalog;
    assert_eq!(found.topic(&TopicId([4; 16])).unwrap().entry, with_rest);
    assert_eq!(read(&found.snapshot(6)).unwrap().catalog, found);
    for change in changes() {
        let mut writer = ByteWriter::bare();
        change.encode_body(&mut writer);
        let mut body = writer.into_bytes();
        body.push(0);
        let mut bytes = example().snapshot(5);
        raw_change(&mut bytes, &content(change.kind(), &body));
        match change {
            Change::Topic(_) | Change::Partitions(..) => {}
            _ => assert_eq!(read(&bytes).unwrap_err().what, "bytes after the change", "{change:?}"),
        }
    }
}

#[test]
fn what_cannot_be_is_refused_after_the_checksum_too() {
    let wrong = |changes: &[Change]| {
        let mut bytes = example().snapshot(5);
        changes.iter().for_each(|change| encode_change(&mut bytes, 5, 0, 0, change));
        let error = read(&bytes).unwrap_err();
        assert_eq!(error.unsupported, None);
        error.what
    };
    let live = |id, name: &str| Change::Topic(topic(id, name, TopicState::Live));
    let with = |change: fn(&mut TopicEntry)| {
        let mut entry = topic(1, "orders", TopicState::Live);
        change(&mut entry);
        wrong(&[Change::Topic(entry)])
    };
    let named = |id, name: &str| wrong(&[Change::Producer(producer(id, 0, name))]);
    assert_eq!(wrong(&[Change::Ids(8)]), "ids that were given out are taken back");
    assert_eq!(wrong(&[live(4, "orders")]), "two topics with one name");
    assert_eq!(with(|topic| topic.partitions = 0), "number of partitions");
    assert_eq!(with(|topic| topic.partitions = 100_001), "number of partitions");
    assert_eq!(with(|topic| topic.partitions = 19), "files of a partition that is not there");
    assert_eq!(with(|topic| topic.settings[0].tag = 1), "a setting twice");
    let no_topic = TopicId([9; 16]);
    assert_eq!(wrong(&[Change::TopicGone(no_topic)]), "a topic that is not there");
    let files = Change::Partitions(no_topic, [0].into());
    assert_eq!(wrong(&[files]), "files of a topic that is not there");
    assert_eq!(wrong(&[Change::Epochs(vec![epoch(9, 0, 1, 1)])]), "an epoch of a topic that is not there");
    assert_eq!(wrong(&[Change::ProducerGone(7)]), "a producer that is not there");
    assert_eq!(named(0, "x"), "a producer id that was not given out");
    assert_eq!(named(9, "x"), "a producer id that was not given out");
    assert_eq!(named(7, "outbox"), "two producers with one name");
    assert_eq!(named(7, ""), "producer name");
    assert_eq!(named(7, &"n".repeat(250)), "producer name");
    // Byte by byte: where in the body, its new value, and the complaint about it.
    let refused = |change: &Change, at: usize, value: u8| {
        let mut writer = ByteWriter::bare();
        change.encode_body(&mut writer);
        let mut body = writer.into_bytes();
        body[at] = value;
        let mut bytes = example().snapshot(5);
        let start = bytes.len() as u64 + 12 + 9;
        raw_change(&mut bytes, &content(change.kind(), &body));
        let error = read(&bytes).unwrap_err();
        (error.position - start, error.what)
    };
    let topic = live(1, "orders");
    assert_eq!(refused(&topic, 16, 2), (16, "topic state"));
    assert_eq!(refused(&topic, 29, 0), (29, "topic name"));
    assert_eq!(refused(&topic, 30, b'/'), (29, "topic name"));
    assert_eq!(refused(&topic, 39, 0xff), (36, "setting count"));
    assert_eq!(refused(&topic, 42, 2), (42, "setting flags"));
    assert_eq!(refused(&topic, 46, 0xff), (43, "setting"));
    let epochs = Change::Epochs(vec![epoch(1, 9, 4, 100)]);
    assert_eq!(refused(&epochs, 0, 2), (0, "epoch count"));
    let far = Change::Partitions(TopicId([1; 16]), [u32::MAX].into());
    let mut bytes = example().snapshot(5);
    let mut body = [&[1; 16][..], &u32::MAX.to_le_bytes(), &[2]].concat();
    raw_change(&mut bytes, &content(6, &body));
    assert_eq!(read(&bytes).unwrap_err().what, "partitions");
    body[20] = 1;
    assert_eq!(wrong(&[far]), "files of a partition that is not there");
    let mut bytes = example().snapshot(5);
    let upto = bytes.len() as u64 + 13;
    raw_change(&mut bytes, &[&[1][..], &upto.to_le_bytes(), &9u64.to_le_bytes()].concat());
    assert_eq!(read(&bytes).unwrap_err().what, "synced upto");
}

#[test]
fn earlier_numbers_of_partitions_are_kept_and_cost_a_topic_without_them_nothing() {
    let never = topic(4, "t", TopicState::Live);
    let partitions = never.partitions;
    assert!(partitions > 2, "{partitions}");
    let grown = TopicEntry { earlier_partitions: vec![1, partitions - 1], ..never.clone() };
    let both = TopicEntry { rest: b"later".to_vec(), ..grown.clone() };
    let length = |entry: &TopicEntry| file(&example(), &[(Change::Topic(entry.clone()), 0)]).len();
    assert_eq!([&grown, &both].map(|entry| length(entry) - length(&never)), [12, 17]);
    for entry in [grown, both] {
        let found = read(&file(&example(), &[(Change::Topic(entry.clone()), 0)])).unwrap().catalog;
        assert_eq!(found.topic(&TopicId([4; 16])).unwrap().entry, entry);
        assert_eq!(read(&found.snapshot(6)).unwrap().catalog, found);
    }
    for wrong in [vec![0], vec![partitions], vec![2, 1], vec![1, 1], vec![partitions + 1]] {
        let entry = TopicEntry { earlier_partitions: wrong.clone(), ..never.clone() };
        let error = read(&file(&example(), &[(Change::Topic(entry), 0)])).unwrap_err();
        assert_eq!(error.what, "earlier numbers of partitions", "{wrong:?}");
    }
}
