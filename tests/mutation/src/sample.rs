//! Which of the edits are tried? A random choice by a seed, in proportion to the edits of each module.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::find::{Edit, find};
use crate::{Places, Result};

pub const MODULES: [&str; 9] =
    ["consumer", "format", "group", "log", "producer", "reader", "segment", "stream", "transaction"];

/// Of each module at least so many are chosen.
const LEAST: usize = 28;
/// One number in so many counts: most numbers are sizes, and the rest of the code has less of them.
const NUMBERS: u64 = 3;

pub struct Candidates {
    /// Relative to the package: `src/log/append.rs`.
    pub path: String,
    pub source: String,
    /// The number of an edit is that of the first one plus its index.
    pub first: u32,
    pub edits: Vec<Edit>,
}

impl Candidates {
    pub fn module(&self) -> &str {
        self.path.split('/').nth(1).unwrap_or_default()
    }
}

/// All edits of all modules. Their numbers depend on the sources alone.
pub fn candidates(places: &Places) -> Result<Vec<Candidates>> {
    let mut all = Vec::new();
    let mut first = 1;
    for module in MODULES {
        let mut paths = Vec::new();
        collect(&places.root.join("src").join(module), &mut paths)?;
        paths.sort();
        for path in paths {
            let source = std::fs::read_to_string(&path)?;
            let path = path.strip_prefix(&places.root)?.to_string_lossy().into_owned();
            let edits = find(&source).map_err(|error| format!("{path}: {error}"))?;
            let count = u32::try_from(edits.len())?;
            all.push(Candidates { path, source, first, edits });
            first += count;
        }
    }
    Ok(all)
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            collect(&path, paths)?;
        } else if name.ends_with(".rs") && name != "tests.rs" {
            paths.push(path);
        }
    }
    Ok(())
}

/// Chooses about `count` edits, none of `taken`.
pub fn choose(all: &[Candidates], seed: u64, count: usize, taken: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut random = Random(seed);
    let by_module: Vec<Vec<u32>> = MODULES
        .iter()
        .map(|module| {
            let files = all.iter().filter(|file| file.module() == *module);
            files.flat_map(|file| (file.first..).zip(&file.edits)).collect::<Vec<_>>()
        })
        .map(|edits| {
            let mut counts = |edit: &Edit| !is_number(edit) || random.below(NUMBERS) == 0;
            edits.into_iter().filter(|(_, edit)| counts(edit)).map(|(id, _)| id).collect()
        })
        .collect();
    let total: usize = by_module.iter().map(Vec::len).sum();
    let mut chosen = BTreeSet::new();
    for ids in by_module {
        let mut left: Vec<u32> = ids.iter().copied().filter(|id| !taken.contains(id)).collect();
        let least = LEAST * count.min(300) / 300;
        for _ in 0..(ids.len() * count / total.max(1)).max(least).min(left.len()) {
            chosen.insert(left.swap_remove(random.below(left.len() as u64) as usize));
        }
    }
    chosen
}

fn is_number(edit: &Edit) -> bool {
    edit.change.strip_prefix('`').is_some_and(|text| text.starts_with(|c: char| c.is_ascii_digit()))
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}
