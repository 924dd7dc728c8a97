//! How large may a function, a file, a struct, an impl be?
//!
//! An item over a limit stands in its table with a reason.

use super::items::{functions, methods, structs};
use super::measures::{FILE_LINES, FUNCTION_LINES, IMPL_METHODS, STRUCT_FIELDS};
use super::source::{read, root};

/// File and name of functions that are better whole, and why.
const FUNCTIONS: [(&str, &str); 0] = [];

/// Files that are better whole, and why.
const FILES: [(&str, &str); 1] =
    [("error/mod.rs", "one enum: each variant with its text and the meaning of its fields")];

/// Structs that are better whole, and why. Configuration is not counted: it has a field a setting.
const STRUCTS: [(&str, &str); 1] = [(
    "format/batch/mod.rs BatchHeader",
    "the fields of the header on disk, in their order: FORMAT.md has the same list",
)];

/// Types whose methods are better in one type, and why.
const IMPLS: [(&str, &str); 0] = [];

#[test]
fn functions_are_short_or_have_a_reason() {
    let large = functions(&read(&root()))
        .into_iter()
        .filter(|function| function.lines > FUNCTION_LINES)
        .map(|function| (format!("{} {}", function.path, function.name), function.lines));
    check("functions", large, &FUNCTIONS);
}

#[test]
fn files_are_short_or_have_a_reason() {
    let large = read(&root())
        .into_iter()
        .filter(|source| source.lines > FILE_LINES && !source.is_test)
        .map(|source| (source.path, source.lines));
    check("files", large, &FILES);
}

#[test]
fn structs_are_small_or_have_a_reason() {
    let large = structs(&read(&root()))
        .into_iter()
        .filter(|found| found.fields.len() > STRUCT_FIELDS && !found.is_config())
        .map(|found| (format!("{} {}", found.path, found.name), found.fields.len()));
    check("structs", large, &STRUCTS);
}

#[test]
fn impls_are_small_or_have_a_reason() {
    let large = methods(&read(&root()))
        .into_iter()
        .filter(|found| found.methods > IMPL_METHODS)
        .map(|found| (found.name, found.methods));
    check("impls", large, &IMPLS);
}

fn check(what: &str, large: impl Iterator<Item = (String, usize)>, reasons: &[(&str, &str)]) {
    let large: Vec<(String, usize)> = large.collect();
    for (name, reason) in reasons {
        assert!(
            large.iter().any(|(found, _)| found == name),
            "{name} is not over the limit of {what}: take it out"
        );
        assert!(reason.split_whitespace().count() > 3, "{name}: this is no reason: {reason:?}");
    }
    let unreasoned: Vec<String> = large
        .iter()
        .filter(|(found, _)| !reasons.iter().any(|(name, _)| found == name))
        .map(|(found, size)| format!("{size} {found}"))
        .collect();
    let (count, list) = (unreasoned.len(), unreasoned.join("\n"));
    assert!(unreasoned.is_empty(), "{count} {what} are over the limit without a reason:\n{list}");
}
