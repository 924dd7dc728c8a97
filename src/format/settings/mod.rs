//! The settings of a topic as the catalog stores them: for each a tag and bytes, from one table.
//!
//! If a build does not know a setting that must be understood, or its value, it must not open the
//! broker, because a guess could lose records. For a setting that may be ignored the default is
//! used, and its bytes are kept for the release that knows it.

use std::time::Duration;

use super::envelope::ByteWriter;
use super::reader::{ByteReader, Malformed};
use crate::config::{
    Cleanup, CompactionSettings, Compression, Durability, RecordLimit, TimestampBounds, TimestampType,
    TopicConfig, default_record_bytes, millis,
};

/// A setting as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The setting. A tag is never used again for another meaning.
    pub(crate) tag: u16,
    /// Whether a build that does not know the tag, or the value, must not open the broker.
    pub(crate) must: bool,
    pub(crate) bytes: Vec<u8>,
}

/// One kind of setting.
struct Row {
    tag: u16,
    must: bool,
    /// Returns the value's bytes, or `None` if it is the default and not stored.
    get: fn(&TopicConfig) -> Option<Vec<u8>>,
    /// Returns `None` if the bytes are no value of this setting.
    set: fn(&mut TopicConfig, &[u8]) -> Option<()>,
}

/// Returns the settings of a topic, in the order of the table.
pub(crate) fn of_config(config: &TopicConfig) -> Vec<Setting> {
    let setting = |row: &Row| {
        let bytes = (row.get)(config)?;
        Some(Setting { tag: row.tag, must: row.must, bytes })
    };
    ROWS.iter().filter_map(setting).collect()
}

/// Returns the configuration that `settings` make, and the tags of those that this build does not
/// understand and may ignore.
///
/// # Errors
/// The tag of a setting that must be understood, if this build does not know it or its value.
pub(crate) fn to_config(partitions: u32, settings: &[Setting]) -> Result<(TopicConfig, Vec<u16>), u16> {
    let mut config = TopicConfig::new().partitions(partitions);
    let mut ignored = Vec::new();
    // The meaning of a setting may depend on one with a lower tag.
    let mut settings: Vec<&Setting> = settings.iter().collect();
    settings.sort_by_key(|setting| setting.tag);
    for setting in settings {
        match row(setting.tag).and_then(|row| with(&config, row, &setting.bytes)) {
            Some(next) => config = next,
            None if setting.must => return Err(setting.tag),
            None => ignored.push(setting.tag),
        }
    }
    // Each setting is plausible by itself, but two may exclude each other.
    if config.validate().is_err() { Err(TAG_CLEANUP) } else { Ok((config, ignored)) }
}

/// Returns the settings of a topic whose configuration changes from `seen` to `next`: those of
/// `old` that were ignored are kept, unless the change gives them another value.
pub(crate) fn merge(
    seen: &TopicConfig,
    next: &TopicConfig,
    old: &[Setting],
    ignored: &[u16],
) -> Vec<Setting> {
    let is_kept = |setting: &&Setting| {
        let is_same = |row: &Row| (row.get)(seen) == (row.get)(next);
        ignored.contains(&setting.tag) && row(setting.tag).is_none_or(is_same)
    };
    let kept: Vec<_> = old.iter().filter(is_kept).cloned().collect();
    let mut settings = of_config(next);
    settings.retain(|setting| kept.iter().all(|kept| kept.tag != setting.tag));
    settings.extend(kept);
    settings
}

/// Writes a list of settings.
pub(super) fn encode(settings: &[Setting], writer: &mut ByteWriter) {
    writer.count(settings.len());
    for Setting { tag, must, bytes } in settings {
        writer.u16(*tag);
        writer.u8(u8::from(*must));
        writer.count(bytes.len());
        writer.bytes(bytes);
    }
}

/// Reads a list of settings, whatever their tags and values are.
pub(super) fn decode(reader: &mut ByteReader<'_>) -> Result<Vec<Setting>, Malformed> {
    let count = reader.count(SETTING_BYTES_MIN, "setting count")?;
    let mut settings = Vec::with_capacity(count);
    for _ in 0..count {
        let tag = reader.u16("setting tag")?;
        let at_flags = *reader;
        let must = match reader.u8("setting flags")? {
            0 => false,
            1 => true,
            _ => return Err(at_flags.malformed("setting flags")),
        };
        let len = reader.count(1, "setting")?;
        settings.push(Setting { tag, must, bytes: reader.take(len, "setting")?.to_vec() });
    }
    Ok(settings)
}

fn row(tag: u16) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.tag == tag)
}

/// Returns the configuration with one more setting, or `None` if the bytes are no value of it, or
/// out of its bounds.
fn with(config: &TopicConfig, row: &Row, bytes: &[u8]) -> Option<TopicConfig> {
    let mut alone = TopicConfig::new();
    (row.set)(&mut alone, bytes)?;
    alone.validate_bounds().ok()?;
    let mut next = config.clone();
    (row.set)(&mut next, bytes)?;
    Some(next)
}

/// Bytes of an empty setting.
const SETTING_BYTES_MIN: usize = 2 + 1 + 4;
const TAG_CLEANUP: u16 = 12;
#[cfg(feature = "zstd")]
const TAG_LEVEL: u16 = 22;

/// All settings. Tags 9 and 17 are not used. Reserved for later releases: 20 copies (u8), 21 block
/// bytes (u32), 23 encryption.
const ROWS: &[Row] = &[
    Row {
        tag: 1,
        must: false,
        get: |config| Some(vec![codec_of(config.compression)]),
        set: |config, bytes| {
            let all = [
                Compression::None,
                Compression::Lz4,
                #[cfg(feature = "zstd")]
                Compression::Zstd { level: Compression::ZSTD_LEVEL },
            ];
            put(&mut config.compression, one_of(bytes, &all))
        },
    },
    Row {
        tag: 2,
        must: false,
        get: |config| Some(config.segment_bytes.to_le_bytes().to_vec()),
        set: |config, bytes| put(&mut config.segment_bytes, u32_of(bytes)),
    },
    Row {
        tag: 3,
        must: false,
        get: |config| Some(millis_bytes(config.segment_age)),
        set: |config, bytes| put(&mut config.segment_age, duration_of(bytes)),
    },
    Row {
        tag: 4,
        must: true,
        get: |config| Some(config.max_record_bytes.to_le_bytes().to_vec()),
        set: set_record_bytes,
    },
    Row {
        tag: 5,
        must: false,
        get: |config| Some(config.index_interval_bytes.to_le_bytes().to_vec()),
        set: |config, bytes| put(&mut config.index_interval_bytes, u32_of(bytes)),
    },
    Row { tag: 6, must: true, get: get_durability, set: set_durability },
    Row {
        tag: 7,
        must: true,
        get: |config| config.retention.age.map(millis_bytes),
        set: |config, bytes| put(&mut config.retention.age, duration_of(bytes).map(Some)),
    },
    Row {
        tag: 8,
        must: true,
        get: |config| config.retention.bytes.map(|bytes| bytes.to_le_bytes().to_vec()),
        set: |config, bytes| put(&mut config.retention.bytes, u64_of(bytes).map(Some)),
    },
    Row {
        tag: 10,
        must: true,
        get: |config| Some(vec![config.timestamps as u8]),
        set: |config, bytes| {
            config.timestamps = one_of(bytes, &[TimestampType::Create, TimestampType::Append])?;
            Some(())
        },
    },
    Row {
        tag: 11,
        must: true,
        get: |config| Some(bounds_bytes(config.timestamp_bounds)),
        set: |config, bytes| put(&mut config.timestamp_bounds, bounds_of(bytes)),
    },
    Row {
        tag: TAG_CLEANUP,
        must: true,
        get: |config| (config.cleanup != Cleanup::Delete).then(|| vec![config.cleanup as u8]),
        set: |config, bytes| {
            let all = [Cleanup::Delete, Cleanup::Compact, Cleanup::CompactAndDelete, Cleanup::None];
            put(&mut config.cleanup, one_of(bytes, &all))
        },
    },
    Row {
        tag: 13,
        must: false,
        get: |config| {
            let ratio = config.compaction.min_dirty_ratio;
            (ratio != CompactionSettings::default().min_dirty_ratio).then(|| ratio.to_le_bytes().to_vec())
        },
        set: |config, bytes| put(&mut config.compaction.min_dirty_ratio, u32_of(bytes)),
    },
    Row {
        tag: 14,
        must: true,
        get: |config| {
            let retention = config.compaction.delete_retention;
            (retention != CompactionSettings::default().delete_retention).then(|| millis_bytes(retention))
        },
        set: |config, bytes| put(&mut config.compaction.delete_retention, duration_of(bytes)),
    },
    Row {
        tag: 15,
        must: false,
        get: |config| {
            let lag = config.compaction.min_lag;
            (lag != CompactionSettings::default().min_lag).then(|| millis_bytes(lag))
        },
        set: |config, bytes| put(&mut config.compaction.min_lag, duration_of(bytes)),
    },
    Row {
        tag: 16,
        must: false,
        get: |config| config.compaction.max_lag.map(millis_bytes),
        set: |config, bytes| put(&mut config.compaction.max_lag, duration_of(bytes).map(Some)),
    },
    Row {
        tag: 18,
        must: true,
        get: |config| config.streams.then(|| vec![1]),
        set: |config, bytes| put(&mut config.streams, (bytes == [1]).then_some(true)),
    },
    Row {
        tag: 19,
        must: true,
        get: |config| (!config.retention_holds.is_empty()).then(|| names_to_bytes(&config.retention_holds)),
        set: |config, bytes| put(&mut config.retention_holds, names_from_bytes(bytes)),
    },
    #[cfg(feature = "zstd")]
    Row { tag: TAG_LEVEL, must: false, get: get_level, set: set_level },
];

/// The number of setting 1: that of the codec.
fn codec_of(compression: Compression) -> u8 {
    match compression {
        Compression::None => 0,
        Compression::Lz4 => 1,
        #[cfg(feature = "zstd")]
        Compression::Zstd { .. } => 2,
    }
}

#[cfg(feature = "zstd")]
fn get_level(config: &TopicConfig) -> Option<Vec<u8>> {
    match config.compression {
        Compression::Zstd { level } => Some(level.to_le_bytes().to_vec()),
        _ => None,
    }
}

/// IMPORTANT: after the setting that names the codec, which [`to_config`] ensures. With a codec
/// that has no levels the value is checked and not used.
#[cfg(feature = "zstd")]
fn set_level(config: &mut TopicConfig, bytes: &[u8]) -> Option<()> {
    let stated = Compression::Zstd { level: bytes.try_into().ok().map(i32::from_le_bytes)? };
    stated.validate().ok()?;
    if matches!(config.compression, Compression::Zstd { .. }) {
        config.compression = stated;
    }
    Some(())
}

/// IMPORTANT: after the setting of the segment size, which [`to_config`] ensures.
fn set_record_bytes(config: &mut TopicConfig, bytes: &[u8]) -> Option<()> {
    config.max_record_bytes = u32_of(bytes)?;
    let is_default = config.max_record_bytes == default_record_bytes(config.segment_bytes);
    config.record_limit = if is_default { RecordLimit::FollowsSegment } else { RecordLimit::Given };
    Some(())
}

fn get_durability(config: &TopicConfig) -> Option<Vec<u8>> {
    let (kind, every) = match config.durability? {
        Durability::Os => (0u8, 0),
        Durability::Interval(every) => (1, millis(every)),
        Durability::Sync => (2, 0),
    };
    Some([&[kind][..], &every.to_le_bytes()].concat())
}

fn set_durability(config: &mut TopicConfig, bytes: &[u8]) -> Option<()> {
    let (kind, every) = bytes.split_first()?;
    let every = duration_of(every)?;
    config.durability = Some(match kind {
        0 => Durability::Os,
        1 => Durability::Interval(every),
        2 => Durability::Sync,
        _ => return None,
    });
    Some(())
}

/// Two durations in milliseconds; `u64::MAX` is "no bound".
fn bounds_bytes(bounds: TimestampBounds) -> Vec<u8> {
    let bound = |bound: Option<Duration>| bound.map_or(u64::MAX, millis).to_le_bytes();
    [bound(bounds.before), bound(bounds.after)].concat()
}

fn bounds_of(bytes: &[u8]) -> Option<TimestampBounds> {
    let (before, after) = bytes.split_first_chunk::<8>()?;
    let bound = |millis| (millis != u64::MAX).then(|| Duration::from_millis(millis));
    Some(TimestampBounds { before: bound(u64::from_le_bytes(*before)), after: bound(u64_of(after)?) })
}

fn put<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

/// Returns the value whose number is the one byte.
fn one_of<T: Copy>(bytes: &[u8], values: &[T]) -> Option<T> {
    match bytes {
        [number] => values.get(usize::from(*number)).copied(),
        _ => None,
    }
}

fn millis_bytes(duration: Duration) -> Vec<u8> {
    millis(duration).to_le_bytes().to_vec()
}

fn duration_of(bytes: &[u8]) -> Option<Duration> {
    u64_of(bytes).map(Duration::from_millis)
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_le_bytes)
}

fn u64_of(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// Each name with its length before it. The name of a group has at most 249 bytes.
fn names_to_bytes(names: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        debug_assert!(u8::try_from(name.len()).is_ok(), "the name of a group has {} bytes", name.len());
        bytes.push(name.len() as u8);
        bytes.extend_from_slice(name.as_bytes());
    }
    bytes
}

fn names_from_bytes(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    while let Some((len, rest)) = bytes.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(*len))?;
        names.push(String::from_utf8(name.to_vec()).ok()?);
        bytes = rest;
    }
    Some(names)
}

#[cfg(test)]
mod tests;
