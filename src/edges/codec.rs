//! How is a value encoded?

use std::error::Error as StdError;

use crate::error::Result;

/// How a value becomes the bytes of a record, and is read again. Any error will do: the crate adds
/// the record's position.
///
/// ```
/// # use std::error::Error;
/// struct BigEndian;
///
/// impl quipu::Codec<u64> for BigEndian {
///     fn encode(&self, value: &u64) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
///         Ok(value.to_be_bytes().to_vec())
///     }
///     fn decode(&self, bytes: &[u8]) -> Result<u64, Box<dyn Error + Send + Sync>> {
///         Ok(u64::from_be_bytes(bytes.try_into()?))
///     }
/// }
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
pub trait Codec<T> {
    /// The bytes of a value.
    ///
    /// # Errors
    /// The value has no form in this encoding.
    fn encode(&self, value: &T) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>>;

    /// The value of these bytes.
    ///
    /// # Errors
    /// The bytes are not those of such a value.
    fn decode(&self, bytes: &[u8]) -> Result<T, Box<dyn StdError + Send + Sync>>;
}
