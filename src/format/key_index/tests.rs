use super::super::batch::Secret;
use super::super::damage::Random;
use super::super::key_hash::KeyHasher;
use super::*;

const OF: IndexedSegment = IndexedSegment {
    topic_id: TopicId(*b"0123456789abcdef"),
    partition: PartitionId::new(3),
    base_offset: Offset::new(1_000),
    generation: 4,
    log_epoch: 9,
    covers_bytes: 1 << 20,
};

fn keys(count: usize) -> Vec<Indexed> {
    let hasher = KeyHasher::new(&Secret([7; 16]));
    let mut random = Random(7);
    let mut keys: Vec<_> = (0..count)
        .map(|i| {
            let mut position = 0;
            let places = (0..1 + random.next() % 4).map(|_| {
                position += 100 + (random.next() % 5_000) as u32;
                KeyPlace { position, records: 1 + (random.next() % 300) as u32 }
            });
            let places = places.collect();
            let before = (i % 3 > 0).then_some(i as u64 % 7);
            Indexed { hash: hasher.hash(format!("account-{i}").as_bytes()), before, places }
        })
        .collect();
    keys.sort_unstable_by_key(|key| key.hash);
    keys
}

/// As the log looks a key up, but in memory.
fn look_up(file: &[u8], hash: KeyHash) -> Result<Option<(u32, Indexed)>, Malformed> {
    let get = |range: Range<u64>| file.get(range.start as usize..range.end as usize).unwrap_or(&[]);
    let index = KeyIndex::decode(file)?;
    if index.file_bytes() != file.len() as u64 {
        return Err(Malformed::new(0, "length"));
    }
    let Some(line) = index.filter_line(hash) else { return Ok(None) };
    if !index.may_have(hash, get(line))? {
        return Ok(None);
    }
    let Some(entry) = index.directory_entry(hash) else { return Ok(None) };
    let bucket = index.bucket(get(entry))?;
    let Some(entry) = index.find(&bucket, get(bucket.range.clone()), hash)? else { return Ok(None) };
    let places = index.place_range(&entry).map_or(&[][..], get);
    let places = index.read_places(&entry, places)?;
    Ok(Some((entry.records, Indexed { hash, before: entry.before(), places })))
}

#[test]
fn every_key_is_found_and_hardly_any_other_passes_the_filter() {
    for count in [0, 1, 2, 31, 32, 33, 40, 41, 1_000, 20_000] {
        let keys = keys(count);
        let file = KeyIndex::encode(&OF, &keys).unwrap();
        for key in &keys {
            let records = key.places.iter().map(|place| place.records).sum();
            assert_eq!(look_up(&file, key.hash), Ok(Some((records, key.clone()))));
        }
        let hasher = KeyHasher::new(&Secret([7; 16]));
        let index = KeyIndex::decode(&file).unwrap();
        assert_eq!(index.keys() as usize, count);
        let mut passed = 0;
        for i in 0..10_000 {
            let hash = hasher.hash(format!("stranger-{i}").as_bytes());
            assert_eq!(look_up(&file, hash), Ok(None));
            if let Some(line) = index.filter_line(hash) {
                let line = &file[line.start as usize..line.end as usize];
                passed += usize::from(index.may_have(hash, line).unwrap());
            }
        }
        assert!(passed < 100, "{passed} of 10,000 pass a filter of {count} keys");
    }
}

#[test]
fn bytes_are_pinned() {
    let place = |position, records| KeyPlace { position, records };
    let keys = [
        Indexed { hash: KeyHash(1 << 64 | 2), before: Some(7), places: vec![place(96, 1)] },
        Indexed {
            hash: KeyHash(3 << 120 | 4),
            before: None,
            places: vec![place(96, 2), place(500, 1), place(70_000, 300)],
        },
    ];
    let file = KeyIndex::encode(&OF, &keys).unwrap();
    let hex = |range: Range<usize>| super::super::damage::hex(&file[range]);
    assert_eq!(
        hex(0..88),
        "51554950554b45590200000000000000000000000300000030313233343536373839616263646566\
         e8030000000000000400000000001000000000000200000001000000010000000a00000009000000\
         0000000000000000"
    );
    assert_eq!(
        hex(88..152),
        "000000005eaf40620b00000000000000000000000000000000000000000000000000000000000000\
         000000000000000000000000000000000000000000000000"
    );
    assert_eq!(hex(152..164), "000000003216beda00000000");
    assert_eq!(
        hex(164..244),
        "0200000094d30e6f0200000000000000010000000000000001000000070000000100000060000000\
         0000000000000000040000000000000000000000000000032f010000ffffffff0300000000000000"
    );
    assert_eq!(hex(244..file.len()), "0a0000002b7c08926002940301fc9e04ac02");
}

#[test]
fn all_keys_come_back_bucket_by_bucket() {
    let keys = keys(500);
    let file = KeyIndex::encode(&OF, &keys).unwrap();
    let index = KeyIndex::decode(&file).unwrap();
    let get = |range: Range<u64>| &file[range.start as usize..range.end as usize];
    let mut all = Vec::new();
    for number in 0..index.buckets() {
        let bucket = index.bucket(get(index.directory_at(number))).unwrap();
        for entry in index.all(&bucket, get(bucket.range.clone())).unwrap() {
            let (hash, entry) = entry.unwrap();
            let places = index.place_range(&entry).map_or(&[][..], get);
            let places = index.read_places(&entry, places).unwrap();
            all.push(Indexed { hash, before: entry.before(), places });
        }
    }
    assert_eq!(all, keys);
}

/// Whatever bit is flipped: a lookup says so, or answers as it did before.
#[test]
fn no_damage_makes_an_answer_wrong() {
    let keys = keys(70);
    let file = KeyIndex::encode(&OF, &keys).unwrap();
    let absent = KeyHasher::new(&Secret([7; 16])).hash(b"stranger");
    let expected = keys.iter().map(|key| key.hash).chain([absent]);
    let expected: Vec<_> = expected.map(|hash| (hash, look_up(&file, hash).unwrap())).collect();
    let mut noticed = 0;
    for bit in 0..file.len() * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let mut by_anybody = false;
        for (hash, answer) in expected.iter().step_by(7) {
            match look_up(&damaged, *hash) {
                Ok(found) => assert_eq!(&found, answer, "bit {bit}"),
                Err(_) => by_anybody = true,
            }
        }
        noticed += usize::from(by_anybody);
    }
    assert!(noticed > file.len() * 4, "{noticed}");
    for len in 0..file.len() {
        assert!(look_up(&file[..len], keys[0].hash).is_err());
    }
}

/// Random bytes under valid checksums: no panic, no allocation beyond the bytes, and no place out
/// of the segment.
#[test]
fn a_file_made_up_is_refused_or_harmless() {
    let mut random = Random(11);
    let real = KeyIndex::encode(&OF, &keys(3)).unwrap();
    let index = KeyIndex::decode(&real).unwrap();
    for _ in 0..20_000 {
        let bytes = random.bytes(40);
        let numbers: [u32; 4] = std::array::from_fn(|_| (random.next() % 5) as u32 * 0x3fff_ffff);
        let [records, batches, at, len] = numbers;
        let start = index.places(&KeyEntry { records, before: 0, batches, at, len, crc: 0 }).unwrap();
        let entry =
            KeyEntry { records, before: 0, batches, at, len, crc: piece_crc(index.salt, start, &bytes) };
        if let Ok(places) = index.checked(entry).and_then(|entry| index.read_places(&entry, &bytes)) {
            assert!(places.iter().all(|place| u64::from(place.position) < OF.covers_bytes));
        }
        let _ = index.bucket(&bytes);
    }
    // The second place lies almost 2^64 after the first.
    let mut bytes = vec![100, 1];
    put_varint(&mut bytes, u64::MAX - 7);
    bytes.push(1);
    let mut entry = KeyEntry { records: 2, before: 0, batches: 2, at: 0, len: bytes.len() as u32, crc: 0 };
    entry.crc = piece_crc(index.salt, index.places(&entry).unwrap(), &bytes);
    assert!(index.read_places(&entry, &bytes).is_err());
}

/// Under valid checksums too: the places of a key rise, lie in the covered part, and have a record each.
#[test]
fn places_that_no_segment_can_have_are_refused() {
    let hash = keys(1)[0].hash;
    let read = |places: &[(u32, u32)]| {
        let places = places.iter().map(|&(position, records)| KeyPlace { position, records }).collect();
        let file = KeyIndex::encode(&OF, &[Indexed { hash, before: None, places }]).unwrap();
        look_up(&file, hash).map(|found| found.is_some())
    };
    let last = OF.covers_bytes as u32 - 1;
    assert_eq!(read(&[(96, 1), (97, 1), (last, 1)]), Ok(true));
    for wrong in [[(96, 1), (96, 1)], [(96, 2), (97, 0)], [(96, 1), (last + 1, 1)]] {
        assert_eq!(read(&wrong).unwrap_err().what, "places of a key", "{wrong:?}");
    }
}

/// FORMAT.md: another number of bits would not find the keys of older files.
#[test]
fn a_key_sets_seven_bits_of_its_line() {
    let bits = |low: u64| filter_bits(KeyHash(u128::from(low))).collect::<Vec<_>>();
    assert_eq!(bits(0), [0; 7]);
    assert_eq!(bits(u64::MAX), [479; 7]);
    assert_eq!(bits(0x1ff << 9 | 0x100 << 54), [0, 479, 0, 0, 0, 0, 240]);
}
