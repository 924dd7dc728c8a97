//! The settings of a topic and of a broker, read back. A getter has the name of its setter, with
//! `get_` in front, as in [`std::process::Command`].

use std::time::Duration;

use super::{
    BrokerConfig, Cleanup, Compression, Durability, ReadMode, Retention, TimestampType, TopicConfig,
};
use crate::clock::Clock;

/// The settings, for example of an existing [topic](crate::Topic::config).
///
/// ```
/// # use quipu::{Broker, Cleanup, Durability, TopicConfig};
/// # fn main() -> quipu::Result<()> {
/// let broker = Broker::in_memory()?;
/// let topic = broker.create_topic("t", TopicConfig::new().partitions(3).durability(Durability::Sync))?;
/// let config = topic.config();
/// assert_eq!((config.get_partitions(), config.get_cleanup()), (3, Cleanup::Delete));
/// assert_eq!(config.get_durability(), Some(Durability::Sync));
/// # Ok(()) }
/// ```
impl TopicConfig {
    /// See [`partitions`](TopicConfig::partitions).
    pub fn get_partitions(&self) -> u32 {
        self.partitions
    }

    /// See [`compression`](TopicConfig::compression).
    pub fn get_compression(&self) -> Compression {
        self.compression
    }

    /// See [`durability`](TopicConfig::durability); `None`: the broker's.
    pub fn get_durability(&self) -> Option<Durability> {
        self.durability
    }

    /// See [`segment_bytes`](TopicConfig::segment_bytes).
    pub fn get_segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// See [`segment_age`](TopicConfig::segment_age).
    pub fn get_segment_age(&self) -> Duration {
        self.segment_age
    }

    /// See [`max_record_bytes`](TopicConfig::max_record_bytes).
    pub fn get_max_record_bytes(&self) -> u32 {
        self.max_record_bytes
    }

    /// See [`index_interval_bytes`](TopicConfig::index_interval_bytes).
    pub fn get_index_interval_bytes(&self) -> u32 {
        self.index_interval_bytes
    }

    /// See [`timestamps`](TopicConfig::timestamps).
    pub fn get_timestamps(&self) -> TimestampType {
        self.timestamps
    }

    /// See [`timestamp_bounds`](TopicConfig::timestamp_bounds): before and after.
    pub fn get_timestamp_bounds(&self) -> (Option<Duration>, Option<Duration>) {
        (self.timestamp_bounds.before, self.timestamp_bounds.after)
    }

    /// See [`retention`](TopicConfig::retention).
    pub fn get_retention(&self) -> Retention {
        self.retention
    }

    /// See [`retention_holds_for`](TopicConfig::retention_holds_for), sorted.
    pub fn get_retention_holds_for(&self) -> &[String] {
        &self.retention_holds
    }

    /// See [`cleanup`](TopicConfig::cleanup).
    pub fn get_cleanup(&self) -> Cleanup {
        self.cleanup
    }

    /// See [`min_cleanable_dirty_ratio`](TopicConfig::min_cleanable_dirty_ratio).
    pub fn get_min_cleanable_dirty_ratio(&self) -> f64 {
        f64::from(self.compaction.min_dirty_ratio) / 1e6
    }

    /// See [`delete_retention`](TopicConfig::delete_retention).
    pub fn get_delete_retention(&self) -> Duration {
        self.compaction.delete_retention
    }

    /// See [`min_compaction_lag`](TopicConfig::min_compaction_lag).
    pub fn get_min_compaction_lag(&self) -> Duration {
        self.compaction.min_lag
    }

    /// See [`max_compaction_lag`](TopicConfig::max_compaction_lag); `None`: any age.
    pub fn get_max_compaction_lag(&self) -> Option<Duration> {
        self.compaction.max_lag
    }
}

/// The settings.
impl BrokerConfig {
    /// See [`durability`](BrokerConfig::durability).
    pub fn get_durability(&self) -> Durability {
        self.durability
    }

    /// See [`clock`](BrokerConfig::clock).
    pub fn get_clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// See [`seed`](BrokerConfig::seed); `None`: it is random.
    pub fn get_seed(&self) -> Option<u64> {
        self.seed
    }

    /// See [`max_open_files`](BrokerConfig::max_open_files); `None`: it follows from the limit of the process.
    pub fn get_max_open_files(&self) -> Option<usize> {
        self.max_open_files
    }

    /// See [`tail_cache_bytes`](BrokerConfig::tail_cache_bytes).
    pub fn get_tail_cache_bytes(&self) -> usize {
        self.tail_cache_bytes
    }

    /// See [`checkpoint_interval`](BrokerConfig::checkpoint_interval).
    pub fn get_checkpoint_interval(&self) -> Duration {
        self.checkpoint_interval
    }

    /// See [`sync_threads`](BrokerConfig::sync_threads).
    pub fn get_sync_threads(&self) -> usize {
        self.sync_threads
    }

    /// See [`compaction_memory`](BrokerConfig::compaction_memory).
    pub fn get_compaction_memory(&self) -> usize {
        self.compaction_memory
    }

    /// See [`compaction_bytes_per_second`](BrokerConfig::compaction_bytes_per_second); `None`: no limit.
    pub fn get_compaction_bytes_per_second(&self) -> Option<u64> {
        self.compaction_bytes_per_second
    }

    /// See [`read_mode`](BrokerConfig::read_mode).
    pub fn get_read_mode(&self) -> ReadMode {
        self.read_mode
    }

    /// See [`disk_budget`](BrokerConfig::disk_budget); `None`: no limit.
    pub fn get_disk_budget(&self) -> Option<u64> {
        self.disk_budget
    }

    /// See [`producer_expiration`](BrokerConfig::producer_expiration); `None`: never.
    pub fn get_producer_expiration(&self) -> Option<Duration> {
        self.producer_expiration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Every setting has another value than its default, so that a getter of another field differs.
    #[test]
    fn each_setting_of_a_topic_is_read_back() {
        let ms = |n| MS * n;
        let config = TopicConfig::new()
            .partitions(2)
            .compression(Compression::Lz4)
            .durability(Durability::Sync)
            .segment_bytes(5_000)
            .segment_age(ms(1))
            .max_record_bytes(3_000)
            .index_interval_bytes(4_000)
            .timestamps(TimestampType::Append)
            .timestamp_bounds(Some(ms(2)), None)
            .retention(Retention::for_age(ms(3)).and_bytes(6_000))
            .retention_holds_for(["b", "a", "b"])
            .cleanup(Cleanup::Compact)
            .min_cleanable_dirty_ratio(0.25)
            .delete_retention(ms(4))
            .min_compaction_lag(ms(5))
            .max_compaction_lag(ms(6));
        assert_eq!((config.get_partitions(), config.get_compression()), (2, Compression::Lz4));
        assert_eq!(config.get_durability(), Some(Durability::Sync));
        assert_eq!((config.get_segment_bytes(), config.get_segment_age()), (5_000, ms(1)));
        assert_eq!((config.get_max_record_bytes(), config.get_index_interval_bytes()), (3_000, 4_000));
        assert_eq!(config.get_timestamps(), TimestampType::Append);
        assert_eq!(config.get_timestamp_bounds(), (Some(ms(2)), None));
        assert_eq!(
            (config.get_retention().age(), config.get_retention().bytes()),
            (Some(ms(3)), Some(6_000))
        );
        assert_eq!(config.get_retention_holds_for(), ["a", "b"]);
        assert_eq!((config.get_cleanup(), config.get_min_cleanable_dirty_ratio()), (Cleanup::Compact, 0.25));
        assert_eq!((config.get_delete_retention(), config.get_min_compaction_lag()), (ms(4), ms(5)));
        assert_eq!((config.get_max_compaction_lag(), config.has_streams()), (Some(ms(6)), false));
    }

    #[test]
    fn each_setting_of_a_broker_is_read_back() {
        let clock = crate::clock::ManualClock::starting_at(crate::types::Timestamp::from_millis(7));
        let config = BrokerConfig::new()
            .durability(Durability::Sync)
            .clock(clock)
            .seed(1)
            .max_open_files(20)
            .tail_cache_bytes(30)
            .checkpoint_interval(MS)
            .sync_threads(4)
            .compaction_memory(50)
            .compaction_bytes_per_second(60)
            .read_mode(ReadMode::Checked)
            .disk_budget(70)
            .producer_expiration(MS * 2);
        assert_eq!((config.get_durability(), config.get_seed()), (Durability::Sync, Some(1)));
        assert_eq!(config.get_clock().now().as_millis(), 7);
        assert_eq!((config.get_max_open_files(), config.get_tail_cache_bytes()), (Some(20), 30));
        assert_eq!((config.get_checkpoint_interval(), config.get_sync_threads()), (MS, 4));
        assert_eq!(config.get_compaction_memory(), 50);
        assert_eq!(config.get_compaction_bytes_per_second(), Some(60));
        assert_eq!((config.get_read_mode(), config.get_disk_budget()), (ReadMode::Checked, Some(70)));
        assert_eq!(config.get_producer_expiration(), Some(MS * 2));
    }
}
