//! How does serde store the words? A number as a number, and a type with a text form as that text,
//! so that it can be a key of a JSON object too.

use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;
use crate::types::{GroupId, Offset, PartitionId, Position, Timestamp, TopicId, TopicName};
use crate::version::Version;

/// Reads a text, whether or not the format can lend it.
struct Text<T>(&'static str, fn(&str) -> Result<T, String>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).map_err(E::custom)
    }
}

fn parse<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// The text of `Display`, read with a function.
macro_rules! as_text {
    ($($name:ty, $expected:literal, $read:expr;)*) => {$(
        #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
        #[doc = concat!("As text: ", $expected, ".")]
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
        #[doc = concat!("From text: ", $expected, ".")]
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text($expected, $read))
            }
        }
    )*};
}

as_text! {
    TopicName, "a topic's name", parse;
    GroupId, "a group's name", parse;
    TopicId, "a topic's id as 32 hexadecimal digits", topic_id;
    Position, "a position, for example `orders/2@17#3`", parse;
    Version, "a version, for example `10@e3`", parse;
}

fn topic_id(text: &str) -> Result<TopicId, String> {
    let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| is_id);
    let number =
        number.ok_or_else(|| format!("{text:?} is not a topic's id: it has 32 hexadecimal digits"))?;
    Ok(TopicId(number.to_be_bytes()))
}

/// The number itself.
macro_rules! as_number {
    ($($name:ty, $number:ty, $get:expr, $new:expr;)*) => {$(
        #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
        /// As its number.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let get: fn($name) -> $number = $get;
                get(*self).serialize(serializer)
            }
        }

        #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
        /// From its number.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$number>::deserialize(deserializer).map($new)
            }
        }
    )*};
}

as_number! {
    Offset, u64, Offset::get, Offset::new;
    PartitionId, u32, PartitionId::get, PartitionId::new;
    Timestamp, i64, Timestamp::as_millis, Timestamp::from_millis;
}

/// As its text: for statistics and reports. It cannot be read back.
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
