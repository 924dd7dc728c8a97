//! The settings of a log: a topic's configuration, with the durability that applies.

use crate::config::{Durability, SEGMENT_FRAMING, TopicConfig};
use crate::error::{Error, Result};
use crate::format::batch::HEADER_BYTES;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::sync::{Arc, AtomicU64, Ordering, Rank, RwLock};
use crate::types::TopicName;

/// The part of a topic's configuration that a log uses. Every append copies it under a short lock.
#[derive(Debug)]
pub(crate) struct LogSettings {
    config: TopicConfig,
    /// The durability of the topic, or else the broker's.
    pub(crate) durability: Durability,
}

/// The settings that apply now. They change under the writer's lock.
pub(super) struct CurrentSettings {
    settings: RwLock<Arc<LogSettings>>,
    /// How often they have changed. Written with the settings, under their lock.
    changes: AtomicU64,
}

impl CurrentSettings {
    pub(super) fn new(settings: Arc<LogSettings>) -> Self {
        CurrentSettings { settings: RwLock::new(Rank::Settings, settings), changes: AtomicU64::new(0) }
    }

    /// Returns the settings, and the number of their changes so far.
    pub(super) fn get(&self) -> (Arc<LogSettings>, u64) {
        let settings = self.settings.read();
        (settings.clone(), self.changes.load(Ordering::Relaxed))
    }

    /// Calls `look` with the settings, under their lock: for less than it costs to copy them.
    pub(super) fn with<T>(&self, look: impl FnOnce(&LogSettings) -> T) -> T {
        look(&self.settings.read())
    }

    /// Returns the number of changes. A thread that holds the writer's lock, and compares it with
    /// that of its copy, knows without a lock whether the copy is current.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Must be called under the writer's lock.
    pub(super) fn set(&self, settings: Arc<LogSettings>) {
        let mut current = self.settings.write();
        self.changes.fetch_add(1, Ordering::Relaxed);
        *current = settings;
    }
}

impl std::ops::Deref for LogSettings {
    type Target = TopicConfig;

    fn deref(&self) -> &TopicConfig {
        &self.config
    }
}

const _: () = assert!(SEGMENT_FRAMING as usize == SEGMENT_HEADER_BYTES + HEADER_BYTES);

impl LogSettings {
    pub(crate) fn new(config: TopicConfig, default_durability: Durability) -> Arc<Self> {
        Arc::new(LogSettings { durability: config.durability.unwrap_or(default_durability), config })
    }

    /// Checks whether a batch may be appended whose first record without a key has the index
    /// `keyless`. Must be called under the writer's lock, under which settings change, because the
    /// batch may have been started under older settings.
    ///
    /// # Errors
    /// `MissingKey` if the topic requires keys.
    pub(crate) fn check_keys(&self, topic: &TopicName, keyless: Option<u32>) -> Result<()> {
        match keyless {
            Some(index) if self.needs_keys() => {
                Err(Error::MissingKey { topic: topic.clone(), index: index as usize })
            }
            _ => Ok(()),
        }
    }

    /// Returns the size of the largest batch, header and body, that fits a segment.
    pub(crate) fn max_batch_bytes(&self) -> usize {
        (self.segment_bytes as usize).saturating_sub(SEGMENT_HEADER_BYTES)
    }

    /// Returns the size of the largest encoded record that is allowed and fits a batch.
    pub(crate) fn max_record_len(&self) -> usize {
        (self.max_record_bytes as usize).min(self.max_batch_bytes().saturating_sub(HEADER_BYTES))
    }
}
