//! What the kernel knows of this process.

use std::path::Path;
use std::time::Duration;

/// The most memory that it had, in bytes, if the system has `/proc`.
pub fn peak_memory() -> Option<f64> {
    memory("VmHWM:")
}

/// The memory that it has now without the pages of files, in bytes, if the system has `/proc`.
pub fn anonymous_memory() -> Option<f64> {
    memory("RssAnon:")
}

fn memory(line: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|found| found.strip_prefix(line))?;
    line.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0)
}

/// The time that all of its threads have run.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The bytes that the files in a directory and below take on the disk: blocks, not lengths.
pub fn bytes_on_disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        bytes += if about.is_dir() { bytes_on_disk(&entry.path()) } else { about.blocks() * 512 };
    }
    bytes
}
