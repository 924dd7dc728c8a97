//! The sources as text: code without comments and tests, comments without code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One line of a comment.
pub(crate) struct Comment {
    /// What follows the slashes.
    pub(crate) text: String,
    /// Nothing but the comment stands in its line.
    pub(crate) is_alone: bool,
    /// Of the whole line, in characters.
    pub(crate) width: usize,
}

/// One source file.
pub(crate) struct Source {
    /// Relative to the directory of the sources, with slashes: `log/append.rs`.
    pub(crate) path: String,
    /// As many characters and lines as the file. Comments and tests are spaces, the content of strings and characters is
    /// underscores.
    pub(crate) code: String,
    pub(crate) comments: Vec<Comment>,
    pub(crate) lines: usize,
    /// All of the file is compiled for tests alone; its `code` is spaces.
    pub(crate) is_test: bool,
}

impl Source {
    /// The path of the module: `["log", "append"]`. Empty for `lib.rs`.
    pub(crate) fn module(&self) -> Vec<String> {
        let mut parts: Vec<String> = self.path.trim_end_matches(".rs").split('/').map(String::from).collect();
        if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
            parts.pop();
        }
        parts
    }

    /// The module of the crate's root that the file belongs to; `lib` for the root itself.
    pub(crate) fn storey(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The number of the line of a byte of `code`, from 1.
    pub(crate) fn line_of(&self, at: usize) -> usize {
        line_of(&self.code, at)
    }
}

pub(crate) fn line_of(code: &str, at: usize) -> usize {
    code.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The directory of the crate's own sources, or what `QUIPU_SOURCES` names.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("QUIPU_SOURCES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), PathBuf::from)
}

/// All source files of the library in a directory and below, sorted by path.
pub(crate) fn read(root: &Path) -> Vec<Source> {
    read_those(root, |path| !path.starts_with(root.join("bin")))
}

/// The source files of the binary: a crate of its own.
pub(crate) fn read_binary(root: &Path) -> Vec<Source> {
    read_those(root, |path| path.starts_with(root.join("bin")))
}

fn read_those(root: &Path, is_one: impl Fn(&PathBuf) -> bool) -> Vec<Source> {
    let mut paths = Vec::new();
    collect(root, &mut paths);
    assert!(paths.len() > 20, "the sources are not in {}", root.display());
    paths.retain(is_one);
    let mut sources: Vec<Source> = paths
        .iter()
        .map(|path| {
            let relative = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            split(relative, &std::fs::read_to_string(path).unwrap())
        })
        .collect();
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    blank_tests(&mut sources);
    sources
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Separates code and comments.
fn split(path: String, text: &str) -> Source {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(chars.len());
    let mut comments = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        let end = match chars[at] {
            '/' if next == '/' => {
                let end = find(&chars, at, |c| c == '\n');
                comments.push(comment(&chars, at, end));
                code.extend(std::iter::repeat_n(' ', end - at));
                end
            }
            '/' if next == '*' => {
                let end = block_comment_end(&chars, at);
                code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
                end
            }
            '"' => string(&chars, at, 0, false, &mut code),
            'r' if !continues_a_word(&chars, at) && raw_hashes(&chars, at + 1).is_some() => {
                let hashes = raw_hashes(&chars, at + 1).unwrap();
                code.push('r');
                code.extend(std::iter::repeat_n('#', hashes));
                string(&chars, at + 1 + hashes, hashes, true, &mut code)
            }
            '\'' => character_or_lifetime(&chars, at, next, &mut code),
            c => {
                code.push(if c.is_ascii() { c } else { '_' });
                at + 1
            }
        };
        at = end;
    }
    Source { path, code, comments, lines: text.lines().count(), is_test: false }
}

fn find(chars: &[char], from: usize, matches: impl Fn(char) -> bool) -> usize {
    chars[from..].iter().position(|c| matches(*c)).map_or(chars.len(), |found| from + found)
}

fn comment(chars: &[char], at: usize, end: usize) -> Comment {
    let start = chars[..at].iter().rposition(|c| *c == '\n').map_or(0, |found| found + 1);
    let text: String = chars[at..end].iter().collect();
    let is_doc = (text.starts_with("///") && !text.starts_with("////")) || text.starts_with("//!");
    Comment {
        text: text.chars().skip(if is_doc { 3 } else { 2 }).collect(),
        is_alone: chars[start..at].iter().all(|c| c.is_whitespace()),
        width: end - start,
    }
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut at = at;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

/// `b` and `c` may precede: so `br"` is looked at from its `r`, and only a longer word before it rules it out.
fn continues_a_word(chars: &[char], at: usize) -> bool {
    let is_word = |back: usize| {
        at.checked_sub(back).is_some_and(|before| chars[before].is_alphanumeric() || chars[before] == '_')
    };
    is_word(1) && (!matches!(chars[at - 1], 'b' | 'c') || is_word(2))
}

/// How many `#` stand before the quote of a raw string.
fn raw_hashes(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars[from..].iter().take_while(|c| **c == '#').count();
    (chars.get(from + hashes) == Some(&'"')).then_some(hashes)
}

/// A string from its quote on; returns where it ends.
fn string(chars: &[char], at: usize, hashes: usize, is_raw: bool, code: &mut String) -> usize {
    code.push('"');
    let mut at = at + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' if !is_raw => {
                code.push('_');
                at += 1;
                code.push(if chars.get(at) == Some(&'\n') { '\n' } else { '_' });
            }
            '"' if chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes => {
                code.push('"');
                code.extend(std::iter::repeat_n('#', hashes));
                return at + 1 + hashes;
            }
            '\n' => code.push('\n'),
            _ => code.push('_'),
        }
        at += 1;
    }
    at
}

fn character_or_lifetime(chars: &[char], at: usize, next: char, code: &mut String) -> usize {
    let end = if next == '\\' {
        find(chars, at + 3, |c| c == '\'') + 1
    } else if chars.get(at + 2) == Some(&'\'') {
        at + 3
    } else {
        code.push('\'');
        return at + 1;
    };
    code.push('\'');
    code.extend(std::iter::repeat_n('_', end - at - 2));
    code.push('\'');
    end
}

/// Blanks all items under `#[cfg(test)]`, and all files that such an item declares.
fn blank_tests(sources: &mut [Source]) {
    const TEST: &str = "#[cfg(test)]";
    let mut test_modules: BTreeSet<Vec<String>> = BTreeSet::new();
    for source in sources.iter_mut() {
        while let Some(start) = source.code.find(TEST) {
            let end = item_end(&source.code, start + TEST.len());
            let item = &source.code[start + TEST.len()..end];
            if let Some(name) = item.trim_end().strip_suffix(';').and_then(|item| item.split("mod ").nth(1)) {
                let mut module = source.module();
                module.push(name.trim().to_string());
                test_modules.insert(module);
            }
            source.code = blanked(&source.code, start, end);
        }
    }
    for source in sources {
        let module = source.module();
        source.is_test = (1..=module.len()).any(|parts| test_modules.contains(&module[..parts]));
        if source.is_test {
            source.code = blanked(&source.code, 0, source.code.len());
        }
    }
}

fn blanked(code: &str, start: usize, end: usize) -> String {
    let blank: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
    format!("{}{blank}{}", &code[..start], &code[end..])
}

/// Where the item ends that starts here: behind its `;`, its closing brace, or its comma.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0;
    for (offset, c) in code[from..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' | ',' if depth == 0 => return from + offset + 1,
            '{' if depth == 0 => return closing(code, from + offset) + 1,
            _ => {}
        }
    }
    code.len()
}

/// The closing bracket of the bracket at `open`.
pub(crate) fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_i32;
    for (offset, c) in code[open..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + offset;
        }
    }
    code.len() - 1
}

#[test]
fn code_and_comments_are_told_apart() {
    let text = r##"
/// A "quote" in a comment.
fn f<'a>(x: &'a str) -> char { g(x, "// no comment \" {", br#"}"{"#, '"', '\'', b'{') } // the end
/* { /* { */ */ struct S { a: u8 }
#[cfg(test)]
mod tests { fn t() { "}" } }
const C: u8 = 1;
"##;
    let mut sources = [split("a.rs".to_string(), text)];
    blank_tests(&mut sources);
    let [source] = sources;
    let lines: Vec<&str> = source.code.lines().map(str::trim).collect();
    assert_eq!(
        lines[2],
        r##"fn f<'a>(x: &'a str) -> char { g(x, "__________________", br#"___"#, '_', '__', b'_') }"##
    );
    assert_eq!(lines[3..], ["struct S { a: u8 }", "", "", "const C: u8 = 1;"]);
    let comments: Vec<&str> = source.comments.iter().map(|comment| comment.text.as_str()).collect();
    assert_eq!(comments, [" A \"quote\" in a comment.", " the end"]);
    assert!(source.comments[0].is_alone && !source.comments[1].is_alone);
}
