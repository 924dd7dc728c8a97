//! Temporary directories for the data of a run.

use std::path::{Path, PathBuf};

/// A fresh directory on the disk that holds the target directory, removed when this is dropped.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Scratch(tempfile::Builder::new().prefix("bench-").tempdir_in(Scratch::root()).unwrap())
    }

    /// The parent of all of them.
    pub(crate) fn root() -> &'static Path {
        Path::new(env!("CARGO_TARGET_TMPDIR"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// All files in `dir` and below whose names end in `suffix`, in the order of their paths.
pub(crate) fn files_below(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, suffix));
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    found
}
