//! Records as lines of JSON: the format of `cat --json`.
//!
//! ```text
//! {"topic":"orders","partition":0,"offset":17,"timestamp":1700000000000,
//!  "key":"k","value":{"base64":"/w=="},"headers":[["h","v"]]}
//! ```
//!
//! Bytes that are UTF-8 are a string, others an object with `base64`, and null is null. So each
//! record has exactly one form.

use quipu::ConsumedRecord;
use serde::Serialize;

/// A record.
#[derive(Serialize)]
pub(crate) struct RecordLine {
    topic: String,
    partition: u32,
    offset: u64,
    /// Milliseconds since 1970.
    timestamp: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    /// Names may be there more than once, so this is a list.
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
    /// In place of the value, where values are not to be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value_bytes: Option<usize>,
}

/// Bytes of a key, a value or a header.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Bytes {
    Text(String),
    Base64 { base64: String },
}

impl RecordLine {
    pub(crate) fn of(record: &ConsumedRecord<'_>) -> Self {
        RecordLine {
            topic: record.topic().to_string(),
            partition: record.partition().get(),
            offset: record.offset().get(),
            timestamp: record.timestamp().as_millis(),
            key: record.key().map(Bytes::of),
            value: record.value().map(Bytes::of),
            headers: record.headers().map(|(name, value)| (name.to_string(), value.map(Bytes::of))).collect(),
            value_bytes: None,
        }
    }

    /// Leaves the value and the values of headers out.
    pub(crate) fn without_values(mut self, record: &ConsumedRecord<'_>) -> Self {
        self.value_bytes = record.value().map(<[u8]>::len);
        self.value = None;
        self.headers.iter_mut().for_each(|(_, value)| *value = None);
        self
    }
}

impl Bytes {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Bytes::Text(text.to_string()),
            Err(_) => Bytes::Base64 { base64: base64(bytes) },
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

#[cfg(test)]
mod tests {
    use super::base64;

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
        }
    }
}
