//! The rules of the house, read from the sources as text: which module may use which, what only one file may do, how large
//! things may be, which words the prose avoids, and what the crate offers to its users.
//!
//! Code under `#[cfg(test)]` is not looked at, its comments are.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod api;
mod binary;
mod graph;
mod items;
mod measures;
mod prose;
mod rows;
mod sizes;
mod source;

use std::path::Path;

use self::source::{read, root};

/// What one place may do and no other: the words that give it away, and the place.
const RESERVED: [(&[&str], &[&str], &str); 9] = [
    (&["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"], &["storage/mmap.rs"], "unsafe code"),
    (&["std::fs"], &["storage/fs.rs"], "the file system"),
    (&["SystemTime", "Instant"], &["clock.rs"], "the wall clock"),
    (
        &["parking_lot", "std::sync::", "std::thread"],
        &["sync/mod.rs", "sync/bell.rs", "sync/ranked.rs", "types/names.rs", "error/mod.rs"],
        "locks, atomics and threads",
    ),
    (
        &["crc32fast"],
        &["format/batch/mod.rs", "format/envelope.rs", "format/journal.rs", "format/segment.rs"],
        "checksums",
    ),
    (&["lz4_flex"], &["format/compression/mod.rs"], "compression"),
    (&["zstd::", "zstd_safe"], &["format/compression/mod.rs"], "compression"),
    (&["memmap2"], &["storage/mmap.rs", "storage/fs.rs"], "maps"),
    (
        &[
            ".unwrap()",
            ".expect(",
            "todo!(",
            "unimplemented!(",
            "println!(",
            "eprintln!(",
            "dbg!(",
            "process::exit",
            "env::var",
        ],
        &[],
        "panics, printing, the process",
    ),
];

#[test]
fn what_one_place_may_do_no_other_does() {
    let mut wrong = Vec::new();
    for source in read(&root()) {
        for (words, places, what) in RESERVED {
            if places.contains(&source.path.as_str()) {
                continue;
            }
            for (number, line) in source.code.lines().enumerate() {
                if words.iter().any(|word| line.contains(word)) {
                    wrong.push(format!("{}:{}: {what}: {}", source.path, number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "done in the wrong place:\n{}", wrong.join("\n"));
}

/// `std::sync` outside `sync.rs` is for `Arc` in the words that know no lock.
#[test]
fn the_words_use_no_lock() {
    for source in read(&root()) {
        if ["types/names.rs", "error/mod.rs"].contains(&source.path.as_str()) {
            for line in source.code.lines().filter(|line| line.contains("std::sync::")) {
                assert_eq!(line.trim(), "use std::sync::Arc;", "{}", source.path);
            }
        }
    }
}

#[test]
fn the_core_depends_on_five_crates_and_no_others() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let mut names: Vec<&str> = section
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter(|line| !line.contains("optional = true"))
        .filter_map(|line| line.split_once('=').map(|(name, _)| name.trim()))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["crc32fast", "lz4_flex", "memmap2", "parking_lot", "thiserror"]);
}
