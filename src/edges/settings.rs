//! The settings as serde stores them: the names of the setters, durations in milliseconds, and the
//! default for each setting that is left out.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::{
    BrokerConfig, Cleanup, Compression, Durability, ReadMode, RecordLimit, Retention, TimestampType,
    TopicConfig, millis,
};
use crate::producer::ProducerConfig;

/// Implements both directions through a form.
macro_rules! through {
    ($($name:ty, $form:ty, $doc:literal;)*) => {$(
        #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
        #[doc = $doc]
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                <$form>::from(self).serialize(serializer)
            }
        }

        #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
        #[doc = $doc]
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$form>::deserialize(deserializer).map(<$name>::from)
            }
        }
    )*};
}

through! {
    TopicConfig, StoredTopicConfig, "The settings by the names of their setters, durations in milliseconds with the \
     suffix `_ms`. A setting that is left out has its default, and an unknown one is an error. The values are \
     checked where the settings are used.";
    BrokerConfig, StoredBrokerConfig, "The settings by the names of their setters, durations in milliseconds with the \
     suffix `_ms`. A setting that is left out has its default, and an unknown one is an error. The clock and \
     the event listener are code, and are left out.";
    ProducerConfig, StoredProducerConfig, "The settings by the names of their setters, durations in milliseconds with \
     the suffix `_ms`. A setting that is left out has its default, and an unknown one is an error. The \
     partitioner is code, and is left out.";
    Durability, DurabilityForm, "`\"os\"`, `\"sync\"` or `{\"interval_ms\": 100}`.";
    Retention, RetentionForm, "For example `{\"age_ms\": 60000, \"bytes\": null}`.";
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DurabilityForm {
    Os,
    Sync,
    IntervalMs(u64),
}

impl From<&Durability> for DurabilityForm {
    fn from(durability: &Durability) -> Self {
        match *durability {
            Durability::Os => DurabilityForm::Os,
            Durability::Sync => DurabilityForm::Sync,
            Durability::Interval(every) => DurabilityForm::IntervalMs(millis(every)),
        }
    }
}

impl From<DurabilityForm> for Durability {
    fn from(form: DurabilityForm) -> Self {
        match form {
            DurabilityForm::Os => Durability::Os,
            DurabilityForm::Sync => Durability::Sync,
            DurabilityForm::IntervalMs(every) => Durability::Interval(Duration::from_millis(every)),
        }
    }
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RetentionForm {
    age_ms: Option<u64>,
    bytes: Option<u64>,
}

impl From<&Retention> for RetentionForm {
    fn from(retention: &Retention) -> Self {
        RetentionForm { age_ms: retention.age().map(millis), bytes: retention.bytes() }
    }
}

impl From<RetentionForm> for Retention {
    fn from(form: RetentionForm) -> Self {
        Retention { age: form.age_ms.map(Duration::from_millis), bytes: form.bytes }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StoredTopicConfig {
    streams: bool,
    partitions: u32,
    compression: Compression,
    /// `None`: the broker's.
    durability: Option<Durability>,
    segment_bytes: u32,
    /// `None`: the default of the kind of topic, which is another one for streams.
    segment_age_ms: Option<u64>,
    /// `None`: it follows from the size of a segment.
    max_record_bytes: Option<u32>,
    index_interval_bytes: u32,
    timestamps: TimestampType,
    timestamp_bounds: BoundsForm,
    retention: Retention,
    retention_holds_for: Vec<String>,
    /// `None`: the default of the kind of topic.
    cleanup: Option<Cleanup>,
    min_cleanable_dirty_ratio: f64,
    delete_retention_ms: u64,
    min_compaction_lag_ms: u64,
    max_compaction_lag_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BoundsForm {
    before_ms: Option<u64>,
    after_ms: Option<u64>,
}

impl Default for BoundsForm {
    fn default() -> Self {
        BoundsForm::from(&TopicConfig::new())
    }
}

impl From<&TopicConfig> for BoundsForm {
    fn from(config: &TopicConfig) -> Self {
        let (before, after) = config.get_timestamp_bounds();
        BoundsForm { before_ms: before.map(millis), after_ms: after.map(millis) }
    }
}

impl Default for StoredTopicConfig {
    fn default() -> Self {
        let mut stored = StoredTopicConfig::from(&TopicConfig::new());
        (stored.segment_age_ms, stored.cleanup) = (None, None);
        stored
    }
}

impl From<&TopicConfig> for StoredTopicConfig {
    fn from(config: &TopicConfig) -> Self {
        let is_given = matches!(config.record_limit, RecordLimit::Given);
        StoredTopicConfig {
            streams: config.has_streams(),
            partitions: config.get_partitions(),
            compression: config.get_compression(),
            durability: config.get_durability(),
            segment_bytes: config.get_segment_bytes(),
            segment_age_ms: Some(millis(config.get_segment_age())),
            max_record_bytes: is_given.then(|| config.get_max_record_bytes()),
            index_interval_bytes: config.get_index_interval_bytes(),
            timestamps: config.get_timestamps(),
            timestamp_bounds: BoundsForm::from(config),
            retention: config.get_retention(),
            retention_holds_for: config.get_retention_holds_for().to_vec(),
            cleanup: Some(config.get_cleanup()),
            min_cleanable_dirty_ratio: config.get_min_cleanable_dirty_ratio(),
            delete_retention_ms: millis(config.get_delete_retention()),
            min_compaction_lag_ms: millis(config.get_min_compaction_lag()),
            max_compaction_lag_ms: config.get_max_compaction_lag().map(millis),
        }
    }
}

impl From<StoredTopicConfig> for TopicConfig {
    fn from(form: StoredTopicConfig) -> Self {
        let ms = Duration::from_millis;
        let bounds = form.timestamp_bounds;
        let mut config = if form.streams { TopicConfig::streams() } else { TopicConfig::new() };
        config = config
            .partitions(form.partitions)
            .compression(form.compression)
            .segment_bytes(form.segment_bytes)
            .index_interval_bytes(form.index_interval_bytes)
            .timestamps(form.timestamps)
            .timestamp_bounds(bounds.before_ms.map(ms), bounds.after_ms.map(ms))
            .retention(form.retention)
            .retention_holds_for(form.retention_holds_for)
            .min_cleanable_dirty_ratio(form.min_cleanable_dirty_ratio)
            .delete_retention(ms(form.delete_retention_ms))
            .min_compaction_lag(ms(form.min_compaction_lag_ms));
        config.durability = form.durability;
        config.compaction.max_lag = form.max_compaction_lag_ms.map(ms);
        config = form.segment_age_ms.map(ms).into_iter().fold(config, TopicConfig::segment_age);
        config = form.cleanup.into_iter().fold(config, TopicConfig::cleanup);
        form.max_record_bytes.into_iter().fold(config, TopicConfig::max_record_bytes)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StoredBrokerConfig {
    durability: Durability,
    seed: Option<u64>,
    max_open_files: Option<usize>,
    tail_cache_bytes: usize,
    checkpoint_interval_ms: u64,
    sync_threads: usize,
    compaction_memory: usize,
    compaction_bytes_per_second: Option<u64>,
    read_mode: ReadMode,
    disk_budget: Option<u64>,
    producer_expiration_ms: Option<u64>,
}

impl Default for StoredBrokerConfig {
    fn default() -> Self {
        StoredBrokerConfig::from(&BrokerConfig::new())
    }
}

impl From<&BrokerConfig> for StoredBrokerConfig {
    fn from(config: &BrokerConfig) -> Self {
        StoredBrokerConfig {
            durability: config.get_durability(),
            seed: config.get_seed(),
            max_open_files: config.get_max_open_files(),
            tail_cache_bytes: config.get_tail_cache_bytes(),
            checkpoint_interval_ms: millis(config.get_checkpoint_interval()),
            sync_threads: config.get_sync_threads(),
            compaction_memory: config.get_compaction_memory(),
            compaction_bytes_per_second: config.get_compaction_bytes_per_second(),
            read_mode: config.get_read_mode(),
            disk_budget: config.get_disk_budget(),
            producer_expiration_ms: config.get_producer_expiration().map(millis),
        }
    }
}

impl From<StoredBrokerConfig> for BrokerConfig {
    fn from(form: StoredBrokerConfig) -> Self {
        BrokerConfig {
            durability: form.durability,
            seed: form.seed,
            max_open_files: form.max_open_files,
            tail_cache_bytes: form.tail_cache_bytes,
            checkpoint_interval: Duration::from_millis(form.checkpoint_interval_ms),
            sync_threads: form.sync_threads,
            compaction_memory: form.compaction_memory,
            compaction_bytes_per_second: form.compaction_bytes_per_second,
            read_mode: form.read_mode,
            disk_budget: form.disk_budget,
            producer_expiration: form.producer_expiration_ms.map(Duration::from_millis),
            ..BrokerConfig::new()
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StoredProducerConfig {
    batch_bytes: usize,
    linger_ms: u64,
    buffer_bytes: usize,
    name: Option<String>,
}

impl Default for StoredProducerConfig {
    fn default() -> Self {
        StoredProducerConfig::from(&ProducerConfig::new())
    }
}

impl From<&ProducerConfig> for StoredProducerConfig {
    fn from(config: &ProducerConfig) -> Self {
        StoredProducerConfig {
            batch_bytes: config.get_batch_bytes(),
            linger_ms: millis(config.get_linger()),
            buffer_bytes: config.get_buffer_bytes(),
            name: config.get_name().map(str::to_string),
        }
    }
}

impl From<StoredProducerConfig> for ProducerConfig {
    fn from(form: StoredProducerConfig) -> Self {
        let config = ProducerConfig::new()
            .batch_bytes(form.batch_bytes)
            .linger(Duration::from_millis(form.linger_ms))
            .buffer_bytes(form.buffer_bytes);
        form.name.into_iter().fold(config, ProducerConfig::name)
    }
}
