//! The tables in Markdown: one line a row, then all contenders of each row.

use std::fmt::Write;
use std::path::Path;

use super::Filled;
use super::numbers::{short, spread};
use crate::args::Args;
use crate::contenders::{self, FLOOR, QUIPU};
use crate::plan::Unit;
use crate::runs::Results;

pub fn table(args: &Args, filled: &[Filled<'_>], results: &Results) -> String {
    let mut text = String::new();
    head(args, results, &mut text);
    summary(filled, &mut text);
    for filled in filled.iter().filter(|filled| !filled.cells.is_empty()) {
        details(filled, &mut text);
    }
    text.push_str("\n## Contenders\n\n");
    for card in contenders::cards().iter().filter(|card| args.wants_contender(card.name)) {
        let _ = writeln!(text, "- **{}**: {}.", card.name, card.about);
    }
    if !results.failed.is_empty() {
        text.push_str("\n## Failed\n\n");
        for line in &results.failed {
            let _ = writeln!(text, "- {line}");
        }
    }
    text
}

fn head(args: &Args, results: &Results, text: &mut String) {
    let _ = writeln!(text, "# Quipu beside its peers\n");
    let _ = writeln!(
        text,
        "{}. Medians of {} repetitions [least-greatest]; each run a process of its own, contenders in turns, every \
         log opened again and compared with what was appended.",
        machine(&args.dir),
        results.repetitions,
    );
    if results.repetitions < args.repeat {
        text.push_str("\nNot all repetitions are done: rows may have a sample more, or none.\n");
    }
    if args.quick {
        text.push_str("\nSmall sizes (`--quick`): these figures mean nothing.\n");
    }
}

/// Cores, kernel and file system.
pub fn machine(dir: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!(
        "{cores} cores ({}), kernel {}, {}",
        model.map_or("unknown", |(_, model)| model),
        kernel.trim(),
        file_system(dir).unwrap_or_else(|| "an unknown file system".to_owned()),
    )
}

/// The type of the file system that holds a directory: that of the longest mount point above it.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?, words.next()?))
    });
    let above = mounts.filter(|(point, _)| dir.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind.to_owned())
}

fn summary(filled: &[Filled<'_>], text: &mut String) {
    text.push_str(
        "\nThe last three columns: the share of that speed that Quipu reaches (of a time: theirs / ours), pair by \
         pair. Less than the best peer is bold. The bound is the slowest part that no library can leave out. The \
         last rows compare ways to use Quipu.\n\n\
         | row | workload | bound | floor | best peer | quipu | of the bound | of the floor | of the best peer |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for filled in filled {
        let unit = filled.row.unit;
        let ours = filled.of(filled.row.ours);
        let floor = filled.of(filled.row.base);
        let peer = filled.best_peer();
        let share = |of: Option<&[f64]>| Some(filled.share(ours?, of?));
        let cell = |samples: Option<&[f64]>| samples.map_or_else(|| "-".to_owned(), |s| spread(s, unit));
        let of_peer = share(peer.map(|peer| filled.samples(peer)));
        let _ = writeln!(
            text,
            "| {} | {}, {} | {} | {} | {} | {} | {} | {} | {} |",
            filled.row.key,
            filled.row.title,
            unit.name(),
            filled.bound.map_or_else(|| "-".to_owned(), |(name, s)| format!("{name} {}", middle(s, unit))),
            named(filled.row.base, FLOOR, cell(floor)),
            peer.map_or_else(
                || "-".to_owned(),
                |peer| format!("{} {}", peer.name, spread(filled.samples(peer), unit))
            ),
            named(filled.row.ours, QUIPU, cell(ours)),
            two_digits(share(filled.bound.map(|(_, samples)| samples))),
            two_digits(share(floor)),
            match of_peer {
                Some(share) if share < 1.0 => format!("**{share:.2}**"),
                share => two_digits(share),
            },
        );
    }
}

fn details(filled: &Filled<'_>, text: &mut String) {
    let unit = filled.row.unit;
    let _ = writeln!(text, "\n## {}: {}\n", filled.row.key, filled.row.title);
    if let Some((name, samples)) = filled.bound {
        let _ = writeln!(text, "Bound: {name}, {} {}.\n", spread(samples, unit), unit.name());
    }
    let _ = write!(text, "| contender | {} | of the bound | of {} |", unit.name(), filled.row.base);
    filled.row.more.iter().for_each(|(name, ..)| {
        let _ = write!(text, " {name} |");
    });
    let _ = writeln!(text, "\n|---|---:|---:|---:|{}", "---:|".repeat(filled.row.more.len()));
    let floor = filled.of(filled.row.base);
    for cell in &filled.cells {
        let samples = filled.samples(cell);
        let name = if cell.name == QUIPU { "**quipu**" } else { cell.name };
        let share = |of: Option<&[f64]>| two_digits(of.map(|of| filled.share(samples, of)));
        let bound = share(filled.bound.map(|(_, samples)| samples));
        let failed = if cell.failed.is_some() { ", then failed" } else { "" };
        let _ = write!(text, "| {name} | {}{failed} | {bound} | {} |", spread(samples, unit), share(floor));
        for (_, value, unit) in filled.row.more {
            let more = cell.values.get(*value).map_or_else(|| "-".to_owned(), |s| middle(s, *unit));
            let _ = write!(text, " {more} |");
        }
        text.push('\n');
    }
    for cell in &filled.failed {
        let _ = writeln!(text, "| {} | failed | - | - |{}", cell.name, " - |".repeat(filled.row.more.len()));
    }
}

fn two_digits(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"))
}

/// The figure, with a name where it isn't that of the column.
fn named(name: &str, column: &str, figure: String) -> String {
    if name == column || figure == "-" { figure } else { format!("{name} {figure}") }
}

fn middle(samples: &[f64], unit: Unit) -> String {
    short(super::numbers::median(samples), unit)
}
