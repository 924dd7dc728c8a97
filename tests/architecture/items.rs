//! Functions, structs and impls, found in the text of the code.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, closing};

pub(crate) struct Function {
    pub(crate) path: String,
    pub(crate) name: String,
    pub(crate) line: usize,
    /// From the line with `fn` to the line of the closing brace.
    pub(crate) lines: usize,
}

pub(crate) struct Struct {
    pub(crate) path: String,
    pub(crate) name: String,
    /// The types of its fields.
    pub(crate) fields: Vec<String>,
}

impl Struct {
    /// A list of settings is as long as there are settings.
    pub(crate) fn is_config(&self) -> bool {
        self.name.ends_with("Config") || self.name.ends_with("Settings")
    }
}

/// The methods of a type, over all its inherent impls.
pub(crate) struct Methods {
    pub(crate) name: String,
    pub(crate) methods: usize,
    pub(crate) files: BTreeSet<String>,
}

/// Where a keyword stands as a word of its own, outside other words.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !is_word(at.checked_sub(1).and_then(|before| bytes.get(before)))
            && !is_word(bytes.get(at + word.len()))
    })
}

/// The identifier that starts here, after white space.
pub(crate) fn identifier(code: &str, from: usize) -> &str {
    let code = code[from..].trim_start();
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    &code[..end]
}

pub(crate) fn functions(sources: &[Source]) -> Vec<Function> {
    let mut found = Vec::new();
    for source in sources {
        for at in words(&source.code, "fn") {
            let name = identifier(&source.code, at + 2);
            let Some(open) = body(&source.code, at) else { continue };
            if name.is_empty() {
                continue;
            }
            let line = source.line_of(at);
            let lines = source.line_of(closing(&source.code, open)) - line + 1;
            found.push(Function { path: source.path.clone(), name: name.to_string(), line, lines });
        }
    }
    found
}

/// The opening brace of an item, if it has one before its `;`.
pub(crate) fn body(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0;
    for (offset, c) in code[from..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth == 0 => return None,
            '{' if depth == 0 => return Some(from + offset),
            _ => {}
        }
    }
    None
}

pub(crate) fn structs(sources: &[Source]) -> Vec<Struct> {
    let mut found = Vec::new();
    for source in sources {
        for at in words(&source.code, "struct") {
            let name = identifier(&source.code, at + 6);
            let from = at + 6 + source.code[at + 6..].find(name).unwrap() + name.len();
            let Some(open) = fields_start(&source.code, from) else { continue };
            let fields = parts(&source.code[open + 1..closing(&source.code, open)])
                .into_iter()
                .map(|field| field_type(field).to_string())
                .collect();
            found.push(Struct { path: source.path.clone(), name: name.to_string(), fields });
        }
    }
    found
}

/// The brace or parenthesis that opens the fields, after generics and bounds.
fn fields_start(code: &str, from: usize) -> Option<usize> {
    let mut angles = 0;
    for (offset, c) in code[from..].char_indices() {
        match c {
            '<' => angles += 1,
            '>' => angles -= 1,
            ';' => return None,
            '{' | '(' if angles == 0 => return Some(from + offset),
            _ => {}
        }
    }
    None
}

/// What commas separate at the top, without empty parts.
pub(crate) fn parts(code: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    let bytes = code.as_bytes();
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' | '<' => depth += 1,
            '>' if at > 0 && matches!(bytes[at - 1], b'-' | b'=') => {}
            ')' | ']' | '}' | '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&code[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&code[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// The type of `#[x] pub(y) name: Type`, or of a field without a name.
fn field_type(field: &str) -> &str {
    let mut field = field;
    while field.starts_with('#') {
        field = field[closing(field, 1) + 1..].trim_start();
    }
    match field.split_once(':') {
        Some((name, of)) if !of.starts_with(':') && !name.contains('<') => of.trim(),
        _ => field.trim(),
    }
}

/// The types that have methods of their own, those with the most first. Types of one name in two files are two.
pub(crate) fn methods(sources: &[Source]) -> Vec<Methods> {
    let mut types: BTreeMap<(String, String), Methods> = BTreeMap::new();
    let owners: BTreeSet<(String, String)> = ["struct", "enum", "union"]
        .iter()
        .flat_map(|word| {
            sources.iter().flat_map(move |source| {
                words(&source.code, word)
                    .map(|at| (identifier(&source.code, at + word.len()).to_string(), source.path.clone()))
            })
        })
        .collect();
    for source in sources {
        for at in words(&source.code, "impl") {
            let Some((name, open)) = inherent(&source.code, at) else { continue };
            let body = &source.code[open..=closing(&source.code, open)];
            let methods = words(body, "fn").filter(|at| depth(body, *at) == 1).count();
            let owner = owner(&owners, &name, &source.path);
            let entry = types.entry((name.clone(), owner)).or_insert_with(|| Methods {
                name,
                methods: 0,
                files: BTreeSet::new(),
            });
            entry.methods += methods;
            entry.files.insert(source.path.clone());
        }
    }
    let mut types: Vec<Methods> = types.into_values().collect();
    types.sort_by(|a, b| b.methods.cmp(&a.methods).then(a.name.cmp(&b.name)));
    types
}

fn depth(body: &str, at: usize) -> i32 {
    body[..at].chars().fold(0, |depth, c| match c {
        '{' => depth + 1,
        '}' => depth - 1,
        _ => depth,
    })
}

/// The name of the type and the opening brace, if this is an impl of no trait.
fn inherent(code: &str, at: usize) -> Option<(String, usize)> {
    let line_start = code[..at].rfind('\n').map_or(0, |found| found + 1);
    let before = code[line_start..at].trim();
    if !before.is_empty() && before != "unsafe" {
        return None;
    }
    let open = body(code, at)?;
    let mut header = code[at + 4..open].trim();
    if header.starts_with('<') {
        header = after_angles(header).trim();
    }
    if words(header, "for").next().is_some() {
        return None;
    }
    let path = header.split(['<', ' ', '\n']).next()?;
    Some((path.rsplit("::").next()?.to_string(), open))
}

/// What follows the closing angle bracket of the one at the start.
pub(crate) fn after_angles(code: &str) -> &str {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if at > 0 && matches!(code.as_bytes()[at - 1], b'-' | b'=') => {}
            '>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &code[at + 1..];
        }
    }
    ""
}

/// The file that declares the type: this one, else the one whose path has the most in common with it.
fn owner(owners: &BTreeSet<(String, String)>, name: &str, path: &str) -> String {
    let common =
        |other: &str| path.split('/').zip(other.split('/')).take_while(|(here, there)| here == there).count();
    owners
        .iter()
        .filter(|(owned, _)| owned == name)
        .max_by_key(|(_, file)| (file == path, common(file)))
        .map_or_else(|| path.to_string(), |(_, file)| file.clone())
}
