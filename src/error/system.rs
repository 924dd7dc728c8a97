//! Failures of the operating system that the standard library has no kind for. All numbers of errors
//! that this crate knows are here.

use std::io;

/// The number of each error, and its reason.
#[cfg(unix)]
mod number {
    /// The process has as many descriptors as its limit allows (`RLIMIT_NOFILE`). The same number
    /// on Linux, macOS and the BSDs, as are the others.
    pub(super) const EMFILE: i32 = 24;
    /// The system has as many open files as it can have.
    pub(super) const ENFILE: i32 = 23;
    /// The file system has no maps: for example FUSE with direct I/O, or virtiofs without a cache.
    pub(super) const ENODEV: i32 = 19;

    pub(super) const NO_DESCRIPTOR: [i32; 2] = [EMFILE, ENFILE];
    pub(super) const NO_MAPS: [i32; 1] = [ENODEV];
}

/// The number of each error, and its reason.
#[cfg(not(unix))]
mod number {
    /// `ERROR_TOO_MANY_OPEN_FILES` of Windows: the process has no handle left.
    pub(super) const NO_DESCRIPTOR: [i32; 1] = [4];
    pub(super) const NO_MAPS: [i32; 0] = [];
}

/// The process has no descriptor left, and no file of the broker could be closed for one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the process has no file descriptor left ({cause}), and this broker has no file that it could close: \
     {open} files and maps of segments are open, of max_open_files {max}; raise the limit of the process \
     (ulimit -n), or lower max_open_files of its brokers"
)]
pub(crate) struct NoDescriptor {
    /// How many files and maps of segments are open.
    pub(crate) open: usize,
    /// The setting.
    pub(crate) max: usize,
    pub(crate) cause: io::Error,
}

/// Whether a file could not be opened because there is no descriptor left. The operation has had no
/// effect.
pub(crate) fn is_no_descriptor(error: &io::Error) -> bool {
    let is_known = |number: i32| number::NO_DESCRIPTOR.contains(&number);
    error.raw_os_error().is_some_and(is_known)
        || error.get_ref().is_some_and(|inner| inner.is::<NoDescriptor>())
}

/// Why a file cannot be mapped, although it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoMap {
    /// There is no room for this map now: the process has used up its addresses (`ulimit -v`), its
    /// number of maps, or the memory that it may lock.
    NoRoom,
    /// The file system has no maps.
    Unsupported,
}

/// Returns `None` for every other failure of a map.
pub(crate) fn is_no_map(error: &io::Error) -> Option<NoMap> {
    match error.kind() {
        // ENOMEM, and EAGAIN of a process that locks its memory.
        io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock => Some(NoMap::NoRoom),
        io::ErrorKind::Unsupported => Some(NoMap::Unsupported),
        _ => {
            let number = error.raw_os_error()?;
            number::NO_MAPS.contains(&number).then_some(NoMap::Unsupported)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_numbers_are_those_of_the_system() {
        let text = |number: i32| io::Error::from_raw_os_error(number).to_string();
        assert_eq!(text(number::EMFILE), "Too many open files (os error 24)");
        assert_eq!(text(number::ENFILE), "Too many open files in system (os error 23)");
        assert_eq!(text(number::ENODEV), "No such device (os error 19)");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_failure_is_told_by_its_number_or_its_kind() {
        let number = io::Error::from_raw_os_error;
        assert!(is_no_descriptor(&number(24)) && is_no_descriptor(&number(23)));
        assert!(!is_no_descriptor(&number(2)) && !is_no_descriptor(&io::ErrorKind::Other.into()));
        let told = io::Error::other(NoDescriptor { open: 3, max: 16, cause: number(24) });
        assert!(is_no_descriptor(&told));
        assert_eq!(is_no_map(&number(12)), Some(NoMap::NoRoom));
        assert_eq!(is_no_map(&number(11)), Some(NoMap::NoRoom));
        assert_eq!(is_no_map(&number(19)), Some(NoMap::Unsupported));
        assert_eq!(is_no_map(&io::ErrorKind::Unsupported.into()), Some(NoMap::Unsupported));
        assert_eq!(is_no_map(&number(5)), None);
        assert_eq!(is_no_map(&io::ErrorKind::InvalidInput.into()), None);
    }
}
