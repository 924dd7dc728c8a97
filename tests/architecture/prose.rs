//! Comments and documents: words that the house does not use, and lines that are too wide.

use std::collections::BTreeMap;
use std::path::Path;

use super::source::{Source, read, root};

/// Words and phrases that stand for something shorter or plainer (CONTRIBUTING.md has the table). They are counted together;
/// a phrase is looked for without regard to case, between ends of words.
pub(crate) const IDIOMS: [(&str, &[&str]); 4] = [
    ("behind", &["behind"]),
    ("whoever, nobody, somebody, anybody", &["whoever", "nobody", "somebody", "anybody"]),
    ("what is, what was", &["what is", "what was"]),
    ("anew, begun, goes on, go on, sees to it", &["anew", "begun", "goes on", "go on", "sees to it"]),
];

/// Words of contracts: those that a reader looks for.
pub(crate) const CONTRACT: [(&str, &[&str]); 3] =
    [("must", &["must"]), ("return, returns", &["return", "returns"]), ("because", &["because"])];

pub(crate) const WIDTH: usize = 100;

/// What is written, without code: in lower case, its words separated by one space each.
pub(crate) struct Prose {
    text: String,
}

impl Prose {
    /// The comments of a source file, outside blocks of code.
    pub(crate) fn of_comments(source: &Source) -> Self {
        Prose::of_lines(source.comments.iter().map(|comment| comment.text.as_str()))
    }

    /// A document in Markdown, outside code, in blocks and in lines.
    pub(crate) fn of_markdown(text: &str) -> Self {
        let mut prose = Prose::of_lines(text.lines());
        prose.text = prose
            .text
            .split('`')
            .step_by(2)
            .collect::<Vec<_>>()
            .join("x")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        prose
    }

    fn of_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut in_code = false;
        let mut text = String::new();
        for line in lines {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            } else if !in_code {
                text.extend(line.split_whitespace().flat_map(|word| [word, " "]));
            }
        }
        Prose { text: text.to_lowercase() }
    }

    pub(crate) fn words(&self) -> usize {
        self.text.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).count()
    }

    pub(crate) fn count(&self, phrase: &str) -> usize {
        super::items::words(&self.text, phrase).count()
    }

    pub(crate) fn count_all(&self, phrases: &[&str]) -> usize {
        phrases.iter().map(|phrase| self.count(phrase)).sum()
    }
}

/// Counts over all comments.
pub(crate) struct Totals {
    pub(crate) words: usize,
    pub(crate) found: BTreeMap<&'static str, usize>,
    pub(crate) comment_lines: usize,
    pub(crate) wide_lines: usize,
}

impl Totals {
    pub(crate) fn of(sources: &[Source]) -> Self {
        let mut totals = Totals { words: 0, found: BTreeMap::new(), comment_lines: 0, wide_lines: 0 };
        for source in sources {
            let prose = Prose::of_comments(source);
            totals.words += prose.words();
            for (name, phrases) in IDIOMS.into_iter().chain(CONTRACT) {
                *totals.found.entry(name).or_default() += prose.count_all(phrases);
            }
            let lines = source.comments.iter().filter(|comment| comment.is_alone);
            totals.comment_lines += lines.clone().count();
            totals.wide_lines += lines.filter(|comment| comment.width > WIDTH).count();
        }
        totals
    }

    pub(crate) fn per_thousand(&self, name: &str) -> f64 {
        self.found[name] as f64 * 1e3 / self.words as f64
    }

    pub(crate) fn idioms_per_thousand(&self) -> f64 {
        IDIOMS.iter().map(|(name, _)| self.per_thousand(name)).sum()
    }

    pub(crate) fn wide_percent(&self) -> f64 {
        self.wide_lines as f64 * 100.0 / self.comment_lines as f64
    }
}

/// The most that is left of these idioms in src/, per 1,000 words of comment. The target is 2.
const IDIOMS_PER_1000: f64 = 0.5;
/// The most that is left of the lines of comments in src/ that are wider than [`WIDTH`], in percent. The target is 3.
const WIDE_PERCENT: f64 = 1.0;
/// How much better it may be before the constant has to follow.
const SLACK: f64 = 1.0;

/// Idioms in the documents beside the sources, by file.
const DOCUMENTS: [(&str, usize); 5] = [
    ("README.md", 0),
    ("BENCHMARKS.md", 0),
    ("CHANGELOG.md", 0),
    ("CONTRIBUTING.md", 0),
    ("src/format/FORMAT.md", 0),
];

/// A file and a phrase that it may use, and why.
const ALLOWED: [(&str, &str, &str); 0] = [];

#[test]
fn comments_avoid_idioms() {
    let sources = read(&root());
    let count = |source: &Source| {
        let prose = Prose::of_comments(source);
        IDIOMS.iter().map(|(_, phrases)| prose.count_all(phrases)).sum()
    };
    let found = Totals::of(&sources).idioms_per_thousand();
    check("idioms per 1,000 words of comment", found, IDIOMS_PER_1000, &most_in(&sources, count));
}

#[test]
fn comments_wrap_at_100_columns() {
    let sources = read(&root());
    let count = |source: &Source| {
        source.comments.iter().filter(|comment| comment.is_alone && comment.width > WIDTH).count()
    };
    let found = Totals::of(&sources).wide_percent();
    check("percent of lines of comment over 100 columns", found, WIDE_PERCENT, &most_in(&sources, count));
}

fn check(what: &str, found: f64, most: f64, places: &str) {
    assert!(found <= most, "{what}: {found:.2}, over {most}; most in {places}");
    assert!(found > most - SLACK || most <= SLACK, "{what}: {found:.2}: lower the constant {most}");
}

/// The ten files with most of something.
fn most_in(sources: &[Source], count: impl Fn(&Source) -> usize) -> String {
    let mut counts: Vec<(usize, &str)> =
        sources.iter().map(|source| (count(source), source.path.as_str())).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts.iter().take(10).map(|(count, path)| format!("{path} ({count})")).collect::<Vec<_>>().join(", ")
}

#[test]
fn documents_avoid_idioms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for (path, most) in DOCUMENTS {
        let prose = Prose::of_markdown(&std::fs::read_to_string(root.join(path)).unwrap());
        let allowed =
            |phrase: &str| ALLOWED.iter().any(|(file, allowed, _)| *file == path && *allowed == phrase);
        let found: Vec<(&str, usize)> = IDIOMS
            .iter()
            .flat_map(|(_, phrases)| *phrases)
            .filter(|phrase| !allowed(phrase))
            .map(|phrase| (*phrase, prose.count(phrase)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let count: usize = found.iter().map(|(_, count)| count).sum();
        if count != most {
            wrong.push(format!("{path}: {count}, {most} in the table: {found:?}"));
        }
        for (_, phrase, reason) in ALLOWED.iter().filter(|(file, ..)| *file == path) {
            assert!(
                prose.count(phrase) > 0,
                "{path} does not use {phrase:?} ({reason}): take it out of the table"
            );
        }
    }
    assert!(
        wrong.is_empty(),
        "idioms in documents; lower the table if they are fewer:\n{}",
        wrong.join("\n")
    );
}

/// The README is the front page on docs.rs and crates.io too, where a relative link leads nowhere.
#[test]
fn every_link_of_the_front_page_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("README.md")).unwrap();
    let targets: Vec<&str> =
        page.split("](").skip(1).map(|after| after.split_once(')').map_or(after, |(to, _)| to)).collect();
    assert!(targets.len() > 10, "{targets:?}");
    for target in targets {
        assert!(target.starts_with("https://"), "{target} is relative");
        let page = target.strip_prefix("https://docs.rs/quipu/latest/quipu/guide/");
        let file = target.strip_prefix("https://docs.rs/crate/quipu/latest/source/");
        let there = match (page, file) {
            (Some(page), _) => format!("src/guide/{}.md", page.trim_end_matches('/')),
            (_, Some(file)) => file.to_string(),
            _ => continue,
        };
        assert!(root.join(&there).is_file(), "{target}: there is no {there}");
    }
}
