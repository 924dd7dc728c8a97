//! Which other crates does a value come from, or go to? One optional feature each; without features
//! the module is empty.
//!
//! [`text`] and [`settings`] are the forms that serde stores, [`json`] and [`typed`] read and write
//! values of records, [`shared`] passes buffers on as `Bytes`.

#[cfg(feature = "serde")]
mod codec;
#[cfg(feature = "serde")]
mod json;
#[cfg(feature = "serde")]
mod settings;
#[cfg(feature = "bytes")]
mod shared;
#[cfg(feature = "serde")]
mod text;
#[cfg(feature = "serde")]
mod typed;

#[cfg(feature = "serde")]
pub use self::codec::Codec;
#[cfg(feature = "serde")]
pub use self::json::Json;
#[cfg(feature = "serde")]
pub use self::typed::Typed;
