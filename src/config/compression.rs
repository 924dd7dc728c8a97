//! The codecs of batches, as a topic chooses one.

use crate::error::Result;

/// How the batches of a topic are stored. A batch that does not shrink is stored unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not compressed. The fastest to write and to read at random; reading copies nothing.
    #[default]
    None,
    /// LZ4 blocks, one for each batch.
    Lz4,
    /// Zstandard frames, one for each batch. Only with the feature `zstd`, which compiles the C
    /// library.
    ///
    /// A directory with such batches can be opened without the feature. They are kept, verified,
    /// salvaged and [replicated](crate::Partition::read_raw), but reading their records returns
    /// [`UnsupportedFormat`](crate::Error::UnsupportedFormat).
    ///
    /// MEMORY_TABLE
    #[cfg(feature = "zstd")]
    Zstd {
        /// From -7, the fastest, to 19, the smallest; 0 is zstd's default, which is
        /// [3](Compression::ZSTD_LEVEL).
        level: i32,
    },
}

#[cfg(feature = "zstd")]
impl Compression {
    /// The level that zstd uses where none is chosen.
    pub const ZSTD_LEVEL: i32 = 3;
}

impl Compression {
    /// # Errors
    /// `InvalidConfig`: a level that there is not.
    pub(crate) fn validate(self) -> Result<()> {
        match self {
            #[cfg(feature = "zstd")]
            Compression::Zstd { level } if !(-7..=19).contains(&level) => {
                let reason = format!("the level of zstd is {level}; it must be -7 to 19");
                Err(super::invalid("compression", &reason))
            }
            _ => Ok(()),
        }
    }
}
