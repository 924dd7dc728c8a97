//! The codecs of batches, as a topic chooses one.

use crate::error::Result;

/// How the batches of a topic are stored. A batch that does not shrink is stored unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
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
    /// Memory of one compression at a time, in KiB (measured with zstd 1.5.7), by the size of the
    /// batch; a decompression takes 94 KiB at every level:
    ///
    /// | level | 16 KiB | 64 KiB | 1 MiB | 16 MiB |
    /// |---:|---:|---:|---:|---:|
    /// | -7 to -1 | 117 | 281 | 537 | 537 |
    /// | 1 | 213 | 297 | 569 | 569 |
    /// | 3 | 277 | 649 | 1,273 | 1,273 |
    /// | 6 | 213 | 905 | 3,065 | 3,065 |
    /// | 9 | 277 | 905 | 10,745 | 10,745 |
    /// | 12 | 501 | 1,289 | 10,745 | 41,465 |
    /// | 15 | 565 | 1,749 | 16,889 | 66,041 |
    /// | 19 | 565 | 1,749 | 17,664 | 83,200 |
    ///
    /// After use at most 16 contexts are kept for the whole process, and none of more than 4 MiB.
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
                Err(super::values::invalid("compression", &reason))
            }
            _ => Ok(()),
        }
    }
}
