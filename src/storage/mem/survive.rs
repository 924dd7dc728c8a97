//! The choice of what a crash leaves.

/// The content of a disk after a crash.
///
/// Sectors have 512 bytes. Assumptions about the medium: a write changes no byte outside its range,
/// and where bytes were durable before, an interrupted overwrite leaves each byte old or new; noise
/// is found only where nothing but zeros was durable yet.
///
/// ```
/// # use quipu::testing::Survive;
/// // The same seed always decides the same: a failure is repeated by its seed.
/// assert_eq!(Survive::Random(17), Survive::Random(17));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Survive {
    /// Every write and every directory operation: the process was killed, the machine was not.
    /// Writes that were not synced are still pending, and a later power loss may take them.
    Everything,
    /// Only synced writes and operations: the largest loss without mixing.
    Synced,
    /// Everything synced, and of the rest a part that the seed decides. Each unsynced write is
    /// kept, lost, torn (its beginning is there, or some of its sectors) or garbled (noise in some
    /// sectors). Each unsynced directory operation is kept or lost; of those on one name, the first
    /// ones are kept. A rename is kept or lost as one. A file ends after the last write that
    /// survived, with zeros in the gaps.
    Random(u64),
    /// The directories and the lengths of files as written, but unsynced sectors that the seed
    /// selects read as zeros. File systems that write lengths before data leave this.
    Zeroed(u64),
    /// Everything synced, and exactly those pending operations whose bits are set, each whole. They
    /// are numbered from bit 0: directory operations first, oldest first, then writes file by file,
    /// in the order in which the files were created, those of one file oldest first. Those after
    /// the 64th share the last bit. A directory operation after a lost one of the same name is lost
    /// too. [`Disk::pending`](crate::testing::Disk::pending) returns their number.
    Subset(u64),
}
