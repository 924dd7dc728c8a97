//! Which other crates does a value come from, or go to? One optional feature each; without features
//! the module is empty.
//!
//! [`text`] and [`settings`] are the forms that serde stores, [`json`] and [`typed`] read and write
//! values of records, [`shared`] passes buffers on as `Bytes`, [`streams`] and [`sink`] are the
//! traits of `futures`.

#[cfg(feature = "serde")]
mod codec;
#[cfg(feature = "serde")]
mod json;
#[cfg(feature = "serde")]
mod settings;
#[cfg(feature = "bytes")]
mod shared;
#[cfg(feature = "futures")]
mod sink;
#[cfg(feature = "futures")]
mod streams;
#[cfg(feature = "serde")]
mod text;
#[cfg(feature = "serde")]
mod typed;

#[cfg(feature = "serde")]
pub use self::codec::Codec;
#[cfg(feature = "serde")]
pub use self::json::Json;
#[cfg(feature = "futures")]
pub use self::sink::ProducerSink;
#[cfg(feature = "serde")]
pub use self::typed::Typed;
