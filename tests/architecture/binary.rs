//! The binary `quipu`: a program of its own on the public API, with the limits of the house.

use super::items::functions;
use super::measures::{FILE_LINES, FUNCTION_LINES};
use super::prose::{IDIOMS, Prose, WIDTH};
use super::source::{read_binary, root};

/// What one file may do and no other: the words that give it away, and the file.
const RESERVED: [(&[&str], &[&str], &str); 3] = [
    (
        &["Broker::open", ".open(", "BrokerConfig::new()"],
        &["bin/quipu/open.rs", "bin/quipu/commands/bench.rs"],
        "opening a directory",
    ),
    (&["stdout()", "stderr()"], &["bin/quipu/output.rs", "bin/quipu/progress.rs"], "printing"),
    // They panic where the output is a pipe that was closed.
    (&["println!(", "print!(", "eprint!(", ".unwrap()", ".expect(", "todo!("], &[], "panics"),
];

#[test]
fn what_one_file_of_the_binary_may_do_no_other_does() {
    let mut wrong = Vec::new();
    for source in read_binary(&root()) {
        for (words, places, what) in RESERVED {
            let is_allowed = places.contains(&source.path.as_str());
            for (number, line) in source.code.lines().enumerate().filter(|_| !is_allowed) {
                if words.iter().any(|word| line.contains(word)) {
                    wrong.push(format!("{}:{}: {what}: {}", source.path, number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "done in the wrong file:\n{}", wrong.join("\n"));
}

#[test]
fn files_and_functions_of_the_binary_are_short() {
    let sources = read_binary(&root());
    let files = sources.iter().filter(|source| source.lines > FILE_LINES);
    let mut large: Vec<String> = files.map(|source| format!("{} {}", source.lines, source.path)).collect();
    let functions = functions(&sources).into_iter().filter(|function| function.lines > FUNCTION_LINES);
    large.extend(functions.map(|function| format!("{} {} {}", function.lines, function.path, function.name)));
    assert!(large.is_empty(), "over the limits:\n{}", large.join("\n"));
}

#[test]
fn comments_of_the_binary_are_plain_and_narrow() {
    let mut wrong = Vec::new();
    for source in read_binary(&root()) {
        let prose = Prose::of_comments(&source);
        let idioms = IDIOMS.iter().flat_map(|(_, phrases)| *phrases);
        wrong.extend(
            idioms.filter(|idiom| prose.count(idiom) > 0).map(|idiom| format!("{}: {idiom}", source.path)),
        );
        let wide = source.comments.iter().filter(|comment| comment.is_alone && comment.width > WIDTH);
        wrong.extend(wide.map(|comment| format!("{}: over {WIDTH} columns:{}", source.path, comment.text)));
    }
    assert!(wrong.is_empty(), "in comments:\n{}", wrong.join("\n"));
}
