//! Which file uses which: the paths in the code, followed through imports to the file that has the item.

use std::collections::{BTreeMap, BTreeSet};

use super::items::{identifier, words};
use super::source::Source;

/// The files that each file uses, by path.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// A path in a `use`, and the name that it gives to the item (`*` for all of them).
pub(crate) struct Import {
    pub(crate) path: Vec<String>,
    pub(crate) name: String,
}

struct Module<'a> {
    source: &'a Source,
    imports: Vec<Import>,
    /// The code without its `use` declarations.
    rest: String,
}

/// The modules of the crate, by their paths.
pub(crate) struct Modules<'a>(BTreeMap<Vec<String>, Module<'a>>);

/// Reads the graph of files. A path to an item that a file merely imports, or exports again, leads to the file where the
/// item is.
pub(crate) fn graph(sources: &[Source]) -> Graph {
    let modules = Modules::read(sources);
    let mut graph = Graph::new();
    for (name, module) in &modules.0 {
        let uses = graph.entry(module.source.path.clone()).or_default();
        let imported = module.imports.iter().map(|import| import.path.clone());
        for path in imported.chain(paths(&module.rest)) {
            if let Some((used, _)) = modules.resolve(name, &path)
                && used != *name
                && let Some(used) = modules.0.get(&used)
            {
                uses.insert(used.source.path.clone());
            }
        }
    }
    graph
}

impl<'a> Modules<'a> {
    pub(crate) fn read(sources: &'a [Source]) -> Self {
        let modules = sources.iter().filter(|source| !source.is_test).map(|source| {
            let (imports, rest) = imports(&source.code);
            (source.module(), Module { source, imports, rest })
        });
        Modules(modules.collect())
    }

    /// The module that a path leads to from another one, and what is left of the path there. Returns nothing for the paths
    /// of other crates.
    pub(crate) fn resolve(&self, from: &[String], path: &[String]) -> Option<(Vec<String>, Vec<String>)> {
        self.resolve_within(from, path, 16)
    }

    fn resolve_within(
        &self,
        from: &[String],
        path: &[String],
        hops: usize,
    ) -> Option<(Vec<String>, Vec<String>)> {
        let (mut module, mut rest) = match path.first()?.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (from.to_vec(), &path[1..]),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                (from[..from.len().checked_sub(ups)?].to_vec(), &path[ups..])
            }
            // A module below, or a name that this file has imported; else another crate's, or a type's.
            first => {
                let below = [from, &[first.to_string()]].concat();
                if !self.0.contains_key(&below) {
                    return self.follow(from, path, hops);
                }
                (from.to_vec(), path)
            }
        };
        while let Some((part, after)) = rest.split_first() {
            let below = [module.as_slice(), std::slice::from_ref(part)].concat();
            if !self.0.contains_key(&below) {
                break;
            }
            (module, rest) = (below, after);
        }
        self.follow(&module, rest, hops).or_else(|| Some((module, rest.to_vec())))
    }

    /// Where a path leads to whose first name is one that the module imports.
    fn follow(&self, module: &[String], path: &[String], hops: usize) -> Option<(Vec<String>, Vec<String>)> {
        let (name, rest) = path.split_first()?;
        let import = self.0.get(module)?.imports.iter().find(|import| import.name == *name)?;
        let followed = [import.path.as_slice(), rest].concat();
        self.resolve_within(module, &followed, hops.checked_sub(1)?)
    }
}

/// The imports, and the code without them.
fn imports(code: &str) -> (Vec<Import>, String) {
    let mut imports = Vec::new();
    let mut rest = code.to_string();
    for at in words(code, "use") {
        let Some(end) = code[at..].find(';').map(|found| at + found) else { continue };
        expand(&code[at + 3..end], &[], &mut imports);
        rest.replace_range(at..end, &" ".repeat(end - at));
    }
    (imports, rest)
}

/// Takes a tree of imports apart: `a::{b, c::{self, D as E}}`.
pub(crate) fn expand(tree: &str, before: &[String], imports: &mut Vec<Import>) {
    let tree = tree.trim();
    if let Some((path, branches)) = tree.split_once('{') {
        let mut before = before.to_vec();
        before.extend(segments(path.trim().trim_end_matches("::")));
        for branch in super::items::parts(branches.trim_end().strip_suffix('}').unwrap_or(branches)) {
            expand(branch, &before, imports);
        }
        return;
    }
    let (path, renamed) = tree.split_once(" as ").map_or((tree, None), |(path, name)| (path, Some(name)));
    let mut path = [before, &segments(path)].concat();
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let Some(last) = path.last().cloned() else { return };
    if last == "*" {
        path.pop();
    }
    imports.push(Import { path, name: renamed.map_or(last, |name| name.trim().to_string()) });
}

fn segments(path: &str) -> Vec<String> {
    path.split("::").map(|part| part.trim().to_string()).filter(|part| !part.is_empty()).collect()
}

/// All paths of more than one part in code.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while let Some(found) = code[at..].find("::") {
        let colons = at + found;
        let start =
            code[..colons].rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |before| before + 1);
        let mut path = vec![code[start..colons].to_string()];
        let mut end = colons;
        while code[end..].starts_with("::") {
            let part =
                identifier(&code[end + 2..end + 2 + code[end + 2..].find(['\n', ' ']).unwrap_or(0)], 0);
            let part = if part.is_empty() { identifier(&code[end + 2..], 0) } else { part };
            if part.is_empty() || !code[end + 2..].starts_with(part) {
                break;
            }
            path.push(part.to_string());
            end += 2 + part.len();
        }
        if !path[0].is_empty() && path.len() > 1 {
            paths.push(path);
        }
        at = end.max(colons + 2);
    }
    paths
}

/// The groups of files of which each uses each other, maybe over others: strongly connected components of more than one
/// file, the largest first.
pub(crate) fn circles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|file| (file, reachable(graph, file))).collect();
    let mut circles: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (file, reached) in &reach {
        let circle: BTreeSet<String> = reached
            .iter()
            .filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)))
            .map(|other| (*other).clone())
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    let mut circles: Vec<_> = circles.into_iter().collect();
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    circles
}

fn reachable<'a>(graph: &'a Graph, from: &String) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = graph.get(from).into_iter().flatten().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(graph.get(file).into_iter().flatten());
        }
    }
    reached
}

/// The part of the graph inside one storey.
pub(crate) fn inside(graph: &Graph, sources: &[Source], storey: &str) -> Graph {
    let files: BTreeSet<&String> =
        sources.iter().filter(|source| source.storey() == storey).map(|source| &source.path).collect();
    graph
        .iter()
        .filter(|(file, _)| files.contains(file))
        .map(|(file, uses)| {
            (file.clone(), uses.iter().filter(|used| files.contains(used)).cloned().collect())
        })
        .collect()
}

/// The top-level modules, in the order of their names.
pub(crate) fn storeys(sources: &[Source]) -> BTreeSet<String> {
    sources.iter().map(|source| source.storey().to_string()).collect()
}
