//! `tests/README.md` lists what is promised and the tests that hold it. Every test that it names
//! must exist, so that a renamed or removed test cannot leave a promise without one.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The tests that a page names, as file and function: `file.rs::function` in backquotes.
fn named(page: &str) -> Vec<(String, String)> {
    let quoted = page.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|text| text.split_once(".rs::"))
        .map(|(file, function)| (format!("{file}.rs"), function.to_string()))
        .collect()
}

/// Where a file of the table is: a path from the root of the package, or a name in `tests`.
fn find(root: &Path, file: &str) -> Option<PathBuf> {
    let places = if file.starts_with("src/") {
        vec![root.join(file)]
    } else {
        vec![root.join("tests/behaviour").join(file), root.join("tests").join(file)]
    };
    places.into_iter().find(|path| path.is_file())
}

/// Whether a source has a test of this name: a function, or an entry of the macro that makes the
/// crash workloads.
fn has_test(source: &str, function: &str) -> bool {
    let entry = format!("{function}: |run| {{");
    let definition = format!("fn {function}(");
    source.lines().map(str::trim_start).any(|line| line.starts_with(&definition) || line == entry)
}

#[test]
fn every_test_that_the_table_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("tests/README.md")).unwrap();
    let tests = named(&page);
    assert!(tests.len() > 150, "only {} tests are named: the table has another form now", tests.len());
    let mut sources = BTreeMap::new();
    let mut missing = Vec::new();
    for (file, function) in &tests {
        let source = sources.entry(file).or_insert_with(|| {
            find(root, file).map_or_else(String::new, |path| fs::read_to_string(path).unwrap())
        });
        if !has_test(source, function) {
            missing.push(format!("{file}::{function}"));
        }
    }
    assert!(missing.is_empty(), "tests/README.md names tests that do not exist:\n{}", missing.join("\n"));
}

/// A row without a test belongs into the list at the end of the page.
#[test]
fn every_promise_of_the_table_names_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("tests/README.md")).unwrap();
    let rows: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise |")).collect();
    assert!(rows.len() > 80, "only {} promises: the table has another form now", rows.len());
    for row in rows {
        assert_eq!(row.matches(" | ").count(), 2, "a row has three cells: {row}");
        assert!(!named(row).is_empty(), "this promise names no test: {row}");
    }
}

#[test]
fn a_name_that_does_not_exist_is_found() {
    assert_eq!(named("| a | b | `x.rs::y` |"), [("x.rs".to_string(), "y".to_string())]);
    assert!(has_test("#[test]\nfn y() {", "y"));
    assert!(!has_test("#[test]\nfn yy() {\n    y();", "y"));
    assert!(find(Path::new(env!("CARGO_MANIFEST_DIR")), "no_such_file.rs").is_none());
}
