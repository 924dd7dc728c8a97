//! Which module may use which: the rows of the house, the rows inside its storeys, and no circles of files.

use super::graph::{circles, graph, inside, storeys};
use super::source::{read, root};

/// The rows of the house, top to bottom. A module may use its own row's modules only where that row is a directory of its
/// own, or where the row says so.
const ROWS: [(&str, &[&str]); 10] = [
    ("words", &["types", "error", "record", "config", "clock", "sync", "stats", "rng", "version", "event"]),
    ("bytes and medium", &["format", "storage"]),
    ("engine", &["engine"]),
    ("one file", &["segment"]),
    ("one log", &["log"]),
    // The handle, transaction/mod.rs, is below the broker.
    (
        "several logs",
        &["transaction::commit", "transaction::journal", "transaction::records", "transaction::recovery"],
    ),
    ("groups", &["group"]),
    ("broker", &["broker"]),
    (
        "handles",
        &[
            "consumer",
            "edges",
            "transaction",
            "topic",
            "records",
            "reader",
            "producer",
            "partitioner",
            "projection",
            "offline",
            "read_only",
            "stream",
            "testing",
        ],
    ),
    ("root", &["lib", "unwind"]),
];

/// The module of a file that has a row: the storey, or a part of it that is named for itself.
fn place_of(path: &str) -> String {
    let path = path.trim_end_matches(".rs").replace('/', "::");
    match ROWS.iter().any(|(_, modules)| modules.contains(&path.as_str())) {
        true => path,
        false => path.split("::").next().unwrap().to_string(),
    }
}

fn row_of(module: &str) -> usize {
    ROWS.iter()
        .position(|(_, modules)| modules.contains(&module))
        .unwrap_or_else(|| panic!("the module {module} has no place in the house: add it to a row"))
}

/// A row inside a storey: modules by the name of their file or directory, `mod` for the storey's own `mod.rs`.
struct Row {
    modules: &'static [&'static str],
    /// They may use each other, without a circle of files.
    among_themselves: bool,
}

const fn apart(modules: &'static [&'static str]) -> Row {
    Row { modules, among_themselves: false }
}

const fn together(modules: &'static [&'static str]) -> Row {
    Row { modules, among_themselves: true }
}

/// The rows inside the storeys, top to bottom: a module uses modules of the rows above its own, and its own files. In a storey
/// that stands here each module has a row.
const INSIDE: [(&str, &[Row]); 17] = [
    (
        "format",
        &[
            apart(&["mod", "digest", "names", "varint"]),
            apart(&["reader"]),
            apart(&["batch", "compression", "envelope", "offsets"]),
            apart(&[
                "body",
                "backup",
                "checkpoint",
                "index",
                "journal",
                "key_hash",
                "owner",
                "producers",
                "segment",
                "shipment",
            ]),
            apart(&["packing"]),
            apart(&["key_index", "manifest", "settings"]),
            apart(&["catalog"]),
        ],
    ),
    (
        "storage",
        &[
            apart(&["limits", "mmap"]),
            apart(&["mod"]),
            apart(&["budget", "descriptors", "faults", "gate", "mem", "overlay"]),
            apart(&["fs"]),
        ],
    ),
    (
        "engine",
        &[
            apart(&["identity", "opened"]),
            apart(&["observe"]),
            apart(&["events"]),
            apart(&["files", "held_files", "notify", "pool", "reserve", "timer", "work"]),
            apart(&["publish", "room", "unpacked"]),
            apart(&["mod"]),
            apart(&["parallel"]),
        ],
    ),
    (
        "segment",
        &[
            apart(&["copy", "create", "map", "marks", "name", "point", "window"]),
            apart(&["handles", "view"]),
            apart(&["source"]),
            apart(&["walker"]),
            apart(&["index", "read"]),
            together(&["keys", "mod"]),
            apart(&["batch", "builder"]),
        ],
    ),
    (
        "log",
        &[
            // The parts of a log, without the log.
            apart(&[
                "commit",
                "compactor",
                "counters",
                "ends",
                "health",
                "inherited",
                "invariants",
                "maxima",
                "producers",
                "raw_batches",
                "recovered_tail",
                "settings",
                "transitions",
                "zeros",
            ]),
            apart(&["manifest"]),
            apart(&["journal", "list", "switch", "sync_state", "tail", "writer"]),
            apart(&["recovery"]),
            // The log, and the operations on it.
            apart(&["mod"]),
            apart(&["ahead", "self_check", "successors"]),
            apart(&["create", "cursor", "durability", "streams", "walk", "write"]),
            apart(&["idempotence", "lookup"]),
            apart(&["open", "roll"]),
            apart(&["follow", "loss", "retention", "truncate"]),
            apart(&["append", "maintenance", "participate", "redo", "replicate"]),
            apart(&["compaction"]),
            apart(&["erase"]),
            apart(&["close", "cut", "reopen", "statistics"]),
        ],
    ),
    (
        "transaction",
        &[
            apart(&["records"]),
            apart(&["journal"]),
            apart(&["commit", "recovery"]),
            apart(&["pending"]),
            apart(&["mod"]),
        ],
    ),
    (
        "group",
        &[
            apart(&["assign", "pattern"]),
            apart(&["share"]),
            apart(&["member", "owners"]),
            apart(&["targets"]),
            apart(&["state"]),
            apart(&["changes", "guard", "host", "registry"]),
            apart(&["offset_table"]),
            apart(&["commit", "offsets"]),
            apart(&["joined"]),
            apart(&["mod"]),
        ],
    ),
    (
        "broker",
        &[
            apart(&["store", "topic_state"]),
            apart(&["checkpoint", "prepare", "producer_names", "topics", "trash"]),
            apart(&["maintenance"]),
            apart(&["inner"]),
            apart(&["catalog", "groups", "producers"]),
            apart(&["open", "unknown"]),
            apart(&["backup", "follow"]),
            apart(&["mod"]),
        ],
    ),
    (
        "consumer",
        &[
            apart(&["departure", "early", "offsets"]),
            apart(&["commit"]),
            apart(&["admin", "counted", "rebalance"]),
            apart(&["member"]),
            apart(&["handle"]),
            apart(&["builder", "settings"]),
            apart(&["mod"]),
        ],
    ),
    (
        "producer",
        &[
            apart(&["config", "destination", "doorbell", "failure", "original", "refused", "room", "sink"]),
            apart(&["core"]),
            apart(&["outcome"]),
            apart(&["batch", "pending"]),
            apart(&["buffer", "closing"]),
            apart(&["flush", "staging"]),
            apart(&["outbox"]),
            apart(&["growth"]),
            apart(&["sequenced"]),
            apart(&["mod"]),
        ],
    ),
    (
        "error",
        &[
            apart(&["details", "system"]),
            apart(&["texts"]),
            apart(&["mod"]),
            apart(&["constructors"]),
            apart(&["kind"]),
        ],
    ),
    (
        "reader",
        &[
            apart(&["handle", "moved", "parking", "policy", "ready", "recv", "step"]),
            apart(&["assigned"]),
            apart(&["fetcher", "once"]),
            apart(&["one_record", "to_end"]),
            apart(&["mod"]),
        ],
    ),
    ("records", &[apart(&["consumed"]), apart(&["chunk"]), apart(&["mod"])]),
    (
        "stream",
        &[apart(&["history"]), apart(&["repeat"]), apart(&["handle"]), apart(&["reader"]), apart(&["mod"])],
    ),
    (
        "projection",
        &[
            apart(&["contract", "progress"]),
            apart(&["stateful"]),
            apart(&["feed", "projector"]),
            apart(&["mod"]),
        ],
    ),
    ("topic", &[apart(&["partition"]), apart(&["append", "mod", "replicate"])]),
    ("testing", &[apart(&["disk"]), apart(&["explore"]), apart(&["mod"])]),
];

#[test]
fn a_module_imports_only_from_above() {
    let mut wrong = Vec::new();
    for source in read(&root()) {
        let module = place_of(&source.path);
        if module == "lib" {
            continue;
        }
        for (number, line) in source.code.lines().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                let part = |at: usize| -> String {
                    line[at..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
                };
                let mut name = part(at + 7);
                if name.is_empty() || !line[at + 7 + name.len()..].starts_with("::") {
                    continue;
                }
                let inner = format!("{name}::{}", part(at + 7 + name.len() + 2));
                if ROWS.iter().any(|(_, row)| row.contains(&inner.as_str())) {
                    name = inner;
                }
                if name == module {
                    continue;
                }
                let (from, to) = (row_of(&module), row_of(&name));
                let handles = from == to && ["words", "several logs", "handles"].contains(&ROWS[from].0);
                if to > from || (to == from && !handles) {
                    wrong.push(format!("{}:{}: {module} uses {name}", source.path, number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point down or across:\n{}", wrong.join("\n"));
}

#[test]
fn inside_a_storey_a_module_imports_only_from_above() {
    let sources = read(&root());
    let graph = graph(&sources);
    let mut wrong = Vec::new();
    for (storey, rows) in INSIDE {
        let row_of = |module: &str| rows.iter().position(|row| row.modules.contains(&module));
        let graph = inside(&graph, &sources, storey);
        for (file, uses) in &graph {
            let module = module_inside(file);
            let Some(from) = row_of(module) else {
                wrong.push(format!("{file}: the module {module} has no row in {storey}"));
                continue;
            };
            for used in uses {
                let other = module_inside(used);
                // A module without a row is reported for its own file.
                let to = row_of(other).unwrap_or(0);
                let is_above = to < from || module == other || (to == from && rows[from].among_themselves);
                if !is_above {
                    wrong.push(format!("{file} uses {used}"));
                }
            }
        }
        for module in rows.iter().flat_map(|row| row.modules) {
            if !graph.keys().any(|file| module_inside(file) == *module) {
                wrong.push(format!("{storey}: there is no module {module}"));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point down or across inside a storey:\n{}", wrong.join("\n"));
}

/// The second part of a path: `log/recovery/scan.rs` is in `recovery`.
fn module_inside(file: &str) -> &str {
    let part = file.split('/').nth(1).unwrap_or("mod");
    part.strip_suffix(".rs").unwrap_or(part)
}

#[test]
fn no_files_inside_a_storey_import_each_other_in_a_circle() {
    let sources = read(&root());
    let graph = graph(&sources);
    let mut wrong = Vec::new();
    for storey in storeys(&sources) {
        for circle in circles(&inside(&graph, &sources, &storey)) {
            wrong.push(format!("{storey}: {circle:?}"));
        }
    }
    assert!(wrong.is_empty(), "files that import each other in a circle:\n{}", wrong.join("\n"));
}
