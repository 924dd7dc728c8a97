//! Records and topics as lines of JSON: the format of `cat --json`, `export` and `import`.
//!
//! ```text
//! {"topic":"orders","partition":0,"offset":17,"timestamp":1700000000000,
//!  "key":"k","value":{"base64":"/w=="},"headers":[["h","v"]]}
//! {"topic":"orders","created_at":1700000000000,"config":{"partitions":4}}
//! ```
//!
//! Bytes that are UTF-8 are a string, others an object with `base64`, and null is null. So each
//! record has exactly one form, and is read back unchanged.

use quipu::{ConsumedRecord, Record, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A record.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordLine {
    pub(crate) topic: String,
    /// `None`: the partitioner chooses.
    pub(crate) partition: Option<u32>,
    /// `None`: the next one.
    pub(crate) offset: Option<u64>,
    /// Milliseconds since 1970; `None`: the time of sending.
    pub(crate) timestamp: Option<i64>,
    /// Missing: null.
    #[serde(default)]
    pub(crate) key: Option<Bytes>,
    #[serde(default)]
    pub(crate) value: Option<Bytes>,
    /// Names may be there more than once, so this is a list.
    #[serde(default)]
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
    /// In place of the value, where values are not to be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value_bytes: Option<usize>,
    /// The version of its stream up to this event, where one stream is listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u64>,
}

/// A topic and its settings, by the names of the library.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TopicLine {
    pub(crate) topic: String,
    #[serde(default)]
    pub(crate) created_at: Option<i64>,
    pub(crate) config: Map<String, Value>,
}

/// Bytes of a key, a value or a header.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Bytes {
    Text(String),
    Base64 { base64: String },
}

impl RecordLine {
    pub(crate) fn of(record: &ConsumedRecord<'_>) -> Self {
        RecordLine {
            topic: record.topic().to_string(),
            partition: Some(record.partition().get()),
            offset: Some(record.offset().get()),
            timestamp: Some(record.timestamp().as_millis()),
            key: record.key().map(Bytes::of),
            value: record.value().map(Bytes::of),
            headers: record.headers().map(|(name, value)| (name.to_string(), value.map(Bytes::of))).collect(),
            value_bytes: None,
            version: None,
        }
    }

    /// Leaves the value and the values of headers out.
    pub(crate) fn without_values(mut self, record: &ConsumedRecord<'_>) -> Self {
        self.value_bytes = record.value().map(<[u8]>::len);
        self.value = None;
        self.headers.iter_mut().for_each(|(_, value)| *value = None);
        self
    }

    /// The record to send.
    ///
    /// # Errors
    /// Text that is no base64 where there must be.
    pub(crate) fn into_record(self) -> Result<Record<'static>, String> {
        let bytes = |bytes: Option<Bytes>| bytes.map(Bytes::into_bytes).transpose();
        let mut record = Record::new(bytes(self.value)?).key(bytes(self.key)?);
        for (name, value) in self.headers {
            record = match bytes(value)? {
                Some(value) => record.header(name, value),
                None => record.null_header(name),
            };
        }
        Ok(match self.timestamp {
            Some(millis) => record.timestamp(Timestamp::from_millis(millis)),
            None => record,
        })
    }
}

impl Bytes {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Bytes::Text(text.to_string()),
            Err(_) => Bytes::Base64 { base64: base64(bytes) },
        }
    }

    fn into_bytes(self) -> Result<Vec<u8>, String> {
        match self {
            Bytes::Text(text) => Ok(text.into_bytes()),
            Bytes::Base64 { base64 } => {
                from_base64(&base64).ok_or_else(|| format!("{base64:?} is not base64 (RFC 4648, padded)"))
            }
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 of RFC 4648, padded.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            if digit <= group.len() {
                text.push(char::from(ALPHABET[(bits >> (18 - 6 * digit) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// The bytes of padded base64; `None` if it is none, or if it has bits that no byte has.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for digit in group {
            let value = ALPHABET.iter().position(|letter| letter == digit)?;
            bits = bits << 6 | value as u32;
        }
        bits <<= 6 * (4 - group.len());
        let whole = group.len() * 6 / 8;
        bytes.extend(bits.to_be_bytes().into_iter().skip(1).take(whole));
    }
    // One form for each value: no digit has bits after the last byte.
    (base64(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{base64, from_base64};

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(from_base64(&base64(&all)), Some(all));
    }

    #[test]
    fn text_that_is_no_base64_is_refused() {
        for text in ["Z", "Zg", "Zg=", "Zh==", "Zg==Zg==", "Zm9v====", "Zm 9", "Zg=a", "===="] {
            assert_eq!(from_base64(text), None, "{text}");
        }
    }
}
