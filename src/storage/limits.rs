//! The limits that the operating system has set for this process.
//!
//! Useful for: defaults that follow from them. Not useful for: enforcing them; an operation beyond a
//! limit fails.

/// The limits of the process, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessLimits {
    /// How many descriptors it may have (the soft limit of `RLIMIT_NOFILE`).
    pub(crate) descriptors: Option<u64>,
    /// How many bytes of addresses it may use in addition to those that it uses now (`RLIMIT_AS`).
    /// `None` also if there is no limit.
    pub(crate) free_addresses: Option<u64>,
}

impl ProcessLimits {
    /// Reads the contents of `/proc/self/limits` and `/proc/self/status`, which Linux has. A value
    /// that is not there is not known.
    pub(crate) fn parse(limits: &str, status: &str) -> Self {
        let soft = |name: &str| -> Option<u64> {
            let values = limits.lines().find_map(|line| line.strip_prefix(name))?;
            values.split_whitespace().next()?.parse().ok()
        };
        let used = || -> Option<u64> {
            let value = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
            let kib: u64 = value.split_whitespace().next()?.parse().ok()?;
            Some(kib.saturating_mul(1024))
        };
        ProcessLimits {
            descriptors: soft("Max open files"),
            free_addresses: soft("Max address space").and_then(|bytes| Some(bytes.saturating_sub(used()?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max open files            1024                 1048576              files     
Max address space         unlimited            unlimited            bytes     
";

    #[test]
    fn the_soft_limits_are_read() {
        let known = ProcessLimits::parse(LIMITS, "VmPeak:\t   1 kB\nVmSize:\t    2 kB\n");
        assert_eq!(known, ProcessLimits { descriptors: Some(1024), free_addresses: None });
        let limited =
            LIMITS.replace("Max address space         unlimited", "Max address space         10240");
        let known = ProcessLimits::parse(&limited, "VmPeak:\t   1 kB\nVmSize:\t    2 kB\n");
        assert_eq!(known.free_addresses, Some(8192));
    }

    #[test]
    fn limits_that_are_not_there_are_not_known() {
        assert_eq!(ProcessLimits::parse("", ""), ProcessLimits::default());
        assert_eq!(
            ProcessLimits::parse("Max open files  many  more\nMax", "VmSize:"),
            ProcessLimits::default()
        );
        assert_eq!(
            ProcessLimits::parse("Max open files            unlimited  unlimited", "").descriptors,
            None
        );
    }
}
