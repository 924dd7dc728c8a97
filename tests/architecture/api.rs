//! What the crate offers: every public item by its public path, compared with `tests/public_api.txt`.
//!
//! A change of that file in a commit is a change for users. `QUIPU_WRITE_API=1 cargo test --test architecture api` writes it.
//! Read from the text of the sources: private moves do not change it, macros would not be seen (there are none).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use super::graph::{Modules, expand};
use super::items::{after_angles, identifier, parts, words};
use super::source::{Source, closing, read, root};

const CRATE: &str = "quipu";

/// An item of a module, an impl or a trait.
struct Item<'a> {
    attributes: Vec<&'a str>,
    is_public: bool,
    /// `fn`, `struct`, `impl` and so on.
    kind: &'a str,
    /// From the visibility to the closing brace or semicolon.
    text: &'a str,
}

/// A module and a name in it.
type Id = (Vec<String>, String);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Inherent,
    OfTrait,
}

/// The public path, the heading and the lines of an impl.
type ListedImpl = (String, (Kind, String), BTreeSet<String>);

/// The lines below the heading of a public item.
#[derive(Default)]
struct Listed {
    heading: String,
    /// Fields, variants, items of a trait: in the order of the source.
    parts: Vec<String>,
    /// By the heading of the impl: those of no trait first.
    impls: BTreeMap<(Kind, String), BTreeSet<String>>,
}

struct Api<'a> {
    modules: Modules<'a>,
    items: BTreeMap<Vec<String>, Vec<Item<'a>>>,
    /// By public path; the second path of an item refers to its first.
    listed: BTreeMap<String, Listed>,
    public: BTreeMap<Id, String>,
}

#[test]
fn api_is_the_one_that_is_committed() {
    let sources = read(&root());
    let mut api = Api {
        modules: Modules::read(&sources),
        items: sources
            .iter()
            .filter(|source| !source.is_test)
            .map(|source| (source.module(), items(&source.code)))
            .collect(),
        listed: BTreeMap::new(),
        public: BTreeMap::new(),
    };
    api.list_module(&[], CRATE);
    api.list_impls(&sources);
    let now = api.print();
    assert!(now.lines().count() > 500, "the public items are not where this test looks for them");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/public_api.txt");
    if std::env::var_os("QUIPU_WRITE_API").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    let changes = diff(&committed, &now);
    assert!(
        changes.is_empty(),
        "the public API is not the one in tests/public_api.txt; QUIPU_WRITE_API=1 writes it:\n{changes}"
    );
}

impl<'a> Api<'a> {
    /// Lists the public items of a module under a path: those of its own first, then those of the modules below.
    fn list_module(&mut self, module: &[String], path: &str) {
        let mut below = Vec::new();
        let mut own: Vec<(Id, String)> = Vec::new();
        for item in self.items.get(module).into_iter().flatten().filter(|item| item.is_public) {
            match item.kind {
                "mod" => below.push(item.name().to_string()),
                "use" => {
                    let mut imports = Vec::new();
                    expand(item.text.split_once("use").unwrap().1.trim_end_matches(';'), &[], &mut imports);
                    for import in imports {
                        let (module, rest) = self.modules.resolve(module, &import.path).unwrap();
                        let [name] = rest.as_slice() else { panic!("a public name for {:?}", import.path) };
                        own.push(((module, name.clone()), import.name));
                    }
                }
                "impl" => {}
                _ => own.push(((module.to_vec(), item.name().to_string()), item.name().to_string())),
            }
        }
        for (id, name) in own {
            self.list_item(id, format!("{path}::{name}"));
        }
        for name in below {
            let module = [module, std::slice::from_ref(&name)].concat();
            let path = format!("{path}::{name}");
            self.listed.insert(path.clone(), Listed { heading: format!("mod {path}"), ..Listed::default() });
            self.list_module(&module, &path);
        }
    }

    fn list_item(&mut self, id: Id, path: String) {
        if let Some(first) = self.public.get(&id) {
            let heading = format!("use {path} = {first}");
            self.listed.insert(path, Listed { heading, ..Listed::default() });
            return;
        }
        let item = self.items[&id.0]
            .iter()
            .find(|item| item.kind != "impl" && item.kind != "use" && item.name() == id.1)
            .unwrap_or_else(|| panic!("{path}: {id:?} is not found"));
        let listed = list(item, &path);
        self.public.insert(id, path.clone());
        self.listed.insert(path, listed);
    }

    /// Adds the impls of public types and of public traits.
    fn list_impls(&mut self, sources: &[Source]) {
        let mut found = Vec::new();
        for source in sources.iter().filter(|source| !source.is_test) {
            let module = source.module();
            for item in self.items[&module].iter().filter(|item| item.kind == "impl") {
                found.extend(self.list_impl(&module, item));
            }
        }
        for (path, heading, lines) in found {
            self.listed.get_mut(&path).unwrap().impls.entry(heading).or_default().extend(lines);
        }
    }

    /// What a user can see of an impl.
    fn list_impl(&self, module: &[String], item: &Item<'_>) -> Option<ListedImpl> {
        let open = item.text.find('{').unwrap();
        let header = normal(item.text[..open].trim_start_matches("unsafe ").strip_prefix("impl")?);
        let (generics, rest) = match header.strip_prefix('<') {
            Some(_) => {
                let rest = after_angles(&header);
                (header[..header.len() - rest.len()].to_string(), rest.trim().to_string())
            }
            None => (String::new(), header.clone()),
        };
        let (interface, of) = match rest.split_once(" for ") {
            Some((interface, of)) => (Some(interface), of),
            None => (None, rest.as_str()),
        };
        let public = |ty: &str| self.public.get(&self.id_of(module, ty)?);
        let is_private = |ty: &str| self.id_of(module, ty).is_some_and(|id| !self.public.contains_key(&id));
        let inner = items(&item.text[open + 1..closing(item.text, open)]);
        let Some(interface) = interface else {
            let lines: BTreeSet<String> = inner
                .iter()
                .filter(|inner| inner.is_public)
                .map(|inner| inner.attributed(&signature(inner.text)))
                .collect();
            return (!lines.is_empty()).then_some((
                public(of)?.clone(),
                (Kind::Inherent, format!("impl{generics} {of}")),
                lines,
            ));
        };
        // A user cannot name a private trait or type.
        let arguments = interface.split_once('<').map_or("", |(_, arguments)| arguments);
        if is_private(interface) || arguments.split([',', '>', '<']).any(is_private) {
            return None;
        }
        let path = public(of).or_else(|| public(interface))?.clone();
        let is_plain = !of.contains(['<', '&', ' ']) && public(of).is_some();
        let (before, arguments) = interface.split_at(interface.find('<').unwrap_or(interface.len()));
        let mut heading = format!("impl{generics} {}{arguments}", before.rsplit("::").next()?);
        if !is_plain {
            write!(heading, " for {of}").unwrap();
        }
        let types =
            inner.iter().filter(|inner| inner.kind == "type").map(|inner| normal(inner.text)).collect();
        Some((path, (Kind::OfTrait, heading), types))
    }

    /// The crate's item that a type is, without references and arguments.
    fn id_of(&self, module: &[String], ty: &str) -> Option<Id> {
        let mut ty = ty.trim().trim_start_matches('&').trim_start();
        if ty.starts_with('\'') {
            ty = ty.split_once(' ')?.1;
        }
        let ty = ty.trim_start_matches("mut ").trim_start_matches("dyn ");
        let path: Vec<String> =
            ty.split(['<', ' ', '>']).next()?.split("::").map(|part| part.trim().to_string()).collect();
        if let [name] = path.as_slice()
            && self
                .items
                .get(module)?
                .iter()
                .any(|item| !matches!(item.kind, "impl" | "use") && item.name() == name)
        {
            return Some((module.to_vec(), name.clone()));
        }
        let (module, rest) = self.modules.resolve(module, &path)?;
        let [name] = rest.as_slice() else { return None };
        Some((module, name.clone()))
    }

    /// The line without the crate's modules before names of types.
    fn unqualified(&self, line: &str) -> String {
        let mut line = line.to_string();
        for module in self.items.keys().filter_map(|module| module.last()) {
            let qualifier = format!("{module}::");
            let found = |line: &str| {
                words(line, module).find(|at| {
                    let (before, after) = (&line[..*at], &line[at + module.len()..]);
                    !before.ends_with("::")
                        && after.starts_with("::")
                        && after[2..].starts_with(char::is_uppercase)
                })
            };
            while let Some(at) = found(&line) {
                line.replace_range(at..at + qualifier.len(), "");
            }
        }
        line
    }

    fn print(&self) -> String {
        let mut text = String::from("# Written by `QUIPU_WRITE_API=1 cargo test --test architecture api`.\n");
        for listed in self.listed.values() {
            writeln!(text, "\n{}", listed.heading).unwrap();
            for part in &listed.parts {
                writeln!(text, "    {}", self.unqualified(part)).unwrap();
            }
            for ((_, heading), lines) in &listed.impls {
                writeln!(text, "    {}", self.unqualified(heading)).unwrap();
                for line in lines {
                    writeln!(text, "        {}", self.unqualified(line)).unwrap();
                }
            }
        }
        text
    }
}

impl<'a> Item<'a> {
    fn name(&self) -> &'a str {
        let words = self.text.split_once(self.kind).map_or("", |(_, rest)| rest);
        identifier(words, 0)
    }

    /// The line with the attributes that change how the item may be used.
    fn attributed(&self, line: &str) -> String {
        let mut attributed = String::new();
        for attribute in &self.attributes {
            for kept in ["must_use", "non_exhaustive", "deprecated", "doc(hidden)"] {
                if attribute[2..].trim_start().starts_with(kept) {
                    write!(attributed, "#[{kept}] ").unwrap();
                }
            }
        }
        attributed + line
    }
}

/// What stands under the heading of a public item, but for its impls.
fn list(item: &Item<'_>, path: &str) -> Listed {
    let (_, after) = item.text.split_once(item.name()).unwrap();
    let mut listed = Listed::default();
    let heading = |after: &str| item.attributed(&normal(&format!("{} {path}{after}", item.kind)));
    match item.kind {
        "struct" => {
            let open = fields(after);
            listed.heading = heading(&after[..open.unwrap_or(after.len())]);
            let all = open.map_or(Vec::new(), |open| parts(&after[open + 1..closing(after, open)]));
            let all: Vec<&str> = all.into_iter().map(unattributed).collect();
            listed.parts =
                all.iter().filter(|field| field.starts_with("pub ")).map(|field| normal(field)).collect();
            if all.len() > listed.parts.len() {
                listed.parts.push("(private fields)".to_string());
            }
        }
        "enum" => {
            let open = after.find('{').unwrap();
            listed.heading = heading(&after[..open]);
            listed.parts = parts(&after[open + 1..closing(after, open)])
                .into_iter()
                .map(|variant| without_attributes(unattributed(variant)))
                .collect();
        }
        "trait" => {
            let open = after.find('{').unwrap();
            listed.heading = heading(&after[..open]);
            listed.parts = items(&after[open + 1..closing(after, open)])
                .iter()
                .map(|inner| {
                    let provided = if inner.text.ends_with('}') { " { .. }" } else { "" };
                    inner.attributed(&(signature(inner.text) + provided))
                })
                .collect();
        }
        _ => {
            let before = item.text.split(item.kind).next().unwrap().trim_start_matches("pub ");
            let text = signature(after);
            let text = if item.kind == "const" || item.kind == "static" {
                text.split(" =").next().unwrap()
            } else {
                &text
            };
            listed.heading = item.attributed(&normal(&format!("{before}{} {path}{text}", item.kind)));
        }
    }
    for derived in
        item.attributes.iter().filter_map(|attribute| attribute[2..].trim().strip_prefix("derive("))
    {
        for name in
            derived.trim_end_matches([']', ')']).split(',').map(str::trim).filter(|name| !name.is_empty())
        {
            let name = name.rsplit("::").next().unwrap();
            listed.impls.insert((Kind::OfTrait, format!("impl {name}")), BTreeSet::new());
        }
    }
    listed
}

/// Where the fields of a struct open, after its generics and bounds.
fn fields(after: &str) -> Option<usize> {
    let rest = if after.starts_with('<') { after_angles(after) } else { after };
    let open = rest.find(['{', '(', ';'])?;
    (!rest[open..].starts_with(';')).then_some(after.len() - rest.len() + open)
}

fn unattributed(mut code: &str) -> &str {
    while code.starts_with('#') {
        code = code[closing(code, 1) + 1..].trim_start();
    }
    code
}

/// A variant without the attributes of its fields.
fn without_attributes(variant: &str) -> String {
    let mut kept = variant.to_string();
    while let Some(start) = kept.find("#[") {
        let end = closing(&kept, start + 1) + 1;
        kept.replace_range(start..end, "");
    }
    normal(&kept)
}

/// The items at the top of this code.
fn items(code: &str) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut attributes = Vec::new();
    let mut at = 0;
    loop {
        at += code[at..].len() - code[at..].trim_start_matches(|c: char| c.is_whitespace() || c == ';').len();
        let rest = &code[at..];
        if rest.is_empty() {
            return items;
        }
        if rest.starts_with('#') {
            let end = closing(code, at + rest.find('[').unwrap()) + 1;
            attributes.push(&code[at..end]);
            at = end;
            continue;
        }
        let kind = kind(rest);
        let end = end(code, at, matches!(kind, "use" | "const" | "static" | "type"));
        let is_public = rest.starts_with("pub ");
        let attributes = std::mem::take(&mut attributes);
        items.push(Item { attributes, is_public, kind, text: code[at..end].trim_end_matches(';') });
        at = end;
    }
}

fn kind(item: &str) -> &'static str {
    const KINDS: [&str; 10] =
        ["fn", "struct", "enum", "trait", "impl", "mod", "use", "type", "static", "const"];
    let mut words = item.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    let found = words.find_map(|word| KINDS.into_iter().find(|kind| *kind == word)).unwrap();
    // `const fn` is a function.
    if found == "const" && words.next() == Some("fn") { "fn" } else { found }
}

/// Where an item ends: after its semicolon, or after its body.
fn end(code: &str, from: usize, to_semicolon: bool) -> usize {
    let mut at = from;
    while let Some(found) = code[at..].find(['(', '[', '{', ';']) {
        at += found;
        if code[at..].starts_with(';') {
            return at + 1;
        }
        let close = closing(code, at) + 1;
        if code[at..].starts_with('{') && !to_semicolon {
            return close;
        }
        at = close;
    }
    code.len()
}

/// The item without its body.
fn signature(item: &str) -> String {
    let mut at = 0;
    while let Some(found) = item[at..].find(['(', '[', '{', ';']) {
        at += found;
        if item[at..].starts_with(['{', ';']) {
            return normal(&item[..at]);
        }
        at = closing(item, at) + 1;
    }
    normal(item)
}

/// Independent of how lines are broken, and of the private modules in paths.
fn normal(code: &str) -> String {
    let mut code = code.split_whitespace().collect::<Vec<_>>().join(" ");
    for (from, to) in [
        ("( ", "("),
        (", )", ")"),
        (" )", ")"),
        ("< ", "<"),
        (", >", ">"),
        (",)", ")"),
        (", }", " }"),
        (" .", "."),
        ("[ ", "["),
        // How a parameter is bound is the function's own affair.
        ("(mut ", "("),
        (", mut ", ", "),
    ] {
        code = code.replace(from, to);
    }
    for start in ["crate::", "super::", "self::"] {
        while let Some(at) = code.find(start) {
            let path = &code[at..];
            let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(path.len());
            let name = path[..end].rsplit("::").next().unwrap().to_string();
            code.replace_range(at..at + end, &name);
        }
    }
    code
}

/// The lines that differ, `-` before and `+` after, under the headings that they belong to.
fn diff(before: &str, after: &str) -> String {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    // The longest common part from here on.
    let mut common = vec![vec![0_u32; after.len() + 1]; before.len() + 1];
    for (b, line) in before.iter().enumerate().rev() {
        for (a, other) in after.iter().enumerate().rev() {
            common[b][a] =
                if line == other { common[b + 1][a + 1] + 1 } else { common[b + 1][a].max(common[b][a + 1]) };
        }
    }
    let (mut b, mut a) = (0, 0);
    let (mut heading, mut shown) = ("", "");
    let mut text = String::new();
    while b < before.len() || a < after.len() {
        let (sign, line) = if b < before.len() && a < after.len() && before[b] == after[a] {
            (b, a) = (b + 1, a + 1);
            (' ', before[b - 1])
        } else if a == after.len() || (b < before.len() && common[b + 1][a] >= common[b][a + 1]) {
            b += 1;
            ('-', before[b - 1])
        } else {
            a += 1;
            ('+', after[a - 1])
        };
        let is_heading = !line.is_empty() && !line.starts_with(' ');
        if is_heading {
            heading = line;
        }
        if sign != ' ' && !line.is_empty() {
            if !is_heading && shown != heading {
                writeln!(text, "  {heading}").unwrap();
                shown = heading;
            }
            writeln!(text, "{sign} {line}").unwrap();
        }
    }
    text
}
