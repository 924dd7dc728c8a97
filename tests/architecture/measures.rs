//! The measures of the house in one table: `.ci/measures` prints it, for this checkout or for another commit.

use std::collections::BTreeSet;

use super::graph::{circles, graph, inside, storeys};
use super::items::{functions, methods, structs, words};
use super::prose::{CONTRACT, IDIOMS, Totals};
use super::source::{Source, read, root};

pub(crate) const FUNCTION_LINES: usize = 70;
pub(crate) const FILE_LINES: usize = 500;
pub(crate) const STRUCT_FIELDS: usize = 16;
pub(crate) const IMPL_METHODS: usize = 50;

#[test]
#[ignore = "prints a table and checks nothing: .ci/measures runs it"]
fn table() {
    let sources = read(&root());
    println!("| measure | value |");
    println!("|---|---|");
    sizes(&sources);
    prose(&sources);
    modules(&sources);
}

fn row(measure: &str, value: impl std::fmt::Display) {
    println!("| {measure} | {value} |");
}

fn sizes(sources: &[Source]) {
    let code_lines: usize =
        sources.iter().map(|source| source.code.lines().filter(|line| !line.trim().is_empty()).count()).sum();
    let files = sources.iter().filter(|source| !source.is_test).count();
    row("code lines / files", format!("{code_lines} / {files}"));

    let mut functions = functions(sources);
    functions.sort_by_key(|function| function.lines);
    let at = |share: f64| functions[((functions.len() - 1) as f64 * share).round() as usize].lines;
    row("functions", functions.len());
    row("function p90 / p99 / max", format!("{} / {} / {}", at(0.9), at(0.99), at(1.0)));
    for function in functions.iter().rev().take_while(|function| function.lines > FUNCTION_LINES) {
        let place = format!("{}:{} {}", function.path, function.line, function.name);
        row(&format!("function over {FUNCTION_LINES} lines"), format!("{} {place}", function.lines));
    }
    for source in sources.iter().filter(|source| source.lines > FILE_LINES) {
        let kind = if source.is_test { " (tests)" } else { "" };
        row(&format!("file over {FILE_LINES} lines"), format!("{} {}{kind}", source.lines, source.path));
    }

    let mut structs = structs(sources);
    structs.sort_by_key(|found| std::cmp::Reverse(found.fields.len()));
    let largest = structs.iter().find(|found| !found.is_config()).unwrap();
    row("largest struct that is not config", format!("{} {} fields", largest.name, largest.fields.len()));
    for found in structs.iter().take_while(|found| found.fields.len() > STRUCT_FIELDS) {
        let kind = if found.is_config() { " (config)" } else { "" };
        row(
            &format!("struct over {STRUCT_FIELDS} fields"),
            format!("{} {} in {}{kind}", found.fields.len(), found.name, found.path),
        );
    }
    let methods = methods(sources);
    row(
        "most spread impl",
        format!("{}: {} methods in {} files", methods[0].name, methods[0].methods, methods[0].files.len()),
    );
    for found in methods.iter().take_while(|found| found.methods > IMPL_METHODS) {
        row(
            &format!("impl over {IMPL_METHODS} methods"),
            format!("{} {} in {} files", found.methods, found.name, found.files.len()),
        );
    }

    let fields: Vec<&String> = structs.iter().flat_map(|found| &found.fields).collect();
    let having =
        |parts: &[&str]| fields.iter().filter(|of| parts.iter().any(|part| of.contains(part))).count();
    row(
        "lock / condition / atomic fields",
        format!("{} / {} / {}", having(&["Mutex<", "RwLock<"]), having(&["Condvar"]), having(&["Atomic"])),
    );
    let asserts: usize = sources
        .iter()
        .map(|source| {
            ["assert!", "assert_eq!", "assert_ne!", "debug_assert!", "debug_assert_eq!", "debug_assert_ne!"]
                .iter()
                .map(|name| words(&source.code, name.trim_end_matches('!')).count())
                .sum::<usize>()
        })
        .sum();
    row("asserts in code", asserts);
}

fn prose(sources: &[Source]) {
    let totals = Totals::of(sources);
    row("comment lines", totals.comment_lines);
    row("comment lines wider than 100", format!("{:.1}%", totals.wide_percent()));
    row("words of comment", totals.words);
    for (name, _) in IDIOMS {
        row(&format!("\"{name}\" per 1,000 words"), format!("{:.2}", totals.per_thousand(name)));
    }
    row("these idioms together", format!("{:.2}", totals.idioms_per_thousand()));
    for (name, _) in CONTRACT {
        row(&format!("\"{name}\" per 1,000 words"), format!("{:.2}", totals.per_thousand(name)));
    }
}

fn modules(sources: &[Source]) {
    let graph = graph(sources);
    for storey in storeys(sources) {
        for circle in circles(&inside(&graph, sources, &storey)) {
            let files: Vec<&str> = circle.iter().map(String::as_str).collect();
            row(
                &format!("circle of files inside `{storey}`"),
                format!("{}: {}", files.len(), files.join(", ")),
            );
        }
    }
    for circle in circles(&graph) {
        let storeys: BTreeSet<&str> =
            circle.iter().filter_map(|file| file.split(['/', '.']).next()).collect();
        if storeys.len() > 1 {
            let files: Vec<&str> = circle.iter().map(String::as_str).collect();
            row("circle of files over several storeys", format!("{}: {}", files.len(), files.join(", ")));
        }
    }
}
