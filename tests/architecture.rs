//! The house rules, read off the sources: a module imports from the rows above it and from its own directory, never from
//! below, and what only one file may do is done in no other.
//!
//! Test modules inside a source file (everything from its `#[cfg(test)]` on) are not looked at.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The rows of the house, top to bottom. A module may use its own row's modules only where that row is a directory of its
/// own, or where the row says so.
const ROWS: [(&str, &[&str]); 10] = [
    ("words", &["types", "error", "record", "config", "clock", "sync", "stats", "rng", "version", "event"]),
    ("bytes and medium", &["format", "storage"]),
    ("engine", &["engine"]),
    ("one file", &["segment"]),
    ("one log", &["log"]),
    // The handle, transaction/mod.rs, is below the broker.
    (
        "several logs",
        &["transaction::commit", "transaction::journal", "transaction::records", "transaction::recovery"],
    ),
    ("groups", &["group"]),
    ("broker", &["broker"]),
    (
        "handles",
        &[
            "consumer",
            "transaction",
            "topic",
            "records",
            "reader",
            "producer",
            "partitioner",
            "projection",
            "offline",
            "stream",
            "testing",
        ],
    ),
    ("root", &["lib"]),
];

fn row_of(module: &str) -> usize {
    ROWS.iter()
        .position(|(_, modules)| modules.contains(&module))
        .unwrap_or_else(|| panic!("the module {module} has no place in the house: add it to a row"))
}

/// Every source file: its top-level module and its lines without comments and test modules.
fn sources() -> BTreeMap<PathBuf, (String, Vec<String>)> {
    fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 20, "the sources are not where this test looks for them");
    files
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(&root).unwrap().to_path_buf();
            let mut names: Vec<_> =
                relative.iter().map(|name| name.to_string_lossy().replace(".rs", "")).collect();
            if names[0] != "transaction" || names[1] == "mod" {
                names.truncate(1);
            }
            let module = names.join("::");
            let text = std::fs::read_to_string(&path).unwrap();
            let is_test_file =
                ["conformance.rs", "damage.rs", "tests.rs"].iter().any(|name| relative.ends_with(name));
            let lines = text
                .lines()
                .take_while(|line| !line.trim_start().starts_with("#[cfg(test)]\nmod tests"))
                .map(|line| line.split("//").next().unwrap_or("").to_string())
                .collect::<Vec<_>>();
            // From the first test module on.
            let end = lines
                .windows(2)
                .position(|pair| {
                    pair[0].trim() == "#[cfg(test)]"
                        && pair[1].trim_start().starts_with("mod ")
                        && pair[1].contains('{')
                })
                .unwrap_or(lines.len());
            let lines = if is_test_file { Vec::new() } else { lines[..end].to_vec() };
            (relative, (module, lines))
        })
        .collect()
}

#[test]
fn a_module_imports_only_from_above() {
    let mut wrong = Vec::new();
    for (path, (module, lines)) in sources() {
        if module == "lib" {
            continue;
        }
        for (number, line) in lines.iter().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                let part = |at: usize| -> String {
                    line[at..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
                };
                let mut name = part(at + 7);
                if name.is_empty() || name == module || !line[at + 7 + name.len()..].starts_with("::") {
                    continue;
                }
                if name == "transaction" {
                    let inner = format!("transaction::{}", part(at + 7 + name.len() + 2));
                    name =
                        if ROWS.iter().any(|(_, row)| row.contains(&inner.as_str())) { inner } else { name };
                }
                let (from, to) = (row_of(&module), row_of(&name));
                let handles = from == to && [0, 5, 8].contains(&from);
                if to > from || (to == from && !handles) {
                    wrong.push(format!("{}:{}: {module} uses {name}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point down or across:\n{}", wrong.join("\n"));
}

/// What one place may do and no other: the words that give it away, and the place.
const RESERVED: [(&[&str], &[&str], &str); 8] = [
    (&["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"], &["storage/mmap.rs"], "unsafe code"),
    (&["std::fs"], &["storage/fs.rs"], "the file system"),
    (&["SystemTime", "Instant"], &["clock.rs"], "the wall clock"),
    (
        &["parking_lot", "std::sync::", "std::thread"],
        &["sync.rs", "types.rs", "error.rs"],
        "locks, atomics and threads",
    ),
    (
        &["crc32fast"],
        &["format/batch.rs", "format/envelope.rs", "format/journal.rs", "format/segment.rs"],
        "checksums",
    ),
    (&["lz4_flex"], &["format/compression.rs"], "compression"),
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
    for (path, (_, lines)) in sources() {
        for (words, places, what) in RESERVED {
            if places.iter().any(|place| path == Path::new(place)) {
                continue;
            }
            for (number, line) in lines.iter().enumerate() {
                if words.iter().any(|word| line.contains(word)) {
                    wrong.push(format!("{}:{}: {what}: {}", path.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "done in the wrong place:\n{}", wrong.join("\n"));
}

/// `std::sync` outside `sync.rs` is for `Arc` in the words that know no lock.
#[test]
fn the_words_use_no_lock() {
    for (path, (_, lines)) in sources() {
        if path == Path::new("types.rs") || path == Path::new("error.rs") {
            for line in lines.iter().filter(|line| line.contains("std::sync::")) {
                assert_eq!(line.trim(), "use std::sync::Arc;", "{}", path.display());
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
