use super::super::damage::{self, hex};
use super::*;
use crate::format::reader::Unsupported;

fn segment(base_offset: u64, state: SegmentState, end_offset: u64) -> SegmentEntry {
    let active = state == SegmentState::Active;
    SegmentEntry {
        base_offset: Offset::new(base_offset),
        generation: 1,
        log_epoch: 2,
        state,
        size: if active { 0 } else { 4_096 },
        end_offset: Offset::new(end_offset),
        last_crc: if active { 0 } else { 0xdead_beef },
        max_timestamp: if active { i64::MIN } else { 1_700_000_000_000 },
        digest: Digest(if active { 0 } else { 0x0102_0304_0506_0708 }),
    }
}

#[test]
fn of_the_epochs_those_are_kept_that_say_something() {
    let mut manifest = Manifest { log_start: Offset::ZERO, ..example() };
    let starts = |manifest: &Manifest| -> Vec<(u32, u64)> {
        manifest.epochs.iter().map(|epoch| (epoch.epoch, epoch.start.get())).collect()
    };
    manifest.begin_epoch(Offset::new(120));
    assert_eq!(starts(&manifest), [(0, 0), (2, 90), (3, 120)]);
    manifest.begin_epoch(Offset::new(90));
    assert_eq!(starts(&manifest), [(0, 0), (4, 90)]);
    manifest.log_start = Offset::new(95);
    manifest.begin_epoch(Offset::new(200));
    assert_eq!(starts(&manifest), [(4, 90), (5, 200)]);
    manifest.begin_epoch(Offset::ZERO);
    assert_eq!(starts(&manifest), [(6, 0)]);
}

fn example() -> Manifest {
    Manifest {
        topic_id: TopicId(*b"0123456789abcdef"),
        partition: PartitionId::new(3),
        secret: Secret(*b"a secret, random"),
        log_start: Offset::new(15),
        epochs: vec![
            EpochStart { epoch: 0, start: Offset::ZERO },
            EpochStart { epoch: 2, start: Offset::new(90) },
        ],
        segments: vec![
            segment(10, SegmentState::Synced, 20),
            segment(30, SegmentState::Sealed, 100),
            segment(100, SegmentState::Active, 0),
        ],
        lost: Vec::new(),
        has_successors: false,
    }
}

#[test]
fn lost_ranges_come_back_and_cost_nothing_where_there_are_none() {
    let range = |from, to| LostRange { from: Offset::new(from), to: Offset::new(to) };
    let mut manifest = example();
    let bare = manifest.encode().len();
    for (from, to) in [(70, 80), (20, 25), (25, 30), (75, 85), (5, 5)] {
        manifest.add_lost(range(from, to));
    }
    assert_eq!(manifest.lost, [range(20, 30), range(70, 85)]);
    let bytes = manifest.encode();
    assert_eq!((bytes.len(), bytes[16]), (bare + 8 + 2 * LOST_BYTES, 1));
    assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
    damage::is_always_noticed(&bytes, Manifest::decode);

    manifest.clip_lost(Offset::new(22), Offset::new(75));
    assert_eq!(manifest.lost, [range(22, 30), range(70, 75)]);
    manifest.clip_lost(Offset::new(30), Offset::new(70));
    assert_eq!(manifest, example());

    let wrong = |lost: Vec<LostRange>| Manifest { lost, ..example() }.check();
    assert_eq!(wrong(vec![range(5, 5)]), Err("order of the lost ranges"));
    assert_eq!(wrong(vec![range(5, 9), range(9, 10)]), Err("order of the lost ranges"));
}

#[test]
fn bytes_are_pinned() {
    assert_eq!(
        hex(&example().encode()),
        "51554950554d414e0200000000000000000000000300000030313233343536373839616263646566\
         61207365637265742c2072616e646f6d02000000000000000f00000000000000020000000c000000\
         000000000000000000000000020000005a0000000000000003000000350000000a00000000000000\
         01000000020000000300100000000000001400000000000000efbeadde0068e5cf8b010000080706\
         05040302011e0000000000000001000000020000000200100000000000006400000000000000efbe\
         adde0068e5cf8b010000080706050403020164000000000000000100000002000000010000000000\
         000000000000000000000000000000000000000000008000000000000000008b25466a"
    );
}

#[test]
fn a_manifest_comes_back() {
    assert_eq!(Manifest::decode(&example().encode()), Ok(example()));
    assert_eq!(example().epoch(), 2);
    let bare = Manifest { segments: Vec::new(), ..example() };
    assert_eq!(Manifest::decode(&bare.encode()), Ok(bare.clone()));
    assert_eq!(bare.encode().len(), FIXED_BYTES + 2 * EPOCH_BYTES);
    assert_eq!(bare.encode().len(), bare.encoded_len());
}

#[test]
fn every_damage_is_noticed() {
    damage::is_always_noticed(&example().encode(), Manifest::decode);
}

#[test]
fn what_cannot_be_a_log_is_refused() {
    let wrong = |change: fn(&mut Manifest)| {
        let mut manifest = example();
        change(&mut manifest);
        manifest.check().unwrap_err()
    };
    assert_eq!(wrong(|m| m.epochs.clear()), "no log epoch");
    assert_eq!(wrong(|m| m.epochs[1].epoch = 0), "order of the log epochs");
    assert_eq!(wrong(|m| m.segments.swap(1, 2)), "order of the segments");
    assert_eq!(wrong(|m| m.segments.swap(0, 1)), "order of the segments");
    assert_eq!(wrong(|m| m.segments[0].end_offset = Offset::new(31)), "order of the segments");
    assert_eq!(wrong(|m| m.segments[0] = m.segments[1]), "order of the segments");
    assert_eq!(wrong(|m| m.segments.push(segment(200, SegmentState::Active, 0))), "order of the segments");
    assert_eq!(wrong(|m| m.segments[1].end_offset = Offset::new(29)), "end of a segment");
    assert_eq!(wrong(|m| m.segments[1].size = 95), "end of a segment");
    assert_eq!(wrong(|m| m.segments[2].size = 96), "end of a segment");
    assert_eq!(wrong(|m| m.segments[2].end_offset = Offset::new(100)), "end of a segment");
}

#[test]
fn the_checks_stand_behind_the_crc_too() {
    let epochs = FIXED_BYTES - 4 - 2 * 4 - 2 * 4;
    let at_lists = epochs as u64;
    let bytes = damage::resealed(&example().encode(), |bytes| bytes[epochs + 8 + EPOCH_BYTES] = 0);
    assert_eq!(Manifest::decode(&bytes), Err(Malformed::new(at_lists, "order of the log epochs")));
    let state = epochs + 8 + 2 * EPOCH_BYTES + 8 + 16;
    for value in [0, 5, 255] {
        let bytes = damage::resealed(&example().encode(), |bytes| bytes[state] = value);
        assert_eq!(Manifest::decode(&bytes), Err(Malformed::new(state as u64, "segment state")));
    }
    let bytes = damage::resealed(&example().encode(), |bytes| bytes[epochs..epochs + 4].fill(0xff));
    assert_eq!(Manifest::decode(&bytes), Err(Malformed::new(at_lists, "epoch count")));
}

#[test]
fn a_manifest_that_leads_to_newer_files_says_what_they_need() {
    let listed = 20 + 4 + 16 + 16;
    let bytes = damage::resealed(&example().encode(), |bytes| bytes[listed] = 3);
    assert_eq!(Manifest::decode(&bytes).unwrap_err().unsupported, Some(Unsupported::Version(3)));
    let bytes = damage::resealed(&example().encode(), |bytes| bytes[listed + 5] = 1);
    assert_eq!(Manifest::decode(&bytes).unwrap_err().unsupported, Some(Unsupported::Features(0x100)));
}

#[test]
fn fields_that_a_compatible_feature_adds_are_ignored() {
    let grow = |bytes: &mut Vec<u8>| {
        // A compatible feature; entries of two bytes more; four bytes after the last of them.
        bytes[16] = 2;
        let at = FIXED_BYTES - 4 - 2 * 4 - 2 * 4;
        let (head, lists) = bytes.split_at(at);
        let mut grown = head.to_vec();
        let mut rest = lists;
        for known in [EPOCH_BYTES, SEGMENT_BYTES] {
            let count = u32::from_le_bytes(rest[..4].try_into().unwrap());
            grown.extend(count.to_le_bytes());
            grown.extend((known as u32 + 2).to_le_bytes());
            for entry in rest[8..8 + count as usize * known].chunks(known) {
                grown.extend_from_slice(entry);
                grown.extend([7, 7]);
            }
            rest = &rest[8 + count as usize * known..];
        }
        grown.extend([9; 4]);
        *bytes = grown;
    };
    let bytes = damage::resealed(&example().encode(), grow);
    assert_eq!(Manifest::decode(&bytes), Ok(example()));
    // Without the feature they are damage.
    let bytes = damage::resealed(&bytes, |bytes| bytes[16] = 0);
    assert!(Manifest::decode(&bytes).is_err());
}

#[test]
fn an_epoch_that_is_moved_behind_a_batch_leaves_the_batchs_own() {
    let list = |list: &[(u32, u64)]| {
        let start = |&(epoch, start): &(u32, u64)| EpochStart { epoch, start: Offset::new(start) };
        list.iter().map(start).collect::<Vec<_>>()
    };
    let header = BatchHeader {
        log_epoch: 1,
        base_offset: Offset::new(100),
        last_offset_delta: 9,
        ..BatchHeader::default()
    };
    let moved = |epochs| {
        let mut manifest = Manifest { epochs, ..example() };
        manifest.move_last_epoch_behind(&header);
        manifest.epochs
    };
    // Epoch 1 began at 100 with this batch, and the truncation to 100 had replaced it.
    assert_eq!(moved(list(&[(0, 0), (2, 100)])), list(&[(0, 0), (1, 100), (2, 110)]));
    // The epoch started before: it is still there.
    assert_eq!(moved(list(&[(0, 0), (1, 90), (2, 100)])), list(&[(0, 0), (1, 90), (2, 110)]));
}

#[test]
fn a_batch_fits_the_epoch_that_its_offset_is_of() {
    let epochs = |list: &[(u32, u64)]| Manifest {
        epochs: list.iter().map(|&(epoch, start)| EpochStart { epoch, start: Offset::new(start) }).collect(),
        ..example()
    };
    let fits = |manifest: &Manifest, segment: u32, base: u64, epoch: u32| {
        let header =
            BatchHeader { log_epoch: epoch, base_offset: Offset::new(base), ..BatchHeader::default() };
        manifest.fits_epoch(segment, &header)
    };
    let manifest = epochs(&[(0, 0), (3, 100), (4, 200)]);
    for (segment, base, epoch, expected) in [
        (0, 0, 0, true),
        (0, 99, 0, true),
        (0, 100, 0, false),
        (0, 100, 3, true),
        (0, 200, 3, false),
        (0, 200, 4, true),
        (0, 0, 3, false),
        // The first batch of a segment that a truncation began may lie before it: written again
        // with fewer records.
        (4, 190, 4, true),
        (4, 190, 3, false),
    ] {
        assert_eq!(fits(&manifest, segment, base, epoch), expected, "{segment} {base} {epoch}");
    }
    // Before the oldest epoch that is remembered.
    let manifest = epochs(&[(3, 100)]);
    for (epoch, expected) in [(0, false), (1, true), (2, true), (3, true), (4, false)] {
        assert_eq!(fits(&manifest, 1, 50, epoch), expected, "{epoch}");
    }
}
