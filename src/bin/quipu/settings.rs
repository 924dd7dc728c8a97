//! Settings of a topic as arguments: `--set NAME=VALUE`, by the names of the library or of Kafka.

use quipu::TopicConfig;
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};
use crate::time::parse_duration;

/// Names of Kafka that are others here. Those that differ only in `.` and `_` need no entry.
const OF_KAFKA: [(&str, &str); 7] = [
    ("retention.ms", "retention.age_ms"),
    ("segment.ms", "segment_age_ms"),
    ("cleanup.policy", "cleanup"),
    ("compression.type", "compression"),
    ("max.message.bytes", "max_record_bytes"),
    ("message.timestamp.type", "timestamps"),
    ("flush.ms", "durability.interval_ms"),
];

/// The names of the library that have a `.`.
const NESTED: [&str; 5] = [
    "retention.age_ms",
    "retention.bytes",
    "timestamp_bounds.before_ms",
    "timestamp_bounds.after_ms",
    "durability.interval_ms",
];

/// The configuration with these settings, each as `NAME=VALUE`.
pub(crate) fn with(config: &TopicConfig, settings: &[String]) -> Result<TopicConfig> {
    let mut form = form(config)?;
    for setting in settings {
        let (name, value) = setting
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("{setting:?} is not of the form NAME=VALUE")))?;
        let name = own_name(name);
        let value = value_of(&name, value).map_err(|reason| Failure::Usage(format!("{name}: {reason}")))?;
        match name.split_once('.') {
            Some((outer, inner)) => {
                let entry = form.entry(outer).or_insert(Value::Null);
                if !entry.is_object() {
                    *entry = Value::Object(Map::new());
                }
                entry.as_object_mut().and_then(|of| of.insert(inner.to_string(), value));
            }
            None => {
                form.insert(name, value);
            }
        }
    }
    serde_json::from_value(Value::Object(form)).map_err(|e| Failure::Usage(e.to_string()))
}

/// The settings by their names.
pub(crate) fn form(config: &TopicConfig) -> Result<Map<String, Value>> {
    match serde_json::to_value(config) {
        Ok(Value::Object(form)) => Ok(form),
        Ok(_) => Err(Failure::Other("internal error: the settings of a topic are no object".to_string())),
        Err(e) => Err(Failure::Other(e.to_string())),
    }
}

/// The settings that are not the defaults of such a topic, each as `NAME=VALUE`.
pub(crate) fn changed(config: &TopicConfig) -> Result<Vec<String>> {
    let default = if config.has_streams() { TopicConfig::streams() } else { TopicConfig::new() };
    let default = form(&default)?;
    let of = form(config)?;
    let differs = |(name, value): &(&String, &Value)| {
        !["partitions", "max_record_bytes"].contains(&name.as_str()) && default.get(*name) != Some(value)
    };
    Ok(of.iter().filter(differs).map(|(name, value)| format!("{name}={value}")).collect())
}

fn own_name(name: &str) -> String {
    if NESTED.contains(&name) {
        return name.to_string();
    }
    let of_kafka = OF_KAFKA.iter().find(|(theirs, _)| *theirs == name);
    of_kafka.map_or_else(|| name.replace('.', "_"), |(_, own)| (*own).to_string())
}

fn value_of(name: &str, text: &str) -> std::result::Result<Value, String> {
    let number_or_word = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    match (name, text) {
        // Numbers below zero mean "no limit" in Kafka.
        (_, "null" | "-1") => Ok(Value::Null),
        ("cleanup", "none") | ("compression", "none") => Ok(Value::from("none")),
        (name, "none") if name.ends_with("_ms") || name.ends_with("bytes") => Ok(Value::Null),
        (name, text) if name.ends_with("_ms") => {
            let millis = parse_duration(text)?.as_millis();
            Ok(Value::from(u64::try_from(millis).unwrap_or(u64::MAX)))
        }
        (name, text) if name.ends_with("bytes") => parse_bytes(text).map(Value::from),
        ("compression", "zstd") => Ok(serde_json::json!({ "zstd": { "level": 3 } })),
        ("cleanup", "compact,delete" | "delete,compact") => Ok(Value::from("compact_and_delete")),
        ("timestamps", "CreateTime") => Ok(Value::from("create")),
        ("timestamps", "LogAppendTime") => Ok(Value::from("append")),
        ("retention_holds_for", groups) if !groups.starts_with('[') => {
            Ok(groups.split(',').filter(|group| !group.is_empty()).collect())
        }
        _ => Ok(number_or_word(text)),
    }
}

/// A number of bytes: `1000`, `64KiB`, `64MiB`, `1GiB`.
pub(crate) fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (amount, unit) = text.split_at(digits);
    let unit_bytes: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => 0,
    };
    let bytes = amount.parse::<u64>().ok().and_then(|amount| amount.checked_mul(unit_bytes));
    match bytes {
        Some(bytes) if unit_bytes > 0 => Ok(bytes),
        _ => Err(format!("{text:?} is no number of bytes: 1000, 64KiB, 64MiB and 1GiB are")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quipu::{Cleanup, Compression, Durability, Retention, TimestampType, TopicConfig};

    use super::{changed, with};

    fn set(settings: &[&str]) -> TopicConfig {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        with(&TopicConfig::new(), &settings).unwrap()
    }

    #[test]
    fn names_of_the_library_and_of_kafka_mean_the_same() {
        let own = set(&["retention.age_ms=7d", "cleanup=compact_and_delete", "segment_bytes=1MiB"]);
        let of_kafka =
            set(&["retention.ms=604800000", "cleanup.policy=compact,delete", "segment.bytes=1048576"]);
        assert_eq!(own, of_kafka);
        assert_eq!(own.get_retention(), Retention::for_age(Duration::from_secs(7 * 86_400)));
        assert_eq!(own.get_cleanup(), Cleanup::CompactAndDelete);
    }

    #[test]
    fn every_form_of_a_value_is_read() {
        assert_eq!(set(&["durability=sync"]).get_durability(), Some(Durability::Sync));
        let interval = Durability::Interval(Duration::from_millis(250));
        assert_eq!(set(&["flush.ms=250"]).get_durability(), Some(interval));
        #[cfg(feature = "zstd")]
        assert_eq!(set(&["compression=zstd"]).get_compression(), Compression::Zstd { level: 3 });
        assert_eq!(set(&["compression.type=none"]).get_compression(), Compression::None);
        assert_eq!(set(&["message.timestamp.type=LogAppendTime"]).get_timestamps(), TimestampType::Append);
        assert_eq!(set(&["retention.bytes=1GiB"]).get_retention(), Retention::for_bytes(1 << 30));
        assert_eq!(set(&["retention.ms=-1"]).get_retention(), Retention::forever());
        assert_eq!(set(&["retention_holds_for=a,b"]).get_retention_holds_for(), ["a", "b"]);
        assert!(
            (set(&["min.cleanable.dirty.ratio=0.25"]).get_min_cleanable_dirty_ratio() - 0.25).abs() < 1e-9
        );
    }

    #[test]
    fn a_setting_that_does_not_exist_is_refused_with_the_names_that_do() {
        let refused = with(&TopicConfig::new(), &["retention_hours=7".to_string()]).unwrap_err();
        assert!(refused.to_string().contains("segment_bytes"), "{refused}");
        assert!(with(&TopicConfig::new(), &["cleanup".to_string()]).is_err());
        assert!(with(&TopicConfig::new(), &["segment.ms=soon".to_string()]).is_err());
    }

    #[test]
    fn settings_that_differ_from_the_default_are_listed() {
        assert_eq!(changed(&TopicConfig::new().partitions(4)).unwrap(), Vec::<String>::new());
        assert_eq!(changed(&set(&["cleanup=compact"])).unwrap(), ["cleanup=\"compact\""]);
        assert_eq!(changed(&TopicConfig::streams()).unwrap(), Vec::<String>::new());
    }
}
