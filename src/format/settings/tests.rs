use super::*;
use crate::config::Retention;

fn setting(tag: u16, must: bool, bytes: &[u8]) -> Setting {
    Setting { tag, must, bytes: bytes.to_vec() }
}

#[test]
fn settings_survive_the_catalog() {
    for durability in [
        None,
        Some(Durability::Os),
        Some(Durability::Sync),
        Some(Durability::Interval(Duration::from_millis(7))),
    ] {
        let config = TopicConfig {
            partitions: 3,
            compression: Compression::Lz4,
            durability,
            segment_bytes: 1 << 16,
            segment_age: Duration::from_secs(5),
            max_record_bytes: 999,
            record_limit: RecordLimit::Given,
            index_interval_bytes: 17,
            timestamps: TimestampType::Append,
            timestamp_bounds: TimestampBounds {
                before: Some(Duration::from_millis(3)),
                after: durability.map(|_| Duration::ZERO),
            },
            retention: Retention::for_age(Duration::from_millis(3)).and_bytes(u64::MAX),
            retention_holds: durability.map_or(Vec::new(), |_| vec!["a".repeat(249), "\u{fc}".into()]),
            cleanup: durability.map_or(Cleanup::Compact, |_| Cleanup::CompactAndDelete),
            compaction: CompactionSettings {
                min_dirty_ratio: 1,
                delete_retention: Duration::from_millis(2),
                min_lag: Duration::from_millis(3),
                max_lag: durability.map(|_| Duration::from_millis(4)),
            },
            streams: false,
        };
        assert_eq!(to_config(3, &of_config(&config)), Ok((config, Vec::new())));
    }
    let streams = TopicConfig::streams().partitions(3);
    assert_eq!(to_config(3, &of_config(&streams)), Ok((streams, Vec::new())));
    let kept = TopicConfig::new().cleanup(Cleanup::None);
    assert_eq!(to_config(1, &of_config(&kept)), Ok((kept, Vec::new())));
}

#[test]
fn every_row_has_a_tag_of_its_own_that_is_not_reserved() {
    let tags: std::collections::BTreeSet<_> = ROWS.iter().map(|row| row.tag).collect();
    assert_eq!(tags.len(), ROWS.len());
    assert!(tags.iter().all(|tag| (*tag < 20 || *tag == 22) && ![0, 9, 17].contains(tag)), "{tags:?}");
    let may: Vec<_> = ROWS.iter().filter(|row| !row.must).map(|row| row.tag).collect();
    let level: &[u16] = if cfg!(feature = "zstd") { &[22] } else { &[] };
    assert_eq!(may, [&[1, 2, 3, 5, 13, 15, 16], level].concat());
}

#[test]
fn a_setting_that_must_be_understood_and_is_not_is_refused_by_its_tag() {
    for tag in (0..=30).chain([60_000]) {
        assert_eq!(to_config(1, &[setting(tag, true, &[9; 3])]), Err(tag));
    }
    for (tag, bytes) in [
        (2, &100u32.to_le_bytes()[..]),
        (3, &[0; 8]),
        (4, &[0; 4]),
        (5, &[0; 4]),
        (6, &[1, 0, 0, 0, 0, 0, 0, 0, 0]),
        (13, &1_000_001u32.to_le_bytes()),
        (18, &[0]),
        (19, &[0]),
    ] {
        assert_eq!(to_config(1, &[setting(tag, true, bytes)]), Err(tag), "out of bounds");
        assert_eq!(to_config(1, &[setting(tag, false, bytes)]), Ok((TopicConfig::new(), vec![tag])));
    }
    assert_eq!(to_config(0, &[]), Err(TAG_CLEANUP));
    let streams = [setting(18, true, &[1])];
    assert_eq!(to_config(1, &streams), Err(TAG_CLEANUP), "each may be, both may not");
}

#[test]
fn a_setting_that_may_be_ignored_is_and_is_kept_until_it_is_given_another_value() {
    let codec = setting(1, false, &[3]);
    let unknown = setting(0x7777, false, b"later");
    let mut old = of_config(&TopicConfig::new().max_record_bytes(5_000));
    old.retain(|setting| setting.tag != 1);
    old.extend([codec.clone(), unknown.clone()]);
    let (seen, ignored) = to_config(1, &old).unwrap();
    assert_eq!((&seen, &ignored[..]), (&TopicConfig::new().max_record_bytes(5_000), &[1, 0x7777][..]));
    let next = seen.clone().segment_bytes(1 << 20);
    let merged = merge(&seen, &next, &old, &ignored);
    assert!(merged.contains(&codec) && merged.contains(&unknown));
    assert_eq!(merged.iter().filter(|setting| setting.tag == 1).count(), 1);
    assert_eq!(to_config(1, &merged), Ok((next, ignored.clone())));
    let next = seen.clone().compression(Compression::Lz4);
    let merged = merge(&seen, &next, &old, &ignored);
    assert!(merged.contains(&setting(1, false, &[1])) && merged.contains(&unknown));
    assert!(!merged.contains(&codec));
}
#[test]
fn zstd_is_stored_as_its_number_and_a_level_and_kept_by_a_build_without_it() {
    let level = |level: i32| setting(22, false, &level.to_le_bytes());
    let old = [level(7), setting(1, false, &[2])];
    let (seen, ignored) = to_config(1, &old).unwrap();
    #[cfg(feature = "zstd")]
    {
        let zstd = |level| TopicConfig::new().compression(Compression::Zstd { level });
        assert_eq!((&seen, &ignored[..]), (&zstd(7), &[][..]), "in whatever order they are");
        assert!(of_config(&zstd(-7)).contains(&level(-7)));
        for stated in [-7, 0, 19] {
            assert_eq!(to_config(1, &of_config(&zstd(stated))), Ok((zstd(stated), Vec::new())));
        }
        assert_eq!(to_config(1, &old[1..]), Ok((zstd(3), Vec::new())));
        for wrong in [level(-8), level(20), setting(22, false, &[7])] {
            assert_eq!(to_config(1, &[old[1].clone(), wrong]), Ok((zstd(3), vec![22])));
        }
        // With a codec that has no levels it is understood, and gone with the next change.
        let lz4 = TopicConfig::new().compression(Compression::Lz4);
        assert_eq!(to_config(1, &[setting(1, false, &[1]), level(7)]), Ok((lz4, Vec::new())));
    }
    #[cfg(not(feature = "zstd"))]
    {
        assert_eq!((&seen, &ignored[..]), (&TopicConfig::new(), &[1, 22][..]));
        let merged = merge(&seen, &seen.clone().segment_bytes(1 << 20), &old, &ignored);
        assert!(old.iter().all(|setting| merged.contains(setting)));
    }
}

/// Also if a file has the settings in another order.
#[test]
fn a_record_limit_that_was_not_given_follows_the_segment_size_after_it_was_read() {
    let config = || TopicConfig::new().segment_bytes(1 << 20);
    for (config, follows) in [(config(), true), (config().max_record_bytes(1_000), false)] {
        let mut settings = of_config(&config);
        for _ in 0..2 {
            let (read, _) = to_config(1, &settings).unwrap();
            assert_eq!(read.max_record_bytes, config.max_record_bytes);
            let limit = read.segment_bytes(1 << 16).max_record_bytes;
            let expected = if follows { default_record_bytes(1 << 16) } else { 1_000 };
            assert_eq!(limit, expected, "{settings:?}");
            settings.reverse();
        }
    }
}
